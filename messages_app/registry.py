"""Registry of handlers by type of message. Each installed app has its handlers in ``handlers.py``."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from messages_app.attempt.coroutines import generator_behind
from messages_app.envelope import Message

log = logging.getLogger(__name__)

HandlerFunction = Callable[[Message], Any]
#: Payload → name of the circuit breaker, or None. Must be deterministic.
BreakerChoice = Callable[[Any], str | None]
_F = TypeVar("_F", bound=HandlerFunction)

TYPE_PATTERN = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


class RegistrationError(ValueError):
    """A handler with a duplicate or invalid name, or one that can never run."""


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One registered handler."""

    type: str
    function: HandlerFunction
    #: Name of its circuit breaker, if any, or a function that chooses it by the payload.
    breaker: str | BreakerChoice | None = None
    #: Time limit of one attempt in seconds; None: the retry policy's.
    timeout: float | None = None
    #: All names that ``breaker`` can choose. Names never come from a payload.
    breakers: Callable[[], Collection[str]] | None = None

    def breaker_of(self, payload: Any) -> str | None:
        """The breaker of a message with this payload. Never raises: an invalid payload has none."""
        if self.breaker is None or isinstance(self.breaker, str):
            return self.breaker
        try:
            name = self.breaker(payload)
        except Exception:
            # An error of the choice must not reject or lose messages: the handler will find the fault.
            log.exception("breaker_not_chosen", extra={"type": self.type})
            return None
        if name is not None and name not in self.breaker_names():
            log.error("breaker_not_listed", extra={"type": self.type})
            return None
        return name

    def breaker_names(self) -> Collection[str]:
        """All breakers that messages of this type may have."""
        if self.breakers is not None:
            return self.breakers()
        return (self.breaker,) if isinstance(self.breaker, str) else ()


_specs: dict[str, HandlerSpec] = {}


def handler(
    type: str,
    breaker: str | BreakerChoice | None = None,
    timeout: float | None = None,
    *,
    breakers: Callable[[], Collection[str]] | None = None,
) -> Callable[[_F], _F]:
    """Register the decorated callable for a type: ``@handler("order.created", breaker="orders-db", timeout=30)``.

    ``breaker`` may be a function that chooses by the payload; then ``breakers`` returns all names that it can choose.

    The handler gets a frozen ``Message`` and returns a small JSON value, or raises. It may be a coroutine function
    (``async def``); a generator function is rejected, since a call would not run its body. It runs *at least once*:
    pass ``message.idempotency_key`` on to the systems that it changes.
    """
    if not TYPE_PATTERN.fullmatch(type):
        raise RegistrationError(f"message type {type!r} must match {TYPE_PATTERN.pattern}")
    if timeout is not None and not 0.1 <= timeout <= 3600:
        raise RegistrationError(f"handler for {type!r}: timeout = {timeout!r}; accepted: 0.1 to 3600 seconds")
    if callable(breaker) != (breakers is not None):
        raise RegistrationError(
            f"handler for {type!r}: `breakers` is required with a function as `breaker`, and not allowed otherwise"
        )

    def register(function: _F) -> _F:
        if (generator := generator_behind(function)) is not None:
            code = generator.__code__
            raise RegistrationError(
                f"handler for {type!r}: {_name(generator)} ({code.co_filename}:{code.co_firstlineno}) is a generator "
                "function, so its body would never run: use return instead of yield, or call it from the handler"
            )
        taken = _specs.get(type)
        if taken is not None and not _same(taken.function, function):
            raise RegistrationError(
                f"message type {type!r} has the handler {_name(taken.function)}; {_name(function)} needs another type"
            )
        _specs[type] = HandlerSpec(type, function, breaker, timeout, breakers)
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
    """Unregister a handler: one that is disabled, or that a test has registered."""
    _specs.pop(type, None)


def _name(function: HandlerFunction) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def _same(one: HandlerFunction, other: HandlerFunction) -> bool:
    """Whether both are the same function of a module, which may have been loaded again."""
    return _name(one) == _name(other)
