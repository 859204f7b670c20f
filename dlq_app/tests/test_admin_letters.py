"""The list of letters in the console: filters, orders, pages, actions, and what happens without a store."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database
from pytest_django import Settings

from audit_app.models import AuditLine
from dlq_app.admin.letters import filters
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.store.repository import Letters
from dlq_app.testing import a_document
from dlqsite.tests.people import audited

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/deadletter/"
NOW = datetime.now(UTC)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e{{ 7*7 }}"


@pytest.fixture(autouse=True)
def _empty(store: Database[dict[str, Any]], redis_client: Any) -> None:
    """Each test starts with empty stores."""
    filters.kept.forget()


def put(store: Database[dict[str, Any]], count: int = 1, prefix: str = "m", **changes: Any) -> list[str]:
    documents = [
        a_document(
            f"{prefix}-{n:04}",
            **{"lastFailedAt": NOW - timedelta(minutes=n + 1), "updatedAt": NOW - timedelta(minutes=1), **changes},
        )
        for n in range(count)
    ]
    return [str(one) for one in store.dead_letters.insert_many(documents).inserted_ids]


def page(client: Client, query: str = "", status: int = 200) -> str:
    answer = client.get(f"{LIST}{query}")
    assert answer.status_code == status, answer
    return answer.content.decode()


def shown(html: str) -> list[str]:
    return re.findall(r'class="mono"><bdi>([^<]+)</bdi></a>', html)


# --- looking ---


def test_the_list_opens_with_the_newest_failure(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 3)

    html = page(viewer)

    assert shown(html) == ["m-0000", "m-0001", "m-0002"]
    assert "3 match" in html
    assert "TIMEOUT_ERROR" in html


def test_an_address_in_wire_names_narrows_the_list(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 1, "a", errorType="DATABASE_ERROR", status="dlq_manual")
    put(store, 1, "b", status="dlq_failed")
    put(store, 1, "c", status="dlq_pending")

    html = page(viewer, "?errorType=TIMEOUT_ERROR&status=dlq_failed&status=dlq_manual")

    assert shown(html) == ["b-0000"]
    assert re.findall(r"Remove filter ([^\"]+)\"", html) == [
        "Status: Failed",
        "Status: Needs a decision",
        "Error: TIMEOUT_ERROR",
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=order.created", ["other"]),
        ("source=till", ["other"]),
        ("priority=high", ["other"]),
        ("tag=us", ["other"]),
        ("errorKind=permanent", ["other"]),
        ("fingerprint=0123456789abcdef", ["other"]),
        ("q=other", ["other"]),
        ("q=strange", ["other"]),
        ("age=7d-", ["other"]),
        ("age=15m", ["usual"]),
        ("to=2026-01-01T00:00:00Z", ["other"]),
        ("from=2025-01-01T00:00:00Z&to=2026-01-01T00:00:00.000Z", ["other"]),
        ("from=2026-01-02T00:00:00Z", ["usual"]),
    ],
)
def test_every_filter(store: Database[dict[str, Any]], viewer: Client, query: str, expected: list[str]) -> None:
    put(store, 1, "usual")
    put(
        store,
        1,
        "other",
        type="order.created",
        errorKind="permanent",
        fingerprint="0123456789abcdef",
        searchWords=["strange"],
        lastFailedAt=datetime(2025, 6, 1, tzinfo=UTC),
        metadata={"source": "till", "priority": "high", "tags": ["us"]},
    )

    assert shown(page(viewer, f"?{query}")) == [f"{name}-0000" for name in expected]


def test_open_letters_are_one_choice(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 1, "open")
    put(store, 1, "done", status="dlq_resolved", resolution="discarded")

    query = "?status=dlq_manual&status=dlq_pending&status=dlq_failed&status=dlq_processing"
    html = page(viewer, query)

    assert shown(html) == ["open-0000"]
    assert "Remove filter Status: Open" in html


def test_choices_carry_counts(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 2)
    put(store, 1, "d", errorType="DATABASE_ERROR")

    html = page(viewer)

    assert re.search(r'DATABASE_ERROR</bdi><span class="n">1</span>', html)
    assert re.search(r'TIMEOUT_ERROR</bdi><span class="n">2</span>', html)


@pytest.mark.parametrize(
    "query",
    [
        "unknown=1",
        "status__exact=dlq_pending",
        "messageId__regex=.*",
        "status=nonsense",
        "fingerprint=xyz",
        "from=yesterday",
        "age=1y",
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "p=999",
        "status=",
    ],
)
def test_a_wrong_address_leads_to_the_plain_list(store: Database[dict[str, Any]], viewer: Client, query: str) -> None:
    put(store, 45)

    answer = viewer.get(f"{LIST}?{query}")

    if query == "status=":
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer["Location"]) == (302, f"{LIST}?e=1")
    assert "Unknown filter or sort order" in page(viewer, "?e=1")
    assert viewer.get(f"{LIST}?e=1&{query}")["Location"] == f"{LIST}?e=1"


@pytest.mark.parametrize(
    ("order", "first"),
    [("1", "a"), ("-1", "c"), ("2", "b"), ("3", "c"), ("4", "a"), ("6", "c"), ("-6", "a"), ("5", "a")],
)
def test_columns_are_sorted_by_orders_that_an_index_serves(
    store: Database[dict[str, Any]], viewer: Client, order: str, first: str
) -> None:
    for n, (name, status, error, kind) in enumerate(
        [
            ("a", "dlq_pending", "TIMEOUT_ERROR", "a.x"),
            ("b", "dlq_failed", "NETWORK_ERROR", "b.x"),
            ("c", "dlq_manual", "DATABASE_ERROR", "c.x"),
        ]
    ):
        at = NOW - timedelta(hours=n)
        put(store, 1, name, status=status, errorType=error, type=kind, lastFailedAt=at)

    assert shown(page(viewer, f"?o={order}"))[0] == f"{first}-0000"


def test_pages(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 45)

    assert len(shown(page(viewer))) == 20
    assert shown(page(viewer, "?p=3")) == [f"m-{n:04}" for n in range(40, 45)]
    assert len(shown(page(viewer, "?all="))) == 45


def test_beyond_the_cap_the_list_says_how_to_go_on(
    store: Database[dict[str, Any]], viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.reading.MAX_COUNTED", 40)
    ids = put(store, 45)

    html, last = page(viewer), page(viewer, "?p=2")

    assert "40+ match" in html
    assert "narrow the filter" in html
    assert "Older letters" not in html
    onward = re.search(r'href="([^"]+)">Older letters', last)
    assert onward is not None
    assert shown(page(viewer, onward[1].replace("&amp;", "&"))) == [f"m-{n:04}" for n in range(40, 45)]
    assert len(ids) == 45


def test_a_page_asks_mongodb_few_questions_and_none_for_each_row(
    store: Database[dict[str, Any]], viewer: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    put(store, 30)
    asked: list[str] = []
    for name in ("page", "count", "exact_count", "find", "get"):
        real = getattr(Letters, name)

        def counting(self: Any, *args: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            asked.append(_name)
            return _real(self, *args, **options)

        monkeypatch.setattr(Letters, name, counting)

    with django_assert_max_num_queries(8):
        page(viewer)

    assert asked.count("page") == 1
    assert asked.count("count") <= 2  # the list's, and the tab's
    assert {"exact_count", "find", "get"}.isdisjoint(asked)


def test_hostile_text_is_only_text(store: Database[dict[str, Any]], operator: Client) -> None:
    put(store, 1, errorReason=HOSTILE, type=HOSTILE, errorType=HOSTILE, messageId=HOSTILE)
    store.dead_letters.update_one(
        {}, {"$set": {"metadata": {"source": HOSTILE, "priority": HOSTILE, "tags": [HOSTILE]}}}
    )

    html = page(operator)

    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "{{ 7*7 }}" in html


def test_secrets_in_error_texts_are_masked(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 1, errorReason="login failed: password=hunter2")

    assert "hunter2" not in page(viewer)


# --- empty, wrong, away ---


def test_no_letters_at_all(viewer: Client) -> None:
    html = page(viewer)

    assert "No dead letters" in html
    assert "send_messages" in html


def test_no_letter_matches(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 2)

    html = page(viewer, "?errorType=DATABASE_ERROR&age=15m")

    assert "No letter matches these filters" in html
    assert "2 letters are open" in html
    assert "Remove age" in html


def test_a_search_for_nothing_says_so(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 1)

    assert "must contain a word" in page(viewer, "?q=%21%21")
    assert "at most 100" in page(viewer, f"?q={'x' * 101}")


def test_the_wire_name_of_a_search_fills_the_box(viewer: Client) -> None:
    answer = viewer.get(f"{LIST}?search=gateway&status=dlq_pending")

    assert answer["Location"] == f"{LIST}?status=dlq_pending&q=gateway"


@pytest.mark.parametrize(("error", "words"), [(StoreUnavailable(), "is not responding"), (QueryTooSlow(), "too long")])
def test_a_store_that_is_away_is_a_page_with_503(
    viewer: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def unavailable(*args: Any, **options: Any) -> None:
        raise error

    for name in ("page", "count", "exact_count", "find"):
        monkeypatch.setattr(Letters, name, unavailable)

    answer = viewer.get(LIST)

    assert answer.status_code == 503
    assert words in answer.content.decode()
    assert answer["Retry-After"] == "5"


def test_figures_that_fail_leave_the_list_without_counts(
    store: Database[dict[str, Any]], viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)

    asked = []

    def slow() -> None:
        asked.append(1)
        raise QueryTooSlow()

    monkeypatch.setattr("dlq_app.services.dead_letters.stats", slow)

    assert shown(page(viewer)) == ["m-0000"]
    assert shown(page(viewer)) == ["m-0000"]
    assert len(asked) == 1, "the second page waited as well"


# --- who may ---


def test_strangers_and_staff_without_a_role_see_nothing(store: Database[dict[str, Any]]) -> None:
    from dlqsite.tests.people import staff

    assert Client().get(LIST).status_code == 302
    assert staff("nobody").get(LIST).status_code == 403
    for path in ("count/", "export/", "many/resolve/"):
        assert staff(f"nobody-{path[:2]}").get(f"{LIST}{path}").status_code == 403


def test_a_viewer_sees_actions_locked_with_the_reason(store: Database[dict[str, Any]], viewer: Client) -> None:
    ids = put(store, 1)

    html = page(viewer)

    assert html.count("Needs the operator role.") >= 4
    assert 'value="export"' in html
    for action in ("replay", "resolve", "discard", "set_aside"):
        assert f'value="{action}"' not in html
        assert viewer.post(LIST, {"action": action, "_selected_action": ids}).status_code == 403
    for what in ("resolve", "discard", "set-aside"):
        assert viewer.get(f"{LIST}many/{what}/?id={ids[0]}").status_code == 403
        assert viewer.post(f"{LIST}many/{what}/?id={ids[0]}", {"count": "1", "reason": "x"}).status_code == 403
    assert store.dead_letters.count_documents({"status": "dlq_pending"}) == 1


# --- actions ---


def test_selected_letters_go_to_a_confirmation(store: Database[dict[str, Any]], operator: Client) -> None:
    ids = put(store, 3)

    resolve = operator.post(LIST, {"action": "resolve", "_selected_action": ids[:2], "select_across": "0"})
    replay = operator.post(LIST, {"action": "replay", "_selected_action": ids[:1]})
    export = operator.post(f"{LIST}?status=dlq_pending", {"action": "export", "_selected_action": ids[:1]})

    assert resolve["Location"] == f"{LIST}many/resolve/?id={ids[0]}&id={ids[1]}"
    assert replay["Location"] == f"/admin/dlq_app/replaybatch/add/?id={ids[0]}"
    assert export["Location"] == f"{LIST}export/?id={ids[0]}"


def test_all_that_match_go_as_criteria(store: Database[dict[str, Any]], operator: Client) -> None:
    ids = put(store, 3)
    chosen = {"_selected_action": ids[:1], "select_across": "1"}

    replay = operator.post(f"{LIST}?errorType=TIMEOUT_ERROR&q=gateway", {"action": "replay", **chosen})
    everything = operator.post(LIST, {"action": "replay", **chosen})
    aside = operator.post(f"{LIST}?status=dlq_pending&status=dlq_failed", {"action": "set_aside", **chosen})

    assert replay["Location"] == "/admin/dlq_app/replaybatch/add/?errorType=TIMEOUT_ERROR&search=gateway"
    assert everything["Location"] == "/admin/dlq_app/replaybatch/add/?all=1"
    assert aside["Location"] == f"{LIST}many/set-aside/?status=dlq_pending&status=dlq_failed"


def test_an_action_without_a_selection_says_so(store: Database[dict[str, Any]], operator: Client) -> None:
    put(store, 1)

    answer = operator.post(LIST, {"action": "discard"}, follow=True)

    assert "Select letters first" in answer.content.decode()


def confirm(client: Client, url: str, **fields: str) -> Any:
    """Look at the confirmation and send what it holds."""
    html = client.get(url).content.decode()
    hidden = dict(re.findall(r'name="(count|as_of)" value="([^"]*)"', html))
    return client.post(url, {**hidden, "reason": "key was renewed", **fields}, follow=True)


def test_a_list_offers_to_undo_what_its_letters_allow(store: Database[dict[str, Any]], operator: Client) -> None:
    ids = put(store, 2, status="dlq_resolved", resolution="discarded")
    put(store, 1, "done", status="dlq_resolved", resolution="replayed")
    put(store, 1, "aside", status="dlq_manual")
    put(store, 1, "waits")

    offered = {
        status: re.findall(r'name="action" value="(resume|reopen)"', page(operator, f"?status={status}"))
        for status in ("dlq_resolved", "dlq_manual", "dlq_pending")
    }
    chosen = operator.post(LIST, {"action": "reopen", "_selected_action": ids})
    url = f"{LIST}many/reopen/?status=dlq_resolved"
    before = operator.get(url).content.decode()
    after = confirm(operator, url)

    assert offered == {"dlq_resolved": ["reopen"], "dlq_manual": ["resume"], "dlq_pending": []}
    assert chosen["Location"] == f"{LIST}many/reopen/?id={ids[0]}&id={ids[1]}"
    assert "open, or replayed" in before
    assert "2 dead letters reopened." in after.content.decode()
    assert store.dead_letters.count_documents({"status": "dlq_manual"}) == 3
    assert audited().get().said == "reopened 2: key was renewed"


@pytest.mark.parametrize(
    ("what", "status", "done"),
    [
        ("resolve", "dlq_resolved", "resolved"),
        ("discard", "dlq_resolved", "discarded"),
        ("set-aside", "dlq_manual", "set aside"),
    ],
)
def test_a_confirmed_move_moves_what_it_showed(
    store: Database[dict[str, Any]], operator: Client, what: str, status: str, done: str
) -> None:
    put(store, 12)
    put(store, 1, "other", errorType="DATABASE_ERROR")
    url = f"{LIST}many/{what}/?errorType=TIMEOUT_ERROR"

    before = operator.get(url).content.decode()
    after = confirm(operator, url)

    assert "12<small" in before
    assert "m-0000" in before
    assert f"12 dead letters {done}." in after.content.decode()
    assert store.dead_letters.count_documents({"status": status, "errorType": "TIMEOUT_ERROR"}) == 12
    assert store.dead_letters.count_documents({"status": "dlq_pending"}) == 1
    entry = audited().get()
    assert (entry.who, entry.name) == ("user:operator", "12 dead letters: errorType=TIMEOUT_ERROR")
    assert entry.said == f"{done} 12: key was renewed"
    assert store.dead_letters.find_one({"messageId": "m-0003"})["history"][-1]["who"] == "user:operator"  # type: ignore[index]


def test_a_letter_that_arrives_after_the_count_is_not_taken_along(
    store: Database[dict[str, Any]], operator: Client
) -> None:
    put(store, 2)
    url = f"{LIST}many/discard/"
    html = operator.get(url).content.decode()
    hidden = dict(re.findall(r'name="(count|as_of)" value="([^"]*)"', html))
    put(store, 1, "late", updatedAt=datetime.now(UTC) + timedelta(seconds=1))
    store.dead_letters.update_one(
        {"messageId": "m-0001"}, {"$set": {"updatedAt": datetime.now(UTC) + timedelta(seconds=1)}}
    )

    answer = operator.post(url, {**hidden, "reason": "tidy"}, follow=True)

    assert store.dead_letters.count_documents({"status": "dlq_resolved"}) == 1
    text = answer.content.decode()
    assert "1 dead letter discarded." in text
    assert "1 dead letter changed in the meantime and was skipped." in text


def test_a_reason_and_a_look_are_needed(store: Database[dict[str, Any]], operator: Client) -> None:
    put(store, 2)
    url = f"{LIST}many/resolve/"

    without_reason = confirm(operator, url, reason="  ")
    too_long = confirm(operator, url, reason="x" * 2001)
    unseen = operator.post(url, {"reason": "because"})

    assert [without_reason.status_code, too_long.status_code, unseen.status_code] == [400, 400, 400]
    assert "A reason is required" in without_reason.content.decode()
    assert store.dead_letters.count_documents({"status": "dlq_pending"}) == 2
    assert not audited().exists()


def test_more_than_the_approval_size_needs_an_administrator(
    store: Database[dict[str, Any]], operator: Client, administrator: Client, settings: Settings
) -> None:
    settings.DLQ_APPROVAL_SIZE = 3
    put(store, 4)
    url = f"{LIST}many/discard/"

    assert "need the administrator role" in operator.get(url).content.decode()
    assert confirm(operator, url).status_code == 403
    assert store.dead_letters.count_documents({"status": "dlq_pending"}) == 4
    assert confirm(administrator, url).status_code == 200
    assert store.dead_letters.count_documents({"status": "dlq_resolved"}) == 4


def test_more_than_one_request_can_do_are_refused_in_words(
    store: Database[dict[str, Any]], administrator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.services.bulk.MAX_LETTERS", 3)
    put(store, 4)

    assert "At most 3 letters" in administrator.get(f"{LIST}many/discard/").content.decode()
    assert confirm(administrator, f"{LIST}many/discard/").status_code == 403


def test_nothing_to_move_is_said(store: Database[dict[str, Any]], operator: Client) -> None:
    put(store, 1, status="dlq_resolved", resolution="replayed")

    html = operator.get(f"{LIST}many/resolve/").content.decode()

    assert "None of these letters can be changed this way." in html
    assert operator.get(f"{LIST}many/nonsense/").status_code == 404
    assert operator.get(f"{LIST}many/resolve/?bad=1")["Location"] == f"{LIST}?e=1"


def test_all_that_match_are_counted_exactly(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 3)

    answer = viewer.get(f"{LIST}count/?errorType=TIMEOUT_ERROR")

    assert answer.json()["count"] == 3
    assert re.fullmatch(r"\d\d:\d\d:\d\d", answer.json()["at"])
    assert viewer.get(f"{LIST}count/?bad=1").status_code == 400


def test_export_leads_to_the_files(store: Database[dict[str, Any]], viewer: Client) -> None:
    ids = put(store, 2, body=b"{}")

    html = viewer.get(f"{LIST}export/?errorType=TIMEOUT_ERROR").content.decode()
    named = viewer.get(f"{LIST}export/?format=jsonl&id={ids[1]}&id=nonsense")

    assert "/api/dlq/export?format=jsonl&amp;errorType=TIMEOUT_ERROR" in html
    assert "/api/dlq/export?format=csv&amp;errorType=TIMEOUT_ERROR" in html
    (line, end) = map(json.loads, named.content.splitlines())
    assert line["messageId"] == "m-0001"
    assert end == {"end": {"count": 1, "complete": True, "missing": 1}}
    assert "attachment" in named["Content-Disposition"]


# --- looking one up ---


def test_a_message_id_leads_to_its_letter(store: Database[dict[str, Any]], viewer: Client) -> None:
    ids = put(store, 1)

    assert viewer.get(f"{LIST}?message=m-0000")["Location"] == f"{LIST}{ids[0]}/change/"
    missing = viewer.get(f"{LIST}?message=<b>x")
    assert missing.status_code == 404
    assert "&lt;b&gt;x" in missing.content.decode()


# --- what failed since the list was drawn ---


def newer_url(html: str) -> str:
    found = re.search(r'id="letters-newer"[^>]* hx-get="([^"]+)"', html)
    assert found, "the list does not ask"
    return unescape(found[1])


def test_the_list_tells_how_many_failed_since(store: Database[dict[str, Any]], viewer: Client) -> None:
    put(store, 2, errorType="TIMEOUT_ERROR")
    url = newer_url(page(viewer, "?errorType=TIMEOUT_ERROR"))
    none = viewer.get(url)
    assert "show" not in none.content.decode()
    assert viewer.get(url, headers={"If-None-Match": none["ETag"]}).status_code == 304

    put(store, 3, "late", errorType="TIMEOUT_ERROR", lastFailedAt=NOW)
    put(store, 1, "other", errorType="DATABASE_ERROR", lastFailedAt=NOW)

    some = viewer.get(url, headers={"If-None-Match": none["ETag"]})
    assert "3 newer failures: show them" in some.content.decode()
    assert newer_url(some.content.decode()) == url, "it goes on asking the same"


def test_a_list_without_letters_tells_of_the_first(store: Database[dict[str, Any]], viewer: Client) -> None:
    url = newer_url(page(viewer))

    put(store, 1, lastFailedAt=datetime.now(UTC) + timedelta(seconds=5))

    assert "1 newer failure: show it" in viewer.get(url).content.decode()


@pytest.mark.parametrize("query", ["?o=1", "?p=2", "?to=2026-01-01T00:00:00Z"])
def test_where_newer_ones_would_not_show_nobody_asks(
    store: Database[dict[str, Any]], viewer: Client, query: str
) -> None:
    put(store, 25)

    assert 'id="letters-newer"' not in viewer.get(f"{LIST}{query}", follow=True).content.decode()


def test_counting_what_is_newer_gives_up_before_it_costs(
    store: Database[dict[str, Any]], viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)
    url = newer_url(page(viewer))

    def slow(*_: Any, **__: Any) -> None:
        raise QueryTooSlow

    monkeypatch.setattr(Letters, "count", slow)

    assert viewer.get(url).status_code == 204


def test_secrets_of_tags_and_sources_are_masked_on_lists_and_letters(
    store: Database[dict[str, Any]], viewer: Client
) -> None:
    metadata = {"source": "https://u:hunter2@shop", "tags": ["pin=8842", "eu"], "priority": "normal", "client": "key:a"}
    (letter_id,) = put(store, metadata=metadata)

    listed, whole = page(viewer), viewer.get(f"{LIST}{letter_id}/change/").content.decode()

    for html in (listed, whole):
        assert "https://•••@shop" in html
        assert "pin=•••" in html
        assert "hunter2" not in html
        assert "8842" not in html
    assert viewer.get("/api/dlq/stats").json()["data"]["bySource"] == {"https://•••@shop": 1}


def test_old_lines_of_the_audit_log_are_masked(store: Database[dict[str, Any]], administrator: Client) -> None:
    (letter_id,) = put(store)
    AuditLine.objects.create(
        who="user:ada",
        what="note",
        kind="deadletter",
        object_id=letter_id,
        name="m-0000",
        why="the password is hunter2",
    )

    for url in ("/admin/audit_app/auditline/", f"{LIST}{letter_id}/history/"):
        html = administrator.get(url).content.decode()
        assert "the password is •••" in html
        assert "hunter2" not in html
