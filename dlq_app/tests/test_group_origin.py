"""Where the letters of a group come from: stack and payload of the newest, sources, clients, code versions."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from pymongo.database import Database

from dlq_app.services import dead_letters
from dlq_app.store import groupings
from dlq_app.testing import NOON, a_death
from dlq_app.tests.mongo_work import counted
from dlqsite.tests.people import signed_in

pytestmark = [
    pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis, pytest.mark.usefixtures("intake", "redis_client"),
]  # fmt: skip

Store = Database[dict[str, Any]]
LIST = "/admin/dlq_app/lettergroup/"


def test_a_group_shows_stack_and_masked_payload_of_its_newest_letter(store: Store, viewer: Client) -> None:
    dead_letters.record_outcomes(
        [
            a_death("m-1", body=b'{"city": "older"}'),
            a_death("m-2", body='{"city": "Köln", "token": "t-secret"}'.encode(), died_at=NOON + timedelta(hours=1)),
        ],
        [],
    )
    name = (store.dead_letters.find_one({}) or {})["fingerprint"]

    html = viewer.get(f"{LIST}{name}/change/").content.decode()

    assert "payments/gateway.py:88" in html
    assert "Köln" in html
    assert "t-secret" not in html
    assert "older" not in html


def test_who_may_not_see_letters_sees_no_payload(store: Store) -> None:
    dead_letters.record_outcomes([a_death("m-1", body=b'{"city": "Cologne"}')], [])
    name = (store.dead_letters.find_one({}) or {})["fingerprint"]
    user = User.objects.create_user("gina", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_lettergroup"))

    html = signed_in(user).get(f"{LIST}{name}/change/").content.decode()

    assert "Cologne" not in html
    assert "You may not see letters" in html


def test_sources_clients_and_versions_are_counted_in_the_newest_letters(
    store: Store, mongodb_url: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groupings, "COUNTED", 20)
    deaths = [
        a_death(
            f"m-{n:02}",
            source=f"shop-{n % 8}",
            client="key:shop",
            system_state={"codeVersion": "v7"},
            died_at=NOON + timedelta(minutes=n),
        )
        for n in range(40)
    ]
    dead_letters.record_outcomes(deaths, [])
    name = (store.dead_letters.find_one({}) or {})["fingerprint"]
    page = viewer.get(f"{LIST}{name}/change/").content.decode()
    (address,) = re.findall(r'hx-get="([^"]*/parts/[^"]*)"', page)

    with counted(store, mongodb_url) as work:
        part = viewer.get(unescape(address)).content.decode()

    assert work.documents <= 21, "as many as are counted, however large the group is"
    assert "key:shop</bdi> 20" in part
    assert "v7</bdi> 20" in part
    assert "3 more" in part
    assert "Counted in the newest 20 letters only." in part
