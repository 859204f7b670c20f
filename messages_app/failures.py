"""Failures of handlers: error types, their kinds, and the table that classifies exceptions."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar

from messages_app.exception_text import ancestors, attribute, exact, guarded, name_of, stack_of, text_of


class ErrorKind(StrEnum):
    """Whether a retry can help; ``unknown`` needs a decision in the end."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"


TIMEOUT_ERROR = "TIMEOUT_ERROR"
NETWORK_ERROR = "NETWORK_ERROR"
SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
RATE_LIMIT_ERROR = "RATE_LIMIT_ERROR"
DATABASE_ERROR = "DATABASE_ERROR"
VALIDATION_ERROR = "VALIDATION_ERROR"
AUTHENTICATION_ERROR = "AUTHENTICATION_ERROR"
AUTHORIZATION_ERROR = "AUTHORIZATION_ERROR"
NOT_FOUND_ERROR = "NOT_FOUND_ERROR"
UNKNOWN_TYPE = "UNKNOWN_TYPE"
UNKNOWN_ERROR = "UNKNOWN_ERROR"
CIRCUIT_OPEN_TOO_LONG = "CIRCUIT_OPEN_TOO_LONG"
WORKER_LOST = "WORKER_LOST"

#: errorType → kind; unknown for others. Settings may add to it.
KINDS: Mapping[str, ErrorKind] = {
    TIMEOUT_ERROR: ErrorKind.TRANSIENT,
    NETWORK_ERROR: ErrorKind.TRANSIENT,
    SERVICE_UNAVAILABLE: ErrorKind.TRANSIENT,
    RATE_LIMIT_ERROR: ErrorKind.TRANSIENT,
    DATABASE_ERROR: ErrorKind.TRANSIENT,
    CIRCUIT_OPEN_TOO_LONG: ErrorKind.TRANSIENT,
    VALIDATION_ERROR: ErrorKind.PERMANENT,
    AUTHENTICATION_ERROR: ErrorKind.PERMANENT,
    AUTHORIZATION_ERROR: ErrorKind.PERMANENT,
    NOT_FOUND_ERROR: ErrorKind.PERMANENT,
    UNKNOWN_TYPE: ErrorKind.PERMANENT,
    UNKNOWN_ERROR: ErrorKind.UNKNOWN,
    WORKER_LOST: ErrorKind.UNKNOWN,
}

#: Dotted exception class → errorType, looked up along the class's ancestors, nearest first. Names, not classes, so
#: that no driver is imported for its errors. Only unambiguous classes are listed: a ValueError may be a bug in the
#: handler or a bad payload; such errors stay unknown. Settings may add to it.
TYPES: Mapping[str, str] = {
    "builtins.TimeoutError": TIMEOUT_ERROR,
    "builtins.ConnectionError": NETWORK_ERROR,
    "builtins.PermissionError": AUTHORIZATION_ERROR,
    "socket.gaierror": NETWORK_ERROR,
    "socket.herror": NETWORK_ERROR,
    "ssl.SSLEOFError": NETWORK_ERROR,
    "ssl.SSLZeroReturnError": NETWORK_ERROR,
    "http.client.IncompleteRead": NETWORK_ERROR,
    "http.client.BadStatusLine": NETWORK_ERROR,
    "requests.exceptions.Timeout": TIMEOUT_ERROR,
    "requests.exceptions.ConnectionError": NETWORK_ERROR,
    "httpx.TimeoutException": TIMEOUT_ERROR,
    "httpx.NetworkError": NETWORK_ERROR,
    "httpx.RemoteProtocolError": NETWORK_ERROR,
    "urllib3.exceptions.TimeoutError": TIMEOUT_ERROR,
    "urllib3.exceptions.ProtocolError": NETWORK_ERROR,
    "urllib3.exceptions.NewConnectionError": NETWORK_ERROR,
    "rq.timeouts.JobTimeoutException": TIMEOUT_ERROR,
    "django.core.exceptions.PermissionDenied": AUTHORIZATION_ERROR,
    "django.core.exceptions.ValidationError": VALIDATION_ERROR,
    "rest_framework.exceptions.ValidationError": VALIDATION_ERROR,
    "django.db.utils.OperationalError": DATABASE_ERROR,
    "django.db.utils.InterfaceError": DATABASE_ERROR,
    "pymongo.errors.ConnectionFailure": DATABASE_ERROR,
    "pymongo.errors.ExecutionTimeout": DATABASE_ERROR,
    "pymongo.errors.WTimeoutError": DATABASE_ERROR,
    "redis.exceptions.ConnectionError": DATABASE_ERROR,
    "redis.exceptions.TimeoutError": DATABASE_ERROR,
    "redis.exceptions.ReadOnlyError": DATABASE_ERROR,
    "redis.exceptions.TryAgainError": DATABASE_ERROR,
}

