"""How many queries a page of the console and a list over REST need, with nothing kept from before.

The numbers do not depend on the number of letters. One that rises must be worth it.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pymongo.database import Database

from dlq_app.admin.letters import filters
from dlq_app.services import dead_letters
from dlq_app.testing import a_death
from dlq_app.tests.mongo_work import counted
from dlqsite import tabs
from dlqsite.tests import scenes

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis, pytest.mark.usefixtures("redis_client")]

LETTERS, GROUPS = "/admin/dlq_app/deadletter/", "/admin/dlq_app/lettergroup/"


def costs(store: Database[dict[str, Any]], url: str, client: Client, address: str) -> tuple[int, int, int]:
    """SQL queries, commands to MongoDB, and letters that these read, for the second look at a page."""
    assert client.get(address).status_code == 200
    filters.kept.forget()
    tabs.counts.forget()
    with CaptureQueriesContext(connection) as sql, counted(store, url) as work:
        assert client.get(address).status_code == 200
    return len(sql), work.commands, work.documents


@pytest.mark.parametrize(
    ("address", "sql", "commands", "documents"),
    [
        (LETTERS, 6, 22, 22),
        (f"{LETTERS}?status=dlq_pending&errorType=TIMEOUT_ERROR", 6, 24, 21),
        (f"{LETTERS}?q=answer", 6, 26, 22),
        (f"{LETTERS}?q=answer&status=dlq_pending", 6, 30, 141),
        (f"{LETTERS}ID/change/", 7, 14, 2),
        (GROUPS, 6, 21, 2),
        (f"{GROUPS}GROUP/change/", 6, 24, 15),
    ],
)
def test_a_page_of_the_console(
    store: Database[dict[str, Any]],
    mongodb_url: str,
    viewer: Client,
    address: str,
    sql: int,
    commands: int,
    documents: int,
) -> None:
    scenes.forget()
    dead_letters.record_outcomes([a_death(f"m-{n:03}", error_reason="api did not answer") for n in range(60)], [])
    letter = store["dead_letters"].find_one({}, {"fingerprint": 1}) or {}
    address = address.replace("ID", str(letter["_id"])).replace("GROUP", letter["fingerprint"])

    found = costs(store, mongodb_url, viewer, address)

    assert all(one <= most for one, most in zip(found, (sql, commands, documents), strict=True)), found


@pytest.mark.parametrize(
    ("query", "commands", "documents"),
    [
        ("", 3, 21),
        ("?status=dlq_pending", 3, 21),
        ("?errorType=TIMEOUT_ERROR&source=shop", 4, 20),
        ("?search=answer", 5, 21),
        # 60 match, and each is read to count them.
        ("?search=answer+api", 8, 21 + 60),
        ("?search=answer&status=dlq_pending", 10, 30 + 20 + 60),
    ],
)
def test_a_list_over_rest(
    store: Database[dict[str, Any]], mongodb_url: str, vic: Client, query: str, commands: int, documents: int
) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n:03}", error_reason="api did not answer") for n in range(60)], [])

    _, *found = costs(store, mongodb_url, vic, f"/api/dlq{query}")

    assert all(one <= most for one, most in zip(found, (commands, documents), strict=True)), found


def test_the_overview_does_not_wait_for_stores(store: Database[dict[str, Any]], viewer: Client) -> None:
    """Its sources ask them in the background; the page itself only reads the user from the database."""
    scenes.forget()
    scenes.settle()
    assert viewer.get("/admin/").status_code == 200

    with CaptureQueriesContext(connection) as sql:
        assert viewer.get("/admin/").status_code == 200

    assert len(sql) <= 6, [query["sql"] for query in sql]
