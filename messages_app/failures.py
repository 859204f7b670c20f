"""What can go wrong in a handler: error types, their kinds, and the one table that classifies exceptions."""

from __future__ import annotations

import errno
import linecache
import math
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar


class ErrorKind(StrEnum):
    """Whether trying again can help; ``unknown`` needs a person in the end."""

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

#: errorType → kind; what is not here is unknown. Settings may add to it.
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

#: Dotted exception class → errorType, looked up along the class's own ancestry, nearest first. Names, not classes, so
#: that no driver is imported for its errors' sake. Only what is certain is listed: a ValueError can be a bug in the
#: handler as well as a bad payload, a duplicate key can be either's fault; such errors stay unknown. Settings add more.
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

#: HTTP clients' "the server answered with an error" → where its status stands.
_STATUS_OF: Mapping[str, attrgetter[object]] = {
    "urllib.error.HTTPError": attrgetter("code"),
    "requests.exceptions.HTTPError": attrgetter("response.status_code"),
    "httpx.HTTPStatusError": attrgetter("response.status_code"),
}

#: A plain OSError is about the network only with one of these numbers.
_NETWORK_ERRNOS = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
)

NOTHING: Mapping[str, str] = MappingProxyType({})
#: Error types become labels, filters and parts of fingerprints: nothing from outside may be one.
ERROR_TYPE_PATTERN = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

REASON_LIMIT = 8 * 1024
STACK_LIMIT = 32 * 1024
#: Lines of a stack (two a frame) beyond which repeated frames are worth being counted instead of printed.
_PLAIN_FRAMES = 200
#: Frames of the process that runs handlers say nothing about what went wrong in one.
_OWN_FRAMES = str(Path(__file__).with_name("runner.py"))


class HandlerError(Exception):
    """What a handler raises to say what went wrong, whether trying again can help, and from when on.

    ``retry_after`` (seconds) is honoured when it is longer than the policy's own wait. Without ``kind`` the error type
    decides.
    """

    error_type: str = UNKNOWN_ERROR
    kind: ErrorKind | None = None

    def __init__(
        self, message: str = "", *, error_type: str | None = None, kind: ErrorKind | None = None,
        retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
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
    """One attempt's end, classified: what the retry decision and a dead letter need to know of the exception."""

    error_type: str
    kind: ErrorKind
    #: At most 8 KiB of UTF-8.
    reason: str
    #: At most 32 KiB of UTF-8, innermost frames kept, never with local variables; empty when there is nothing to show.
    stack: str = ""
    #: The downstream's wish, in milliseconds.
    retry_after_ms: int | None = None


def kind_of(error_type: str, extra: Mapping[str, str] = NOTHING) -> ErrorKind:
    """The kind of an error type, ``extra`` (errorType → kind) first; unknown for a type that nobody has described."""
    return ErrorKind(extra[error_type]) if error_type in extra else KINDS.get(error_type, ErrorKind.UNKNOWN)


def http_error_type(status: int) -> str:
    """The error type of an HTTP answer that is not a success."""
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
    """The error type of an exception: what it says itself, else what ``extra`` or the table say of its ancestors."""
    if isinstance(error, HandlerError | AttemptTimeout):
        return error.error_type if ERROR_TYPE_PATTERN.fullmatch(str(error.error_type)) else UNKNOWN_ERROR
    for ancestor in type(error).__mro__:
        name = f"{ancestor.__module__}.{ancestor.__qualname__}"
        if name in extra:
            return extra[name]
        if name in _STATUS_OF:
            return _type_by_status(_STATUS_OF[name], error)
        if name in TYPES:
            return TYPES[name]
    if isinstance(error, OSError) and error.errno in _NETWORK_ERRNOS:
        return NETWORK_ERROR
    reason = getattr(error, "reason", None)
    # urllib wraps what happened: URLError(reason=TimeoutError(...)).
    return type_of(reason, extra) if isinstance(reason, OSError) and reason is not error else UNKNOWN_ERROR


def classify(
    error: BaseException, *, types: Mapping[str, str] = NOTHING, kinds: Mapping[str, str] = NOTHING
) -> Failure:
    """Turn whatever a handler raised into a failure. Never raises, whatever the exception's own methods do.

    ``types`` (dotted class → errorType) and ``kinds`` (errorType → kind) come before the built-in tables.
    """
    error_type = type_of(error, types)
    kind = error.kind if isinstance(error, HandlerError) else None
    return Failure(
        error_type=error_type,
        kind=kind or kind_of(error_type, kinds),
        reason=clip(_reason(error), REASON_LIMIT),
        stack=clip_middle(_stack(error), STACK_LIMIT),
        retry_after_ms=_milliseconds(getattr(error, "retry_after", None)),
    )


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


def _type_by_status(status_of: attrgetter[object], error: BaseException) -> str:
    try:
        status = status_of(error)
    except AttributeError:
        return UNKNOWN_ERROR
    return http_error_type(status) if isinstance(status, int) else UNKNOWN_ERROR


def _reason(error: BaseException) -> str:
    if isinstance(error, AttemptTimeout):
        return str(error) or "The attempt ran out of time."
    try:
        said = str(error)
    except Exception:  # the exception is foreign code: its __str__ may do anything
        said = "(its text could not be made)"
    if isinstance(error, HandlerError):
        return said
    name = type(error).__qualname__
    return f"{name}: {said}" if said else name


def _stack(error: BaseException) -> str:
    try:
        tb = _foreign_frames(error.__traceback__)
        return _plain_stack(error, tb) or "".join(
            traceback.TracebackException(type(error), error, tb, compact=True).format()
        )
    except Exception:  # formatting runs foreign code (__str__, __notes__, broken source files)
        return ""


def _plain_stack(error: BaseException, tb: TracebackType | None) -> str:
    """The text of an exception that stands alone, as Python prints it but without the carets under each line.

    They are what makes the standard library's formatting dear: it parses every line again. Empty for anything that is
    not plain (causes, notes, groups, deep recursion): the standard library does that.
    """
    if error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__):
        return ""
    if isinstance(error, SyntaxError | BaseExceptionGroup) or getattr(error, "__notes__", None):
        return ""
    lines = ["Traceback (most recent call last):\n"]
    while tb is not None:
        if len(lines) > _PLAIN_FRAMES:
            return ""
        frame = tb.tb_frame
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {tb.tb_lineno}, in {code.co_name}\n')
        if source := linecache.getline(code.co_filename, tb.tb_lineno, frame.f_globals).strip():
            lines.append(f"    {source}\n")
        tb = tb.tb_next
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    said = str(error)
    lines.append(f"{name}: {said}\n" if said else f"{name}\n")
    return "".join(lines)


def _foreign_frames(tb: TracebackType | None) -> TracebackType | None:
    """Skip the leading frames that belong to the runner."""
    while tb is not None and tb.tb_frame.f_code.co_filename == _OWN_FRAMES:
        tb = tb.tb_next
    return tb


def _milliseconds(seconds: object) -> int | None:
    """None unless it is a finite number of seconds that is not negative: it came from a foreign server."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return math.ceil(seconds * 1000)
