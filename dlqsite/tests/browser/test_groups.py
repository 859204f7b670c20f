"""Groups in a browser: cards that stay fresh, the page of one, and what people say about it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlq_app.domain.group_states import GroupState
from dlq_app.services import dead_letters, groups
from dlq_app.store.groups import GROUPS
from dlq_app.store.mongo import LETTERS, database
from dlq_app.testing import MemoryIntake, a_death, a_settlement
from dlqsite.tests.browser.conftest import PATIENCE_MS, SCREENS

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/lettergroup/"
HOUR = timedelta(hours=1)


def stack(file: str, line: int, function: str) -> str:
    return f'Traceback (most recent call last):\n  File "/srv/app/{file}", line {line}, in {function}\n    raise\n'


def letters(name: str, by_hour: dict[int, int], **death: Any) -> str:
    """Letters of one cause, so many as ``by_hour`` says for each of the hours ago; the fingerprint."""
    now, deaths = datetime.now(UTC), []
    for ago, count in by_hour.items():
        at = now - ago * HOUR
        deaths += [
            a_death(f"{name}-{ago}-{n}", died_at=at, queued_at=at, **death) for n in range(count)
        ]  # fmt: skip
    dead_letters.record_outcomes(deaths, [])
    store = database()[LETTERS]
    for ago in by_hour:
        store.update_many({"messageId": {"$regex": f"^{name}-{ago}-"}}, {"$set": {"createdAt": now - ago * HOUR}})
    found = store.find_one({"messageId": {"$regex": f"^{name}-"}})
    assert found
    return str(found["fingerprint"])


@pytest.fixture
def night(indexed: None, redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Five causes of one night, each in a state of its own; their fingerprints."""
    port = MemoryIntake(destinations={"payment.capture": ("payments-api",)}, open_types={"payments-api": 20_000})
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    found = {
        "regressed": letters(
            "pay", {0: 40, 1: 12}, type="payment.capture", error_stack=stack("payments/gateway.py", 88, "capture")
        ),
        "new": letters(
            "vat", {0: 6, 1: 8, 2: 7, 3: 6}, type="order.created", error_type="VALIDATION_ERROR",
            error_kind="permanent", error_reason="order.vatId: expected 11 characters, got 9",
            error_stack=stack("orders/handlers.py", 57, "order_created"),
        ),
        "ongoing": letters(
            "acme", dict.fromkeys(range(9), 9), type="http.deliver", error_type="AUTHENTICATION_ERROR",
            error_kind="permanent", error_reason="401 from hooks.acme-fulfilment.example: unknown signature key",
            error_stack=stack("messages_app/delivery.py", 142, "deliver"),
        ),
        "ignored": letters(
            "receipt", {9: 2, 12: 5, 20: 3}, type="mail.send", error_type="NOT_FOUND_ERROR", error_kind="permanent",
            error_reason="template receipt-771 not found", error_stack=stack("receipts/handlers.py", 31, "email"),
        ),
        "resolved": letters(
            "lock", {30: 3}, type="order.created", error_type="DATABASE_ERROR",
            error_reason="lock wait time-out on orders", error_stack=stack("orders/store.py", 210, "save"),
        ),
    }  # fmt: skip
    groups.page()
    known = database()[GROUPS]
    now = datetime.now(UTC)
    for name in ("ongoing", "ignored", "resolved", "regressed"):
        known.update_one({"_id": found[name]}, {"$set": {"firstSeen": now - timedelta(days=6)}})
    said = {"state": "resolved", "by": "user:mira", "reason": "the bank answers again", "at": now - 2 * HOUR}
    known.update_one({"_id": found["regressed"]}, {"$set": {"said": said}})
    groups.set_note(found["new"], actor="user:mira", text="shop-api sends 9 digits. Asked the orders team.")
    groups.set_state(
        found["ignored"], GroupState.IGNORED, actor="user:anna", reason="template ships Wednesday",
        until=now + 8 * HOUR, until_count=20,
    )  # fmt: skip
    groups.set_state(found["resolved"], GroupState.RESOLVED, actor="user:jonas", reason="index is back")
    replayed: Any = dead_letters.replay("acme-0-0", actor="user:mira")
    epoch = port.records["acme-0-0"].epoch
    settled = a_settlement("acme-0-0", epoch=epoch, replay_id=replayed.replay_id, finished_at=now)
    dead_letters.record_outcomes([], [settled])
    return found


