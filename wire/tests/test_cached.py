"""Answers are kept for a while, by argument, and asked for once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wire.cached import Cached


def test_an_answer_is_kept_by_argument() -> None:
    asked: list[str] = []

    def ask(name: str) -> str:
        asked.append(name)
        return name.upper()

    cached = Cached(ask, 60)

    assert [cached("a"), cached("b"), cached("a")] == ["A", "B", "A"]
    assert asked == ["a", "b"]
    cached.forget()
    assert cached("a") == "A"
    assert asked == ["a", "b", "a"]


def test_an_answer_whose_time_is_over_is_asked_for_again() -> None:
    answers = iter([1, 2])
    cached = Cached(lambda: next(answers), 0)

    assert [cached(), cached()] == [1, 2]


def test_how_long_an_answer_is_kept_may_depend_on_it() -> None:
    answers = iter([[], ["full"], ["empty"]])
    cached = Cached(lambda: next(answers), lambda answer, took_s: 0 if not answer else 60)

    assert [cached(), cached(), cached()] == [[], ["full"], ["full"]]


def test_an_error_is_not_kept() -> None:
    answers = iter([0, 1])
    cached = Cached(lambda: 1 // next(answers), 60)

    with pytest.raises(ZeroDivisionError):
        cached()
    assert cached() == 1


def test_no_more_than_the_maximum_is_kept() -> None:
    cached = Cached(str, 60, max_answers=3)

    for n in range(100):
        cached(n)

    assert len(cached._kept) <= 3
    assert len(cached._locks) <= 4


def test_of_threads_that_ask_at_once_one_asks() -> None:
    asked: list[int] = []
    let_go = threading.Event()

    def ask() -> int:
        asked.append(1)
        let_go.wait(10)
        return len(asked)

    cached = Cached(ask, 60)
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(cached) for _ in range(4)]
        let_go.set()

    assert [answer.result() for answer in answers] == [1] * 4
