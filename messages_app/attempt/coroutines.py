"""Coroutine handlers, and results that never run: generators and similar objects.

A coroutine runs on its own event loop, in the thread of its attempt. No other message shares the loop, and tasks left
on it end with it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Any, Protocol, cast

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async

from messages_app.attempt import databases
from messages_app.domain.records import Claimed
from messages_app.exception_text import guarded
from messages_app.failures import HandlerError
from processes.forks import exit_if_forked

log = logging.getLogger(__name__)

#: Seconds for a loop to process its cancellation. A loop that does not is blocked by its handler.
_CANCEL_S = 0.05
#: Types of most results. None of them can wait.
_PLAIN = frozenset({NoneType, bool, int, float, str, bytes, dict, list, tuple, set})
#: Results whose work never runs.
_NEVER_RUN = (Generator, AsyncGenerator, AsyncIterator, map, filter, concurrent.futures.Future, partial)
#: Functions that were not called: the parentheses are missing.
_NOT_CALLED = (FunctionType, MethodType, BuiltinFunctionType)
_ATOMS = frozenset({NoneType, bool, int, float, str, bytes})
_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_MAX_UNWRAPS = 50
#: Maximum values within a result that are checked for work that never ran.
_MAX_VALUES = 10_000


class NeverRan(HandlerError):
    """The handler returned work that was never run, such as a generator."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"The handler returned {_described(type(value))}: what stands in it has not run, or not to its end. Do the "
            "work inside the handler, or return a coroutine."
        )


class LoopOfAttempt:
    """The event loop of an attempt, for other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self._loop = loop
        self._task = task
        self._heard = threading.Event()

    def cancel(self) -> bool:
        """Cancel a waiting handler. Returns False when it does not wait, or has ended without cleanup."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # closed already
            return False
        return self._heard.wait(_CANCEL_S)

    def wake(self) -> None:
        """Run the loop once, so that an exception raised in its thread takes effect."""
        try:
            self._loop.call_soon_threadsafe(_nothing)
        except RuntimeError:
            return

    def _cancel(self) -> None:
        if self._task.cancel():
            self._heard.set()


def _nothing() -> None: ...


def may_wait(value: object) -> bool:
    """Whether ``run`` must process a handler's result."""
    return type(value) not in _PLAIN


class RunsOnLoop(Protocol):
    """An attempt, as far as coroutines use it; see ``runner.Attempt``."""

    claimed: Claimed
    loop: LoopOfAttempt | None


def run(value: Any, attempt: RunsOnLoop) -> Any:
    """Return a handler's result after running it to its end if it is awaitable.

    Raises its exceptions, and ``NeverRan`` for a result that never runs.
    """
    kind = type(value)
    if not _is_awaitable(value):
        if issubclass(kind, (*_NEVER_RUN, *_NOT_CALLED)):
            _close(value)
            raise NeverRan(value)
        return value
    try:
        # The runner cancels remaining tasks, shuts down asynchronous generators and the executor, and closes the loop.
        with asyncio.Runner() as runner:
            return runner.run(_to_its_end(value, attempt))
    finally:
        attempt.loop = None
        clear_thread()
        _close(value)


def refuse_within(value: Any) -> None:
    """Raise ``NeverRan`` for a result whose containers hold work that never ran: ``[send(x) for x in items]``.

    For results that are not JSON: JSON values contain no such work. The handler has awaited a future that has ended.
    """
    never: list[object] = []
    waiting: deque[Any] = deque([value])
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_VALUES:
        found = waiting.popleft()
        kind = type(found)
        if kind in _ATOMS or id(found) in seen:
            continue
        seen.add(id(found))
        # By the container's own methods: a subclass may do anything.
        if issubclass(kind, dict):
            waiting.extend(islice(dict.values(found), _MAX_VALUES))
        elif (container := next((one for one in _CONTAINERS if issubclass(kind, one)), None)) is not None:
            waiting.extend(islice(container.__iter__(found), _MAX_VALUES))
        elif (issubclass(kind, _NEVER_RUN) or _is_awaitable(found)) and not _has_ended(found):
            never.append(found)
    for one in never:
        _close(one)
    if never:
        raise NeverRan(never[0])


def clear_thread() -> None:
    """Remove the event loop of this thread: an interrupted handler may have left its own."""
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(None)
    sys.set_asyncgen_hooks(None, None)


def is_cancellation(error: BaseException) -> bool:
    return issubclass(type(error), asyncio.CancelledError)


def generator_behind(function: Callable[..., Any]) -> FunctionType | None:
    """The generator function behind ``function``, whose body a call would not run; None without one.

    Follows ``functools.partial``, callable objects, methods, and decorators with ``__wrapped__``.
    """
    seen: Any = function
    for _ in range(_MAX_UNWRAPS):
        if isinstance(seen, partial):
            seen = seen.func
        elif inspect.ismethod(seen):
            seen = seen.__func__
        elif inspect.isasyncgenfunction(seen) or _is_generator_function(seen):
            return cast("FunctionType", seen)
        elif hasattr(seen, "__wrapped__"):
            seen = seen.__wrapped__
        elif not inspect.isroutine(seen) and not inspect.isclass(seen) and callable(seen):
            seen = type(seen).__call__
        else:
            return None
    return None


def _is_generator_function(function: Any) -> bool:
    # A generator that ``types.coroutine`` marked can be awaited.
    return inspect.isgeneratorfunction(function) and not function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE


def _is_awaitable(value: object) -> bool:
    # By its class, not its attributes. Generators marked by ``types.coroutine`` are not ``Awaitable``.
    return issubclass(type(value), Awaitable) or (inspect.isgenerator(value) and inspect.isawaitable(value))


async def _to_its_end(value: Any, attempt: RunsOnLoop) -> Any:
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    attempt.loop = LoopOfAttempt(asyncio.get_running_loop(), task)
    process_id = os.getpid()
    # A thread of this attempt for code that Django does not run in a coroutine, above all its ORM.
    async with ThreadSensitiveContext() as own:
        try:
            while _is_awaitable(value):
                value = await value
            exit_if_forked(process_id)
            if issubclass(type(value), (*_NEVER_RUN, *_NOT_CALLED)):
                raise NeverRan(value)
            if left_tasks := len(asyncio.all_tasks()) - 1:
                # Not a failure: libraries leave tasks, too.
                log.warning("tasks_cancelled", extra={"message_id": attempt.claimed.message_id, "tasks": left_tasks})
        except BaseException as raised:
            exit_if_forked(process_id, raised)
            await _close_databases(own)
            raise
        if left := await _close_databases(own):
            raise databases.TransactionLeftOpen(left)
    return value


async def _close_databases(own: ThreadSensitiveContext) -> list[str]:
    if own not in SyncToAsync.context_to_thread_executor:
        return []
    return await sync_to_async(databases.leave)()


def _has_ended(value: Any) -> bool:
    if not issubclass(type(value), (asyncio.Future, concurrent.futures.Future)):
        return False
    return guarded(lambda: bool(value.done() and not value.cancelled()), False)


def _close(value: Any) -> None:
    """Close an unfinished generator or coroutine now, not when it is garbage-collected."""
    if inspect.isgenerator(value) or inspect.iscoroutine(value):
        guarded(value.close, None)


def _described(kind: type) -> str:
    if issubclass(kind, AsyncGenerator):
        return "an asynchronous generator"
    if issubclass(kind, Generator):
        return "a generator"
    if issubclass(kind, Coroutine):
        return "a coroutine within its result"
    if issubclass(kind, _NOT_CALLED):
        return "a function"
    return f"an object of the class {kind.__module__}.{kind.__qualname__}"
