"""Which callable handles which type of message. Handlers live in each installed app's ``handlers.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from messages_app.envelope import Message

HandlerFunction = Callable[[Message], Any]
_F = TypeVar("_F", bound=HandlerFunction)

TYPE_PATTERN = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


class RegistrationError(ValueError):
    """A handler was registered under a name that is taken or malformed."""


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One registered handler."""

    type: str
    function: HandlerFunction
    #: Name of the circuit breaker that guards what it calls, if any.
    breaker: str | None = None
    #: Time limit of one attempt in seconds; None: the retry policy's.
    timeout: float | None = None


_specs: dict[str, HandlerSpec] = {}


def handler(type: str, breaker: str | None = None, timeout: float | None = None) -> Callable[[_F], _F]:
    """Register the decorated callable for a type: ``@handler("order.created", breaker="orders-db", timeout=30)``.

    It gets a frozen ``Message`` and returns a small JSON value, or raises. It runs *at least once*: pass
    ``message.idempotency_key`` on to whatever it changes.
    """
    if not TYPE_PATTERN.fullmatch(type):
        raise RegistrationError(f"message type {type!r} must match {TYPE_PATTERN.pattern}")
    if timeout is not None and not 0.1 <= timeout <= 3600:
        raise RegistrationError(f"handler for {type!r}: timeout = {timeout!r}; accepted: 0.1 to 3600 seconds")

    def register(function: _F) -> _F:
        taken = _specs.get(type)
        if taken is not None and not _same(taken.function, function):
            raise RegistrationError(
                f"message type {type!r} is handled by {_name(taken.function)} already, not by {_name(function)} too"
            )
        _specs[type] = HandlerSpec(type, function, breaker, timeout)
        return function

    return register


def get(type: str) -> HandlerSpec | None:
    """The handler of a type, or None when the type is unknown."""
    return _specs.get(type)


def types() -> list[str]:
    """Every known type, sorted."""
    return sorted(_specs)


def specs() -> list[HandlerSpec]:
    """Every registered handler, sorted by type."""
    return [_specs[name] for name in types()]


def forget(type: str) -> None:
    """Take a handler out again; for tests that register their own."""
    _specs.pop(type, None)


def _name(function: HandlerFunction) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def _same(one: HandlerFunction, other: HandlerFunction) -> bool:
    """A module that is loaded again registers the same handler, not a second one."""
    return _name(one) == _name(other)
