"""The messages page as people use it: type an id, read what became of it, see that nothing is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlq_app.domain.loss import Loss
from dlq_app.store import repository
from dlqsite.tests import scenes
from dlqsite.tests.browser.conftest import SCREENS, SignIn
from messages_app import admin

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis, pytest.mark.mongo]

PAGE = "/admin/messages_app/message/"


@pytest.fixture(autouse=True)
def _seen_afresh() -> Iterator[None]:
    scenes.forget()
    admin.board.forget()
    admin.accounts.forget()
    yield
    scenes.forget()


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_a_message_is_found_and_read(
    sign_in: SignIn, redis_client: Any, assert_accessible: Callable[[Page], None],
    assert_fits: Callable[[Page], None], shoot: Callable[..., None], phone: bool, scheme: Any,
) -> None:  # fmt: skip
    page = sign_in("viewer", phone=phone, scheme=scheme)
    scenes.incident(redis_client)
    page.goto(PAGE)
    page.get_by_label("Message id").fill("pay-88214701-capture")
    page.get_by_role("button", name="Look up").click()

    expect(page.locator(".found")).to_contain_text("pay-88214701-capture")
    expect(page.locator(".banner.bad")).to_contain_text("not accounted for: email.receipt")
    expect(page.locator("#acct .row-bad")).to_contain_text("1 missing")
    assert_accessible(page)
    assert_fits(page)
    shoot(page, f"messages-{'phone' if phone else 'desktop'}-{scheme}")


def test_an_empty_house(
    viewer: Page, assert_accessible: Callable[[Page], None], shoot: Callable[..., None]
) -> None:  # fmt: skip
    viewer.goto(PAGE)

    expect(viewer.locator("#flight")).to_contain_text("No messages are waiting or running.")
    assert_accessible(viewer)
    shoot(viewer, "messages-empty")


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_losses_are_acknowledged(
    sign_in: SignIn, assert_accessible: Callable[[Page], None], assert_fits: Callable[[Page], None],
    shoot: Callable[..., None], phone: bool, scheme: Any,
) -> None:  # fmt: skip
    page = sign_in("administrator", phone=phone, scheme=scheme)
    until = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)
    since = until - timedelta(seconds=2)
    for loss in (
        Loss(id="a1", store="redis", since=since, until=until, seen_at=until, missing=104, open=3),
        Loss(id="mongodb-b2", store="mongodb", since=since, until=until, seen_at=until, missing=12),
    ):
        repository.losses().note("dlq:", loss)
    page.goto("/admin/")
    expect(page.locator("h2").first).to_contain_text("fell back to an earlier state")
    assert_fits(page)
    shoot(page, f"losses-home-{'phone' if phone else 'desktop'}-{scheme}")
    page.goto(PAGE)
    expect(page.locator("#losses")).to_contain_text("about 104 accepted messages")
    assert_accessible(page)
    assert_fits(page)
    shoot(page, f"losses-{'phone' if phone else 'desktop'}-{scheme}")
    page.get_by_label("Reason").fill("power cut")
    page.get_by_role("button", name="Acknowledge 2 losses").click()

    expect(page.locator(".messagelist")).to_contain_text("2 losses acknowledged.")
    expect(page.locator("#losses")).to_have_count(0)


def test_what_waits_renews_itself_and_the_lookup_stays(viewer: Page, redis_client: Any) -> None:
    scenes.accept("first")
    viewer.goto(f"{PAGE}?id=first")
    viewer.get_by_label("Message id").fill("half-typ")
    scenes.accept("second")
    admin.board.forget()
    viewer.evaluate("htmx.trigger('#live', 'wake')")

    expect(viewer.locator("#flight")).to_contain_text("second")
    expect(viewer.get_by_label("Message id")).to_have_value("half-typ")
    expect(viewer.locator(".found")).to_contain_text("first")
