"""Errors of circuit breakers. The docstring of a class is its default detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wire import errors
from wire.errors import ServiceError

if TYPE_CHECKING:
    from breaker_app.states import State


class BreakerError(ServiceError):
    """A circuit breaker error occurred."""

    code = "breaker_error"
    title = "Circuit breaker error"


class CallNotPermitted(BreakerError):
    """The circuit breaker is open: the call was not made."""

    code = "circuit_open"
    title = "Circuit breaker open"
    status = 503

    def __init__(self, retry_after: float | None = None, *, name: str = "", state: State | None = None) -> None:
        subject = f"Circuit breaker {name!r} is {state}" if name and state else "The circuit breaker is open"
        when = f"; try again in {retry_after:g} s" if retry_after else ""
        super().__init__(f"{subject}: the call was not made{when}.", retry_after=retry_after)
        self.name = name
        self.state = state


class StoreUnavailable(errors.StoreUnavailable, BreakerError):
    """Redis, which all breakers share, is not responding."""

    title = "Breaker store unavailable"


class BreakerNotFound(BreakerError):
    """There is no circuit breaker with this name."""

    code = "breaker_not_found"
    title = "Circuit breaker not found"
    status = 404


class InvalidRequest(BreakerError):
    """The request is not valid."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400
