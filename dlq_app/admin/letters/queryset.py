"""A lazy queryset for Django's changelist, from a repository and criteria.

The surface that a changelist uses is not documented, so a member that is not here raises an error that names it, and
the tests drive every page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn, overload

from django.db.models import Q

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter as Letter
from dlq_app.domain.paging import DEFAULT_SORT, MAX_COUNTED, MAX_LIMIT, SORTS, PageRequest, Sort, Total
from dlq_app.models import DeadLetter
from dlq_app.store import repository
from dlq_app.store.repository import Letters

#: A count that takes longer is not worth waiting for: the page says "many".
COUNT_WITHIN_S = 0.5


class Unsupported(NotImplementedError):
    """Django asked letters for something that only tables have."""


def row_of(letter: Letter) -> DeadLetter:
    """The letter as the admin holds it; the letter itself is in its ``letter``."""
    row = DeadLetter(id=letter.id, message_id=letter.message_id)
    row._state.adding = False
    row.letter = letter  # type: ignore[attr-defined]
    return row


def letter_of(row: DeadLetter) -> Letter:
    """The letter that ``row_of`` was given."""
    found: Letter = row.letter  # type: ignore[attr-defined]
    return found


class _Query:
    """The part of ``QuerySet.query`` that a changelist reads."""

    select_related = True  # there is nothing to join, so nothing to add
    order_by: Sequence[str] = ()


class LettersQuerySet:
    """Letters that fit criteria, in an order. Every change makes a new one; counting, slicing and looping ask MongoDB.

    ``criteria`` is what the admin's filters and search have narrowed so far; ``nothing`` says why nothing can fit.
    """

    model = DeadLetter
    query = _Query()
    ordered = True
    totally_ordered = True
    verbose_name = DeadLetter._meta.verbose_name
    verbose_name_plural = DeadLetter._meta.verbose_name_plural

    def __init__(self, letters: Letters | None = None, criteria: LetterCriteria | None = None) -> None:
        self._letters = letters or repository.letters()
        self.criteria = criteria or LetterCriteria()
        self.sort = DEFAULT_SORT
        self.nothing = ""
        self.ids: tuple[str, ...] | None = None
        self._rows: list[DeadLetter] | None = None
        self._total: Total | None = None
        #: Counting took too long: ``count`` is then a mere "many".
        self.is_uncounted = False

    # --- what our own filters, search and actions use ---

    def narrowed(self, **changes: Any) -> LettersQuerySet:
        """The same with other criteria."""
        found = self._clone()
        found.criteria = replace(self.criteria, **changes)
        return found

    def hopeless(self, why: str) -> LettersQuerySet:
        """No letters, and the reason for people."""
        found = self._clone()
        found.nothing = why
        return found

    def total(self) -> Total:
        """How many fit, exact up to 10 000."""
        if self._total is None:
            self._total = self._counted()
        return self._total

    def _counted(self) -> Total:
        if self.nothing:
            return Total(count=0, is_capped=False)
        if self.ids is not None:
            return Total(count=len(self.ids), is_capped=False)
        try:
            return self._letters.count(self.criteria, within_s=COUNT_WITHIN_S)
        except (QueryTooSlow, StoreUnavailable):
            # Which of the two it is, the page's own question will tell: it has a longer time limit.
            self.is_uncounted = True
            return Total(count=MAX_COUNTED, is_capped=True)

    # --- what a changelist uses ---

    def filter(self, *args: Q, **lookups: Any) -> LettersQuerySet:
        """An empty ``Q`` (always, once), or ``pk__in`` with the checked rows. Anything else is an unknown parameter."""
        if any(args):
            raise Unsupported(f"letters cannot be filtered by {args}")
        if set(lookups) - {"pk__in"}:
            raise Unsupported(f"letters cannot be filtered by {', '.join(sorted(lookups))}")
        found = self._clone()
        if lookups:
            found.ids = tuple(str(one) for one in lookups["pk__in"])
        return found

    def order_by(self, *names: str) -> LettersQuerySet:
        """The first name decides: every order is total by itself, so the primary key that Django adds changes none.

        Only orders that an index serves are known.
        """
        found = self._clone()
        found.sort = self._sort(names[0]) if names and names[0].lstrip("-") != "pk" else DEFAULT_SORT
        return found

    def _sort(self, name: str) -> Sort:
        if name not in SORTS:
            raise Unsupported(f"letters cannot be ordered by {name}")
        return SORTS[name]

    def count(self) -> int:
        """How many fit, at most ``MAX_COUNTED``."""
        return self.total().count

    def get(self, **lookups: Any) -> DeadLetter:
        """The letter with this id, whole; raises ``DeadLetter.DoesNotExist``, for nonsense too."""
        if set(lookups) - {"id", "pk"} or len(lookups) != 1:
            raise Unsupported(f"letters cannot be looked up by {', '.join(sorted(lookups))}")
        letter = self._letters.find(str(next(iter(lookups.values()))))
        if letter is None:
            raise DeadLetter.DoesNotExist("there is no such dead letter")
        return row_of(letter)

    @overload
    def __getitem__(self, place: int) -> DeadLetter: ...

    @overload
    def __getitem__(self, place: slice) -> list[DeadLetter]: ...

    def __getitem__(self, place: int | slice) -> DeadLetter | list[DeadLetter]:
        """A page. Its beginning must be a multiple of its length, as a paginator's is."""
        if isinstance(place, int):
            return list(self)[place]
        start, stop = place.start or 0, place.stop
        if stop is None or place.step not in (None, 1):
            raise Unsupported("letters are read in pages")
        # The paginator cuts the last page off at the count, which is capped: ask for what is there.
        return self._page(start, stop)

    def _page(self, start: int, stop: int) -> list[DeadLetter]:
        size = stop - start
        if size <= 0 or self.nothing:
            return []
        limit = next((n for n in range(size, MAX_LIMIT + 1) if start % n == 0), None)
        if limit is None:
            raise Unsupported(f"letters {start} to {stop} are no page")
        found = self._letters.page(self.criteria, PageRequest(sort=self.sort, limit=limit, page=start // limit + 1))
        return [row_of(letter) for letter in found.letters[:size]]

    def __iter__(self) -> Iterator[DeadLetter]:
        """The first letters, at most as many as a page may hold: what is more is never looped over here."""
        if self._rows is None:
            self._rows = self._page(0, MAX_LIMIT)
        return iter(self._rows)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __bool__(self) -> bool:
        return True  # asking for the truth of it must not ask MongoDB

    def _clone(self) -> LettersQuerySet:
        found = type(self)(self._letters, self.criteria)
        found.sort, found.nothing, found.ids = self.sort, self.nothing, self.ids
        return found

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"letters live in MongoDB: LettersQuerySet has no {name!r}")
