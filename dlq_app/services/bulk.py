"""An operator's move of many letters: its preview, and the move itself in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dlq_app.domain.errors import DeadLetterError, MoveRefused, QueryTooSlow
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.states import Verb
from dlq_app.store import repository
from dlq_app.store.repository import Selection

#: Maximum letters of one request, so that it ends within its time limit.
MAX_LETTERS = 50_000
#: Maximum letters that a request can name by id.
MAX_IDS = 200
_SAMPLE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The letters that a move would change now."""

    which: Selection
    verb: Verb
    #: Letters that would be moved, exactly; more than ``MAX_LETTERS`` are not counted to their end.
    count: int
    #: Selected letters, including those whose status does not allow the move. None: counting took too long.
    chosen: int | None
    sample: Sequence[DeadLetter]

    @property
    def is_too_many(self) -> bool:
        return self.count > MAX_LETTERS

    @property
    def left_out(self) -> int | None:
        return None if self.chosen is None or self.is_too_many else max(0, self.chosen - self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The result of a move. ``stopped``: the error that ended it early; moved letters stay moved."""

    count: int
    asked: int
    stopped: DeadLetterError | None = field(default=None)


def preview(which: Selection, verb: Verb) -> Preview:
    """Preview ``move_many`` without changes. Raises ``StoreUnavailable`` or ``QueryTooSlow``."""
    letters = repository.letters()
    count = letters.movable(which, verb, limit=MAX_LETTERS + 1)
    chosen: int | None = len(which.ids)
    if which.criteria is not None:
        try:
            chosen = letters.exact_count(which.criteria)
        except QueryTooSlow:
            chosen = None
    sample = letters.sample(which, verb, _SAMPLE) if count else []
    return Preview(which=which, verb=verb, count=count, chosen=chosen, sample=sample)


def move_many(which: Selection, verb: Verb, *, count: int, actor: str, reason: str) -> Moved:
    """Resolve, discard or set aside at most ``count`` letters, the number that was shown.

    Skips letters that changed after ``which.as_of``, or that another client moves first. Raises ``MoveRefused`` above
    ``MAX_LETTERS``, before any change.
    """
    if count > MAX_LETTERS:
        raise MoveRefused(f"{count} letters are too many for one move; narrow the filter to {MAX_LETTERS} or fewer.")
    done = 0
    try:
        for moved in repository.letters().move_many(
            which, verb, limit=count, who=actor, why=reason, now=repository.now()
        ):
            done += moved
    except DeadLetterError as error:
        # A part is done and stays done: the client needs its number to repeat the rest.
        return Moved(count=done, asked=count, stopped=error)
    return Moved(count=done, asked=count)
