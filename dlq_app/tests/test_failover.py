"""The primary of a replica set of three is killed while letters are written: none is lost, none is written twice."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from chaos import stores
from chaos.proxy import HOST
from chaos.stores import Store
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.services import dead_letters
from dlq_app.store import indexes
from dlq_app.store.mongo import database
from dlq_app.testing import a_death
from dlqsite.tests.patience import eventually

pytestmark = pytest.mark.mongo

LETTERS, AT_ONCE = 200, 10
#: An election after a second; by default after ten.
QUICK = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 300}


@pytest.fixture
def members(settings: Any) -> Iterator[list[Store]]:
    folder = Path(tempfile.mkdtemp(prefix="rst-"))
    _, program = stores.programs()
    taken: set[int] = set()
    started = [stores.mongod(program, f"m{n}", folder, stores.free_port(taken), "rst") for n in range(3)]
    try:
        for member in started:
            member.server.start()
        stores.initiate(started, "rst", QUICK)
        settings.MONGODB_URL = f"mongodb://{','.join(f'{HOST}:{one.port}' for one in started)}/?replicaSet=rst"
        indexes.ensure(database(), keep_resolved_days=90)
        yield started
    finally:
        for member in started:
            member.server.stop()
            member.disk.remove()
        shutil.rmtree(folder, ignore_errors=True)


def test_every_letter_is_written_once(members: list[Store]) -> None:
    written = threading.Semaphore(0)
    refused: list[int] = []

    def write() -> None:
        for start in range(0, LETTERS, AT_ONCE):
            deaths = [a_death(f"m-{number}") for number in range(start, start + AT_ONCE)]
            while True:  # as the outbox does
                try:
                    assert all(one.ok for one in dead_letters.record_outcomes(deaths, []))
                    break
                except StoreUnavailable:
                    refused.append(start)
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(5):
        assert written.acquire(timeout=60)
    victim = eventually(lambda: stores.primary_of(members), what="a primary")
    assert victim.server.process is not None
    victim.server.process.kill()
    writer.join(60)
    assert not writer.is_alive()

    letters = list(database()["dead_letters"].find())
    assert sorted(letter["messageId"] for letter in letters) == sorted(f"m-{number}" for number in range(LETTERS))
    assert {len(letter["attempts"]) for letter in letters} == {len(a_death().attempts)}
    assert {len(letter["history"]) for letter in letters} == {1}
    survivor = eventually(lambda: stores.primary_of([one for one in members if one is not victim]), what="a primary")
    with pymongo.MongoClient[dict[str, object]](HOST, survivor.port, directConnection=True) as client:
        assert client[database().name]["dead_letters"].count_documents({}) == LETTERS
