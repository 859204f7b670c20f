"""The conformance cases: written traces with what has to come of them. Times in ms, default policy, lease 60 s."""

from __future__ import annotations

from collections.abc import Callable

from breaker_app.policy import BreakerPolicy
from breaker_app.states import State, Why
from breaker_app.tests.bench import HOUR, Bench, F, I, S

Case = Callable[[Bench], None]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def register(trace: Case) -> Case:
        CASES[f"{name}_{trace.__name__}"] = trace
        return trace

    return register


@case("C01")
def it_is_born_closed(bench: Bench) -> None:
    permit = bench.acquire(at=0)
    assert (permit.allowed, permit.state, permit.retry_after_ms) == (True, State.CLOSED, 0)


@case("C02")
def it_stays_closed_below_the_minimum(bench: Bench) -> None:
    assert bench.fail(9, at=0)
    assert bench.state() is State.CLOSED
    assert bench.counts == (9, 9)


@case("C03")
def it_trips_at_the_minimum(bench: Bench) -> None:
    assert bench.fail(10, at=0)
    assert bench.state() is State.OPEN
    assert bench.peek().opens == 1


@case("C04")
def it_trips_at_exactly_the_threshold(bench: Bench) -> None:
    bench.succeed(5, at=0)
    bench.fail(4, at=0)
    assert bench.state() is State.CLOSED
    bench.fail(at=0)
    assert bench.state() is State.OPEN


@case("C05")
def it_stays_closed_just_below_the_threshold(bench: Bench) -> None:
    bench.succeed(6, at=0)
    bench.fail(5, at=0)
    assert bench.state() is State.CLOSED
    bench.fail(at=0)
    assert bench.state() is State.OPEN


@case("C06")
def a_success_trips_when_it_completes_the_minimum(bench: Bench) -> None:
    bench.fail(9, at=0)
    bench.succeed(at=0)
    assert bench.state() is State.OPEN


@case("C07")
def ignored_outcomes_count_nowhere(bench: Bench) -> None:
    bench.fail(9, at=0)
    assert not bench.call(I, 20, at=0)
    assert bench.state() is State.CLOSED
    assert bench.counts == (9, 9)


@case("C08")
def an_outcome_is_forgotten_after_the_window(bench: Bench) -> None:
    bench.fail(9, at=0)
    bench.fail(at=60_000)
    assert bench.state() is State.CLOSED
    assert bench.counts == (1, 1)


@case("C09")
def an_outcome_counts_until_the_window_ends(bench: Bench) -> None:
    bench.fail(9, at=0)
    bench.fail(at=59_999)
    assert bench.state() is State.OPEN


@case("C10")
def buckets_leave_one_by_one(bench: Bench) -> None:
    bench.succeed(3, at=0)
    bench.fail(2, at=1_000)
    bench.succeed(4, at=2_999)
    assert bench.peek(at=59_999).total == 9
    assert bench.peek(at=60_000).total == 6
    bench.acquire(at=61_000)
    assert bench.counts == (4, 0)
    bench.succeed(at=61_500)
    assert bench.counts == (5, 0)
    assert bench.peek(at=62_000).total == 1
    assert bench.peek(at=121_000).total == 0


@case("C11")
def the_ring_of_buckets_is_reused(bench: Bench) -> None:
    for second in range(0, 200, 7):
        bench.succeed(2, at=second * 1_000)
    assert bench.counts == (18, 0)


@case("C12")
def it_refuses_while_open(bench: Bench) -> None:
    bench.opened()
    for at, wait in ((1_000, 29_000), (29_999, 1)):
        permit = bench.acquire(at=at)
        assert (permit.allowed, permit.state, permit.retry_after_ms) == (False, State.OPEN, wait)


@case("C13")
def the_first_caller_after_the_open_time_is_a_probe(bench: Bench) -> None:
    bench.opened()
    permit = bench.acquire(at=30_000)
    assert (permit.allowed, permit.state, permit.retry_after_ms) == (True, State.HALF_OPEN, 0)
    seen = bench.peek()
    assert (seen.leases, seen.retry_after_ms) == (1, 0)


