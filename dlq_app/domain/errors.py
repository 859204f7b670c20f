"""What can be the case when the dead-letter queue cannot do as asked. Edges turn these into problem answers."""

from __future__ import annotations

from wire import errors
from wire.errors import ServiceError


class DeadLetterError(ServiceError):
    """The dead-letter queue could not do this."""

    code = "dead_letter_error"
    title = "The dead-letter queue could not do this"


class CriteriaInvalid(DeadLetterError):
    """The filter is not valid."""

    code = "invalid_filter"
    title = "Invalid filter"
    status = 400


class RequestInvalid(DeadLetterError):
    """The request is not valid."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400


class ApprovalNeeded(DeadLetterError):
    """So many letters within an hour need an administrator."""

    code = "approval_needed"
    title = "Approval needed"
    status = 403


class OtherOrder(DeadLetterError):
    """This idempotency key started another batch already."""

    code = "idempotency_conflict"
    title = "Idempotency key used already"
    status = 409


class PayloadInvalid(DeadLetterError):
    """Intake would not accept this payload."""

    code = "invalid_payload"
    title = "Invalid payload"
    status = 400


class LetterNotFound(DeadLetterError):
    """There is no such dead letter."""

    code = "dead_letter_not_found"
    title = "Dead letter not found"
    status = 404


class BatchNotFound(DeadLetterError):
    """There is no such replay batch."""

    code = "replay_batch_not_found"
    title = "Replay batch not found"
    status = 404


class BatchBeingPlanned(DeadLetterError):
    """The letters of this replay batch are still being looked up. Ask again."""

    code = "replay_batch_planning"
    title = "Replay batch is being planned"
    status = 503


class GroupNotFound(DeadLetterError):
    """There is no such group of dead letters."""

    code = "group_not_found"
    title = "Group not found"
    status = 404


class BodyTooLarge(DeadLetterError):
    """The body is too large."""

    code = "payload_too_large"
    title = "Body too large"
    status = 413


class LengthRequired(DeadLetterError):
    """The length of the body must be announced."""

    code = "length_required"
    title = "Length required"
    status = 411


class TooManyExports(DeadLetterError):
    """This server is sending as many exports as it can at once. Try again, or use `manage.py export_dlq`."""

    code = "too_many_exports"
    title = "Too many exports at once"
    status = 503


class TooManyImports(DeadLetterError):
    """This process reads as many imports as it can at once. Try again, or use `manage.py import_dlq`."""

    code = "too_many_imports"
    title = "Too many imports at once"
    status = 503


class MoveRefused(DeadLetterError):
    """Where it stands does not allow this."""

    code = "illegal_state"
    title = "Not possible from its status"
    status = 409


class ReplayInFlight(MoveRefused):
    """The letter is being replayed already."""

    code = "replay_in_flight"
    title = "Replay already in flight"


class AlreadyDone(MoveRefused):
    """A newer message with this id is done already."""

    code = "already_done"
    title = "The message is done already"


class CircuitOpen(DeadLetterError):
    """The circuit breaker of this type of message is open."""

    code = "circuit_open"
    title = "Circuit open"
    status = 503


class NotStarted(DeadLetterError):
    """The replay could not be started; nothing runs. Try again."""

    code = "replay_not_started"
    title = "Replay not started"
    status = 503


class ReplayUnknown(DeadLetterError):
    """Intake gives no answer: whether the replay started will be seen on the letter within a few minutes."""

    code = "replay_unknown"
    title = "Replay outcome unknown"
    status = 503


class OrderRefused(DeadLetterError):
    """Intake can never run a message like this: its id, type or priority is none that intake knows."""

    code = "not_replayable"
    title = "Intake cannot run this message"
    status = 409


class StoreUnavailable(errors.StoreUnavailable, DeadLetterError):
    """MongoDB is not responding."""

    default_retry_after = 5


class QueryTooSlow(DeadLetterError):
    """The question took too long to answer. Narrow the filter."""

    code = "query_too_slow"
    title = "Query too slow"
    status = 503


class NotStorable(DeadLetterError):
    """MongoDB can never take this document in this form."""

    code = "not_storable"
    title = "Not storable"


class IndexesMissing(DeadLetterError):
    """Indexes that the dead-letter queue relies on are missing."""

    code = "indexes_missing"
    title = "Indexes missing"


class LettersTwice(DeadLetterError):
    """Messages have more than one letter, which the unique index forbids."""

    code = "letters_twice"
    title = "Messages with two letters"
