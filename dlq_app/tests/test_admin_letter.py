"""The page of one letter: who sees and does what, hostile payloads, unknown ids, a store that is away."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database
from pytest_django import Settings

from dlq_app.admin.letters.payload_tree import MAX_KEYS, MAX_TEXT, tree
from dlq_app.admin.letters.traceback import stack
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.payload import parse
from dlq_app.services import dead_letters
from dlq_app.store.repository import Letters
from dlq_app.testing import STACK, MemoryIntake, a_death, a_document
from dlqsite.tests.people import audited, member
from wire.visible_text import visible

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/deadletter/"
NOW = datetime.now(UTC)
EARLIER = NOW - timedelta(hours=1)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e{{ 7*7 }}"
VERBS = ("resolve", "discard", "set-aside", "resume", "reopen")


@pytest.fixture(autouse=True)
def _empty(store: Database[dict[str, Any]], redis_client: Any, intake: MemoryIntake) -> None:
    """Each test starts with empty stores."""


def put(store: Database[dict[str, Any]], payload: Any = None, *, body: bytes | None = None, **changes: Any) -> str:
    """One letter; where it stands in the console."""
    raw = body if body is not None else json.dumps(payload or {"route": "eu-1", "token": "t-1"}).encode()
    document = a_document(death=a_death("m-1", body=raw), **{"updatedAt": EARLIER, **changes})
    return f"{LIST}{store.dead_letters.insert_one(document).inserted_id}/"


def html_of(client: Client, url: str, status: int = 200) -> str:
    answer = client.get(url)
    assert answer.status_code == status, answer
    return answer.content.decode()


def status_of(store: Database[dict[str, Any]]) -> str:
    return str(store.dead_letters.find_one()["status"])  # type: ignore[index]


# --- looking ---


@pytest.mark.parametrize(("memory", "shown"), [(78_794_752, "82 %, 75.1 MB"), (61.0, "82 %, 61 %")])
def test_memory_is_shown_in_the_unit_in_which_it_was_told(
    store: Database[dict[str, Any]], viewer: Client, memory: float, shown: str
) -> None:
    url = put(store, metadata={"systemState": {"cpu": 82.0, "memory": memory}})

    assert shown in html_of(viewer, f"{url}change/")


def test_the_trace_of_a_letter_is_a_link(store: Database[dict[str, Any]], viewer: Client, settings: Settings) -> None:
    settings.TRACE_URL_TEMPLATE = "https://tracing.example/trace/{trace_id}"
    url = put(store, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")

    assert f'href="https://tracing.example/trace/{"a" * 32}"' in html_of(viewer, f"{url}change/")
    assert "tracing.example" not in html_of(viewer, f"{put(store, traceparent='javascript:x', messageId='m-2')}change/")


def test_a_viewer_sees_everything_and_every_act_locked_with_its_reason(
    store: Database[dict[str, Any]], viewer: Client
) -> None:
    url = put(store)

    html = html_of(viewer, f"{url}change/")

    assert "TIMEOUT_ERROR is transient; 4 of 4 attempts failed" in html
    assert "payments/gateway.py:88" in html
    assert "worker-1 on app-2" in html
    acts = html[html.index('id="letter-acts"') : html.index("<h2>Facts</h2>")]
    assert acts.count('aria-disabled="true"') == 5
    assert acts.count("<span>Needs the operator role.</span>") == 5
    assert 'href="' not in acts.replace('href="#i-', "")
    assert "t-1" not in html


def test_the_application_frames_come_first() -> None:
    found = stack(STACK)

    assert [(s.frame.function, s.frame.short_file, s.source) for s in found.own] == [
        ("capture", "payments/gateway.py", "response = self.http.post(self.url(route), json=body, timeout=timeout)")
    ]
    assert (len(found.libraries), found.library_names) == (2, "httpx 2")
    assert stack("no traceback at all").own == []


@pytest.mark.parametrize("ref", ["0" * 24, "nonsense", "x" * 300, "..%2F..%2Fetc", "%00", "_5f"])
def test_an_unknown_letter_is_404(viewer: Client, ref: str) -> None:
    for what in ("change/", "history/", "state/", "payload/"):
        # What cannot be an id is sent on to the change page by Django first.
        assert viewer.get(f"{LIST}{ref}/{what}", follow=True).status_code == 404, what


def test_an_unknown_letter_is_404_for_whoever_may_act(administrator: Client) -> None:
    for what in ("replay/", "edit/", "reveal/", *(f"{verb}/" for verb in VERBS)):
        assert administrator.get(f"{LIST}{'0' * 24}/{what}").status_code == 404, what
        assert administrator.post(f"{LIST}{'0' * 24}/{what}", {"reason": "x"}).status_code == 404, what


def test_a_store_that_is_away_is_503(
    store: Database[dict[str, Any]], operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(store)

    def unavailable(*args: Any, **options: Any) -> None:
        raise StoreUnavailable()

    monkeypatch.setattr(Letters, "find", unavailable)

    for what in ("change/", "history/", "state/", "payload/", "edit/", "replay/", "resolve/"):
        assert operator.get(f"{url}{what}").status_code == 503, what
    answer = operator.post(f"{url}resolve/", {"reason": "done"})
    assert answer.status_code == 503
    assert "check the letter before you repeat it" in answer.content.decode()


# --- payloads of any kind ---


@pytest.mark.parametrize(
    "payload",
    [
        {"text": HOSTILE, HOSTILE: 1},
        [HOSTILE, {"deep": [HOSTILE]}],
        HOSTILE,
        {"note": "שלום עולם", "family": "👨‍👩‍👧", "zero": "a\u200bb"},
    ],
)
def test_hostile_payloads_are_only_text(store: Database[dict[str, Any]], operator: Client, payload: Any) -> None:
    url = put(
        store, payload, errorReason=HOSTILE, errorStack=HOSTILE, notes=[{"at": NOW, "by": HOSTILE, "text": HOSTILE}]
    )
    store.dead_letters.update_one(
        {},
        {
            "$set": {
                "metadata": {"source": HOSTILE, "client": HOSTILE, "tags": [HOSTILE], "systemState": {"host": HOSTILE}},
                "history": [{"at": NOW, "who": HOSTILE, "what": HOSTILE, "why": HOSTILE}],
                "versions": [{"version": 1, "by": HOSTILE, "at": NOW, "why": HOSTILE, "diff": f"+{HOSTILE}"}],
                "attempts": [{"number": HOSTILE, "startedAt": NOW, "outcome": "failed", "errorType": HOSTILE}],
                "replayAttempts": [{"at": NOW, "by": HOSTILE, "why": HOSTILE, "batchId": HOSTILE, "outcome": HOSTILE}],
            }
        },
    )

    for what in ("change/", "edit/", "replay/", "state/"):
        html = html_of(operator, f"{url}{what}")
        assert "<script>alert" not in html
        assert "<img src=x" not in html
        assert "\u202e" not in html, what


def test_unseen_characters_are_written_out() -> None:
    assert visible("a\u202eb\u200b\x07 👨\u200d👧 שלום\n") == "a\\u202eb\\u200b\\u0007 👨\\u200d👧 שלום\n"


def test_a_large_payload_is_cut_with_a_way_to_all_of_it(store: Database[dict[str, Any]], viewer: Client) -> None:
    url = put(store, {"long": "x" * 200_000, "many": {f"k{n}": n for n in range(MAX_KEYS + 10)}})

    html = html_of(viewer, f"{url}change/")
    whole = viewer.get(f"{url}payload/")

    assert "Only the start is shown" in html
    assert f"{200_000 - MAX_TEXT:,} more characters" in html
    assert len(html) < 900_000
    assert len(json.loads(whole.content)["many"]) == MAX_KEYS + 10
    assert whole["Content-Type"] == "text/plain; charset=utf-8"
    assert "attachment" in whole["Content-Disposition"]
    assert whole["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("text", ["{}", "[]", "null", "0", '""', "[" * 30 + "]" * 30, '{"": {"": []}}'])
def test_small_payloads_have_a_tree(text: str) -> None:
    made = tree(parse(text))

    assert made.html.count("<ul>") == made.html.count("</ul>")
    assert not made.is_cut


@pytest.mark.parametrize("body", [b"not json", b"", b"\xff\xfe\x00", b"[" * 5000, b"NaN"])
def test_what_is_no_json_is_shown_as_text(store: Database[dict[str, Any]], operator: Client, body: bytes) -> None:
    url = put(store, body=body)

    assert "This is not JSON" in html_of(operator, f"{url}change/")
    assert operator.get(f"{url}payload/").status_code == 200
    assert operator.get(f"{url}edit/").status_code == 200


def test_a_letter_with_nothing_in_it_has_a_page(store: Database[dict[str, Any]], viewer: Client) -> None:
    document = {"messageId": "bare", "status": "dlq_manual", "lastFailedAt": NOW}
    ref = store.dead_letters.insert_one(document).inserted_id

    assert "bare" in html_of(viewer, f"{LIST}{ref}/change/")
    assert "bare" in html_of(viewer, LIST)


# --- the part that changes ---


def test_the_state_is_sent_again_only_when_it_changed(store: Database[dict[str, Any]], operator: Client) -> None:
    url = put(store)

    first = operator.get(f"{url}state/")
    same = operator.get(f"{url}state/", headers={"If-None-Match": first["ETag"]})
    operator.post(f"{url}set-aside/", {"reason": "wait"})
    changed = operator.get(f"{url}state/", headers={"If-None-Match": first["ETag"]})

    assert (first.status_code, same.status_code, changed.status_code) == (200, 304, 200)
    assert same.content == b""
    text = changed.content.decode()
    assert "set aside: needs a decision" in text
    assert {'id="letter-acts" hx-swap-oob', 'id="timeline" hx-swap-oob', 'id="history" hx-swap-oob'} <= set(
        re.findall(r'id="[a-z-]+" hx-swap-oob', text)
    )
    assert "<html" not in text


def test_an_open_breaker_locks_the_replay_with_its_reason(
    store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake
) -> None:
    url = put(store)
    intake.open_types["payment.capture"] = 12_000

    html = html_of(operator, f"{url}change/")
    answer = operator.post(f"{url}replay/", {}, follow=True)

    assert "a replay now would be refused" in html
    assert "circuit breaker" in answer.content.decode()
    assert status_of(store) == "dlq_pending"
    assert not audited().exists()


def test_redis_that_is_away_does_not_take_the_page_along(
    store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(store)

    def unavailable(*args: Any) -> None:
        raise StoreUnavailable()

    monkeypatch.setattr(MemoryIntake, "retry_after_ms", unavailable)

    assert "Unknown whether a replay is possible" in html_of(operator, f"{url}change/")


# --- doing ---


@pytest.mark.parametrize(
    ("what", "status", "done"),
    [
        ("resolve", "dlq_resolved", "resolved"),
        ("discard", "dlq_resolved", "discarded"),
        ("set-aside", "dlq_manual", "set aside"),
    ],
)
def test_a_move_with_a_reason(
    store: Database[dict[str, Any]], operator: Client, what: str, status: str, done: str
) -> None:
    url = put(store)

    without = operator.post(f"{url}{what}/", {"reason": " "})
    answer = operator.post(f"{url}{what}/", {"reason": "customer called"}, follow=True)

    assert without.status_code == 400
    assert f"{done.capitalize()}: m-1." in answer.content.decode()
    assert status_of(store) == status
    entry = audited().get()
    assert (entry.name, entry.said) == ("m-1", f"{done}: customer called")
    assert str(entry.object_id) in url
    assert done in html_of(operator, f"{url}history/")


@pytest.mark.parametrize(
    ("before", "what", "status", "title"),
    [
        ({"status": "dlq_resolved", "resolution": "discarded"}, "reopen", "dlq_manual", "Reopened"),
        ({"status": "dlq_resolved", "resolution": "resolved_by_hand"}, "reopen", "dlq_manual", "Reopened"),
        ({"status": "dlq_manual", "strategy": "immediate"}, "resume", "dlq_pending", "Automatic replays resumed"),
    ],
)
def test_a_move_is_undone(
    store: Database[dict[str, Any]], operator: Client, before: dict[str, Any], what: str, status: str, title: str
) -> None:
    url = put(store, **before)

    offered = html_of(operator, f"{url}change/")
    asked = html_of(operator, f"{url}{what}/")
    without = operator.post(f"{url}{what}/", {})
    shown = operator.post(f"{url}{what}/", {"reason": "wrong letter"}, follow=True).content.decode()

    assert f'href="{url}{what}/"' in offered
    assert "What it means" in asked
    assert without.status_code == 400
    assert title in shown
    assert status_of(store) == status
    assert audited().get().why == "wrong letter"


@pytest.mark.parametrize(
    "before",
    [
        {"status": "dlq_resolved", "resolution": "replayed"},
        {"status": "dlq_pending"},
        {"status": "dlq_manual", "strategy": "manual"},
    ],
)
def test_nothing_is_offered_where_nothing_can_be_undone(
    store: Database[dict[str, Any]], operator: Client, before: dict[str, Any]
) -> None:
    shown = html_of(operator, f"{put(store, **before)}change/")

    assert "/reopen/" not in shown
    assert "/resume/" not in shown


def test_a_move_that_the_status_does_not_allow_is_said(store: Database[dict[str, Any]], operator: Client) -> None:
    url = put(store, status="dlq_resolved", resolution="replayed")

    answer = operator.post(f"{url}discard/", {"reason": "x"}, follow=True)

    assert "m-1 was resolved by a replay that succeeded: it cannot be discarded." in answer.content.decode()
    assert not audited().exists()


@pytest.mark.parametrize("what", ["replay/", "edit/", "note/", "reveal/", "resolve/", "discard/", "set-aside/"])
def test_nobody_acts_without_the_permission(
    store: Database[dict[str, Any]], viewer: Client, operator: Client, what: str
) -> None:
    url = put(store)
    fields = {"reason": "x", "text": "x", "payload": "{}", "step": "send"}

    assert viewer.post(f"{url}{what}", fields).status_code == 403
    assert Client().post(f"{url}{what}", fields).status_code == 302
    if what == "reveal/":
        assert operator.post(f"{url}{what}", fields).status_code == 403
    assert status_of(store) == "dlq_pending"
    assert viewer.post(f"{url}change/", fields).status_code == 403


def test_a_form_from_elsewhere_is_refused(store: Database[dict[str, Any]]) -> None:
    url = put(store)
    client = Client(enforce_csrf_checks=True)
    client.force_login(member("operator"), backend="django.contrib.auth.backends.ModelBackend")

    for what in ("replay/", "resolve/", "note/", "edit/"):
        assert client.post(f"{url}{what}", {"reason": "x", "text": "x"}).status_code == 403
    assert client.post(f"{LIST}many/discard/", {"count": "1", "reason": "x"}).status_code == 403
    assert client.post(LIST, {"action": "discard"}).status_code == 403


def test_a_replay_and_its_outcome(store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake) -> None:
    url = put(store)

    answer = operator.post(f"{url}replay/", {"reason": "gateway is back"}, follow=True)
    html = answer.content.decode()

    assert "Replaying m-1." in html
    assert "A replay is in progress: wait for its outcome." in html
    order = intake.forwarded[0]
    assert (order.message_id, order.run_body) == ("m-1", None)
    assert audited().get().said == f"replay {order.replay_id}: gateway is back"
    dead_letters.record_outcomes([intake.end("m-1", done=False)], [])  # type: ignore[list-item]
    assert "operator replayed it: failed the same" in html_of(operator, f"{url}change/")


def test_a_page_that_is_sent_twice_makes_one_replay(
    store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake
) -> None:
    url = put(store)
    replay_id = re.search(r'name="replay_id" value="(r-[0-9a-f]{32})"', html_of(operator, f"{url}replay/"))
    assert replay_id is not None

    for _ in range(2):
        assert operator.post(f"{url}replay/", {"replay_id": replay_id[1]}).status_code == 302
    other = operator.post(f"{url}replay/", {"replay_id": "r-1; drop"}, follow=True)

    assert [order.replay_id for order in intake.forwarded] == [replay_id[1]]
    assert "m-1 is being replayed for operator since" in other.content.decode()


def test_a_resolved_letter_is_replayed_only_if_one_insists(
    store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake
) -> None:
    url = put(store, status="dlq_resolved", resolution="discarded")

    assert "Replay it although it is resolved" in operator.post(f"{url}replay/", {}).content.decode()
    assert intake.forwarded == []
    assert operator.post(f"{url}replay/", {"force": "on"}).status_code == 302
    assert len(intake.forwarded) == 1


def test_edit_and_replay(store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake) -> None:
    url = put(store, {"route": "eu-1", "amount": 1.5, "card": {"token": "tok-1", "brand": "visa"}})

    editor = html_of(operator, f"{url}edit/")
    text = '{"route": "eu-2", "amount": 1.50, "card": {"token": "•••", "brand": "visa"}}'
    preview = operator.post(f"{url}edit/", {"payload": text, "reason": "other route", "step": "preview"})
    again = operator.post(f"{url}edit/", {"payload": text, "step": "edit"})

    assert "tok-1" not in editor + preview.content.decode()
    assert intake.forwarded == []
    assert '<div class="add"><bdi>+  &quot;route&quot;: &quot;eu-2&quot;,</bdi></div>' in preview.content.decode()
    assert "eu-2" in again.content.decode()

    sent = operator.post(f"{url}edit/", {"payload": text, "reason": "other route", "step": "send"})

    assert sent.status_code == 302
    assert intake.forwarded[0].run_body == (
        b'{"route": "eu-2", "amount": 1.50, "card": {"token": "tok-1", "brand": "visa"}}'
    )
    html = html_of(operator, f"{url}change/")
    assert "version 1" in html
    assert "tok-1" not in html
    assert "edited and replayed" in audited().get().said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1,}', "line 1"),
        ("", "line 1"),
        ('{"token": "•••"}', "payload.token reads •••"),
        ('{"a": NaN}', "NaN is not JSON"),
    ],
)
def test_a_payload_that_cannot_run_is_refused_at_its_field(
    store: Database[dict[str, Any]], operator: Client, intake: MemoryIntake, text: str, why: str
) -> None:
    url = put(store, {"route": "eu-1"})

    for step in ("preview", "send"):
        answer = operator.post(f"{url}edit/", {"payload": text, "step": step})
        assert answer.status_code == 400
        assert why in answer.content.decode().split('id="payload-error"')[1][:400]
    assert intake.forwarded == []
    assert status_of(store) == "dlq_pending"


def test_notes(store: Database[dict[str, Any]], operator: Client) -> None:
    url = put(store)

    empty = operator.post(f"{url}note/", {"text": "  "})
    long = operator.post(f"{url}note/", {"text": "x" * 4001})
    answer = operator.post(f"{url}note/", {"text": "Customer was not charged.\r\nSee the log."}, follow=True)

    assert (empty.status_code, long.status_code) == (400, 400)
    assert "Enter a note" in empty.content.decode()
    assert "Customer was not charged." in answer.content.decode()
    assert store.dead_letters.find_one()["notes"][0]["by"] == "user:operator"  # type: ignore[index]
    assert audited().get().said.startswith("note: Customer")
    assert operator.get(f"{url}note/").status_code == 405


def test_secrets_are_revealed_to_administrators_for_a_reason(
    store: Database[dict[str, Any]], administrator: Client
) -> None:
    url = put(store, {"token": "tok-1"})

    masked = html_of(administrator, f"{url}change/")
    without = administrator.post(f"{url}reveal/", {"reason": ""})
    shown = administrator.post(f"{url}reveal/", {"reason": "case 2291"})

    assert "tok-1" not in masked + without.content.decode()
    assert '<span class="masked">masked</span>' in masked
    assert "tok-1" in shown.content.decode()
    assert "no-store" in shown["Cache-Control"]
    assert audited().get().said == "reveal: case 2291"
    assert store.dead_letters.find_one()["history"][-1]["what"] == "reveal"  # type: ignore[index]
    assert "tok-1" not in administrator.get(f"{url}payload/").content.decode()


def test_secrets_of_a_text_are_masked_everywhere(store: Database[dict[str, Any]], operator: Client) -> None:
    url = put(
        store,
        errorReason="password=hunter2",
        errorStack="password: hunter2",
        notes=[{"at": NOW, "by": "a", "text": "token=hunter2"}],
        history=[{"at": NOW, "who": "a", "what": "discard", "why": "apikey=hunter2"}],
        attempts=[{"number": 1, "startedAt": NOW, "outcome": "failed", "errorReason": "secret=hunter2"}],
        versions=[{"version": 1, "diff": '+ "password": "hunter2"', "why": "pin", "payload": "{}"}],
        formerMessages=[{"originalMessage": '{"password": "hunter2"}', "until": NOW}],
    )

    assert "hunter2" not in html_of(operator, f"{url}change/")


@pytest.mark.parametrize(("keys", "is_long"), [(5, False), (500, True)])
def test_a_long_payload_scrolls_by_itself(
    store: Database[dict[str, Any]], viewer: Client, keys: int, is_long: bool
) -> None:
    url = put(store, {f"key{n}": n for n in range(keys)})

    html = html_of(viewer, f"{url}change/")

    assert ('<div class="tree long" tabindex="0" role="group" aria-label="Payload">' in html) is is_long
