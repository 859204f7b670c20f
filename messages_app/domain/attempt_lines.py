"""Lines about attempts that are written without an encoder: those of most messages."""

from __future__ import annotations

import time

#: The last formatted second. Replaced as a whole, so that threads may share it without a lock.
_second: tuple[int, str] = (0, "1970-01-01T00:00:00")


def instant(ms: int) -> str:
    """Epoch milliseconds as ISO 8601 in UTC.

    >>> instant(1_700_000_000_007)
    '2023-11-14T22:13:20.007Z'
    """
    global _second
    whole, rest = divmod(ms, 1000)
    second = _second
    if second[0] != whole:
        second = _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{second[1]}.{rest:03d}Z"


def succeeded(number: int, started_ms: int, ended_ms: int, worker: str) -> str:
    """``worker`` must need no escaping in JSON."""
    return (
        f'{{"number":{number},"startedAt":"{instant(started_ms)}","endedAt":"{instant(ended_ms)}","outcome":"succeeded",'
        f'"errorType":null,"errorReason":null,"retryDelayMs":null,"worker":"{worker}"}}'
    )
