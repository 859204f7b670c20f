"""Mover, drainer and presence."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from dlq_app.domain.letter import Death, Recorded, Settled
from dlq_app.domain.ports import ForwardOrder
from dlqsite.tests.patience import eventually
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Completed, Failed, State
from messages_app.store import presence
from messages_app.store.ledger import Ledger
from messages_app.store.ledger_server import Terms
from messages_app.tests.handling import an_acceptance, reaches
from messages_app.work.draining import drain
from messages_app.work.ended import death_of
from messages_app.work.upkeep import EXPIRED, Loop, Upkeep
from processes.steps import STUCK_S, add_time, progressed, step

pytestmark = pytest.mark.redis

ERROR = {
    "errorType": "VALIDATION_ERROR", "errorKind": "permanent", "errorReason": "no", "errorStack": "a stack",
    "at": "2026-01-01T00:00:00.000Z", "systemState": {"host": "h"}, "worker": "w-1",
}  # fmt: skip
LINE = '{"number":1,"outcome":"failed"}'


class Letters:
    """Stands in the place of the dead-letter queue: takes everything, or says what it is told to."""

    def __init__(self) -> None:
        self.deaths: list[Death] = []
        self.settles: list[Settled] = []
        self.away = False
        #: How often somebody was turned away.
        self.turned_away = 0
        self.refuses: set[str] = set()

    def __call__(self, deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
        if self.away:
            self.turned_away += 1
            raise LettersUnavailable("away")
        self.deaths += deaths
        self.settles += settles
        ids = [death.message_id for death in deaths] + [settled.message_id for settled in settles]
        return [Recorded(False, "too odd") if name in self.refuses else Recorded(True) for name in ids]


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def start(book: Ledger, letters: Letters) -> Iterator[Callable[[], Upkeep]]:
    running: list[Upkeep] = []

    def make() -> Upkeep:
        upkeep = Upkeep(book, name="w-1", role="worker", details=lambda: {"busy": 0}, record_outcomes=letters)
        running.append(upkeep)
        upkeep.start()
        return upkeep

    yield make
    for upkeep in running:
        upkeep.stop()


def dies(book: Ledger, message_id: str, **differing: Any) -> None:
    """Accept a message and give it up."""
    book.accept(an_acceptance({"n": 1}, message_id=message_id, **differing))
    (claimed,) = book.claim(token=message_id, limit=1, owner="w-1", holding=1).records
    book.flush(
        [Failed(message_id=message_id, fence=claimed.fence, delay_ms=None, error=json.dumps(ERROR), attempt_json=LINE)]
    )


def test_a_retry_is_moved_when_it_is_due_and_not_before(
    book: Ledger, start: Callable[[], Upkeep], redis_client: redis.Redis
) -> None:  # fmt: skip
    start()
    book.accept(an_acceptance(message_id="m1"))
    (claimed,) = book.claim(token="t", limit=1, owner="w-1", holding=0).records
    failed_at = book.now_ms()
    book.flush([Failed(message_id="m1", fence=claimed.fence, delay_ms=400, error=json.dumps(ERROR), attempt_json=LINE)])

    reaches(book, "m1", State.QUEUED)

    moved_at = redis_client.zscore("dlq:waiting:normal", "m1")
    assert moved_at is not None
    assert moved_at - failed_at >= 400


def test_payloads_of_done_messages_are_deleted_when_due_however_many(redis_client: redis.Redis) -> None:
    count = 2 * EXPIRED + 10
    kept, book = Ledger(redis_client), Ledger(redis_client, terms=Terms(body_ttl_ms=0))
    kept.accept(an_acceptance(message_id="kept"))
    (claimed,) = kept.claim(token="kept", limit=1, owner="w-1", holding=0).records
    kept.flush([Completed(message_id="kept", fence=claimed.fence, result="", ran="1 2")])
    redis_client.rename("dlq:ended", "dlq:later")
    book.accept_many([an_acceptance(message_id=f"m{number}") for number in range(count)])
    claimed_many = book.claim(token="t", limit=count, owner="w-1", holding=0).records
    book.flush([Completed(message_id=one.message_id, fence=one.fence, result="", ran="1 2") for one in claimed_many])
    redis_client.rpush("dlq:ended", *redis_client.lrange("dlq:later", 0, -1))

    upkeep = Upkeep(book, name="w-1", role="worker", details=dict, record_outcomes=Letters())
    upkeep.start()
    try:
        eventually(lambda: redis_client.llen("dlq:ended") == 1, what="only the payload that is not due")
    finally:
        upkeep.stop()

    assert {record.body for record in book.get_many([f"m{number}" for number in range(count)]) if record} == {None}
    assert book.get_many(["m0", "kept"])[1] == kept.get("kept")
    assert redis_client.exists("dlq:body:kept", "dlq:story:kept") == 2
    assert redis_client.ttl("dlq:msg:m0") > 86_000


def test_a_death_is_carried_over_with_everything_that_was_known(book: Ledger, letters: Letters) -> None:
    dies(book, "m1", tags='["a"]', priority="high", source="shop", client="key:shop")

    assert drain(book, letters) == 1

    (death,) = letters.deaths
    assert (death.message_id, death.type, death.body, death.tags) == ("m1", "demo", b'{"n": 1}', ("a",))
    assert (death.priority, death.source, death.client) == ("high", "shop", "key:shop")
    assert (death.error_type, death.error_kind, death.error_reason) == ("VALIDATION_ERROR", "permanent", "no")
    assert (death.error_stack, death.system_state, death.attempts) == ("a stack", {"host": "h"}, [json.loads(LINE)])
    assert (death.retry_count, death.replay_id, death.prior_runs) == (0, None, 1)
    assert reaches(book, "m1", State.DEAD).outbox == ""
    assert drain(book, letters) == 0


def test_the_end_of_a_replay_is_settled(book: Ledger, letters: Letters) -> None:
    dies(book, "m1")
    drain(book, letters)
    epoch = letters.deaths[0].epoch + 1
    book.forward(
        ForwardOrder(
            message_id="m1", epoch=epoch, type="demo", body=b"{}", run_body=None, version=0, priority="normal",
            source="api", client="c", tags="[]", queued_at_ms=1, acct_day="20260101", replay_id="r-1", batch_id="",
            death_seen=epoch - 1, deadline_ms=book.now_ms() + 60_000,
        )
    )  # fmt: skip
    (claimed,) = book.claim(token="t2", limit=1, owner="w-1", holding=1).records
    book.flush([Completed(message_id="m1", fence=claimed.fence, result='{"ok":true}', attempt_json=LINE)])

    drain(book, letters)

    (settled,) = letters.settles
    assert (settled.message_id, settled.epoch, settled.replay_id, settled.result) == ("m1", epoch, "r-1", {"ok": True})
    assert book.outbox() == []


def test_what_mongodb_can_never_take_is_set_aside_and_holds_up_nobody(book: Ledger, letters: Letters) -> None:
    for message_id in ("m1", "m2", "m3"):
        dies(book, message_id)
    letters.refuses = {"m2"}

    drain(book, letters)

    assert [(entry.message_id, entry.why) for entry in book.quarantined()] == [("m2", "too odd")]
    assert [book.get(message_id).state for message_id in ("m1", "m3")] == [State.DEAD, State.DEAD]  # type: ignore[union-attr]
    assert book.outbox() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lastError", "{"), ("lastError", "[1]"), ("lastError", "[" * 5000), ("state", "gone"), ("queuedAt", "soon"),
        ("finishedAt", str(10**17)), ("story", "{"), ("story", "[]"), ("story of another kind", "x"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_set_aside(
    book: Ledger, letters: Letters, redis_client: redis.Redis, field: str, value: str
) -> None:
    dies(book, "m1")
    dies(book, "m2")
    if field == "story":
        redis_client.set("dlq:story:m1", value)
    elif field.startswith("story"):
        redis_client.delete("dlq:story:m1")
        redis_client.hset("dlq:story:m1", field, value)
    else:
        redis_client.hset("dlq:msg:m1", field, value)

    drain(book, letters)

    assert [entry.message_id for entry in book.quarantined()] == ["m1"]
    assert [death.message_id for death in letters.deaths] == ["m2"]
    assert drain(book, letters) == 0


def test_an_outcome_that_breaks_the_recording_is_set_aside_and_holds_up_nobody(book: Ledger, letters: Letters) -> None:
    for message_id in ("m1", "m2", "m3"):
        dies(book, message_id)

    def record(deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
        if any(death.message_id == "m2" for death in deaths):
            raise AttributeError("a poisonous document")
        return letters(deaths, settles)

    drain(book, record)

    assert [(entry.message_id, entry.why) for entry in book.quarantined()] == [
        ("m2", "AttributeError: a poisonous document")
    ]
    assert [death.message_id for death in letters.deaths] == ["m1", "m3"]
    assert book.outbox() == []


def test_while_mongodb_is_away_everything_stays_and_then_drains(
    book: Ledger, letters: Letters, start: Callable[[], Upkeep]
) -> None:  # fmt: skip
    letters.away = True
    upkeep = start()
    dies(book, "m1")
    upkeep.outbox_filled()
    eventually(lambda: letters.turned_away >= 2, what="the drainer tries, and tries again")
    assert reaches(book, "m1", State.DEAD_PENDING).outbox == "death"

    letters.away = False

    reaches(book, "m1", State.DEAD)


def test_the_process_is_present_until_it_stops(start: Callable[[], Upkeep]) -> None:
    upkeep = start()

    (entry,) = eventually(lambda: presence.present("worker"))
    assert (entry.name, entry.details) == ("w-1", {"busy": 0})
    upkeep.stop()

    assert presence.present("worker") == []


def test_a_process_that_is_stuck_in_a_step_is_not_present(book: Ledger) -> None:
    upkeep = Upkeep(book, name="w-1", role="dlq_worker", details=dict)
    with step("look for what is due"):
        add_time(STUCK_S + 1, "dlq_worker")
        upkeep._announce()
        assert presence.present("dlq_worker") == []

        progressed()
        upkeep._announce()

        assert len(presence.present("dlq_worker")) == 1


def test_a_loop_survives_whatever_a_step_does(caplog: pytest.LogCaptureFixture) -> None:
    steps = iter([RuntimeError("odd"), StoreUnavailable("away"), StoreUnavailable("away"), None])
    arrived = threading.Event()

    def step() -> float:
        problem = next(steps)
        if problem is not None:
            raise problem
        arrived.set()
        return 60.0

    loop = Loop("test", step, max_pause_s=0.01)
    loop.start()
    assert arrived.wait(10)
    loop.stop()
    loop.join(5)

    said = [record.message for record in caplog.records]
    assert said == ["upkeep_broken", "store_away", "store_back"]


def test_while_many_outcomes_wait_they_go_in_larger_batches(book: Ledger, letters: Letters) -> None:
    book.accept_many([an_acceptance(message_id=f"m{number}") for number in range(450)])
    claimed = book.claim(token="t", limit=450, owner="w-1", holding=0).records
    book.flush([
        Failed(message_id=it.message_id, fence=it.fence, delay_ms=None, error=json.dumps(ERROR), attempt_json=LINE)
        for it in claimed
    ])  # fmt: skip
    batches: list[int] = []

    def record(deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
        batches.append(len(deaths))
        return letters(deaths, settles)

    upkeep = Upkeep(book, name="w-1", role="worker", details=dict, record_outcomes=record)
    upkeep.start()
    eventually(lambda: len(letters.deaths) == 450)
    upkeep.stop()

    assert batches == [100, 200, 150]
    assert book.outbox() == []


def test_what_others_carry_is_left_to_them_while_they_do(
    redis_client: redis.Redis, book: Ledger, letters: Letters
) -> None:
    dies(book, "m1")
    polite = Upkeep(book, name="d-1", role="dlq_worker", details=dict, record_outcomes=letters, leave_ms=3_600_000)

    assert polite._drain() > 0
    assert letters.deaths == []
    # An hour later: whoever should have carried it is gone.
    entered_ms = redis_client.zscore("dlq:outbox", "m1")
    assert isinstance(entered_ms, float)
    redis_client.zadd("dlq:outbox", {"m1": entered_ms - 3_600_001})
    polite._drain()

    assert [death.message_id for death in letters.deaths] == ["m1"]
    assert book.outbox() == []


def test_a_message_given_up_by_the_reaper_makes_a_letter_too(redis_client: redis.Redis, book: Ledger) -> None:
    book.accept(an_acceptance(message_id="m1"))
    for loss in range(3):
        assert book.claim(token=f"t{loss}", limit=1, owner="lost", holding=0).records
        redis_client.hset("dlq:msg:m1", "leaseUntil", 1)
        redis_client.zadd("dlq:due:running", {"m1": 1})
        book.due()

    death = death_of(reaches(book, "m1", State.DEAD_PENDING))

    assert (death.error_type, death.retry_count, len(death.attempts)) == ("WORKER_LOST", 0, 3)
