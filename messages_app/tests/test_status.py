"""A record as its owner reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dlq_app.domain.masking import MASK, MaskingPolicy
from messages_app.domain.records import Record, State
from messages_app.rest.status import instant, status_body


def a_record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "message_id": "m-1", "state": State.QUEUED, "epoch": 7, "attempt": 0, "fence": 0, "type": "demo",
        "body": b'{"a":1.0}', "run_body": None, "version": 0, "sha256": "", "priority": "normal", "source": "shop",
        "client": "key:shop", "tags": '["x"]', "queued_at_ms": 1_700_000_000_123, "not_before_ms": None,
        "due_at_ms": None, "lease_until_ms": None, "started_at_ms": None, "finished_at_ms": None,
        "acct_day": "20231114", "max_retries": 3, "recoveries": 0, "deferrals": 0, "deferred_since_ms": None,
        "prior_runs": 0, "replay_id": "", "batch_id": "", "death_seen": 0, "owner": "", "outbox": "", "last_error": "",
        "attempts": "", "result": "",
    }  # fmt: skip
    return Record(**(values | changes))


def shown(record: Record) -> dict[str, Any]:
    return json.loads(status_body(record, MaskingPolicy()))["data"]  # type: ignore[no-any-return]


def test_it_shows_exactly_the_promised_fields_in_their_order() -> None:
    assert list(shown(a_record())) == [
        "messageId", "type", "status", "source", "priority", "tags", "queuedAt", "notBefore", "finishedAt",
        "retryCount", "nextAttemptAt", "attempts", "result", "payload", "deadLetterId", "traceId", "links",
    ]  # fmt: skip


def test_the_payload_is_put_in_byte_for_byte() -> None:
    assert b'"payload":{"a":1.0},' in status_body(a_record(), MaskingPolicy())
    assert shown(a_record(body=None))["payload"] is None


def test_secrets_are_hidden_in_every_part() -> None:
    record = a_record(
        body=b'{"n":1.10,"password":"s3cret","url":"amqp://u:s3cret@mq"}',
        attempts='{"number":1,"errorReason":"pin=8842"},{"number":2,"errorReason":"Pwd=s3cret;"}',
        result='{"token":"s3cret","n":2.50}',
        tags='["password=s3cret"]',
        source="https://u:s3cret@shop",
    )

    hidden = status_body(record, MaskingPolicy()).decode()

    assert "s3cret" not in hidden
    assert "8842" not in hidden
    assert f'{{"n": 1.10, "password": "{MASK}", "url": "amqp://u:{MASK}@mq"}}' in hidden
    assert "s3cret" in status_body(record, None).decode()


@pytest.mark.parametrize("state", list(State))
def test_every_state_can_be_shown(state: State) -> None:
    data = shown(a_record(state=state))

    assert data["status"] == state.value
    assert (data["deadLetterId"] == "m-1") is (state is State.DEAD)


def test_a_dead_message_links_to_its_letter() -> None:
    data = shown(a_record(state=State.DEAD, attempt=3, attempts='{"number":1},{"number":2}'))

    assert data["links"] == {"self": "/api/messages/m-1", "deadLetter": "/api/dlq/by-message/m-1"}
    assert data["retryCount"] == 3
    assert data["attempts"] == [{"number": 1}, {"number": 2}]


def test_a_replayed_message_still_links_to_its_letter() -> None:
    assert shown(a_record(state=State.DONE, replay_id="r-1"))["deadLetterId"] == "m-1"


def test_the_next_attempt_is_told_only_while_it_waits_for_its_time() -> None:
    assert shown(a_record(state=State.RETRY_WAIT, due_at_ms=1_700_000_001_000))["nextAttemptAt"] == (
        "2023-11-14T22:13:21.000Z"
    )
    assert shown(a_record(state=State.RUNNING, due_at_ms=1_700_000_001_000))["nextAttemptAt"] is None


def test_instants_have_milliseconds_and_a_z() -> None:
    assert instant(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"
