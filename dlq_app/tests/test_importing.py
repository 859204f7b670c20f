"""Letters from a file: byte for byte what was exported, judged line by line, and never over one that is there."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.rest import transfer
from dlq_app.services import dead_letters, importing
from dlq_app.services.exporting import Export
from dlq_app.services.importing import Summary
from dlq_app.services.replaying import Replayed, Replayer, ReplayRequest
from dlq_app.store import repository
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON, MemoryIntake, MemoryRecord, a_death, an_attempt
from dlqsite.tests.people import audited, member, signed_in, staff, with_key

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


def exported(*, reveal: bool = True) -> bytes:
    return b"".join(Export(LetterCriteria(), form="jsonl", reveal=reveal).chunks())


def bring_in(*lines: object, raw: bytes = b"") -> Summary:
    text = raw or "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
    return importing.import_lines(io.BytesIO(text).read, actor="command:test")


def unmarked(export: bytes) -> bytes:
    """The same export without what an import writes down of itself."""
    return re.sub(rb'"imported":\{[^}]*\}', b'"imported":null', export.replace(b',"imported":true', b""))


def a_line(message_id: str = "m-1", **changes: Any) -> dict[str, Any]:
    """The least that a letter can be."""
    return {
        "messageId": message_id,
        "type": "payment.capture",
        "status": "dlq_manual",
        "errorType": "TIMEOUT_ERROR",
        "errorKind": "transient",
        "lastFailedAt": "2026-11-24T12:00:00.000Z",
        "originalMessage": '{"orderId": 1}',
        **changes,
    }


def found(letters: Letters, ref: str = "m-1") -> DeadLetter:
    letter = letters.find(ref)
    assert letter is not None
    return letter


@pytest.fixture
def full(intake: MemoryIntake, store: Database[dict[str, Any]]) -> None:
    """Letters with everything a letter can have."""
    dead_letters.record_outcomes(
        [
            a_death("m-1", body='{"ä":  "ü", "n": 1.10, "token": "tok_1"}'.encode()),
            a_death("m-2", error_kind="permanent", error_type="VALIDATION_ERROR"),
            a_death(
                "m-3", error_reason="日本\u2028\u0001 'quoted' \\ text", tags=(), attempts=[an_attempt(worker=None)]
            ),
            a_death("m-4", error_reason="日本 text", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"),
            a_death("m-5"),
        ],
        [],
    )
    for ref, payload in (("m-1", None), ("m-2", b'{"orderId": 2, "edited": true}'), ("m-5", None)):
        assert isinstance(dead_letters.replay(ref, actor="user:ann", reason="it may work", payload=payload), Replayed)
        outcome = intake.end(ref, done=ref == "m-1")
        dead_letters.record_outcomes(*([], [outcome]) if ref == "m-1" else ([outcome], []))  # type: ignore[arg-type]
    dead_letters.record_outcomes([a_death("m-5", epoch=5000, body=b'{"another": "message"}')], [])
    letters = repository.letters()
    letter = letters.find("m-3")
    assert letter is not None
    request = ReplayRequest(replay_id="r-b", kind="batch", by="user:ann", batch_id="b-1")
    assert isinstance(Replayer(letters, intake).replay(letter, request), Replayed)
    dead_letters.record_outcomes([intake.end("m-3", done=False)], [])  # type: ignore[list-item]
    dead_letters.add_note("m-2", actor="user:ann", text="asked the shop\nthey know")
    dead_letters.discard("m-4", actor="user:bob", reason="a test order")
    for record in intake.records.values():
        record.state = record.state.removesuffix("_pending")


def test_what_was_exported_comes_back_byte_for_byte(
    full: None, letters: Letters, store: Database[dict[str, Any]]
) -> None:
    before = exported()
    stored = {document["messageId"]: document for document in store["dead_letters"].find()}
    store["dead_letters"].delete_many({})

    summary = bring_in(raw=before)

    assert str(summary) == "5 imported, 0 unchanged, 0 rejected"
    assert summary.complete is True
    after = exported()
    assert after != before
    assert unmarked(after) == before
    local = {"acctDay", "skippedBy", "imported"}
    for document in store["dead_letters"].find():
        for name in ("history", "replayAttempts", "versions", "notes"):
            assert all(entry.pop("imported") is True for entry in document[name])
        former = stored[document["messageId"]]
        differ = {name for name in {*document, *former} - local if document.get(name) != former.get(name)}
        assert differ == set(), document["messageId"]
    assert json.loads(before.splitlines()[0])["resolution"] == "replayed"
    assert found(letters, "m-5").former_messages
    assert found(letters, "m-2").versions[0]["version"] == 1
    # Once more: what came marked is marked once, and the mark of the letter is that of the last import.
    store["dead_letters"].delete_many({})
    assert str(bring_in(raw=after)) == "5 imported, 0 unchanged, 0 rejected"
    assert unmarked(exported()) == before
    assert exported().count(b',"imported":true') == after.count(b',"imported":true') > 0


FORGED: dict[str, Any] = {
    "history": [{"at": "2026-11-24T12:00:00.000Z", "who": "user:operator1", "what": "discard", "why": "forged"}],
    "notes": [{"at": "2026-11-24T12:00:00.000Z", "by": "user:operator1", "text": "forged", "imported": False}],
    "replayAttempts": [{"at": "2026-11-24T12:00:00.000Z", "by": "user:operator1", "kind": "operator", "epoch": 5}],
    "versions": [{"at": "2026-11-24T12:00:00.000Z", "by": "user:operator1", "version": 1, "payload": "{}"}],
}


def test_names_that_a_file_claims_cannot_pass_for_ours(intake: MemoryIntake, letters: Letters, ada: Client) -> None:
    forged = {"by": "user:operator1", "at": "2026-11-24T12:00:00.000Z"}
    bring_in(a_line(**FORGED, imported=forged))

    letter = found(letters)
    assert letter.imported is not None
    assert letter.imported.by == "command:test"
    assert abs(datetime.now(UTC) - letter.imported.at) < timedelta(minutes=5)
    dead_letters.add_note("m-1", actor="user:operator1", text="real")
    dead_letters.discard("m-1", actor="user:operator1", reason="real")
    shown = ada.get("/api/dlq/m-1").json()["data"]
    assert shown["imported"]["by"] == "command:test"
    assert [entry.get("imported") for entry in shown["notes"]] == [True, None]
    assert [entry.get("imported") for entry in shown["history"]] == [True, None]
    assert [shown[name][0]["imported"] for name in ("replayAttempts", "versions")] == [True, True]


def test_the_page_of_a_letter_marks_what_was_imported(intake: MemoryIntake, letters: Letters) -> None:
    bring_in(a_line(**FORGED))
    dead_letters.add_note("m-1", actor="user:operator1", text="real")
    dead_letters.discard("m-1", actor="user:operator1", reason="real")

    viewer = signed_in(member("viewer"))
    html = viewer.get(f"/admin/dlq_app/deadletter/{found(letters).id}/change/").content.decode()

    assert "<dt>Imported</dt><dd>by <bdi>command:test</bdi>" in html
    notes, history = html.split('id="notes"')[1].split('id="history"')
    for part in (notes, history.split("</section>")[0]):
        real, forged = re.findall(r"<li>.*?</li>", part, re.S)
        assert ("forged" in forged, ">imported</span>" in forged) == (True, True)
        assert ("real" in real, ">imported</span>" in real) == (True, False)
    timeline = html.split('id="timeline"')[1].split("</section>")[0]
    replay = next(line for line in timeline.splitlines() if "replayed it" in line)
    assert ">imported</small>" in replay
    assert timeline.count(">imported</small>") == 2, "the replay and the discard of the file, not ours"
    assert ">imported</span>" in html.split('id="versions"')[1].split("</section>")[0]


def test_letters_without_the_mark_are_shown_as_they_are(
    full: None, ada: Client, store: Database[dict[str, Any]]
) -> None:
    store["dead_letters"].update_one({"messageId": "m-1"}, {"$set": {"imported": "by hand"}})

    for ref in ("m-1", "m-2"):
        shown = ada.get(f"/api/dlq/{ref}").json()["data"]
        assert shown["imported"] is None
        assert all("imported" not in entry for entry in shown["history"])


def test_the_same_file_twice_changes_nothing(full: None, letters: Letters, store: Database[dict[str, Any]]) -> None:
    before, stored = exported(), list(store["dead_letters"].find())

    assert str(bring_in(raw=before)) == "0 imported, 5 unchanged, 0 rejected"
    assert list(store["dead_letters"].find()) == stored
    again = bring_in(raw=before.replace(b'"TIMEOUT_ERROR"', b'"NETWORK_ERROR"') + before)
    assert (again.unchanged, again.complete) == (10, True)
    assert list(store["dead_letters"].find()) == stored


def test_an_imported_letter_is_found_replayed_and_resolved_like_any_other(
    full: None, intake: MemoryIntake, letters: Letters, store: Database[dict[str, Any]]
) -> None:
    before = exported()
    store["dead_letters"].delete_many({})
    intake.records.clear()
    bring_in(raw=before)

    assert [letter.message_id for letter in letters.each(LetterCriteria(search="日本"), _by_id())] == ["m-4"]
    assert isinstance(dead_letters.replay("m-2", actor="user:ann"), Replayed)
    assert intake.forwarded[-1].acct_day == ""
    dead_letters.record_outcomes([], [intake.end("m-2", done=True)])  # type: ignore[list-item]

    assert found(letters, "m-2").resolution == "replayed"


def _by_id() -> Any:
    from dlq_app.domain.paging import SORTS

    return SORTS["messageId"]


def test_a_file_in_which_something_is_hidden_brings_in_only_what_is_not(
    full: None, letters: Letters, store: Database[dict[str, Any]]
) -> None:
    masked = exported(reveal=False)
    store["dead_letters"].delete_many({})

    summary = bring_in(raw=masked)

    assert (summary.imported, summary.refused) == (4, 1)
    assert summary.errors == [(1, "has hidden values; export it with its secrets")]


def test_the_least_that_a_letter_can_be_gets_numbers_of_now(intake: MemoryIntake, letters: Letters) -> None:
    before = intake.now_ms()
    bring_in(a_line())

    letter = found(letters)
    assert before <= letter.fence == letter.closed_epoch <= intake.now_ms()
    assert (letter.status, letter.strategy, letter.acct_day) == ("dlq_manual", "manual", "")
    assert (letter.body, letter.created_at) == (b'{"orderId": 1}', NOON)
    assert len(letter.fingerprint) == 16
    assert isinstance(dead_letters.replay("m-1", actor="user:ann"), Replayed)


def test_a_letter_that_was_being_replayed_comes_in_as_waiting(
    intake: MemoryIntake, letters: Letters, store: Database[dict[str, Any]]
) -> None:
    dead_letters.record_outcomes([a_death("m-1"), a_death("m-2", error_kind="permanent")], [])
    for ref in ("m-1", "m-2"):
        dead_letters.replay(ref, actor="user:ann")
    before, fence = exported(), found(letters).fence
    store["dead_letters"].delete_many({})
    intake.records.clear()

    assert bring_in(raw=before).imported == 2

    assert [found(letters, ref).status for ref in ("m-1", "m-2")] == ["dlq_pending", "dlq_manual"]
    letter = found(letters)
    assert (letter.fence, letter.replay_attempts, letter.claim) == (fence, [], None)
    assert letter.history[-1]["what"] == "import"
    assert letter.next_retry_at is not None


def test_a_message_that_is_under_way_here_is_not_given_a_letter(intake: MemoryIntake, letters: Letters) -> None:
    """Otherwise its death would meet a letter that seems to know better."""
    dead_letters.record_outcomes([a_death("m-3")], [])
    intake.records |= {ref: MemoryRecord(state, 5) for ref, state in [("m-1", "running"), ("m-2", "dead")]}
    intake.records["m-3"] = MemoryRecord("queued", 1001)

    summary = bring_in(a_line("m-1"), a_line("m-2"), a_line("m-3"))

    assert summary.errors == [(1, "messageId: a message with this id is in progress here")]
    assert (summary.imported, summary.unchanged) == (1, 1)


def test_a_message_accepted_while_an_import_looks_can_still_die(intake: MemoryIntake, letters: Letters) -> None:
    """The clock is read before the look, so what is accepted after it has a higher epoch."""
    ticks = itertools.count(1_700_000_000_000)
    intake.clock = lambda: next(ticks)
    accepted: list[int] = []
    intake.fail["before_open_among"] = lambda: accepted.append(intake.clock())

    bring_in(a_line())
    dead_letters.record_outcomes([a_death("m-1", epoch=accepted[0], error_reason="it died here")], [])

    assert found(letters).error_reason == "it died here"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"messageId": "m 1"}, "messageId: must be 1 to 64 letters"),
        ({"messageId": {"$gt": ""}}, "messageId: must be"),
        ({"messageId": None}, "required fields are missing: messageId"),
        ({"type": "Order"}, "type: must be a message type"),
        ({"status": "dead"}, "status: must be one of dlq_pending"),
        ({"status": {"$ne": 1}}, "status: must be one of"),
        ({"_id": "xyz"}, "_id: must be 24"),
        ({"_id": {"$oid": "0" * 24}}, "_id: must be 24"),
        ({"errorType": ""}, "errorType: must be a text"),
        ({"errorKind": "sometimes"}, "errorKind: must be one of"),
        ({"errorReason": "x" * 9000}, "errorReason: must be a text of at most 8192"),
        ({"errorReason": "\0"}, "errorReason: must not contain U\\+0000"),
        ({"errorStack": "\ud800"}, "errorStack: must not contain"),
        ({"retryCount": -1}, "retryCount: must be a whole number"),
        ({"retryCount": True}, "retryCount: must be a whole number"),
        ({"retryCount": 1.5}, "retryCount: must be a whole number"),
        ({"lastFailedAt": "yesterday"}, "lastFailedAt: must be an ISO 8601 instant"),
        ({"nextRetryAt": 5}, "nextRetryAt: must be an ISO 8601 instant"),
        ({"lastFailedAt": "9999-12-31T23:59:59.999Z"}, "lastFailedAt: must be from 1970 to 2199"),
        ({"lastFailedAt": "9999-12-31T23:59:59-23:59"}, "lastFailedAt: must be an ISO 8601 instant"),
        ({"nextRetryAt": "0001-01-01T00:00:00Z"}, "nextRetryAt: must be from 1970"),
        ({"queuedAt": "1969-12-31T23:59:59.999Z"}, "queuedAt: must be from 1970"),
        ({"createdAt": "2200-01-01T00:00:00Z"}, "createdAt: must be from 1970"),
        ({"notes": [{"at": "0001-01-01T00:00:00Z"}]}, "notes.0.at: must be from 1970"),
        ({"attempts": [{"endedAt": "9999-12-31T00:00:00Z"}]}, "attempts.0.endedAt: must be from 1970"),
        ({"fence": 10**14}, "fence: must be a whole number"),
        ({"fence": 99_999_999_999_999, "closedEpoch": 1}, "fence: is in the future"),
        ({"fence": 5, "closedEpoch": 6}, "closedEpoch: must not be greater than fence"),
        ({"originalMessage": "{"}, "originalMessage: "),
        ({"originalMessage": ""}, "originalMessage: must be a text"),
        ({"originalMessage": {"a": 1}}, "originalMessage: must be a text"),
        ({"originalMessage": '"' + "ü" * 200_000 + '"'}, "originalMessage: has more than 262144 bytes"),
        ({"originalMessageBase64": "/w=="}, "originalMessageBase64: the payload is not text"),
        ({"metadata": {"priority": "urgent"}}, "metadata.priority: must be one of"),
        ({"metadata": {"tags": ["x"] * 21}}, "metadata.tags: must be a list of at most 20"),
        ({"metadata": {"tags": [{"$gt": 1}]}}, "metadata.tags.0: must be a text"),
        ({"metadata": {"systemState": {"$where": "1"}}}, "metadata.systemState: must not have names"),
        ({"metadata": {"systemState": {"a": {"b.c": 1}}}}, "metadata.systemState: must not have names"),
        ({"metadata": {"systemState": {"a": 2**63}}}, "metadata.systemState: must be a whole number"),
        ({"metadata": {"systemState": {"a": "x" * 20_000}}}, "metadata.systemState: must be at most"),
        ({"metadata": {"other": 1}}, "metadata.other: unknown field"),
        ({"attempts": [{"outcome": "vanished"}]}, "attempts.0.outcome: must be one of"),
        ({"attempts": [{"$set": 1}]}, "attempts.0.\\$set: unknown field"),
        ({"attempts": [{}] * 101}, "attempts: must be a list of at most 100"),
        ({"replayAttempts": [{"kind": "magic"}]}, "replayAttempts.0.kind: must be one of"),
        ({"notes": [{"text": "x" * 4001}]}, "notes.0.text: must be a text of at most 4000"),
        ({"history": ["x"]}, "history.0: must be an object"),
        ({"resolution": "replayed"}, "resolution, resolvedAt: are allowed only with status dlq_resolved"),
        ({"replay": {"id": "r-1"}}, "replay: is allowed only with status dlq_processing"),
        ({"masked": True}, "has hidden values"),
        ({"traceparent": "00-1-2-3"}, "traceparent: must be a traceparent of version 00"),
        ({"searchWords": ["x"]}, "searchWords: unknown field"),
        ({"$set": {"status": "x"}}, "\\$set: unknown field"),
    ],
    ids=str,
)
def test_a_line_that_is_not_as_it_must_be_is_rejected_by_name(
    intake: MemoryIntake, letters: Letters, changes: dict[str, Any], why: str
) -> None:
    summary = bring_in(a_line("m-0"), a_line(**changes), a_line("m-2"))

    ((line, told),) = summary.errors
    assert line == 2
    assert told.startswith(why.replace("\\", "")), told
    assert (summary.imported, summary.refused) == (2, 1)
    assert letters.find("m-1") is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "is not JSON in UTF-8"),
        ("[1]", "must be a JSON object"),
        ('{"a": NaN}', "contains NaN"),
        ('{"a": 1, "a": 2}', "repeats a field"),
        ("[" * 100_000, "is not JSON"),
        ('{"retryCount": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"end": 1}', "end: must be the only field"),
        ('{"end": {"count": "many"}}', "end.count: must be a whole number"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_that_is_no_letter_spoils_no_other(intake: MemoryIntake, letters: Letters, line: str, why: str) -> None:
    summary = bring_in(line, "", a_line())

    assert summary.imported == 1
    assert summary.lines == 3
    assert summary.errors[0][0] == 1
    assert summary.errors[0][1].startswith(why)


def test_bytes_that_are_no_utf8_are_rejected(intake: MemoryIntake, letters: Letters) -> None:
    assert bring_in(raw=b'{"a": "\xff"}\n').errors == [(1, "is not JSON in UTF-8")]


def test_an_id_of_another_letter_is_rejected(intake: MemoryIntake, letters: Letters) -> None:
    bring_in(a_line("m-1", _id="a" * 24))

    summary = bring_in(a_line("m-2", _id="a" * 24), a_line("m-1", _id="b" * 24), a_line("m-1", _id="a" * 24))

    assert summary.errors == [(1, "another letter has this _id")]
    assert summary.unchanged == 2


def test_a_file_that_was_cut_off_is_not_called_complete(full: None, letters: Letters) -> None:
    lines = exported().splitlines(keepends=True)
    end_that_gave_up = json.dumps({"end": {"count": 5, "complete": False}}).encode()

    assert bring_in(raw=b"".join(lines)).complete is True
    assert bring_in(raw=b"".join(lines[:-1])).complete is None
    assert bring_in(raw=b"".join(lines)[:-40]).complete is None
    assert bring_in(raw=b"".join([*lines[:-2], lines[-1]])).complete is False
    assert bring_in(raw=b"".join([*lines[:-1], end_that_gave_up])).complete is False
    assert bring_in(raw=b"".join([*lines, lines[0]])).complete is None
    assert bring_in(raw=b"".join(lines).replace(b"\n", b"\r\n\r\n")).complete is True


def test_a_line_that_is_too_long_is_not_kept(
    intake: MemoryIntake, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MAX_LINE", 1000)
    monkeypatch.setattr(importing, "_READ", 300)

    summary = bring_in(a_line("m-1"), a_line("m-2", errorStack="x" * 5000), a_line("m-3"), "y" * 3000)

    assert summary.errors == [
        (2, "is longer than the maximum of 1000 bytes"),
        (4, "is longer than the maximum of 1000 bytes"),
    ]
    assert summary.imported == 2


def test_a_store_that_goes_away_says_how_far_it_came_and_the_same_again_does_the_rest(
    intake: MemoryIntake, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_CHUNK", 2)
    lines = [a_line(f"m-{n}") for n in range(5)]
    looks: list[int] = []

    def away_at_the_second_look() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise StoreUnavailable("Redis is away")

    intake.fail["before_open_among"] = away_at_the_second_look
    with pytest.raises(StoreUnavailable, match=r"Stopped at line 4: 2 imported, 0 unchanged, 0 rejected\."):
        bring_in(*lines)

    assert str(bring_in(*lines)) == "3 imported, 2 unchanged, 0 rejected"


class TestOverRest:
    def send(self, client: Client, body: bytes, content_type: str = "application/x-ndjson", **headers: Any) -> Any:
        return client.post("/api/dlq/import", body, content_type=content_type, **headers)

    def test_a_process_reads_few_imports_at_once(self) -> None:
        """Each of them holds a thread for as long as its client takes."""
        key = with_key("ada", "admin")
        body = json.dumps(a_line()).encode()
        with contextlib.ExitStack() as others:
            for _ in range(transfer.IMPORTS_AT_ONCE):
                others.enter_context(transfer.imports)
            refused = self.send(key, body)

        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_imports")
        assert refused["Retry-After"] == "30"
        assert self.send(key, body).status_code == 200

    def test_it_sums_up(self, intake: MemoryIntake, letters: Letters, ada: Client) -> None:
        body = f"{json.dumps(a_line())}\nnonsense\n".encode()

        answer = self.send(ada, body)

        assert answer.status_code == 200
        assert answer.json()["data"] == {
            "lines": 2,
            "imported": 1,
            "unchanged": 0,
            "rejectedCount": 1,
            "rejected": [{"line": 2, "error": "is not JSON in UTF-8 at column 1"}],
            "complete": None,
        }
        assert self.send(ada, body).json()["data"]["unchanged"] == 1
        assert self.send(ada, b"", CONTENT_LENGTH="0").json()["data"]["lines"] == 0

    def test_what_one_system_exports_another_imports(
        self, full: None, store: Database[dict[str, Any]], ada: Client
    ) -> None:
        before = ada.get("/api/dlq/export?reveal=true&reason=move").getvalue()
        store["dead_letters"].delete_many({})

        assert self.send(ada, before).json()["data"]["imported"] == 5
        assert unmarked(ada.get("/api/dlq/export?reveal=true&reason=move").getvalue()) == before

    def test_only_administrators_import(self, intake: MemoryIntake, letters: Letters) -> None:
        body = json.dumps(a_line()).encode()

        for client in (with_key("read", "replay", "submit"), staff("olga", "replay")):
            assert self.send(client, body).status_code == 403
        assert letters.find("m-1") is None
        assert self.send(staff("root", "admin"), body).status_code == 200
        assert audited().get().said == "import: 1 imported, 0 unchanged, 0 rejected"

    def test_what_the_headers_rule_out_is_refused(self, intake: MemoryIntake, letters: Letters, ada: Client) -> None:
        assert self.send(ada, b"{}", "application/json").json()["code"] == "unsupported_media_type"
        assert self.send(ada, b"{}", CONTENT_LENGTH="").json()["code"] == "length_required"
        assert self.send(ada, b"{}", CONTENT_LENGTH=str(2**40)).json()["code"] == "payload_too_large"

    def test_a_store_that_is_away_is_a_problem(self, intake: MemoryIntake, letters: Letters, ada: Client) -> None:
        intake.fail["before_now_ms"] = StoreUnavailable("Redis is away")

        answer = self.send(ada, json.dumps(a_line()).encode())

        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert "0 imported" in answer.json()["detail"]