def test_the_list_follows_what_happens_without_being_loaded_again(operator: Page, night: dict[str, str]) -> None:
    operator.goto(LIST)
    cards = operator.locator("li.group")
    expect(cards).to_have_count(3)
    expect(cards.nth(0)).to_contain_text("Regressed")
    expect(cards.nth(1)).to_contain_text("order.vatId: expected # characters, got #")
    expect(cards.nth(2)).to_contain_text("Ongoing")
    operator.evaluate("window.stayed = true")
    operator.locator(f"#group-{night['ongoing']}").focus()

    letters("vat", {0: 14}, type="order.created", error_type="VALIDATION_ERROR", error_kind="permanent",
            error_reason="order.vatId: expected 11 characters, got 9",
            error_stack=stack("orders/handlers.py", 57, "order_created"), epoch=2000)  # fmt: skip
    groups.set_state(night["regressed"], GroupState.IGNORED, actor="user:jonas", reason="known")

    expect(cards).to_have_count(2, timeout=PATIENCE_MS)
    expect(cards.nth(0).locator(".figures b")).to_have_text("35")
    expect(operator.locator("#groups-ignored")).to_have_text("2")
    assert operator.evaluate("window.stayed"), "the page was loaded again"
    assert operator.evaluate("document.activeElement.id") == f"group-{night['ongoing']}"


def test_an_unchanged_list_is_not_sent_again(operator: Page, night: dict[str, str]) -> None:
    operator.goto(f"{LIST}?state=ignored")
    with operator.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true") as first:
        pass
    assert first.value.status == 304
    expect(operator.locator("li.group")).to_have_count(1)
    expect(operator.locator("#live-status")).to_contain_text(re.compile(r"^Live, every 5 s · \d\d:\d\d:\d\d UTC$"))


def test_filter_sort_and_onward_to_the_letters(operator: Page, night: dict[str, str]) -> None:
    operator.goto(LIST)
    operator.get_by_text("Filter", exact=True).click()
    operator.get_by_role("link", name="Permanent").click()
    expect(operator.locator("li.group")).to_have_count(2)
    operator.get_by_label("Search").fill("signature")
    operator.keyboard.press("Enter")
    expect(operator.locator("li.group")).to_have_count(1)
    operator.get_by_role("link", name="Remove filter Kind").click()
    operator.get_by_role("link", name="Remove filter Search").click()
    operator.get_by_role("link", name="Most open").click()
    expect(operator.locator("li.group").nth(0)).to_contain_text("80 open of 81")
    operator.locator("li.group").nth(0).get_by_role("link", name="81 letters").click()
    expect(operator).to_have_url(re.compile(rf"/deadletter/\?fingerprint={night['ongoing']}$"))
    expect(operator.get_by_text("81 dead letters")).to_be_visible()


def test_resolve_ignore_reopen_and_a_note(operator: Page, night: dict[str, str], watch: Any) -> None:
    watch.expect("400")
    operator.goto(f"{LIST}{night['new']}/change/")
    operator.get_by_role("link", name="Resolve…").first.click()
    operator.get_by_label("Reason").fill("orders 1.12.4 is out")
    operator.get_by_role("button", name="Resolve this group").click()
    expect(operator.get_by_text("The group is resolved.")).to_be_visible()
    expect(operator.locator("#group-live .badge")).to_have_text("Resolved")

    operator.get_by_role("link", name="Ignore…").first.click()
    operator.get_by_role("button", name="Ignore this group").click()
    expect(operator.get_by_text("it is kept in the history")).to_be_visible()
    operator.get_by_label("Reason").fill("waits for the release")
    operator.get_by_label("Or until more arrive than").fill("30")
    operator.get_by_role("button", name="Ignore this group").click()
    expect(operator.locator("#group-live")).to_contain_text("or until more than 30 an hour: waits for the release")

    operator.get_by_role("link", name="Stop ignoring…").first.click()
    operator.get_by_label("Reason").fill("it is there")
    operator.get_by_role("button", name="Reopen this group").click()
    expect(operator.locator("#group-live .badge")).to_have_text("New")

    operator.get_by_label("Note for other users").fill("Asked twice.")
    operator.get_by_role("button", name="Save note").click()
    expect(operator.get_by_text("Note saved.")).to_be_visible()
    expect(operator.locator("#group-history")).to_contain_text("Note: Asked twice.")
    operator.get_by_role("link", name="Audit log", exact=True).click()
    expect(operator.get_by_text("ignore group until")).to_be_visible()
    expect(operator.get_by_text("resolve group: orders 1.12.4 is out")).to_be_visible()


