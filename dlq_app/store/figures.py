"""Figures about all letters, counted from keys of indexes, and the snapshot of them that is kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from dlq_app.domain.states import OPEN, Status
from dlq_app.store.hinted import hinted
from dlq_app.store.indexes import CREATED, FIGURES, REPLAYED, RESOLVED
from dlq_app.store.mongo import LETTERS, Document, database, patiently, translated
from dlq_app.store.repository import Letters

SNAPSHOTS = "dlq_figures"
#: Clock hours that are told apart, the present one included.
HOURS = 24
#: Groups that a snapshot tells of: those with the most open letters.
MAX_GROUPS = 2000
#: Values of a field that are counted each for itself.
MAX_VALUES = 50
#: Types of message that are named with a group.
_TYPES = 5
#: Different combinations that are taken into account, largest first. More than these come only from texts that somebody
#: makes up for every letter; then the sums come from counting, and only the small change of the rest is missing.
_ROWS = 50_000
_ID = "all"
_HOUR = timedelta(hours=1)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """What is counted of one group."""

    fingerprint: str
    error_type: str
    count: int
    open: int
    #: When its oldest letter that is kept was written.
    first_seen: datetime
    #: Its last failure.
    last_seen: datetime
    #: Message types with their counts, most first.
    types: Sequence[tuple[str, int]] = ()
    #: Letters written in each of the last clock hours, oldest first.
    trend: Sequence[int] = (0,) * HOURS
    replayed_at: datetime | None = None
    #: ``succeeded``, ``failed_same``, ``failed_new``; empty without a replay.
    replay_outcome: str = ""
    #: Letters whose last replay ended in the last clock hours.
    replays_succeeded: int = 0
    replays_failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All figures of one moment."""

    as_of: datetime
    #: Milliseconds it took.
    cost_ms: float
    total: int
    by_status: Mapping[str, int]
    error_types: Sequence[tuple[str, int]]
    types: Sequence[tuple[str, int]]
    sources: Sequence[tuple[str, int]]
    oldest_open_at: datetime | None
    #: Beginning of the first of the clock hours.
    hours_from: datetime
    inflow: Sequence[int]
    outflow: Sequence[int]
    replays_succeeded: int
    replays_failed: int
    groups: Sequence[GroupFigures]
    #: How many groups there are; at least so many when ``is_capped``.
    group_count: int
    is_capped: bool
    #: What the store said of the number of letters, without counting, when counting began.
    estimated: int = 0

    @property
    def open(self) -> int:
        return sum(self.by_status.get(status.value, 0) for status in OPEN)


@dataclass
class _Tally:
    count: int = 0
    open: int = 0
    first_seen: datetime | None = None
    error_type: str = ""
    types: Counter[str] = field(default_factory=Counter)


