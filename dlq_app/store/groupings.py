"""Group the newest letters that match by a field or a facet. The time does not grow with the number of letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter_values import load_instant
from dlq_app.domain.paging import DEFAULT_SORT, PageRequest
from dlq_app.store.mongo import Document, patiently, translated
from dlq_app.store.pages import PATIENCE_S
from dlq_app.store.reading import Reading

_NEVER = datetime(1, 1, 1, tzinfo=UTC)
#: Letters that are counted.
COUNTED = 3000
FACET = "facet."


@dataclass(slots=True)
class Part:
    """Letters with one value. ``oldest`` and ``newest`` are last failures."""

    value: str
    count: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """The counted letters by one field."""

    by: str
    #: The largest parts.
    parts: Sequence[Part]
    #: Number of different values.
    distinct: int
    #: Letters that have a value.
    letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Groupings:
    """The letters that match, by several fields."""

    groupings: Sequence[Grouping]
    #: Letters that were counted.
    counted: int
    #: More letters match: all numbers are of the newest ones.
    is_partial: bool
    #: Last failure of the oldest counted letter.
    since: datetime | None


#: Name of a field → its path.
FIELDS: Mapping[str, str] = {
    "type": "type",
    "source": "metadata.source",
    "client": "metadata.client",
    "codeVersion": "metadata.systemState.codeVersion",
    "errorType": "errorType",
}


class GroupingLetters(Reading):
    """Counts letters by their values; changes nothing."""

    def grouped(self, criteria: LetterCriteria, by: Sequence[str], top: int) -> Groupings:
        """The most frequent values of each of ``by`` in the newest ``COUNTED`` letters that match.

        ``by``: names of ``FIELDS``, or ``facet.`` and the name of a facet. Can raise ``QueryTooSlow``.
        """
        paths = {"facets" if name.startswith(FACET) else FIELDS[name] for name in by}
        letters = self._newest(criteria, {"lastFailedAt": 1, **dict.fromkeys(paths, 1)})
        return _counted(letters, by, top)

    def grouped_of(self, letter_ids: Sequence[str], by: Sequence[str], top: int) -> Groupings:
        """The same for the first ``COUNTED`` of these letters."""
        paths = {"facets" if name.startswith(FACET) else FIELDS[name] for name in by}
        wanted = {"$in": [ObjectId(one) for one in letter_ids[: COUNTED + 1]]}
        with translated():
            letters = list(self._letters.find({"_id": wanted}, {"lastFailedAt": 1, **dict.fromkeys(paths, 1)}))
        letters.sort(key=lambda letter: _failed(letter) or _NEVER, reverse=True)
        return replace(_counted(letters, by, top), is_partial=len(letter_ids) > COUNTED)

    def _newest(self, criteria: LetterCriteria, fields: Document) -> list[Document]:
        """These fields of the newest letters that match, and of one more."""
        request = PageRequest(sort=DEFAULT_SORT, limit=COUNTED)
        branches = self._chosen(criteria, DEFAULT_SORT)
        if not branches:
            return []
        with translated():
            ways = self._ways(branches, DEFAULT_SORT)
        (way, *more) = ways
        if not more and not way.by_keys and way.check is None:
            try:
                with patiently(PATIENCE_S) if way.otherwise else translated():
                    return self._read(way, request, fields)
            except (QueryTooSlow, StoreUnavailable):
                if way.otherwise is None:
                    raise
                ways = [way.otherwise]
        with translated():
            ids = [row["_id"] for row in self._merged(ways, request)]
            found = {row["_id"]: row for row in self._letters.find({"_id": {"$in": ids}}, fields)}
        return [found[one] for one in ids if one in found]


def _counted(letters: Sequence[Document], by: Sequence[str], top: int) -> Groupings:
    is_partial = len(letters) > COUNTED
    letters = letters[:COUNTED]
    times = [at for letter in (*letters[-1:], *letters[:1]) if (at := load_instant(letter.get("lastFailedAt")))]
    return Groupings(
        groupings=_groupings(letters, by, top),
        counted=len(letters),
        is_partial=is_partial,
        since=min(times, default=None),
    )


def _groupings(letters: Sequence[Document], by: Sequence[str], top: int) -> list[Grouping]:
    """The letters, newest first, by each field. The loop is short: it runs for thousands of letters."""
    #: Value → number, first letter and last letter that have it.
    parts: dict[str, dict[str, list[int]]] = {name: {} for name in by}
    having = dict.fromkeys(by, 0)
    paths = [(name, FIELDS[name].split(".")) for name in by if name in FIELDS]
    facets = {name.removeprefix(FACET): name for name in by if name not in FIELDS}
    for place, letter in enumerate(letters):
        pairs = [(name, _value(letter, path)) for name, path in paths]
        stored = letter.get("facets") if facets else None
        if isinstance(stored, list):
            split = [one.partition("=") for one in stored if type(one) is str]
            pairs += [(facets[name], value) for name, _, value in split if name in facets]
        for name in {name for name, value in pairs if type(value) is str and value}:
            having[name] += 1
        for name, value in pairs:
            if type(value) is not str or not value:
                continue
            part = parts[name].get(value)
            if part is None:
                parts[name][value] = [1, place, place]
            else:
                part[0] += 1
                part[2] = place
    return [
        Grouping(
            by=name,
            parts=[
                Part(value, count, _failed(letters[last]), _failed(letters[first]))
                for value, (count, first, last) in sorted(found.items(), key=lambda one: (-one[1][0], one[0]))[:top]
            ],
            distinct=len(found),
            letters=having[name],
        )
        for name, found in parts.items()
    ]


def _failed(letter: Document) -> datetime | None:
    return load_instant(letter.get("lastFailedAt"))


def _value(letter: Any, path: Sequence[str]) -> Any:
    for name in path:
        letter = letter.get(name) if isinstance(letter, dict) else None
    return letter
