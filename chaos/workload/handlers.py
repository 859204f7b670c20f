"""Handlers that append one line to a file for each run that reaches its end.

The line is written after the work and before the handler returns, as a real effect is: a process that is killed between
the two has had the effect, and its message runs again.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import cache

from chaos.effects import FILE_VARIABLE, line
from messages_app.envelope import Message
from messages_app.failures import HandlerError
from messages_app.registry import handler


@cache
def _file() -> int:
    # One write of a short line with O_APPEND is never mixed with the lines of other processes.
    return os.open(os.environ[FILE_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _end(message: Message) -> dict[str, bool]:
    fails = message.payload.get("fail") == "always" or message.prior_runs < message.payload.get("failTimes", 0)
    os.write(_file(), line(message.id, message.replay_id, message.attempt, succeeded=not fails))
    if fails:
        raise HandlerError("made to fail", error_type=message.payload.get("error", "NETWORK_ERROR"))
    return {"ok": True}


@handler("chaos.plain")
def plain(message: Message) -> dict[str, bool]:
    time.sleep(message.payload.get("ms", 0) / 1000)
    return _end(message)


@handler("chaos.guarded", breaker="chaos")
def guarded(message: Message) -> dict[str, bool]:
    """Call a circuit breaker before and after, as a handler with a downstream does."""
    time.sleep(message.payload.get("ms", 0) / 1000)
    return _end(message)


@handler("chaos.coroutine")
async def coroutine(message: Message) -> dict[str, bool]:
    await asyncio.sleep(message.payload.get("ms", 0) / 1000)
    return _end(message)
