"""After 40 minutes of outage every page, the API, the command and the metrics give the same answers, and true ones."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import reverse
from redis import Redis

from breaker_app import conf as breaker_conf
from breaker_app import services as breakers
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Outcome, State
from breaker_app.store import RedisBreakerStore
from breaker_app.testing import FakeClock
from dlq_app.services import groups
from dlqsite.metrics import parts
from dlqsite.tests import scenes
from dlqsite.tests.people import member, signed_in, with_key
from messages_app import registry
from messages_app.domain.records import Deferred
from messages_app.store.ledger import ledger
from messages_app.store.scripts import load_scripts
from messages_app.store.series import Series
from messages_app.tests.ledgers import Desk, on_test_clock
from wire.instants import iso

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]

NAME, ROUND_MS, MINUTES = "payments-api", 35_000, 40


@pytest.fixture(autouse=True)
def _empty(redis_client: Redis, mongo_db: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    registry.handler("payment.capture", breaker=NAME)(lambda message: None)
    breaker_conf.announce([NAME])
    scenes.forget()
    scenes.indexed()
    yield
    scenes.forget()


class Outage:
    """Forty minutes in which a downstream fails: probes in each round, and a message of high priority each minute.

    The breaker's own scripts and the ledger's run on clocks that end with the server's.
    """

    def __init__(self, client: Redis) -> None:
        seconds, micros = client.time()
        now_ms = seconds * 1000 + micros // 1000
        self.began_ms = now_ms - MINUTES * 60_000
        self.rounds = 0
        policy = BreakerPolicy()
        clock = FakeClock(self.began_ms)
        store = RedisBreakerStore(client, clock, timeout_s=5)
        for number in range(policy.minimum_requests):
            permit = store.acquire(NAME, policy, f"c{number}")
            store.record(NAME, policy, [(permit, Outcome.FAILURE, 5)])
        while clock.now + ROUND_MS < now_ms:
            clock.advance(ROUND_MS)
            self.rounds += 1
            for probe in range(3):
                permit = store.acquire(NAME, policy, f"p{self.rounds}-{probe}")
                store.record(NAME, policy, [(permit, Outcome.FAILURE, 5)])
        desk, series = Desk.open(client), Series(client, scripts=load_scripts(on_test_clock))
        self.ids = []
        for minute in range(MINUTES):
            desk.at(self.began_ms + minute * 60_000)
            for priority in ("high", "low") if minute % 4 == 0 else ("high",):
                self.ids.append(f"pay-{minute}-{priority}")
                desk.accept(self.ids[-1], type="payment.capture", priority=priority)
            for claimed in desk.claim():
                desk.flush(
                    Deferred(
                        message_id=claimed.message_id, fence=claimed.fence, delay_ms=3_600_000, why="breaker",
                        held_by=NAME,
                    )
                )  # fmt: skip
            series.sample()
        scenes.letters(7, type="payment.capture")

    @property
    def since(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.began_ms)

    def held(self) -> int:
        """By the records themselves."""
        records = ledger().get_many(self.ids)
        return sum(record is not None and record.deferred_since_ms is not None for record in records)


def test_the_answers_are_the_same_everywhere_and_true(redis_client: Redis) -> None:
    outage = Outage(redis_client)
    since, held = outage.since, outage.held()
    assert outage.rounds > 60
    assert held == 50
    assert breakers.card(NAME).seen.state is State.OPEN
    scenes.processes("worker", "dlq_worker", "cron")
    scenes.settle()
    reader, client = with_key("read"), signed_in(member("viewer"))
    (group,) = groups.top(5)

    overview = reader.get("/api/system/overview").json()["data"]
    answers = {answer["question"]: answer for answer in overview["verdict"]["answers"]}
    assert overview["verdict"]["headline"] == f"{NAME} is failing. {held} payment.capture messages are held."
    assert answers["Since"]["answer"] == f"{since:%H:%M:%S}, 40 min" or since.date() != datetime.now(UTC).date()
    assert answers["How many"]["answer"] == f"{held} messages held"
    assert answers["How many"]["detail"] == "40 of high priority, the oldest for 40 min; 7 letters"
    # By a sample per minute, whose second in the minute varies.
    assert re.fullmatch(r"Yes: 1(\.[1-4])? more held a minute|Steady", answers["Getting worse?"]["answer"])
    assert answers["What happens automatically"]["detail"].startswith("held messages start within 45 s of its closing")

    shown = [
        next(one for one in overview["breakers"] if one["name"] == NAME),
        reader.get(f"/api/breakers/{NAME}").json()["data"],
        next(one for one in reader.get("/api/breakers").json()["data"] if one["name"] == NAME),
        *(one for one in json.loads(_command("list", "--json")) if one["name"] == NAME),
        json.loads(_command("show", NAME, "--json")),
    ]
    assert {one["since"] for one in shown} == {iso(since)}
    assert {(one["held"]["total"], one["held"]["byPriority"]["low"]) for one in shown} == {(held, 10)}
    assert {one["held"]["oldest"] for one in shown} == {iso(since)}
    assert iso(since) in _command("show", NAME)

    samples = parts.read_breakers().values
    assert samples["dlq_breaker_left_closed_timestamp_seconds"][(NAME,)] == pytest.approx(since.timestamp())
    assert samples["dlq_breaker_held_messages"][(NAME, "high")] == 40

    clock = f"{since:%H:%M:%S}"
    home = client.get("/admin/").content.decode()
    page = client.get(reverse("admin:breaker_app_breaker_changelist"), {"name": NAME}).content.decode()
    of_group = client.get(reverse("admin:dlq_app_lettergroup_change", args=[group.fingerprint])).content.decode()
    of_group = " ".join(of_group.split())
    assert f"{held} payment.capture messages are held." in home
    assert f"<dd>{since:%-d %b} {clock}</dd>" in page
    assert f"{held} messages, 40 of high priority, the oldest for 40 min" in page
    assert f"since {clock} UTC and holds {held} messages" in of_group or since.date() != datetime.now(UTC).date()
    assert "the open period ended" in page


def test_a_breaker_that_closes_holds_nothing_and_the_next_outage_has_its_own_beginning(redis_client: Redis) -> None:
    Outage(redis_client)
    breakers.order(NAME, "reset", actor="key:olga", reason="the gateway is back")
    desk = Desk.open(redis_client)
    desk.at(int(time.time() * 1000) + 7_200_000)
    desk.ledger.due()
    for claimed in desk.claim():
        desk.complete(claimed.message_id, claimed.fence)
    card = breakers.card(NAME)
    assert card.since is None
    assert card.held is not None
    assert card.held.count == 0

    scenes.call(NAME, Outcome.FAILURE)

    again = breakers.card(NAME).since
    assert again is not None
    assert (datetime.now(UTC) - again).total_seconds() < 60


def _command(*arguments: str) -> str:
    out = StringIO()
    call_command("breaker", *arguments, stdout=out)
    return out.getvalue()
