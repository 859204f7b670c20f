"""Letters of messages that ended in this process: the same as a drainer's, and none lost or written twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import bson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from dlq_app.domain.letter import Death, Recorded, Settled
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.ports import ForwardOrder
from dlq_app.domain.replay_policy import Placement
from dlq_app.domain.states import Status
from dlq_app.domain.strategies import Strategy
from dlq_app.services.dead_letters import build_indexes, record_outcomes
from dlq_app.store.documents import new_letter
from dlq_app.testing import NOON
from dlqsite.tests.patience import eventually
from messages_app.attempt import report
from messages_app.domain.attempt_lines import succeeded
from messages_app.domain.records import Claimed, Completed, Deferred, Failed, State, Verdict
from messages_app.failures import ErrorKind, Failure
from messages_app.store.ledger import Ledger
from messages_app.tests.handling import an_acceptance, handling, reaches
from messages_app.work import letter_writer
from messages_app.work.draining import drain
from messages_app.work.ended import Ended, death_of, settled_of
from messages_app.work.engine import Engine
from messages_app.work.letter_writer import LetterWriter
from messages_app.work.upkeep import LEAVE_MS, Upkeep

pytestmark = pytest.mark.redis

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Recorder:
    """Stands in the place of the dead-letter queue, and can hang, be away, refuse and break."""

    def __init__(self) -> None:
        self.outcomes: list[Death | Settled] = []
        self.away = False
        self.calls = 0
        self.refuses: set[str] = set()
        self.breaks: set[str] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
        self.calls += 1
        assert self.may_answer.wait(20)
        if self.away:
            raise LettersUnavailable("away")
        outcomes: list[Death | Settled] = [*deaths, *settles]
        if any(outcome.message_id in self.breaks for outcome in outcomes):
            raise AttributeError("a poisonous document")
        self.outcomes += outcomes
        return [Recorded(outcome.message_id not in self.refuses, "too odd") for outcome in outcomes]

    @property
    def ids(self) -> list[str]:
        return [outcome.message_id for outcome in self.outcomes]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def start(book: Ledger, recorder: Recorder) -> Iterator[Callable[[], LetterWriter]]:
    running: list[LetterWriter] = []

    def make() -> LetterWriter:
        writer = LetterWriter(book, recorder)
        running.append(writer)
        writer.start()
        return writer

    yield make
    recorder.may_answer.set()
    for writer in running:
        writer.finish(5)


def claim(book: Ledger, message_id: str) -> Claimed:
    (claimed,) = book.claim(token=f"{message_id}-{time.monotonic_ns()}", limit=1, owner="w-1", holding=1).records
    return claimed


def failed(claimed: Claimed, failure: Failure, delay_ms: int | None = None) -> Failed:
    return Failed(
        message_id=claimed.message_id,
        fence=claimed.fence,
        delay_ms=delay_ms,
        error=report.last_error(failure, claimed.claimed_at_ms + 5, "w-1", '{"host":"h","cpu":1.5}'),
        attempt_json=report.failed(
            claimed.attempt + 1, claimed.claimed_at_ms, claimed.claimed_at_ms + 5, "w-1", failure, delay_ms
        ),
        claimed=claimed,
    )


def dies(book: Ledger, *message_ids: str, **differing: Any) -> list[Ended]:
    """Accept messages and give them up at once."""
    sent_at = time.monotonic()
    outcomes = []
    for message_id in message_ids:
        book.accept(an_acceptance({"n": 1}, message_id=message_id, **differing))
        outcomes.append(
            failed(claim(book, message_id), Failure("VALIDATION_ERROR", ErrorKind.PERMANENT, "no", "a stack"))
        )
    answers = book.flush_for_letters(outcomes)
    assert {answer.verdict for answer in answers} == {Verdict.TO_OUTBOX}
    return [
        Ended(outcome.claimed, outcome, answer, sent_at)
        for outcome, answer in zip(outcomes, answers, strict=True)
        if outcome.claimed is not None
    ]


def replays(book: Ledger, death: Death, *, edited: bool = False) -> Claimed:
    """Start a replay of a dead message and claim it."""
    book.forward(
        ForwardOrder(
            message_id=death.message_id, epoch=death.epoch + 1, type=death.type, body=death.body,
            run_body=b'{"n": 2}' if edited else None, version=int(edited), priority=death.priority, source=death.source,
            client=death.client, tags=json.dumps(death.tags), queued_at_ms=1, acct_day=death.acct_day, replay_id="r-1",
            batch_id="b-1", death_seen=death.epoch, deadline_ms=book.now_ms() + 60_000, traceparent=death.traceparent,
        )
    )  # fmt: skip
    return claim(book, death.message_id)


def ended(book: Ledger, outcome: Failed | Completed) -> Ended:
    (answer,) = book.flush_for_letters([outcome])
    assert outcome.claimed is not None
    return Ended(outcome.claimed, outcome, answer, time.monotonic())


# --- the same letter both ways ---

ODD = st.text(max_size=30) | st.sampled_from(
    ["", "\0", "\ud83d", "\ud83d\ude00", "a\ud800b", "é\u2028\n", '"\\', "x" * 9000, "secret=hunter2 \U0001f600"]
)
MESSAGES = st.fixed_dictionaries(
    {
        "tags": st.lists(st.text(max_size=5), max_size=3).map(json.dumps),
        "source": st.sampled_from(["api", "shop é", "\u3042"]),
        "priority": st.sampled_from(["high", "normal", "low"]),
        "traceparent": st.sampled_from(["", TRACE]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    message=MESSAGES,
    reasons=st.lists(ODD, min_size=1, max_size=3),
    stack=ODD,
    before=st.lists(st.sampled_from(["lost", "deferred", "breaker"]), max_size=2),
)
def test_a_death_from_memory_is_the_one_from_the_ledger(
    redis_client: redis.Redis, book: Ledger, message: dict[str, str], reasons: list[str], stack: str, before: list[str]
) -> None:
    redis_client.flushall()
    book.accept(an_acceptance({"n": 1}, message_id="m1", **message))
    for what in before:
        run = claim(book, "m1")
        if what == "lost":
            redis_client.hset("dlq:msg:m1", "leaseUntil", 1)
            redis_client.zadd("dlq:due:running", {"m1": 1})
            book.due()
        else:
            line = report.deferred(1, 1, 2, "w-1", what) if what == "deferred" else ""
            book.flush([Deferred(message_id="m1", fence=run.fence, delay_ms=0, why=what, attempt_json=line)])
        # A message that was lost twice runs alone, in a process that holds none.
        redis_client.hset("dlq:msg:m1", "recoveries", 0)
    for reason in reasons[:-1]:
        book.flush(
            [failed(claim(book, "m1"), Failure("NETWORK_ERROR", ErrorKind.TRANSIENT, reason, stack), delay_ms=0)]
        )
        eventually(lambda: book.due().moved)
    last = ended(book, failed(claim(book, "m1"), Failure("VALIDATION_ERROR", ErrorKind.PERMANENT, reasons[-1], stack)))

    (entry,) = book.outbox()
    from_ledger, from_memory = death_of(entry.record), last.outcome_of()

    assert last.is_known
    assert isinstance(from_memory, Death)
    assert from_memory == from_ledger
    assert len(from_memory.attempts) == len(reasons) + sum(what != "breaker" for what in before)
    place = Placement(Status.PENDING, Strategy.MANUAL, None)
    assert bson.encode(new_letter(from_memory, place, NOON, MaskingPolicy())) == bson.encode(
        new_letter(from_ledger, place, NOON, MaskingPolicy())
    )


def test_the_outcome_of_a_replay_from_memory_is_the_one_from_the_ledger(book: Ledger, recorder: Recorder) -> None:
    for message_id in ("m1", "m2"):
        dies(book, message_id, traceparent=TRACE)
    drain(book, recorder)
    first, second = (outcome for outcome in recorder.outcomes if isinstance(outcome, Death))
    run = replays(book, first)
    line = succeeded(1, run.claimed_at_ms, run.claimed_at_ms + 5, "w-1")
    done = ended(
        book, Completed(message_id="m1", fence=run.fence, result='{"a":[1.5]}', attempt_json=line, claimed=run)
    )  # fmt: skip
    again = ended(book, failed(replays(book, second), Failure("VALIDATION_ERROR", ErrorKind.PERMANENT, "no", "s")))

    records = {entry.record.message_id: entry.record for entry in book.outbox()}

    assert (done.is_known, again.is_known) == (True, True)
    assert done.outcome_of() == settled_of(records["m1"])
    assert again.outcome_of() == death_of(records["m2"])


def test_a_claim_does_not_know_the_original_of_an_edited_replay(book: Ledger, recorder: Recorder) -> None:
    dies(book, "m1")
    drain(book, recorder)
    (death,) = recorder.outcomes
    assert isinstance(death, Death)

    again = ended(book, failed(replays(book, death, edited=True), Failure("X", ErrorKind.PERMANENT, "no")))

    assert not again.is_known


@pytest.mark.parametrize("damage", ["", "no-day", ":demo"])
def test_a_record_without_its_day_is_left_to_a_drainer(book: Ledger, redis_client: redis.Redis, damage: str) -> None:
    book.accept(an_acceptance(message_id="m1"))
    run = claim(book, "m1")
    redis_client.hset("dlq:msg:m1", "account", damage)

    assert not ended(book, failed(run, Failure("X", ErrorKind.PERMANENT, "no"))).is_known


# --- writing ---


def test_it_writes_letters_and_acknowledges_them(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter], redis_client: redis.Redis
) -> None:
    writer = start()

    writer.add(dies(book, "m1", "m2"))

    for message_id in ("m1", "m2"):
        assert reaches(book, message_id, State.DEAD).outbox == ""
    assert (sorted(recorder.ids), writer.left) == (["m1", "m2"], 0)
    assert book.outbox() == []
    assert redis_client.zcard("dlq:recorded") == 2
    assert all(redis_client.pttl(f"dlq:{part}:m1") > 0 for part in ("msg", "story", "body"))
    (row,) = book.accounting()
    assert (row.dead, row.open) == (2, 0)


def test_while_mongodb_is_away_memory_stays_empty_and_a_drainer_writes_the_letters(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_writer, "_MIN_PAUSE_S", 60.0)
    monkeypatch.setattr(letter_writer, "_MAX_PAUSE_S", 60.0)
    recorder.away = True
    writer = start()
    writer.add(dies(book, "m1"))
    eventually(lambda: writer.left == 1)

    begun = recorder.calls
    writer.add(dies(book, "m2", "m3"))

    assert (writer.left, recorder.calls, len(writer._waiting), writer._bytes) == (3, begun, 0, 0)
    assert not writer.is_behind()
    recorder.away = False
    drain(book, recorder)
    assert recorder.ids == ["m1", "m2", "m3"]
    assert book.outbox() == []


def test_it_writes_again_once_mongodb_is_back(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_writer, "_MAX_PAUSE_S", 0.0)
    recorder.away = True
    writer = start()
    writer.add(dies(book, "m1"))
    eventually(lambda: writer.left == 1)
    recorder.away = False

    writer.add(dies(book, "m2"))

    reaches(book, "m2", State.DEAD)
    assert reaches(book, "m1", State.DEAD_PENDING).outbox == "death"


def test_what_mongodb_can_never_take_is_quarantined_and_holds_up_nobody(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter]
) -> None:
    recorder.refuses, recorder.breaks = {"m2"}, {"m3"}
    writer = start()

    writer.add(dies(book, "m1", "m2", "m3", "m4"))

    for message_id in ("m1", "m4"):
        reaches(book, message_id, State.DEAD)
    found = {entry.message_id: entry.why for entry in book.quarantined()}
    assert found == {"m2": "too odd", "m3": "AttributeError: a poisonous document"}
    assert book.outbox() == []


def test_a_broken_outcome_is_left_to_a_drainer_and_holds_up_nobody(
    book: Ledger, start: Callable[[], LetterWriter]
) -> None:
    good, bad = dies(book, "m1", "m2")
    assert isinstance(bad.outcome, Failed)
    writer = start()

    writer.add([replace(bad, outcome=replace(bad.outcome, error="{")), good])

    reaches(book, "m1", State.DEAD)
    assert reaches(book, "m2", State.DEAD_PENDING).outbox == "death"
    assert writer.left == 1


def test_it_keeps_a_limited_number_and_size(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_writer, "MAX_WAITING", 2)
    recorder.may_answer.clear()
    writer = start()
    first, *others = dies(book, "m1", "m2", "m3", "m4", "m5")
    writer.add([first])
    eventually(lambda: recorder.calls == 1)

    writer.add(others)
    assert (len(writer._waiting), writer.left) == (2, 2)
    monkeypatch.setattr(letter_writer, "MAX_WAITING", 100)
    monkeypatch.setattr(letter_writer, "MAX_BYTES", writer._bytes + others[0].size)
    writer.add(others[2:])
    assert (len(writer._waiting), writer.left) == (3, 3)
    recorder.may_answer.set()

    assert writer.finish(10)
    assert recorder.ids == ["m1", "m2", "m3", "m4"]
    assert [entry.record.message_id for entry in book.outbox()] == ["m5"]


def test_what_has_waited_too_long_is_left_to_the_drainers(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter]
) -> None:
    old, young = dies(book, "m1", "m2")

    start().add([replace(old, sent_at=old.sent_at - letter_writer.KEEP_S), young])

    reaches(book, "m2", State.DEAD)
    assert recorder.ids == ["m2"]


def test_no_message_is_kept_until_a_drainer_takes_it() -> None:
    assert letter_writer.KEEP_S * 1000 < LEAVE_MS


def test_at_the_end_it_writes_what_waits(book: Ledger, recorder: Recorder) -> None:
    writer = LetterWriter(book, recorder)
    writer.add(dies(book, "m1", "m2"))
    writer.start()

    assert writer.finish(10)
    assert recorder.ids == ["m1", "m2"]


def test_an_end_does_not_wait_for_mongodb(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter]
) -> None:  # fmt: skip
    recorder.may_answer.clear()
    writer = start()
    writer.add(dies(book, "m1"))
    eventually(lambda: recorder.calls == 1)

    assert not writer.finish(0.05)
    assert reaches(book, "m1", State.DEAD_PENDING).outbox == "death"


# --- with an engine, and beside drainers ---


def test_an_engine_writes_letters_without_a_drainer(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter]
) -> None:  # fmt: skip
    engine = Engine(book, name="w-1", concurrency=2, letters=start())
    engine.start()
    book.accept(an_acceptance({"simulateError": True, "errorType": "VALIDATION_ERROR"}, message_id="m1"))

    reaches(book, "m1", State.DEAD)
    (death,) = recorder.outcomes
    assert isinstance(death, Death)
    run = ForwardOrder(
        message_id="m1", epoch=death.epoch + 1, type="demo", body=b"{}", run_body=None, version=0, priority="normal",
        source="api", client="c", tags="[]", queued_at_ms=1, acct_day=death.acct_day, replay_id="r-1", batch_id="",
        death_seen=death.epoch, deadline_ms=book.now_ms() + 60_000,
    )  # fmt: skip
    book.forward(run)

    eventually(lambda: len(recorder.outcomes) == 2)
    assert engine.stop(1)
    assert isinstance(recorder.outcomes[1], Settled)
    eventually(lambda: book.outbox() == [])


def test_a_process_that_is_behind_claims_no_messages(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_writer, "FULL", 0)
    monkeypatch.setattr(letter_writer, "PATIENCE_S", 60.0)
    recorder.may_answer.clear()
    writer = start()
    writer.add(dies(book, "m1"))
    eventually(lambda: recorder.calls == 1)
    writer.add(dies(book, "m2"))
    assert writer.is_behind()
    ran = threading.Event()
    with handling(lambda message: ran.set()) as type:
        engine = Engine(book, name="w-1", concurrency=2, letters=writer)
        engine.start()
        book.accept(an_acceptance(message_id="next", type=type))
        assert not ran.wait(0.3)

        recorder.may_answer.set()

        reaches(book, "next", State.DONE)
        assert engine.stop(1)


def test_no_message_is_held_up_while_mongodb_hangs_or_is_away(
    book: Ledger, recorder: Recorder, start: Callable[[], LetterWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_writer, "FULL", 0)
    monkeypatch.setattr(letter_writer, "PATIENCE_S", 0.05)
    monkeypatch.setattr(letter_writer, "_MIN_PAUSE_S", 0.0)
    monkeypatch.setattr(letter_writer, "_MAX_PAUSE_S", 0.001)
    recorder.away = True
    recorder.may_answer.clear()
    writer = start()
    first, second, *probe = dies(book, "m1", "m2", "m3", "m4")
    writer.add([first])
    eventually(lambda: recorder.calls == 1)
    writer.add([second])
    eventually(lambda: not writer.is_behind())
    assert len(writer._waiting) == 1

    # Away: the next attempt may take as long, again and again.
    monkeypatch.setattr(letter_writer, "PATIENCE_S", 60.0)
    monkeypatch.setattr(letter_writer, "_MIN_PAUSE_S", 0.001)
    recorder.may_answer.set()
    eventually(lambda: writer.left == 2)
    recorder.may_answer.clear()
    eventually(lambda: time.monotonic() > writer._resumes_at)
    writer.add(probe[:1])
    eventually(lambda: recorder.calls == 2)
    writer.add(probe[1:])

    assert len(writer._waiting) == 1
    assert not writer.is_behind()


@pytest.mark.parametrize(("added_ago_ms", "is_left"), [(0, True), (LEAVE_MS, False), (-3_600_000, False)])
def test_a_drainer_leaves_young_outcomes_to_their_process(
    book: Ledger, recorder: Recorder, redis_client: redis.Redis, added_ago_ms: int, is_left: bool
) -> None:
    dies(book, "m1")
    redis_client.zincrby("dlq:outbox", -added_ago_ms, "m1")  # of the future: the server's clock was set back

    drain(book, recorder, leave_ms=LEAVE_MS)

    assert recorder.ids == ([] if is_left else ["m1"])


def test_a_drainer_takes_what_the_mover_gave_up_at_once(book: Ledger, recorder: Recorder) -> None:
    upkeep = Upkeep(book, name="w-1", role="worker", details=dict, record_outcomes=recorder, leave_ms=LEAVE_MS)
    dies(book, "m1")
    upkeep._drain()
    assert recorder.ids == []

    upkeep.outbox_filled()
    upkeep._drain()

    assert recorder.ids == ["m1"]
    dies(book, "m2")
    upkeep._drain()
    assert recorder.ids == ["m1"]


@pytest.mark.mongo
def test_a_writer_and_drainers_at_the_same_time_write_each_letter_once(
    book: Ledger, mongo_db: Database[dict[str, Any]]
) -> None:
    build_indexes()
    writer = LetterWriter(book, record_outcomes)
    writer.start()
    over = threading.Event()
    errors: list[BaseException] = []

    def keep_draining() -> None:
        try:
            while not over.is_set() or book.outbox():
                drain(book, record_outcomes)
        except BaseException as error:
            errors.append(error)

    drainers = [threading.Thread(target=keep_draining) for _ in range(2)]
    for drainer in drainers:
        drainer.start()
    for batch in range(5):
        writer.add(dies(book, *(f"m{batch}-{number}" for number in range(20))))
    over.set()
    for drainer in drainers:
        drainer.join(30)
    assert writer.finish(30)

    assert errors == []
    letters = list(mongo_db["dead_letters"].find())
    assert len(letters) == len({letter["messageId"] for letter in letters}) == 100
    assert all(len(letter["attempts"]) == 1 for letter in letters)
    (row,) = book.accounting()
    assert (row.accepted, row.dead, row.open) == (100, 100, 0)


@pytest.mark.mongo
@pytest.mark.parametrize("where", ["before the letter", "after the letter", "after the acknowledgement"])
def test_a_kill_between_two_steps_loses_no_letter_and_writes_none_twice(
    book: Ledger, mongo_db: Database[dict[str, Any]], where: str
) -> None:
    build_indexes()
    done = subprocess.run(
        [sys.executable, "-m", "messages_app.tests.killed_writer", where], env=dict(os.environ), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    letters = mongo_db["dead_letters"]
    assert letters.count_documents({}) == (0 if where == "before the letter" else 3)
    left = [entry.record.message_id for entry in book.outbox()]
    assert sorted(left) == ([] if where == "after the acknowledgement" else ["m0", "m1", "m2"])

    drain(book, record_outcomes)

    assert sorted(letter["messageId"] for letter in letters.find()) == ["m0", "m1", "m2"]
    assert [len(letter["attempts"]) for letter in letters.find()] == [1, 1, 1]
    assert [book.get(f"m{number}").state for number in range(3)] == [State.DEAD] * 3  # type: ignore[union-attr]
    assert book.outbox() == []
    (row,) = book.accounting()
    assert (row.accepted, row.dead, row.open) == (3, 3, 0)
