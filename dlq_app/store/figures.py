"""Figures about all letters, counted from index keys, and their stored snapshot."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from dlq_app.domain.group_states import HOURS, MINUTES, GroupFigures
from dlq_app.domain.states import OPEN, Status
from dlq_app.store.hinted import hinted
from dlq_app.store.indexes import CREATED, FIGURES, REPLAYED, RESOLVED
from dlq_app.store.mongo import LETTERS, Document, database, patiently, translated
from dlq_app.store.repository import Letters

SNAPSHOTS = "dlq_figures"
#: Maximum number of groups in a snapshot: those with the most open letters.
MAX_GROUPS = 2000
#: Maximum number of values of a field with their own count.
MAX_VALUES = 50
#: Maximum number of message types of a group.
MAX_TYPES = 5
#: Maximum number of combinations read, largest first. Only texts made up for each letter exceed it. The totals are then
#: counted separately, and only the smallest counts are missing.
MAX_ROWS = 50_000
_ID = "all"
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All figures at one point in time."""

    as_of: datetime
    #: Milliseconds that counting took.
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
    #: Number of groups; if ``is_capped``, a lower bound.
    group_count: int
    is_capped: bool

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
    """Counts letters, and stores the figures."""

    def __init__(self, letters: Letters, collection: Collection[Document], snapshots: Collection[Document]) -> None:
        self._reading = letters
        self._letters = collection
        # Lost figures are counted again, so a write need not wait for the journal.
        self._snapshots = snapshots.with_options(write_concern=WriteConcern(w=1))

    def count(self, limit_s: float) -> Snapshot:
        """All figures of now. Takes time for every letter; raises ``QueryTooSlow`` after ``limit_s`` seconds."""
        begun = time.perf_counter()
        with patiently(limit_s):
            now = self._reading.server_now()
            rows = self._combinations()
            counted = _reduced(rows)
            is_capped = len(rows) == MAX_ROWS
            if is_capped:
                counted["by_status"] = self._by_status()
            hours_from = now.replace(minute=0, second=0, microsecond=0) - _HOUR * (HOURS - 1)
            kept = sorted(counted["tallies"].items(), key=lambda item: (-item[1].open, -item[1].count, item[0]))
            groups, inflow, succeeded, failed = self._groups(dict(kept[:MAX_GROUPS]), now, hours_from)
            outflow = self._outflow(hours_from)
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
        )

    def estimated(self) -> int:
        """The number of letters that the store knows without counting. May be wrong after a crash of the server."""
        with translated():
            return self._letters.estimated_document_count()

    def group(self, fingerprint: str) -> tuple[GroupFigures, datetime, datetime] | None:
        """The figures of one group, the beginning of their hours, and the time; None when it has no letters."""
        with translated():
            now = self._reading.server_now()
            hours_from = now.replace(minute=0, second=0, microsecond=0) - _HOUR * (HOURS - 1)
            tallies = _reduced(self._combinations(fingerprint))["tallies"]
            groups, *_ = self._groups(tallies, now, hours_from, fingerprint)
        return (groups[0], hours_from, now) if groups else None

    def _groups(
        self, tallies: Mapping[str, _Tally], now: datetime, hours_from: datetime, fingerprint: str | None = None
    ) -> tuple[list[GroupFigures], list[int], Counter[str], Counter[str]]:
        """The groups, and of all letters: arrivals by the hour, successful and failed replays by fingerprint.

        ``fingerprint``: only letters of this group.
        """
        names = set(tallies)
        last = self._last_seen(names)
        minutes = self._minutes(now, names, fingerprint)
        inflow, trends = self._inflow(hours_from, names, fingerprint)
        replayed = self._replayed(names)
        succeeded, failed = self._replays(hours_from, fingerprint)
        groups = [
            GroupFigures(
                fingerprint=name,
                error_type=tally.error_type,
                count=tally.count,
                open=tally.open,
                first_seen=tally.first_seen or last[name],
                last_seen=last[name],
                types=tally.types.most_common(MAX_TYPES),
                trend=trends.get(name, [0] * HOURS),
                minutes=minutes.get(name, ()),
                replayed_at=replayed.get(name, (None, ""))[0],
                replay_outcome=replayed.get(name, (None, ""))[1],
                replays_succeeded=succeeded[name],
                replays_failed=failed[name],
            )
            # A group without a last failure lost its last letter in between.
            for name, tally in tallies.items()
            if name in last
        ]
        return groups, inflow, succeeded, failed

    def deaths_since(self, fingerprint: str, since: datetime, limit: int) -> int:
        """How many letters of the group failed after ``since``, counted up to ``limit``."""
        where = {"fingerprint": fingerprint, "lastFailedAt": {"$gt": since}}
        with translated():
            return self._letters.count_documents(where, limit=limit)

    # --- the stored snapshot ---

    def latest(self, known: Snapshot | None = None) -> tuple[Snapshot | None, float]:
        """The stored snapshot (``known`` if it is the same), and its age in seconds by the server's clock."""
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
        """Store the snapshot, unless there is a newer one."""
        document = {**asdict(snapshot), "_id": _ID, "asOf": snapshot.as_of}
        # Beside the groups: the last version can read them only as it wrote them.
        document["minutes"] = [
            (group["fingerprint"], minutes) for group in document["groups"] if (minutes := group.pop("minutes"))
        ]
        with translated():
            try:
                self._snapshots.replace_one({"_id": _ID, "asOf": {"$lt": snapshot.as_of}}, document, upsert=True)
            except DuplicateKeyError:
                return  # there is a newer one

    # --- counting ---

    def _combinations(self, fingerprint: str | None = None) -> list[Document]:
        """The number and the oldest of the letters for each combination of fields, largest first.

        One index has all these fields: the server reads its keys and no letter.
        """
        where: Document = {"status": {"$gte": ""}}
        if fingerprint is not None:
            where["fingerprint"] = fingerprint
        combination = {
            "s": "$status",
            "e": "$errorType",
            "t": "$type",
            "o": "$metadata.source",
            "f": "$fingerprint",
        }
        pipeline: list[Document] = [
            {"$match": where},
            {"$group": {"_id": combination, "n": {"$sum": 1}, "c": {"$min": "$createdAt"}}},
            {"$sort": {"n": -1}},
            {"$limit": MAX_ROWS},
        ]
        return self._rows(pipeline, FIGURES)

    def _by_status(self) -> dict[str, int]:
        return {status.value: self._letters.count_documents({"status": status.value}) for status in Status}

    def _last_seen(self, names: Iterable[str]) -> dict[str, datetime]:
        """The last failure of each group: one index lookup each, however many letters the group has."""
        pipeline: list[Document] = [
            {"$match": {"fingerprint": {"$in": sorted(names)}}},
            {"$sort": {"fingerprint": 1, "lastFailedAt": -1, "_id": -1}},
            {"$group": {"_id": "$fingerprint", "at": {"$first": "$lastFailedAt"}}},
        ]
        return {row["_id"]: row["at"] for row in self._rows(pipeline) if isinstance(row["at"], datetime)}

    def _inflow(
        self, hours_from: datetime, names: set[str], fingerprint: str | None
    ) -> tuple[list[int], dict[str, list[int]]]:
        hour = {"$dateTrunc": {"date": "$createdAt", "unit": "hour"}}
        pipeline: list[Document] = [
            {"$match": {"createdAt": _within(hours_from), **({"fingerprint": fingerprint} if fingerprint else {})}},
            {"$group": {"_id": {"f": "$fingerprint", "h": hour}, "n": {"$sum": 1}}},
            {"$sort": {"n": -1}},
            {"$limit": MAX_ROWS},
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

    def _minutes(self, now: datetime, names: set[str], fingerprint: str | None) -> dict[str, list[int]]:
        """Arrivals by the minute of the last hour, of groups that have any."""
        begin = now.replace(second=0, microsecond=0) - _MINUTE * (MINUTES - 1)
        within = {"$gte": begin, "$lt": begin + _MINUTE * MINUTES}
        minute = {"$dateTrunc": {"date": "$createdAt", "unit": "minute"}}
        pipeline: list[Document] = [
            {"$match": {"createdAt": within, **({"fingerprint": fingerprint} if fingerprint else {})}},
            {"$group": {"_id": {"f": "$fingerprint", "m": minute}, "n": {"$sum": 1}}},
            {"$sort": {"n": -1}},
            {"$limit": MAX_ROWS},
        ]
        found: dict[str, list[int]] = {}
        for row in self._rows(pipeline, CREATED):
            at, name = row["_id"].get("m"), row["_id"].get("f")
            if isinstance(at, datetime) and name in names:
                found.setdefault(name, [0] * MINUTES)[(at.astimezone(UTC) - begin) // _MINUTE] += row["n"]
        return found

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
        """The last replay of each group: one index lookup each.

        Selected by a lower bound: for ``$exists`` the server would read every letter that was replayed. And field by
        field: no index has ``lastReplay`` as a whole.
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
        """For each group: the number of letters whose last replay ended since then and succeeded, or failed."""
        where: Document = {"fingerprint": {"$gte": ""} if fingerprint is None else fingerprint}
        pipeline: list[Document] = [
            {"$match": {**where, "lastReplay.at": {"$gte": since}}},
            {"$group": {"_id": {"f": "$fingerprint", "o": "$lastReplay.outcome"}, "n": {"$sum": 1}}},
            {"$limit": MAX_ROWS},
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
    """Sums of the combinations by each of their fields. A value that is not text counts as ``""``."""
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
    """The clock hours. With an upper bound: the server cannot truncate the largest dates of BSON."""
    return {"$gte": hours_from, "$lt": hours_from + _HOUR * HOURS}


def _hour(at: object, hours_from: datetime) -> int | None:
    """The index of an hour; None if it is not a date, or in the future because of a fast clock."""
    if not isinstance(at, datetime):
        return None
    place = (at.astimezone(UTC) - hours_from) // _HOUR
    return place if 0 <= place < HOURS else None


def _snapshot(document: Document) -> Snapshot | None:
    """The snapshot in a document; None if another version of this program stored it in another form."""
    try:
        found = {field.name: document[field.name] for field in fields(Snapshot)}
        for name in ("error_types", "types", "sources"):
            found[name] = _pairs(found[name])
        minutes = dict(document.get("minutes") or ())
        found["groups"] = [
            GroupFigures(**group | {"types": _pairs(group["types"]), "minutes": minutes.get(group["fingerprint"], ())})
            for group in found["groups"]
        ]
        return Snapshot(**found)
    except (KeyError, TypeError, ValueError):
        return None


def _pairs(value: Any) -> list[tuple[str, int]]:
    return [(name, count) for name, count in value]
