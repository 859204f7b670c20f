"""Situations that the console's pages are looked at in: a quiet hour, an incident, written into real stores."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from breaker_app import conf as breaker_conf
from breaker_app.states import Outcome, State
from dlq_app.services.dead_letters import record_outcomes
from dlq_app.store import indexes, mongo
from dlq_app.testing import a_death
from dlqsite import tabs
from dlqsite.health import report, store_checks
from dlqsite.overview import parts, snapshot, views
from messages_app.domain.records import Acceptance, Completed, Failed
from messages_app.store import (
    books,
    connection,
    in_flight,
    lane_workers,
    marks,
    measurements,
    presence,
    recorded_outcomes,
    series,
)
from messages_app.store import ledger as ledger_module
from messages_app.store.ledger import ledger
from messages_app.store.series import EVERY_MS, Sample

PREFIX = "dlq:"


def forget() -> None:
    """Nothing that was seen of another test's stores is shown."""
    parts.sources.cache_clear()
    views.rendered.forget()
    report.doctor.cache_clear()
    books.forget()
    store_checks.index_problems.forget()
    store_checks.figures_problems.forget()
    store_checks.overflow_problems.forget()
    store_checks.schema_problems.forget()
    tabs.counts.forget()


def indexed() -> None:
    """MongoDB has its indexes."""
    indexes.ensure(mongo.database(), keep_resolved_days=90)


def reconnect() -> None:
    """Whatever this process keeps of Redis is made anew, at the address that the settings name now."""
    for kept in (
        connection.connection, ledger_module.ledger, presence._register, series.series, in_flight._reader,
        measurements.measurements, lane_workers._connections, marks.marks, recorded_outcomes.recorded_outcomes,
    ):  # fmt: skip
        kept.cache_clear()
    breaker_conf.forget()


@contextmanager
def away(settings: Any, store: str) -> Iterator[None]:
    """``redis`` or ``mongodb`` gives no answer; what was seen of it before is still known."""
    urls = settings.REDIS_URL, settings.MONGODB_URL
    if store == "redis":
        settings.REDIS_URL = "redis://127.0.0.1:9/0"
    else:
        settings.MONGODB_URL = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=50"
    reconnect()
    try:
        yield
    finally:
        settings.REDIS_URL, settings.MONGODB_URL = urls
        reconnect()


