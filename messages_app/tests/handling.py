"""Builders and handlers for tests of everything that runs messages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dlqsite.tests.patience import eventually
from messages_app import registry
from messages_app.domain.records import Acceptance, Claimed, Record, State
from messages_app.registry import HandlerFunction
from messages_app.store.ledger import Ledger


def a_claimed(**differing: Any) -> Claimed:
    """A claimed demo message, on its first attempt."""
    fields: dict[str, Any] = {
        "message_id": "m1", "epoch": 1, "attempt": 0, "fence": 7, "type": "demo", "body": b"{}", "version": 0,
        "priority": "normal", "source": "api", "client": "key:test", "tags": "[]",
        "queued_at_ms": 1_700_000_000_000, "claimed_at_ms": 1_700_000_000_500, "max_retries": 3, "prior_runs": 0,
        "recoveries": 0, "deferrals": 0, "deferred_since_ms": None, "replay_id": "", "batch_id": "",
    }  # fmt: skip
    return Claimed(**{**fields, **differing})


def an_acceptance(payload: Any = None, *, message_id: str = "", **differing: Any) -> Acceptance:
    """A valid submission of a demo message."""
    body = json.dumps(payload if payload is not None else {}).encode()
    fields: dict[str, Any] = {
        "message_id": message_id or f"m-{uuid.uuid4().hex[:12]}", "type": "demo", "body": body, "sha256": "0" * 64,
        "priority": "normal", "source": "api", "client": "key:test", "accept_token": uuid.uuid4().hex,
    }  # fmt: skip
    return Acceptance(**{**fields, **differing})


@contextmanager
def handling(function: HandlerFunction, type: str = "test.type", **options: Any) -> Iterator[str]:
    """A handler registered for as long as the block lasts."""
    registry.handler(type, **options)(function)
    try:
        yield type
    finally:
        registry.forget(type)


def reaches(ledger: Ledger, message_id: str, *states: State, seconds: float = 10.0) -> Record:
    """The record of a message once it is in one of ``states``."""

    def look() -> Record | None:
        record = ledger.get(message_id)
        return record if record is not None and record.state in states else None

    record = eventually(look, seconds=seconds, what=f"{message_id} in {'/'.join(states)}, is {ledger.get(message_id)}")
    assert isinstance(record, Record)
    return record