#: Exceptions of HTTP clients for error answers → the attribute with the status.
_STATUS_OF: Mapping[str, attrgetter[Any]] = {
    "urllib.error.HTTPError": attrgetter("code"),
    "requests.exceptions.HTTPError": attrgetter("response.status_code"),
    "httpx.HTTPStatusError": attrgetter("response.status_code"),
}

#: A plain OSError is a network error only with one of these numbers.
_NETWORK_ERRNOS = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
)

NOTHING: Mapping[str, str] = MappingProxyType({})
#: Error types become labels, filters and parts of fingerprints, so foreign text is not allowed.
ERROR_TYPE_PATTERN = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

REASON_LIMIT = 8 * 1024
STACK_LIMIT = 32 * 1024
#: Maximum ``retry_after`` of a downstream service: the maximum of a retry policy.
MAX_RETRY_AFTER_MS = 86_400_000
#: Maximum depth of wrapped errors that is followed.
_MAX_WRAPPED = 5
_KINDS: Mapping[str, ErrorKind] = {kind.value: kind for kind in ErrorKind}
_errno_of: Callable[[BaseException], object] = vars(OSError)["errno"].__get__


class HandlerError(Exception):
    """What a handler raises to say what went wrong, whether trying again can help, and from when on.

    ``retry_after`` (seconds, or a timedelta) is honoured when it is longer than the policy's own wait. Without ``kind``
    the error type decides.
    """

    error_type: str = UNKNOWN_ERROR
    kind: ErrorKind | None = None

    def __init__(
        self, message: str = "", *, error_type: str | None = None, kind: ErrorKind | None = None,
        retry_after: float | Decimal | timedelta | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])
        if error_type is not None:
            self.error_type = error_type
        if kind is not None:
            self.kind = kind
        self.retry_after = retry_after


class TransientError(HandlerError):
    """The downstream could not do it now; trying again can help."""

    error_type = SERVICE_UNAVAILABLE
    kind: ErrorKind | None = ErrorKind.TRANSIENT


class PermanentError(HandlerError):
    """The downstream answered, and will answer the same again."""

    error_type = VALIDATION_ERROR
    kind: ErrorKind | None = ErrorKind.PERMANENT


class RateLimitError(TransientError):
    """The downstream asked for fewer calls."""

    error_type = RATE_LIMIT_ERROR


class InvalidPayloadError(PermanentError):
    """The payload is not what this type of message needs."""

    error_type = VALIDATION_ERROR


class AuthenticationError(PermanentError):
    """The downstream does not know who is asking."""

    error_type = AUTHENTICATION_ERROR


class AuthorizationError(PermanentError):
    """The downstream does not let this caller do that."""

    error_type = AUTHORIZATION_ERROR


class NotFoundError(PermanentError):
    """What the message is about does not exist downstream."""

    error_type = NOT_FOUND_ERROR


class AttemptTimeout(BaseException):
    """Raised inside a handler whose time is up.

    A BaseException, so that a handler's ``except Exception`` does not swallow it.
    """

    error_type: ClassVar[str] = TIMEOUT_ERROR


@dataclass(frozen=True, slots=True)
class Failure:
    """A classified failure of an attempt, for the retry decision (``domain.retry_policy``) and the dead letter."""

    error_type: str
    kind: ErrorKind
    #: At most 8 KiB of UTF-8.
    reason: str
    #: At most 32 KiB of UTF-8, innermost frames kept, never with local variables; may be empty.
    stack: str = ""
    #: The wait that the downstream service asked for, in milliseconds.
    retry_after_ms: int | None = None


def kind_of(error_type: str, extra: Mapping[str, str] = NOTHING) -> ErrorKind:
    """The kind of an error type, from ``extra`` (errorType → kind) first; unknown for an undefined type."""
    return ErrorKind(extra[error_type]) if error_type in extra else KINDS.get(error_type, ErrorKind.UNKNOWN)


def http_error_type(status: int) -> str:
    """The error type of an unsuccessful HTTP answer."""
    if status == 408:
        return TIMEOUT_ERROR
    if status == 429:
        return RATE_LIMIT_ERROR
    if status >= 500:
        return SERVICE_UNAVAILABLE
    return {401: AUTHENTICATION_ERROR, 403: AUTHORIZATION_ERROR, 404: NOT_FOUND_ERROR, 410: NOT_FOUND_ERROR}.get(
        status, VALIDATION_ERROR if 400 <= status < 500 else UNKNOWN_ERROR
    )


def type_of(error: BaseException, extra: Mapping[str, str] = NOTHING) -> str:
    """The error type of an exception: its own, else that of its ancestors in ``extra`` or the table.

    Never raises.
    """
    seen: list[BaseException] = []
    while len(seen) < _MAX_WRAPPED:
        if issubclass(type(error), HandlerError | AttemptTimeout):
            return _error_type(attribute(error, "error_type"))
        found = _tabled(type(error), extra)
        if found in _STATUS_OF:
            return _type_by_status(_STATUS_OF[found], error)
        if found:
            return found
        if issubclass(type(error), OSError) and _is_about_network(_errno_of(error)):
            return NETWORK_ERROR
        # urllib wraps what happened: URLError(reason=TimeoutError(...)).
        seen.append(error)
        error = attribute(error, "reason")
        if not issubclass(type(error), OSError) or any(error is one for one in seen):
            break
    return UNKNOWN_ERROR


