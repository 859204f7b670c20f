"""Why a letter is dead, in one sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dlq_app.domain.explanation import explain
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.domain.states import Resolution, Status
from dlq_app.store.documents import attempt_entries
from dlq_app.testing import a_letter, an_attempt
from wire.instants import iso

NOW = datetime(2026, 11, 24, 10, 41, tzinfo=UTC)
POLICY = ReplayPolicy()
FOUR = attempt_entries([an_attempt(n) for n in (1, 2, 3, 4)], 1000)


def sentence(policy: ReplayPolicy = POLICY, **changes: Any) -> str:
    return explain(a_letter(**{"attempts": FOUR, **changes}), policy, NOW)


def test_a_letter_that_waits_for_its_second_replay() -> None:
    assert sentence(dlqRetryCount=1, nextRetryAt=NOW + timedelta(minutes=1)) == (
        "TIMEOUT_ERROR is transient; 4 of 4 attempts failed over 7.3 s; next automatic replay at 10:42 UTC (2 of 5)"
    )


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (
            {"nextRetryAt": datetime(2026, 11, 25, 2, tzinfo=UTC)},
            "automatic replay at 02:00 UTC on 2026-11-25 (1 of 5)",
        ),
        ({"status": Status.MANUAL}, "set aside: needs a decision"),
        ({"status": Status.MANUAL, "strategy": "manual"}, "; needs a decision"),
        ({"status": Status.FAILED}, "all 5 automatic replays are used: needs a decision"),
        ({"status": Status.PROCESSING, "replay": {"by": "user:mira"}}, "a replay is in progress for mira"),
        ({"status": Status.RESOLVED, "resolution": Resolution.REPLAYED}, "a replay succeeded"),
        ({"status": Status.RESOLVED, "resolution": Resolution.DISCARDED}, "it was discarded"),
        ({"status": Status.RESOLVED, "resolution": Resolution.BY_HAND}, "it was resolved by hand"),
        ({"nextRetryAt": None}, "no automatic replay is planned"),
    ],
)
def test_what_happens_next(changes: dict[str, Any], end: str) -> None:
    assert sentence(**changes).endswith(end)


def test_times_are_those_of_the_policys_zone() -> None:
    policy = ReplayPolicy(time_zone="Asia/Kolkata")

    assert "at 16:12 " in sentence(policy, nextRetryAt=NOW + timedelta(minutes=1))


def test_a_permanent_error_says_that_trying_again_cannot_help() -> None:
    found = sentence(
        errorType="VALIDATION_ERROR", errorKind="permanent", strategy="manual", status=Status.MANUAL, attempts=FOUR[:1]
    )

    assert found == (
        "VALIDATION_ERROR is permanent: a retry cannot help; its only attempt failed after 7.3 s; needs a decision"
    )


def test_lost_attempts_are_not_called_failed() -> None:
    lost = attempt_entries([an_attempt(n, outcome="lost", startedAt=None, endedAt=None) for n in (1, 2, 3)], 1000)

    assert "; 3 of 3 attempts were lost with the worker; " in sentence(attempts=lost)
    assert "; 1 of 2 attempts failed, 1 was lost with the worker" in sentence(attempts=[FOUR[0], lost[1]])


def test_what_was_put_off_was_no_attempt() -> None:
    deferred = attempt_entries([an_attempt(0, outcome="deferred")], 1000)

    assert "4 of 4 attempts" in sentence(attempts=deferred + FOUR)


def test_replays_are_told_apart_from_attempts() -> None:
    replays = [{"epoch": 1001, "outcome": "failed_same"}, {"epoch": 1002, "outcome": "failed_same"}]
    attempts = FOUR + attempt_entries([an_attempt(1)], 1001) + attempt_entries([an_attempt(1)], 1002)

    found = sentence(attempts=attempts, replayAttempts=replays)

    assert "; 4 of 4 attempts failed over 7.3 s; 2 replays failed the same way; " in found
    replays[1]["outcome"] = "failed_new"
    assert "2 replays failed too, 1 of them in another way" in sentence(attempts=attempts, replayAttempts=replays)


def test_clocks_that_disagree_give_no_figure() -> None:
    backwards = attempt_entries([an_attempt(1, endedAt="2026-11-24T11:00:00.000Z")], 1000)

    assert "; its only attempt failed; " in sentence(attempts=backwards)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([0.0], "its only attempt failed after 1 ms"),
        ([0.34], "its only attempt failed after 340 ms"),
        ([0.97], "its only attempt failed after 1.0 s"),
        ([0.1, 0.2], "2 of 2 attempts failed over less than 1 s"),
    ],
)
def test_no_attempt_takes_no_time(times: list[float], words: str) -> None:
    begin = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    entries = [
        an_attempt(n, startedAt=iso(begin), endedAt=iso(begin + timedelta(seconds=seconds)))
        for n, seconds in enumerate(times, 1)
    ]

    assert f"; {words}; " in sentence(attempts=attempt_entries(entries, 1000))


def test_a_letter_without_attempts_still_has_a_sentence() -> None:
    assert sentence(attempts=[], errorType="", errorKind="").endswith("(1 of 5)")


def test_numbers_stay_true_when_older_replays_are_not_listed_any_more() -> None:
    """Of 70 failed replays the newest 50 are listed, and the attempts of all; of 120 not even all attempts."""
    epochs = [2000 + n for n in range(120)]
    replays = [{"epoch": epoch, "outcome": "failed_same"} for epoch in epochs]
    runs = [attempt_entries([an_attempt(1)], epoch)[0] for epoch in epochs]

    some = sentence(attempts=FOUR + runs[:70], replayAttempts=replays[20:70])
    many = sentence(attempts=(FOUR + runs)[-100:], replayAttempts=replays[-50:], retryCount=3)

    assert "; 4 of 4 attempts failed over 7.3 s; 50 of the last 50 replays failed the same way; " in some
    assert "; 4 of 4 attempts failed; 50 of the last 50 replays failed the same way; " in many
