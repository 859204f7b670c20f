"""``manage.py replay_dlq``: what it shows is what is done, and its exit code says how it ended."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from dlq_app.domain.errors import BatchBeingPlanned, StoreUnavailable
from dlq_app.domain.letter import Settled
from dlq_app.domain.ports import ForwardOrder
from dlq_app.domain.replay_batch import BatchCounts, ReplayBatch, Stage
from dlq_app.services import batches, dead_letters
from dlq_app.testing import MemoryIntake, a_death
from management.management.commands import replay_dlq
from management.progress import Progress, in_words
from messages_app.store import presence

pytestmark = [
    pytest.mark.mongo,
    pytest.mark.redis,
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client", "store"),
]


class Workers:
    """The DLQ worker and intake's workers: they work while the command sleeps."""

    def __init__(self, port: MemoryIntake) -> None:
        self.port = port
        self._executor = batches.executor()
        self.well: Callable[[ForwardOrder], bool] = lambda _: True
        self.reason = "the bank said no\x1b[2J"
        self.before_turn: Callable[[], None] = lambda: None
        self._ended = 0

    def turn(self, _: float) -> None:
        self.before_turn()
        for _turn in range(20):
            self._executor.tick()
            orders, self._ended = self.port.forwarded[self._ended :], len(self.port.forwarded)
            for order in orders:
                ended = self.port.end(order.message_id, done=self.well(order))
                if isinstance(ended, Settled):
                    dead_letters.record_outcomes([], [ended])
                else:
                    died = a_death(
                        order.message_id, epoch=order.epoch, replay_id=order.replay_id, batch_id=order.batch_id,
                        error_reason=self.reason,
                    )  # fmt: skip
                    dead_letters.record_outcomes([died], [])


@pytest.fixture(autouse=True)
def workers(intake: MemoryIntake, monkeypatch: pytest.MonkeyPatch) -> Workers:
    found = Workers(intake)
    monkeypatch.setattr(replay_dlq, "sleep", found.turn)
    return found


class Ran:
    """What a run of the command printed, and its exit code."""

    def __init__(self, *line: str) -> None:
        out, err = StringIO(), StringIO()
        self.code: object = 0
        try:
            call_command("replay_dlq", *line, stdout=out, stderr=err)
        except SystemExit as ended:
            self.code = ended.code
        except CommandError as error:
            self.code = error.returncode
            err.write(str(error))
        self.out, self.err = out.getvalue(), err.getvalue()


