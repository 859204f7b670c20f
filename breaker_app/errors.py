"""What can go wrong around a breaker. The docstring of an error is what it says when it is given nothing better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from breaker_app.states import State


class BreakerError(Exception):
    """Something went wrong with a circuit breaker."""

    #: Stable name for machines, one line for people, HTTP status.
    code: ClassVar[str] = "breaker_error"
    title: ClassVar[str] = "Circuit breaker error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        errors: Sequence[dict[str, str]] = (),
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        #: Seconds after which trying again makes sense; None when nobody knows.
        self.retry_after = retry_after
        #: ``{"field", "message"}`` of each invalid input.
        self.errors = list(errors)
        super().__init__(self.detail)


class CallNotPermitted(BreakerError):
    """The circuit is open: the call was not made."""

    code = "circuit_open"
    title = "Circuit open"
    status = 503

    def __init__(self, retry_after: float | None = None, *, name: str = "", state: State | None = None) -> None:
        subject = f"Circuit breaker {name!r} is {state}" if name and state else "The circuit is open"
        when = f"; try again in {retry_after:g} s" if retry_after else ""
        super().__init__(f"{subject}: the call was not made{when}.", retry_after=retry_after)
        self.name = name
        self.state = state


class StoreUnavailable(BreakerError):
    """The store that the breakers share does not answer."""

    code = "store_unavailable"
    title = "Breaker store unavailable"
    status = 503


class BreakerNotFound(BreakerError):
    """No circuit breaker has this name."""

    code = "breaker_not_found"
    title = "Unknown circuit breaker"
    status = 404


class InvalidRequest(BreakerError):
    """The request is not valid."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400


class PolicyError(BreakerError, ValueError):
    """The breaker policy is not valid."""

    code = "policy_invalid"
    title = "Invalid breaker policy"

    def __init__(self, *, key: str, value: object, accepted: str, where: str = "breaker policy") -> None:
        #: File and table, such as ``policies/breaker.toml [default]``.
        self.where = where
        self.key = key
        self.value = value
        #: What would have been accepted.
        self.accepted = accepted
        super().__init__(f"{where}: {key} = {value!r} is not accepted; it has to be {accepted}.")

    def at(self, where: str) -> PolicyError:
        """The same mistake, found there."""
        return type(self)(key=self.key, value=self.value, accepted=self.accepted, where=where)


class UnknownKey(PolicyError):
    """The breaker policy has a key or a table that nothing reads."""
