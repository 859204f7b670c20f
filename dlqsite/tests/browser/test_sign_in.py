"""Signing in at an identity provider, and with a second factor, as a browser does it: cookies, forms, redirects."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from allauth.mfa.totp.internal import auth as totp
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect
from pytest_django import Settings

from dlqsite.tests.browser.conftest import SCREENS, Scheme, SignIn, Watch
from dlqsite.tests.provider import Provider
from dlqsite.tests.test_provider import switch_on
from dlqsite.tests.test_second_factor import Clock

pytestmark = [
    pytest.mark.browser,
    pytest.mark.redis,
    pytest.mark.mongo,
    pytest.mark.django_db(transaction=True),
]

Check = Callable[[Page], None]


@pytest.mark.parametrize(("phone", "scheme"), [SCREENS[0], *SCREENS[2:]])
def test_a_user_of_the_provider_is_led_there_and_back(
    sign_in: SignIn, settings: Settings, watch: Watch, phone: bool, scheme: Scheme,
    assert_accessible: Check, assert_fits: Check, shoot: Callable[..., None], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    screen = request.node.callspec.id
    with Provider().running() as provider:
        provider.claims["groups"] = ["ops"]
        switch_on(settings, provider)
        page = sign_in(phone=phone, scheme=scheme)
        page.goto("/admin/you/")
        for check in (assert_accessible, assert_fits):
            check(page)
        shoot(page, f"sign-in-{screen}")

        page.get_by_role("button", name="Log in with Example ID").click()

        expect(page).to_have_title(re.compile("Your permissions"))
        expect(page.get_by_text("grace, operator").first).to_be_attached()

        provider.claims["groups"] = []
        page.locator("details.menu > summary").click()
        shoot(page, f"menu-{screen}")
        page.get_by_role("button", name="Log out").click()
        settings.LOCAL_SIGN_IN = False
        page.goto("/admin/")
        page.get_by_text("Superusers: log in with a password").click()
        assert_fits(page)
        shoot(page, f"break-glass-{screen}")

        watch.expect("403")
        page.get_by_role("button", name="Log in with Example ID").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("You are not signed in")
        assert_accessible(page)
        shoot(page, f"refused-{screen}")
        page.get_by_role("link", name="Back to the login page").click()
        expect(page.get_by_role("button", name="Log in with Example ID")).to_be_visible()


@pytest.mark.parametrize(("phone", "scheme"), SCREENS[1:])
def test_the_second_factor_is_set_up_and_used(
    sign_in: SignIn, settings: Settings, monkeypatch: pytest.MonkeyPatch, phone: bool, scheme: Scheme,
    assert_accessible: Check, assert_fits: Check, shoot: Callable[..., None], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    screen = request.node.callspec.id
    clock = Clock(monkeypatch)
    settings.REQUIRE_SECOND_FACTOR = True
    User.objects.create_superuser("ada", password="right-password")
    page = sign_in(phone=phone, scheme=scheme)

    def look(name: str) -> None:
        assert_accessible(page)
        assert_fits(page)
        shoot(page, f"{name}-{screen}")

    def log_in() -> None:
        page.goto("/admin/you/")
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("right-password")
        page.get_by_role("button", name="Log in").click()

    log_in()
    key = page.locator("[data-copied]").inner_text().replace(" ", "")
    look("set-up")
    page.get_by_label("Code").fill(clock.code(key))
    page.get_by_role("button", name="Turn on and log in").click()
    expect(page.locator(".recovery-codes li")).to_have_count(10)
    look("recovery-codes")
    page.get_by_role("link", name="I have stored them").click()
    expect(page).to_have_title(re.compile("Your permissions"))
    page.goto("/admin/you/second-factor/")
    look("second-factor-on")

    page.locator("details.menu > summary").click()
    page.get_by_role("button", name="Log out").click()
    log_in()
    page.get_by_label("Code of the authenticator app").fill("000000")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("Wrong code")
    look("code")
    page.get_by_label("Code of the authenticator app").fill(clock.code(key))
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_title(re.compile("Your permissions"))

    settings.REQUIRE_SECOND_FACTOR = False
    page.goto("/admin/you/second-factor/")
    page.get_by_label("Code of the app").fill(clock.code(key))
    page.get_by_role("button", name="Turn off").click()
    expect(page.get_by_text("Your password alone logs you in")).to_be_visible()
    look("second-factor-off")
    assert totp.Authenticator.objects.count() == 0
