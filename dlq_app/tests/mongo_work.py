"""What MongoDB does for a question, counted by its profiler: commands, keys and documents, instead of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pymongo
from pymongo.database import Database


@dataclass
class Work:
    """The operations of one database, in order; filled when the block ends."""

    operations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def commands(self) -> int:
        return len(self.operations)

    @property
    def keys(self) -> int:
        return sum(one.get("keysExamined", 0) for one in self.operations)

    @property
    def documents(self) -> int:
        """Documents read from collections, those that did not match included."""
        return sum(one.get("docsExamined", 0) for one in self.operations)

    def by_collection(self) -> dict[str, int]:
        """Commands by the name of their collection."""
        found: dict[str, int] = {}
        for one in self.operations:
            name = one["ns"].split(".", 1)[1]
            found[name] = found.get(name, 0) + 1
        return found


@contextmanager
def counted(store: Database[dict[str, Any]], url: str) -> Iterator[Work]:
    """Count what MongoDB does for the database in the block. ``url``: of its server, for a second client."""
    work = Work()
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        database = client[store.name]
        database.command("profile", 2)
        try:
            yield work
        finally:
            database.command("profile", 0)
            rows = database["system.profile"].find({"ns": {"$ne": f"{store.name}.system.profile"}}).sort("ts", 1)
            work.operations += [row for row in rows if row["command"].get("profile") is None]
            # The next test empties every collection, and this one cannot be emptied.
            database.drop_collection("system.profile")
