"""States of a breaker, the transitions between them, and the values that it returns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

#: Pattern of names. Names come from handlers and policy files, never from a payload. The pattern keeps a name from
#: reaching other keys.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")

#: Maximum length of an operator's reason.
MAX_REASON = 500


class State(StrEnum):
    """What the breaker does with a call. Only an operator sets and ends the last three."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"
    #: Opened by an operator: no automatic transition ends it.
    FORCED_OPEN = "FORCED_OPEN"
    #: All calls are allowed, nothing is counted.
    DISABLED = "DISABLED"
    #: All calls are allowed and counted; it never opens.
    METRICS_ONLY = "METRICS_ONLY"

    @property
    def letter(self) -> str:
        """The state as the store and the scripts encode it."""
        return _LETTERS[self]

    @classmethod
    def of(cls, letter: str) -> State:
        """The state that is stored as ``letter``."""
        return _STATES[letter]


_STATES = {state.value[0]: state for state in State}
_LETTERS = {state: letter for letter, state in _STATES.items()}

#: States that an operator may set. HALF_OPEN is missing: only a caller that makes the protected call can be a probe.
ADMIN_STATES = frozenset(State) - {State.HALF_OPEN}


class Outcome(StrEnum):
    """How a protected call went."""

    #: It returned.
    SUCCESS = "S"
    #: The downstream failed: time-out, connection, 5xx, 429, 408.
    FAILURE = "F"
    #: No information about the downstream: bad input, cancelled before the call began. Releases the permit of a probe.
    IGNORED = "I"


class Why(StrEnum):
    """Reason for a change of state."""

    FAILURE_RATE = "failure_rate"
    SLOW_RATE = "slow_rate"
    OPEN_TIME_OVER = "open_time_over"
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBES_FAILED = "probes_failed"
    #: All probes of a half-open period ended without an outcome.
    PROBES_LOST = "probes_lost"
    MANUAL = "manual"


#: Automatic transitions. An operator may set any of ``ADMIN_STATES`` from any state, with ``Why.MANUAL``.
TRANSITIONS = frozenset(
    {
        (State.CLOSED, State.OPEN, Why.FAILURE_RATE),
        (State.CLOSED, State.OPEN, Why.SLOW_RATE),
        (State.OPEN, State.HALF_OPEN, Why.OPEN_TIME_OVER),
        (State.HALF_OPEN, State.CLOSED, Why.PROBES_SUCCEEDED),
        (State.HALF_OPEN, State.OPEN, Why.PROBES_FAILED),
        (State.HALF_OPEN, State.OPEN, Why.PROBES_LOST),
    }
)


def is_legal(source: State, to: State, why: Why) -> bool:
    """Whether this transition is allowed."""
    return to in ADMIN_STATES if why is Why.MANUAL else (source, to, why) in TRANSITIONS


@dataclass(frozen=True, slots=True)
class Permit:
    """Result of ``acquire``: whether the call is allowed, and what is needed to record its outcome."""

    allowed: bool
    state: State
    #: An outcome counts only in the generation of its permit; every change of state starts a new one.
    generation: int
    #: Milliseconds after which a retry makes sense; 0 if allowed, -1 if only an operator can end this state.
    retry_after_ms: int
    #: Id of the call, chosen by the caller. Asking twice with one token admits one probe.
    token: str
    #: Issued by the local breaker while the store was unavailable; its outcome counts only there.
    local: bool = False


#: An outcome to record: permit of the call, outcome, duration in ms.
Entry = tuple[Permit, Outcome, int]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Result of ``record``."""

    #: For each outcome, in order, whether it was counted.
    used: tuple[bool, ...]
    #: The breaker after the last of them.
    state: State
    generation: int
    total: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A breaker at one point in time."""

    state: State
    #: 0 if the breaker was never used.
    generation: int = 0
    #: Outcomes in the window, and how many of them failed or were slow. They stay readable after a trip.
    total: int = 0
    failures: int = 0
    slow: int = 0
    #: HALF_OPEN: probes in flight, succeeded, failed, and without an outcome.
    leases: int = 0
    probes_succeeded: int = 0
    probes_failed: int = 0
    probes_lost: int = 0
    #: How often it opened since its key was created; a reset keeps this count.
    opens: int = 0
    #: As in ``Permit``: milliseconds until a call may be allowed, 0 now, -1 not automatically.
    retry_after_ms: int = 0
    #: OPEN, and its open time is over: the next call becomes a probe.
    due: bool = False
    #: When it last left CLOSED, in ms of the store's clock; None while CLOSED, or if an earlier version opened it.
    left_closed_ms: int | None = None
    #: False if this is the local breaker of one process, because the store is unavailable.
    shared: bool = True

    @property
    def failure_rate(self) -> float:
        """Share of failures in the window, 0 to 1; 0 without outcomes."""
        return self.failures / self.total if self.total else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls in the window, 0 to 1; 0 without outcomes."""
        return self.slow / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state, as kept in the stream."""

    at_ms: int
    source: State
    to: State
    generation: int
    why: Why
    #: The counts behind the decision: of the window, or of the probes if it left HALF_OPEN.
    total: int
    failures: int
    #: The operator and the reason; empty for automatic transitions.
    actor: str = ""
    reason: str = ""