def classify(
    error: BaseException, *, types: Mapping[str, str] = NOTHING, kinds: Mapping[str, str] = NOTHING
) -> Failure:
    """Classify an exception of a handler. Never raises, whatever the exception's own methods do.

    ``types`` (dotted class → errorType) and ``kinds`` (errorType → kind) come before the built-in tables. Runs each
    method of the exception once, which may take long.
    """
    error_type = type_of(error, types)
    text = text_of(error)
    own = issubclass(type(error), HandlerError)
    return Failure(
        error_type=error_type,
        kind=(own and _kind(attribute(error, "kind"))) or kind_of(error_type, kinds),
        reason=clip(_reason(type(error), text), REASON_LIMIT),
        stack=clip_middle(stack_of(error, text), STACK_LIMIT),
        retry_after_ms=guarded(lambda: _milliseconds(attribute(error, "retry_after")), None),
    )


def classify_unread(
    kind: type[BaseException], *, types: Mapping[str, str] = NOTHING, kinds: Mapping[str, str] = NOTHING
) -> Failure:
    """The failure of an exception that took too long to read, from its class alone.

    Runs no foreign code.
    """
    if issubclass(kind, HandlerError | AttemptTimeout):
        error_type = _error_type(_declared(kind, "error_type"))
    else:
        found = _tabled(kind, types)
        error_type = UNKNOWN_ERROR if found in _STATUS_OF or not found else found
    own = _kind(_declared(kind, "kind")) if issubclass(kind, HandlerError) else None
    reason = f"{name_of(kind)}: (its text could not be made in time)"
    return Failure(error_type, own or kind_of(error_type, kinds), clip(reason, REASON_LIMIT))


def clip(text: str, limit: int) -> str:
    """The text within ``limit`` bytes of UTF-8, its end cut off; lone surrogates become question marks."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def clip_middle(text: str, limit: int) -> str:
    """The text within ``limit`` bytes of UTF-8, its middle cut out: a stack is read from its end."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    gap = "\n  … cut …\n"
    room = limit - len(gap.encode())
    head = room // 4
    return data[:head].decode("utf-8", "ignore") + gap + data[-(room - head) :].decode("utf-8", "ignore")


def _tabled(kind: type, extra: Mapping[str, str]) -> str:
    """The table entry of a class, nearest ancestor first; a key of ``_STATUS_OF`` when a status decides."""
    for _, name in ancestors(kind):
        if name in extra:
            return extra[name]
        if name in _STATUS_OF:
            return name
        if name in TYPES:
            return TYPES[name]
    return ""


def _type_by_status(status_of: attrgetter[Any], error: BaseException) -> str:
    status = guarded(lambda: status_of(error), None)
    # As a plain int: a foreign subclass may compare in any way.
    return http_error_type(int.__add__(status, 0)) if issubclass(type(status), int) else UNKNOWN_ERROR


def _is_about_network(number: object) -> bool:
    return type(number) is int and number in _NETWORK_ERRNOS


def _error_type(text: object) -> str:
    """The exception's own error type, if valid."""
    name = _plain(text)
    return name if ERROR_TYPE_PATTERN.fullmatch(name) else UNKNOWN_ERROR


def _kind(text: object) -> ErrorKind | None:
    return _KINDS.get(_plain(text))


def _plain(text: Any) -> str:
    return exact(text) if issubclass(type(text), str) else ""


def _declared(kind: type, name: str) -> object:
    """A class's own attribute, without running a property."""
    return next((vars(ancestor)[name] for ancestor, _ in ancestors(kind) if name in vars(ancestor)), None)


def _reason(kind: type[BaseException], text: str) -> str:
    if issubclass(kind, AttemptTimeout):
        return text or "The attempt ran out of time."
    if issubclass(kind, HandlerError):
        return text or name_of(kind)
    return f"{name_of(kind)}: {text}" if text else name_of(kind)


def _milliseconds(wish: Any) -> int | None:
    """The wait of a foreign ``retry_after``: seconds or a timedelta, limited to the maximum; else None."""
    kind = type(wish)
    if issubclass(kind, timedelta):
        wish = timedelta.total_seconds(wish)
    if issubclass(kind, bool) or not issubclass(kind, timedelta | int | float | Decimal | Fraction):
        return None
    if wish != wish or wish < 0:
        return None
    # Limited before the conversion: it may be too large for a float.
    if wish >= MAX_RETRY_AFTER_MS // 1000:
        return MAX_RETRY_AFTER_MS
    return math.ceil(float(wish) * 1000)
