"""What intake cannot do, as exceptions that carry their own wire form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wire import errors
from wire.errors import ServiceError

#: A problem names at most this many faults; an attacker's ten thousand unknown fields are one mistake.
MAX_ERRORS = 50


class MessagesError(ServiceError):
    """Base of intake's errors."""

    code = "messages_error"
    title = "The message could not be handled."

    def __init__(
        self, detail: str = "", *, retry_after: float | None = None, errors: Sequence[dict[str, Any]] = ()
    ) -> None:
        super().__init__(detail or self.title, retry_after=retry_after, errors=errors)


class StoreUnavailable(errors.StoreUnavailable, MessagesError):
    """Redis is not responding, or refused to write. What was asked may or may not have happened."""

    title = "The message store is not responding."
    default_retry_after = 2.0


class NotConfirmed(StoreUnavailable):
    """The message is in Redis, but not as safe as ``ACCEPT_DURABILITY`` asks for. It may be processed, or be lost."""

    code = "not_confirmed"
    title = "The message is not stored safely enough yet."


class LedgerRefused(MessagesError):
    """The ledger was asked for something that can never be, such as a message id outside its alphabet."""

    code = "ledger_refused"
    title = "The ledger can never hold such a message."
    status = 409


class InvalidJson(MessagesError):
    """The body is no JSON text in UTF-8."""

    code = "invalid_json"
    title = "The body is not valid JSON."
    status = 400


class MessageInvalid(MessagesError):
    """A message, or a part of one, is not as it must be; ``code`` is that of its gravest fault."""

    code = "invalid_message"
    title = "The message is not as it must be."
    status = 400

    def __init__(self, faults: Sequence[tuple[str, str, str]]) -> None:
        """``faults``: (code, field, message) of everything that is wrong, gravest first."""
        self.code = faults[0][0]
        _, name, message = faults[0]
        lonely = f"{name}: {message}" if name else message
        super().__init__(
            lonely if len(faults) == 1 else f"{len(faults)} things are wrong with the message.",
            errors=[{"field": field, "message": message} for _, field, message in faults[:MAX_ERRORS]],
        )


class PayloadTooLarge(MessagesError):
    """The body is longer than what is taken."""

    code = "payload_too_large"
    title = "The body is too large."
    status = 413


class LengthRequired(MessagesError):
    """The body's length is not announced, so it cannot be bounded before it is read."""

    code = "length_required"
    title = "Send a Content-Length."
    status = 411


class UnsupportedMediaType(MessagesError):
    """The body is not JSON, or is compressed."""

    code = "unsupported_media_type"
    title = "Send application/json, uncompressed."
    status = 415


class IdempotencyConflict(MessagesError):
    """The id was accepted with other content before."""

    code = "idempotency_conflict"
    title = "This message id was used for other content."
    status = 409


class RateLimited(MessagesError):
    """The client's requests per minute are used up."""

    code = "rate_limited"
    title = "Too many requests."
    status = 429


class CircuitOpen(MessagesError):
    """What the handler of this message calls is failing: its circuit breaker is open."""

    code = "circuit_open"
    title = "The circuit breaker of this message is open."
    status = 503


class MessageNotFound(MessagesError):
    """No such message, or it ended long enough ago to be forgotten."""

    code = "message_not_found"
    title = "No such message."
    status = 404


class InvalidRequest(MessagesError):
    """A body that is not as it must be; ``errors`` names the fields."""

    code = "invalid_request"
    title = "The request is not as it must be."
    status = 400

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message, errors=[{"field": field, "message": message}])


class LossNotFound(MessagesError):
    """No loss of a store has this id."""

    code = "loss_not_found"
    title = "No such loss."
    status = 404
