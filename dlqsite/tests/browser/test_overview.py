"""The overview as people see it: alive without reloading, honest when it is not, readable on every screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

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


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(
    sign_in: SignIn, redis_client: Any, assert_accessible: Callable[[Page], None],
    assert_fits: Callable[[Page], None], shoot: Callable[..., None], scene: str, phone: bool, scheme: Any,
) -> None:  # fmt: skip
    page = sign_in("viewer", phone=phone, scheme=scheme)
    SCENES[scene](redis_client)
    scenes.settle()
    page.goto("/admin/")

    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator(".chart-plot.is-drawn canvas")).to_have_count(2)
    assert_accessible(page)
    assert_fits(page)
    shoot(page, f"overview-{scene}-{'phone' if phone else 'desktop'}-{scheme}")
