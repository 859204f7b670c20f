"""Errors of the dead-letter queue, each with its code, title and status in a problem answer."""

from __future__ import annotations

from wire import errors
from wire.errors import ServiceError


class DeadLetterError(ServiceError):
    """The dead-letter queue could not complete the request."""

    code = "dead_letter_error"
    title = "Dead-letter queue error"


class CriteriaInvalid(DeadLetterError):
    """The filter is not valid."""

    code = "invalid_filter"
    title = "Invalid filter"
    status = 400


class SortTooLarge(CriteriaInvalid):
    """Too many letters match for this order."""


class RequestInvalid(DeadLetterError):
    """The request is not valid."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400


class ApprovalNeeded(DeadLetterError):
    """Starting this many letters within an hour needs an administrator."""

    code = "approval_needed"
    title = "Approval required"
    status = 403


class OtherOrder(DeadLetterError):
    """This idempotency key was used for a batch with other content."""

    code = "idempotency_conflict"
    title = "Idempotency key already used"
    status = 409


class PayloadInvalid(DeadLetterError):
    """Intake would reject this payload."""

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
    """The replay batch is still collecting its letters. Try again."""

    code = "replay_batch_planning"
    title = "Replay batch still being planned"
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
    """The request needs a Content-Length header."""

    code = "length_required"
    title = "Content-Length required"
    status = 411


class TooManyExports(DeadLetterError):
    """Too many exports are running on this server. Try again later, or use `manage.py export_dlq`."""

    code = "too_many_exports"
    title = "Too many exports"
    status = 503


class TooManyImports(DeadLetterError):
    """Too many imports are running on this server. Try again later, or use `manage.py import_dlq`."""

    code = "too_many_imports"
    title = "Too many imports"
    status = 503


class MoveRefused(DeadLetterError):
    """The current status does not allow this."""

    code = "illegal_state"
    title = "Not allowed in this status"
    status = 409


class ReplayInFlight(MoveRefused):
    """A replay of this letter is already in progress."""

    code = "replay_in_flight"
    title = "Replay already in progress"


class PoisonUnconfirmed(MoveRefused):
    """This message was lost with its process each time it ran. Its replay needs a confirmation."""

    code = "poison_unconfirmed"
    title = "Replay may kill a worker"


class AlreadyDone(MoveRefused):
    """A newer message with this id is already done."""

    code = "already_done"
    title = "Message already done"


class CircuitOpen(DeadLetterError):
    """The circuit breaker for this message type is open."""

    code = "circuit_open"
    title = "Circuit breaker open"
    status = 503


class NotStarted(DeadLetterError):
    """The replay was not started. Try again."""

    code = "replay_not_started"
    title = "Replay not started"
    status = 503


class ReplayUnknown(DeadLetterError):
    """Intake did not answer, so the replay may have started. The letter shows it within a few minutes."""

    code = "replay_unknown"
    title = "Replay outcome unknown"
    status = 503


class OrderRefused(DeadLetterError):
    """Intake cannot run this message: its id, type or priority is not valid there."""

    code = "not_replayable"
    title = "Message cannot be replayed"
    status = 409


class StoreUnavailable(errors.StoreUnavailable, DeadLetterError):
    """MongoDB is not responding."""

    default_retry_after = 5


class QueryTooSlow(DeadLetterError):
    """The query took too long. Narrow the filter."""

    code = "query_too_slow"
    title = "Query too slow"
    status = 503


class NotStorable(DeadLetterError):
    """MongoDB cannot store this document."""

    code = "not_storable"
    title = "Document cannot be stored"


class IndexesMissing(DeadLetterError):
    """Required indexes are missing."""

    code = "indexes_missing"
    title = "Missing indexes"


class LettersTwice(DeadLetterError):
    """Some messages have more than one letter, so the unique index cannot be built."""

    code = "letters_twice"
    title = "Duplicate letters"
