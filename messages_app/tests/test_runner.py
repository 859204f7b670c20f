"""One attempt: its outcome, and a time limit that holds."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from messages_app.domain.records import Completed, Deferred, Failed, Outcome
from messages_app.envelope import Message
from messages_app.failures import AttemptTimeout, RateLimitError
from messages_app.tests.handling import a_claimed, handling
from messages_app.work.runner import Attempt, Runner, payload_of


def half() -> float:
    return 0.5


def an_attempt(**differing: Any) -> Attempt:
    return Attempt(a_claimed(**differing), time.monotonic())


def run(attempt: Attempt) -> Outcome | None:
    return Runner("w-1", half).run(attempt)


def error_of(outcome: Outcome | None) -> dict[str, Any]:
    assert isinstance(outcome, Failed)
    error: dict[str, Any] = json.loads(outcome.error)
    return error


def started(attempt: Attempt) -> tuple[threading.Thread, list[Outcome | None]]:
    """Run an attempt on a thread of its own."""
    outcomes: list[Outcome | None] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(attempt)), daemon=True)
    thread.start()
    while not attempt.started_at:
        time.sleep(0.001)
    return thread, outcomes


def test_a_success_carries_its_result_and_its_times() -> None:
    outcome = run(an_attempt())

    assert isinstance(outcome, Completed)
    assert (outcome.message_id, outcome.fence, outcome.result) == ("m1", 7, '{"processed":true}')
    assert outcome.attempt_json == ""
    started_ms, ended_ms = map(int, outcome.ran.split())
    assert 1_700_000_000_500 <= started_ms <= ended_ms == outcome.ended_at_ms


def test_the_success_of_a_replay_carries_its_line() -> None:
    outcome = run(an_attempt(replay_id="r"))

    assert isinstance(outcome, Completed)
    line = json.loads(outcome.attempt_json)
    assert line["startedAt"] <= line["endedAt"]
    assert line["startedAt"].startswith("2023-11-14T22:13:20.5")
    assert {key: value for key, value in line.items() if not key.endswith("At")} == {
        "number": 1, "outcome": "succeeded", "errorType": None, "errorReason": None, "retryDelayMs": None,
        "worker": "w-1",
    }  # fmt: skip


def test_a_handler_sees_the_message() -> None:
    seen: list[Message] = []

    with handling(seen.append) as type:
        attempt = an_attempt(
            type=type, body=b'{"n": 1}', attempt=2, prior_runs=5, tags='["a","b"]', replay_id="r", version=3
        )
        run(attempt)

    (message,) = seen
    assert (message.id, message.attempt, message.prior_runs, message.payload) == ("m1", 3, 5, {"n": 1})
    assert (message.tags, message.replay_id, message.idempotency_key) == (("a", "b"), "r", "m1.v3")
    assert message.queued_at.isoformat() == "2023-11-14T22:13:20+00:00"
    assert 29 < (message.deadline.timestamp() - time.time()) <= 30


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, ""),
        ({"a": [1, "ü"]}, '{"a":[1,"\\u00fc"]}'),
        ({1, 2}, '{"note":"The result is not JSON and was not kept."}'),
        (float("nan"), '{"note":"The result is not JSON and was not kept."}'),
        ("x" * 5000, '{"note":"The result has 5002 characters and was not kept."}'),
    ],
)
def test_a_result_is_kept_when_it_is_small_json(value: Any, result: str) -> None:
    with handling(lambda message: value) as type:
        outcome = run(an_attempt(type=type))

    assert isinstance(outcome, Completed)
    assert outcome.result == result


def test_a_circular_result_is_no_failure() -> None:
    circular: list[Any] = []
    circular.append(circular)

    with handling(lambda message: circular) as type:
        outcome = run(an_attempt(type=type))

    assert isinstance(outcome, Completed)


@pytest.mark.parametrize(
    ("attempt", "max_retries", "error_type", "delay_ms"),
    [
        (0, 3, "NETWORK_ERROR", 1000),
        (2, 3, "NETWORK_ERROR", 4000),
        (3, 3, "NETWORK_ERROR", None),
        (0, 0, "NETWORK_ERROR", None),
        (0, 3, "VALIDATION_ERROR", None),
        (0, 3, "UNHEARD_OF", 1000),
    ],
)
def test_a_failure_is_retried_or_given_up(
    attempt: int, max_retries: int, error_type: str, delay_ms: int | None
) -> None:
    body = json.dumps({"simulateError": True, "errorType": error_type, "errorMessage": "as told"}).encode()

    outcome = run(an_attempt(body=body, attempt=attempt, max_retries=max_retries))

    assert isinstance(outcome, Failed)
    assert outcome.delay_ms == delay_ms
    line = json.loads(outcome.attempt_json)
    assert (line["number"], line["outcome"], line["retryDelayMs"]) == (attempt + 1, "failed", delay_ms)
    error = error_of(outcome)
    assert error["errorType"] == (error_type if error_type != "UNHEARD_OF" else "UNKNOWN_ERROR")
    assert "as told" in error["errorReason"]
    assert "handlers.py" in error["errorStack"]
    assert "runner.py" not in error["errorStack"]
    assert error["systemState"].keys() == {"cpu", "memory", "uptime", "host", "worker", "codeVersion"}


def test_the_wish_of_the_downstream_is_honoured() -> None:
    def slow_down(message: Message) -> None:
        raise RateLimitError("slower", retry_after=12.5)

    with handling(slow_down) as type:
        outcome = run(an_attempt(type=type))

    assert isinstance(outcome, Failed)
    assert outcome.delay_ms == 12_500


@pytest.mark.parametrize(
    "raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError()]
)
def test_whatever_a_handler_raises_is_a_failure(raised: BaseException) -> None:
    def raising(message: Message) -> None:
        raise raised

    with handling(raising) as type:
        assert error_of(run(an_attempt(type=type)))["errorType"] == "UNKNOWN_ERROR"


def test_a_type_that_nobody_handles_is_dead_at_once() -> None:
    outcome = run(an_attempt(type="nobody.handles"))

    assert isinstance(outcome, Failed)
    assert outcome.delay_ms is None
    assert error_of(outcome)["errorType"] == "UNKNOWN_TYPE"


def test_a_payload_that_is_no_json_is_dead_at_once() -> None:
    outcome = run(an_attempt(body=b"\xff{"))

    assert error_of(outcome)["errorType"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("body", [b' {"a": 1}', b'{"a": 1}\n', b" [] ", b"1", b"{}"])
def test_space_around_a_payload_means_nothing(body: bytes) -> None:
    seen: list[Any] = []
    with handling(lambda message: seen.append(message.payload)) as type:
        assert isinstance(run(an_attempt(type=type, body=body)), Completed)
    assert seen == [json.loads(body)]


@pytest.mark.parametrize("body", [b"", b"   ", b"{} {}", b"1 2", b"nul", b"[1", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_dead_whatever_it_is(body: bytes) -> None:
    assert error_of(run(an_attempt(body=body)))["errorType"] == "VALIDATION_ERROR"


def test_a_claim_that_has_grown_old_is_handed_back_unbegun() -> None:
    attempt = Attempt(a_claimed(), time.monotonic() - 21)

    outcome = run(attempt)

    assert outcome == Deferred(message_id="m1", fence=7, delay_ms=0, why="prefetch")


def test_a_handler_is_interrupted_at_its_deadline() -> None:
    def endless(message: Message) -> None:
        while True:
            try:
                time.sleep(0.001)
            except Exception:  # noqa: S112  the very thing that a time limit must hold against
                continue

    with handling(endless) as type:
        attempt = an_attempt(type=type)
        thread, outcomes = started(attempt)
        assert attempt.interrupt("timeout")
        thread.join(5)

    error = error_of(outcomes[0])
    assert (error["errorType"], error["errorKind"]) == ("TIMEOUT_ERROR", "transient")
    assert "in endless" in error["errorStack"]


def test_a_handler_that_swallows_the_interruption_has_timed_out_all_the_same() -> None:
    def stubborn(message: Message) -> str:
        try:
            while True:
                time.sleep(0.001)
        except BaseException:
            return "done after all"

    with handling(stubborn) as type:
        attempt = an_attempt(type=type)
        thread, outcomes = started(attempt)
        attempt.interrupt("timeout")
        thread.join(5)

    assert error_of(outcomes[0])["errorType"] == "TIMEOUT_ERROR"


def test_once_the_report_is_taken_over_a_late_result_is_dropped() -> None:
    release = threading.Event()

    with handling(lambda message: release.wait(10)) as type:
        attempt = an_attempt(type=type)
        thread, outcomes = started(attempt)
        attempt.interrupt("timeout")
        assert attempt.take_report()
        release.set()
        thread.join(5)

    assert outcomes == [None]


def test_an_attempt_that_has_ended_can_not_be_interrupted() -> None:
    attempt = an_attempt()
    run(attempt)

    assert not attempt.interrupt("timeout")


def test_a_handler_may_raise_the_interruption_by_itself() -> None:
    def giving_up(message: Message) -> None:
        raise AttemptTimeout("my own clock")

    with handling(giving_up) as type:
        assert error_of(run(an_attempt(type=type)))["errorType"] == "TIMEOUT_ERROR"


def test_no_interruption_is_ever_raised_outside_the_handler() -> None:
    """Interrupt at every moment of a handler's end, a thousand times: one outcome each, and the thread goes on."""
    rounds, outcomes, leaked = 1000, [], []
    current: list[Attempt] = []
    finished = threading.Event()

    def work() -> None:
        try:
            for _ in range(rounds):
                attempt = an_attempt(type="test.type")
                current[:] = [attempt]
                outcomes.append(run(attempt))
        except BaseException as error:
            leaked.append(error)
        finally:
            finished.set()

    with handling(lambda message: None):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while not finished.is_set():
            for attempt in current:
                if attempt.started_at:
                    attempt.interrupt("timeout")
        thread.join(10)

    assert leaked == []
    assert len(outcomes) == rounds
    assert all(isinstance(outcome, Completed | Failed) for outcome in outcomes)


def test_the_lease_is_never_kept_longer_than_the_time_limit_and_a_margin() -> None:
    attempt = an_attempt()
    attempt.started_at = attempt.taken_at + 2
    attempt.deadline = attempt.started_at + 30

    assert attempt.lease_cap_ms() == 1_700_000_000_500 + 2_000 + 30_000 + 10_000


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@given(st.builds(json.dumps, _VALUES, ensure_ascii=st.booleans(), indent=st.none() | st.just(1)) | _NUMBERS)
@example('"\\ud800"')
@example('{"a":1,"a":2}')
@example("-0")
@example("1e400")
@example(" [1] ")
def test_a_payload_is_what_the_standard_library_reads(text: str) -> None:
    # repr distinguishes 1 from 1.0 and from True, and 0.0 from -0.0.
    assert repr(payload_of(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["", "{", "[1,]", '{"a":}', "nul", "1 2", "[" * 100_000])
def test_a_payload_that_is_not_json_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        payload_of(text)
