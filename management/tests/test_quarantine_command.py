"""``manage.py quarantine``: what is set aside is shown, and released by name."""

from __future__ import annotations

import json

import pytest
import redis
from django.core.management import CommandError

from management.tests.commands import run
from messages_app.domain.records import Failed
from messages_app.store.ledger import Ledger
from messages_app.tests.handling import an_acceptance

pytestmark = [pytest.mark.redis, pytest.mark.django_db]


@pytest.fixture
def book(redis_client: redis.Redis) -> Ledger:
    return Ledger(redis_client)


def set_aside(book: Ledger, message_id: str, why: str) -> None:
    book.accept(an_acceptance(message_id=message_id))
    (claimed,) = book.claim(token=message_id, limit=1, owner="w", holding=0).records
    book.flush([Failed(message_id=message_id, fence=claimed.fence, delay_ms=None, error="{}", attempt_json="{}")])
    assert book.quarantine(message_id, claimed.epoch, why)


def test_it_lists_what_is_set_aside_with_the_reason_on_one_line(book: Ledger) -> None:
    set_aside(book, "m1", "too large\nFAKE LINE")

    (line,) = run("quarantine", "list").splitlines()
    assert "m1" in line
    assert "too large" in line
    assert json.loads(run("quarantine", "list", "--json"))["messageId"] == "m1"


def test_it_says_so_when_there_is_nothing(book: Ledger) -> None:
    assert run("quarantine", "list") == "The quarantine is empty.\n"


def test_what_is_released_is_on_its_way_again(book: Ledger) -> None:
    set_aside(book, "m1", "odd")
    set_aside(book, "m2", "odd")

    assert run("quarantine", "release", "m1") == "1 released.\n"
    assert [entry.record.message_id for entry in book.outbox()] == ["m1"]
    assert run("quarantine", "release", "--all") == "1 released.\n"
    assert book.quarantined() == []


@pytest.mark.parametrize("arguments", [(), ("m1", "--all"), ("nobody",)])
def test_it_refuses_what_it_cannot_do(book: Ledger, arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run("quarantine", "release", *arguments)
