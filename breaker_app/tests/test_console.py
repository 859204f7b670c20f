"""The breakers page: what it says of each state, what it lets whom do, and what of it is written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings
from redis import Redis

from breaker_app import admin, conf, services
from breaker_app import page as page_values
from breaker_app.errors import StoreUnavailable
from breaker_app.states import Outcome, State, Transition, Why
from breaker_app.store import RedisBreakerStore
from dlqsite.policy_files import PolicyFiles
from dlqsite.tests.people import audited, member, signed_in

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _policy(settings: Settings, redis_client: Redis) -> Iterator[None]:
    settings.BREAKER_POLICY = {"default": {}, "names": {"payments-api": {"minimum_requests": 4}, "orders-db": {}}}
    conf.forget()
    yield
    conf.forget()


def calls(name: str, good: int, bad: int) -> None:
    store, policy = conf.store(), conf.policy_for(name)
    for number in range(good + bad):
        permit = store.acquire(name, policy, f"t{number}")
        store.record(name, policy, [(permit, Outcome.SUCCESS if number < good else Outcome.FAILURE, 5)])


def page(role: str = "viewer", **query: str) -> str:
    return signed_in(member(role)).get(reverse("admin:breaker_app_breaker_changelist"), query).content.decode()


def give(role: str, order: str, reason: str = "the gateway is back", name: str = "payments-api") -> int:
    url = reverse("admin:breaker_app_breaker_order", args=[name])
    status: int = signed_in(member(role)).post(url, {"do": order, "reason": reason}).status_code
    return status


def test_the_page_names_the_policy_file_that_is_used(settings: Settings, tmp_path: Path) -> None:
    assert "<code>dlqsite/policies/breaker.toml</code>" in page()

    (tmp_path / "breaker.toml").touch()
    settings.POLICIES = PolicyFiles(str(tmp_path))
    assert f"<code>{tmp_path}/breaker.toml</code>" in page("operator")


def test_the_worst_breaker_comes_first_and_tells_its_story() -> None:
    calls("payments-api", 1, 3)

    html = page()

    assert "1 open, 1 closed" in html
    assert html.index('name=payments-api"') < html.index('name=orders-db"')
    assert "3 of 4 calls failed, the limit is 50 %" in html
    assert "Refuses every call. Up to 10 probes in" in html
    assert 'hx-trigger="every 1s, wake"' in html


def test_a_pause_of_the_store_that_calls_do_not_wait_for_is_waited_for_here(
    settings: Settings, redis_client: Redis
) -> None:
    client = signed_in(member("viewer"))
    redis_client.client_pause(700)

    with pytest.raises(StoreUnavailable):
        RedisBreakerStore.from_url(settings.REDIS_URL).peek("payments-api", conf.policy_for("payments-api"))
    assert client.get(reverse("admin:breaker_app_breaker_changelist")).status_code == 200


def test_it_asks_less_often_while_all_are_closed() -> None:
    assert 'hx-trigger="every 5s, wake"' in page()


def test_the_window_holds_each_second_once_and_adds_up() -> None:
    calls("orders-db", 6, 1)

    window = services.window("orders-db")

    assert len(window) == 60
    assert (sum(total for total, _ in window), sum(failed for _, failed in window)) == (7, 1)
    assert sum(total for total, _ in window[-5:]) == 7


@pytest.mark.parametrize("order", ["force-open", "reset", "disable"])
@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_administrators_give_orders(role: str, order: str) -> None:
    assert give(role, order) == 403
    assert services.card("payments-api").seen.state is State.CLOSED


def test_who_may_not_give_orders_reads_why() -> None:
    assert "Controlling breakers needs the role administrator." in page("operator")
    assert "Controlling breakers needs" not in page("administrator")


@pytest.mark.parametrize(
    ("order", "state"),
    [("force-open", State.FORCED_OPEN), ("disable", State.DISABLED), ("reset", State.CLOSED)],
)
def test_an_order_is_carried_out_and_written_down(order: str, state: State) -> None:
    assert give("administrator", order) == 302

    card = services.card("payments-api")
    assert card.seen.state is state
    assert (card.transitions[0].actor, card.transitions[0].reason) == ("user:administrator", "the gateway is back")
    entry = audited().get()
    assert (entry.who, entry.object_id) == ("user:administrator", "payments-api")
    assert entry.said == f"{order}: the gateway is back"


def test_an_order_without_a_reason_is_refused() -> None:
    assert give("administrator", "force-open", reason="  ") == 302

    assert services.card("payments-api").seen.state is State.CLOSED
    assert not audited().exists()


def test_a_reason_is_shown_as_the_text_it_is() -> None:
    give("administrator", "force-open", reason="<script>alert(1)</script>")

    html = page(role="viewer")

    assert "<script>alert(1)</script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize(("order", "name"), [("melt", "payments-api"), ("reset", "nobody")])
def test_what_does_not_exist_is_not_found(order: str, name: str) -> None:
    assert give("administrator", order, name=name) == 404


def test_a_lane_covers_the_hour_without_gaps() -> None:
    now = 10 * 3_600_000

    def change(minutes_ago: int, source: State, to: State) -> Transition:
        return Transition(
            at_ms=now - minutes_ago * 60_000, source=source, to=to, generation=1, why=Why.MANUAL, total=0, failures=0
        )

    lane = page_values.lane(
        [change(10, State.OPEN, State.CLOSED), change(30, State.CLOSED, State.OPEN)], State.CLOSED, now
    )

    assert [(tone, x, width) for tone, x, _, width, _ in lane] == [
        ("fill-ok", 0, 1800),
        ("fill-bad", 1800, 1200),
        ("fill-ok", 3000, 600),
    ]


def test_the_hour_of_a_lane_ends_with_the_minute_that_runs() -> None:
    hour = 10 * 3_600_000
    change = Transition(
        at_ms=hour - 5_000, source=State.CLOSED, to=State.OPEN, generation=1, why=Why.FAILURE_RATE, total=0, failures=0
    )

    drawn = [page_values.lane([change], State.OPEN, hour - ago) for ago in (4_000, 0)]

    assert drawn[0] == drawn[1]
    assert [(tone, x, width) for tone, x, _, width, _ in drawn[0]] == [("fill-ok", 0, 3595), ("fill-bad", 3595, 5)]


def moves(*letters: str, every_ms: int = 1_000) -> list[Transition]:
    """Changes of state, newest first, from ``CO`` (closed to open) and the like, oldest first; ``!`` by a person."""
    found = []
    for number, step in enumerate(letters):
        source, to = State.of(step[0]), State.of(step[1])
        why = {
            "CO": Why.FAILURE_RATE, "OH": Why.OPEN_TIME_OVER, "HO": Why.PROBES_FAILED, "HC": Why.PROBES_SUCCEEDED,
        }.get(step, Why.MANUAL)  # fmt: skip
        found.append(
            Transition(at_ms=number * every_ms, source=source, to=to, generation=number, why=why, total=3, failures=3)
        )
    return found[::-1]


def outline(*letters: str) -> list[str]:
    """What is told of these changes: each change, or ``2x5`` for two changes that happened five times more."""
    return [
        f"{line.size}x{line.times}" if isinstance(line, page_values.Again) else f"{line.source[0]}{line.to[0]}"
        for line in page_values.story(moves(*letters), conf.policy_for("orders-db"))
    ]


@pytest.mark.parametrize(
    ("happened", "told"),
    [
        ([], []),
        (["CO"], ["CO"]),
        (["CO", "OH", "HO", "OH", "HO"], ["HO", "OH", "HO", "OH", "CO"]),
        (["CO", *["OH", "HO"] * 3], ["HO", "OH", "2x2", "CO"]),
        (["CO", *["OH", "HO"] * 40, "OH", "HC"], ["HC", "OH", "HO", "2x39", "OH", "CO"]),
        (["CO", "OH", "HC"] * 30, ["HC", "OH", "CO", "3x29"]),
        ([*["OH", "HO"] * 3, "OF", *["OH", "HO"] * 3], ["HO", "OH", "2x2", "OF", "HO", "OH", "2x2"]),
        (["OF", "FC"] * 4, ["FC", "OF"] * 4),
    ],
    ids=lambda steps: f"{len(steps)}",
)
def test_what_repeats_itself_is_told_once(happened: list[str], told: list[str]) -> None:
    assert outline(*happened) == told


def test_no_change_is_left_out_or_told_twice() -> None:
    changes = moves("CO", *["OH", "HO"] * 7, "OH", "HC", *["CO", "OH", "HC"] * 5, "CF", every_ms=60_000)

    lines = page_values.story(changes, conf.policy_for("orders-db"))

    told = sum(line.size * line.times if isinstance(line, page_values.Again) else 1 for line in lines)
    assert told == len(changes)
    (rounds,) = [line for line in lines if isinstance(line, page_values.Again) and line.size == 2]
    assert (rounds.times, rounds.since.minute, rounds.until.minute) == (6, 2, 13)


def flap(name: str, times: int) -> None:
    """Open a breaker, and let ``times`` half-open periods fail."""
    policy = replace(conf.policy_for(name), open_timeout_ms=1, half_open_max_requests=1)
    store = conf.store()
    store.admin(name, policy, State.OPEN, actor="user:olga", reason="a drill")
    while times:
        permit = store.acquire(name, policy, f"probe-{times}")
        if permit.allowed:
            store.record(name, policy, [(permit, Outcome.FAILURE, 5)])
            times -= 1


def test_a_breaker_that_flaps_fills_no_page() -> None:
    flap("payments-api", 20)

    html = page()

    assert html.count("1 of 1 probes failed") == 1
    assert "The same 2 changes 19 times more, from" in html
    assert "the last 41" in html
    assert "a drill" in html


def live(client: Client, tag: str = "") -> HttpResponse:
    url = reverse("admin:breaker_app_breaker_live")
    return client.get(url, {"name": "orders-db"}, headers={"If-None-Match": tag} if tag else {})  # type: ignore[return-value]


@pytest.fixture
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's clock stands still: what it shows of the time changes with the minute."""

    class Noon(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Noon:
            return cls(2026, 5, 4, 12, 0, 30, tzinfo=UTC)

    monkeypatch.setattr(admin, "datetime", Noon)


@pytest.mark.usefixtures("_at_noon")
def test_the_live_part_is_sent_again_only_when_something_has_changed() -> None:
    for name in ("orders-db", "payments-api"):
        conf.store().admin(name, conf.policy_for(name), State.FORCED_OPEN, actor="user:olga", reason="a drill")
    client = signed_in(member("viewer"))

    first = live(client)
    again = live(client, first["ETag"])
    services.order("orders-db", "disable", actor="user:olga", reason="another")
    changed = live(client, first["ETag"])

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert (again["ETag"], again["X-As-Of"]) == (first["ETag"], "12:00:30")
    assert changed.status_code == 200
    assert changed["ETag"] != first["ETag"]
    assert f"data-etag={changed['ETag']}" in changed.content.decode()


@pytest.mark.usefixtures("_at_noon")
def test_the_page_names_what_it_shows_as_the_live_part_does() -> None:
    client = signed_in(member("viewer"))
    url = reverse("admin:breaker_app_breaker_changelist")

    html = client.get(url, {"name": "orders-db"}).content.decode()

    assert f"data-etag={live(client)['ETag']}" in html


def test_a_long_outage_is_one_bar_of_the_day() -> None:
    now = 1_800_000_000_000

    def moved(hours_ago: float, source: State, to: State) -> Transition:
        at_ms = now - int(hours_ago * 3_600_000)
        return Transition(at_ms=at_ms, source=source, to=to, generation=1, why=Why.MANUAL, total=0, failures=0)

    began = moved(25, State.CLOSED, State.OPEN)
    probes = [moved(0.5, State.HALF_OPEN, State.OPEN), moved(0.6, State.OPEN, State.HALF_OPEN)]
    again, closed = moved(1, State.CLOSED, State.OPEN), moved(2, State.HALF_OPEN, State.CLOSED)

    assert page_values.day([*probes, began], State.OPEN, now) == [(0, 1440)]
    assert page_values.day([*probes, again, closed, began], State.HALF_OPEN, now) == [(0, 1320), (1380, 60)]
    assert page_values.day([], State.CLOSED, now) == []