@case("C14")
def looking_moves_nothing(bench: Bench) -> None:
    bench.opened()
    assert not bench.peek(at=29_999).due
    for at in (40_000, 900_000):
        seen = bench.peek(at=at)
        assert (seen.state, seen.due, seen.retry_after_ms) == (State.OPEN, True, 0)


@case("C15")
def no_more_probes_than_permitted(bench: Bench) -> None:
    bench.half()
    for token in ("y", "z"):
        permit = bench.acquire(token, at=30_000)
        assert (permit.allowed, permit.state) == (False, State.HALF_OPEN)


@case("C16")
def it_closes_at_the_eighth_success(bench: Bench) -> None:
    probes = bench.half()
    for probe in probes[:7]:
        assert bench.record(probe, S, at=30_000)
    assert bench.state() is State.HALF_OPEN
    assert bench.record(probes[7], S, at=30_000)
    assert bench.state() is State.CLOSED
    assert bench.counts == (0, 0)
    assert not bench.record(probes[8], F, at=30_000)


@case("C17")
def it_opens_again_at_the_third_failure(bench: Bench) -> None:
    probes = bench.half()
    states = []
    for number, probe in enumerate(probes[:3]):
        assert bench.record(probe, F, at=30_100 + number)
        states.append(bench.state())
    assert states == [State.HALF_OPEN, State.HALF_OPEN, State.OPEN]
    refused = bench.acquire(at=60_101)
    assert (refused.allowed, refused.retry_after_ms) == (False, 1)
    allowed = bench.acquire(at=60_102)
    assert (allowed.allowed, allowed.state) == (True, State.HALF_OPEN)


@case("C18")
def exactly_the_share_of_good_probes_closes(bench: Bench) -> None:
    probes = bench.half()
    for probe in probes[:2]:
        bench.record(probe, F, at=30_000)
    for probe in probes[2:]:
        bench.record(probe, S, at=30_000)
    assert bench.state() is State.CLOSED


@case("C19")
def a_late_probe_of_a_former_period_counts_nowhere(bench: Bench) -> None:
    probes = bench.half()
    for probe in probes[:3]:
        bench.record(probe, F, at=30_000)
    bench.acquire("again", at=60_000)
    assert not bench.record(probes[3], F, at=60_000)
    seen = bench.peek()
    assert (seen.leases, seen.probes_failed) == (1, 0)


@case("C20")
def an_ignored_probe_gives_its_permit_back(bench: Bench) -> None:
    probes = bench.half()
    assert bench.record(probes[0], I, at=30_001)
    assert bench.peek().leases == 9
    assert bench.acquire("z", at=30_001).allowed
    assert not bench.acquire("zz", at=30_001).allowed


@case("C21")
def a_late_failure_does_not_prolong_open(bench: Bench) -> None:
    old = bench.acquire(at=0)
    bench.opened()
    assert not bench.record(old, F, at=10_000)
    assert bench.peek().retry_after_ms == 20_000
    assert bench.acquire(at=30_000).allowed


@case("C22")
def a_probe_is_counted_once(bench: Bench) -> None:
    probes = bench.half()
    assert bench.record(probes[0], F, at=30_000)
    for _ in range(5):
        assert not bench.record(probes[0], F, at=30_000)
    assert bench.state() is State.HALF_OPEN
    assert bench.peek().probes_failed == 1


@case("C23")
def a_refused_call_records_nothing(bench: Bench) -> None:
    bench.half()
    refused = bench.acquire("z", at=30_000)
    assert not bench.record(refused, F, at=30_000)
    assert bench.peek().probes_failed == 0


@case("C24")
def a_permit_of_an_older_generation_is_not_given_back(bench: Bench) -> None:
    old = bench.acquire("o", at=0)
    bench.half()
    assert not bench.record(old, I, at=30_000)
    assert not bench.acquire("z", at=30_000).allowed


@case("C25")
def answered_probes_use_up_permits(bench: Bench) -> None:
    probes = bench.half()
    bench.record(probes[0], S, at=30_000)
    bench.record(probes[1], F, at=30_000)
    assert not bench.acquire("z", at=30_000).allowed


