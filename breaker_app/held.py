"""Messages that wait because a breaker rejected them. Counted by intake, shown with the breaker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Longest wait of a rejected message while the breaker probes, in ms.
MAX_TRIAL_WAIT_MS: Final = 30_000
#: Number of clock minutes with their own number of messages.
MINUTES: Final = 60
#: Priorities of messages, highest first.
PRIORITIES: Final = ("high", "normal", "low")
#: A message of this priority weighs as much as ten of the next lower one.
_WEIGHTS: Final = {"high": 100, "normal": 10, "low": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The messages that one breaker holds. Times are epoch milliseconds of the server's clock."""

    now_ms: int = 0
    high: int = 0
    normal: int = 0
    low: int = 0
    #: When the longest held one was rejected first; None if there is none.
    oldest_ms: int | None = None
    #: How many it held at the end of each of the last clock minutes, oldest first; the last one is now.
    minutes: tuple[int, ...] = (0,) * MINUTES

    @property
    def count(self) -> int:
        return self.high + self.normal + self.low

    @property
    def highest(self) -> str:
        """The highest priority among them; empty if there is none."""
        return next((name for name in PRIORITIES if getattr(self, name)), "")

    @property
    def weight(self) -> int:
        """The harm: each message by its priority."""
        return sum(weight * int(getattr(self, name)) for name, weight in _WEIGHTS.items())

    @property
    def growth(self) -> float:
        """Messages a minute by which the number grew within the last five minutes; negative if it fell."""
        spent = 4 + self.now_ms % 60_000 / 60_000
        before = self.minutes[-6]
        if not before and self.oldest_s is not None:
            # It began within these minutes.
            spent = min(spent, max(self.oldest_s / 60, 1.0))
        return (self.count - before) / spent

    @property
    def unchanged_min(self) -> int:
        """Whole minutes for which the number has been the same."""
        return next((at for at, number in enumerate(reversed(self.minutes)) if number != self.count), MINUTES) - 1

    @property
    def oldest_s(self) -> float | None:
        """Seconds for which the longest held one has waited."""
        return None if self.oldest_ms is None else max(0, self.now_ms - self.oldest_ms) / 1000


NONE: Final = Held()


def longest_wait_ms(open_timeout_ms: int) -> int:
    """The longest time until a held message is tried again: the open time, half of it more as jitter, or the time that
    a probe may take.
    """
    return max(open_timeout_ms * 3 // 2, MAX_TRIAL_WAIT_MS)
