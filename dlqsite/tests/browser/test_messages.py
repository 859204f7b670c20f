"""The messages page as people use it: type an id, read what became of it, see that nothing is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlqsite.tests import scenes
from dlqsite.tests.browser.conftest import SignIn
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


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
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

    expect(viewer.locator("#flight")).to_contain_text("Nothing waits and nothing runs.")
    assert_accessible(viewer)
    shoot(viewer, "messages-empty")


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
