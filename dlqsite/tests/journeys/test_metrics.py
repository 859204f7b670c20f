"""Metrics of a busy system agree with the accounts, the letters and ``dlq_stats``, to the message."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from dlqsite.tests.journeys.rig import ROOT, Rig
from dlqsite.tests.patience import eventually
from dlqsite.tests.test_metrics import Series, of, parsed
from messages_app.work.measuring import EVERY_S

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]


MEASURED = ("dlq_handler_duration_seconds_count", "dlq_duplicates_total", "dlq_replays_total", "dlq_attempts_total")


def scrape(rig: Rig) -> Series:
    reply = rig.get("/metrics")
    assert reply.status == 200, reply.raw
    return parsed(reply.raw.decode())


def stats(rig: Rig) -> Any:
    done = subprocess.run(
        [sys.executable, "manage.py", "dlq_stats", "--json"],
        cwd=ROOT, env=rig.environment, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


def changed(before: Series, after: Series, name: str) -> dict[tuple[str, ...], float]:
    earlier = of(before, name)
    return {labels: n for labels, value in of(after, name).items() if (n := value - earlier.get(labels, 0))}


def be_quiet(rig: Rig) -> None:
    """Nothing of other journeys runs, will be replayed, or is measured and not sent."""
    counts: dict[str, Any] = {}
    changed_at = time.monotonic()

    def is_quiet() -> bool:
        nonlocal counts, changed_at
        for letter in rig.get("/api/dlq?status=dlq_pending&limit=100").data:
            rig.post(f"/api/dlq/{letter['_id']}/set-aside", {"reason": "a journey begins"})
        found = scrape(rig)
        now = {name: of(found, name) for name in MEASURED}
        if now != counts:
            counts, changed_at = now, time.monotonic()
        letters = of(found, "dlq_letters")
        waits = letters.get(("dlq_pending",), 1) or letters[("dlq_processing",)]
        works = waits or sum(of(found, "dlq_messages_open").values())
        return not works and time.monotonic() - changed_at > 1.5 * EVERY_S

    eventually(is_quiet, seconds=90, every=0.5)
    # Open, it would hold messages of this journey.
    assert rig.post("/api/breakers/demo/reset", {"reason": "a journey begins"}).status == 200


def test_they_agree_to_the_message(rig: Rig) -> None:
    be_quiet(rig)
    before = scrape(rig)
    good = [{"messageId": f"metrics-good-{n}", "payload": {}} for n in range(60)]
    failing = {"simulateError": True, "errorType": "VALIDATION_ERROR"}
    bad = [{"messageId": f"metrics-bad-{n}", "payload": failing} for n in range(12)]
    assert rig.post("/api/messages/batch", {"messages": [*good, *bad]}).status == 202
    statuses = Counter(
        rig.post("/api/messages", {"messageId": f"metrics-good-{n}", "payload": {}}).status for n in range(5)
    )
    assert statuses == {200: 5}
    ids = [str(one["messageId"]) for one in (*good, *bad)]
    eventually(lambda: rig.statuses(ids) == {"done": 60, "dead": 12}, seconds=60, every=0.5)
    assert rig.post("/api/dlq/metrics-bad-0/replay").status in (200, 202)
    eventually(lambda: rig.status("metrics-bad-0") == "dead", seconds=60)

    # Each process adds its own measurements every five seconds, and the DLQ worker counts letters every ten.
    def settled() -> Series | None:
        found = scrape(rig)
        done = sum(
            n
            for labels, n in changed(before, found, "dlq_handler_duration_seconds_count").items()
            if labels[1] == "demo"
        )
        counted = sum(of(found, "dlq_letters").values()) - sum(of(before, "dlq_letters").values())
        asked = changed(before, found, "dlq_http_requests_total")
        return found if done >= 73 and counted >= 12 and asked.get(("POST", "api/messages", "200"), 0) >= 5 else None

    found = eventually(settled, seconds=60, every=0.5)

    assert of(found, "dlq_collector_up") == dict.fromkeys(of(found, "dlq_collector_up"), 1)
    assert changed(before, found, "dlq_messages_accepted_total") == {("demo",): 72}
    assert changed(before, found, "dlq_messages_ended_total") == {("done", "demo"): 60, ("dead", "demo"): 13}
    assert changed(before, found, "dlq_messages_reopened_total") == {("dead", "demo"): 1}
    assert changed(before, found, "dlq_attempts_total") == {("succeeded",): 60, ("failed",): 13}
    assert changed(before, found, "dlq_duplicates_total") == {(): 5}
    assert changed(before, found, "dlq_replays_total") == {("failed_same",): 1}
    assert changed(before, found, "dlq_letters_created_total") == {(): 12}
    assert changed(before, found, "dlq_handler_duration_seconds_count") == {
        ("succeeded", "demo"): 60,
        ("failed", "demo"): 13,
    }
    assert changed(before, found, "dlq_http_requests_total")[("POST", "api/messages/batch", "202")] == 1
    assert changed(before, found, "dlq_http_requests_total")[("POST", "api/messages", "200")] == 5
    told = stats(rig)
    assert of(found, "dlq_letters") == {(status,): count for status, count in told["byStatus"].items()}
    assert sum(of(found, "dlq_letters").values()) == told["total"]
    for kind in of(found, "dlq_messages_accepted_total"):
        accepted, still_open = (of(found, f"dlq_messages_{name}")[kind] for name in ("accepted_total", "open"))
        ended = sum(n for (_, type_), n in of(found, "dlq_messages_ended_total").items() if type_ == kind[0])
        again = sum(n for (_, type_), n in of(found, "dlq_messages_reopened_total").items() if type_ == kind[0])
        assert accepted + again == ended + still_open
    assert of(found, "dlq_accounting_difference_messages") == {(): 0}
    assert all(of(found, "dlq_processes")[(role,)] >= 1 for role in ("worker", "dlq_worker", "cron"))
