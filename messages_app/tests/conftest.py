"""The ledger over an emptied server: by the server's clock, and by one that a test moves."""

from __future__ import annotations

import pytest
import redis

from messages_app.store.ledger import Ledger
from messages_app.tests.ledgers import Desk


@pytest.fixture
def book(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client, "dlq:")


@pytest.fixture
def desk(redis_client: redis.Redis) -> Desk:
    return Desk.open(redis_client)
