"""A TCP proxy between the roles and a store, which delays, holds, drops and cuts what passes through.

All proxies run on one event loop in a thread of this process. Their methods can be called from any thread.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

HOST = "127.0.0.1"
_CHUNK = 65536
#: Seconds between two looks at a proxy that holds everything.
_LOOK_S = 0.02


class Mode(StrEnum):
    """What a proxy does with its connections."""

    NORMAL = "normal"
    #: Each piece arrives later by a fixed time, in both directions.
    DELAY = "delay"
    #: Nothing passes and nothing is closed; what was held passes afterwards.
    STALL = "stall"
    #: The request reaches the store. When its answer comes, the connection is cut instead.
    LOSE_ANSWER = "lose_answer"
    #: The request reaches the store. Its answer never arrives, and the connection stays open.
    SWALLOW_ANSWER = "swallow_answer"
    #: Existing connections are cut, new ones too.
    REFUSE = "refuse"


@dataclass(eq=False, slots=True)
class _Line:
    """One connection of a role and the one behind it."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter
    #: Nothing passes any more, for ever, and neither side notices: a half-open connection.
    silent: bool = False

    def cut(self) -> None:
        for writer in (self.client, self.store):
            with suppress(OSError, RuntimeError):
                writer.transport.abort()


class Loop:
    """The event loop of all proxies, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine that runs on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def soon(self, work: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(work)

    def stop(self) -> None:
        self.run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Proxy:
    """Listens on ``port`` of loopback once started, and connects to ``target`` for each connection."""

    loop: Loop
    name: str
    port: int
    target: int
    rng: random.Random
    mode: Mode = Mode.NORMAL
    delay_s: float = 0.0
    #: Share of the answers that a mode loses.
    share: float = 1.0
    _lines: set[_Line] = field(default_factory=set)
    _server: asyncio.Server | None = None

    def start(self) -> Proxy:
        async def listen() -> None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)

        self.loop.run(listen())
        return self

    def stop(self) -> None:
        async def close() -> None:
            if self._server is not None:
                self._server.close()
            self._cut_all()

        self.loop.run(close())

    def become(self, mode: Mode, *, delay_s: float = 0.0, share: float = 1.0) -> None:
        """Change what happens from now on."""

        def change() -> None:
            self.delay_s, self.share, self.mode = delay_s, share, mode
            if mode is Mode.REFUSE:
                self._cut_all()

        self.loop.soon(change)

    def reset(self) -> None:
        """Cut every connection; new ones pass."""
        self.loop.soon(self._cut_all)

    def silence(self) -> None:
        """Make every existing connection half-open; new ones pass."""

        def change() -> None:
            for line in self._lines:
                line.silent = True

        self.loop.soon(change)

    def _cut_all(self) -> None:
        for line in list(self._lines):
            line.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.REFUSE:
            writer.transport.abort()
            return
        try:
            store_reader, store_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, store_writer)
        self._lines.add(line)
        try:
            pumps = {
                asyncio.ensure_future(self._requests(reader, line)),
                asyncio.ensure_future(self._answers(store_reader, line)),
            }
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # The role learns nothing of the end of a half-open connection. At the end of the run, asyncio would print
            # the cancellation of this task as an error.
            with suppress(asyncio.CancelledError):
                while line.silent and not reader.at_eof():
                    await asyncio.sleep(_LOOK_S)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._lines.discard(line)
            line.cut()

    async def _requests(self, reader: asyncio.StreamReader, line: _Line) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._hold()
                if not line.silent:
                    line.store.write(data)
                    await line.store.drain()

    async def _answers(self, reader: asyncio.StreamReader, line: _Line) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._hold()
                if self.mode is Mode.LOSE_ANSWER and self.rng.random() < self.share:
                    return
                if self.mode is Mode.SWALLOW_ANSWER and self.rng.random() < self.share:
                    line.silent = True  # what would follow belongs to another request
                if not line.silent:
                    line.client.write(data)
                    await line.client.drain()

    async def _hold(self) -> None:
        if self.mode is Mode.DELAY:
            await asyncio.sleep(self.delay_s)
        while self.mode is Mode.STALL:
            await asyncio.sleep(_LOOK_S)