def test_the_page_of_a_group_follows_and_keeps_what_is_being_typed(operator: Page, night: dict[str, str]) -> None:
    operator.goto(f"{LIST}{night['ongoing']}/change/")
    note = operator.get_by_label("Note for other users")
    note.fill("half a sente")

    groups.set_state(night["ongoing"], GroupState.RESOLVED, actor="user:jonas", reason="key renewed")

    expect(operator.locator("#group-live .badge")).to_have_text("Resolved", timeout=PATIENCE_MS)
    expect(operator.locator("#group-history")).to_contain_text("key renewed")
    expect(operator.locator("#letter-acts")).to_contain_text("It is already resolved.")
    expect(note).to_have_value("half a sente")


def test_a_letter_leads_to_its_group(operator: Page, night: dict[str, str]) -> None:
    operator.goto(f"{LIST}{night['new']}/change/")
    operator.locator("#group-letters tbody a").first.click()
    operator.get_by_role("link", name="26 others").click()
    expect(operator).to_have_url(re.compile(f"{night['new']}/change/$"))


def test_the_tab_counts_open_groups(operator: Page, night: dict[str, str]) -> None:
    operator.goto(LIST)
    expect(operator.locator("#console-nav a[aria-current] .count")).to_contain_text("3")


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_every_page_fits_and_is_accessible(
    sign_in: Any, night: dict[str, str], assert_accessible: Any, assert_fits: Any, shoot: Any, watch: Any, phone: bool,
    scheme: Any,
) -> None:  # fmt: skip
    watch.expect("404")
    wide = "x" * 200 + "‮<b>" + "y" * 200
    letters("wide", {0: 3}, type="demo", error_reason=wide, error_stack=stack(f"{'p' * 150}.py", 1, "f" * 100))
    page = sign_in("operator", phone=phone, scheme=scheme)
    pages = {
        "groups": f"{LIST}?state=all",
        "groups-no-match": f"{LIST}?errorType=NO_SUCH_ERROR",
        "groups-none-of-state": f"{LIST}?state=regressed&type=mail.send",
        "group": f"{LIST}{night['regressed']}/change/",
        "group-ongoing": f"{LIST}{night['ongoing']}/change/",
        "group-ignored": f"{LIST}{night['ignored']}/change/",
        "group-resolve": f"{LIST}{night['new']}/resolve/",
        "group-ignore": f"{LIST}{night['new']}/ignore/",
        "group-history": f"{LIST}{night['new']}/history/",
        "group-missing": f"{LIST}{'0' * 16}/change/",
    }
    for name, path in pages.items():
        page.goto(path)
        assert_accessible(page)
        assert_fits(page)
        shoot(page, f"{name}-{'phone' if phone else 'desktop'}-{scheme}")
    page.goto(LIST)
    page.get_by_text("Filter", exact=True).click()
    assert_accessible(page)
    assert_fits(page)
    shoot(page, f"groups-filter-{'phone' if phone else 'desktop'}-{scheme}")


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_a_viewer_reads_why_nothing_can_be_done(
    sign_in: Any, night: dict[str, str], assert_accessible: Any, assert_fits: Any, shoot: Any, phone: bool
) -> None:
    page = sign_in("viewer", phone=phone)
    for name, path in {"groups-viewer": LIST, "group-viewer": f"{LIST}{night['new']}/change/"}.items():
        page.goto(path)
        expect(page.get_by_text("Needs the operator role.").locator("visible=true").first).to_be_visible()
        assert_accessible(page)
        assert_fits(page)
        shoot(page, f"{name}-{'phone' if phone else 'desktop'}")
