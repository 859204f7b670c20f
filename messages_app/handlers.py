"""Handlers that come with the system."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from messages_app import failures
from messages_app.delivery import client
from messages_app.envelope import Message
from messages_app.failures import HandlerError, InvalidPayloadError, TransientError
from messages_app.registry import handler

#: Longer than an attempt may take by default, so that time-outs can be tried; a day would only hold threads.
_MAX_DELAY_MS = 60_000
#: A sleeping thread hears that it should stop only between two slices.
_SLICE_S = 0.1
_RESULT = {"processed": True}


@handler("demo", breaker="demo")
def demo(message: Message) -> dict[str, Any]:
    """Simulate work as described by the payload. All fields are optional.

    ``delayMs`` takes that long, up to a minute · ``failTimes: n`` fails the first n runs, replays counted on, then
    succeeds · ``simulateError: true`` always fails · ``errorType`` and ``errorMessage`` say how. Other payloads just
    succeed.

    It uses the circuit breaker ``demo`` as if it called a downstream: transient and unknown errors can open it.
    """
    payload = message.payload
    if not isinstance(payload, dict) or not payload:
        return _RESULT
    delay_ms = _number(payload, "delayMs", _MAX_DELAY_MS)
    fails = _flag(payload, "simulateError")
    if "failTimes" in payload:
        fails = message.prior_runs < _number(payload, "failTimes", 1_000_000, whole=True)
    error_type = _text(payload, "errorType", failures.UNKNOWN_ERROR)
    error_message = _text(payload, "errorMessage", "")
    if delay_ms:
        _sleep(delay_ms / 1000, message)
    if fails:
        raise _simulated(error_type, error_message)
    return _RESULT


@handler("http.deliver", breaker=client.breaker_of, breakers=client.breaker_names)
def http_deliver(message: Message) -> dict[str, Any]:
    """POST ``body`` (any JSON) to ``url``, signed, with ``headers`` if there are any. Where to: ``delivery.toml``."""
    return client.deliver(message)


def _sleep(seconds: float, message: Message) -> None:
    """Sleep, but not past the deadline."""
    left = message.seconds_left(datetime.now(UTC))
    end = time.monotonic() + min(seconds, left)
    while (rest := end - time.monotonic()) > 0:
        time.sleep(min(rest, _SLICE_S))
    if seconds > left:
        raise TransientError("The simulated work takes longer than the attempt may.", error_type=failures.TIMEOUT_ERROR)


def _simulated(error_type: str, error_message: str) -> Exception:
    text = error_message or f"Simulated {error_type}."
    if error_type not in failures.KINDS or error_type == failures.UNKNOWN_ERROR:
        return RuntimeError(text)
    return HandlerError(text, error_type=error_type)


def _flag(payload: Mapping[str, Any], key: str) -> bool:
    value = payload.get(key, False)
    if not isinstance(value, bool):
        raise InvalidPayloadError(f"{key} must be true or false.")
    return value


def _number(payload: Mapping[str, Any], key: str, most: int, *, whole: bool = False) -> float:
    value = payload.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 <= value <= most:
        raise InvalidPayloadError(f"{key} must be a {'whole ' if whole else ''}number from 0 to {most}.")
    return value


def _text(payload: Mapping[str, Any], key: str, default: str) -> str:
    value = payload.get(key, default)
    if not isinstance(value, str):
        raise InvalidPayloadError(f"{key} must be text.")
    return value
