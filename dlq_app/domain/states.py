"""The statuses of a letter and the table of all allowed moves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """The status of a letter. ``docs/lifecycle.md`` describes the moves between them."""

    #: Waits for its next automatic replay.
    PENDING = "dlq_pending"
    #: Claimed; its message is queued or running.
    PROCESSING = "dlq_processing"
    #: Replayed, discarded or resolved by hand.
    RESOLVED = "dlq_resolved"
    #: All its automatic replays are used.
    FAILED = "dlq_failed"
    #: Needs a decision.
    MANUAL = "dlq_manual"

    @property
    def word(self) -> str:
        """The status without its prefix, for people."""
        return self.value.removeprefix("dlq_")


class Resolution(StrEnum):
    """How a letter ended."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"
    BY_HAND = "resolved_by_hand"


#: Resolutions by an operator, which ``reopen`` undoes.
UNDOABLE = frozenset({Resolution.BY_HAND, Resolution.DISCARDED})


class Verb(StrEnum):
    """A move of a letter. Each is one conditional update in ``store``."""

    DEAD_LETTER = "dead_letter"
    CLAIM = "claim"
    CLAIM_AGAIN = "claim_again"
    RESOLVE = "resolve"
    PUT_BACK = "put_back"
    FAIL = "fail"
    HAND_OVER = "hand_over"
    RELEASE = "release"
    RESOLVE_BY_HAND = "resolve_by_hand"
    DISCARD = "discard"
    SET_ASIDE = "set_aside"
    RESUME = "resume"
    REOPEN = "reopen"


@dataclass(frozen=True, slots=True)
class Move:
    """The statuses before (None: no letter yet) and after a verb."""

    froms: frozenset[Status | None]
    tos: frozenset[Status]


#: Not resolved.
OPEN = frozenset({Status.PENDING, Status.PROCESSING, Status.FAILED, Status.MANUAL})
#: Open and not claimed: replays and operators can move these.
WAITING = frozenset({Status.PENDING, Status.FAILED, Status.MANUAL})

_ANY: frozenset[Status | None] = frozenset(Status)


def _move(froms: frozenset[Status] | frozenset[Status | None], *tos: Status) -> Move:
    return Move(frozenset(froms), frozenset(tos))


#: Which outcome counts is decided by the epoch, not by the status: the death or the end of the newest epoch is recorded
#: wherever the letter stands, hence the two wide rows.
TRANSITIONS: Mapping[Verb, Move] = MappingProxyType(
    {
        Verb.DEAD_LETTER: _move(_ANY | {None}, Status.PENDING, Status.MANUAL, Status.FAILED),
        Verb.CLAIM: _move(WAITING, Status.PROCESSING),
        Verb.CLAIM_AGAIN: _move(frozenset({Status.RESOLVED}), Status.PROCESSING),
        Verb.RESOLVE: _move(_ANY, Status.RESOLVED),
        Verb.PUT_BACK: _move(frozenset({Status.PROCESSING}), Status.PENDING),
        Verb.FAIL: _move(frozenset({Status.PROCESSING}), Status.FAILED),
        Verb.HAND_OVER: _move(frozenset({Status.PROCESSING}), Status.MANUAL),
        Verb.RELEASE: _move(frozenset({Status.PROCESSING}), *WAITING, Status.RESOLVED),
        Verb.RESOLVE_BY_HAND: _move(WAITING, Status.RESOLVED),
        Verb.DISCARD: _move(WAITING, Status.RESOLVED),
        Verb.SET_ASIDE: _move(frozenset({Status.PENDING, Status.FAILED}), Status.MANUAL),
        Verb.RESUME: _move(frozenset({Status.MANUAL}), Status.PENDING),
        Verb.REOPEN: _move(frozenset({Status.RESOLVED}), Status.MANUAL),
    }
)


class IllegalMove(ValueError):
    """The table does not allow this move."""

    def __init__(self, verb: Verb, before: Status | None, after: Status) -> None:
        self.verb, self.before, self.after = verb, before, after
        super().__init__(f"{verb} does not lead from {before or 'no letter'} to {after}")


def froms(verb: Verb) -> list[str]:
    """The stored statuses from which ``verb`` is allowed, in the order of ``Status``."""
    return [status.value for status in Status if status in TRANSITIONS[verb].froms]


def require(verb: Verb, before: Status | None, after: Status) -> Status:
    """Return ``after`` if the table allows ``verb`` from ``before`` to it; else raise ``IllegalMove``."""
    move = TRANSITIONS[verb]
    if before not in move.froms or after not in move.tos:
        raise IllegalMove(verb, before, after)
    return after


def is_allowed(verb: Verb, status: Status) -> bool:
    """Whether ``verb`` is allowed for a letter in ``status``."""
    return status in TRANSITIONS[verb].froms
