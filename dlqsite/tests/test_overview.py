"""The overview: every part fails alone, the worst comes first, and what outsiders wrote stays text."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from pytest_django import Settings

from breaker_app.breaker import BreakerPolicy, State
from breaker_app.held import Held
from breaker_app.services import Card
from breaker_app.states import Snapshot, Transition, Why
from dlq_app.domain.group_states import GroupState
from dlq_app.domain.replay_batch import BatchCounts, BatchOrder, ReplayBatch, Stage
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.domain.store_problem import StoreProblem
from dlq_app.domain.strategies import Strategy
from dlq_app.services import batches
from dlq_app.services.groups import Group
from dlqsite.health import report
from dlqsite.health.findings import Finding
from dlqsite.health.findings import Status as Health
from dlqsite.overview import charts, page, snapshot, sources, views
from dlqsite.overview.parts import Accounts, BreakerSeen
from dlqsite.overview.sources import Part, Source
from dlqsite.overview.trouble import Answer
from dlqsite.overview.verdict import Verdict, verdict_of
from dlqsite.tests import scenes
from dlqsite.tests.people import member, signed_in, with_key
from messages_app import registry
from messages_app.domain.records import AccountRow, LaneFigures, LedgerFigures
from messages_app.store.presence import Register

NOW = datetime(2026, 11, 24, 3, 13, tzinfo=UTC)


OPEN = BreakerSeen(
    Card("payments-api", BreakerPolicy(), Snapshot(
        state=State.OPEN, failures=41, total=100, retry_after_ms=6000,
        left_closed_ms=int((NOW - timedelta(minutes=32)).timestamp() * 1000),
    )),
    ("payment.capture",),
    (Transition(at_ms=int((NOW - timedelta(minutes=32)).timestamp() * 1000), source=State.CLOSED, to=State.OPEN,
                generation=1, why=Why.FAILURE_RATE, total=100, failures=41),),
)  # fmt: skip
FAILING = Group(
    fingerprint="f" * 16, message="no vatId", sample="", error_type="VALIDATION_ERROR", error_kind="permanent",
    frame="", types=(("order.created", 318),), open=318, count=318, state=GroupState.NEW, last_seen=NOW, first_seen=NOW,
    trend_from=NOW, said=None, note=None, history=(), as_of=NOW,
)  # fmt: skip
NOW_MS = int(NOW.timestamp() * 1000)


def holding(
    breaker: BreakerSeen, *tail: int, high: int = 0, normal: int = 0, low: int = 0, oldest_min: float = 32
) -> BreakerSeen:
    """The breaker with held messages; ``tail``: how many it held at the end of each of the last minutes."""
    held = Held(
        now_ms=NOW_MS + 30_000, high=high, normal=normal, low=low, oldest_ms=NOW_MS - int(oldest_min * 60_000),
        minutes=(*[0] * (59 - len(tail)), *tail, high + normal + low),
    )  # fmt: skip
    return replace(breaker, card=replace(breaker.card, held=held))


def named(name: str, breaker: BreakerSeen = OPEN, *types: str) -> BreakerSeen:
    return replace(breaker, card=replace(breaker.card, name=name), types=types)


def letters(*tail: int, **changes: Any) -> Group:
    """A group with new letters in the last minutes."""
    minutes = (*[0] * (60 - len(tail)), *tail)
    return replace(FAILING, **{"minutes": minutes, "as_of": NOW + timedelta(seconds=30), **changes})


TRANSIENT = replace(FAILING, error_type="TIMEOUT_ERROR", error_kind="transient", state=GroupState.ONGOING)
STOPPED = ReplayBatch(
    id="b-1", name="INC-1", reason="", stage=Stage.STOPPED, resume_to=None, paused_by="", stop_reason="canary_failed",
    total=62, late_arrivals=0, counts=BatchCounts(sent=5, failed=5, remaining=57), rate_per_second=None, canary=None,
    max_failures=None, max_failure_rate=None, requested_by="key:olga", criteria=None, ids_given=False, limit=None,
    created_at=NOW, scheduled_at=None, started_at=NOW, finished_at=NOW, updated_at=NOW,
)  # fmt: skip


def loss(**changes: Any) -> dict[str, Any]:
    """As health reports it."""
    until = NOW - timedelta(minutes=5)
    found = {"store": "redis", "sentence": "Redis fell back.", "from": (until - timedelta(seconds=2)).isoformat(),
             "to": until.isoformat(), "missing": 104, "moves": 0, "open": 3}  # fmt: skip
    return {**found, **changes}


ROW = AccountRow(day="20261123", type="demo", accepted=5, done=4, dead=0, open=0)


def seen(
    *, breakers: Sequence[BreakerSeen] = (), groups: Sequence[Group] = (), batches: Sequence[ReplayBatch] = (),
    problems: Sequence[tuple[StoreProblem, datetime]] = (), checks: dict[str, Finding] | None = None,
    losses: Sequence[dict[str, Any]] = (), workers: int = 1, dlq_workers: int = 1, crons: int = 1,
    waits_s: float | None = None, waiting: int | None = None, accepted: int = 5, rows: Sequence[AccountRow] = (),
    open_letters: int = 0, by_status: dict[str, int] | None = None, away: Sequence[str] = (),
    dying: float | None = 0.0, dying_before: float | None = 0.0, **figures: int,
) -> snapshot.Overview:  # fmt: skip
    """A snapshot of a healthy system but for what is given."""
    now_ms = int(NOW.timestamp() * 1000)
    oldest = None if waits_s is None else now_ms - int(waits_s * 1000)
    number = waiting if waiting is not None else int(waits_s is not None)
    lanes = (LaneFigures(name="normal", waiting=number, oldest_ms=oldest),)
    counts = {"scheduled": 0, "retry_wait": 0, "running": 0, "overdue": 0, "outbox": 0, "quarantined": 0, **figures}
    found = {
        "workers": Finding(Health.HEALTHY, facts={"alive": workers}),
        "dlqWorker": Finding(Health.HEALTHY, facts={"alive": dlq_workers}),
        "scheduler": Finding(Health.HEALTHY, facts={"alive": crons}),
        "losses": Finding(Health.HEALTHY, facts={"losses": losses}),
        **(checks or {}),
    }

    def part(value: Any, store: str = "") -> Any:
        return Part(value, NOW, "No answer.", NOW) if store in away else Part(value, NOW)

    return snapshot.Overview(
        as_of=NOW,
        rates=snapshot.Rates(dying_per_min=dying, dying_before=dying_before),
        ledger=part(LedgerFigures(now_ms=now_ms, lanes=lanes, outbox_oldest_ms=None, **counts), "redis"),
        accounts=part(Accounts(accepted, 0, 0, 0, accepted, tuple(rows))),
        breakers=part(tuple(breakers)),
        letters=part({"open": open_letters, "byStatus": by_status or {}}, "mongodb"),
        groups=part(tuple(groups)),
        batches=part(tuple(batches)),
        health=part(report.Health(Health.HEALTHY, found, tuple(problems))),
    )


def verdict(**known: Any) -> Verdict:
    return verdict_of(seen(**known))


def headlines(**known: Any) -> list[str]:
    """Headlines, the worst first."""
    found = verdict(**known)
    return [found.worst.headline, *(trouble.headline for trouble in found.also)]


class TestVerdict:
    def test_all_is_quiet(self) -> None:
        assert headlines() == ["All quiet. Nothing needs you."]

    def test_a_first_run_says_so(self) -> None:
        assert headlines(accepted=0) == ["Ready. Nothing has been submitted yet."]

    def test_the_worst_comes_first(self) -> None:
        found = headlines(
            breakers=[OPEN], groups=[FAILING], dying=5.0, rows=[ROW],
            by_status={"dlq_manual": 330}, crons=0,
        )  # fmt: skip

        assert found == [
            "payments-api is failing. payment.capture messages are held.",
            "order.created: 318 letters with VALIDATION_ERROR, a new error.",
            "1 message is not accounted for: demo, 23 Nov.",
            "No cron process is alive: accounts are not checked.",
            "330 letters need a decision.",
        ]

    def test_what_a_store_lost_comes_first_until_a_person_knows(self) -> None:
        worst = verdict(workers=0, breakers=[OPEN], losses=[loss()]).worst

        assert worst.headline == "Redis fell back to an earlier state: about 104 accepted messages are missing."
        assert [answer.short for answer in worst.answers[:2]] == ["03:07:58 to 03:08:00 UTC", "about 104 messages"]
        emptied = headlines(losses=[loss(missing=1, **{"from": None})])[0]
        assert emptied == "Redis was emptied or replaced: about 1 accepted message is missing."
        assert headlines(losses=[loss(missing=0, moves=7)])[0].endswith("7 claims and outcomes are missing.")
        letters = headlines(losses=[loss(store="mongodb", missing=0)])[0]
        assert letters == "MongoDB fell back to an earlier state: dead letters may be missing."

    def test_it_answers_what_the_one_on_call_asks(self) -> None:
        worst = verdict(
            breakers=[holding(OPEN, 366, 378, 390, 402, 414, high=400, low=20)], dying=61.0, dying_before=0.5
        ).worst

        assert worst.headline == "payments-api is failing. 420 payment.capture messages are held."
        assert [(answer.question, answer.short) for answer in worst.answers] == [
            ("Since", "02:41:00, 32 min"),
            ("How many", "420 messages held"),
            ("Getting worse?", "Yes: 12 more held a minute"),
            ("What happens automatically", "Probes in 6 s"),
            ("What you can do", "Check payments-api"),
        ]
        assert worst.answers[1].more == "400 of high priority, the oldest for 32 min; no letter"
        assert worst.answers[3].more == "held messages start within 45 s of its closing"

    def test_the_breaker_that_does_most_harm_comes_first(self) -> None:
        mail = holding(named("mail-api", OPEN, "mail.send"), low=60)
        greylisted = replace(TRANSIENT, types=(("mail.send", 54),), open=54)
        payments = holding(OPEN, high=20)
        shop = named("shop-api", OPEN, "shop.order")

        found = headlines(breakers=[shop, mail, payments], groups=[greylisted], away=[])

        assert [headline.split(" ")[0] for headline in found] == ["payments-api", "mail-api", "shop-api"]

    def test_stores_come_before_breakers(self) -> None:
        assert headlines(breakers=[holding(OPEN, high=420)], away=["mongodb"])[0].startswith("MongoDB does not answer")

    def test_no_problem_is_cut(self) -> None:
        breakers = [named(f"b{number}", OPEN, f"t{number}") for number in range(9)]
        fresh = [letters(5, 5, 5, fingerprint=f"{number:016x}") for number in range(5)]

        found = verdict(breakers=breakers, groups=fresh, batches=[STOPPED], dying=20.0)

        told = [found.worst, *found.shown, *found.more]
        assert len(found.shown) == 5
        assert [trouble for trouble in told if trouble.headline.startswith("b")] == told[:9]
        assert told[-2].headline == "2 more groups have new letters."
        assert told[-1].headline.startswith("Replay batch INC-1")

    @pytest.mark.parametrize(
        ("known", "short"),
        [
            ({"breakers": [holding(OPEN, 9, 9, 9, 9, 9, 9, 9, high=9)]}, "No: unchanged for 7 min"),
            ({"breakers": [holding(OPEN, 5, 15, high=27, oldest_min=2)], "dying": 0.0}, "Yes: 11 more held a minute"),
            ({"breakers": [holding(OPEN, 99, 90, 70, 60, 50, 40, high=30)]}, "No: 13 fewer held a minute"),
            ({"breakers": [holding(OPEN, *[500, 501] * 9, high=501)]}, "Steady"),
            ({"breakers": [OPEN]}, "Not known"),
            (
                {"breakers": [OPEN], "groups": [letters(3, 9, 30, 40, error_kind="unknown",
                                                        types=(("payment.capture", 82),))]},
                "Yes: 23 a minute",
            ),
            (
                # What others do is not its doing.
                {"breakers": [holding(OPEN)], "groups": [letters(30, 40)], "dying": 40.0},
                "No",
            ),
        ],
    )  # fmt: skip
    def test_whether_a_breaker_gets_worse_is_told_of_itself(self, known: dict[str, Any], short: str) -> None:
        found = verdict(**known)
        told = [found.worst, *found.also]

        assert next(one for one in told if one.headline.startswith("payments")).answers[2].short == short

    def test_a_burst_that_is_over_does_not_fail_now(self) -> None:
        over = letters(3200, 0, 0, 0, 0, 0, last_seen=NOW - timedelta(minutes=4, seconds=10))

        goes_on = letters(5, 5, 5, fingerprint="a" * 16, types=(("mail.send", 15),), open=15)

        found = headlines(groups=[over, goes_on], dying=5.0, by_status={"dlq_manual": 3200})

        assert found == ["mail.send: 15 letters with VALIDATION_ERROR, a new error.", "3,200 letters need a decision."]

    def test_when_letters_go_on_is_what_the_letter_says(self) -> None:
        slot = datetime(2026, 11, 25, 2, tzinfo=UTC)
        behind = replace(TRANSIENT, types=(("payment.capture", 7),), open=7)
        breaker = holding(OPEN, high=1)

        def follows(due: dict[str, datetime | None] | None) -> str:
            o = replace(seen(breakers=[breaker], groups=[behind]), next_replays=Part(due, NOW))
            return verdict_of(o).worst.answers[3].more

        held = "held messages start within 45 s of its closing"
        assert follows({"payments-api": slot}) == (
            f"{held}; the next automatic replay is due at 02:00 UTC on 2026-11-25, and is postponed while it is open"
        )
        assert follows({"payments-api": None}) == f"{held}; no automatic replay is planned: its letters need a decision"
        assert follows(None) == held

    def test_off_peak_letters_say_their_slot(self) -> None:
        o = seen(groups=[replace(TRANSIENT, error_type="DATABASE_ERROR")], dying=5.0)
        o = replace(o, replay_policy=ReplayPolicy(strategies={"DATABASE_ERROR": Strategy.OFF_PEAK}))

        assert verdict_of(o).worst.answers[3].short == "They are replayed off-peak, next at 04:00 UTC"

    @pytest.mark.parametrize(
        ("now", "before", "answer"),
        [
            (0.0, 9.0, "No"),
            (2.0, 9.0, "No: 2 dead letters a minute"),
            (9.0, 8.5, "Steady: 9 dead letters a minute"),
            (9.0, None, "9 dead letters a minute"),
            (None, 1.0, "Not known"),
        ],
    )
    def test_whether_all_of_it_gets_worse(self, now: float | None, before: float | None, answer: str) -> None:
        worst = verdict(away=["mongodb"], dying=now, dying_before=before).worst

        assert worst.answers[2].short == answer

    def test_an_outage_is_the_same_while_it_probes(self) -> None:
        probes = replace(OPEN, card=replace(OPEN.card, seen=replace(OPEN.card.seen, state=State.HALF_OPEN)))

        found = [verdict(breakers=[holding(one, 5, 5, 5, high=15)]).worst for one in (OPEN, probes)]

        assert found[0].level == found[1].level == "bad"
        assert found[0].answers[:3] == found[1].answers[:3]
        well = replace(probes, card=replace(probes.card, seen=replace(probes.card.seen, probes_succeeded=3)))
        assert verdict(breakers=[well]).worst.level == "warn"

    def test_a_breaker_that_a_user_forced_says_what_it_holds(self) -> None:
        order = Transition(at_ms=NOW_MS - 60_000, source=State.CLOSED, to=State.FORCED_OPEN, generation=2,
                           why=Why.MANUAL, total=0, failures=0, actor="user:olga", reason="INC-7")  # fmt: skip
        forced = replace(OPEN.card, seen=replace(OPEN.card.seen, state=State.FORCED_OPEN))

        found = verdict(
            breakers=[holding(BreakerSeen(forced, ("payment.capture",), (order,)), 4, high=8, oldest_min=1)]
        ).worst

        assert found.headline == (
            "payments-api is forced open by user:olga, until a user resets it. 8 payment.capture messages are held."
        )
        assert [answer.short for answer in found.answers[:4]] == [
            "02:41:00, 32 min", "8 messages held", "Yes: 5.3 more held a minute", "Nothing",
        ]  # fmt: skip

    def test_without_redis_nothing_else_is_guessed(self) -> None:
        found = headlines(away=["redis", "mongodb"], breakers=[OPEN], workers=0, rows=[ROW])

        assert found == [
            "Redis does not answer. Nothing can be accepted or processed.",
            "MongoDB does not answer. No letter is lost.",
        ]

    def test_what_dies_behind_an_open_breaker_is_its_doing(self) -> None:
        behind = replace(TRANSIENT, types=(("payment.capture", 7),), open=7)

        assert headlines(breakers=[OPEN], groups=[behind], dying=60.0) == [
            "payments-api is failing. payment.capture messages are held."
        ]

    def test_what_dies_now_comes_before_what_has_gathered_more(self) -> None:
        mail = (("mail.send", 1570),)
        old = replace(TRANSIENT, fingerprint="a" * 16, types=mail, open=1570, trend=(0,) * 22 + (2, 1))
        rising = replace(TRANSIENT, error_type="KeyError", types=(("demo", 72),), open=72, trend=(0,) * 23 + (72,))

        assert headlines(groups=[old, rising], dying=60.0)[:2] == [
            "demo: 72 letters with KeyError.",
            "mail.send: 1,570 letters with TIMEOUT_ERROR.",
        ]

    def test_what_happens_by_itself_is_said_of_this_kind_of_error(self) -> None:
        answers = {
            kind: verdict(groups=[replace(FAILING, error_kind=kind)], dying=5.0).worst.answers[3]
            for kind in ("transient", "permanent")
        }

        assert answers["transient"].short == "They are replayed automatically"
        assert answers["permanent"].short == "Nothing: they need a decision"

    def test_a_batch_that_stopped_by_itself_is_told_of(self) -> None:
        found = verdict(batches=[STOPPED]).worst

        assert found.headline == "Replay batch INC-1 stopped automatically: the canary failed."
        assert found.lead == "5 of 5 sent letters failed; 57 were not sent."
        assert found.links[0].page == "dlq_app/replaybatch/b-1/change/"

    def test_a_breaker_is_not_blamed_for_what_it_ignores_nor_for_what_is_long_over(self) -> None:
        behind = replace(TRANSIENT, types=(("payment.capture", 7),), open=7)
        others = [
            replace(FAILING, types=(("payment.capture", 26),), fingerprint="c" * 16, open=26),
            replace(behind, fingerprint="d" * 16, last_seen=NOW - timedelta(days=1), open=100),
        ]

        found = verdict(breakers=[OPEN], groups=[*others, behind], dying=60.0)

        assert found.worst.answers[1].short == "7 letters"
        assert found.worst.lead.endswith("TIMEOUT_ERROR:")
        assert found.also[0].headline == "payment.capture: 26 letters with VALIDATION_ERROR, a new error."

    def test_an_open_breaker_without_letters_says_that_messages_wait(self) -> None:
        worst = verdict(breakers=[holding(OPEN)], open_letters=9).worst

        assert worst.headline == "payments-api is failing. New payment.capture messages are rejected."
        assert (worst.answers[1].short, worst.answers[1].more) == ("0 letters", "and no message is held")
        assert [link.text for link in worst.links] == ["Breaker"]

    def test_letters_that_nobody_can_count_are_not_said_to_be_none(self) -> None:
        breaker = verdict(breakers=[OPEN], away=["mongodb"]).also[0]

        assert breaker.answers[1].short == "Not known"

    @pytest.mark.parametrize(
        ("known", "headline"),
        [
            ({"workers": 0}, "No message worker is alive. No message is waiting yet."),
            ({"workers": 0, "waiting": 1}, "No message worker is alive. 1 message waits."),
            ({"waits_s": 380.0}, "Messages wait too long: the oldest for 6 min."),
            ({"overdue": 2}, "2 messages are more than 5 s late."),
            ({"quarantined": 1}, "1 outcome could not be recorded and needs a decision."),
            ({"dlq_workers": 0}, "No DLQ worker is alive: automatic replays and replay batches wait."),
            ({"dying": 4.0}, "New dead letters: 4 a minute."),
        ],
    )
    def test_each_trouble_has_its_sentence(self, known: dict[str, Any], headline: str) -> None:
        assert headlines(**known)[0] == headline

    def test_the_cause_comes_first_and_nobody_else_is_blamed(self) -> None:
        full = StoreProblem(
            part="redis", code="memory_full", what="Redis is full.", fix="Raise maxmemory. Or else.", stops=True
        )
        begun = NOW - timedelta(seconds=40)

        found = verdict(problems=[(full, begun)], workers=0, dlq_workers=0, crons=0, waits_s=99.0)

        assert (found.worst.level, found.worst.headline, found.also) == ("bad", "Redis is full.", ())
        assert found.worst.answers[-1] == Answer("What you can do", "Raise maxmemory", "Or else.")
        assert found.worst.answers[0].short == "03:12:20, 40 s"
        assert headlines(problems=[(full, begun)], away=["redis"]) == ["Redis is full."]
        assert headlines(problems=[(replace(full, code="away"), begun)], away=["redis"], workers=0) == [
            "Redis does not answer. Nothing can be accepted or processed."
        ]

    def test_what_is_at_risk_is_a_warning(self) -> None:
        low = StoreProblem(part="disk", code="disk_low", what="Little room.", fix="Make room.")

        assert verdict(problems=[(low, NOW)]).worst.level == "warn"

    def test_nothing_is_quiet_while_a_check_is_not_healthy(self) -> None:
        assert headlines(checks={"queues": Finding(Health.DEGRADED, "It is so.")}) == ["Health is degraded: queues."]
        none = {"workers": Finding(Health.DEGRADED, "x", {"alive": 0})}
        assert headlines(checks=none) == ["No message worker is alive. No message is waiting yet."]


class TestLookout:
    def test_one_that_hangs_is_away_and_holds_up_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "FIRST_S", 0.01)
        monkeypatch.setattr(sources, "HANGS_S", 0.0)
        release = threading.Event()
        with ThreadPoolExecutor(2) as threads:
            hangs = Source("hangs", lambda: release.wait(30), ())
            quick = Source("quick", lambda: 7, ())
            try:
                sources.look([hangs, quick], threads)  # returns, though the first one has not
                answered = quick.begin(threads)
                if answered is not None:
                    answered.result()
                assert quick.part().value == 7
                assert (hangs.part().value, hangs.part().why_away) == (None, "No answer yet.")
            finally:
                release.set()

    def test_the_first_to_look_after_a_while_waits_for_what_is_true_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "LEISURE", 0)
        monkeypatch.setattr(sources, "FIRST_S", 30.0)
        monkeypatch.setattr(sources, "AGAIN_S", 0.0)
        monkeypatch.setattr(sources, "UNWATCHED_S", 0.0)
        answers = iter([1, 2])

        def ask() -> int:
            time.sleep(0.05)
            return next(answers)

        source = Source("s", ask, (), keep_s=0.0)
        with ThreadPoolExecutor(1) as threads:
            sources.look([source], threads)
            assert source.part().value == 1
            sources.look([source], threads)
            assert source.part().value == 2

    def test_one_that_fails_keeps_what_it_said_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "LEISURE", 0)
        answers: Iterator[int | Exception] = iter([1, ValueError("postgres://user:secret@host"), 2])

        def ask() -> int:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        source = Source("s", ask, (ValueError,), keep_s=0.0)
        with ThreadPoolExecutor(1) as threads:
            parts = []
            for _ in range(3):
                under_way = source.begin(threads)
                assert under_way is not None
                under_way.result()
                parts.append(source.part())

        assert [(part.value, part.is_away) for part in parts] == [(1, False), (1, True), (2, False)]
        assert parts[1].why_away == "No answer (ValueError)."
        assert parts[1].as_of == parts[0].as_of

    def test_readers_at_once_cost_one_question(self) -> None:
        asked: list[int] = []
        source = Source("s", lambda: asked.append(1), (), keep_s=60.0)
        with ThreadPoolExecutor(4) as threads:
            for _ in range(50):
                sources.look([source], threads)

        assert len(asked) == 1

    def test_a_mistake_in_one_part_is_away_too(self) -> None:
        source: Source[int] = Source("s", lambda: 1 // 0, ())
        with ThreadPoolExecutor(1) as threads:
            sources.look([source], threads)

        assert source.part().why_away == "Broken (ZeroDivisionError); the log says more."


class TestCharts:
    @pytest.mark.parametrize(("most", "top"), [(0, 3), (62.4, 75), (0.2, 0.3), (90, 90), (1000, 1200), (3, 3)])
    def test_scales_are_round_and_hold_the_most(self, most: float, top: float) -> None:
        assert charts.nice_top(most, 3) == pytest.approx(top)

    def test_a_gap_is_a_gap(self) -> None:
        drawn = charts.chart({"a": [1.0, 1.0, None, None, 1.0]}, 0, 10_000, steps=2)

        assert drawn.curves[0].line.count("M") == 2
        assert drawn.curves[0].now == 1.0
        assert not drawn.is_empty

    def test_a_lane_begins_with_the_state_before(self) -> None:
        changes = [(1_000_000, "CLOSED", "OPEN"), (1_600_000, "OPEN", "HALF_OPEN"), (1_601_000, "HALF_OPEN", "CLOSED")]
        spans = charts.lane(changes, "CLOSED", 0, 3_600_000)

        assert [(span.state, span.x) for span in spans][:2] == [("CLOSED", 0), ("OPEN", 1000)]
        assert [span.state for span in spans] == ["CLOSED", "OPEN", "HALF_OPEN", "CLOSED"]
        assert spans[2].width == charts.MIN_WIDTH_S

    def test_what_opened_just_now_is_seen(self) -> None:
        *_, last = charts.lane([(3_599_000, "CLOSED", "OPEN")], "OPEN", 0, 3_600_000)

        assert (last.state, last.x + last.width, last.width) == ("OPEN", 3600, charts.MIN_WIDTH_S)


@pytest.fixture(autouse=True)
def _seen_afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    registry.handler("payment.capture", breaker="payments-api")(lambda message: None)
    scenes.forget()
    yield
    scenes.forget()


@pytest.mark.django_db
@pytest.mark.redis
@pytest.mark.mongo
class TestPage:
    @pytest.fixture(autouse=True)
    def _empty(self, redis_client: Any, mongo_db: Any) -> None:
        self.redis = redis_client
        scenes.indexed()

    def page(self, role: str = "viewer") -> str:
        scenes.settle()
        answer = signed_in(member(role)).get("/admin/")
        assert answer.status_code == 200
        return answer.content.decode()

    def test_a_first_run_says_what_to_do(self) -> None:
        scenes.processes("worker", "dlq_worker", "cron")
        page = self.page()

        assert "Nothing has been submitted yet" in page
        assert "curl -X POST http://testserver/api/messages" in page

    def test_every_process_is_shown_with_its_clock(self) -> None:
        for _ in range(2):  # a beat tells what the one before has measured
            scenes.processes("worker")
        behind = Register(self.redis, wall=lambda: time.time() - 30)
        for _ in range(2):
            behind.announce("worker-9", "worker", started_at_ms=0)
        page = self.page()

        shown = page[page.index('id="processes"') :]
        assert shown.index("30.0 s behind") < shown.index("worker-9") < shown.index("in sync")

    def test_an_incident_is_told_and_everything_links_to_its_list(self) -> None:
        scenes.incident(self.redis)
        page = self.page()

        assert "payments-api is failing. New payment.capture messages are rejected." in page
        for address in (
            'href="/admin/dlq_app/deadletter/?status=dlq_manual"', 'href="/admin/dlq_app/lettergroup/"',
            'href="/admin/breaker_app/breaker/?name=payments-api"', 'href="/admin/messages_app/message/"',
            'href="/admin/dlq_app/replaybatch/"',
        ):  # fmt: skip
            assert address in page
        assert "1 message is not accounted for: email.receipt" in page
        assert "<script>alert" not in page

    @pytest.mark.parametrize("role", ["viewer", "operator", "administrator"])
    def test_every_role_sees_it_and_reaches_the_rest_of_the_admin(self, role: str) -> None:
        page = self.page(role)

        assert 'id="verdict"' in page
        assert "Other admin pages" in page

    def test_without_mongodb_the_page_says_so_and_goes_on(self, settings: Settings) -> None:
        scenes.quiet(self.redis)
        with scenes.away(settings, "mongodb"):
            page = self.page()

        assert "MongoDB does not answer. No letter is lost." in page
        assert "Figures of dead letters, groups, replay batches are not known." in page
        assert "173,454" in page, "accounts come from Redis"

    def test_without_redis_the_page_says_so_and_goes_on(self, settings: Settings) -> None:
        with scenes.away(settings, "redis"):
            page = self.page()

        assert "Redis does not answer. Nothing can be accepted or processed." in page

    def test_what_was_known_is_shown_with_its_time(self, settings: Settings) -> None:
        scenes.quiet(self.redis)
        scenes.letters(3, type="order.created", error_kind="permanent", error_type="VALIDATION_ERROR")
        known = scenes.settle()
        with scenes.away(settings, "mongodb"):
            until = time.monotonic() + 20
            while not (away := snapshot.overview()).mongodb_is_away and time.monotonic() < until:
                time.sleep(0.1)

        assert away.letters.value is not None
        assert away.letters.value["open"] == 3
        assert away.letters.as_of is not None
        assert away.letters.as_of >= known.as_of - timedelta(seconds=10)
        (banner, *_) = page.banners(away)
        assert f"{away.letters.as_of:%H:%M}" in banner.words

    def test_the_same_figures_are_not_sent_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(views.rendered, "keep_s", 60.0)
        scenes.quiet(self.redis)
        scenes.settle()
        viewer = signed_in(member("viewer"))
        first = viewer.get("/admin/overview/fragment")
        again = viewer.get("/admin/overview/fragment", headers={"If-None-Match": first["ETag"]})

        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert "no-store" in first["Cache-Control"]
        assert again["X-As-Of"]

    def test_strangers_get_nothing(self) -> None:
        answer = Client().get("/admin/overview/fragment")

        assert answer.status_code == 302
        assert "/login/" in answer["Location"]
        assert signed_in(member("viewer")).post("/admin/overview/fragment").status_code == 405

    def test_the_api_tells_the_same(self) -> None:
        scenes.incident(self.redis)
        seen = scenes.settle()
        data = with_key("read").get("/api/system/overview").json()["data"]

        assert data["verdict"]["headline"] == verdict_of(seen).worst.headline
        assert data["deadLetters"]["open"] == 46
        assert data["accounting"]["differences"] == [
            {"day": f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}", "type": "email.receipt", "difference": 1}
        ]
        assert [breaker["state"] for breaker in data["breakers"]][:2] == ["OPEN", "FORCED_OPEN"]
        assert len(data["charts"]["throughput"]["accepted"]) == 120
        assert None in data["charts"]["throughput"]["accepted"], "nobody counted for a while"
        assert data["away"] == {}
        assert with_key("submit", name="dave").get("/api/system/overview").status_code == 403

    def test_a_batch_under_way_is_shown_with_how_far_it_is(self) -> None:
        scenes.quiet(self.redis)
        scenes.letters(4, type="demo")
        order = BatchOrder.parse({"filter": {"type": ["demo"]}, "name": "after <b>the\u202e outage</b>"})
        batch = batches.start(order, actor="user:mira")
        page = self.page()

        assert f'href="/admin/dlq_app/replaybatch/{batch.id}/change/"' in page
        assert "after &lt;b&gt;the\\u202e outage" in page
        assert "0 of 4" in page

    def test_secrets_in_error_texts_are_hidden(self) -> None:
        scenes.quiet(self.redis)
        scenes.letters(3, error_reason="refused: password=hunterxyz", error_kind="unknown", error_type="UNKNOWN_ERROR")
        page = self.page()

        assert "hunterxyz" not in page
        assert "refused" in page

    def test_many_viewers_cost_one_rendering(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rendered: list[str] = []
        render = render_to_string

        def noting(name: str, context: Any) -> str:
            rendered.append(name)
            return render(name, context)

        monkeypatch.setattr(views, "render_to_string", noting)
        monkeypatch.setattr(views.rendered, "keep_s", 60.0)
        scenes.settle()
        for _ in range(20):
            views.rendered("http://testserver")

        assert rendered == ["dlqsite/overview_body.html"]
