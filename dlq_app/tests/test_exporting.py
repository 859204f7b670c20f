"""Letters as a file: complete or visibly not, without secrets, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from bson import ObjectId
from django.test import Client
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import StoreUnavailable, TooManyExports
from dlq_app.domain.letter import DeadLetter
from dlq_app.services import dead_letters, exporting
from dlq_app.services.exporting import COLUMNS, Export, Stream, cell
from dlq_app.store import transfer as transfer_of_letters
from dlq_app.store.documents import Unreadable
from dlq_app.store.repository import Letters
from dlq_app.testing import a_death, a_document, a_letter
from dlqsite.tests.people import audited, staff, with_key

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


def lines(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.decode().splitlines()]


def fetch(client: Client, query: str = "") -> bytes:
    answer = client.get(f"/api/dlq/export?{query}")
    assert answer.status_code == 200, answer.content
    return answer.getvalue()


def test_every_letter_is_a_line_and_the_last_line_says_that_it_is_the_last(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death("m-2"), a_death("m-1"), a_death("m-3", type="order.created")], [])
    vic = with_key("read")

    *found, end = lines(fetch(vic))

    assert [line["messageId"] for line in found] == ["m-1", "m-2", "m-3"]
    assert found[0]["originalMessage"] == '{"orderId": 5511870, "amount": "129.00"}'
    assert end == {"end": {"count": 3, "complete": True}}
    assert [line.get("messageId") for line in lines(fetch(vic, "type=order.created"))] == ["m-3", None]
    assert lines(fetch(vic, "status=dlq_failed")) == [{"end": {"count": 0, "complete": True}}]


def test_named_letters_come_in_their_order_and_what_is_gone_is_said(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death("m-2"), a_death("m-1", body=b'{"token": "tok_1", "half": "\\ud800"}')], [])

    first, second, end = lines(b"".join(Export(LetterCriteria(), form="jsonl", ids=["m-2", "gone", "m-1"]).chunks()))

    assert [first["messageId"], second["messageId"]] == ["m-2", "m-1"]
    assert "tok_1" not in second["originalMessage"]
    assert end == {"end": {"count": 2, "complete": True, "missing": 1}}


def test_it_comes_as_a_file_in_the_form_that_was_asked_for(letters: Letters) -> None:
    vic = with_key("read")

    for form, media_type in (("jsonl", "application/x-ndjson"), ("csv", "text/csv; charset=utf-8")):
        answer = vic.get(f"/api/dlq/export?format={form}", headers={"Accept": media_type})

        assert answer["Content-Type"] == media_type
        assert answer["Content-Disposition"].startswith('attachment; filename="dead-letters-')
        assert answer["Content-Disposition"].endswith(f'.{form}"')
        assert answer["Cache-Control"] == "no-store"


def test_what_is_not_a_filter_is_refused(letters: Letters) -> None:
    answer = with_key("read").get("/api/dlq/export?format=xml&reveal=yes&limit=3&status=dead&sort=messageId")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_filter")
    assert {error["field"] for error in answer.json()["errors"]} == {"format", "reveal", "limit", "status", "sort"}


def test_secrets_are_hidden_in_both_forms_and_the_line_says_so(letters: Letters) -> None:
    dead_letters.record_outcomes(
        [a_death("m-1", body=b'{"orderId": 1, "token": "tok_123"}', error_reason="password=hunter2 refused")], []
    )
    dead_letters.add_note("m-1", actor="user:ann", text='they sent {"apiKey": "abc_456"}')
    dead_letters.record_outcomes([a_death("m-2")], [])
    vic = with_key("read")

    table, records = fetch(vic, "format=csv"), fetch(vic)

    for secret in (b"tok_123", b"hunter2", b"abc_456"):
        assert secret not in table
        assert secret not in records
    assert [line["masked"] for line in lines(records)[:-1]] == [True, False]


def test_revealing_needs_the_scope_admin_and_is_written_down(
    letters: Letters, caplog: pytest.LogCaptureFixture
) -> None:
    dead_letters.record_outcomes([a_death("m-1", body=b'{"token": "tok_123"}')], [])

    assert with_key("read", "replay").get("/api/dlq/export?reveal=true").status_code == 403
    assert staff("olga", "replay").get("/api/dlq/export?reveal=true").status_code == 403
    assert not audited().exists()

    (line, _) = lines(fetch(staff("ada", "admin"), "reveal=true&type=payment.capture&reason=audit"))

    assert (line["originalMessage"], line["masked"]) == ('{"token": "tok_123"}', False)
    entry = audited().get()
    assert (entry.name, entry.said) == ("export", "reveal 1 letters: type=payment.capture: audit")
    assert b"tok_123" in fetch(with_key("admin", name="root"), "reveal=true&reason=audit")
    (told,) = [r for r in caplog.records if r.message == "secrets_exported" and getattr(r, "by", "") == "key:root"]
    assert (told.levelname, getattr(told, "why", "")) == ("WARNING", "audit")


def test_the_filter_of_an_export_is_written_down_without_secrets(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])

    fetch(with_key("admin", name="root"), "reveal=true&reason=audit&source=shop&search=password%3Dhunter2x")
    fetch(with_key("admin", name="root"), "reveal=true&reason=audit&search=the+token+is+hunter2x")

    told = [entry.said for entry in audited()]
    assert any("source=shop&search=password=•••" in line for line in told)
    assert not any("hunter2x" in line for line in told)


@pytest.mark.parametrize("reason", ["", "&reason=", "&reason=%20", "&reason=a&reason=b", f"&reason={'x' * 2001}"])
def test_secrets_leave_only_with_a_reason(letters: Letters, reason: str) -> None:
    answer = with_key("admin", name="root").get(f"/api/dlq/export?reveal=true{reason}")

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["reason"]


def test_a_table_has_fixed_columns_and_no_formula(letters: Letters) -> None:
    dead_letters.record_outcomes(
        [
            a_death("m-1", error_reason='=HYPERLINK("http://evil/","x")', source="@evil", tags=("+1", "b")),
            a_death("m-2", error_reason='two\nlines, "quoted"', body='{"ä": "ü"}'.encode()),
        ],
        [],
    )

    head, first, second = list(
        csv.reader(io.StringIO(fetch(with_key("read"), "format=csv").decode("utf-8-sig"), newline=""))
    )

    assert tuple(head) == (*COLUMNS, "facet.customerId", "facet.orderId"), "facets behind all others"
    one, two = dict(zip(head, first, strict=True)), dict(zip(head, second, strict=True))
    assert one["errorReason"] == '\'=HYPERLINK("http://evil/","x")'
    assert (one["source"], one["tags"]) == ("'@evil", "'+1 b")
    assert two["errorReason"] == 'two\nlines, "quoted"'
    assert two["originalMessage"] == '{"ä": "ü"}'
    assert (two["retryCount"], two["resolvedAt"]) == ("3", "")
    assert two["explanation"].startswith("TIMEOUT_ERROR is transient; 4 of 4 attempts failed")


@pytest.mark.parametrize(
    "dangerous",
    ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "  =1", "\uff1d1", "\u00a0@x", "\u200b=1", "\ufeff \u2060+1"],
)
def test_what_a_spreadsheet_takes_for_a_formula_is_disarmed(dangerous: str) -> None:
    assert cell(dangerous) == "'" + dangerous


@pytest.mark.parametrize("harmless", ["", "2026-11-24", "order=1", 'a "b"', "1-2"])
def test_other_cells_stay_as_they_are(harmless: str) -> None:
    assert cell(harmless) == harmless


def test_a_document_that_is_no_letter_is_told_of(store: Database[dict[str, Any]]) -> None:
    odd = {**a_document("m-2", status="nonsense"), "_id": ObjectId("b" * 24)}
    store["dead_letters"].insert_many([a_document("m-1"), odd, a_document("m-3")])

    *found, end = lines(b"".join(Export(LetterCriteria(), form="jsonl").chunks()))

    assert [line["messageId"] for line in found] == ["m-1", "m-3"]
    assert end == {"end": {"count": 2, "complete": True, "unreadable": 1, "unreadableIds": ["b" * 24]}}


def a_store_that_goes_away(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    def walk(self: Letters, criteria: LetterCriteria) -> Iterator[DeadLetter | Unreadable]:
        for n in range(after):
            yield a_letter(f"m-{n}")
        raise StoreUnavailable("gone")

    monkeypatch.setattr(Letters, "walk", walk)


def test_a_store_that_goes_away_midway_breaks_the_transfer_and_the_last_line_says_why(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_store_that_goes_away(monkeypatch, after=100)

    answer = with_key("read").get("/api/dlq/export")
    got: list[bytes] = []
    with pytest.raises(StoreUnavailable):
        got.extend(answer)

    *found, end = lines(b"".join(got))
    assert len(found) == 100
    assert end == {"end": {"count": 100, "complete": False, "error": {"code": "store_unavailable", "detail": "gone"}}}


def test_a_table_is_broken_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    a_store_that_goes_away(monkeypatch, after=1000)
    got: list[bytes] = []

    with pytest.raises(StoreUnavailable):
        got.extend(Stream(Export(LetterCriteria(), form="csv")))

    assert len(list(csv.reader(io.StringIO(b"".join(got).decode("utf-8-sig"), newline="")))) == 1 + 1000


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("after", [0, 5])
def test_a_store_that_is_away_before_anything_was_sent_is_a_problem_and_no_file(
    letters: Letters, monkeypatch: pytest.MonkeyPatch, form: str, after: int
) -> None:
    a_store_that_goes_away(monkeypatch, after=after)

    answer = with_key("read").get(f"/api/dlq/export?format={form}")

    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


def test_reading_goes_on_where_it_was_when_the_store_is_away_for_a_moment(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(5)], [])
    real, asked = Letters._after, []

    def broken_off_once(self: Letters, criteria: LetterCriteria, after: str) -> Iterator[dict[str, Any]]:
        asked.append(after)
        for document in real(self, criteria, after):
            if len(asked) == 1 and document["messageId"] == "m-2":
                raise StoreUnavailable("a new primary is being chosen")
            yield document

    monkeypatch.setattr(Letters, "_after", broken_off_once)
    monkeypatch.setattr(transfer_of_letters, "_PAUSE_S", 0)

    found = [letter.message_id for letter in letters.walk(LetterCriteria()) if isinstance(letter, DeadLetter)]

    assert found == ["m-0", "m-1", "m-2", "m-3", "m-4"]
    assert asked == ["", "m-1"]


def test_it_walks_past_the_end_of_a_chunk(letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(6)], [])
    monkeypatch.setattr(transfer_of_letters, "_CHUNK", 3)
    criteria = LetterCriteria(search="m-")

    assert [letter.message_id for letter in letters.walk(criteria) if isinstance(letter, DeadLetter)] == [
        f"m-{n}" for n in range(6)
    ]


def test_one_process_sends_two_at_once_and_a_broken_off_one_makes_room(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(9)], [])
    monkeypatch.setattr(exporting, "_CHUNK_CHARS", 1)
    streams = [Stream(Export(LetterCriteria(), form="jsonl")) for _ in range(exporting.MAX_EXPORTS)]
    vic = with_key("read")

    answer = vic.get("/api/dlq/export")
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "too_many_exports", "30")
    with pytest.raises(TooManyExports):
        Stream(Export(LetterCriteria(), form="csv"))

    streams[0].close()
    streams[0].close()
    assert list(streams[1])
    for _ in range(2 * exporting.MAX_EXPORTS):
        vic.get("/api/dlq/export").close()
        fetch(vic)
    assert exporting._slots._value == exporting.MAX_EXPORTS
