"""Choose how to find matching letters: by which index, and among which groups for words.

A letter's words are mostly those of its group: what varies between letters of a group are numbers and names. An index
has the groups of each word, so the groups that have all words of a search are found by a few lookups for each group,
however many letters there are. No letter of another group can match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.paging import Sort
from dlq_app.store import queries
from dlq_app.store.hinted import NO_SUCH_INDEX, hinted
from dlq_app.store.indexes import FACETS, FIGURES, INDEXES, TAGS, UNIQUE, WORDS
from dlq_app.store.mongo import Document
from dlq_app.store.pages import FEW, Way

#: With more groups of a word nothing is known of it: looking them up would take too long.
MAX_GROUPS = 1000
#: Words whose groups are looked up, longest first.
_LOOKED_UP = 6
#: Groups that the server merges in order. For more it sorts all their letters in memory.
_MERGED = 200
_KEYS = {index.name: {path for path, _ in index.keys} for index in INDEXES}


@dataclass(slots=True, kw_only=True)
class Source:
    """Keys of an index; every letter of a branch has one of them. Lives as long as one question."""

    where: Document
    index: str
    #: Every letter with such a key is in the branch.
    is_exact: bool = False
    #: How many keys were counted, and up to which number (None: all).
    counted: tuple[int, int | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Letters that match in one way. Without ``sources`` the server chooses an index to read them."""

    where: Document
    sources: tuple[Source, ...] = ()
    #: To count the letters if there are no sources.
    whole: Source | None = None
    #: The groups whose letters have all words; None: not known, or no words.
    groups: tuple[Any, ...] | None = None
    #: Words, and no other filter that an index can find letters by.
    is_only_words: bool = False


