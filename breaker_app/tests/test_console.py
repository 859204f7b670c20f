"""The breakers page: what it says of each state, what it lets whom do, and what of it is written down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from pytest_django.fixtures import Settings
from redis import Redis

from breaker_app import admin, conf, services
from breaker_app.states import Outcome, State, Transition, Why
from dlqsite.tests.people import member, signed_in

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


def test_the_worst_breaker_comes_first_and_tells_its_story() -> None:
    calls("payments-api", 1, 3)

    html = page()

    assert "1 open, 1 closed" in html
    assert html.index('name=payments-api"') < html.index('name=orders-db"')
    assert "3 of 4 calls failed, the limit is 50 %" in html
    assert "Refuses every call. Up to 10 probes in" in html
    assert 'hx-trigger="every 1s, wake"' in html


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
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.object_id) == ("administrator", "payments-api")
    assert entry.get_change_message() == f"{order}: the gateway is back"


def test_an_order_without_a_reason_is_refused() -> None:
    assert give("administrator", "force-open", reason="  ") == 302

    assert services.card("payments-api").seen.state is State.CLOSED
    assert not LogEntry.objects.exists()


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

    lane = admin.lane([change(10, State.OPEN, State.CLOSED), change(30, State.CLOSED, State.OPEN)], State.CLOSED, now)

    assert [(tone, x, width) for tone, x, _, width, _ in lane] == [
        ("fill-ok", 0, 1800),
        ("fill-bad", 1800, 1200),
        ("fill-ok", 3000, 600),
    ]