def die(*ids: str, **changes: Any) -> None:
    dead_letters.record_outcomes([a_death(message_id, **changes) for message_id in ids], [])


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A person at the terminal who types this."""
    keyboard = io.StringIO(text)
    keyboard.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", keyboard)


def the_batch() -> ReplayBatch:
    (found,) = batches.page(limit=10).batches
    return found


def test_a_dry_run_shows_what_would_be_done_and_does_nothing() -> None:
    die("m-1", "m-2", "m-3")
    die("n-1", error_type="NETWORK_ERROR", type="demo")
    dead_letters.resolve_by_hand("m-3", actor="cli:ann")

    ran = Ran("--error-type", "TIMEOUT_ERROR", "--error-type", "NETWORK_ERROR", "--dry-run")

    assert ran.code == 0
    assert ran.out.splitlines() == [
        "3 letters would be replayed.",
        "  by error type: TIMEOUT_ERROR 2, NETWORK_ERROR 1",
        "  by type: payment.capture 2, demo 1",
        "  left out: 1 resolved",
    ]
    assert batches.page().batches == []


def test_letters_that_kill_their_worker_are_left_out_until_they_are_meant(intake: MemoryIntake) -> None:
    die("m-1", error_type="WORKER_LOST", error_kind="unknown")
    die("m-2")

    seen = Ran("--all", "--dry-run")
    assert "  left out: 1 with WORKER_LOST, which probably kill a worker; --poison includes them" in seen.out
    named = Ran("m-1", "--yes")
    assert (named.code, intake.forwarded) == (2, [])
    ran = Ran("m-1", "--poison", "--yes", "--wait")
    assert (ran.code, [order.alone for order in intake.forwarded]) == (0, [True])


def test_a_dry_run_as_json_is_one_document() -> None:
    die("m-1")

    found = json.loads(Ran("--type", "payment.capture", "--dry-run", "--json").out)

    assert (found["count"], found["byErrorType"]) == (1, {"TIMEOUT_ERROR": 1})


def test_it_starts_what_the_flags_say() -> None:
    die("m-1", "m-2", "m-3")

    ran = Ran(
        *("--status", "dlq_pending", "--tag", "eu", "--limit", "2", "--rate", "20", "--canary", "1"),
        *("--max-failures", "3", "--max-failure-rate", "0.5", "--schedule", "2026-11-24T12:00:00Z"),
        *("--name", "bank", "--reason", "the bank is back", "--yes"),
    )

    batch = the_batch()
    assert ran.code == 0
    assert f"Batch {batch.id} with 2 letters is planned." in ran.out
    assert f"POST /api/dlq/replay-batches/{batch.id}/cancel" in ran.out
    assert batch.criteria is not None
    assert (batch.criteria.statuses, batch.criteria.tags) == (("dlq_pending",), ("eu",))
    assert (batch.limit, batch.rate_per_second, batch.canary and batch.canary.size) == (2, 20.0, 1)
    assert (batch.max_failures, batch.max_failure_rate) == (3, 0.5)
    assert (batch.name, batch.reason) == ("bank", "the bank is back")
    assert batch.scheduled_at == datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert batch.requested_by.startswith("cli")


def test_started_without_waiting_json_is_the_batch() -> None:
    die("m-1")

    ran = Ran("--all", "--yes", "--json")

    assert json.loads(ran.out)["batchId"] == the_batch().id


def test_it_says_when_nobody_is_there_to_do_the_work(workers: Workers) -> None:
    die("m-1")

    assert "No DLQ worker reports" in Ran("m-1", "--yes").err
    presence.announce("dlq-1", "dlq_worker", started_at_ms=0)
    assert Ran("m-1", "--yes").err == ""


# --- asking ---


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
def test_without_a_yes_nothing_is_started(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    die("m-1")
    typed(monkeypatch, answer)

    ran = Ran("--all")

    assert (ran.code, batches.page().batches) == (1, [])
    assert "Replay 1 letter? [y/N]" in ran.err
    assert "Nothing was started" in ran.err


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_a_yes_starts_it_and_the_question_is_not_in_what_programs_read(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    die("m-1")
    typed(monkeypatch, answer)

    ran = Ran("--all", "--json")

    assert ran.code == 0
    assert json.loads(ran.out)["total"] == 1


def test_where_nobody_can_be_asked_a_yes_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    ran = Ran("--all")

    assert (ran.code, batches.page().batches) == (1, [])
    assert "say --yes" in ran.err


# --- what does not make sense ---


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "--all"),
        ("--yes", "--all"),
        ("m-1 --type demo", "not both"),
        ("m-1 --all", "ID give ids or a filter"),
        ("m!1", "ID must be ids"),
        ("--status lost", "--status must be one of"),
        ("--error-kind odd", "--error-kind must be"),
        ("--from yesterday", "--from must be"),
        ("--all --limit 0", "--limit must be"),
        ("--all --rate 0", "--rate must be"),
        ("--all --rate nan", "--rate must be"),
        ("--all --canary 0", "--canary must be"),
        ("--all --max-failures -1", "--max-failures must be"),
        ("--all --max-failure-rate 2", "--max-failure-rate must be"),
        ("--all --schedule tomorrow", "--schedule must be"),
        ("--all --limit many", "--limit"),
    ],
)
def test_it_names_the_flag_that_is_wrong_and_starts_nothing(line: str, told: str) -> None:
    die("m-1")

    ran = Ran(*line.split(), *(["--yes"] if "--yes" not in line else []))

    assert ran.code == 1
    assert told in ran.err
    assert batches.page().batches == []


def test_a_flag_that_is_none_does_not_exit_like_letters_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["--older-than", "3d"], ["--limit", "many"]):
        with pytest.raises(SystemExit) as ended:
            replay_dlq.Command().run_from_argv(["manage.py", "replay_dlq", "--yes", *line])
        assert ended.value.code == 1
        assert line[0] in capsys.readouterr().err


def test_an_empty_value_does_not_mean_every_letter() -> None:
    die("m-1")

    ran = Ran("--status", "dlq_pending", "--type", "", "--yes")

    assert (ran.code, batches.page().batches) == (1, [])


def test_a_filter_that_fits_nothing_is_no_error() -> None:
    ran = Ran("--type", "demo", "--yes", "--wait")

    assert (ran.code, ran.out) == (0, "0 letters would be replayed.\n")
    assert batches.page().batches == []


@pytest.mark.parametrize("flags", [("--yes",), ("--yes", "--wait"), ("--yes", "--wait", "--json")])
def test_ids_of_no_letter_are_told_by_the_exit_code(flags: tuple[str, ...]) -> None:
    die("m-1")

    assert Ran("nobody", *flags).code == 2
    if "--wait" in flags:
        assert Ran("m-1", "nobody", *flags).code == 2


# --- waiting ---


def test_it_waits_until_every_letter_succeeded() -> None:
    die("m-1", "m-2", "m-3")

    ran = Ran("m-1", "m-2", "m-3", "--yes", "--wait")

    assert ran.code == 0
    lines = ran.out.splitlines()
    assert any(line.startswith("planned  [") and "0/3" in line for line in lines)
    assert any(line.startswith("finished  [########################] 100%  3/3") for line in lines)
    assert f"Batch {the_batch().id} finished" in ran.out
    assert "3 succeeded, 0 failed, 0 skipped, of 3 letters." in ran.out


def test_a_letter_that_failed_makes_the_exit_code_2(workers: Workers) -> None:
    die("m-1", "m-2", "m-3")
    workers.well = lambda order: order.message_id != "m-2"

    ran = Ran("--all", "--yes", "--wait")

    assert ran.code == 2
    assert "2 succeeded, 1 failed, 0 skipped" in ran.out
    assert "1  failed_new  TIMEOUT_ERROR" in ran.out


def test_a_letter_that_was_skipped_makes_the_exit_code_2(workers: Workers) -> None:
    die("m-1", "m-2")

    def resolve() -> None:
        workers.before_turn = lambda: None
        dead_letters.resolve_by_hand("m-2", actor="cli:ann")

    workers.before_turn = resolve

    ran = Ran("--all", "--yes", "--wait")

    assert ran.code == 2
    assert "1  skipped:resolved" in ran.out


def test_a_canary_that_failed_is_told_with_the_error_that_came_back(workers: Workers) -> None:
    die(*(f"m-{n}" for n in range(6)))
    workers.well = lambda order: False

    ran = Ran("--all", "--canary", "2", "--yes", "--wait")

    assert ran.code == 2
    assert "Stopped: of the first 2 letters 2 had to succeed and did not." in ran.out
    assert "What came back: TIMEOUT_ERROR: the bank said no" in ran.out
    assert "\x1b" not in ran.out
    assert len(workers.port.forwarded) == 2


def test_too_many_failures_are_told(workers: Workers) -> None:
    die(*(f"m-{n}" for n in range(60)))
    workers.well = lambda order: False

    ran = Ran("--all", "--max-failures", "3", "--yes", "--wait")

    assert ran.code == 2
    assert "Stopped: " in ran.out
    assert "failures of" in ran.out
    assert "What came back: TIMEOUT_ERROR" in ran.out


def test_a_batch_that_somebody_cancels_ends_the_wait(workers: Workers) -> None:
    die("m-1", "m-2")

    def cancel() -> None:
        workers.before_turn = lambda: None
        batches.cancel(the_batch().id, actor="key:olga", reason="wrong filter")

    workers.before_turn = cancel

    ran = Ran("--all", "--rate", "0.01", "--yes", "--wait")

    assert ran.code == 2
    assert "Cancelled: wrong filter" in ran.out


def test_json_while_waiting_is_a_line_for_each_stage_and_the_end(workers: Workers) -> None:
    die("m-1", "m-2")

    ran = Ran("--all", "--yes", "--wait", "--json")

    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert lines[0]["stage"] == "planned"
    assert lines[-1]["stage"] == "finished"
    assert lines[-1]["counts"]["succeeded"] == 2


def test_ctrl_c_leaves_the_batch_running(workers: Workers) -> None:
    die("m-1")

    def interrupt() -> None:
        raise KeyboardInterrupt

    workers.before_turn = interrupt

    ran = Ran("--all", "--yes", "--wait")

    assert ran.code == 130
    batch = the_batch()
    assert batch.stage is Stage.PLANNED
    assert f"Batch {batch.id} goes on." in ran.err
    assert f"/api/dlq/replay-batches/{batch.id}" in ran.err
    assert "/cancel" in ran.err


def test_a_store_that_is_away_for_a_moment_does_not_end_the_wait(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    die("m-1")
    ask = batches.get
    failing = iter([True, True])

    def get(batch_id: str) -> ReplayBatch:
        if next(failing, False):
            raise StoreUnavailable("MongoDB does not answer.")
        return ask(batch_id)

    monkeypatch.setattr(batches, "get", get)

    ran = Ran("--all", "--yes", "--wait")

    assert ran.code == 0
    assert ran.err.count("MongoDB does not answer.") == 1


def test_a_start_whose_answer_was_lost_starts_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1")
    start = batches.start
    lost = iter([StoreUnavailable("the answer was lost"), BatchBeingPlanned()])

    def start_and_lose(*args: Any, **options: Any) -> ReplayBatch:
        found = start(*args, **options)
        for error in lost:
            raise error
        return found

    monkeypatch.setattr(batches, "start", start_and_lose)

    assert Ran("--all", "--yes").code == 0
    assert the_batch().total == 1


def test_a_store_that_stays_away_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> ReplayBatch:
        raise StoreUnavailable("MongoDB does not answer.")

    monkeypatch.setattr(batches, "dry_run", away)

    ran = Ran("--all", "--yes")

    assert ran.code == 1
    assert "MongoDB does not answer." in ran.err


# --- the line that shows how far it is ---


def a_batch(**changes: Any) -> ReplayBatch:
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    values: dict[str, Any] = {
        "id": "b-1",
        "name": "",
        "reason": "",
        "stage": Stage.RUNNING,
        "resume_to": None,
        "paused_by": "",
        "stop_reason": "",
        "total": 1000,
        "late_arrivals": 0,
        "counts": BatchCounts(),
        "rate_per_second": None,
        "canary": None,
        "max_failures": None,
        "max_failure_rate": None,
        "requested_by": "cli",
        "criteria": None,
        "ids_given": False,
        "limit": None,
        "created_at": now,
        "scheduled_at": None,
        "started_at": now,
        "finished_at": None,
        "updated_at": now,
    }
    return ReplayBatch(**{**values, **changes})


def shown(steps: list[tuple[float, ReplayBatch]], *, live: bool, columns: int = 200) -> str:
    out = StringIO()
    clock = iter([at for at, _ in steps])
    progress = Progress(out, live=live, clock=lambda: next(clock), columns=lambda: columns)
    for _, batch in steps:
        progress.show(batch)
    progress.close()
    return out.getvalue()


def counts(succeeded: int, failed: int = 0, skipped: int = 0) -> BatchCounts:
    ended = succeeded + failed + skipped
    return BatchCounts(
        sent=succeeded + failed, succeeded=succeeded, failed=failed, skipped=skipped, remaining=1000 - ended
    )


def test_the_line_has_bar_outcomes_rate_and_time_left() -> None:
    out = shown([(0, a_batch(counts=counts(0))), (10, a_batch(counts=counts(240, 5, 5)))], live=False)

    assert out.splitlines()[-1] == (
        "running  [######------------------] 25%  250/1000  25.0/s  30 s left  240 succeeded, 5 failed, 5 skipped"
    )


def test_the_rate_is_that_of_the_last_seconds() -> None:
    steps = [(float(at), a_batch(counts=counts(at * 100 if at < 5 else 500 + at))) for at in range(60)]

    assert "  1.0/s  " in shown(steps, live=True).split("\r")[-1]


def test_a_terminal_sees_one_line_that_fits() -> None:
    out = shown([(0, a_batch()), (1, a_batch(counts=counts(1)))], live=True, columns=60)

    assert out.count("\n") == 1
    assert all(len(line.removeprefix("\x1b[K").rstrip("\n")) < 60 for line in out.split("\r"))


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_narrow_terminal_still_sees_rate_and_time_left(columns: int) -> None:
    steps = [(0.0, a_batch(counts=counts(0))), (10.0, a_batch(counts=counts(240, 5, 5)))]

    line = shown(steps, live=True, columns=columns).split("\x1b[K")[-1]

    assert "25%  250/1000  25.0/s  30 s left" in line
    assert ("#" in line) == (columns > 80)


def test_a_log_sees_a_line_every_few_seconds_and_at_every_stage() -> None:
    steps = [(n / 2, a_batch(counts=counts(n))) for n in range(21)]
    steps.append((10.1, a_batch(stage=Stage.PAUSED, paused_by="breaker", waiting="orders-db is OPEN\x1b[2J")))

    lines = shown(steps, live=False).splitlines()

    assert [line.split("  ")[0] for line in lines] == ["running", "running", "running", "paused by breaker"]
    assert lines[-1].endswith("(orders-db is OPEN\\u001b[2J)")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (172_799, "47 h 59 min"),
        (2_592_540, "30 d 0 h"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
