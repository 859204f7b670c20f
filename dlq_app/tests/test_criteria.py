"""The one object that says which letters."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlq_app.domain.criteria import FIELD_NAMES, LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.filters import FILTERS
from dlq_app.store import queries

EVERYTHING = {
    "status": ["dlq_pending", "dlq_failed"],
    "errorType": ["TIMEOUT_ERROR"],
    "errorKind": ["transient"],
    "type": ["order.created", "mail.send"],
    "source": ["shop & co", "ünïcode"],
    "client": ["key:shop"],
    "codeVersion": ["1.2.3"],
    "priority": ["high"],
    "tag": ["eu", "a=b&c"],
    "facet": ["customerId=4711"],
    "fingerprint": ["0123456789abcdef"],
    "from": ["2026-11-24T03:12:00.000Z"],
    "to": ["2026-11-24T04:00:00.500Z"],
    "search": ["gateway did not answer"],
}


def test_it_knows_every_field() -> None:
    criteria = LetterCriteria.parse(EVERYTHING)

    assert [one.attribute for one in FILTERS.values()] == [field.name for field in fields(LetterCriteria)]
    assert set(EVERYTHING) == set(FIELD_NAMES)
    assert criteria.statuses == ("dlq_pending", "dlq_failed")
    assert criteria.failed_from == datetime(2026, 11, 24, 3, 12, tzinfo=UTC)
    assert criteria.as_filter() == EVERYTHING


def test_it_survives_the_way_through_a_url_and_through_json() -> None:
    criteria = LetterCriteria.parse(EVERYTHING)

    assert LetterCriteria.parse(parse_qs(criteria.as_query())) == criteria
    assert LetterCriteria.parse(criteria.as_filter()) == criteria


def test_one_text_and_a_list_of_one_are_the_same() -> None:
    assert LetterCriteria.parse({"status": "dlq_failed"}) == LetterCriteria.parse({"status": ["dlq_failed"]})


def test_empty_values_are_no_criteria_and_repetitions_count_once() -> None:
    assert LetterCriteria.parse({"status": "", "search": ["  "]}).is_empty
    assert LetterCriteria.parse({"tag": ["eu", "eu"]}).tags == ("eu",)
    assert not LetterCriteria.parse({"tag": "eu"}).is_empty


def test_offsets_are_read_as_instants() -> None:
    assert LetterCriteria.parse({"from": "2026-11-24T04:12:00+01:00"}) == LetterCriteria.parse(
        {"from": "2026-11-24T03:12:00Z"}
    )


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        LetterCriteria().search = "x"  # type: ignore[misc]


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(CriteriaInvalid) as caught:
        LetterCriteria.parse({"status": "lost", "errorKind": "odd", "from": "noon", "colour": "red", "priority": "low"})

    assert {error["field"] for error in caught.value.errors} == {"status", "errorKind", "from", "colour"}
    by_field = {error["field"]: error["message"] for error in caught.value.errors}
    assert "dlq_pending" in by_field["status"], "and says what is allowed"
    assert "ISO 8601" in by_field["from"]
    assert "errorType" in by_field["colour"]


@pytest.mark.parametrize("name", FIELD_NAMES)
@pytest.mark.parametrize(
    "value",
    [{"$ne": None}, {"$gt": ""}, [{"$ne": 1}], None, 5, True, [None], [["x"]], "\0", "\ud800", "x" * 5000],
    ids=str,
)
def test_no_field_takes_anything_but_its_own_texts(name: str, value: object) -> None:
    with pytest.raises(CriteriaInvalid) as caught:
        LetterCriteria.parse({name: value})

    assert caught.value.errors[0]["field"] == name


def test_values_are_bounded_in_number() -> None:
    with pytest.raises(CriteriaInvalid):
        LetterCriteria.parse({"tag": [str(n) for n in range(51)]})


def operators(value: object) -> set[str]:
    if isinstance(value, dict):
        return {key for key in value if str(key).startswith("$")} | {
            operator for inner in value.values() for operator in operators(inner)
        }
    if isinstance(value, list):
        return {operator for inner in value for operator in operators(inner)}
    return set()


@given(
    some.dictionaries(
        some.one_of(some.sampled_from(FIELD_NAMES), some.text(max_size=8)),
        some.recursive(
            some.one_of(some.text(max_size=30), some.sampled_from(["$ne", "$where", "dlq_failed", "eu", ".*"])),
            lambda inner: some.one_of(
                some.lists(inner, max_size=3), some.dictionaries(some.sampled_from(["$ne", "$in", "a"]), inner)
            ),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_whatever_comes_the_store_is_asked_only_with_our_operators(params: dict[str, object]) -> None:
    try:
        criteria = LetterCriteria.parse(params)
    except CriteriaInvalid:
        return

    assert operators(queries.matching(criteria)) <= {"$eq", "$in", "$gte", "$lt", "$or", "$all"}
    assert LetterCriteria.parse(criteria.as_filter()) == criteria
