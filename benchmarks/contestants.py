"""What a program must say about itself to take part: how it is started, what is posted to it, how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .load import Request
from .processes import Child
from .stores import Stores


class Work(StrEnum):
    """What the handler does with each message."""

    NOOP = "noop"
    SLEEP20 = "sleep20"
    #: Raises a permanent error: one dead letter each.
    FAIL = "fail"
    #: Reports its start by ``RPUSH bench:starts "<message id> <CLOCK_MONOTONIC ns>"``.
    STAMP = "stamp"


STARTS = "bench:starts"


@dataclass(frozen=True)
class Site:
    """What a contestant may use."""

    stores: Stores
    http_port: int
    #: Scratch of this series: databases, sockets.
    folder: Path
    logs: Path


@dataclass(frozen=True)
class Intake:
    """An HTTP server that takes messages in. ``start`` returns when it listens on ``site.http_port``."""

    name: str
    start: Callable[[Site], list[Child]]
    #: What posts a message for this work with this payload.
    request: Callable[[Site, Work, Mapping[str, Any]], Request]


@dataclass(frozen=True)
class Consumer:
    """Worker processes."""

    name: str
    #: Handlers that can run at once, over all processes.
    in_flight: int
    start: Callable[[Site, Work], list[Child]]
    #: Puts this number of messages into the queue.
    fill: Callable[[Site, Work, int], None]
    #: How many of the queued messages have ended. Must cost the stores almost nothing.
    ended: Callable[[Site, Work, int], int]
    #: The database in which its dead letters arrive.
    database: str
    #: Messages per second to expect, which decides how many to put in.
    expected: Mapping[Work, int]


@dataclass(frozen=True)
class System:
    """An intake together with what processes its messages."""

    name: str
    intake: Intake
    consumer: Consumer


@dataclass(frozen=True)
class Field:
    """Everyone who takes part."""

    intakes: Sequence[Intake]
    consumers: Sequence[Consumer]
    systems: Sequence[System]
