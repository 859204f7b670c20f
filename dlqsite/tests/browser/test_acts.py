"""What a person does: letters that kill their worker, drafts, and what the confirmation of a batch remembers."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dlq_app.domain.letter import POISON
from dlq_app.store import repository
from dlq_app.store.mongo import database
from dlq_app.testing import MemoryIntake, an_attempt
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.browser.conftest import PHONE, SCREENS

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db(transaction=True), pytest.mark.browser]

LETTERS = "/admin/dlq_app/deadletter/"
BATCHES = "/admin/dlq_app/replaybatch/"
GROUPS = "/admin/dlq_app/lettergroup/"
NARROW = 320


@pytest.fixture
def rig(indexed: None, redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Two letters that kill their worker, and nine of one group whose canary failed."""
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    found = Rig(repository.letters(), port)
    lost = [an_attempt(1, outcome="lost", startedAt=f"2026-11-24T11:5{n}:00.000Z", worker=f"w-{n}") for n in range(3)]
    found.die(
        "resize-119-original", "resize-120-original", type="image.resize", error_type=POISON, error_kind="unknown",
        error_reason="The process that ran it was lost 3 times.", error_stack="", attempts=lost, retry_count=0,
    )  # fmt: skip
    names = [f"order-55118{n}-confirmation-with-a-long-name" for n in range(9)]
    found.die(*names)
    fingerprint = found.letter(names[0]).fingerprint
    found.run(found.start(filter={"fingerprint": fingerprint}, canary={"size": 2}), done=lambda message_id: False)
    return found


def address(rig: Rig, message_id: str, what: str) -> str:
    return f"{LETTERS}{rig.letter(message_id).id}/{what}/"


def test_a_letter_that_kills_its_worker_is_replayed_after_a_tick(operator: Page, rig: Rig) -> None:
    operator.goto(address(rig, "resize-119-original", "change"))
    expect(operator.locator("#timeline")).to_contain_text("Attempt 1, run 3: lost with its worker")
    operator.get_by_role("link", name="Replay…").first.click()
    expect(operator.locator("main")).to_contain_text("It probably kills that process.")
    operator.get_by_label("Replay it although it probably kills a worker").check()
    operator.get_by_role("button", name="Replay", exact=True).click()
    expect(operator.locator(".messagelist")).to_contain_text("Replaying resize-119-original")
    assert [order.alone for order in rig.intake.forwarded if order.message_id.startswith("resize")] == [True]


def test_a_refused_edit_is_there_again(operator: Page, rig: Rig, watch: Any) -> None:
    rig.die("pay-1", error_type="TIMEOUT_ERROR")
    operator.goto(address(rig, "pay-1", "edit"))
    operator.get_by_label("Payload, JSON").fill('{"orderId": 4711}')
    operator.get_by_role("button", name="Show what would change").click()
    rig.intake.open_types["payment.capture"] = 60_000
    watch.expect("409")
    operator.get_by_role("button", name="Replay this version").click()
    expect(operator.locator(".errornote")).to_contain_text("The circuit breaker payment.capture is open")

    operator.goto(address(rig, "pay-1", "change"))
    operator.get_by_role("link", name="Open the draft").click()
    expect(operator.get_by_label("Payload, JSON")).to_have_value('{"orderId": 4711}')
    operator.get_by_role("button", name="Discard draft").click()
    expect(operator.locator(".messagelist")).to_contain_text("Draft discarded.")


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_every_page_fits_and_is_accessible(
    sign_in: Any,
    rig: Rig,
    assert_accessible: Any,
    assert_fits: Any,
    shoot: Any,
    watch: Any,
    phone: bool,
    scheme: Any,
) -> None:
    page = sign_in("operator", phone=phone, scheme=scheme)
    order = rig.letter("order-551180-confirmation-with-a-long-name")
    edit = address(rig, order.message_id, "edit")
    page.goto(edit)
    page.get_by_label("Payload, JSON").fill('{"vatId": "DE811907980"}')
    page.get_by_role("button", name="Show what would change").click()
    rig.intake.open_types["payment.capture"] = 60_000
    watch.expect("409")
    page.get_by_role("button", name="Replay this version").click()
    expect(page.locator(".errornote")).to_be_visible()
    kind = f"{'phone' if phone else 'desktop'}-{scheme}"
    assert_accessible(page)
    assert_fits(page)
    shoot(page, f"acts-refused-{kind}")
    (batch,) = database().replay_batches.find({}, {"_id": 1})
    long_name = "user:wilhelmina.van.der.veen@payments.example"
    database().replay_batches.update_one({}, {"$set": {"requestedBy": long_name}})
    pages = {
        "poison-letter": address(rig, "resize-119-original", "change"),
        "poison-confirm": address(rig, "resize-119-original", "replay"),
        "poison-batch": f"{BATCHES}add/?errorType={POISON}",
        "draft": edit,
        "barred": address(rig, order.message_id, "change"),
        "confirm": f"{BATCHES}add/?fingerprint={order.fingerprint}",
        "failed-canary": f"{BATCHES}{batch['_id']}/change/",
        "batches": BATCHES,
        "group": f"{GROUPS}{order.fingerprint}/change/",
    }
    for name, path in pages.items():
        page.goto(path)
        if name == "group":
            expect(page.locator("#parts")).to_contain_text("Source")
        assert_accessible(page)
        assert_fits(page)
        shoot(page, f"acts-{name}-{kind}")
        if phone:
            page.set_viewport_size({**PHONE, "width": NARROW})
            assert_fits(page)
            shoot(page, f"acts-{name}-{NARROW}-{scheme}")
            page.set_viewport_size(PHONE)
