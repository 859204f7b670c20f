"""Letters whose message probably kills its worker: replayed only when confirmed, alone in a process, and once."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app.admin.letters.story import timeline
from dlq_app.domain.batch_rules import Claim, Skip, next_step
from dlq_app.domain.letter import POISON
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.replay_batch import BatchOrder
from dlq_app.services import batches, dead_letters
from dlq_app.services.replaying import Poison, Replayed
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON, MemoryIntake, a_document, a_letter, an_attempt
from dlq_app.tests.batch_rig import Rig

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis]

LOST = {"error_type": POISON, "error_kind": "unknown", "error_reason": "The process that ran it was lost 3 times."}
LETTERS = "/admin/dlq_app/deadletter/"
ADD = "/admin/dlq_app/replaybatch/add/"


@pytest.fixture
def rig(letters: Letters, intake: MemoryIntake, redis_client: Any) -> Rig:
    return Rig(letters, intake)


def change_url(rig: Rig, message_id: str) -> str:
    return f"{LETTERS}{rig.letter(message_id).id}/"


# --- one letter ---


def test_it_is_replayed_only_when_confirmed_and_then_alone(rig: Rig) -> None:
    rig.die("m-1", **LOST)
    rig.die("m-2")

    assert dead_letters.replay("m-1", actor="key:olga") == Poison("m-1")
    assert list(rig.letter("m-1").replay_attempts) == []
    assert isinstance(dead_letters.replay("m-1", actor="key:olga", poison=True), Replayed)
    assert isinstance(dead_letters.replay("m-2", actor="key:olga", poison=True), Replayed)
    assert [order.alone for order in rig.intake.forwarded] == [True, False]


def test_a_letter_that_was_lost_meanwhile_needs_the_confirmation_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.die("m-1")
    seen = rig.letter("m-1")
    rig.die("m-1", epoch=2000, **LOST)
    monkeypatch.setattr(Letters, "find", lambda *_: seen)

    assert dead_letters.replay("m-1", actor="key:olga") == Poison("m-1")


def test_an_edited_version_needs_it_too(rig: Rig) -> None:
    rig.die("m-1", **LOST)

    assert dead_letters.replay("m-1", actor="key:olga", payload=b"{}") == Poison("m-1")
    dead_letters.replay("m-1", actor="key:olga", payload=b"{}", poison=True)
    assert [(order.alone, order.run_body) for order in rig.intake.forwarded] == [(True, b"{}")]


def test_rest_refuses_it_without_the_field(rig: Rig, olga: Client) -> None:
    rig.die("m-1", **LOST)

    refused = olga.post("/api/dlq/m-1/replay", {}, content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (409, "poison_unconfirmed")
    assert "Set `poison` to replay it anyway" in refused.json()["detail"]
    assert olga.post("/api/dlq/m-1/replay", {"poison": True}, content_type="application/json").status_code == 202


def test_the_console_says_what_happens_and_asks_for_a_tick(rig: Rig, operator: Client) -> None:
    rig.die("m-1", **LOST)
    url = change_url(rig, "m-1")

    page = operator.get(f"{url}change/").content.decode()
    assert "It probably kills the worker that runs it; you will be asked to confirm." in page
    assert "--poison" in page
    assert "It probably kills that process." in operator.get(f"{url}replay/").content.decode()

    refused = operator.post(f"{url}replay/", {})
    assert (refused.status_code, rig.intake.forwarded) == (400, [])
    assert "Check this box to replay it anyway." in refused.content.decode()
    edited = operator.post(f"{url}edit/", {"payload": "{}", "step": "send"})
    assert (edited.status_code, rig.intake.forwarded) == (400, [])
    assert operator.post(f"{url}replay/", {"poison": "on"}).status_code == 302
    assert [order.alone for order in rig.intake.forwarded] == [True]


def test_the_timeline_tells_runs_of_one_attempt_apart() -> None:
    first = [
        an_attempt(1, outcome="lost", startedAt=NOON + timedelta(seconds=n), endedAt=NOON + timedelta(seconds=n + 1))
        for n in range(3)
    ]
    document = a_document(attempts=[{**one, "epoch": 1000} for one in first])
    replayed = {"replayId": "r-1", "epoch": 1001, "at": NOON + timedelta(minutes=5), "kind": "operator", "by": "olga"}
    outcome = {"outcome": "failed_same", "errorType": POISON, "errorReason": "The process that ran it was lost once."}
    document["replayAttempts"] = [{**replayed, **outcome}]
    document["attempts"] += [{**first[0], "epoch": 1001, "startedAt": NOON + timedelta(minutes=5)}]

    shown = timeline(a_letter(**document), MaskingPolicy())

    titles = [moment.title for moment in shown if moment.title.startswith("Attempt")]
    assert titles == [f"Attempt 1, run {n}: lost with its worker" for n in (1, 2, 3)]
    (replay,) = [moment for moment in shown if moment.title.startswith("olga")]
    assert replay.text.startswith("lost with its worker; ")


# --- many letters ---


def test_a_batch_leaves_them_out_and_counts_them(rig: Rig) -> None:
    rig.die("m-1", "m-2", **LOST)
    rig.die("m-3")
    order = BatchOrder.parse({"all": True})

    dry = batches.dry_run(order)
    assert (dry.count, [(one.why, one.count) for one in dry.left_out]) == (1, [("poison", 2)])
    batch = rig.run(rig.start(all=True))
    assert (batch.total, batch.poison, rig.sent()) == (1, False, ["m-3"])


def test_a_confirmed_batch_sends_each_alone(rig: Rig) -> None:
    rig.die("m-1", "m-2", **LOST)
    rig.die("m-3")

    dry = batches.dry_run(BatchOrder.parse({"all": True, "poison": True}))
    assert (dry.count, dry.left_out) == (3, [])
    batch = rig.run(rig.start(all=True, poison=True))
    assert (batch.counts.succeeded, batch.poison) == (3, True)
    assert {order.message_id: order.alone for order in rig.intake.forwarded} == {"m-1": True, "m-2": True, "m-3": False}


def test_a_letter_lost_after_the_plan_is_skipped(rig: Rig, store: Database[dict[str, Any]]) -> None:
    rig.die("m-1", "m-2")
    batch = rig.start(all=True)
    rig.die("m-1", epoch=2000, **LOST)

    rig.run(batch)
    assert rig.outcomes(batch) == {"m-1": "skipped:poison", "m-2": "succeeded"}


def test_a_batch_of_an_earlier_version_replays_them(rig: Rig, store: Database[dict[str, Any]]) -> None:
    rig.die("m-1", **LOST)
    batch = rig.start(all=True, poison=True)
    store.replay_batches.update_one({"_id": batch.id}, {"$unset": {"poison": ""}})

    rig.run(batch)
    assert rig.outcomes(batch) == {"m-1": "succeeded"}


def test_the_limit_and_named_letters_count_them_once(rig: Rig) -> None:
    rig.die("m-1", **LOST)
    rig.die("m-2", "m-3")

    limited = batches.dry_run(BatchOrder.parse({"all": True, "limit": 1}))
    assert {one.why: one.count for one in limited.left_out} == {"limit": 1, "poison": 1}
    named = batches.dry_run(BatchOrder.parse({"ids": ["m-1", "m-2"]}))
    assert (named.count, [(one.why, one.count) for one in named.left_out]) == (1, [("poison", 1)])


def test_the_rule_for_one_letter() -> None:
    letter = replace(a_letter(), error_type=POISON)
    assert next_step(letter, "b-1", skipped=False, ending=False, poison=False) == Skip("poison")
    assert next_step(letter, "b-1", skipped=False, ending=True, poison=False) == Skip("cancelled")
    assert next_step(letter, "b-1", skipped=False, ending=False, poison=True) == Claim()


def test_the_confirmation_of_a_batch_asks_for_a_tick_and_shows_the_new_number(rig: Rig, operator: Client) -> None:
    rig.die("m-1", "m-2", **LOST)
    url = f"{ADD}?errorType={POISON}"
    fields = {"rate": "20", "canary": "0", "share": "80", "budget": "", "when": "now", "reason": "fixed"}

    page = operator.get(url).content.decode()
    assert "Include letters with WORKER_LOST (2)" in page
    assert "Check their box and show what the settings do." in page

    shown = operator.post(url, {**fields, "poison": "on", "step": "look", "seen": "0"}).content.decode()
    assert "Replay 2 dead letters" in shown
    sent = {name: re.search(rf'name="{name}" value="([^"]*)"', shown) for name in ("batch", "seen", "with_poison")}
    hidden = {name: match[1] for name, match in sent.items() if match}
    # A tick that was set only now is shown first, with its number.
    first = operator.post(url, {**fields, **hidden, "with_poison": "", "poison": "on", "step": "start"})
    assert (first.status_code, batches.page().batches) == (400, [])
    assert operator.post(url, {**fields, **hidden, "poison": "on", "step": "start"}).status_code == 302
    (batch,) = batches.page().batches
    assert (batch.total, batch.poison) == (2, True)