def settle() -> snapshot.Overview:
    """The overview once every source has answered, whatever it says."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        asked = parts.sources()
        asked.parts()
        if all(source.part().value is not None or source.part().why_away != "No answer yet." for source in asked.all):
            break
        time.sleep(0.02)
    views.rendered.forget()
    return snapshot.overview()


def processes(*roles: str) -> None:
    """Processes of these roles are alive."""
    for number, role in enumerate(roles):
        presence.announce(f"{role}-{number}", role, started_at_ms=0)


def accept(message_id: str, type: str = "demo", body: bytes = b'{"delayMs": 50}', priority: str = "normal",
    **more: Any,
) -> None:  # fmt: skip
    ledger().accept(
        Acceptance(
            message_id=message_id, type=type, body=body, sha256=message_id, priority=priority, source="shop-api",
            client="key:shop", accept_token=uuid.uuid4().hex, **more,
        )
    )  # fmt: skip


def claim(limit: int = 100) -> dict[str, int]:
    """Claim what waits; the fences by id."""
    claimed = ledger().claim(token=uuid.uuid4().hex, limit=limit, owner="worker-2", holding=0)
    return {record.message_id: record.fence for record in claimed.records}


def complete(message_id: str, fence: int) -> None:
    ledger().flush([Completed(message_id=message_id, fence=fence, result="null", attempt_json='{"number":1}')])


def fail(message_id: str, fence: int, delay_ms: int | None = 60_000) -> None:
    attempt = (
        '{"number":1,"startedAt":"2026-11-24T03:01:43.300Z","endedAt":"2026-11-24T03:01:53.301Z","outcome":"failed",'
        '"errorType":"TIMEOUT_ERROR","errorReason":"payments-api did not answer within 10 s; token=hunter2",'
        '"retryDelayMs":1004,"worker":"worker-2"}'
    )
    error = '{"errorType":"TIMEOUT_ERROR","errorKind":"transient","errorReason":"no answer","at":""}'
    ledger().flush(
        [Failed(message_id=message_id, fence=fence, delay_ms=delay_ms, error=error, attempt_json=attempt)]
    )  # fmt: skip


def hour(client: Any, *, rises_for_min: int = 0, gap: bool = False) -> None:
    """An hour of samples: about 60 messages a second, and for the last minutes failures and deaths that rise."""
    now_ms = ledger().now_ms()
    number = 3600_000 // EVERY_MS + 6
    accepted = done = failed = died = replayed = 0.0
    for step in range(number, -1, -1):
        at_ms = now_ms - step * EVERY_MS
        wave = ((step * 37) % 17 - 8) / 2
        into = max(0.0, rises_for_min * 60 - step * EVERY_MS / 1000) if rises_for_min else 0.0
        accepted += (60 + wave) * 10
        done += (60 + wave * 0.8 - into / 80) * 10
        failed += (0.2 + into / 260) * 10
        died += into / 1800 * 10
        replayed += 0.3 if step in (50, 120) else 0.0
        if gap and 120 < step < 180:
            continue
        sample = Sample(
            at_ms, int(accepted), int(done), int(failed), int(died), int(replayed), 0, 0, 0, 3, 11, 0, 4, 0, 8, 0
        )
        client.rpush(PREFIX + "series:fine", ",".join(map(str, sample)))
    slot = now_ms // EVERY_MS
    client.hset(PREFIX + "series", mapping={"slot": slot, "day": f"{datetime.now(UTC):%Y%m%d}", "counted": 0,
                                            "accepted": int(accepted)})  # fmt: skip
    client.hset(PREFIX + "tally", mapping={"done": int(done), "failed": int(failed), "died": int(died)})


def account(client: Any, day: str, type: str, **counts: int) -> None:
    """A row of the books as it stands."""
    client.hset(f"{PREFIX}acct:{day}:{type}", mapping=counts)
    client.sadd(PREFIX + "acct:index", f"{day}:{type}")


def call(name: str, outcome: Outcome) -> None:
    """Twenty calls through a breaker that all end so; failures open it."""
    breaker = breaker_conf.breaker_for(name)
    permits = [breaker.acquire() for _ in range(20)]
    for permit in permits:
        breaker.record(permit, outcome, 10)


def letters(number: int, *, later_s: float = 0, **changes: Any) -> None:
    """Dead letters of one kind, the last of them a moment ago, or ``later_s`` seconds from now."""
    now = datetime.now(UTC) + timedelta(seconds=later_s)
    kind = changes.get("error_type", "TIMEOUT_ERROR")
    record_outcomes(
        [
            a_death(f"{kind[:4].lower()}-{place}", died_at=now - timedelta(seconds=place), queued_at=now, **changes)
            for place in range(number)
        ],
        [],
    )


def quiet(client: Any) -> None:
    """Everything works, and a little has happened today."""
    processes("worker", "dlq_worker", "cron")
    breaker_conf.announce(["payments-api", "orders-db"])
    call("orders-db", Outcome.SUCCESS)
    hour(client)
    today = datetime.now(UTC)
    account(client, f"{today:%Y%m%d}", "order.created", accepted=171_340, done=171_340)
    account(client, f"{today:%Y%m%d}", "demo", accepted=2_114, done=2_114)


def incident(client: Any) -> None:
    """A breaker is open, messages die, a day does not add up, one outcome is set aside."""
    processes("worker", "cron")
    hour(client, rises_for_min=31, gap=True)
    today = datetime.now(UTC)
    account(client, f"{today:%Y%m%d}", "payment.capture", accepted=88_412, done=85_317, open=1_310, dead=1_785)
    account(client, f"{today - timedelta(days=1):%Y%m%d}", "email.receipt", accepted=401_210, done=401_209)
    for place in range(6):
        accept(f"pay-8821470{place}-capture", "demo", priority="high" if place < 2 else "low")
    fences = claim(4)
    names = list(fences)
    fail(names[0], fences[names[0]])
    fail(names[1], fences[names[1]], None)
    letters(34, type="payment.capture")
    letters(
        12, type="order.created", error_type="VALIDATION_ERROR", error_kind="permanent",
        error_reason="order.vatId: expected 9 characters <script>alert(1)</script>",
    )  # fmt: skip
    breaker_conf.announce(["payments-api", "orders-db", "legacy-erp"])
    call("orders-db", Outcome.SUCCESS)
    call("payments-api", Outcome.FAILURE)
    breaker_conf.breaker_for("legacy-erp").force(State.FORCED_OPEN, actor="anna", reason="ERP maintenance")
