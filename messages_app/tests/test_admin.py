"""The messages page: one message looked up, some of those under way, the books; whoever asks, whatever they ask."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from dlqsite.tests import scenes
from dlqsite.tests.people import member, signed_in, staff
from messages_app import admin
from messages_app.domain.records import Completed
from messages_app.store import in_flight, ledger

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]

PAGE = "/admin/messages_app/message/"


@pytest.fixture(autouse=True)
def _seen_afresh(redis_client: Any, mongo_db: Any) -> Iterator[None]:
    def forget() -> None:
        scenes.forget()
        admin.board.forget()
        admin.accounts.forget()

    forget()
    yield
    forget()


def look_up(client: Client, message_id: str) -> str:
    answer = client.get(PAGE, {"id": message_id})
    assert answer.status_code == 200
    return answer.content.decode()


def test_an_empty_house(viewer: Client) -> None:
    page = viewer.get(PAGE).content.decode()

    assert "No messages are waiting or running." in page
    assert "No messages were accepted in these days." in page


def test_what_is_under_way_is_seen_without_walking_through_it(viewer: Client) -> None:
    for place in range(40):
        scenes.accept(f"m-{place}", priority="low")
    fences = scenes.claim(2)
    scenes.fail("m-0", fences["m-0"])
    seen = in_flight.read(3)

    assert [(message.message_id, message.index) for message in seen.messages] == [
        ("m-1", "running"), ("m-0", "retry_wait"), ("m-39", "low"), ("m-38", "low"), ("m-37", "low"),
    ]  # fmt: skip
    page = viewer.get(PAGE).content.decode()
    assert "some of 39 waiting and 1 running" in page
    assert "m-39" in page
    assert "m-20" not in page


def test_each_state_says_what_comes_next(viewer: Client) -> None:
    for name in "abcd":
        scenes.accept(name)
    fences = scenes.claim(3)
    scenes.fail("a", fences["a"])
    scenes.complete("b", fences["b"])

    assert "attempt 2 of 4 at" in look_up(viewer, "a")
    assert "nothing, it is done" in look_up(viewer, "b")
    assert "recovered if its process does not respond" in look_up(viewer, "c")
    assert "will run when a worker is free" in look_up(viewer, "d")


def test_the_attempts_are_told_and_secrets_hidden(viewer: Client) -> None:
    scenes.accept("a", body=b'{"card": {"token": "tok_secret1"}, "note": "<script>alert(1)</script>"}')
    scenes.fail("a", scenes.claim()["a"], None)
    page = look_up(viewer, "a")

    assert "TIMEOUT_ERROR" in page
    assert "10 s" in page
    assert "hunter2" not in page
    assert "tok_secret1" not in page
    assert "•••" in page
    assert "<script>alert" not in page
    assert "deadletter/a/" not in page, "MongoDB has not heard of it yet"
    record = ledger.ledger().get("a")
    assert record is not None
    ledger.ledger().drained([("a", record.epoch, "death")])
    assert 'href="/admin/dlq_app/deadletter/a/change/"' in look_up(viewer, "a")


def test_its_trace_is_a_link_if_there_is_somewhere_to_link_to(viewer: Client, settings: Settings) -> None:
    scenes.accept("a", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    assert f'<dd class="mono">{"a" * 32}</dd>' in look_up(viewer, "a")

    settings.TRACE_URL_TEMPLATE = "https://tracing.example/trace/{trace_id}?a=1&b=2"

    link = f'<a href="https://tracing.example/trace/{"a" * 32}?a=1&amp;b=2" rel="noreferrer">{"a" * 32}</a>'
    assert link in look_up(viewer, "a")


def test_a_payload_longer_than_a_page_is_cut(viewer: Client) -> None:
    scenes.accept("a", body=b'"' + b"x" * 60_000 + b'"')
    page = look_up(viewer, "a")

    assert len(page) < 60_000
    assert "40,002 more characters" in page


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "../../etc", "a b", "{$ne: 1}", "x" * 65, "ünïcode", "a\x00b", "'\"--"]
)
def test_ids_that_cannot_be_are_answered_in_words(viewer: Client, hostile: str) -> None:
    page = look_up(viewer, hostile)

    assert "Invalid message id" in page
    assert "<script>alert" not in page
    for address in ("change/", "delete/", "history/"):
        assert viewer.get(f"{PAGE}{hostile.strip('./') or 'x'}/{address}").status_code < 500


def test_what_is_not_known_is_said(viewer: Client) -> None:
    assert "expired" in look_up(viewer, "nobody")


def test_the_address_of_a_message_leads_to_it(viewer: Client) -> None:
    answer = viewer.get(f"{PAGE}abc-1/change/")

    assert (answer.status_code, answer["Location"]) == (302, f"{PAGE}?id=abc-1")


def test_messages_cannot_be_added_changed_or_deleted_here() -> None:
    boss = signed_in(member("superuser"))
    scenes.accept("a")

    assert boss.get(f"{PAGE}add/").status_code == 403
    assert boss.post(f"{PAGE}a/delete/", {"post": "yes"}).status_code == 403
    assert ledger.ledger().get("a") is not None


def test_only_who_may_see_messages_sees_them() -> None:
    nobody = staff("ned")

    assert nobody.get(PAGE).status_code == 403
    assert nobody.get(f"{PAGE}live/").status_code == 403
    assert signed_in(member("operator")).get(PAGE).status_code == 200


class TestBooks:
    def test_what_does_not_add_up_is_first_and_red_whatever_its_day(self, viewer: Client, redis_client: Any) -> None:
        today = datetime.now(UTC)
        old = f"{today - timedelta(days=90):%Y%m%d}"
        scenes.account(redis_client, f"{today:%Y%m%d}", "demo", accepted=9, done=9)
        scenes.account(redis_client, old, "email.receipt", accepted=401_210, done=401_209)
        page = viewer.get(PAGE).content.decode()

        assert "1 message is not accounted for" in page
        assert page.index("row-bad") < page.index("<td>demo</td>")
        assert "1 missing" in page

    def test_more_than_was_accepted_is_a_difference_too(self, viewer: Client, redis_client: Any) -> None:
        scenes.account(redis_client, f"{datetime.now(UTC):%Y%m%d}", "demo", accepted=5, done=7)
        page = viewer.get(PAGE).content.decode()

        assert "2 messages are not accounted for" in page
        assert "2 too many" in page

    def test_days_are_chosen_from_a_list(self, viewer: Client, redis_client: Any) -> None:
        for ago in (0, 5, 20):
            day = datetime.now(UTC) - timedelta(days=ago)
            scenes.account(redis_client, f"{day:%Y%m%d}", f"type.of.{ago}", accepted=1, done=1)

        def types(days: str) -> list[int]:
            page = viewer.get(PAGE, {"days": days}).content.decode()
            return [ago for ago in (0, 5, 20) if f"type.of.{ago}<" in page]

        assert [types("2"), types("7"), types("30"), types("1 OR 1"), types("99999")] == [
            [0], [0, 5], [0, 5, 20], [0], [0],
        ]  # fmt: skip

    def test_hostile_types_stay_text(self, viewer: Client, redis_client: Any) -> None:
        scenes.account(redis_client, f"{datetime.now(UTC):%Y%m%d}", "<img src=x onerror=alert(1)>", accepted=1, done=1)
        page = viewer.get(PAGE).content.decode()

        assert "<img src=x" not in page
        assert "&lt;img src=x" in page


def test_outcomes_set_aside_are_shown_with_the_reason(viewer: Client) -> None:
    scenes.accept("a")
    scenes.fail("a", scenes.claim()["a"], None)
    record = ledger.ledger().get("a")
    assert record is not None
    ledger.ledger().quarantine("a", record.epoch, "larger than 16 MB <b>")
    page = viewer.get(PAGE).content.decode()

    assert "larger than 16 MB &lt;b&gt;" in page
    assert "Set aside" in page


def test_the_same_is_not_sent_twice(viewer: Client) -> None:
    first = viewer.get(f"{PAGE}live/")
    again = viewer.get(f"{PAGE}live/", headers={"If-None-Match": first["ETag"]})

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


def test_without_redis_it_says_so(viewer: Client, settings: Settings) -> None:
    with scenes.away(settings, "redis"):
        assert "Redis is not responding" in viewer.get(PAGE).content.decode()
        assert "Redis is not responding" in viewer.get(f"{PAGE}live/").content.decode()
        assert "its state is unknown" in look_up(viewer, "a")


def test_a_broken_story_does_not_hide_the_rest(viewer: Client, redis_client: Any) -> None:
    scenes.accept("a")
    fence = scenes.claim()["a"]
    ledger.ledger().flush(
        [Completed(message_id="a", fence=fence, result='{"ok": 1}', attempt_json='{"number": "<i>", broken')]
    )
    page = look_up(viewer, "a")

    assert "No attempt has finished yet." in page
    assert "Done" in page