class Figures:
    """Counts letters, and keeps what was counted."""

    def __init__(self, letters: Letters, collection: Collection[Document], snapshots: Collection[Document]) -> None:
        self._reading = letters
        self._letters = collection
        # Figures can be counted again, so nobody waits for the journal to have them.
        self._snapshots = snapshots.with_options(write_concern=WriteConcern(w=1))

    def count(self, bound_s: float) -> Snapshot:
        """All figures of now. Takes time for every letter; ``QueryTooSlow`` when it is more than ``bound_s``."""
        begun = time.perf_counter()
        with patiently(bound_s):
            estimated = self._letters.estimated_document_count()
            now = self._reading.server_now()
            rows = self._combinations()
            counted = _reduced(rows)
            is_capped = len(rows) == _ROWS
            if is_capped:
                counted["by_status"] = self._by_status()
            hours_from = now.replace(minute=0, second=0, microsecond=0) - _HOUR * (HOURS - 1)
            kept = sorted(counted["tallies"].items(), key=lambda item: (-item[1].open, -item[1].count, item[0]))
            kept = kept[:MAX_GROUPS]
            names = {fingerprint for fingerprint, _ in kept}
            last = self._last_seen(names)
            inflow, trends = self._inflow(hours_from, names)
            outflow = self._outflow(hours_from)
            replayed = self._replayed(names)
            succeeded, failed = self._replays(hours_from)
        groups = [
            GroupFigures(
                fingerprint=name,
                error_type=tally.error_type,
                count=tally.count,
                open=tally.open,
                first_seen=tally.first_seen or last[name],
                last_seen=last[name],
                types=tally.types.most_common(_TYPES),
                trend=trends.get(name, [0] * HOURS),
                replayed_at=replayed.get(name, (None, ""))[0],
                replay_outcome=replayed.get(name, (None, ""))[1],
                replays_succeeded=succeeded[name],
                replays_failed=failed[name],
            )
            # A group without a last failure lost its last letter in between.
            for name, tally in kept
            if name in last
        ]
        return Snapshot(
            as_of=now,
            cost_ms=(time.perf_counter() - begun) * 1000,
            total=sum(counted["by_status"].values()),
            by_status=counted["by_status"],
            error_types=_largest(counted["error_types"]),
            types=_largest(counted["types"]),
            sources=_largest(counted["sources"]),
            oldest_open_at=counted["oldest"],
            hours_from=hours_from,
            inflow=inflow,
            outflow=outflow,
            replays_succeeded=succeeded.total(),
            replays_failed=failed.total(),
            groups=groups,
            group_count=len(counted["tallies"]),
            is_capped=is_capped or len(counted["tallies"]) > MAX_GROUPS,
            estimated=estimated,
        )

    def estimated(self) -> int:
        """How many letters the store believes it has: no letter is looked at, and after a crash it may be wrong."""
        with translated():
            return self._letters.estimated_document_count()

    def group(self, fingerprint: str) -> tuple[GroupFigures, datetime, datetime] | None:
        """The figures of one group, the beginning of their hours, and the time; None when it has no letters."""
        with translated():
            now = self._reading.server_now()
            tally = _reduced(self._combinations(fingerprint))["tallies"].get(fingerprint)
            last = self._last_seen({fingerprint})
            if tally is None or fingerprint not in last:
                return None
            hours_from = now.replace(minute=0, second=0, microsecond=0) - _HOUR * (HOURS - 1)
            _, trends = self._inflow(hours_from, {fingerprint}, {"fingerprint": fingerprint})
            at, outcome = self._replayed({fingerprint}).get(fingerprint, (None, ""))
            succeeded, failed = self._replays(hours_from, fingerprint)
        found = GroupFigures(
            fingerprint=fingerprint,
            error_type=tally.error_type,
            count=tally.count,
            open=tally.open,
            first_seen=tally.first_seen or last[fingerprint],
            last_seen=last[fingerprint],
            types=tally.types.most_common(_TYPES),
            trend=trends.get(fingerprint, [0] * HOURS),
            replayed_at=at,
            replay_outcome=outcome,
            replays_succeeded=succeeded[fingerprint],
            replays_failed=failed[fingerprint],
        )
        return found, hours_from, now

    def deaths_since(self, fingerprint: str, since: datetime, limit: int) -> int:
        """How many letters of the group failed after ``since``, counted up to ``limit``."""
        where = {"fingerprint": fingerprint, "lastFailedAt": {"$gt": since}}
        with translated():
            return self._letters.count_documents(where, limit=limit)

    # --- what is kept ---

    def latest(self, known: Snapshot | None = None) -> tuple[Snapshot | None, float]:
        """The kept snapshot (``known`` itself if it is that one), and its age in seconds by the server's clock."""
        age = {"age": {"$subtract": ["$$NOW", "$asOf"]}, "asOf": 1}
        with translated():
            found = next(iter(self._snapshots.aggregate([{"$match": {"_id": _ID}}, {"$project": age}])), None)
            if found is None:
                return None, 0.0
            if known is None or known.as_of != found["asOf"]:
                document = self._snapshots.find_one({"_id": _ID})
                known = _snapshot(document) if document else None
        return known, found["age"] / 1000

    def keep(self, snapshot: Snapshot) -> None:
        """Keep the snapshot, unless a newer one is there."""
        document = {**asdict(snapshot), "_id": _ID, "asOf": snapshot.as_of}
        with translated():
            try:
                self._snapshots.replace_one({"_id": _ID, "asOf": {"$lt": snapshot.as_of}}, document, upsert=True)
            except DuplicateKeyError:
                return  # there is one already, as new or newer

    # --- counting ---

    def _combinations(self, fingerprint: str | None = None) -> list[Document]:
        """How many letters there are of each combination of what is told apart, largest first, and their oldest.

        Every field stands in one index, so that the server reads its keys and no letter.
        """
        where: Document = {"status": {"$gte": ""}}
        if fingerprint is not None:
            where["fingerprint"] = fingerprint
        told_apart = {
            "s": "$status",
            "e": "$errorType",
            "t": "$type",
            "o": "$metadata.source",
            "f": "$fingerprint",
        }
        pipeline: list[Document] = [
            {"$match": where},
            {"$group": {"_id": told_apart, "n": {"$sum": 1}, "c": {"$min": "$createdAt"}}},
            {"$sort": {"n": -1}},
            {"$limit": _ROWS},
        ]
        return self._rows(pipeline, FIGURES)

    def _by_status(self) -> dict[str, int]:
        return {status.value: self._letters.count_documents({"status": status.value}) for status in Status}

    def _last_seen(self, names: Iterable[str]) -> dict[str, datetime]:
        """The last failure of each group: one step into the index for each, however many letters it has."""
        pipeline: list[Document] = [
            {"$match": {"fingerprint": {"$in": sorted(names)}}},
            {"$sort": {"fingerprint": 1, "lastFailedAt": -1, "_id": -1}},
            {"$group": {"_id": "$fingerprint", "at": {"$first": "$lastFailedAt"}}},
        ]
        return {row["_id"]: row["at"] for row in self._rows(pipeline) if isinstance(row["at"], datetime)}

    def _inflow(
        self, hours_from: datetime, names: set[str], where: Document | None = None
    ) -> tuple[list[int], dict[str, list[int]]]:
        hour = {"$dateTrunc": {"date": "$createdAt", "unit": "hour"}}
        pipeline: list[Document] = [
            {"$match": {"createdAt": _within(hours_from), **(where or {})}},
            {"$group": {"_id": {"f": "$fingerprint", "h": hour}, "n": {"$sum": 1}}},
            {"$sort": {"n": -1}},
            {"$limit": _ROWS},
        ]
        total = [0] * HOURS
        trends: dict[str, list[int]] = {}
        for row in self._rows(pipeline, CREATED):
            place, name = _hour(row["_id"].get("h"), hours_from), row["_id"].get("f")
            if place is None:
                continue
            total[place] += row["n"]
            if name in names:
                trends.setdefault(name, [0] * HOURS)[place] += row["n"]
        return total, trends

    def _outflow(self, hours_from: datetime) -> list[int]:
        pipeline: list[Document] = [
            {"$match": {"status": Status.RESOLVED.value, "resolvedAt": _within(hours_from)}},
            {"$group": {"_id": {"$dateTrunc": {"date": "$resolvedAt", "unit": "hour"}}, "n": {"$sum": 1}}},
        ]
        total = [0] * HOURS
        for row in self._rows(pipeline, RESOLVED):
            place = _hour(row["_id"], hours_from)
            if place is not None:
                total[place] += row["n"]
        return total

    def _replayed(self, names: Iterable[str]) -> dict[str, tuple[datetime, str]]:
        """The last replay of each group: one step into the index for each.

        Asked for by a bound and not by ``$exists``, for which the server would read every letter that was replayed;
        and field by field, since ``lastReplay`` as a whole stands in no index.
        """
        pipeline: list[Document] = [
            {"$match": {"fingerprint": {"$in": sorted(names)}, "lastReplay.at": {"$gte": _EVER}}},
            {"$sort": {"fingerprint": 1, "lastReplay.at": -1, "lastReplay.outcome": 1}},
            {
                "$group": {
                    "_id": "$fingerprint",
                    "at": {"$first": "$lastReplay.at"},
                    "outcome": {"$first": "$lastReplay.outcome"},
                }
            },
        ]
        return {
            row["_id"]: (row["at"], str(row.get("outcome") or ""))
            for row in self._rows(pipeline, REPLAYED)
            if isinstance(row["at"], datetime)
        }

    def _replays(self, since: datetime, fingerprint: str | None = None) -> tuple[Counter[str], Counter[str]]:
        """Of each group: letters whose last replay ended since then and succeeded, and those whose failed."""
        where: Document = {"fingerprint": {"$gte": ""} if fingerprint is None else fingerprint}
        pipeline: list[Document] = [
            {"$match": {**where, "lastReplay.at": {"$gte": since}}},
            {"$group": {"_id": {"f": "$fingerprint", "o": "$lastReplay.outcome"}, "n": {"$sum": 1}}},
            {"$limit": _ROWS},
        ]
        succeeded: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for row in self._rows(pipeline, REPLAYED):
            counter = succeeded if row["_id"].get("o") == "succeeded" else failed
            counter[str(row["_id"].get("f"))] += row["n"]
        return succeeded, failed

    def _rows(self, pipeline: Sequence[Document], index: str | None = None) -> list[Document]:
        def ask(hint: str | None) -> list[Document]:
            options: dict[str, Any] = {"hint": hint} if hint else {}
            return list(self._letters.aggregate(list(pipeline), allowDiskUse=True, **options))

        return hinted(ask, index) if index else ask(None)


