"""Facets of payloads: which values letters keep, and what a policy may say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.facets import MAX_ALL, MAX_EACH, FacetPolicy
from dlq_app.domain.masking import MaskingPolicy
from wire.errors import PolicyError

RULES: dict[str, Any] = {
    "customerId": {"paths": ["payload.customerId", "payload.customer.id"], "label": "Customer"},
    "sku": {"paths": ["payload.items.sku"], "types": ["order.created"]},
    "email": {"paths": ["payload.email"], "masked": True},
}


def a_policy(rules: dict[str, Any] = RULES, *, key: bytes = b"k") -> FacetPolicy:
    return FacetPolicy.parse({"facets": rules}, key=key, masking=MaskingPolicy())


def of(payload: Any, message_type: str = "order.created") -> list[str]:
    return a_policy().of(json.dumps(payload).encode(), message_type)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        ({"customerId": "c-1"}, ["customerId=c-1"]),
        ({"customerId": 17}, ["customerId=17"]),
        ({"customerId": True}, ["customerId=true"]),
        ({"customerId": None}, []),
        ({"customerId": ""}, []),
        ({"customerId": {"$gt": ""}}, []),
        ({"customerId": "1", "customer": {"id": "2"}}, ["customerId=1", "customerId=2"]),
        ({"customerId": [1, 1, 2]}, ["customerId=1", "customerId=2"]),
        ({"items": [{"sku": "a"}, {"sku": "b"}, 5, {}]}, ["sku=a", "sku=b"]),
        ([{"customerId": 5}], ["customerId=5"]),
        ("customerId", []),
        ({"customerId": "a\0b"}, ["customerId=a\\x00b"]),
    ],
)
def test_values_at_the_paths_are_kept(payload: Any, found: list[str]) -> None:
    assert of(payload) == found


def test_a_number_keeps_its_digits_and_an_escaped_name_is_found() -> None:
    assert a_policy().of(b'{"customerId": 1.10}', "x") == ["customerId=1.10"]
    assert a_policy().of(b'{"custome\\u0072Id": "7"}', "x") == ["customerId=7"]
    assert a_policy().of(b'{"customerId": ', "x") == a_policy().of(b"\xff customerId", "x") == []


def test_types_limit_a_facet() -> None:
    assert of({"items": [{"sku": "a"}]}, "other") == []


def test_lists_and_lengths_are_limited() -> None:
    many = of({"items": [{"sku": f"s{n}"} for n in range(5000)]})
    assert len(many) == MAX_EACH
    wide = a_policy({f"f{n}": {"paths": ["payload.x"]} for n in range(16)})
    assert len(wide.of(json.dumps({"x": list(range(100))}).encode(), "t")) == MAX_ALL
    (long,) = of({"customerId": "v" * 5000})
    assert len(long) < 140
    assert long != of({"customerId": "v" * 5001})[0]
    assert a_policy().wanted("customerId=" + "v" * 900) == of({"customerId": "v" * 900})[0]


def test_a_masked_value_is_found_and_not_shown() -> None:
    (stored,) = of({"email": "ann@example.org"})
    assert stored.startswith("email=#")
    assert "ann" not in stored
    assert a_policy().wanted("email=ann@example.org") == stored
    assert a_policy().wanted(stored) == stored, "the hash of a list stands for the value"
    assert a_policy(key=b"other").wanted("email=ann@example.org") != stored, "the hash needs the key"


def test_a_value_that_looks_like_a_secret_is_masked_without_a_rule() -> None:
    (stored,) = of({"customerId": "Bearer abcdef0123456789"})
    assert "abcdef" not in stored
    assert a_policy().wanted("customerId=Bearer abcdef0123456789") == stored


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"facet": {}}, "unknown table 'facet'"),
        ({"facets": {"Customer": {"paths": ["payload.a"]}}}, "beginning with a small letter"),
        ({"facets": {"a": {}}}, "paths"),
        ({"facets": {"a": {"paths": ["customerId"]}}}, "payload.order.id"),
        ({"facets": {"a": {"paths": ["payload.a"], "mask": True}}}, "unknown key 'mask'"),
        ({"facets": {"a": {"paths": ["payload.a"], "types": []}}}, "message types"),
        ({"facets": {"a": {"paths": ["payload.auth.password"]}}}, "masking.toml hides values of auth"),
        ({"facets": {f"a{n}": {"paths": ["payload.a"]} for n in range(17)}}, "at most 16"),
    ],
)
def test_a_policy_that_is_not_valid_is_rejected(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        FacetPolicy.parse(raw, key=b"k", masking=MaskingPolicy())


def test_the_digest_changes_with_what_decides_about_values() -> None:
    same = a_policy().digest
    assert a_policy().digest == same
    assert a_policy(key=b"other").digest != same
    assert a_policy({"customerId": {"paths": ["payload.customerId"]}}).digest != same
    relabelled = {**RULES, "customerId": {**RULES["customerId"], "label": "Client", "column": True}}
    assert a_policy(relabelled).digest == same


def test_criteria_read_facets_under_both_names() -> None:
    one = LetterCriteria.parse({"facet.customerId": ["17", "18"], "facet": "orderId=4"})
    assert one.facets == ("customerId=17", "customerId=18", "orderId=4")
    assert LetterCriteria.parse(one.as_filter()) == one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"facet": "17"}, "NAME=VALUE"),
        ({"facet": "customerId="}, "NAME=VALUE"),
        ({"facet.unknown": "17"}, "known are customerId, orderId"),
        ({"facet.customerId": {"$ne": "x"}}, "must be a text or a list of texts"),
        ({"facet.$where": "1"}, "unknown facet"),
        ({"facet.customerId": "a\0"}, "U"),
    ],
)
def test_criteria_name_what_is_wrong(given: dict[str, Any], said: str) -> None:
    with pytest.raises(CriteriaInvalid, match=said) as caught:
        LetterCriteria.parse(given)
    assert caught.value.errors[0]["field"] == next(iter(given))