@case("C26")
def a_lease_that_ends_gives_the_permit_back(bench: Bench) -> None:
    probes = bench.half()
    for probe in probes[1:]:
        bench.record(probe, I, at=30_000)
    assert bench.peek(at=89_999).leases == 1
    assert bench.peek(at=90_000).leases == 0
    assert bench.acquire("z", at=90_000).state is State.HALF_OPEN
    seen = bench.peek()
    assert (seen.leases, seen.probes_lost) == (1, 1)
    assert not bench.record(probes[0], F, at=90_000)


@case("C27")
def few_lost_probes_do_not_decide(bench: Bench) -> None:
    probes = bench.half()
    bench.record(probes[0], S, at=40_000)
    assert bench.acquire("z", at=90_000).state is State.HALF_OPEN
    assert bench.peek().probes_lost == 9
    assert bench.acquire("y", at=149_999).allowed
    assert bench.acquire("x", at=150_000).state is State.OPEN
    assert bench.breaker.transitions(1)[0].why is Why.PROBES_LOST


@case("C28")
def a_refused_probe_hears_when_the_first_lease_ends(bench: Bench) -> None:
    bench.half()
    permit = bench.acquire("z", at=30_001)
    assert (permit.allowed, permit.retry_after_ms) == (False, 59_999)
    assert bench.peek().retry_after_ms == 59_999


@case("C29")
def asking_again_does_not_prolong_the_lease(bench: Bench) -> None:
    bench.half()
    again = bench.acquire("h0", at=89_999)
    assert (again.allowed, again.state) == (True, State.HALF_OPEN)
    assert bench.acquire("z", at=89_999).retry_after_ms == 1


@case("C30")
def it_opens_again_when_no_probe_answers(bench: Bench) -> None:
    bench.half()
    refused = bench.acquire(at=90_000)
    assert (refused.allowed, refused.state, refused.retry_after_ms) == (False, State.OPEN, 30_000)
    allowed = bench.acquire(at=120_000)
    assert (allowed.allowed, allowed.state) == (True, State.HALF_OPEN)


@case("C31")
def an_answer_after_the_lease_counts_nowhere(bench: Bench) -> None:
    probes = bench.half()
    assert bench.record(probes[0], S, at=89_999)
    assert not bench.record(probes[1], S, at=90_000)
    assert bench.peek().probes_succeeded == 1


@case("C32")
def lost_probes_are_seen_by_outcomes_too(bench: Bench) -> None:
    probes = bench.half()
    assert not bench.record(probes[0], S, at=90_000)
    assert bench.state() is State.OPEN


@case("C33")
def one_token_is_one_probe(bench: Bench) -> None:
    bench.opened()
    assert bench.acquire("a", at=30_000).allowed
    assert bench.acquire("a", at=30_000).allowed
    assert bench.peek().leases == 1


@case("C34")
def a_stranger_takes_no_part(bench: Bench) -> None:
    probes = bench.half()
    stranger = type(probes[0])(True, State.HALF_OPEN, probes[0].generation, 0, "stranger")
    for _ in range(10):
        assert not bench.record(stranger, F, at=30_000)
    assert bench.state() is State.HALF_OPEN


@case("C35")
def closing_takes_a_full_window_to_trip_again(bench: Bench) -> None:
    for probe in bench.half():
        bench.record(probe, S, at=30_000)
    bench.fail(9, at=30_000)
    assert bench.state() is State.CLOSED
    bench.fail(at=30_000)
    assert bench.state() is State.OPEN
    assert bench.peek().opens == 2


@case("C36")
def every_change_is_one_event_and_one_generation(bench: Bench) -> None:
    for probe in bench.half():
        bench.record(probe, S, at=30_500)
    story = [(one.source, one.to, one.why, one.total, one.failures, one.at_ms) for one in bench.breaker.transitions()]
    assert story == [
        (State.HALF_OPEN, State.CLOSED, Why.PROBES_SUCCEEDED, 8, 0, 30_500),
        (State.OPEN, State.HALF_OPEN, Why.OPEN_TIME_OVER, 10, 10, 30_000),
        (State.CLOSED, State.OPEN, Why.FAILURE_RATE, 10, 10, 0),
    ]
    assert [one.generation for one in bench.breaker.transitions()] == [30_500, 30_000, 1]


