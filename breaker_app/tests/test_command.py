"""``manage.py breaker``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings
from redis import Redis

from breaker_app import conf
from breaker_app.states import Outcome

pytestmark = [pytest.mark.redis, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def policy(settings: Settings, redis_client: Redis) -> Iterator[None]:
    settings.BREAKER_POLICY = {"names": {"orders-db": {"minimum_requests": 2}, "mail": {}}}
    yield
    conf.forget()


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("breaker", *arguments, stdout=out)
    return out.getvalue()


def test_list_shows_every_breaker() -> None:
    breaker = conf.breaker_for("orders-db")
    for _ in range(2):
        breaker.record(breaker.acquire(), Outcome.FAILURE)

    lines = run("list").splitlines()

    assert lines[0].split() == ["NAME", "STATE", "FAILED", "RATE", "RETRY", "AFTER", "HELD", "SINCE"]
    assert lines[1].split() == ["mail", "CLOSED", "0/0", "0%", "now", "0"]
    assert lines[2].split()[:5] == ["orders-db", "OPEN", "2/2", "100%", "in"]


def test_list_says_when_there_is_none(settings: Settings) -> None:
    settings.BREAKER_POLICY = {}
    assert run("list") == "No breakers.\n"


def test_orders_are_carried_out_with_who_and_why() -> None:
    assert "orders-db: FORCED_OPEN" in run("force-open", "orders-db", "--reason", "INC-7")
    assert "orders-db: DISABLED" in run("disable", "orders-db", "--reason", "INC-8")
    shown = json.loads(run("reset", "orders-db", "--reason", "INC-9", "--json"))
    assert shown["state"] == "CLOSED"
    assert [one["reason"] for one in shown["transitions"]] == ["INC-9", "INC-8", "INC-7"]
    assert shown["transitions"][0]["actor"].startswith("cli")


def test_an_order_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    run("disable", "orders-db", "--reason", " INC-8\n")

    (line,) = [record for record in caplog.records if record.getMessage() == "breaker_ordered"]
    said = vars(line)
    assert (said["breaker"], said["order"], said["why"]) == ("orders-db", "disable", "INC-8")
    assert said["by"].startswith("cli")


def test_show_tells_the_story_on_lines_of_their_own() -> None:
    run("force-open", "orders-db", "--reason", "first\nsecond")
    text = run("show", "orders-db")
    assert "CLOSED -> FORCED_OPEN" in text
    assert "first second" in text
    assert "until reset" in text


def test_json_is_the_wire_format() -> None:
    assert [one["name"] for one in json.loads(run("list", "--json"))] == ["mail", "orders-db"]
    assert json.loads(run("show", "mail", "--json"))["transitions"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nobody"), "known are mail, orders-db"),
        (("reset", "nobody", "--reason", "x"), "There is no circuit breaker"),
        (("reset", "mail", "--reason", " "), "A reason of 1 to 500"),
        (("reset", "mail"), "--reason"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments: tuple[str, ...], message: str, redis_client: Redis) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)
    assert redis_client.keys("cb:*") == []


def test_a_mistake_in_the_policy_is_said_in_one_line(settings: Settings) -> None:
    settings.BREAKER_POLICY = {"names": {"mail": {"open_timeout_ms": "soon"}}}
    with pytest.raises(CommandError, match=r'\[names."mail"\]: open_timeout_ms = .soon.: must be a whole number'):
        run("list")


def test_an_outage_is_an_error(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(CommandError, match="is not responding"):
        run("list")
