"""Replay batches in a browser: a careful start, the canary, the outcome of each letter, and what stops it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlq_app.services import batches
from dlq_app.store import repository
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import ALL_DUE_S, Rig
from dlqsite.tests.browser.conftest import PATIENCE_MS, SCREENS

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.mongo, pytest.mark.redis]

LETTERS = "/admin/dlq_app/deadletter/"
LIST = "/admin/dlq_app/replaybatch/"


@pytest.fixture
def rig(indexed: None, redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Sixty letters of one night; what is replayed waits until the test lets it end."""
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    found = Rig(repository.letters(), port)
    reason = "payments-api did not answer within 10 s"
    ids = [f"pay-8821{n:04}-capture" for n in range(60)]
    found.die(*ids, error_type="TIMEOUT_ERROR", error_reason=reason, type="payment.capture")
    return found


def turn(
    rig: Rig, executor: Any, done: Callable[[str], bool | None] = lambda message_id: True, times: int = 12
) -> None:
    """Some turns of a DLQ worker, the messages ending in between."""
    for _ in range(times):
        rig.clock_s += ALL_DUE_S
        executor.tick()
        rig.end_messages(done)


def start(page: Page, **fields: str) -> None:
    page.goto(f"{LETTERS}?errorType=TIMEOUT_ERROR")
    page.get_by_label("Select all objects on this page for an action").check()
    page.get_by_role("button", name=re.compile("^Select all 60")).click()
    page.get_by_role("button", name=re.compile("^Replay all 60")).click()
    for label, value in {"Reason": "the bank answers again", "Name": "INC-2291", **fields}.items():
        page.get_by_label(label).fill(value)


def test_a_batch_with_its_canary_through_to_its_outcome(
    operator: Page, rig: Rig, assert_accessible: Any, assert_fits: Any, shoot: Any
) -> None:
    start(operator, Speed="")
    expect(operator.get_by_role("heading", level=1)).to_have_text("Replay 60 dead letters")
    assert_accessible(operator)
    assert_fits(operator)
    shoot(operator, "batch-confirm")
    operator.get_by_role("button", name="Replay 60 letters").click()
    expect(operator.get_by_text("The plan of 60 letters is frozen.")).to_be_visible()
    operator.evaluate("window.stayed = true")

    executor = rig.executor()
    turn(rig, executor, lambda message_id: None, times=2)  # the canary is out
    expect(operator.locator("#batch-stage")).to_have_text("Canary", timeout=PATIENCE_MS)
    expect(operator.locator(".tallies .busy dd")).to_have_text("5")
    assert_accessible(operator)
    shoot(operator, "batch-canary")

    turn(rig, executor, lambda message_id: not message_id.endswith("0007-capture"))
    expect(operator.locator("#batch-stage")).to_have_text("Finished", timeout=PATIENCE_MS)
    expect(operator.locator(".tallies .ok dd")).to_have_text("59")
    # The lists beside the live part are renewed once, when it is over.
    expect(operator.locator("#outcomes tbody tr")).to_have_count(1, timeout=PATIENCE_MS)
    expect(operator.locator("#outcomes")).to_contain_text("pay-88210007-capture")
    expect(operator.locator("#batch-history li")).to_have_count(4)
    assert operator.evaluate("window.stayed"), "the page was reloaded"
    assert_accessible(operator)
    shoot(operator, "batch-finished")


def test_a_failed_canary_stops_it_and_says_which_error_came_back(operator: Page, rig: Rig, shoot: Any) -> None:
    start(operator, Speed="")
    operator.get_by_role("button", name="Replay 60 letters").click()

    turn(rig, rig.executor(), lambda message_id: False)

    expect(operator.locator("#batch-stage")).to_have_text("Stopped", timeout=PATIENCE_MS)
    expect(operator.get_by_text("The canary failed, so the batch stopped.")).to_be_visible()
    expect(operator.get_by_text(re.compile(r"Errors: \w+ \(5\)"))).to_be_visible()
    assert len(rig.intake.forwarded) == 5
    shoot(operator, "batch-stopped")


