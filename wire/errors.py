"""Base classes of the errors of all apps. Each class has a code for programs, a title for people and an HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class ServiceError(Exception):
    """Internal error."""

    code: str = "internal_error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    #: Seconds after which a retry makes sense, unless an instance knows better.
    default_retry_after: ClassVar[float | None] = None

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after: float | None = None,
        errors: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Without ``detail`` the error is described by the first line of its class's docstring."""
        self.detail = detail or (type(self).__doc__ or "").strip().partition("\n")[0]
        #: Seconds after which a retry makes sense; None if unknown.
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        #: ``{"field", "message"}`` of each invalid input.
        self.errors = list(errors)
        super().__init__(self.detail)


class StoreUnavailable(ServiceError):
    """A store is not responding."""

    code = "store_unavailable"
    title = "Store unavailable"
    status = 503


class PolicyError(ServiceError, ValueError):
    """A policy file holds a value that is not allowed."""

    code = "policy_invalid"
    title = "Invalid policy"
