"""Replay batches in the console: what is shown before a start, the start itself, and a batch's page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database
from pytest_django import Settings

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.replay_batch import BatchOrder, Canary, ReplayBatch
from dlq_app.services import batches
from dlq_app.store import repository
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.people import audited, member, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/replaybatch/"
ADD = f"{LIST}add/"
FIELDS = {"rate": "20", "canary": "2", "share": "50", "budget": "20", "when": "now", "step": "start"}
HOSTILE = "<script>alert(1)</script>\u202e"


@pytest.fixture
def rig(letters: Letters, intake: MemoryIntake, redis_client: Any) -> Rig:
    return Rig(letters, intake)


def text(answer: Any, status: int = 200) -> str:
    assert answer.status_code == status, answer
    return str(answer.content.decode())


def hidden(html: str) -> dict[str, str]:
    """What the page before a start sends along by itself."""
    found = {name: re.search(rf'name="{name}" value="([^"]*)"', html) for name in ("batch", "seen")}
    return {name: match[1] for name, match in found.items() if match}


def ordered(client: Client, query: str = "?errorType=TIMEOUT_ERROR", **changes: str) -> Any:
    """Look at the page before a start, and start."""
    seen = hidden(text(client.get(f"{ADD}{query}")))
    return client.post(f"{ADD}{query}", {**FIELDS, "reason": "bank is back", **seen, **changes})


def only_batch() -> ReplayBatch:
    (batch,) = batches.page().batches
    return batch


# --- before a start ---


def test_the_page_shows_the_dry_run_and_writes_nothing(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2", error_type="TIMEOUT_ERROR")
    rig.die("m-3", error_type="VALIDATION_ERROR", error_kind="permanent")

    html = text(operator.get(f"{ADD}?errorType=TIMEOUT_ERROR"))

    assert "Replay 2 dead letters" in html
    assert "m-1" in html
    assert "m-2" in html
    assert "m-3" not in html
    assert re.search(r"manage\.py replay_dlq \\\n  --error-type TIMEOUT_ERROR", html)
    assert batches.page().batches == []


def test_a_viewer_sees_it_locked_with_the_reason_and_cannot_start(rig: Rig, viewer: Client) -> None:
    rig.die("m-1", error_type="TIMEOUT_ERROR")

    html = text(viewer.get(f"{ADD}?errorType=TIMEOUT_ERROR"))

    assert "Needs the operator role." in html
    assert 'value="start"' not in html
    answer = viewer.post(f"{ADD}?errorType=TIMEOUT_ERROR", {**FIELDS, **hidden(html), "reason": "x"})
    assert answer.status_code == 403
    assert batches.page().batches == []


def test_without_letters_or_filter_the_reader_is_sent_to_the_list(rig: Rig, operator: Client) -> None:
    assert operator.get(ADD).headers["Location"] == "/admin/dlq_app/deadletter/"
    assert operator.get(f"{ADD}?status=lost").headers["Location"] == "/admin/dlq_app/deadletter/?e=1"
    assert operator.get(f"{ADD}?status[$ne]=x").headers["Location"] == "/admin/dlq_app/deadletter/?e=1"


def test_everything_is_meant_only_when_it_is_said(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2")

    html = text(operator.get(f"{ADD}?all=1"))

    assert "<b>All</b> letters" in html
    assert re.search(r"manage\.py replay_dlq \\\n  --all", html)
    assert ordered(operator, "?all=1").status_code == 302
    assert only_batch().total == 2


# --- the start ---


def test_a_start_freezes_what_was_shown_and_is_in_the_audit_log_once(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2", "m-3", error_type="TIMEOUT_ERROR")

    answer = ordered(operator, name="INC-7", budget="10")

    batch = only_batch()
    assert answer.headers["Location"] == f"{LIST}{batch.id}/change/"
    assert (batch.total, batch.name, batch.reason) == (3, "INC-7", "bank is back")
    assert (batch.rate_per_second, batch.canary, batch.max_failure_rate) == (20, Canary(2, 1), 0.1)
    assert batch.requested_by == "user:operator"
    (line,) = audited().filter(kind="replaybatch")
    assert (line.object_id, line.said) == (batch.id, "replay of 3 letters started: bank is back")


def test_chosen_letters_make_a_plan_of_just_those(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2", "m-3")
    chosen = [rig.letter(one).id for one in ("m-1", "m-3")]

    ordered(operator, "?" + "&".join(f"id={one}" for one in chosen))

    items = batches.items(only_batch().id).items
    assert {item.message_id for item in items} == {"m-1", "m-3"}


def test_the_page_sent_twice_starts_one_batch(rig: Rig, operator: Client) -> None:
    rig.die("m-1", error_type="TIMEOUT_ERROR")
    sent = {**FIELDS, "reason": "r", **hidden(text(operator.get(f"{ADD}?errorType=TIMEOUT_ERROR")))}

    first, second = (operator.post(f"{ADD}?errorType=TIMEOUT_ERROR", sent) for _ in range(2))

    assert first.headers["Location"] == second.headers["Location"]
    assert only_batch().total == 1
    assert audited().filter(kind="replaybatch").count() == 1


def test_more_letters_than_were_shown_are_shown_first(rig: Rig, operator: Client) -> None:
    rig.die("m-1", error_type="TIMEOUT_ERROR")
    sent = {**FIELDS, "reason": "r", **hidden(text(operator.get(f"{ADD}?errorType=TIMEOUT_ERROR")))}
    rig.die("m-2", error_type="TIMEOUT_ERROR")

    html = text(operator.post(f"{ADD}?errorType=TIMEOUT_ERROR", sent), 400)

    assert "1 more letters match than this page showed" in html
    assert "Replay 2 dead letters" in html
    assert batches.page().batches == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": ""}, "A reason is required"),
        ({"reason": "x" * 2001}, "at most 2000 characters"),
        ({"rate": "0"}, "A number from 0.01 to 100000."),
        ({"rate": "fast"}, "A number from 0.01 to 100000."),
        ({"rate": "nan"}, "A number from 0.01 to 100000."),
        ({"canary": "1001"}, "A number from 0 to 1000."),
        ({"share": "101"}, "A number from 0 to 100."),
        ({"budget": "-1"}, "A number from 0 to 100."),
        ({"when": "at", "at": "tomorrow"}, "Enter a date and time in UTC."),
        ({"batch": "mine"}, "confirm again"),
        ({"seen": "many"}, "confirm again"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_started(
    rig: Rig, operator: Client, change: dict[str, str], words: str
) -> None:
    rig.die("m-1", error_type="TIMEOUT_ERROR")

    html = text(ordered(operator, **change), 400)

    assert words.lower() in html.lower()
    assert batches.page().batches == []


def test_the_page_tells_what_its_settings_do_before_anybody_said_why(rig: Rig, operator: Client) -> None:
    rig.die(*(f"m-{n}" for n in range(40)), error_type="TIMEOUT_ERROR")

    html = text(operator.get(f"{ADD}?errorType=TIMEOUT_ERROR"))

    assert "Sends <b>5</b> and waits for their outcome" in html
    assert "at <b>20 a second</b>" in html
    assert "--rate 20" in html
    assert "--canary 5" in html


def test_a_look_at_the_settings_starts_nothing(rig: Rig, operator: Client) -> None:
    rig.die(*(f"m-{n}" for n in range(40)), error_type="TIMEOUT_ERROR")

    html = text(ordered(operator, step="look", rate="2", canary="0"))

    assert "at <b>2 a second</b>: about <b>20 s</b>" in html
    assert batches.page().batches == []


def test_a_canary_of_more_than_all_is_told_as_all(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2", error_type="TIMEOUT_ERROR")

    html = text(ordered(operator, step="look", canary="5"))

    assert "Sends <b>2</b> and waits for their outcome." in html
    assert "2 first. You can pause" in html


def test_a_batch_can_wait_for_its_time(rig: Rig, operator: Client) -> None:
    rig.die("m-1", error_type="TIMEOUT_ERROR")

    ordered(operator, when="at", at="2031-05-06T07:08")

    scheduled_at = only_batch().scheduled_at
    assert scheduled_at is not None
    assert scheduled_at.isoformat() == "2031-05-06T07:08:00+00:00"


def test_above_the_approval_size_only_an_administrator_starts(rig: Rig, operator: Client, settings: Settings) -> None:
    settings.DLQ_APPROVAL_SIZE = 1
    rig.die("m-1", "m-2", error_type="TIMEOUT_ERROR")

    html = text(operator.get(f"{ADD}?errorType=TIMEOUT_ERROR"))
    assert "need the administrator role" in html
    assert ordered(operator).status_code == 403

    assert ordered(signed_in(member("administrator"))).status_code == 302
    assert only_batch().total == 2


# --- one batch ---


def test_a_batch_to_its_end(rig: Rig, viewer: Client) -> None:
    rig.die("m-1", "m-2", "m-3", error_type="TIMEOUT_ERROR")
    batch = rig.start(filter={"errorType": "TIMEOUT_ERROR"}, name="INC-7")
    rig.run(batch, done=lambda message_id: message_id != "m-2")

    html = text(viewer.get(f"{LIST}{batch.id}/change/"))

    assert "Finished" in html
    assert "100.0 %" in html
    assert "m-2" in html
    assert "m-1" not in html
    assert "m-1" in text(viewer.get(f"{LIST}{batch.id}/change/?outcome=succeeded"))
    assert "INC-7" in text(viewer.get(LIST))
    assert "INC-7" in text(viewer.get(f"{LIST}?stage=finished"))
    assert "INC-7" not in text(viewer.get(f"{LIST}?stage=running"))


def test_a_failed_canary_says_what_came_back(rig: Rig, viewer: Client) -> None:
    rig.die(*(f"m-{n}" for n in range(5)), error_type="TIMEOUT_ERROR")
    batch = rig.start(filter={"errorType": "TIMEOUT_ERROR"}, canary={"size": 2})
    rig.run(batch, done=lambda message_id: False)

    html = text(viewer.get(f"{LIST}{batch.id}/change/"))

    assert "The canary failed, so the batch stopped." in html
    assert "2 of 5 were replayed" in html
    assert re.search(r"Errors: [A-Z_]+ \(2\)", html)
    assert html.count("payments-api did not answer within 10 s") >= 2, "in the banner and among the errors"


def test_the_confirmation_remembers_the_last_batches_of_the_same_letters(rig: Rig, operator: Client) -> None:
    rig.die(*(f"m-{n}" for n in range(5)), error_reason="Köln is not 'known' <b>")
    fingerprint = rig.letter("m-0").fingerprint
    rig.die("n-1", error_type="VALIDATION_ERROR", error_kind="permanent")
    first = rig.start(filter={"fingerprint": fingerprint}, canary={"size": 2}, reason="fixed")
    rig.run(first, done=lambda message_id: False)

    html = text(operator.get(f"{ADD}?fingerprint={fingerprint}"))

    safe = html[html.index("Is it safe now?") : html.index("Sample</h2>")]
    assert "The canary failed: 2 of 2 failed" in safe
    assert f"{LIST}{first.id}/change/" in safe
    assert re.search(r"Errors: <bdi>TIMEOUT_ERROR \(2\): payments-api did not answer", safe)
    assert fingerprint not in safe.replace(f"fingerprint={fingerprint}", "")
    other = text(operator.get(f"{ADD}?errorType=VALIDATION_ERROR"))
    assert "The canary failed" not in other


def test_a_batch_without_a_name_is_called_after_its_letters(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2", error_reason="the bank said no")
    fingerprint = rig.letter("m-1").fingerprint
    batch = rig.start(filter={"fingerprint": fingerprint})
    chosen = rig.start(ids=["m-1"])
    everything = rig.start(all=True, reason="the bank is back")

    html = text(operator.get(LIST))

    assert "the bank said no</bdi></a>" in html
    assert "0 letters, selected individually" in html
    assert "the bank is back</bdi></a>" in html
    for one in (batch, chosen, everything):
        page = text(operator.get(f"{LIST}{one.id}/change/"))
        heading = page[page.index("<h1>") : page.index("</h1>")]
        assert one.id not in heading
    assert "the bank said no" in text(operator.get(f"{LIST}{batch.id}/cancel-the-rest/"))
    assert "group <b><bdi>the bank said no" in text(operator.get(f"{ADD}?fingerprint={fingerprint}"))


def test_steering(rig: Rig, operator: Client, viewer: Client) -> None:
    rig.die("m-1")
    batch = rig.start()
    rig.executor().tick()  # begins

    def now() -> str:
        return batches.get(batch.id).stage.value

    assert viewer.post(f"{LIST}{batch.id}/pause/").status_code == 403
    operator.post(f"{LIST}{batch.id}/pause/")
    assert now() == "paused"
    operator.post(f"{LIST}{batch.id}/resume/")
    assert now() == "running"
    assert "Cancel the rest?" in text(operator.get(f"{LIST}{batch.id}/cancel-the-rest/"))
    operator.post(f"{LIST}{batch.id}/cancel/", {"reason": "wrong ones"})
    assert now() == "cancelled"
    said = operator.post(f"{LIST}{batch.id}/pause/", follow=True)
    assert "was cancelled by operator at" in text(said)
    assert "UTC: it cannot be paused." in text(said)
    asked = operator.get(f"{LIST}{batch.id}/cancel-the-rest/", follow=True)
    assert "nothing is left to cancel" in text(asked)
    lines = audited().filter(kind="replaybatch").order_by("pk")
    assert [line.said for line in lines] == ["paused", "resumed", "cancelled: wrong ones"]
    assert "wrong ones" in text(operator.get(f"{LIST}{batch.id}/history/"))


def test_buttons_fit_what_is_possible(rig: Rig, operator: Client, viewer: Client) -> None:
    rig.die("m-1")
    batch = rig.start()

    html = text(operator.get(f"{LIST}{batch.id}/change/"))
    assert f"{LIST}{batch.id}/pause/" in html
    assert "The batch is not paused." in html
    assert "Needs the operator role." in text(viewer.get(f"{LIST}{batch.id}/change/"))


def test_a_secret_in_the_filter_is_hidden(rig: Rig, operator: Client, viewer: Client) -> None:
    rig.die("m-1", source="password=Hunter2x")
    assert ordered(operator, "?source=password%3DHunter2x").status_code == 302
    batches.cancel(only_batch().id, actor="user:olga", reason="enough")

    html = text(viewer.get(f"{LIST}{only_batch().id}/change/"))

    assert "password=•••" in html
    assert "Hunter2x" not in html


def test_late_arrivals_are_told(rig: Rig, viewer: Client) -> None:
    rig.die("m-1", error_type="TIMEOUT_ERROR")
    batch = rig.start(filter={"errorType": "TIMEOUT_ERROR"})
    rig.die("m-2", "m-3", error_type="TIMEOUT_ERROR")

    html = text(viewer.get(f"{LIST}{batch.id}/change/"))

    assert "2 more letters match since the plan was frozen; they are not included." in html


def test_the_live_part_answers_304_until_something_changes(rig: Rig, viewer: Client) -> None:
    rig.die("m-1")
    batch = rig.start()
    live = f"{LIST}{batch.id}/live/"

    first = viewer.get(live)
    assert 'id="batch-live"' in text(first)
    assert 'hx-swap-oob="true"' in text(first)
    again = viewer.get(live, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    batches.cancel(batch.id, actor="user:op")
    assert viewer.get(live, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_all_numbers_of_a_paused_batch_are_of_one_instant(rig: Rig, viewer: Client) -> None:
    rig.die("m-1", "m-2", "m-3", "m-4")
    batch = rig.start()
    executor = rig.executor()
    for _ in range(3):
        executor.tick()
        rig.clock_s += 5
    batches.pause(batch.id, actor="user:op")
    ids = [item.letter_id for item in batches.items(batch.id, limit=10).items]
    # Copied by the executor, and not yet in the counts of the batch.
    repository.items().record_outcomes(batch.id, {ids[0]: ("succeeded", ""), ids[1]: ("succeeded", "")})
    repository.items().record_outcomes(batch.id, {ids[2]: ("failed_same", "TIMEOUT_ERROR")})
    assert batches.get(batch.id).counts.succeeded == 0

    page = viewer.get(f"{LIST}{batch.id}/change/")

    shown = {tally.label: tally.count for tally in page.context["tallies"]}
    assert (shown["Succeeded"], shown["Failed the same"]) == (2, 1)
    assert page.context["decided"] == 3
    assert sum(shown.values()) == 4
    assert text(page).count("succeeded") >= 1
    # The list of letters is loaded again with the live part.
    assert 'hx-select="#outcomes"' in text(viewer.get(f"{LIST}{batch.id}/live/"))


def test_the_list_answers_its_live_part_alone(rig: Rig, viewer: Client) -> None:
    rig.die("m-1")
    rig.start(name="INC-7")

    answer = viewer.get(LIST, headers={"HX-Request": "true"})

    assert "INC-7" in text(answer)
    assert "<html" not in text(answer)
    again = viewer.get(LIST, headers={"HX-Request": "true", "If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_older_batches_are_behind_a_link(rig: Rig, viewer: Client) -> None:
    rig.die("m-1")
    for n in range(21):
        rig.start(name=f"batch {n:02}")

    html = text(viewer.get(LIST))
    older = re.search(r'href="(\?cursor=[^"]+)"', html)

    assert "batch 20" in html
    assert "batch 00" not in html
    assert older is not None
    assert "batch 00" in text(viewer.get(f"{LIST}{older[1]}"))
    assert viewer.get(f"{LIST}?cursor=%24ne").headers["Location"] == LIST


# --- trouble ---


def test_an_unknown_batch_is_a_404(rig: Rig, operator: Client) -> None:
    for path in ("b-none/change/", "b-none/live/", "b-none/cancel-the-rest/"):
        assert operator.get(f"{LIST}{path}").status_code == 404
    assert operator.post(f"{LIST}b-none/pause/").status_code == 404


def test_everything_from_outside_is_shown_as_text(store: Database[dict[str, Any]], rig: Rig, operator: Client) -> None:
    rig.die("m-1", error_reason=HOSTILE, error_type="TIMEOUT_ERROR")
    order = BatchOrder.parse({"all": True, "name": HOSTILE, "reason": HOSTILE})
    batch = batches.start(order, actor=f"user:{HOSTILE}")

    for path in (
        "",
        f"add/?all=1&reason={HOSTILE}",
        f"{batch.id}/change/?outcome=open",
        f"{batch.id}/cancel-the-rest/",
    ):
        html = text(operator.get(f"{LIST}{path}"))
        assert "<script>alert" not in html
        assert "\u202e" not in html.split("<textarea")[0]


def test_a_store_that_is_away_is_said(rig: Rig, operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable

    for name in ("get", "page", "dry_run"):
        monkeypatch.setattr(batches, name, unavailable)

    for path in ("", "add/?all=1", "b-1/change/", "b-1/live/"):
        assert "MongoDB is not responding" in text(operator.get(f"{LIST}{path}"), 503)
