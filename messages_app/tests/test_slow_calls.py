"""What hangs gets half of the threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messages_app.domain.slow_calls import SLOW_S, SlowCallLimit


def hung(slow_calls: SlowCallLimit, name: str, times: int) -> None:
    for _ in range(times):
        assert slow_calls.enter(name)
        slow_calls.leave(name, failed=True, took_s=SLOW_S)


def entered(slow_calls: SlowCallLimit, name: str, times: int = 10) -> int:
    return sum(slow_calls.enter(name) for _ in range(times))


def test_as_long_as_nothing_hangs_there_is_no_limit() -> None:
    assert entered(SlowCallLimit(10), "a") == 10


def test_what_hangs_gets_half_of_the_threads_and_others_all() -> None:
    slow_calls = SlowCallLimit(10)
    hung(slow_calls, "a", 5)
    assert entered(slow_calls, "a") == 5
    assert entered(slow_calls, "b") == 10


def test_fewer_slow_failures_prove_nothing() -> None:
    slow_calls = SlowCallLimit(10)
    hung(slow_calls, "a", 4)
    assert entered(slow_calls, "a") == 10


def test_all_that_hang_share_the_half() -> None:
    slow_calls = SlowCallLimit(10)
    for name in ("a", "b"):
        hung(slow_calls, name, 5)
    assert (entered(slow_calls, "a", 3), entered(slow_calls, "b")) == (3, 2)


def test_one_that_ends_well_or_quickly_lifts_the_limit() -> None:
    for failed, took_s in ((False, 9.0), (True, SLOW_S / 2)):
        slow_calls = SlowCallLimit(10)
        hung(slow_calls, "a", 9)
        assert slow_calls.enter("a")
        slow_calls.leave("a", failed=failed, took_s=took_s)
        assert entered(slow_calls, "a") == 10


def test_what_we_broke_off_ourselves_says_nothing() -> None:
    slow_calls = SlowCallLimit(10)
    hung(slow_calls, "a", 5)
    assert slow_calls.enter("a")
    slow_calls.leave("a")
    assert entered(slow_calls, "a") == 5


def test_a_place_that_is_left_is_free_again() -> None:
    slow_calls = SlowCallLimit(10)
    hung(slow_calls, "a", 5)
    assert entered(slow_calls, "a") == 5
    slow_calls.leave("a", failed=True, took_s=SLOW_S)
    assert entered(slow_calls, "a") == 1


@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("in", "ok", "slow", "cut")))))
def test_something_may_always_begin(threads: int, steps: list[tuple[str, str]]) -> None:
    """Whatever has happened: with nothing under way everybody may enter, so nothing is shut out for ever."""
    slow_calls, under_way = SlowCallLimit(threads), dict.fromkeys("abc", 0)
    for name, step in steps:
        if step == "in":
            under_way[name] += slow_calls.enter(name)
        elif under_way[name]:
            under_way[name] -= 1
            failed = {"ok": False, "slow": True, "cut": None}[step]
            slow_calls.leave(name, failed=failed, took_s=SLOW_S)
    for name, many in under_way.items():
        for _ in range(many):
            slow_calls.leave(name)
    for name in "abc":
        assert slow_calls.enter(name)
        slow_calls.leave(name)
