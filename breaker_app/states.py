"""The states of a breaker, the moves between them, and the values it answers with. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

#: What a name may look like. Names come from handlers and policy files, never from a payload; the pattern keeps one
#: that slipped through from reaching other keys.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")

#: Longest reason an operator may give, in characters.
MAX_REASON = 500


class State(StrEnum):
    """What the breaker does with a call. The last three are set by people and left only by people."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"
    #: Open because a person said so: no automatic transition undoes it.
    FORCED_OPEN = "FORCED_OPEN"
    #: Everything passes, nothing is counted.
    DISABLED = "DISABLED"
    #: Everything passes and is counted, nothing trips.
    METRICS_ONLY = "METRICS_ONLY"

    @property
    def letter(self) -> str:
        """The state as it is stored and sent to the scripts."""
        return _LETTERS[self]

    @classmethod
    def of(cls, letter: str) -> State:
        """The state that is stored as ``letter``."""
        return _STATES[letter]


_STATES = {state.value[0]: state for state in State}
_LETTERS = {state: letter for letter, state in _STATES.items()}

#: Where a person may send a breaker. HALF_OPEN is missing: only a caller that makes the protected call can be a probe.
ADMIN_STATES = frozenset(State) - {State.HALF_OPEN}


class Outcome(StrEnum):
    """How a protected call went."""

    #: It returned.
    SUCCESS = "S"
    #: The downstream failed: time-out, connection, 5xx, 429, 408.
    FAILURE = "F"
    #: It says nothing about the downstream: bad input, cancelled before the call began. Gives a probe's permit back.
    IGNORED = "I"


class Why(StrEnum):
    """What made the breaker change its state."""

    FAILURE_RATE = "failure_rate"
    SLOW_RATE = "slow_rate"
    OPEN_TIME_OVER = "open_time_over"
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBES_FAILED = "probes_failed"
    #: As many probes as a half-open period admits ended without an answer.
    PROBES_LOST = "probes_lost"
    MANUAL = "manual"


#: Every automatic move. A person may go from any state to any of ``ADMIN_STATES``, always with ``Why.MANUAL``.
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
    """Whether the breaker may move so."""
    return to in ADMIN_STATES if why is Why.MANUAL else (source, to, why) in TRANSITIONS


@dataclass(frozen=True, slots=True)
class Permit:
    """The answer to ``acquire``: whether the call may be made, and what its outcome has to be recorded with."""

    allowed: bool
    state: State
    #: Outcomes count only in the generation they were permitted in; every change of state starts a new one.
    generation: int
    #: Milliseconds after which asking again makes sense; 0 when allowed, -1 when only a person can tell.
    retry_after_ms: int
    #: The caller's id of this call. Asking twice with one token admits one probe.
    token: str
    #: Given by the breaker of this process while the store was away; its outcome is counted there and nowhere else.
    local: bool = False


#: One outcome to be recorded: the permit of the call, how it went, how long it took in ms.
Entry = tuple[Permit, Outcome, int]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer to ``record``."""

    #: For each outcome, in the order given, whether it was used.
    used: tuple[bool, ...]
    #: The breaker after the last of them.
    state: State
    generation: int
    total: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A breaker as seen without touching it."""

    state: State
    #: 0 when the breaker has never been used.
    generation: int = 0
    #: Outcomes in the window, and how many of them failed or were slow. They stay readable after a trip.
    total: int = 0
    failures: int = 0
    slow: int = 0
    #: HALF_OPEN: probes under way, and those that answered well, answered badly, or never answered.
    leases: int = 0
    probes_succeeded: int = 0
    probes_failed: int = 0
    probes_lost: int = 0
    #: Times it opened since its key was made; a reset does not forget them.
    opens: int = 0
    #: As in ``Permit``: milliseconds until a call may be admitted, 0 now, -1 never by itself.
    retry_after_ms: int = 0
    #: OPEN and its time is up: the next caller becomes a probe.
    due: bool = False
    #: False when this is the breaker of one process, shown because the store is away.
    shared: bool = True

    @property
    def failure_rate(self) -> float:
        """Failures by outcomes in the window, 0..1; 0 when there are none."""
        return self.failures / self.total if self.total else 0.0

    @property
    def slow_rate(self) -> float:
        """Slow calls by outcomes in the window, 0..1; 0 when there are none."""
        return self.slow / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state, as kept in the stream."""

    at_ms: int
    source: State
    to: State
    generation: int
    why: Why
    #: The counts that decided: of the window, or of the probes when it left HALF_OPEN.
    total: int
    failures: int
    #: Who did it and the reason given; empty for automatic moves.
    actor: str = ""
    reason: str = ""
