"""What hangs gets half of the threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messages_app.domain.shares import SLOW_S, Shares


def hung(shares: Shares, name: str, times: int) -> None:
    for _ in range(times):
        assert shares.enter(name)
        shares.leave(name, failed=True, took_s=SLOW_S)


def entered(shares: Shares, name: str, times: int = 10) -> int:
    return sum(shares.enter(name) for _ in range(times))


def test_as_long_as_nothing_hangs_there_is_no_limit() -> None:
    assert entered(Shares(10), "a") == 10


def test_what_hangs_gets_half_of_the_threads_and_others_all() -> None:
    shares = Shares(10)
    hung(shares, "a", 5)
    assert entered(shares, "a") == 5
    assert entered(shares, "b") == 10


def test_fewer_slow_failures_prove_nothing() -> None:
    shares = Shares(10)
    hung(shares, "a", 4)
    assert entered(shares, "a") == 10


def test_all_that_hang_share_the_half() -> None:
    shares = Shares(10)
    for name in ("a", "b"):
        hung(shares, name, 5)
    assert (entered(shares, "a", 3), entered(shares, "b")) == (3, 2)


def test_one_that_ends_well_or_quickly_lifts_the_limit() -> None:
    for failed, took_s in ((False, 9.0), (True, SLOW_S / 2)):
        shares = Shares(10)
        hung(shares, "a", 9)
        assert shares.enter("a")
        shares.leave("a", failed=failed, took_s=took_s)
        assert entered(shares, "a") == 10


def test_what_we_broke_off_ourselves_says_nothing() -> None:
    shares = Shares(10)
    hung(shares, "a", 5)
    assert shares.enter("a")
    shares.leave("a")
    assert entered(shares, "a") == 5


def test_a_place_that_is_left_is_free_again() -> None:
    shares = Shares(10)
    hung(shares, "a", 5)
    assert entered(shares, "a") == 5
    shares.leave("a", failed=True, took_s=SLOW_S)
    assert entered(shares, "a") == 1


@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("in", "ok", "slow", "cut")))))
def test_something_may_always_begin(threads: int, steps: list[tuple[str, str]]) -> None:
    """Whatever has happened: with nothing under way everybody may enter, so nothing is shut out for ever."""
    shares, under_way = Shares(threads), dict.fromkeys("abc", 0)
    for name, step in steps:
        if step == "in":
            under_way[name] += shares.enter(name)
        elif under_way[name]:
            under_way[name] -= 1
            failed = {"ok": False, "slow": True, "cut": None}[step]
            shares.leave(name, failed=failed, took_s=SLOW_S)
    for name, many in under_way.items():
        for _ in range(many):
            shares.leave(name)
    for name in "abc":
        assert shares.enter(name)
        shares.leave(name)
