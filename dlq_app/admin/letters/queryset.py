"""Adapter that Django's changelist uses as a queryset: a repository and criteria, evaluated lazily.

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

#: Time limit for counting; after it the page shows "many".
COUNT_WITHIN_S = 0.5


class Unsupported(NotImplementedError):
    """Django used a queryset feature that only tables have."""


def row_of(letter: Letter) -> DeadLetter:
    """A model instance for the admin; its ``letter`` is the letter."""
    row = DeadLetter(id=letter.id, message_id=letter.message_id)
    row._state.adding = False
    row.letter = letter  # type: ignore[attr-defined]
    return row


def letter_of(row: DeadLetter) -> Letter:
    """The letter of a row made by ``row_of``."""
    found: Letter = row.letter  # type: ignore[attr-defined]
    return found


class _Query:
    """The part of ``QuerySet.query`` that a changelist reads."""

    select_related = True  # there is nothing to join, so nothing to add
    order_by: Sequence[str] = ()


class LettersQuerySet:
    """Letters that match criteria, sorted. Changes return a copy; counting, slicing and iterating query MongoDB.

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
        #: Counting timed out; ``count`` is not known.
        self.is_uncounted = False

    # --- for our filters, search and actions ---

    def narrowed(self, **changes: Any) -> LettersQuerySet:
        """A copy with other criteria."""
        found = self._clone()
        found.criteria = replace(self.criteria, **changes)
        return found

    def none(self, reason: str) -> LettersQuerySet:
        """An empty queryset, and the reason to show."""
        found = self._clone()
        found.nothing = reason
        return found

    def total(self) -> Total:
        """Number of matches, exact up to 10,000."""
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
            # The page's own query, which has a longer limit, shows the reason.
            self.is_uncounted = True
            return Total(count=MAX_COUNTED, is_capped=True)

    # --- for Django's changelist ---

    def filter(self, *args: Q, **lookups: Any) -> LettersQuerySet:
        """Accept an empty ``Q`` (always passed once) or ``pk__in`` with the selected rows; reject others."""
        if any(args):
            raise Unsupported(f"letters cannot be filtered by {args}")
        if set(lookups) - {"pk__in"}:
            raise Unsupported(f"letters cannot be filtered by {', '.join(sorted(lookups))}")
        found = self._clone()
        if lookups:
            found.ids = tuple(str(one) for one in lookups["pk__in"])
        return found

    def order_by(self, *names: str) -> LettersQuerySet:
        """Sort by the first name: every order is total, so the primary key that Django adds has no effect.

        Computed orders raise ``SortTooLarge`` when a page is read of too many letters.
        """
        found = self._clone()
        found.sort = self._sort(names[0]) if names and names[0].lstrip("-") != "pk" else DEFAULT_SORT
        return found

    def _sort(self, name: str) -> Sort:
        if name not in SORTS:
            raise Unsupported(f"letters cannot be ordered by {name}")
        return SORTS[name]

    def count(self) -> int:
        """Number of matches, up to ``MAX_COUNTED``."""
        return self.total().count

    def get(self, **lookups: Any) -> DeadLetter:
        """The complete letter with this id; raises ``DeadLetter.DoesNotExist``, also for an invalid id."""
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
        """A page. Its start must be a multiple of its length, as in a paginator."""
        if isinstance(place, int):
            return list(self)[place]
        start, stop = place.start or 0, place.stop
        if stop is None or place.step not in (None, 1):
            raise Unsupported("letters are read in pages")
        # The paginator limits the last page to the count, which is capped: read a full page.
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
        """The first letters, up to one page: iteration never reads more."""
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
