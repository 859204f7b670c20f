"""HTTP load by wrk with keep-alive, and single paced requests for latency."""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import places
from .processes import plain_environment

#: Fields of the message that every contestant takes in: about 300 bytes.
PAYLOAD: dict[str, Any] = {
    "orderId": "ord-000123456",
    "customer": {"id": 4711, "email": "someone@example.com", "name": "Some One"},
    "items": [{"sku": "AB-1", "qty": 2, "price": 19.9}, {"sku": "CD-2", "qty": 1, "price": 5}],
    "total": 44.8,
    "currency": "EUR",
}
PAYLOAD_TEXT = json.dumps(PAYLOAD, separators=(",", ":"))


def payload_of(size: int) -> dict[str, Any]:
    """``PAYLOAD`` with more items, until its JSON text has about ``size`` bytes; never less than ``PAYLOAD``."""
    item = PAYLOAD["items"][0]
    more = max(0, size - len(PAYLOAD_TEXT)) // len(json.dumps(item, separators=(",", ":")) + ",")
    return PAYLOAD | {"items": [*PAYLOAD["items"], *[item] * more]}


@dataclass(frozen=True)
class Request:
    """What is posted, again and again."""

    path: str
    body: str
    headers: Mapping[str, str]
    messages: int = 1


def post_many(port: int, request: Request, *, connections: int, seconds: int) -> dict[str, float]:
    """Load for ``seconds``: requests, rps, percentiles in ms. ``RuntimeError`` unless all were answered with 2xx."""
    environment = plain_environment() | {
        "BENCH_BODY": request.body,
        "BENCH_HEADERS": "\n".join(f"{name}: {value}" for name, value in request.headers.items()),
    }
    script = str(places.HERE / "post.lua")
    url = f"http://127.0.0.1:{port}{request.path}"
    ended = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script, url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    found = re.search(r"^RESULT (.*)$", ended.stdout, re.MULTILINE)
    if not found:
        raise RuntimeError(f"wrk said: {ended.stdout}{ended.stderr}")
    result: dict[str, float] = json.loads(found[1])
    if result["refused"] or result["socket_errors"]:
        raise RuntimeError(f"not everything was accepted, so the rate says nothing: {found[1]}")
    return result


def post_paced(port: int, request: Request, *, count: int, per_second: float) -> list[tuple[str, int, int]]:
    """One request at a time at irregular intervals: (message id, sent at, answered at), CLOCK_MONOTONIC nanoseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    dice = random.Random(20)
    sent = []
    headers = {"Content-Type": "application/json", **request.headers}
    for _ in range(count):
        time.sleep(dice.uniform(0.5, 1.5) / per_second)
        before = time.monotonic_ns()
        connection.request("POST", request.path, request.body, headers)
        response = connection.getresponse()
        body = response.read()
        after = time.monotonic_ns()
        if response.status != 202:
            raise RuntimeError(f"{response.status}: {body[:300]!r}")
        sent.append((json.loads(body)["data"]["messageId"], before, after))
    connection.close()
    return sent