def figures() -> Figures:
    """The figures of the configured database."""
    letters = database()[LETTERS]
    return Figures(Letters(letters), letters, database()[SNAPSHOTS])


def _reduced(rows: Iterable[Document]) -> dict[str, Any]:
    """Sums of the combinations by each of their parts. What is no text, as in a document written by hand, is ``""``."""
    open_ = {status.value for status in OPEN}
    by_status = dict.fromkeys((status.value for status in Status), 0)
    sums: dict[str, Counter[str]] = {"e": Counter(), "t": Counter(), "o": Counter()}
    tallies: dict[str, _Tally] = {}
    oldest: datetime | None = None
    for row in rows:
        key = {name: value if isinstance(value, str) else "" for name, value in row["_id"].items()}
        n, status, created = row["n"], key.get("s", ""), row["c"] if isinstance(row["c"], datetime) else None
        if status not in by_status:
            status = "unknown"
        by_status[status] = by_status.get(status, 0) + n
        for part, counter in sums.items():
            if key.get(part):
                counter[key[part]] += n
        if created and status in open_ and (oldest is None or created < oldest):
            oldest = created
        if not key.get("f"):
            continue
        tally = tallies.setdefault(key["f"], _Tally())
        tally.count += n
        tally.open += n if status in open_ else 0
        tally.error_type = tally.error_type or key.get("e", "")
        tally.types[key.get("t", "")] += n
        if created and (tally.first_seen is None or created < tally.first_seen):
            tally.first_seen = created
    return {
        "by_status": by_status,
        "error_types": sums["e"],
        "types": sums["t"],
        "sources": sums["o"],
        "tallies": tallies,
        "oldest": oldest,
    }


def _largest(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_VALUES]


def _within(hours_from: datetime) -> Document:
    """The clock hours. Bounded above, too: the server cannot truncate dates at the end of what BSON holds."""
    return {"$gte": hours_from, "$lt": hours_from + _HOUR * HOURS}


def _hour(at: object, hours_from: datetime) -> int | None:
    """The place of an hour; None for what is no instant, and for what a clock that runs ahead put into the future."""
    if not isinstance(at, datetime):
        return None
    place = (at.astimezone(UTC) - hours_from) // _HOUR
    return place if 0 <= place < HOURS else None


def _snapshot(document: Document) -> Snapshot | None:
    """The snapshot in a document; None when another version of this program wrote it in another form."""
    found = {name: value for name, value in document.items() if name not in ("_id", "asOf")}
    try:
        for name in ("error_types", "types", "sources"):
            found[name] = _pairs(found[name])
        found["groups"] = [GroupFigures(**group | {"types": _pairs(group["types"])}) for group in found["groups"]]
        return Snapshot(**found)
    except (KeyError, TypeError, ValueError):
        return None


def _pairs(value: Any) -> list[tuple[str, int]]:
    return [(name, count) for name, count in value]
