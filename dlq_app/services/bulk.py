"""One operator's move of many letters: what it would reach, and the move itself in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dlq_app.domain.errors import DeadLetterError, MoveRefused, QueryTooSlow
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.states import Verb
from dlq_app.store import repository
from dlq_app.store.repository import Selection

#: One request moves at most so many: it has to end while somebody waits for it.
MAX_LETTERS = 50_000
#: Letters that may be named one by one.
MAX_IDS = 200
_SAMPLE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a move would reach if it were made of these letters as they stand."""

    which: Selection
    verb: Verb
    #: Letters that would be moved, exactly; more than ``MAX_LETTERS`` are not counted to their end.
    count: int
    #: Letters that were chosen: the others are in a status that does not allow the move. None: took too long to count.
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
    """What a move did. ``stopped``: why it did not come to its end; what was moved stays moved."""

    count: int
    asked: int
    stopped: DeadLetterError | None = field(default=None)


def preview(which: Selection, verb: Verb) -> Preview:
    """What ``move_many`` would do. Writes nothing. Raises ``StoreUnavailable`` or ``QueryTooSlow``."""
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
    """Resolve, discard or set aside up to ``count`` letters: the number that was shown is never exceeded.

    A letter that was touched after ``which.as_of``, or that somebody else moves first, is left alone. Raises
    ``MoveRefused`` above ``MAX_LETTERS``, before anything is done.
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
        # A part is done and stays done: whoever asked must hear how much, and may ask for the rest.
        return Moved(count=done, asked=count, stopped=error)
    return Moved(count=done, asked=count)
