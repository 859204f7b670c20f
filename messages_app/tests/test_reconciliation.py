"""After MongoDB was restored: what the letters lack is found by comparing, and brought again, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.states import Status
from dlq_app.services import dead_letters as letters
from dlq_app.services import purging
from messages_app.domain.records import Completed, Failed
from messages_app.store.ledger import Ledger, ledger
from messages_app.store.recorded_outcomes import PAGE, recorded_outcomes
from messages_app.tests.handling import an_acceptance
from messages_app.tests.ledgers import Desk, order, token
from messages_app.work import reconciliation
from messages_app.work.draining import drain

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]


@pytest.fixture
def book(redis_client: redis.Redis, mongo_db: Any) -> Ledger:
    return ledger()


def run_next(book: Ledger, *, well: bool) -> str:
    (claimed,) = book.claim(token=token(), limit=1, owner="w", holding=0).records
    if well:
        book.flush([Completed(message_id=claimed.message_id, fence=claimed.fence, result="1", attempt_json="{}")])
    else:
        error = '{"errorType":"TIMEOUT_ERROR","errorKind":"transient","errorReason":"no"}'
        book.flush(
            [Failed(message_id=claimed.message_id, fence=claimed.fence, delay_ms=None, error=error, attempt_json="{}")]
        )
    drain(book, letters.record_outcomes)
    return claimed.message_id


def bury(book: Ledger, message_id: str) -> None:
    book.accept(an_acceptance(message_id=message_id))
    assert run_next(book, well=False) == message_id


def replay_well(book: Ledger, mongo_db: Any, message_id: str) -> None:
    """As a claimed letter does it."""
    letter = mongo_db.dead_letters.find_one({"messageId": message_id})
    epoch = int(letter["fence"]) + 1
    mongo_db.dead_letters.update_one({"_id": letter["_id"]}, {"$set": {"fence": epoch, "status": "dlq_processing"}})
    book.forward(order(message_id, epoch, death_seen=int(letter["closedEpoch"]), deadline_ms=book.now_ms() + 60_000))
    run_next(book, well=True)


def everything(steps: Iterator[reconciliation.Step]) -> tuple[int, int, int]:
    told = list(steps)
    return sum(s.looked_at for s in told), sum(len(s.missing) for s in told), sum(s.brought for s in told)


def statuses(mongo_db: Any) -> dict[str, str]:
    return {one["messageId"]: one["status"] for one in mongo_db.dead_letters.find()}


def test_letters_that_are_there_are_not_missing(book: Ledger, mongo_db: Any) -> None:
    bury(book, "a")
    bury(book, "b")
    replay_well(book, mongo_db, "b")

    assert everything(reconciliation.bring_again(0)) == (2, 0, 0)
    found = reconciliation.compare(100)
    assert (found.looked_at, found.of, list(found.missing)) == (2, 2, [])


def test_a_restored_mongodb_gets_its_deaths_and_good_ends_again(book: Ledger, mongo_db: Any) -> None:
    for name in ("old", "replayed", "unchanged"):
        bury(book, name)
    backup = list(mongo_db.dead_letters.find())
    replay_well(book, mongo_db, "replayed")
    for name in ("new1", "new2"):
        bury(book, name)
    before = {one["messageId"]: (one["status"], one["closedEpoch"]) for one in mongo_db.dead_letters.find()}
    mongo_db.dead_letters.delete_many({})
    mongo_db.dead_letters.insert_many(backup)

    assert everything(reconciliation.bring_again(0, dry_run=True)) == (5, 3, 0)
    assert set(statuses(mongo_db)) == {"old", "replayed", "unchanged"}
    assert everything(reconciliation.bring_again(0)) == (5, 3, 3)

    after = {one["messageId"]: (one["status"], one["closedEpoch"]) for one in mongo_db.dead_letters.find()}
    assert after == before
    assert everything(reconciliation.bring_again(0)) == (5, 0, 0)
    assert all(row.wrong == 0 for row in book.accounting())
    assert book.figures().outbox == 0


def test_killed_between_two_steps_it_goes_on_with_the_rest(
    book: Ledger, mongo_db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        bury(book, f"m{number}")
    mongo_db.dead_letters.delete_many({})
    with monkeypatch.context() as patch:
        patch.setattr(reconciliation, "drain", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            everything(reconciliation.bring_again(0))
    assert book.figures().outbox == 4

    drain(book, letters.record_outcomes)

    assert everything(reconciliation.bring_again(0)) == (4, 0, 0)
    assert set(statuses(mongo_db).values()) == {Status.PENDING}


def test_what_is_missing_is_alarmed_until_it_is_there(
    book: Ledger, mongo_db: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        bury(book, f"m{number}")
    mongo_db.dead_letters.delete_one({"messageId": "m1"})
    with caplog.at_level(logging.WARNING, "messages_app.work.reconciliation"):
        reconciliation.check()
        assert list(recorded_outcomes().lacking()) == ["m1"]
        # A sample that misses it does not end the alarm.
        index = recorded_outcomes()
        monkeypatch.setattr("random.random", lambda: 0.0)
        assert reconciliation.compare(1).looked_at == 1
        assert index.lacking_count() == 1
        everything(reconciliation.bring_again(0))
        assert index.lacking_count() == 0
        reconciliation.check()

    assert [record.message for record in caplog.records] == ["letters_lack_outcomes"]


def test_however_many_are_missing_the_alarm_ends_when_all_are_there(
    book: Ledger, mongo_db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messages_app.store.recorded_outcomes.PAGE", 2)
    for number in range(5):
        bury(book, f"m{number}")
    mongo_db.dead_letters.delete_many({})
    reconciliation.check()
    assert recorded_outcomes().lacking_count() == 5

    assert everything(reconciliation.bring_again(0)) == (5, 5, 5)

    assert recorded_outcomes().lacking_count() == 0


def test_a_message_that_runs_again_or_waits_for_mongodb_is_not_missing(book: Ledger, mongo_db: Any) -> None:
    bury(book, "runs")
    bury(book, "waits")
    epoch = int(mongo_db.dead_letters.find_one({"messageId": "runs"})["fence"])
    mongo_db.dead_letters.delete_many({})
    book.forward(order("runs", epoch + 1, death_seen=epoch, deadline_ms=book.now_ms() + 60_000))
    record = book.get("waits")
    assert record is not None
    book.resettle("waits", record.epoch)

    assert everything(reconciliation.bring_again(0)) == (0, 0, 0)


def test_what_moves_while_mongodb_is_asked_is_not_missing(
    book: Ledger, mongo_db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(book, "a")
    mongo_db.dead_letters.delete_many({})
    whole = letters.lacking

    def asked(outcomes: Any) -> list[bool]:
        answer = whole(outcomes)
        recorded_outcomes().unlist(["a"])
        return answer

    monkeypatch.setattr(letters, "lacking", asked)

    assert list(reconciliation.compare(10).missing) == []


def test_letters_deleted_on_purpose_are_not_missing(book: Ledger, mongo_db: Any) -> None:
    bury(book, "a")
    bury(book, "b")
    letters.discard("a", actor="t")
    mongo_db.dead_letters.update_one(
        {"messageId": "a"}, [{"$set": {"resolvedAt": {"$subtract": ["$$NOW", 7_200_000]}}}]
    )
    assert purging.purge(LetterCriteria(), timedelta(hours=1), actor="t") == 1

    assert everything(reconciliation.bring_again(0)) == (1, 0, 0)


def test_what_mongodb_deletes_by_its_age_is_not_compared(
    book: Ledger, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(book, "a")
    policy = conf.replay_policy()
    monkeypatch.setattr(conf, "replay_policy", lambda: replace(policy, keep_resolved_days=1))
    assert book.now_ms() - reconciliation.oldest_ms() < 86_400_000
    monkeypatch.setattr(conf, "replay_policy", lambda: replace(policy, keep_resolved_days=0))
    assert abs(book.now_ms() - reconciliation.oldest_ms() - 86_400_000) < 5_000


def test_many_of_one_millisecond_are_each_met_once(book: Ledger, redis_client: Any) -> None:
    index = recorded_outcomes()
    names = [f"m{number}" for number in range(2 * PAGE + 7)]
    redis_client.zadd("dlq:recorded", dict.fromkeys(names, 5000) | {"late": 6000})
    with redis_client.pipeline() as pipeline:
        for name in [*names, "late"]:
            pipeline.hset(f"dlq:msg:{name}", mapping={"state": "dead", "epoch": 1, "outbox": ""})
        pipeline.execute()

    met = [one.message_id for page in index.pages(0, 10_000) for one in page]

    assert sorted(met) == sorted([*names, "late"])
    assert sum(len(page) for page in index.sample(100, 0.99)) == 100
    assert sum(len(page) for page in index.sample(5000, 0.5)) == len(names) + 1


def test_the_index_is_trimmed_with_the_records(redis_client: redis.Redis) -> None:
    desk = Desk.open(redis_client, record_ttl_ms=1000)
    desk.bury("a")
    desk.wait(1001)
    desk.bury("b")

    assert desk.client.zrange("dlq:recorded", 0, -1) == [b"b"]
