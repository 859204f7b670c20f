"""For tests of breakers: a clock that is set by hand, and a store without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from breaker_app.local import LocalBreakerStore
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Permit, Snapshot


class FakeClock:
    """A clock of whole milliseconds that only ``advance`` moves."""

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, ms: int) -> None:
        """Move the clock by ``ms``; a negative number sets it back."""
        self.now += ms


class MemoryBreakerStore(LocalBreakerStore):
    """A shared store without a server: the Python that the scripts are tested against.

    Its permits and snapshots are marked as shared, as those of the real store.
    """

    def acquire(self, name: str, policy: BreakerPolicy, token: str) -> Permit:
        """Ask for a permit."""
        return replace(super().acquire(name, policy, token), local=False)

    def peek(self, name: str, policy: BreakerPolicy) -> Snapshot:
        """Read the breaker; change nothing."""
        return replace(super().peek(name, policy), shared=True)

    def announce(self, names: Sequence[str]) -> None:
        """Do nothing: tests name their breakers in the policy."""
