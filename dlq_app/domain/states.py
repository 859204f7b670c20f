"""The statuses of a letter and the closed table of its moves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """Where a letter stands. ``docs/lifecycle.md`` says how it gets in and out of each."""

    #: Waits for its next automatic replay.
    PENDING = "dlq_pending"
    #: Claimed; its message is on its way or running.
    PROCESSING = "dlq_processing"
    #: Over: replayed, discarded or resolved by hand.
    RESOLVED = "dlq_resolved"
    #: Its automatic replays are used up.
    FAILED = "dlq_failed"
    #: Waits for a person.
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


class Verb(StrEnum):
    """What moves a letter. Each is one conditional update in ``repository``."""

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


@dataclass(frozen=True, slots=True)
class Move:
    """From which statuses (None: no letter yet) a verb leads to which."""

    froms: frozenset[Status | None]
    tos: frozenset[Status]


#: Not resolved.
OPEN = frozenset({Status.PENDING, Status.PROCESSING, Status.FAILED, Status.MANUAL})
#: Open and not claimed: what a replay and an operator's move may take.
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
    }
)


class IllegalMove(ValueError):
    """A verb was asked to lead where the table does not."""

    def __init__(self, verb: Verb, before: Status | None, after: Status) -> None:
        self.verb, self.before, self.after = verb, before, after
        super().__init__(f"{verb} does not lead from {before or 'no letter'} to {after}")


def froms(verb: Verb) -> list[str]:
    """The statuses that ``verb`` may start from, as stored, in the order of ``Status``."""
    return [status.value for status in Status if status in TRANSITIONS[verb].froms]


def require(verb: Verb, before: Status | None, after: Status) -> Status:
    """``after`` if ``verb`` may lead there from ``before``; raise ``IllegalMove`` naming both if not."""
    move = TRANSITIONS[verb]
    if before not in move.froms or after not in move.tos:
        raise IllegalMove(verb, before, after)
    return after


def is_allowed(verb: Verb, status: Status) -> bool:
    """Whether a letter in ``status`` may be moved by ``verb``."""
    return status in TRANSITIONS[verb].froms
