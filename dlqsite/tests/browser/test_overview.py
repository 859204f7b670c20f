"""The overview as people see it: alive without reloading, honest when it is not, readable on every screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlq_app.services import dead_letters
from dlqsite.overview import views
from dlqsite.tests import scenes
from dlqsite.tests.browser.conftest import SignIn, Watch
from messages_app import registry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis, pytest.mark.mongo]

SCENES = {"empty": lambda client: scenes.processes("worker", "dlq_worker", "cron"), "quiet": scenes.quiet,
          "incident": scenes.incident}  # fmt: skip


@pytest.fixture(autouse=True)
def _seen_afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    registry.handler("payment.capture", breaker="payments-api")(lambda message: None)
    scenes.forget()
    yield
    scenes.forget()


@pytest.mark.parametrize(
    ("scene", "phone", "scheme"),
    [
        ("empty", False, "dark"),
        ("empty", True, "light"),
        ("quiet", False, "light"),
        ("quiet", True, "dark"),
        ("incident", False, "light"),
        ("incident", True, "dark"),
    ],
)
def test_it_is_readable(
    sign_in: SignIn, redis_client: Any, assert_accessible: Callable[[Page], None],
    assert_fits: Callable[[Page], None], shoot: Callable[..., None], scene: str, phone: bool, scheme: Any,
) -> None:  # fmt: skip
    page = sign_in("viewer", phone=phone, scheme=scheme)
    SCENES[scene](redis_client)
    scenes.settle()
    page.goto("/admin/")

    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator(".chart-plot.is-drawn canvas")).to_have_count(3)
    assert_accessible(page)
    assert_fits(page)
    shoot(page, f"overview-{scene}-{'phone' if phone else 'desktop'}-{scheme}")


def wake(page: Page) -> None:
    """Have the live part ask now, as it does by itself every five seconds."""
    page.evaluate("htmx.trigger('#live', 'wake')")


def test_figures_renew_themselves_and_the_charts_with_them(viewer: Page, redis_client: Any) -> None:
    dead_letters.build_indexes()
    scenes.quiet(redis_client)
    scenes.settle()
    viewer.goto("/admin/")
    expect(viewer.locator("#verdict")).to_have_text("All quiet. Nothing needs you.")
    before = viewer.locator("#live").get_attribute("data-etag")

    scenes.letters(5, type="order.created", error_kind="permanent", error_type="VALIDATION_ERROR")

    # Nobody touches anything: it asks by itself every five seconds.
    expect(viewer.locator("#verdict")).to_have_text("5 letters need a decision.", timeout=20_000)
    expect(viewer.locator(".chart-plot.is-drawn canvas")).to_have_count(3)
    assert viewer.locator("#live").get_attribute("data-etag") != before
    expect(viewer.locator("#live-status")).to_have_count(1)


def test_what_has_not_changed_is_not_sent_and_nothing_moves(
    viewer: Page, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.quiet(redis_client)
    scenes.settle()
    monkeypatch.setattr(views, "KEEP_S", 60.0)
    viewer.goto("/admin/")
    viewer.evaluate("document.getElementById('live').dataset.mine = 'yes'")
    with viewer.expect_response("**/admin/overview/fragment") as answer:
        wake(viewer)

    assert answer.value.status == 304
    expect(viewer.locator("#live")).to_have_attribute("data-mine", "yes")
    expect(viewer.locator("#live-status")).to_have_text(re.compile(r"^Live, every 5 s · \d\d:\d\d:\d\d UTC$"))


def test_a_hidden_tab_asks_nothing(viewer: Page) -> None:
    viewer.goto("/admin/")
    asked: list[str] = []
    viewer.on("request", lambda request: asked.append(request.url))
    hide = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => %s })"
    viewer.evaluate(hide % "true")
    wake(viewer)
    viewer.wait_for_timeout(300)
    assert [address for address in asked if "fragment" in address] == []

    viewer.evaluate(hide % "false")
    with viewer.expect_response("**/admin/overview/fragment"):
        viewer.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_no_answer_is_said_and_so_is_the_next(viewer: Page, watch: Watch) -> None:
    watch.expect("overview/fragment|htmx:|ERR_FAILED")
    viewer.goto("/admin/")
    viewer.route("**/admin/overview/fragment", lambda route: route.abort())
    wake(viewer)
    expect(viewer.locator("#live-status")).to_contain_text("No answer for")
    expect(viewer.locator("#live")).to_have_class(re.compile("stale-data"))

    viewer.unroute("**/admin/overview/fragment")
    wake(viewer)
    expect(viewer.locator("#live-status")).to_contain_text("Live, every 5 s")
    expect(viewer.locator("#live")).not_to_have_class(re.compile("stale-data"))


def test_without_a_script_the_page_is_whole(sign_in: SignIn, redis_client: Any, shoot: Callable[..., None]) -> None:
    page = sign_in("viewer", java_script_enabled=False)
    scenes.incident(redis_client)
    scenes.settle()
    page.goto("/admin/")

    expect(page.locator("#verdict")).to_contain_text("payments-api is failing")
    expect(page.locator("[data-uplot] svg .ln").first).to_be_visible()
    shoot(page, "overview-incident-noscript")


def test_the_rest_of_the_admin_is_one_click_away(viewer: Page) -> None:
    viewer.goto("/admin/")
    viewer.get_by_text("Other admin pages").click()
    viewer.locator('.everything th a[href="/admin/messages_app/message/"]').click()

    expect(viewer.get_by_role("heading", level=1)).to_have_text("Messages")


@pytest.mark.parametrize("store", ["mongodb", "redis"])
def test_with_a_store_away_it_is_readable_and_says_so(
    sign_in: SignIn, redis_client: Any, assert_accessible: Callable[[Page], None], settings: Any,
    shoot: Callable[..., None], store: str,
) -> None:  # fmt: skip
    page = sign_in("operator")
    scenes.quiet(redis_client)
    scenes.letters(3, type="order.created", error_kind="permanent", error_type="VALIDATION_ERROR")
    scenes.settle()
    with scenes.away(settings, store):
        for _ in range(40):
            scenes.settle()
            page.goto("/admin/")
            if "does not answer" in page.locator("#verdict").inner_text():
                break
            page.wait_for_timeout(250)

        expect(page.locator("#verdict")).to_contain_text("does not answer")
        expect(page.locator(".banner.warn").first).to_contain_text("Figures of")
        assert_accessible(page)
        shoot(page, f"overview-away-{store}")
