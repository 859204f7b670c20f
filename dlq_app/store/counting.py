"""Count letters: from the keys of an index where it has all that is asked, else by checking letters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from dlq_app.store.hinted import hinted
from dlq_app.store.mongo import Document
from dlq_app.store.pages import Pages
from dlq_app.store.selecting import Branch, Selecting, Source

#: Letters that are always checked, so that the numbers of all but large stores are exact.
_ALWAYS_CHECKED = 10_000
#: Seconds for checking more of them, where a minimum of their number will do.
CHECK_S = 0.02
#: Letters that are checked at once.
_CHECKED = 500


class Counting(Selecting, Pages):
    """Counts letters; changes nothing."""

    def _count(self, branches: Sequence[Branch], limit: int | None = None) -> int:
        """The number of letters of the branches, counted up to ``limit``."""
        total = 0
        earlier: list[Document] = []
        for branch in branches:
            left = None if limit is None else limit - total
            if left is not None and left <= 0:
                break
            source = _exact(branch, earlier)
            total += self._count_keys(source, left) if source else self._count_where(branch, earlier, left)
            earlier.append(branch.where)
        return total

    def _count_some(self, branches: Sequence[Branch], limit: int) -> tuple[int, bool]:
        """The same, and whether all were counted: of many letters that must be checked, only for a short time."""
        total, is_whole = 0, True
        earlier: list[Document] = []
        until = time.monotonic() + CHECK_S
        for branch in branches:
            if total >= limit:
                break
            source = _exact(branch, earlier)
            if source:
                total += self._count_keys(source, limit - total)
            elif not branch.sources:
                total += self._count_where(branch, earlier, limit - total)
            else:
                found, is_all = self._checked(branch, earlier, limit - total, until)
                total, is_whole = total + found, is_whole and is_all
            earlier.append(branch.where)
        return total, is_whole or total >= limit

    def _checked(self, branch: Branch, earlier: Sequence[Document], limit: int, until: float) -> tuple[int, bool]:
        """Letters of a branch that no earlier one has, found until then, and whether these are all."""
        source = self._fewest(branch.sources) or branch.sources[0]
        where = _without(branch.where, earlier)

        def check(index: str | None) -> tuple[int, bool]:
            found = checked = 0
            keys = self._letters.find(source.where, {"_id": 1}, batch_size=_CHECKED)
            with keys.hint(index) if index else keys as rows:
                while some := [row["_id"] for row in islice(rows, _CHECKED)]:
                    found += self._letters.count_documents({"$and": [{"_id": {"$in": some}}, where]})
                    if found >= limit or len(some) < _CHECKED:
                        break
                    checked += len(some)
                    if checked >= _ALWAYS_CHECKED and time.monotonic() > until:
                        return found, False
            return found, True

        return hinted(check, source.index)

    def _count_where(self, branch: Branch, earlier: Sequence[Document], limit: int | None) -> int:
        where = _without(branch.where, earlier)
        options: dict[str, Any] = {"limit": limit} if limit else {}
        return self._letters.count_documents(where, **options)


def _exact(branch: Branch, earlier: Sequence[Document]) -> Source | None:
    """The source whose keys are the letters of the branch, if no letter of an earlier one is to be left out."""
    return None if earlier else next((source for source in branch.sources if source.is_exact), branch.whole)


def _without(where: Document, others: Sequence[Document]) -> Document:
    return {"$and": [where, {"$nor": list(others)}]} if others else where
