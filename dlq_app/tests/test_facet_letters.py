"""Facets of stored letters: written with them, filled in later, found by them, counted by them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.facets import FacetPolicy
from dlq_app.domain.import_rules import imported_letter
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.paging import PageRequest
from dlq_app.services import dead_letters, exporting, facets
from dlq_app.store import facet_filling, indexes
from dlq_app.store.mongo import FACETS, LETTERS
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON, MemoryIntake, a_death, a_document

pytestmark = [pytest.mark.mongo, pytest.mark.django_db]

Store = Database[dict[str, Any]]


def body(**values: Any) -> bytes:
    return json.dumps(values).encode()


def died(message_id: str, *, epoch: int = 1000, **values: Any) -> None:
    death = a_death(message_id, epoch=epoch, body=body(**values))
    assert dead_letters.record_outcomes([death], [])[0].ok


def found(letters: Letters, *wanted: str, **more: Any) -> list[str]:
    page = letters.page(LetterCriteria.parse({"facet": list(wanted), **more}), PageRequest())
    return sorted(letter.message_id for letter in page.letters)


def old(store: Store, message_id: str, **values: Any) -> None:
    """A letter of an earlier version."""
    document = a_document(message_id, originalMessage=body(**values).decode())
    document.pop("facets")
    store[LETTERS].insert_one(document)


def test_a_letter_is_found_by_what_is_inside(letters: Letters) -> None:
    died("m-1", customerId=17, orderId="a")
    died("m-2", customerId="17", orderId="b")
    died("m-3", customerId=18, orderId="a")
    assert found(letters, "customerId=17") == ["m-1", "m-2"]
    assert found(letters, "customerId=17", "customerId=18") == ["m-1", "m-2", "m-3"]
    assert found(letters, "customerId=17", "orderId=a") == ["m-1"]
    assert found(letters, "customerId=17", errorType="NETWORK_ERROR") == []
    assert letters.exact_count(LetterCriteria.parse({"facet.orderId": "a"})) == 2


def test_a_new_message_with_the_same_id_has_its_own_facets(letters: Letters) -> None:
    died("m-1", customerId=17)
    died("m-1", epoch=2000, customerId=18)
    assert (found(letters, "customerId=17"), found(letters, "customerId=18")) == ([], ["m-1"])


def test_an_edit_is_found_by_both_values(letters: Letters, intake: MemoryIntake) -> None:
    died("m-1", customerId=17, orderId="a")
    dead_letters.replay("m-1", actor="olga", payload=body(customerId=18))
    assert found(letters, "customerId=17") == found(letters, "customerId=18") == found(letters, "orderId=a") == ["m-1"]


def test_an_index_answers(store: Store) -> None:
    died("m-1", customerId=17)
    where = {"facets": {"$in": ["customerId=17"]}}
    plan = store[LETTERS].find(where).sort([("lastFailedAt", -1), ("_id", -1)]).explain()
    assert indexes.FACETS in str(plan["queryPlanner"]["winningPlan"])
    assert store[LETTERS].count_documents(where, hint=indexes.FACETS) == 1, "the partial index has all of them"


def test_letters_of_earlier_versions_are_filled_in(store: Store, letters: Letters, monkeypatch: Any) -> None:
    monkeypatch.setattr(facet_filling, "_CHUNK", 2)
    for n in range(5):
        old(store, f"m-{n}", customerId=n % 2)
    store[LETTERS].insert_one({"messageId": "odd", "originalMessage": 5, "versions": [3, {"payload": None}]})
    store[LETTERS].insert_one({"_id": "other", "messageId": 5})
    facets._is_filled.forget()
    assert not facets.is_filled()
    assert found(letters, "customerId=1") == []

    class Killed(Exception):
        pass

    def killed(progress: facet_filling.Filling) -> None:
        if progress.read == 2:
            raise Killed

    with pytest.raises(Killed):
        facets.fill(killed)
    assert store[LETTERS].count_documents({"facets": {"$exists": True}}) == 2
    facets._is_filled.forget()
    assert not facets.is_filled(), "half is not all"
    done = facets.fill()
    assert (done.read, done.changed, done.is_complete) == (6, 6, True)
    assert facets.is_filled()
    assert found(letters, "customerId=1") == ["m-1", "m-3"]
    assert facets.fill(again=True).changed == 0, "a second run changes nothing"


def test_a_changed_policy_is_filled_in_again(store: Store, letters: Letters, settings: Any) -> None:
    died("m-1", customerId=17, email="ann@example.org")
    facets.start()
    facets.fill()
    settings.FACETS_POLICY = {"facets": {"email": {"paths": ["payload.email"], "masked": True}}}
    facets._is_filled.forget()
    assert not facets.is_filled()
    facets.fill()
    assert found(letters, "email=ann@example.org") == ["m-1"]
    (stored,) = store[LETTERS].find_one({})["facets"]  # type: ignore[index]
    settings.FACETS_KEY = "another"
    facets._is_filled.forget()
    assert (facets.is_filled(), found(letters, "email=ann@example.org")) == (False, [])
    facets.fill()
    assert found(letters, "email=ann@example.org") == ["m-1"]
    assert store[LETTERS].find_one({})["facets"] != [stored]  # type: ignore[index]


def test_a_letter_that_changes_meanwhile_is_not_overwritten(store: Store, letters: Letters, monkeypatch: Any) -> None:
    old(store, "m-1", customerId=1)
    plain = facet_filling.FacetFilling._write

    def overtaken(self: Any, updates: Any) -> int:
        monkeypatch.setattr(facet_filling.FacetFilling, "_write", plain)
        died("m-1", epoch=2000, customerId=2)
        return plain(self, updates)

    monkeypatch.setattr(facet_filling.FacetFilling, "_write", overtaken)
    facets.fill()
    assert (found(letters, "customerId=1"), found(letters, "customerId=2")) == ([], ["m-1"])


def test_a_new_installation_has_nothing_to_fill_in(store: Store) -> None:
    facets._is_filled.forget()
    assert not facets.is_filled()
    dead_letters.build_indexes()
    facets._is_filled.forget()
    assert facets.is_filled()
    store[FACETS].delete_many({})
    died("m-1", customerId=17)
    dead_letters.build_indexes()
    facets._is_filled.forget()
    assert not facets.is_filled(), "an earlier version may have written it"


def test_values_are_counted(letters: Letters, monkeypatch: Any) -> None:
    for n in range(10):
        died(f"m-{n}", customerId=n % 3, orderId=[1, 2] if n < 4 else None)
    found = facets.grouped(LetterCriteria(), top=2)
    assert (found.counted, found.is_partial, found.since) == (10, False, NOON)
    customers, orders = found.groupings
    assert [(part.value, part.count) for part in customers.parts] == [("0", 4), ("1", 3)]
    assert (customers.distinct, customers.letters, orders.letters) == (3, 10, 4)
    assert facets.grouped(LetterCriteria.parse({"facet.customerId": "1"})).counted == 3
    assert facets.grouped(LetterCriteria.parse({"search": "answer"})).counted == 10
    assert facets.grouped(LetterCriteria.parse({"search": "nothing"})).counted == 0
    (types, versions) = facets.grouped(LetterCriteria(), ["type", "codeVersion"]).groupings
    assert [(part.value, part.count, part.oldest) for part in types.parts] == [("payment.capture", 10, NOON)]
    assert versions.parts == []
    monkeypatch.setattr("dlq_app.store.groupings.COUNTED", 4)
    partial = facets.grouped(LetterCriteria(), ["client"])
    assert (partial.counted, partial.is_partial) == (4, True)
    (client,) = partial.groupings
    narrowed = facets.narrowed(LetterCriteria(), "client", client.parts[0], partial)
    assert (narrowed.clients, narrowed.failed_from) == (("key:shop",), NOON)


def _grouped(vic: Client, **query: Any) -> Any:
    return vic.get("/api/dlq/facets", query).json()["data"]


def test_rest_filters_and_shows_facets(letters: Letters, vic: Client) -> None:
    died("m-1", customerId=17)
    died("m-2", customerId=18)
    answer = vic.get("/api/dlq", {"facet.customerId": "17"}).json()
    assert [(one["messageId"], one["facets"]) for one in answer["data"]] == [("m-1", {"customerId": ["17"]})]
    assert vic.get("/api/dlq", {"facet": "customerId=18"}).json()["pagination"]["total"] == 1
    assert vic.get("/api/dlq/m-1").json()["data"]["facets"] == {"customerId": ["17"]}
    facets._is_filled.forget()
    (customers,) = _grouped(vic, by="facet.customerId")["groupings"]
    assert [(one["value"], one["count"]) for one in customers["values"]] == [("17", 1), ("18", 1)]
    assert vic.get(customers["values"][0]["links"]["letters"]).json()["pagination"]["total"] == 1
    assert customers["values"][0]["filter"] == {"facet": ["customerId=17"]}
    assert not _grouped(vic)["facetsComplete"]
    assert len(_grouped(vic, by=["type", "source", "client", "codeVersion"])["groupings"]) == 4
    assert vic.get("/api/dlq/facets", {"by": "payload"}).status_code == 400
    assert vic.get("/api/dlq/facets", {"top": "1000", "status": "x"}).json()["errors"][1]["field"] == "status"
    wrong = vic.get("/api/dlq", {"facet.customer": "17"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_filter")
    assert "known are customerId, orderId" in wrong.json()["errors"][0]["message"]
    assert vic.get("/api/dlq", {"facet.customerId[$ne]": "17"}).status_code == 400


def test_exports_have_facets_and_imports_make_their_own(letters: Letters) -> None:
    died("m-1", customerId="=1+1", orderId=[1, 2])
    table = exporting.Export(form="csv")
    (row,) = csv.DictReader(io.StringIO(b"".join(table.chunks()).decode("utf-8-sig")))
    assert (row["facet.customerId"], row["facet.orderId"]) == ("'=1+1", "1 2")
    lines = b"".join(exporting.Export(form="jsonl").chunks()).splitlines()
    record = json.loads(lines[0])
    assert record["facets"] == {"customerId": ["=1+1"], "orderId": ["1", "2"]}
    record["facets"] = {"customerId": ["forged"]}
    imported = imported_letter(record, NOON, MaskingPolicy(), by="ada")
    assert imported["facets"] == ["customerId==1+1", "orderId=1", "orderId=2"]


def test_a_secret_that_masking_learnt_later_is_hidden(letters: Letters, settings: Any) -> None:
    died("m-1", customerId="hush=4711abc")
    settings.MASKING_POLICY = {"contains": ["hush"]}
    assert isinstance(conf.facet_policy(), FacetPolicy)
    (line, _) = b"".join(exporting.Export(form="jsonl").chunks()).splitlines()
    assert "4711abc" not in json.dumps(json.loads(line)["facets"])