class Selecting:
    """Finds out how to select letters; changes nothing."""

    _letters: Collection[Document]

    def _branches(self, criteria: LetterCriteria, sort: Sort | None = None) -> list[Branch]:
        """The ways in which letters match: all that match are in at least one. Empty when none can match.

        ``sort``: the order in which they are read; None: they are counted.
        """
        if not criteria.search:
            return [
                Branch(
                    where=queries.matching(criteria), sources=tuple(_sources(criteria, sort)), whole=_whole(criteria)
                )
            ]
        others = replace(criteria, search="")
        found: list[Branch] = []
        ids = queries.id_range(criteria.search)
        if ids:
            source = Source(where=ids, index=UNIQUE, is_exact=others.is_empty)
            if self._count_keys(source, 1):
                more = tuple(_sources(others, sort, is_part=True))
                found.append(Branch(where={"$and": [ids, queries.matching(others)]}, sources=(source, *more)))
        for words in queries.word_lists(criteria.search):
            branch = self._of_words(words, others, sort)
            if branch:
                found.append(branch)
        return found

    def _condition(self, criteria: LetterCriteria) -> Document:
        """The filter for letters that match, with what an index has about the words now."""
        if not criteria.search:
            return queries.matching(criteria)
        either = [branch.where for branch in self._branches(criteria)]
        if len(either) == 1:
            return either[0]
        return {"$or": either} if either else {"_id": {"$in": []}}

    def _of_words(self, words: list[str], others: LetterCriteria, sort: Sort | None) -> Branch | None:
        """The letters with all words; None if there are none."""
        groups = self._groups_of(words, others.fingerprints)
        if groups is not None and not groups:
            return None
        filters = queries.matching(others)
        within: Document = {} if groups is None else {"fingerprint": {"$in": list(groups)}}
        where = {**filters, **within, "searchWords": {"$all": words} if len(words) > 1 else {"$eq": words[0]}}
        at = {name: condition for name, condition in filters.items() if name in _KEYS[WORDS]}
        only_words = at == filters
        is_exact = only_words and len(words) == 1
        # A lookup for each group would leave out no letter of a single word.
        by_word = at if is_exact else {**at, **within}
        return Branch(
            where=where,
            sources=(
                *(() if only_words else _sources(others, sort, is_part=True, within=within)),
                *(
                    Source(where={**by_word, "searchWords": {"$eq": word}}, index=WORDS, is_exact=is_exact)
                    for word in _telling(words)
                ),
            ),
            groups=groups,
            is_only_words=only_words,
        )

    def _groups_of(self, words: Sequence[str], among: Sequence[str]) -> tuple[Any, ...] | None:
        """Fingerprints of the groups with letters that have each of the words; None: not known.

        With the same fingerprint for words of different letters, so a group may have no letter with all of them.
        """
        known: tuple[Any, ...] | None = among or None  # type: ignore[assignment]
        waiting = _telling(words)
        while waiting:
            unknown = []
            for word in waiting:
                found = self._groups_of_word(word, known)
                if found is None:
                    unknown.append(word)
                    continue
                known = found
                if not known:
                    return ()
            if known is None or unknown == waiting:
                return known
            waiting = unknown
        return known

    def _groups_of_word(self, word: str, among: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        where: Document = {"searchWords": {"$eq": word}}
        if among is not None:
            where["fingerprint"] = {"$in": list(among)}
        pipeline: list[Document] = [
            {"$match": where},
            {"$group": {"_id": "$fingerprint"}},
            {"$limit": MAX_GROUPS + 1},
        ]
        try:
            rows = self._letters.aggregate(pipeline, hint=WORDS, batchSize=MAX_GROUPS + 1)
            found = tuple(row["_id"] for row in rows)
        except OperationFailure as error:
            if error.code != NO_SUCH_INDEX:
                raise
            return None
        is_known = len(found) <= MAX_GROUPS and all(one is None or isinstance(one, str) for one in found)
        return found if is_known else None

    def _ways(self, branches: Sequence[Branch], sort: Sort) -> list[Way]:
        """How to read the letters of the branches in order."""
        return [way for branch in branches for way in self._ways_of(branch, sort)]

    def _ways_of(self, branch: Branch, sort: Sort) -> Iterator[Way]:
        by_time = sort.keys[0].field == "lastFailedAt"
        if branch.is_only_words and branch.groups is not None and by_time:
            for begin in range(0, len(branch.groups), _MERGED):
                some = {"fingerprint": {"$in": list(branch.groups[begin : begin + _MERGED])}}
                yield Way(where={**branch.where, **some}, index=WORDS)
            return
        few = self._fewest(branch.sources)
        if few is not None:
            by_keys = all(key.field in _KEYS[few.index] for key in sort.keys)
            if by_keys:
                check = None if few.is_exact else branch.where
                yield Way(where=few.where, index=few.index, check=check, by_keys=True)
            else:
                # Both: an index is used from its first field on, which only the source's own condition may name.
                yield Way(where={"$and": [few.where, branch.where]}, index=few.index)
            return
        figures = next((source for source in branch.sources if source.index == FIGURES), None)
        otherwise = None
        if figures and all(key.field in _KEYS[FIGURES] for key in sort.keys):
            check = None if figures.is_exact else branch.where
            otherwise = Way(where=figures.where, index=FIGURES, check=check, by_keys=True)
        yield Way(where=queries.in_order(branch.where, sort), otherwise=otherwise)

    def _fewest(self, sources: Sequence[Source]) -> Source | None:
        """The source with the fewest keys, if these are few."""
        least, fewest = FEW, None
        for source in sources:
            count = self._count_keys(source, least + 1)
            if count <= least:
                least, fewest = count, source
            if count == 0:
                break
        return fewest

    def _count_keys(self, source: Source, limit: int | None = None) -> int:
        """The number of keys, counted up to ``limit`` and only once."""
        if source.counted:
            count, upto = source.counted
            if upto is None or count < upto or (limit is not None and limit <= upto):
                return count if limit is None else min(count, limit)

        def ask(index: str | None) -> int:
            hint: Document = {"hint": index} if index else {}
            if limit is None:
                return self._letters.count_documents(source.where, **hint)
            # Half the work of `count_documents`, which passes each key through a pipeline.
            command = {"count": self._letters.name, "query": source.where, "limit": limit, **hint}
            try:
                return int(self._letters.database.command(command)["n"])
            except NetworkTimeout:
                raise
            except AutoReconnect:
                # The driver repeats this one when the connection was lost, and not the other.
                return self._letters.count_documents(source.where, limit=limit, **hint)

        count = hinted(ask, source.index)
        source.counted = count, limit
        return count


def _whole(criteria: LetterCriteria) -> Source | None:
    """The index that has the letters of a single filter, or all letters; None for several filters."""
    index = None if queries.is_combined(criteria) else queries.index_of(criteria)
    return Source(where=queries.matching(criteria), index=index, is_exact=True) if index else None


def _telling(words: Sequence[str]) -> list[str]:
    """Some of the words, longest first: long words are rarer."""
    return sorted(words, key=len, reverse=True)[:_LOOKED_UP]


def _sources(
    criteria: LetterCriteria, sort: Sort | None, *, is_part: bool = False, within: Document | None = None
) -> Iterator[Source]:
    """Where the letters can be found that match all filters but the search.

    ``is_part``: other conditions are checked too. ``within``: a condition on the groups.
    """
    if not is_part and not queries.is_combined(criteria, sort):
        return
    has_lists = bool(criteria.tags or criteria.facets)
    without_lists = replace(criteria, tags=(), facets=())
    keys = queries.of_keys(without_lists)
    if keys is not None and queries.is_keyed(without_lists):
        yield Source(where={**keys, **(within or {})}, index=FIGURES, is_exact=not is_part and not has_lists)
    filters = queries.matching(criteria)
    at = {name: condition for name, condition in filters.items() if name == "lastFailedAt"}
    if criteria.tags and (is_part or keys is not None):
        yield Source(where={"metadata.tags": filters["metadata.tags"], **at}, index=TAGS)
    if is_part or keys is not None:
        for values in queries.of_each_facet(criteria.facets):
            yield Source(where={"facets": {"$in": values}, **at}, index=FACETS)
