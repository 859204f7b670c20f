"""Claiming, running and flushing over a real ledger, with threads of this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, ClassVar

import pytest
import redis

from dlqsite.tests.patience import eventually
from messages_app import registry
from messages_app.attempt import report
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Claim, Completed, Failed, Outcome, State
from messages_app.envelope import Message
from messages_app.failures import ErrorKind, Failure
from messages_app.store.ledger import Ledger
from messages_app.store.ledger_server import Terms
from messages_app.tests.handling import an_acceptance, handling, reaches
from messages_app.work.engine import Engine
from messages_app.work.flushing import Flusher, reduced
from messages_app.work.pool import Pool
from messages_app.work.runner import Attempt, Runner

pytestmark = pytest.mark.redis


@pytest.fixture
def start(book: Ledger) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(concurrency: int = 4, name: str = "w-1", **options: Any) -> Engine:
        engine = Engine(book, name=name, concurrency=concurrency, **options)
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.stop(0)


def test_many_messages_are_done_once_each(book: Ledger, start: Callable[..., Engine]) -> None:
    runs: list[str] = []

    with handling(lambda message: runs.append(message.id)) as type:
        start()
        book.accept_many([an_acceptance(message_id=f"m{number}", type=type) for number in range(500)])
        eventually(lambda: len(runs) >= 500)
        eventually(lambda: book.accounting()[0].done == 500)

    assert sorted(runs) == sorted(f"m{number}" for number in range(500))
    (account,) = book.accounting()
    assert (account.accepted, account.done, account.open, account.dead) == (500, 500, 0, 0)


def test_a_record_tells_how_it_went(book: Ledger, start: Callable[..., Engine]) -> None:
    start()
    book.accept(an_acceptance({"event": "paid"}, message_id="m1"))

    record = reaches(book, "m1", State.DONE)

    assert json.loads(record.result) == {"processed": True}
    (attempt,) = json.loads(f"[{record.attempts}]")
    assert (attempt["number"], attempt["outcome"], attempt["worker"]) == (1, "succeeded", "w-1")


def millis(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


def test_a_transient_failure_waits_and_is_not_run_before_its_time(book: Ledger, start: Callable[..., Engine]) -> None:
    engine = start()
    accepted_ms = book.now_ms()
    book.accept(an_acceptance({"failTimes": 1, "errorType": "NETWORK_ERROR"}, message_id="m1"))

    record = reaches(book, "m1", State.RETRY_WAIT)

    due_at_ms = record.due_at_ms
    assert due_at_ms is not None
    eventually(lambda: book.due().moved, seconds=5)
    record = reaches(book, "m1", State.DONE)
    first, second = json.loads(f"[{record.attempts}]")
    assert (first["outcome"], first["errorType"], second["outcome"]) == ("failed", "NETWORK_ERROR", "succeeded")
    assert 800 <= first["retryDelayMs"] <= 1200
    # Not counted from endedAt: what a worker takes for the server's time may be ahead by the way of its claim.
    assert due_at_ms - accepted_ms >= first["retryDelayMs"]
    assert millis(second["startedAt"]) >= due_at_ms
    assert engine.flusher.failed == 1


def test_a_permanent_failure_is_given_up(book: Ledger, start: Callable[..., Engine]) -> None:
    start()
    book.accept(an_acceptance({"simulateError": True, "errorType": "VALIDATION_ERROR"}, message_id="m1"))

    record = reaches(book, "m1", State.DEAD_PENDING)

    assert json.loads(record.last_error)["errorType"] == "VALIDATION_ERROR"


def test_fast_messages_pass_a_slow_one(book: Ledger, start: Callable[..., Engine]) -> None:
    release = threading.Event()

    with handling(lambda message: release.wait(20), "test.slow") as slow, handling(lambda message: None) as fast:
        start(concurrency=2)
        book.accept(an_acceptance(message_id="slow", type=slow))
        reaches(book, "slow", State.RUNNING)
        book.accept_many([an_acceptance(message_id=f"m{number}", type=fast) for number in range(50)])
        for number in range(50):
            reaches(book, f"m{number}", State.DONE)
        release.set()
        reaches(book, "slow", State.DONE)


def states(book: Ledger, count: int) -> list[State]:
    return [record.state for record in book.get_many([f"s{number}" for number in range(count)]) if record is not None]


def test_what_was_claimed_ahead_goes_back_when_no_thread_gets_to_it(
    book: Ledger, start: Callable[..., Engine]
) -> None:  # fmt: skip
    release = threading.Event()

    with handling(lambda message: release.wait(20), "test.slow") as slow, handling(lambda message: None) as fast:
        engine = start(concurrency=2)
        book.accept_many([an_acceptance(type=fast) for _ in range(2000)])
        eventually(lambda: engine.claimer.pace.ahead > 0)
        book.accept_many([an_acceptance(message_id=f"s{number}", type=slow) for number in range(30)])
        eventually(lambda: engine.pool.busy() == 2 and states(book, 30).count(State.QUEUED) == 28)
        assert engine.pool.held() == 2
        release.set()
        for number in range(30):
            record = reaches(book, f"s{number}", State.DONE)
            assert (record.recoveries, record.attempt) == (0, 0)


def test_stopping_lets_run_what_ends_in_time_and_hands_back_the_rest(
    book: Ledger, start: Callable[..., Engine]
) -> None:  # fmt: skip
    # Both have to run: what is only claimed is handed back at once.
    both, release = threading.Barrier(3, timeout=20), threading.Event()

    def endless(message: Message) -> None:
        both.wait()
        while True:
            time.sleep(0.001)

    def short(message: Message) -> None:
        if message.id == "soon":
            both.wait()
        release.wait(20)

    with handling(endless, "test.endless") as never, handling(short) as soon:
        engine = start(concurrency=2)
        book.accept(an_acceptance(message_id="soon", type=soon))
        book.accept(an_acceptance(message_id="never", type=never))
        both.wait()
        book.accept(an_acceptance(message_id="later", type=soon))

        with ThreadPoolExecutor(1) as aside:
            stopping = aside.submit(engine.stop, 3.0)
            eventually(lambda: engine.claimer.join(0), what="nothing more is taken")
            release.set()
            assert stopping.result()

    assert book.get("soon").state is State.DONE  # type: ignore[union-attr]
    assert book.get("later").state is State.QUEUED  # type: ignore[union-attr]
    handed_back = book.get("never")
    assert handed_back is not None
    assert (handed_back.state, handed_back.attempt, handed_back.recoveries) == (State.QUEUED, 0, 0)
    assert json.loads(f"[{handed_back.attempts}]")[0]["outcome"] == "deferred"


def test_leases_are_renewed_while_a_handler_runs(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("messages_app.work.leases.RENEW_EVERY_S", 0.3)
    book = Ledger(redis_client, "dlq:", terms=Terms(lease_ms=5000))
    engine = Engine(book, name="w-1", concurrency=2)
    release = threading.Event()

    with handling(lambda message: release.wait(20)) as type:
        engine.start()
        book.accept(an_acceptance(message_id="m1", type=type))
        first = reaches(book, "m1", State.RUNNING).lease_until_ms or 0
        eventually(lambda: (book.get("m1").lease_until_ms or 0) > first + 1000)  # type: ignore[union-attr]
        assert book.due().recovered == 0
        release.set()
        reaches(book, "m1", State.DONE)
    engine.stop(0)


def test_a_message_that_was_lost_twice_runs_alone(redis_client: redis.Redis) -> None:
    book = Ledger(redis_client, "dlq:", terms=Terms(lease_ms=1))
    book.accept(an_acceptance(message_id="m1", type="test.type"))
    for _ in range(2):
        assert book.claim(token=str(time.monotonic()), limit=1, owner="lost", holding=0).records
        eventually(lambda: book.due().recovered == 1)
    book = Ledger(redis_client, "dlq:")
    beside: list[int] = []
    running = set()
    lock = threading.Lock()

    def watch(message: Message) -> None:
        with lock:
            running.add(message.id)
        time.sleep(0.02)
        with lock:
            if message.id == "m1":
                beside.append(len(running))
            running.discard(message.id)

    with handling(watch):
        engine = Engine(book, name="w-1", concurrency=4)
        book.accept_many([an_acceptance(type="test.type") for _ in range(40)])
        engine.start()
        reaches(book, "m1", State.DONE)
        eventually(lambda: book.accounting()[0].open == 0)
        engine.stop(1)

    assert beside == [1]


def test_a_result_that_comes_too_late_is_refused_and_counted(redis_client: redis.Redis) -> None:
    book = Ledger(redis_client, "dlq:", terms=Terms(lease_ms=50))
    engine = Engine(book, name="w-1", concurrency=1)
    release = threading.Event()

    with handling(lambda message: release.wait(20)) as type:
        engine.start()
        book.accept(an_acceptance(message_id="m1", type=type))
        reaches(book, "m1", State.RUNNING)
        eventually(lambda: book.due().recovered == 1)
        release.set()
        eventually(lambda: engine.flusher.stale == 1)
    engine.stop(0)


def test_a_handler_that_was_never_loaded_does_not_keep_the_message(book: Ledger, start: Callable[..., Engine]) -> None:
    assert registry.get("nobody.handles") is None
    start()
    book.accept(an_acceptance(message_id="m1", type="nobody.handles"))

    record = reaches(book, "m1", State.DEAD_PENDING)

    assert json.loads(record.last_error)["errorType"] == "UNKNOWN_TYPE"


class BreaksOnce(Runner):
    """A runner with a mistake of ours in it: the first attempt ends in no outcome at all."""

    def __init__(self) -> None:
        super().__init__("w-1")
        self.broken = 0

    def run(self, attempt: Attempt) -> Outcome | None:
        if not self.broken:
            self.broken += 1
            raise RuntimeError("broken")
        return super().run(attempt)


def test_an_attempt_that_broke_is_no_longer_held(book: Ledger) -> None:
    engine = Engine(book, name="w-1", concurrency=2)
    engine.pool.runner = BreaksOnce()
    book.accept(an_acceptance(message_id="m1"))
    engine.start()
    try:
        eventually(lambda: engine.pool.runner.broken)  # type: ignore[attr-defined]
        eventually(lambda: engine.claimer.holding() == 0, what="nothing is held")
        eventually(engine.is_drained)
        record = book.get("m1")
        assert record is not None
        assert record.state is State.RUNNING, "its lease brings it back"
    finally:
        engine.stop(0)


class LosesClaims(Ledger):
    """Carries out the first claims that bring something and loses their answers, also when asked again at once."""

    lost: ClassVar[list[str]] = []

    def claim(self, **arguments: Any) -> Claim:
        claim = super().claim(**arguments)
        if claim.records and len(self.lost) < 3:
            self.lost.append(arguments["token"])
            raise StoreUnavailable("the answer was lost")
        return claim


def test_a_claim_without_an_answer_is_repeated_until_it_has_one(redis_client: redis.Redis) -> None:
    book = LosesClaims(redis_client, "dlq:")
    book.lost.clear()
    book.accept_many([an_acceptance(message_id=f"m{number}") for number in range(3)])
    engine = Engine(book, name="w-1", concurrency=4)
    engine.start()
    try:
        for number in range(3):
            record = reaches(book, f"m{number}", State.DONE, seconds=10)
            assert record.recoveries == 0
    finally:
        engine.stop(0)
    assert len(set(book.lost)) == 1


def test_an_outcome_that_cannot_be_written_is_written_in_short_and_holds_up_nobody(
    book: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool(1, Runner("w-1"))
    flusher = Flusher(book, pool)
    odd: dict[str, Any] = {
        "error": {"error": '{"errorReason":"\ud83e"}'}, "no-text": {"error": None}, "line": {"attempt_json": "\ud83e"},
        "wait": {"delay_ms": -1}, "endless": {"delay_ms": float("inf")},
    }  # fmt: skip
    book.accept_many([an_acceptance(message_id=message_id) for message_id in ("m1", "result", *odd, "m2")])

    for claimed in book.claim(token="t", limit=10, owner="w-1", holding=0).records:
        whose: dict[str, Any] = {"message_id": claimed.message_id, "fence": claimed.fence, "attempt_json": "{}"}
        if fields := odd.get(claimed.message_id):
            pool.outcomes.put(Failed(**{**whose, "delay_ms": None, "error": "{}", **fields}))
        else:
            result = '"\ud83e"' if claimed.message_id == "result" else "1"
            pool.outcomes.put(Completed(**whose, result=result))
    flusher.start()
    assert flusher.finish(20)

    assert [reaches(book, message_id, State.DONE).result for message_id in ("m1", "m2")] == ["1", "1"]
    assert "could not be written" in reaches(book, "result", State.DONE).result
    for message_id in odd:
        record = reaches(book, message_id, State.RETRY_WAIT if "delay_ms" in odd[message_id] else State.DEAD_PENDING)
        error = json.loads(record.last_error)
        assert (error["errorType"], error["errorKind"]) == ("UNKNOWN_ERROR", "unknown")
        assert "could not be written" in error["errorReason"]
    were_reduced = [vars(record)["message_id"] for record in caplog.records if record.message == "outcome_reduced"]
    assert sorted(were_reduced) == sorted(["result", *odd])
    assert (flusher.completed, flusher.failed, flusher.deferred) == (3, 5, 0)
    assert book.accounting()[0].done == 3


def test_a_message_whose_story_is_broken_gets_its_outcome_without_a_line(
    book: Ledger, start: Callable[..., Engine], redis_client: redis.Redis
) -> None:
    release = threading.Event()

    with handling(lambda message: release.wait(20)) as type:
        start()
        book.accept(an_acceptance(message_id="m1", type=type))
        reaches(book, "m1", State.RUNNING)
        redis_client.delete("dlq:story:m1")
        redis_client.hset("dlq:story:m1", "of", "another kind")
        release.set()
        eventually(lambda: redis_client.hget("dlq:msg:m1", "state") == b"done")

    assert book.accounting()[0].done == 1


def test_a_reduced_failure_keeps_the_stores_time() -> None:
    failure = Failure("TIMEOUT_ERROR", ErrorKind.TRANSIENT, 'says "at":"1999-01-01T00:00:00.000Z","systemState"')
    told = report.last_error(failure, 1_800_000_000_123, "w-1", "{}")
    outcome = Failed(message_id="a", fence=1, delay_ms=None, error=told, attempt_json="{}")

    less = reduced(outcome, "refused")
    assert isinstance(less, Failed)
    assert json.loads(less.error)["at"] == json.loads(told)["at"] == "2027-01-15T08:00:00.123Z"
