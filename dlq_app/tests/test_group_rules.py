"""Rules that merge and split groups: which letters they match, at writing and for existing letters."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.group_rules import MAX_SEARCHED, GroupPolicy
from dlq_app.services import dead_letters, facets, groups
from dlq_app.store.mongo import LETTERS
from dlq_app.testing import a_death
from wire.errors import PolicyError

RULES = {
    "rules": [
        {"name": "gateway", "error_types": ["TIMEOUT_*", "NETWORK_ERROR"], "message": "gateway .* answer"},
        {"name": "gateway of the app", "sources": ["app"], "message": "gateway"},
    ]
}


def test_the_last_rule_that_matches_wins() -> None:
    policy = GroupPolicy.parse(RULES)
    reason = "Gateway 5 did not answer"

    def name(error_type: str, source: str) -> str:
        rule = policy.of(error_type, reason, "payment.capture", source)
        return rule.name if rule else ""

    assert name("TIMEOUT_ERROR", "shop") == name("NETWORK_ERROR", "shop") == "gateway"
    assert name("TIMEOUT_ERROR", "app") == "gateway of the app"
    assert name("DATABASE_ERROR", "shop") == ""
    assert policy.of("TIMEOUT_ERROR", "x" * MAX_SEARCHED + reason, "t", "shop") is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "name"),
        ({"name": "a"}, "would match every letter"),
        ({"name": "a", "message": "("}, "regular expression"),
        ({"name": "a", "message": "(a+)+b"}, "repeat no group"),
        ({"name": "a", "message": "(a|b){2}"}, "repeat no group"),
        ({"name": "a", "message": r"(a)\1"}, "repeat no group"),
        ({"name": "a", "message": "(?=a)"}, "repeat no group"),
        ({"name": "a", "message": "a*b*c*"}, "at most 2"),
        ({"name": "a", "message": "a*b{3,}c+"}, "at most 2"),
        ({"name": "a", "message": "x" * 201}, "at most 200"),
        ({"name": "a", "kind": "x"}, "unknown key 'kind'"),
    ],
)
def test_a_rule_that_is_not_valid_is_rejected(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        GroupPolicy.parse({"rules": [rule]})


def test_no_text_makes_a_pattern_slow() -> None:
    policy = GroupPolicy.parse({"rules": [{"name": "a", "message": "a*a*b"}]})
    begun = time.process_time()
    assert policy.of("E", "a" * 100_000, "t", "s") is None
    assert time.process_time() - begun < 5, "seconds of this process, not of the clock"


@pytest.fixture
def died(store: Database[dict[str, Any]], settings: Any) -> Any:
    def record(message_id: str, **changes: Any) -> None:
        dead_letters.record_outcomes([a_death(message_id, **changes)], [])

    facets._is_filled.forget()
    return record


def _titles() -> dict[str, int]:
    return {group.title: group.count for group in groups.page().groups}


@pytest.mark.mongo
@pytest.mark.redis
@pytest.mark.django_db
def test_a_change_of_the_rules_moves_letters(died: Any, store: Database[dict[str, Any]], settings: Any) -> None:
    settings.FACETS_POLICY = {}
    died("m-1", error_reason="gateway one did not answer")
    died("m-2", error_reason="gateway two did not answer", error_type="NETWORK_ERROR")
    died("m-3", error_reason="disk is full")
    natural = {one["messageId"]: one["fingerprint"] for one in store[LETTERS].find()}
    assert len(set(natural.values())) == 3
    assert facets.is_filled(), "without rules there is nothing to do"

    settings.GROUPS_POLICY = RULES
    died("m-4", error_reason="gateway three did not answer")
    assert not facets.is_filled()
    assert facets.fill().changed == 2
    assert facets.is_filled()
    assert _titles()["gateway"] == 3
    died("m-5", error_reason="disk is full", source="app")
    assert _titles()["gateway"] == 3

    settings.GROUPS_POLICY = {}
    facets.fill(again=True)
    back = {one["messageId"]: one["fingerprint"] for one in store[LETTERS].find()}
    assert {name: back[name] for name in natural} == natural
    assert "gateway" not in _titles()