@case("C37")
def forced_open_stays_until_a_person_comes(bench: Bench) -> None:
    bench.force(State.FORCED_OPEN, at=0)
    for at in (0, HOUR):
        permit = bench.acquire(at=at)
        assert (permit.allowed, permit.state, permit.retry_after_ms) == (False, State.FORCED_OPEN, -1)
    assert bench.peek().retry_after_ms == -1
    assert not bench.peek().due


@case("C38")
def disabled_lets_pass_and_counts_nothing(bench: Bench) -> None:
    bench.force(State.DISABLED, at=0)
    assert not bench.fail(50, at=0)
    assert bench.state() is State.DISABLED
    assert bench.counts == (0, 0)
    assert len(bench.breaker.transitions()) == 1


@case("C39")
def metrics_only_counts_and_never_trips(bench: Bench) -> None:
    bench.force(State.METRICS_ONLY, at=0)
    assert bench.fail(50, at=0)
    assert not bench.call(I, at=0)
    assert bench.state() is State.METRICS_ONLY
    assert bench.counts == (50, 50)


@case("C40")
def a_reset_closes_and_forgets(bench: Bench) -> None:
    old = bench.acquire(at=0)
    bench.fail(9, at=0)
    bench.force(State.CLOSED, at=0)
    assert bench.counts == (0, 0)
    assert not bench.record(old, F, at=0)
    done = bench.breaker.transitions(1)[0]
    assert (done.source, done.to, done.why) == (State.CLOSED, State.CLOSED, Why.MANUAL)
    assert (done.total, done.failures, done.actor, done.reason) == (9, 9, "key:olga", "a drill")


@case("C41")
def opened_by_hand_it_probes_after_the_open_time(bench: Bench) -> None:
    bench.force(State.OPEN, at=0)
    assert not bench.acquire(at=29_999).allowed
    permit = bench.acquire(at=30_000)
    assert (permit.allowed, permit.state) == (True, State.HALF_OPEN)


@case("C42")
def slow_calls_trip(bench: Bench) -> None:
    bench.use(BreakerPolicy(slow_call_ms=4_000, slow_call_threshold=0.5))
    bench.call(S, 5, at=0, took=5_000)
    bench.call(S, 4, at=0, took=10)
    assert bench.state() is State.CLOSED
    bench.call(S, at=0, took=10)
    assert bench.state() is State.OPEN
    assert bench.breaker.transitions(1)[0].why is Why.SLOW_RATE


@case("C43")
def a_call_at_the_limit_is_not_slow(bench: Bench) -> None:
    bench.use(BreakerPolicy(slow_call_ms=4_000, slow_call_threshold=0.5))
    bench.call(S, 20, at=0, took=4_000)
    assert bench.state() is State.CLOSED
    assert bench.peek().slow == 0
    bench.call(S, at=0, took=4_001)
    assert bench.peek().slow == 1
    assert bench.peek(at=60_000).slow == 0


@case("C44")
def duration_means_nothing_while_slow_calls_are_off(bench: Bench) -> None:
    bench.call(S, 20, at=0, took=HOUR)
    assert bench.state() is State.CLOSED


@case("C45")
def a_clock_that_went_back_costs_one_open_period(bench: Bench) -> None:
    bench.fail(10, at=HOUR)
    permit = bench.acquire(at=0)
    assert (permit.allowed, permit.retry_after_ms) == (False, 30_000)
    permit = bench.acquire(at=30_000)
    assert (permit.allowed, permit.state) == (True, State.HALF_OPEN)


@case("C46")
def a_clock_that_went_back_cuts_leases(bench: Bench) -> None:
    bench.fail(10, at=HOUR)
    bench.acquire("a", at=HOUR + 30_000)
    for number in range(9):
        bench.acquire(f"b{number}", at=HOUR + 30_000)
    permit = bench.acquire("z", at=0)
    assert (permit.allowed, permit.retry_after_ms) == (False, 60_000)
    assert bench.acquire("z", at=60_000).state is State.OPEN


