"""The indexes of the dead letters and of replay batches: each with its name and the question that it serves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from dlq_app.domain.errors import IndexesMissing, LettersTwice
from dlq_app.domain.states import Status
from dlq_app.store.mongo import BATCHES, ITEMS, LETTERS, Document, patiently, translated

TTL = "resolved_ttl"
#: Keeps one letter per message.
UNIQUE = "message_id"
#: Messages with two letters that are named, and letters of each.
_NAMED = 5
#: Seconds that building all of them may take.
BUILD_S = 1800.0
NEWEST = "last_failed"
CREATED = "created_fingerprint"
FIGURES = "figures"
RESOLVED = "resolved"
REPLAYED = "group_replayed"
WORDS = "word_group_last_failed"
TAGS = "tag_last_failed"
FACETS = "facet_last_failed"
#: Indexes of earlier versions, whose questions others answer now.
RETIRED = ("created", "status_created", "word_last_failed", "locked")


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    keys: tuple[tuple[str, int], ...]
    #: The question it answers without sorting or scanning.
    serves: str
    options: dict[str, Any] = field(default_factory=dict)


def _by(name: str, path: str, serves: str) -> Index:
    return Index(name, ((path, 1), ("lastFailedAt", -1), ("_id", -1)), serves)


#: Compound ones end in _id, so that pages have a total order without a sort.
INDEXES = (
    Index(UNIQUE, (("messageId", 1),), "one letter per message; find and sort by message id", {"unique": True}),
    Index(NEWEST, (("lastFailedAt", -1), ("_id", -1)), "the list as it opens; from and to"),
    Index(
        CREATED,
        (("createdAt", -1), ("_id", -1), ("fingerprint", 1)),
        "sort by creation; letters an hour, by group",
    ),
    # Few values first: bounds on any of the fields are then a few thousand skips, and nothing but keys is read.
    Index(
        FIGURES,
        (
            ("status", 1),
            ("metadata.priority", 1),
            ("errorKind", 1),
            ("errorType", 1),
            ("type", 1),
            ("metadata.source", 1),
            ("fingerprint", 1),
            ("lastFailedAt", -1),
            ("_id", -1),
            ("createdAt", 1),
        ),
        "all figures; counts and pages of filters that no other index answers alone",
    ),
    _by("status_last_failed", "status", "filter and sort by status; claimed letters"),
    _by("error_type_last_failed", "errorType", "filter and sort by error type"),
    _by("type_last_failed", "type", "filter and sort by type"),
    _by("source_last_failed", "metadata.source", "filter by source"),
    _by("fingerprint_last_failed", "fingerprint", "the letters of a group, and its last failure"),
    _by(TAGS, "metadata.tags", "filter by tag"),
    Index(
        FACETS,
        (("facets", 1), ("lastFailedAt", -1), ("_id", -1)),
        "filter by a value inside the payload",
        # Letters without facets cost nothing.
        {"partialFilterExpression": {"facets": {"$gt": ""}}},
    ),
    # The letters of a group have nearly the same words, so the groups of a word show what reading its letters would.
    Index(
        WORDS,
        (("searchWords", 1), ("fingerprint", 1), ("lastFailedAt", -1), ("_id", -1)),
        "search for words of the error: their groups, and the letters of both",
    ),
    Index(
        "due",
        (("nextRetryAt", 1), ("_id", 1)),
        "automatic replays that are due",
        {"partialFilterExpression": {"status": Status.PENDING.value}},
    ),
    Index(
        RESOLVED,
        (("status", 1), ("resolvedAt", -1)),
        "letters resolved an hour",
        {"partialFilterExpression": {"status": Status.RESOLVED.value}},
    ),
    Index(
        REPLAYED,
        (("fingerprint", 1), ("lastReplay.at", -1), ("lastReplay.outcome", 1)),
        "the last replay of each group; how many replays succeed",
        {"partialFilterExpression": {"lastReplay.at": {"$exists": True}}},
    ),
)


#: Those of the other collections.
BATCH_INDEXES = {
    BATCHES: (
        Index(
            "active",
            (("createdAt", 1),),
            "batches that executors have something to do for",
            {"partialFilterExpression": {"active": True}},
        ),
        Index("stage_created", (("stage", 1), ("createdAt", -1), ("_id", -1)), "the list, newest first"),
        Index("finished", (("finishedAt", 1),), "batches that ended long ago"),
    ),
    ITEMS: (
        Index("batch_seq", (("batchId", 1), ("seq", 1)), "a stretch of a plan; its counts", {"unique": True}),
        Index(
            "batch_outcome_seq",
            (("batchId", 1), ("outcome", 1), ("seq", 1)),
            "letters without an outcome, or of one outcome, in order",
        ),
    ),
}


def ttl(keep_days: int) -> Index:
    """Deletes resolved letters ``keep_days`` (at least one) after they were resolved.

    Never sooner than an hour: a write that was under way when the letter went would bring it back with an old fence.
    """
    return Index(
        TTL,
        (("resolvedAt", 1),),
        "delete letters resolved long ago",
        {
            "expireAfterSeconds": keep_days * 86_400,
            "partialFilterExpression": {"status": Status.RESOLVED.value},
        },
    )


def ensure(database: Database[Document], *, keep_resolved_days: int) -> None:
    """Create what is missing and bring the retention up to date. Safe to run again and at the same time as others.

    Indexes that only earlier versions need stay until a run that finds all others: processes of the last version, which
    still run during an update, use them and wait for them at their start.

    Raises ``LettersTwice`` when messages have more than one letter, and ``StoreUnavailable``.
    """
    letters = database[LETTERS]
    was_complete = not missing(database)
    # Beside a million letters this takes minutes, longer than any question may take.
    with patiently(BUILD_S):
        try:
            _create(letters, [index for index in INDEXES if index.name == UNIQUE])
        except DuplicateKeyError as error:
            raise _twice(letters) from error
        # All others at once: the server then reads the letters once.
        _create(letters, INDEXES)
        for collection, wanted in BATCH_INDEXES.items():
            _create(database[collection], wanted)
        if was_complete:
            for name in retired(database):
                letters.drop_index(name)
        _ensure_ttl(database, letters, keep_resolved_days)


def _create(collection: Collection[Document], wanted: Iterable[Index]) -> None:
    """Create those of the indexes that are missing."""
    collection.create_indexes([IndexModel(list(index.keys), name=index.name, **index.options) for index in wanted])


def _twice(letters: Collection[Document]) -> LettersTwice:
    """Names the messages, and of each the ``_id`` of the letters that are not its oldest."""
    groups = letters.aggregate(
        [
            {"$sort": {"_id": 1}},
            {"$group": {"_id": "$messageId", "ids": {"$push": "$_id"}}},
            {"$match": {"ids.1": {"$exists": True}}},
            {"$facet": {"all": [{"$count": "n"}], "some": [{"$sort": {"_id": 1}}, {"$limit": _NAMED}]}},
        ],
        allowDiskUse=True,
    )
    (found,) = groups
    number = found["all"][0]["n"] if found["all"] else 0
    named = "; ".join(
        f"{str(group['_id'])[:100]!r}: {', '.join(str(one) for one in group['ids'][1:][:_NAMED])}"
        for group in found["some"]
    )
    return LettersTwice(
        f"{number:,} message{' has' if number == 1 else 's have'} more than one letter, so the unique index {UNIQUE} "
        f"cannot be built. Delete in MongoDB's collection {LETTERS} all letters but one of each message, by _id. "
        f"Later ones are ({'the first ' if number > _NAMED else ''}{min(number, _NAMED)} of {number:,}): {named}."
    )


def missing(database: Database[Document]) -> list[str]:
    """Names of indexes that are absent or differ from what this module says."""
    absent: list[str] = []
    for collection, wanted in {LETTERS: INDEXES, **BATCH_INDEXES}.items():
        with translated():
            present = database[collection].index_information()
        absent += [index.name for index in wanted if not _same(index, present.get(index.name))]
    return absent


def retired(database: Database[Document]) -> list[str]:
    """Names of indexes that only earlier versions need. Each makes writing letters slower."""
    with translated():
        return sorted(database[LETTERS].index_information().keys() & set(RETIRED))


def require(database: Database[Document]) -> None:
    """Raise ``IndexesMissing`` with the fix unless every index is there."""
    names = missing(database)
    if names:
        raise IndexesMissing(f"MongoDB is missing the indexes {', '.join(names)}; run `manage.py prepare`.")


def _same(index: Index, found: Any) -> bool:
    if found is None:
        return False
    keys = tuple((name, int(direction)) for name, direction in found["key"])
    return keys == index.keys and all(found.get(name) == value for name, value in index.options.items())


def _ensure_ttl(database: Database[Document], letters: Collection[Document], keep_days: int) -> None:
    present = letters.index_information().get(TTL)
    if keep_days == 0:
        if present is not None:
            letters.drop_index(TTL)
        return
    index = ttl(keep_days)
    if present is None:
        letters.create_index(list(index.keys), name=TTL, **index.options)
    elif present.get("expireAfterSeconds") != index.options["expireAfterSeconds"]:
        database.command(
            "collMod", LETTERS, index={"name": TTL, "expireAfterSeconds": index.options["expireAfterSeconds"]}
        )
