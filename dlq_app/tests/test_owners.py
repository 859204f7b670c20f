"""Owners of groups: rules, what users set, filters, pages and the digest."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.owners import Owner, OwnerPolicy
from dlq_app.services import dead_letters, groups
from dlq_app.testing import a_death
from dlqsite.tests.people import audited, with_key
from wire.errors import PolicyError

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db]

RULES = {
    "rules": [
        {"owner": "all"},
        {"owner": "payments", "types": ["payment.*"], "runbook": "https://wiki.example.org/pay"},
        {"owner": "timeouts", "types": ["payment.capture"], "error_types": ["TIMEOUT_*"]},
    ]
}


@pytest.fixture(autouse=True)
def _rules(store: Database[dict[str, Any]], redis_client: Any, settings: Any) -> None:
    settings.OWNERS_POLICY = RULES


def died(message_id: str, **changes: Any) -> str:
    dead_letters.record_outcomes([a_death(message_id, **changes)], [])
    letter = next(iter(groups.page(limit=100).groups))
    return letter.fingerprint


def test_the_last_rule_that_matches_wins() -> None:
    policy = OwnerPolicy.parse(RULES)
    assert policy.of("f" * 16, "TIMEOUT_ERROR", ["payment.capture"]).name == "timeouts"
    assert policy.of("f" * 16, "DATABASE_ERROR", ["mail.send", "payment.capture"]).name == "payments"
    assert policy.of("f" * 16, "TIMEOUT_ERROR", []).name == "all"
    assert OwnerPolicy.parse({}).of("f" * 16, "E", []) == Owner()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"rules": {}}, "rules"),
        ({"rule": []}, "unknown key 'rule'"),
        ({"rules": [{}]}, "owner"),
        ({"rules": [{"owner": "none"}]}, "must not be none"),
        ({"rules": [{"owner": "a,b"}]}, "without a comma"),
        ({"rules": [{"owner": "a"}, {"owner": "a", "types": ["a b"]}]}, r"\[\[rules\]\] 2: types"),
        ({"rules": [{"owner": "a", "runbook": "javascript:alert(1)"}]}, "https://wiki.example.org"),
        ({"rules": [{"owner": "a"}] * 201}, "at most 200"),
    ],
)
def test_a_rule_that_is_not_valid_is_rejected(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        OwnerPolicy.parse(raw)


def test_what_a_user_sets_replaces_the_rule_field_by_field() -> None:
    fingerprint = died("m-1", error_type="DATABASE_ERROR")
    assert groups.get(fingerprint).owner.name == "payments"
    owner = groups.set_owner(fingerprint, actor="olga", name="shop", ticket="https://t.example.org/1").owner
    assert (owner.name, owner.runbook, owner.ticket, owner.by) == (
        "shop",
        "https://wiki.example.org/pay",
        "https://t.example.org/1",
        "olga",
    )
    assert groups.owner_of(fingerprint, "DATABASE_ERROR", "payment.capture").name == "shop"
    assert groups.set_owner(fingerprint, actor="olga").owner.name == "payments"


def test_groups_are_filtered_by_owner(settings: Any) -> None:
    died("m-1")
    died("m-2", type="mail.send", error_type="SMTP_ERROR", error_kind="permanent")
    assert [group.owner.name for group in groups.page(owners=("timeouts",)).groups] == ["timeouts"]
    assert groups.page().owners == {"timeouts": 1, "all": 1}
    settings.OWNERS_POLICY = {}
    found = groups.page(LetterCriteria(), owners=("none",))
    assert (len(found.groups), found.owners) == (2, {"none": 2})


def test_rest_sets_and_shows_owners(vic: Client) -> None:
    fingerprint = died("m-1")
    olga = with_key("read", "replay", name="olga")
    path = f"/api/dlq/groups/{fingerprint}"
    assert vic.get(path).json()["data"]["owner"]["name"] == "timeouts"
    assert vic.post(f"{path}/owner", {"name": "x"}, content_type="application/json").status_code == 403
    body = {"name": "shop", "runbook": "https://wiki.example.org"}
    found = olga.post(f"{path}/owner", body, content_type="application/json").json()["data"]["owner"]
    assert found == {"name": "shop", "runbook": "https://wiki.example.org", "ticket": "", "by": "key:olga"}
    assert vic.get("/api/dlq/groups", {"owner": "shop"}).json()["owners"] == {"shop": 1}
    assert vic.get("/api/dlq/groups", {"owner": "timeouts"}).json()["data"] == []
    wrong = olga.post(f"{path}/owner", {"runbook": "ftp://x", "name": "none"}, content_type="application/json")
    assert [one["field"] for one in wrong.json()["errors"]] == ["name", "runbook"]
    assert olga.post("/api/dlq/groups/ffffffffffffffff/owner", {}, content_type="application/json").status_code == 404


def test_the_console_shows_sets_and_filters(viewer: Client, operator: Client) -> None:
    fingerprint = died("m-1")
    change = f"/admin/dlq_app/lettergroup/{fingerprint}/change/"
    owner = f"/admin/dlq_app/lettergroup/{fingerprint}/owner/"
    assert "Save owner" not in viewer.get(change).content.decode()
    assert viewer.post(owner, {"name": "x"}).status_code == 403
    assert "by rule" in operator.get(change).content.decode()
    refused = operator.post(owner, {"name": "shop", "runbook": "javascript:alert(1)"})
    assert refused.status_code == 400
    assert 'value="shop"' in refused.content.decode()
    assert operator.post(owner, {"name": "<b>shop</b>"}).status_code == 302
    html = operator.get("/admin/dlq_app/lettergroup/?owner=%3Cb%3Eshop%3C/b%3E").content.decode()
    assert "<b>shop</b>" not in html
    assert fingerprint in html
    assert fingerprint not in operator.get("/admin/dlq_app/lettergroup/?owner=none").content.decode()
    assert audited().filter(what="owner", why="<b>shop</b>").exists()
