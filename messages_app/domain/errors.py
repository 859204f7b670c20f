"""Errors of intake, each with its status, code and title on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from wire import errors
from wire.errors import ServiceError

#: Maximum faults in a problem document.
MAX_ERRORS = 50


class MessagesError(ServiceError):
    """Intake could not process the message."""

    code = "messages_error"
    title = "Message error"


class StoreUnavailable(errors.StoreUnavailable, MessagesError):
    """Redis is not responding, or rejected a write. The request may or may not have been carried out."""

    title = "Message store unavailable"
    default_retry_after = 2.0


class NotConfirmed(StoreUnavailable):
    """The message is in Redis, but not with the durability of ``ACCEPT_DURABILITY``. It may be processed or lost."""

    code = "not_confirmed"
    title = "Message not stored durably yet"


class LedgerRefused(MessagesError):
    """A request that the ledger can never carry out, such as one with an invalid message id."""

    code = "ledger_refused"
    title = "Message cannot be stored"
    status = 409


class InvalidJson(MessagesError):
    """The body is not JSON in UTF-8."""

    code = "invalid_json"
    title = "Invalid JSON"
    status = 400


class MessageInvalid(MessagesError):
    """An invalid message. ``code`` is that of its worst fault."""

    code = "invalid_message"
    title = "Invalid message"
    status = 400

    def __init__(self, faults: Sequence[tuple[str, str, str]]) -> None:
        """``faults``: (code, field, message) each, worst first."""
        self.code = faults[0][0]
        _, name, message = faults[0]
        only = f"{name}: {message}" if name else message
        super().__init__(
            only if len(faults) == 1 else f"The message has {len(faults)} faults; see `errors`.",
            errors=[{"field": field, "message": message} for _, field, message in faults[:MAX_ERRORS]],
        )


class PayloadTooLarge(MessagesError):
    """The body exceeds the maximum size."""

    code = "payload_too_large"
    title = "Body too large"
    status = 413


class LengthRequired(MessagesError):
    """The body has no Content-Length, so its size cannot be checked before it is read."""

    code = "length_required"
    title = "Content-Length required"
    status = 411


class UnsupportedMediaType(MessagesError):
    """The body is not JSON, or is compressed."""

    code = "unsupported_media_type"
    title = "Unsupported media type"
    status = 415


class IdempotencyConflict(MessagesError):
    """A message with this id and different content was already accepted."""

    code = "idempotency_conflict"
    title = "Message id already used for different content"
    status = 409


class RateLimited(MessagesError):
    """The client exceeded its requests per minute."""

    code = "rate_limited"
    title = "Too many requests"
    status = 429


class IntakeBusy(MessagesError):
    """Too many messages wait for Redis in this web process. This one was not sent to it."""

    code = "intake_busy"
    title = "Too many messages at once"
    status = 503
    default_retry_after = 1.0


class CircuitOpen(MessagesError):
    """The circuit breaker of the message's handler is open."""

    code = "circuit_open"
    title = "Circuit breaker open"
    status = 503


class MessageNotFound(MessagesError):
    """An unknown message, or one whose record has expired."""

    code = "message_not_found"
    title = "Message not found"
    status = 404


class InvalidRequest(MessagesError):
    """An invalid body. ``errors`` names the fields."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message, errors=[{"field": field, "message": message}])


class LossNotFound(MessagesError):
    """No loss has this id."""

    code = "loss_not_found"
    title = "Loss not found"
    status = 404
