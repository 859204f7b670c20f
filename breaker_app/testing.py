"""What tests of breakers need: a clock that moves when told to, and a store without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from breaker_app.local import LocalBreakerStore
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Permit, Snapshot


class FakeClock:
    """Whole milliseconds that pass only when told to."""

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, ms: int) -> None:
        """Let ``ms`` pass; a negative number sets the clock back."""
        self.now += ms


class MemoryBreakerStore(LocalBreakerStore):
    """A store as all processes share it, without a server: the plain Python that the scripts are checked against.

    Its permits and snapshots say that they are shared, as those of the real store do.
    """

    def acquire(self, name: str, policy: BreakerPolicy, token: str) -> Permit:
        """Ask for a permit."""
        return replace(super().acquire(name, policy, token), local=False)

    def peek(self, name: str, policy: BreakerPolicy) -> Snapshot:
        """The breaker as it is; changes nothing."""
        return replace(super().peek(name, policy), shared=True)

    def announce(self, names: Sequence[str]) -> None:
        """Nothing to remember: tests name their breakers in the policy."""
