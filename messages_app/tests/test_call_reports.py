"""What breakers are told of attempts: once each, together, and without anybody waiting for their store."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from breaker_app import conf as breaker_conf
from breaker_app.breaker import CircuitBreaker, Outcome, State
from breaker_app.conf import breaker_for, store
from dlqsite.tests.patience import eventually
from messages_app import services
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Completed, Deferred, Failed, OutcomeAnswer
from messages_app.domain.records import Outcome as AttemptOutcome
from messages_app.domain.records import State as MessageState
from messages_app.envelope import Message
from messages_app.failures import TransientError
from messages_app.store.ledger import Ledger
from messages_app.tests.handling import a_claimed, an_acceptance, handling, reaches
from messages_app.work import pool as pool_module
from messages_app.work.call_reports import BreakerReporter, CallReport, send
from messages_app.work.engine import Engine
from messages_app.work.flushing import Flusher
from messages_app.work.pool import Pool
from messages_app.work.runner import Attempt, Runner

pytestmark = pytest.mark.redis

NAME = "orders-db"


@pytest.fixture
def breaker(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker_conf.forget()
    yield breaker_for(NAME)
    breaker_conf.forget()


@pytest.fixture
def trying(breaker: CircuitBreaker, settings: Any) -> CircuitBreaker:
    """A breaker that is about to let its first probes through."""
    settings.BREAKER_POLICY = {"default": {"open_timeout_ms": 1}}
    found = breaker_for(NAME)
    found.force(State.OPEN, actor="user:olga", reason="test")
    eventually(lambda: found.peek().due)
    return found


@pytest.fixture
def pool(breaker: CircuitBreaker) -> Iterator[Pool]:
    pool = Pool(2, Runner("w-1", reuse_ms=250))
    pool.start()
    yield pool
    pool.close()


def an_attempt(type: str, **differing: Any) -> Attempt:
    return Attempt(a_claimed(type=type, **differing), time.monotonic())


def endless(message: Message) -> None:
    while True:
        time.sleep(0.001)


def questions(client: redis.Redis) -> int:
    """Scripts that the server has run."""
    stats = client.info("commandstats")
    return sum(int(stats[name]["calls"]) for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)


def counts(breaker: CircuitBreaker) -> tuple[int, int]:
    seen = breaker.peek()
    return seen.total, seen.failures


def test_while_closed_one_answer_serves_all_attempts_for_a_quarter_of_a_second(
    breaker: CircuitBreaker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(breaker_for(NAME, reuse_ms=250), "_monotonic", lambda: now[0])
    runner = Runner("w-1", reuse_ms=250)
    permits = []

    with handling(lambda message: None, breaker=NAME) as type:
        for now[0] in (100.0, 100.1, 100.249, 100.251):
            outcome = runner.run(an_attempt(type))
            assert outcome is not None
            assert outcome.call_report is not None
            permits.append(outcome.call_report.permit)

    assert permits[0] is permits[1] is permits[2]
    assert permits[3].token != permits[0].token


def test_each_probe_has_a_permit_of_its_own(trying: CircuitBreaker) -> None:
    runner = Runner("w-1", reuse_ms=250)
    with handling(lambda message: None, breaker=NAME) as type:
        outcomes = [runner.run(an_attempt(type, message_id=f"m{number}")) for number in range(11)]

    samples = [outcome.call_report for outcome in outcomes if outcome is not None and outcome.call_report is not None]
    assert len({sample.permit.token for sample in samples}) == len(samples) == 10
    assert all(sample.is_of_probe for sample in samples)
    assert isinstance(outcomes[10], Deferred), "there are ten permits"
    assert trying.peek().leases == 10


def test_many_samples_are_one_question_to_each_breaker(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    other = breaker_for("other")
    samples = [CallReport(b, b.acquire(), Outcome.SUCCESS, 1) for b in (breaker, other)]
    send(samples)
    asked = questions(redis_client)

    send(samples * 50)

    assert questions(redis_client) - asked == 2
    assert (counts(breaker), counts(other)) == ((51, 0), (51, 0))


def test_an_engine_tells_of_every_attempt_once(breaker: CircuitBreaker, book: Ledger) -> None:
    def function(message: Message) -> None:
        if message.payload["fails"]:
            raise TransientError("later")

    with handling(function, breaker=NAME) as type:
        engine = Engine(book, name="w-1", concurrency=4)
        engine.start()
        try:
            # Few enough failures for the breaker to stay closed: every outcome counts.
            book.accept_many([an_acceptance({"fails": number % 5 == 0}, type=type) for number in range(300)])
            eventually(lambda: engine.flusher.flushed == 300)
        finally:
            assert engine.stop(5)

    assert counts(breaker) == (300, 60)


class Watched(Ledger):
    """Looks at the breaker whenever something is flushed, and answers as often with an error as it is told to."""

    seen: list[int]
    errors: list[Exception]

    def flush_for_letters(self, outcomes: Sequence[AttemptOutcome]) -> list[OutcomeAnswer]:
        self.seen.append(breaker_for(NAME).peek().total)
        if self.errors:
            raise self.errors.pop(0)
        return super().flush_for_letters(outcomes)


@pytest.fixture
def watched(redis_client: redis.Redis) -> Watched:
    book = Watched(redis_client, "dlq:")
    book.seen, book.errors = [], []
    return book


def flushed(book: Ledger, pool: Pool, outcomes: Sequence[AttemptOutcome]) -> Flusher:
    flusher = Flusher(book, pool)
    for outcome in outcomes:
        pool.outcomes.put(outcome)
    flusher.start()
    return flusher


def run(type: str, count: int = 1) -> list[AttemptOutcome]:
    runner = Runner("w-1", reuse_ms=250)
    outcomes = [runner.run(an_attempt(type, message_id=f"m{number}")) for number in range(count)]
    return [outcome for outcome in outcomes if outcome is not None]


def test_the_ledger_has_an_outcome_before_the_breaker_counts_it(
    breaker: CircuitBreaker, watched: Watched, pool: Pool
) -> None:
    with handling(lambda message: None, breaker=NAME) as type:
        flusher = flushed(watched, pool, run(type, 3))

    assert flusher.finish(5)
    assert watched.seen == [0]
    assert counts(breaker) == (3, 0)


def test_whatever_the_ledger_answers_the_breaker_is_told_once(
    breaker: CircuitBreaker, watched: Watched, pool: Pool
) -> None:
    # Away, then choking on the batch, away again for its first, and choking on that one for good.
    watched.errors += [StoreUnavailable("away"), ValueError("odd"), StoreUnavailable("away"), ValueError("odd")]
    with handling(lambda message: None, breaker=NAME) as type:
        flusher = flushed(watched, pool, run(type, 3))

    assert flusher.finish(5)
    assert counts(breaker) == (3, 0)


def test_an_outcome_that_cannot_be_flushed_counts_all_the_same(
    breaker: CircuitBreaker, watched: Watched, pool: Pool
) -> None:
    watched.errors += [ValueError("odd")]
    with handling(lambda message: None, breaker=NAME) as type:
        flusher = flushed(watched, pool, run(type))

    assert flusher.finish(5)
    assert counts(breaker) == (1, 0)


class Holding(Ledger):
    """Keeps everybody waiting who flushes."""

    release: threading.Event

    def flush_for_letters(self, outcomes: Sequence[AttemptOutcome]) -> list[OutcomeAnswer]:
        self.release.wait(20)
        return super().flush_for_letters(outcomes)


def test_a_probes_outcome_does_not_wait_for_the_ledger(
    trying: CircuitBreaker, redis_client: redis.Redis, pool: Pool
) -> None:
    book = Holding(redis_client, "dlq:")
    book.release = threading.Event()
    with handling(lambda message: None, breaker=NAME) as type:
        flusher = flushed(book, pool, run(type, 10))

    try:
        eventually(lambda: trying.peek().state is State.CLOSED)
    finally:
        book.release.set()
    assert flusher.finish(5)


def test_an_attempt_in_an_abandoned_thread_counts_once_and_as_a_failure(
    breaker: CircuitBreaker, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "GRACE_S", 0.1)
    release = threading.Event()
    with handling(lambda message: release.wait(20), breaker=NAME, timeout=0.1) as type:
        pool.add([an_attempt(type)])
        outcome = pool.outcomes.get(timeout=10)
        assert isinstance(outcome, Failed)
        assert outcome.call_report is not None
        outcome.call_report.send()
        release.set()
        eventually(lambda: pool.abandoned() == 0)

    assert outcome.call_report.outcome is Outcome.FAILURE
    assert outcome.call_report.took_ms >= 100
    assert counts(breaker) == (1, 1)
    assert pool.outcomes.empty()


def test_a_probe_that_is_stopped_gives_its_permit_back_once(trying: CircuitBreaker, pool: Pool) -> None:
    with handling(endless, breaker=NAME) as type:
        pool.add([an_attempt(type)])
        eventually(lambda: any(attempt.started_at for attempt in pool.running()))
        assert trying.peek().leases == 1
        pool.interrupt_all("shutdown")
        outcome = pool.outcomes.get(timeout=10)
        assert isinstance(outcome, Deferred)
        assert outcome.call_report is not None
        outcome.call_report.send()

    assert outcome.call_report.outcome is Outcome.IGNORED
    seen = trying.peek()
    assert (seen.leases, seen.probes_succeeded, seen.probes_failed) == (0, 0, 0)


def test_a_probe_handed_back_before_its_call_gives_its_permit_back(
    trying: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stop comes after the permission was asked for and before anybody can see it.
    attempt = an_attempt("test.type")
    runner = Runner("w-1")
    ask = CircuitBreaker.acquire

    def stopped_meanwhile(self: CircuitBreaker, token: str | None = None) -> Any:
        permit = ask(self, token)
        assert attempt.interrupt("shutdown")
        assert attempt.take_report()
        assert runner.hand_back(attempt, "shutdown").call_report is None
        return permit

    monkeypatch.setattr(CircuitBreaker, "acquire", stopped_meanwhile)
    with handling(lambda message: None, breaker=NAME):
        assert runner.run(attempt) is None

    seen = trying.peek()
    assert (seen.state, seen.leases, seen.probes_succeeded) == (State.HALF_OPEN, 0, 0)


class Broken(Runner):
    """A runner with a mistake of ours in it."""

    def _complete(self, attempt: Attempt, value: Any) -> Completed:
        raise RuntimeError("broken")


def test_an_attempt_that_broke_gives_its_permit_back(trying: CircuitBreaker) -> None:
    with handling(lambda message: None, breaker=NAME) as type, pytest.raises(RuntimeError):
        Broken("w-1").run(an_attempt(type))

    seen = trying.peek()
    assert (seen.state, seen.leases, seen.probes_succeeded) == (State.HALF_OPEN, 0, 0)


def test_rqs_own_worker_tells_at_once(breaker: CircuitBreaker, book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    offer, counted = services._record, []

    def watched_offer(book: Ledger, outcome: AttemptOutcome) -> None:
        counted.append(counts(breaker))
        offer(book, outcome)

    monkeypatch.setattr(services, "_record", watched_offer)
    with handling(lambda message: None, breaker=NAME) as type:
        book.accept(an_acceptance(message_id="m1", type=type))
        record = book.get("m1")
        assert record is not None
        assert services.process("m1", record.epoch, 0) == "completed"

    assert counted == [(1, 0)]
    assert counts(breaker) == (1, 0)


@pytest.fixture
def silent(breaker: CircuitBreaker, settings: Any) -> Iterator[None]:
    """The breakers' store takes connections and never says a word; the ledger is well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings.REDIS_URL = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        yield