@case("C47")
def a_clock_that_went_back_empties_the_window(bench: Bench) -> None:
    bench.fail(9, at=10_000)
    assert bench.peek(at=9_000).total == 0
    bench.fail(at=9_000)
    assert bench.state() is State.CLOSED
    assert bench.counts == (1, 1)


@case("C48")
def generations_rise_when_the_clock_does_not(bench: Bench) -> None:
    seen = []
    for at in (5_000, 5_000, 1_000, 5_001):
        bench.force(State.CLOSED, at=at)
        seen.append(bench.peek().generation)
    assert seen == [5_001, 5_002, 5_003, 5_004]
    bench.force(State.CLOSED, at=9_000)
    assert bench.peek().generation == 9_000


@case("C50")
def a_new_policy_decides_a_period_that_could_not_end(bench: Bench) -> None:
    probes = bench.half()
    for probe in probes[:4]:
        bench.record(probe, S, at=30_000)
    for probe in probes[4:6]:
        bench.record(probe, F, at=30_000)
    for probe in probes[6:]:
        bench.record(probe, I, at=30_000)
    bench.use(BreakerPolicy(half_open_max_requests=5, half_open_success_threshold=1.0))
    permit = bench.acquire("z", at=30_000)
    assert (permit.allowed, permit.state) == (False, State.OPEN)


@case("C51")
def a_shorter_lease_and_open_time_take_effect_at_once(bench: Bench) -> None:
    bench.opened()
    bench.use(BreakerPolicy(open_timeout_ms=5_000))
    assert bench.peek().retry_after_ms == 5_000
    assert bench.acquire(at=1_000).retry_after_ms == 5_000
    assert bench.acquire(at=6_000).allowed


@case("C52")
def the_smallest_share_of_slow_calls_trips(bench: Bench) -> None:
    bench.use(BreakerPolicy(slow_call_ms=4_000, slow_call_threshold=0.001))
    bench.call(S, 9, at=0)
    bench.call(S, at=0, took=4_001)
    assert bench.state() is State.OPEN


@case("C53")
def a_breaker_never_used_shows_nothing(bench: Bench) -> None:
    seen = bench.peek(at=5_000)
    assert (seen.state, seen.generation, seen.total, seen.leases, seen.opens) == (State.CLOSED, 0, 0, 0, 0)


@case("C54")
def an_order_finds_what_time_has_done(bench: Bench) -> None:
    bench.half()
    bench.force(State.CLOSED, at=90_000)
    assert [one.why for one in bench.breaker.transitions(2)] == [Why.MANUAL, Why.PROBES_LOST]
    assert bench.breaker.transitions(1)[0].source is State.OPEN


@case("C55")
def a_reset_does_not_forget_how_often_it_opened(bench: Bench) -> None:
    bench.opened()
    bench.force(State.CLOSED, at=1_000)
    assert bench.peek().opens == 1
    bench.force(State.OPEN, at=2_000)
    assert bench.peek().opens == 2


#: Half of ten calls above four seconds trip.
SLOW = BreakerPolicy(slow_call_ms=4_000, slow_call_threshold=0.5)


@case("C56")
def slow_probes_reopen(bench: Bench) -> None:
    bench.use(SLOW)
    probes = bench.half()
    for probe in probes[:2]:
        assert bench.record(probe, S, at=30_000, took=4_001)
    assert bench.state() is State.HALF_OPEN
    seen = bench.peek()
    assert (seen.probes_succeeded, seen.probes_failed) == (0, 2)
    assert bench.record(probes[2], S, at=30_000, took=HOUR)
    assert bench.state() is State.OPEN
    last = bench.breaker.transitions(1)[0]
    assert (last.why, last.total, last.failures) == (Why.PROBES_FAILED, 3, 3)


@case("C57")
def a_probe_at_the_limit_is_not_slow(bench: Bench) -> None:
    bench.use(SLOW)
    for probe in bench.half()[:8]:
        bench.record(probe, S, at=30_000, took=4_000)
    assert bench.state() is State.CLOSED