def test_pause_resume_and_cancel(operator: Page, rig: Rig, assert_accessible: Any, shoot: Any) -> None:
    start(operator, **{"Canary first": "0", "Speed": "1"})
    operator.get_by_role("button", name="Replay 60 letters").click()
    turn(rig, rig.executor(), times=2)

    operator.get_by_role("button", name="Pause", exact=True).click()
    expect(operator.locator("#batch-stage")).to_have_text("Paused")
    expect(operator.get_by_text("Paused by a user.")).to_be_visible()
    assert_accessible(operator)
    shoot(operator, "batch-paused")
    operator.get_by_role("button", name="Resume", exact=True).click()
    expect(operator.locator("#batch-stage")).to_have_text("Running")
    operator.get_by_role("link", name="Cancel the rest").click()
    assert_accessible(operator)
    operator.get_by_label("Reason").fill("the wrong ones")
    operator.get_by_role("button", name="Cancel the rest").click()

    expect(operator.locator("#batch-stage")).to_have_text("Cancelled")
    expect(operator.get_by_text("the wrong ones")).to_be_visible()


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_every_page_fits_and_is_accessible(
    sign_in: Any, rig: Rig, assert_accessible: Any, assert_fits: Any, shoot: Any, phone: bool, scheme: Any
) -> None:
    executor = rig.executor()
    ended = rig.start(filter={"errorType": "TIMEOUT_ERROR"}, name="INC-2291", limit=20, reason="bank is back")
    turn(rig, executor, lambda message_id: "3-" not in message_id)
    failed = rig.start(filter={"errorType": "TIMEOUT_ERROR"}, name="try three", canary={"size": 3}, maxFailureRate=0.1)
    turn(rig, executor, lambda message_id: False)
    running = rig.start(filter={"errorType": "TIMEOUT_ERROR"}, name="slowly", ratePerSecond=5, maxFailures=4)
    turn(rig, executor, lambda message_id: None, times=3)
    rig.die("pay-late", error_type="TIMEOUT_ERROR")
    assert batches.get(running.id).stage == "running"
    page = sign_in("operator", phone=phone, scheme=scheme)

    pages = {
        "batches": LIST,
        "batches-none": f"{LIST}?stage=paused",
        "batch-ended": f"{LIST}{ended.id}/change/",
        "batch-failed": f"{LIST}{failed.id}/change/",
        "batch-running": f"{LIST}{running.id}/change/?outcome=open",
        "batch-cancel": f"{LIST}{running.id}/cancel-the-rest/",
        "batch-add": f"{LIST}add/?errorType=TIMEOUT_ERROR",
        "batch-history": f"{LIST}{ended.id}/history/",
    }
    for name, path in pages.items():
        page.goto(path)
        assert_accessible(page)
        assert_fits(page)
        shoot(page, f"{name}-{'phone' if phone else 'desktop'}-{scheme}")


def test_its_speed_is_drawn_from_what_the_page_has_seen(
    operator: Page, rig: Rig, assert_accessible: Any, assert_fits: Any, shoot: Any
) -> None:
    batch = rig.start(filter={"errorType": "TIMEOUT_ERROR"}, name="INC-2291")
    operator.goto(f"{LIST}{batch.id}/change/")
    speed = operator.locator("#batch-speed")
    expect(speed).to_be_hidden()

    # Renewals an hour from now, two seconds apart: those that come meanwhile are older and do not count.
    operator.evaluate(
        """() => {
             const live = document.getElementById("batch-live");
             const begin = Number(live.dataset.at) + 3600000;
             for (let n = 0; n < 7; n += 1) {
               Object.assign(live.dataset, { at: begin + 2000 * n, succeeded: 20 * n, failed: n });
               document.dispatchEvent(new Event("htmx:afterSettle"));
             }
           }"""
    )

    expect(speed).to_be_visible()
    expect(speed.locator("[data-succeeded-now]")).to_have_text("10.0/s")
    expect(speed.locator("[data-failed-now]")).to_have_text("0.5/s")
    expect(speed.locator("canvas")).to_have_count(1)
    assert_accessible(operator)
    assert_fits(operator)
    shoot(operator, "batch-speed")