@pytest.mark.usefixtures("silent")
def test_while_the_breakers_store_is_silent_messages_end_and_this_process_counts(book: Ledger) -> None:
    with handling(lambda message: None, breaker=NAME) as type:
        engine = Engine(book, name="w-1", concurrency=4)
        engine.start()
        try:
            book.accept_many([an_acceptance(message_id=f"m{number}", type=type) for number in range(50)])
            for number in range(50):
                reaches(book, f"m{number}", MessageState.DONE)
        finally:
            assert engine.stop(5)

    seen = breaker_for(NAME).peek()
    assert (seen.shared, seen.total, seen.failures) == (False, 50, 0)


class Waiting:
    """A store of breakers that answers nobody until it is let."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.release = threading.Event()

    def record(self, *_: object) -> Any:
        self.asked.set()
        self.release.wait(20)
        return store().record(*_)  # type: ignore[arg-type]


def test_nobody_waits_for_the_breakers_store(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting()
    sample = CallReport(breaker, breaker.acquire(), Outcome.SUCCESS, 1)
    monkeypatch.setattr(breaker, "_store", waiting)
    reporter = BreakerReporter()
    reporter.start()

    reporter.add([sample])
    assert waiting.asked.wait(10)
    reporter.add([sample, sample])  # returns, though the one before is not through
    monkeypatch.undo()
    assert counts(breaker) == (0, 0)
    waiting.release.set()
    reporter.finish(10)

    assert counts(breaker) == (3, 0)
