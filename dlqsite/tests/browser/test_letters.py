"""Dead letters in a browser: find one, understand it, repair it, see what becomes of it; by night, on a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlq_app.services import dead_letters
from dlq_app.store.mongo import database
from dlq_app.testing import MemoryIntake, a_death, a_document, an_attempt
from dlqsite.tests.browser.conftest import PATIENCE_MS, SCREENS

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/deadletter/"
NOW = datetime.now(UTC)
PAYLOAD = {
    "paymentId": "88213417",
    "orderId": 5511870,
    "amount": {"value": "129.00", "currency": "EUR"},
    "card": {"brand": "visa", "token": "tok_4eC39HqLyjW", "expires": "2029-04"},
    "route": "eu-1",
    "captureTimeoutMs": 10000,
    "threeDSecure": True,
    "lines": [{"sku": f"A-22{n:02}", "qty": n} for n in range(4)],
    "note": "שלום \u202e <script>alert(1)</script> 👨‍👩‍👧",
    "riskScore": None,
}


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch) -> MemoryIntake:
    """Intake behind the port: what it is given waits until the test lets it end."""
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    return port


@pytest.fixture
def letters(indexed: None, intake: MemoryIntake) -> Any:
    """Letters of a bad night: one of each status, and many of one kind."""
    minute = timedelta(minutes=1)
    died = NOW - 12 * minute
    attempts = [
        an_attempt(
            n,
            startedAt=(died - timedelta(seconds=60 - 12 * n)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            endedAt=(died - timedelta(seconds=50 - 12 * n)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            worker=f"worker-{n}",
            retryDelayMs=1000 * 2**n if n < 4 else None,
        )
        for n in (1, 2, 3, 4)
    ]
    main = a_document(
        death=a_death(
            "pay-88213417-capture",
            body=json.dumps(PAYLOAD, ensure_ascii=False).encode(),
            attempts=attempts,
            died_at=died,
            queued_at=died - minute,
            priority="high",
            source="shop-api",
            tags=("eu", "card"),
        ),
        createdAt=died,
        updatedAt=died,
        nextRetryAt=NOW + 7 * minute,
    )
    main["history"] = [{"at": died, "who": "system", "what": "dead_letter", "why": "TIMEOUT_ERROR"}]
    kinds = [
        ("dlq_manual", "AUTHENTICATION_ERROR", "permanent", "http.deliver", "401 from hooks.acme.example: unknown key"),
        ("dlq_pending", "TIMEOUT_ERROR", "transient", "payment.capture", "payments-api did not answer within 10 s"),
        ("dlq_failed", "SERVICE_UNAVAILABLE", "transient", "inventory.reserve", "503 from inventory-api"),
        ("dlq_processing", "TIMEOUT_ERROR", "transient", "payment.capture", "payments-api did not answer within 10 s"),
        (
            "dlq_resolved",
            "VALIDATION_ERROR",
            "permanent",
            "order.created",
            "order.vatId: expected 11 characters, got 9",
        ),
    ]
    others = []
    for n in range(60):
        status, error, kind, message_type, reason = kinds[n % 5 if n < 20 else 0]
        at = NOW - (n + 1) * 3 * minute
        others.append(
            a_document(
                f"evt-acme-{n:08x}",
                status=status,
                errorType=error,
                errorKind=kind,
                type=message_type,
                errorReason=reason,
                lastFailedAt=at,
                createdAt=at,
                updatedAt=at,
                nextRetryAt=NOW + minute if status == "dlq_pending" else None,
                resolution="discarded" if status == "dlq_resolved" else None,
                metadata={"source": "hooks", "priority": "normal", "tags": ["acme"], "systemState": {}},
            )
        )
    database().dead_letters.insert_many([main, *others])
    return database().dead_letters


def test_find_one_by_filters(
    operator: Page, letters: Any, assert_accessible: Any, assert_fits: Any, shoot: Any
) -> None:
    operator.goto(LIST)
    assert_accessible(operator)
    assert_fits(operator)
    shoot(operator, "letters-all")

    operator.locator("#changelist-filter").get_by_role("link", name=re.compile("^AUTHENTICATION_ERROR")).click()
    operator.locator("#changelist-filter").get_by_role("link", name=re.compile("^Needs a decision")).click()

    assert operator.url.endswith("?errorType=AUTHENTICATION_ERROR&status=dlq_manual")
    expect(operator.locator("#result_list tbody tr")).to_have_count(20)
    operator.get_by_role("link", name="Remove filter Error: AUTHENTICATION_ERROR").click()
    assert operator.url.endswith("?status=dlq_manual")

    operator.get_by_label("Search").fill("pay-8821")
    operator.get_by_label("Search").press("Enter")
    expect(operator.get_by_role("heading", name="No letter matches these filters")).to_be_visible()
    shoot(operator, "letters-no-match")
    operator.get_by_role("link", name="Remove status").click()
    operator.get_by_role("link", name="pay-88213417-capture").click()
    expect(operator.get_by_role("heading", level=1)).to_have_text("pay-88213417-capture")


def test_select_all_that_match_and_discard_them(
    operator: Page, letters: Any, assert_accessible: Any, assert_fits: Any, shoot: Any
) -> None:
    operator.goto(f"{LIST}?errorType=AUTHENTICATION_ERROR")
    expect(operator.get_by_role("button", name="Discard…")).to_be_visible()
    operator.get_by_label("Select all objects on this page for an action").check()
    expect(operator.get_by_role("button", name="Replay 20 selected")).to_be_visible()
    operator.get_by_role("button", name="Select all 44 that match").click()
    expect(operator.get_by_text("All 44 that match selected.")).to_be_visible()
    expect(operator.get_by_text("counted exactly at")).to_be_visible()
    expect(operator.get_by_role("button", name="Replay all 44")).to_be_visible()
    assert_accessible(operator)
    shoot(operator, "letters-selected")

    operator.get_by_role("button", name="Discard…").click()
    expect(operator.get_by_role("heading", level=1)).to_have_text("Discard 44 dead letters")
    assert_accessible(operator)
    assert_fits(operator)
    shoot(operator, "letters-confirm")
    operator.get_by_label("Reason").fill("acme closed its account")
    operator.get_by_role("button", name="Discard 44 dead letters").click()

    expect(operator.get_by_text("44 dead letters discarded.")).to_be_visible()
    assert letters.count_documents({"status": "dlq_resolved", "resolution": "discarded"}) >= 44


def test_edit_and_replay_to_its_outcome(
    operator: Page,
    letters: Any,
    intake: MemoryIntake,
    watch: Any,
    assert_accessible: Callable[[Page], None],
    shoot: Any,
) -> None:
    watch.expect("400")
    operator.goto(f"{LIST}?message=pay-88213417-capture")
    expect(operator.locator("#letter-state")).to_contain_text("TIMEOUT_ERROR is transient; 4 of 4 attempts failed")
    assert "tok_4eC39" not in operator.content()
    operator.get_by_role("link", name="Edit and replay…").click()
    field = operator.get_by_label("Payload, JSON")
    text = field.input_value()
    assert '"token": "•••"' in text

    field.fill(text.replace('"eu-1",', '"eu-2"'))
    operator.get_by_role("button", name="Show what would change").click()
    expect(operator.locator("#payload-error")).to_contain_text("line")
    shoot(operator, "letter-edit-error")
    operator.get_by_label("Payload, JSON").fill(text.replace('"eu-1"', '"eu-2"'))
    operator.get_by_label("Reason").fill("try the second gateway route")
    assert_accessible(operator)
    operator.get_by_role("button", name="Show what would change").click()
    expect(operator.locator(".diff .add")).to_have_text('+  "route": "eu-2",')
    assert_accessible(operator)
    shoot(operator, "letter-edit-preview")
    operator.get_by_role("button", name="Replay this version").click()

    expect(operator.get_by_text("Replaying pay-88213417-capture.")).to_be_visible()
    expect(operator.locator("#letter-acts").get_by_text("A replay is in progress").first).to_be_visible()
    order = intake.forwarded[0]
    assert json.loads(order.run_body or b"") == {**PAYLOAD, "route": "eu-2"}
    operator.evaluate("window.stayed = true")
    dead_letters.record_outcomes([], [intake.end("pay-88213417-capture", done=True)])  # type: ignore[list-item]
    expect(operator.locator("#letter-state")).to_contain_text("a replay succeeded", timeout=PATIENCE_MS)
    expect(operator.locator("#timeline")).to_contain_text("operator edited and replayed: succeeded")
    assert operator.evaluate("window.stayed"), "the page was reloaded"
    shoot(operator, "letter-resolved")


def test_the_page_of_one_letter(
    operator: Page, letters: Any, assert_accessible: Any, assert_fits: Any, shoot: Any
) -> None:
    operator.goto(f"{LIST}?message=pay-88213417-capture")

    assert_accessible(operator)
    assert_fits(operator)
    expect(operator.locator(".frames li.app").first).to_contain_text("payments/gateway.py:88")
    operator.locator(".tree summary").filter(has_text="lines").click()
    expect(operator.locator(".tree")).to_contain_text("A-2203")
    expect(operator.locator(".tree")).to_contain_text("<script>alert(1)</script>")
    assert "\u202e" not in operator.locator(".tree").inner_text()
    expect(operator.get_by_role("button", name="Reveal secrets")).to_have_attribute("aria-disabled", "true")
    operator.get_by_label("Add a note").fill("Customer was not charged.")
    operator.get_by_role("button", name="Save note").click()
    expect(operator.locator("#notes")).to_contain_text("Customer was not charged.")
    shoot(operator, "letter")


def test_reveal_is_asked_for_recorded_and_over_after_a_look(
    administrator: Page, letters: Any, assert_accessible: Any, shoot: Any
) -> None:
    administrator.goto(f"{LIST}?message=pay-88213417-capture")
    administrator.get_by_role("link", name="Reveal secrets…").click()
    administrator.get_by_label("Reason").fill("support case 2291")
    shoot(administrator, "letter-reveal")
    administrator.get_by_role("button", name="Reveal").click()

    expect(administrator.locator(".tree")).to_contain_text("tok_4eC39HqLyjW")
    assert_accessible(administrator)
    administrator.get_by_role("link", name="Hide secrets").click()
    expect(administrator.locator(".tree")).not_to_contain_text("tok_4eC39HqLyjW")
    expect(administrator.locator("#history")).to_contain_text("Secrets revealed: support case 2291")


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_every_page_fits_and_is_accessible(
    sign_in: Any, letters: Any, assert_accessible: Any, assert_fits: Any, shoot: Any, phone: bool, scheme: Any
) -> None:
    page = sign_in("operator", phone=phone, scheme=scheme)
    ids = str(letters.find_one({"messageId": "pay-88213417-capture"})["_id"])
    pages = {
        "list": LIST,
        "filtered": f"{LIST}?status=dlq_manual&errorType=AUTHENTICATION_ERROR&tag=acme",
        "none": f"{LIST}?type=nothing",
        "letter": f"{LIST}{ids}/change/",
        "edit": f"{LIST}{ids}/edit/",
        "replay": f"{LIST}{ids}/replay/",
        "confirm": f"{LIST}many/resolve/?errorType=AUTHENTICATION_ERROR",
        "export": f"{LIST}export/?status=dlq_manual",
    }
    for name, path in pages.items():
        page.goto(path)
        assert_accessible(page)
        assert_fits(page)
        shoot(page, f"{name}-{'phone' if phone else 'desktop'}-{scheme}")


def test_the_filter_sheet_on_a_phone(sign_in: Any, letters: Any, assert_accessible: Any, shoot: Any) -> None:
    page = sign_in("viewer", phone=True)
    page.goto(LIST)

    page.get_by_role("link", name="Filter", exact=True).click()
    expect(page.locator("#changelist-filter")).to_be_visible()
    assert_accessible(page)
    page.screenshot()
    shoot(page, "filter-sheet-phone")
    page.locator("#changelist-filter").get_by_role("link", name=re.compile("^Failed")).click()

    expect(page.locator("#result_list tbody tr")).to_have_count(4)
    expect(page.get_by_text("Needs the operator role.").first).to_be_visible()
    shoot(page, "viewer-phone")


def test_a_session_that_ended_leaves_the_page_as_it_was(operator: Page, letters: Any, watch: Any) -> None:
    watch.expect("Response Status Error Code 200")  # htmx says so: what came is no part of a letter
    operator.goto(f"{LIST}?message=pay-88213417-capture")
    operator.context.clear_cookies()

    with operator.expect_response(re.compile("/login/")):
        pass

    expect(operator.locator("#letter-state")).to_contain_text("TIMEOUT_ERROR")
    expect(operator.locator("#letter-state")).not_to_contain_text("Log in")


def test_letters_that_fail_meanwhile_wait_behind_a_line(
    operator: Page, letters: Any, assert_accessible: Any, shoot: Any
) -> None:
    operator.goto(LIST)
    before = operator.locator("#result_list tbody tr").count()
    store = database()
    late = [a_document(f"late-{n}", lastFailedAt=datetime.now(UTC) + timedelta(seconds=5)) for n in range(2)]
    store.dead_letters.insert_many(late)

    operator.evaluate("htmx.trigger('#letters-newer', 'wake')")

    line = operator.get_by_role("link", name="2 newer failures: show them")
    expect(line).to_be_visible()
    assert operator.locator("#result_list tbody tr").count() == before, "the rows stay where they are"
    assert_accessible(operator)
    shoot(operator, "letters-newer")
    line.click()
    expect(operator.locator("#result_list tbody tr").first).to_contain_text("late-")
    expect(line).not_to_be_visible()