@case("C58")
def slow_and_failed_probes_count_together(bench: Bench) -> None:
    bench.use(SLOW)
    probes = bench.half()
    bench.record(probes[0], F, at=30_000)
    bench.record(probes[1], F, at=30_000, took=5_000)
    for probe in probes[2:9]:
        bench.record(probe, S, at=30_000)
    assert bench.state() is State.HALF_OPEN
    bench.record(probes[9], S, at=30_000, took=5_000)
    assert bench.state() is State.OPEN


@case("C59")
def an_ignored_probe_is_ignored_however_slow(bench: Bench) -> None:
    bench.use(SLOW)
    for probe in bench.half():
        assert bench.record(probe, I, at=30_000, took=HOUR)
    seen = bench.peek()
    assert (seen.state, seen.leases, seen.probes_failed) == (State.HALF_OPEN, 0, 0)


@case("C60")
def a_slow_probe_succeeds_while_slow_calls_are_off(bench: Bench) -> None:
    for probe in bench.half()[:8]:
        bench.record(probe, S, at=30_000, took=HOUR)
    assert bench.state() is State.CLOSED


@case("C61")
def a_late_slow_success_counts_nowhere_in_any_later_state(bench: Bench) -> None:
    bench.use(SLOW)
    old = bench.acquire("old", at=0)
    bench.opened()
    assert not bench.record(old, S, at=10_000, took=10_000)
    assert bench.state() is State.OPEN
    probes = [bench.acquire(f"h{number}", at=30_000) for number in range(10)]
    assert not bench.record(old, S, at=30_000, took=30_000)
    seen = bench.peek()
    assert (seen.state, seen.leases, seen.probes_succeeded, seen.probes_failed) == (State.HALF_OPEN, 10, 0, 0)
    for probe in probes[:8]:
        bench.record(probe, S, at=30_000)
    assert bench.state() is State.CLOSED
    for late in (old, probes[8], probes[9]):
        assert not bench.record(late, S, at=40_000, took=10_000)
    for state in (State.METRICS_ONLY, State.DISABLED, State.FORCED_OPEN):
        bench.force(state, at=40_000)
        assert not bench.record(old, S, at=40_000, took=40_000)
        assert bench.state() is state
    assert (bench.peek().total, bench.peek().slow) == (0, 0)


@case("C62")
def a_slow_probe_that_outlived_its_lease_changes_nothing(bench: Bench) -> None:
    bench.use(SLOW)
    bench.opened()
    probe = bench.acquire("p", at=30_000)
    bench.acquire("q", at=60_000)
    assert not bench.record(probe, S, at=90_000, took=60_000)
    seen = bench.peek()
    assert (seen.state, seen.probes_failed, seen.probes_lost) == (State.HALF_OPEN, 0, 1)


@case("C63")
def slow_successes_of_the_same_generation_count_as_slow_where_calls_are_counted(bench: Bench) -> None:
    bench.use(SLOW)
    bench.force(State.METRICS_ONLY, at=0)
    for _ in range(20):
        assert bench.call(S, at=0, took=5_000)
    assert (bench.state(), bench.peek().slow) == (State.METRICS_ONLY, 20)
    for state in (State.DISABLED, State.FORCED_OPEN):
        bench.force(state, at=0)
        assert not bench.call(S, 20, at=0, took=5_000)
        assert bench.state() is state


@case("C64")
def seventy_failed_probe_rounds_do_not_move_the_beginning_of_an_outage(bench: Bench) -> None:
    bench.fail(10, at=5_000)
    for number in range(1, 71):
        at = 5_000 + number * 40_000
        for probe in range(10):
            bench.record(bench.acquire(f"r{number}p{probe}", at=at), F, at=at)
        seen = bench.peek()
        assert (seen.state, seen.opens, seen.left_closed_ms) == (State.OPEN, number + 1, 5_000)
    for state in (State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY, State.OPEN):
        bench.force(state, at=HOUR)
        assert bench.peek().left_closed_ms == 5_000
    bench.force(State.CLOSED, at=HOUR)
    assert bench.peek().left_closed_ms is None
    bench.fail(10, at=HOUR + 1_000)
    assert bench.peek().left_closed_ms == HOUR + 1_000
