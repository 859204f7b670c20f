"""Breakers in a browser: seen at once, forced open and reset with a reason, locked with the reason in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect
from pytest_django import Settings

from breaker_app import conf, services
from breaker_app.states import State
from dlqsite.tests.browser.conftest import SignIn

pytestmark = [
    pytest.mark.browser,
    pytest.mark.redis,
    pytest.mark.mongo,
    pytest.mark.django_db(transaction=True),
]

Check = Callable[[Page], None]
PAGE = "/admin/breaker_app/breaker/"


@pytest.fixture(autouse=True)
def _policy(settings: Settings) -> Iterator[None]:
    settings.BREAKER_POLICY = {"default": {}, "names": {"orders-db": {}, "payments-api": {}}}
    conf.forget()
    yield
    conf.forget()


def test_an_administrator_forces_a_breaker_open_and_resets_it(
    administrator: Page, assert_accessible: Check, shoot: Callable[..., None]
) -> None:
    administrator.goto(f"{PAGE}?name=payments-api")
    reason = administrator.get_by_label("Reason")
    card = administrator.locator(".breaker", has_text="payments-api")

    reason.fill("the provider asked us to stop")
    administrator.get_by_role("button", name="Force open").click()
    expect(card).to_contain_text("FORCED OPEN")
    expect(administrator.get_by_role("status")).to_contain_text("Breaker payments-api is forced open now")
    expect(administrator.get_by_role("table")).to_contain_text("the provider asked us to stop")
    assert services.card("payments-api").seen.state is State.FORCED_OPEN
    shoot(administrator, "breakers-forced")
    assert_accessible(administrator)

    reason.fill("the provider is back")
    administrator.get_by_role("button", name="Reset").click()
    expect(card).to_contain_text("CLOSED")
    assert services.card("payments-api").seen.state is State.CLOSED


def test_what_another_did_appears_without_reloading_and_keeps_what_is_typed(administrator: Page) -> None:
    administrator.goto(f"{PAGE}?name=payments-api")
    administrator.get_by_label("Reason").fill("half a sen")

    services.order("payments-api", "force-open", actor="user:bob", reason="<b>maintenance</b>")

    card = administrator.locator(".breaker", has_text="payments-api")
    expect(card).to_contain_text("<b>maintenance</b>", timeout=15_000)
    expect(administrator.locator("#breaker-story")).to_contain_text("user:bob")
    expect(administrator.get_by_label("Reason")).to_have_value("half a sen")


def test_who_may_not_act_reads_why(sign_in: SignIn, assert_accessible: Check, assert_fits: Check) -> None:
    page = sign_in("operator", phone=True, scheme="dark")
    page.goto(PAGE)

    expect(page.get_by_text("Controlling breakers needs the role administrator.")).to_be_visible()
    for name in ("Force open", "Reset to CLOSED", "Disable"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    assert_accessible(page)
    assert_fits(page)
