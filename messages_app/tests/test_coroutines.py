"""Handlers that are coroutines run to their end, and what cannot be run is a failed attempt."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from dlqsite.tests.patience import eventually
from messages_app.domain.records import Completed, Deferred, Failed, Outcome
from messages_app.envelope import Message
from messages_app.tests.handling import a_claimed, handling
from messages_app.work import pool as pool_module
from messages_app.work.pool import Pool
from messages_app.work.runner import Attempt, Runner


def attempt_of(type_: str) -> Attempt:
    return Attempt(a_claimed(type=type_), time.monotonic())


def run(function: Callable[[Message], Any]) -> Outcome | None:
    with handling(function) as type_:
        return Runner("w-1").run(attempt_of(type_))


def error_of(outcome: Outcome | None) -> dict[str, Any]:
    assert isinstance(outcome, Failed)
    error: dict[str, Any] = json.loads(outcome.error)
    return error


async def works(message: Message) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"done": message.id}


class Works:
    async def __call__(self, message: Message) -> dict[str, Any]:
        return await works(message)


async def hands_on(message: Message) -> Any:
    return works(message)


@types.coroutine
def old_style(message: Message) -> Generator[Any, None, Any]:
    return (yield from works(message).__await__())


class Awaitable:
    def __init__(self, message: Message) -> None:
        self.message = message

    def __await__(self) -> Any:
        return works(self.message).__await__()


@pytest.mark.parametrize(
    "function",
    [works, lambda message: works(message), Works(), functools.partial(works), hands_on, old_style, Awaitable],
)
def test_what_can_be_awaited_is_run_to_its_end(function: Any) -> None:
    outcome = run(function)

    assert isinstance(outcome, Completed)
    assert outcome.result == '{"done":"m1"}'


def test_what_a_coroutine_raises_is_the_failure_told_from_the_handler_on() -> None:
    async def failing(message: Message) -> None:
        await asyncio.sleep(0)
        raise ConnectionRefusedError("no")

    error = error_of(run(failing))

    assert (error["errorType"], error["errorReason"]) == ("NETWORK_ERROR", "ConnectionRefusedError: no")
    assert "in failing" in error["errorStack"].splitlines()[1]


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopAsyncIteration()])
def test_whatever_a_coroutine_raises_is_a_failure(raised: BaseException) -> None:
    async def failing(message: Message) -> None:
        raise raised

    assert error_of(run(failing))["errorType"] == "UNKNOWN_ERROR"
    assert isinstance(run(works), Completed)


def generator(message: Message) -> Iterator[int]:
    yield 1


async def async_generator(message: Message) -> AsyncIterator[int]:
    yield 1


async def returns_a_generator(message: Message) -> Any:
    return generator(message)


async def returns_coroutines(message: Message) -> Any:
    return [works(message), works(message)]


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda message: generator(message), "a generator"),
        (lambda message: async_generator(message), "an asynchronous generator"),
        (lambda message: map(works, [message]), "builtins.map"),
        (lambda message: filter(works, [message]), "builtins.filter"),
        (lambda message: functools.partial(works, message), "functools.partial"),
        (lambda message: concurrent.futures.Future(), "Future"),
        (returns_a_generator, "a generator"),
        (lambda message: works, "a function"),
        (lambda message: [works(message)], "a coroutine"),
        (lambda message: {"sent": {"all": (works(message),)}}, "a coroutine"),
        (lambda message: {generator(message)}, "a generator"),
        (returns_coroutines, "a coroutine"),
    ],
)
def test_what_was_returned_and_never_ran_is_a_failed_attempt(function: Any, named: str) -> None:
    error = error_of(run(function))

    assert error["errorType"] == "UNKNOWN_ERROR"
    assert error["errorReason"].startswith("The handler returned ")
    assert named in error["errorReason"]


async def waits_for_tasks(message: Message) -> Any:
    done, _ = await asyncio.wait([asyncio.create_task(works(message))])
    return done


@pytest.mark.parametrize(
    "function", [waits_for_tasks, lambda message: {1, 2}, lambda message: cyclic(), lambda message: [object()]]
)
def test_a_result_that_is_not_json_and_holds_no_work_is_done(function: Any) -> None:
    outcome = run(function)

    assert isinstance(outcome, Completed)
    assert "not JSON" in outcome.result


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def test_tasks_that_a_coroutine_leaves_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async def leaves_a_task(message: Message) -> None:
        message_task = asyncio.create_task(asyncio.sleep(3600))
        assert not message_task.done()

    assert isinstance(run(leaves_a_task), Completed)
    assert [record.message for record in caplog.records] == ["tasks_cancelled"]


def test_each_attempt_has_a_loop_of_its_own_and_leaves_nothing_on_it() -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    told: list[str] = []

    async def in_the_background() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            told.append("task cancelled")

    async def many() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            told.append("generator closed")

    async def leaving(message: Message) -> None:
        loops.append(asyncio.get_running_loop())
        loops[-1].background = asyncio.create_task(in_the_background())  # type: ignore[attr-defined]
        loops[-1].generator = many()  # type: ignore[attr-defined]
        await anext(loops[-1].generator)  # type: ignore[attr-defined]
        told.append(await asyncio.to_thread(lambda: "thread"))

    for _ in range(2):
        assert isinstance(run(leaving), Completed)

    assert told == ["thread", "task cancelled", "generator closed"] * 2
    assert loops[0] is not loops[1]
    assert all(loop.is_closed() for loop in loops)
    assert sys.get_asyncgen_hooks() == (None, None)


def interrupted(function: Callable[[Message], Any], why: str = "timeout") -> Outcome | None:
    """Run on a thread of its own, and interrupt once the handler says that it runs."""
    outcomes: list[Outcome | None] = []
    with handling(function) as type_:
        attempt = attempt_of(type_)
        thread = threading.Thread(target=lambda: outcomes.append(Runner("w-1").run(attempt)), daemon=True)
        running.clear()
        thread.start()
        assert running.wait(10)
        assert attempt.interrupt(why)
        thread.join(10)
    return outcomes[0]


running = threading.Event()


async def waits(message: Message) -> None:
    running.set()
    await asyncio.sleep(3600)


async def spins(message: Message) -> None:
    running.set()
    while True:
        pass


async def spins_between_waits(message: Message) -> None:
    while True:
        running.set()
        await asyncio.sleep(0)


async def swallows(message: Message) -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await waits(message)
    return "done after all"


async def leaves_a_stubborn_task(message: Message) -> None:
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                running.set()
                await asyncio.sleep(3600)

    message.metadata["task"] = asyncio.create_task(stubborn())  # type: ignore[index]
    await asyncio.sleep(0)


@pytest.mark.parametrize("function", [waits, spins, spins_between_waits, swallows, leaves_a_stubborn_task])
def test_a_coroutine_is_stopped_at_its_deadline(function: Any) -> None:
    error = error_of(interrupted(function))

    assert (error["errorType"], error["errorKind"]) == ("TIMEOUT_ERROR", "transient")
    if function is waits:
        assert "in waits" in error["errorStack"]
        assert error["errorReason"] == "The attempt ran out of time."


def test_a_stopped_coroutine_tidies_up_and_its_thread_goes_on() -> None:
    told: list[str] = []

    async def tidy(message: Message) -> None:
        try:
            await waits(message)
        finally:
            await asyncio.sleep(0)
            told.append("tidied up")

    pool = Pool(1, Runner("w-1"))
    pool.start()
    with (
        handling(tidy, timeout=0.1) as slow,
        handling(lambda message: asyncio.run(works(message)), "test.sync") as sync,
    ):
        pool.add([attempt_of(slow), attempt_of(sync), attempt_of(slow), attempt_of(sync)])
        outcomes = [pool.outcomes.get(timeout=10) for _ in range(4)]
    pool.close()

    assert [type(outcome) for outcome in outcomes] == [Failed, Completed, Failed, Completed]
    assert told == ["tidied up"] * 2
    assert pool.abandoned() == 0


def test_coroutines_are_handed_back_when_the_process_stops() -> None:
    pool = Pool(2, Runner("w-1"))
    pool.start()
    with handling(waits) as type_:
        pool.add([attempt_of(type_), attempt_of(type_)])
        eventually(lambda: all(attempt.loop for attempt in pool.running()) and pool.busy() == 2)
        pool.interrupt_all("shutdown")
        outcomes = [pool.outcomes.get(timeout=10) for _ in range(2)]
    pool.close()

    assert all(isinstance(outcome, Deferred) and outcome.why == "shutdown" for outcome in outcomes)


def test_a_coroutine_that_cannot_be_stopped_is_given_up_with_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE_S", 0.1)
    release = threading.Event()

    async def blocks(message: Message) -> None:
        release.wait(20)

    pool = Pool(1, Runner("w-1"))
    pool.start()
    with handling(blocks, timeout=0.1) as type_:
        pool.add([attempt_of(type_)])
        error = error_of(pool.outcomes.get(timeout=10))
        assert pool.abandoned() == 1
        release.set()
        eventually(lambda: pool.abandoned() == 0)
    pool.close()

    assert error["errorType"] == "TIMEOUT_ERROR"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loop interrupted while it is made
def test_an_interruption_at_any_moment_of_a_coroutine_leaves_one_outcome() -> None:
    rounds, outcomes, leaked = 150, [], []
    current: list[Attempt] = []
    finished = threading.Event()

    def work() -> None:
        try:
            for _ in range(rounds):
                attempt = attempt_of("test.type")
                current[:] = [attempt]
                outcomes.append(Runner("w-1").run(attempt))
        except BaseException as error:
            leaked.append(error)
        finally:
            finished.set()

    with handling(works):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while not finished.is_set():
            for attempt in current:
                if attempt.started_at:
                    attempt.interrupt("timeout")
            time.sleep(0.0003)
        thread.join(10)

    assert leaked == []
    assert len(outcomes) == rounds
    assert all(isinstance(outcome, Completed | Failed) for outcome in outcomes)
