"""Letters in an empty collection with its real indexes, and who asks for them over REST."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app.store import indexes, repository
from dlq_app.store.mongo import database
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.people import with_key


@pytest.fixture
def store(mongo_db: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    """The emptied database, through the client that the services use, indexes built."""
    found = database()
    if indexes.missing(found):
        indexes.ensure(found, keep_resolved_days=90)
    return found


@pytest.fixture
def letters(store: Database[dict[str, Any]]) -> Letters:
    return repository.letters()


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch) -> MemoryIntake:
    """Intake behind the port."""
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    return port


@pytest.fixture
def rig(letters: Letters, intake: MemoryIntake) -> Rig:
    """Batches over these letters and that intake."""
    return Rig(letters, intake)


@pytest.fixture
def vic() -> Client:
    """Views."""
    return with_key("read", name="vic")


@pytest.fixture
def olga() -> Client:
    """Operates."""
    return with_key("read", "replay", name="olga")


@pytest.fixture
def ada() -> Client:
    """Administers."""
    return with_key("admin", name="ada")
