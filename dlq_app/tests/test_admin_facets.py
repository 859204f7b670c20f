"""Facets in the console: filters, columns, suggestions, and letters grouped by what is inside."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app.admin.letters import filters
from dlq_app.domain.fingerprint import fingerprint
from dlq_app.services import dead_letters, facets
from dlq_app.testing import MemoryIntake, a_death
from dlqsite.tests.people import with_key

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/deadletter/"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def _empty(store: Database[dict[str, Any]], redis_client: Any) -> None:
    filters.kept.forget()
    facets.of_open.forget()
    facets._is_filled.forget()


def died(message_id: str, customer: Any, **more: Any) -> None:
    body = json.dumps({"customerId": customer, **more}).encode()
    assert dead_letters.record_outcomes([a_death(message_id, body=body)], [])[0].ok


def page(client: Client, path: str, **query: Any) -> str:
    answer = client.get(path, query, follow=True)
    assert answer.status_code == 200, answer
    return unescape(answer.content.decode())


def shown(html: str) -> list[str]:
    return sorted(re.findall(r'class="mono"><bdi>([^<]+)</bdi></a>', html))


def test_the_form_of_a_facet_filters_the_list(viewer: Client) -> None:
    died("m-1", 17)
    died("m-2", 18)
    html = page(viewer, LIST, **{"facet.customerId": "17"})
    assert shown(html) == ["m-1"]
    assert "Remove filter Customer: 17" in html
    assert "facet=customerId%3D18" in html, "frequent values are suggested"


def test_an_empty_field_is_no_filter(viewer: Client) -> None:
    died("m-1", 17)
    assert shown(page(viewer, LIST, **{"facet.customerId": ""})) == ["m-1"]


def test_a_pair_in_the_search_box_is_a_filter(viewer: Client) -> None:
    died("m-1", 17)
    died("m-2", 18)
    assert shown(page(viewer, LIST, q="customerId=18")) == ["m-2"]


def test_a_search_without_a_match_names_the_facets(viewer: Client) -> None:
    died("m-1", "4711")
    html = page(viewer, LIST, q="4711")
    assert "does not look at stacks, payloads and notes" in " ".join(html.split())
    (address,) = re.findall(r'class="button" href="([^"]+)">\s*Search <bdi>customer', html)
    assert shown(page(viewer, LIST + address)) == ["m-1"]


def test_without_facets_the_search_says_how_to_have_them(viewer: Client, settings: Any) -> None:
    settings.FACETS_POLICY = {}
    died("m-1", "4711")
    assert "name them in <code>facets.toml</code>" in page(viewer, LIST, q="4711")


def test_a_masked_value_is_not_in_the_address(viewer: Client, settings: Any) -> None:
    settings.FACETS_POLICY = {"facets": {"customerId": {"paths": ["payload.customerId"], "masked": True}}}
    died("m-1", "ann@example.org")
    answer = viewer.get(LIST, {"facet.customerId": "ann@example.org"})
    assert answer.status_code == 302
    assert "ann" not in answer["Location"]
    html = page(viewer, answer["Location"])
    assert shown(html) == ["m-1"]
    assert "ann@example" not in html
    assert "ann" not in viewer.get(LIST, {"q": "customerId=ann@example.org"})["Location"]


def test_the_list_has_columns(viewer: Client, settings: Any) -> None:
    rule = {"paths": ["payload.customerId"], "label": "Customer", "column": True}
    settings.FACETS_POLICY = {"facets": {"customerId": rule}}
    died("m-1", [1, 2, 3, 4])
    html = page(viewer, LIST)
    assert "<span>Customer</span>" in html
    assert "<bdi>1, 2, 3 and 1 more</bdi>" in html


def test_letters_that_are_not_filled_in_are_told(store: Database[dict[str, Any]], viewer: Client) -> None:
    died("m-1", 17)
    assert "fill_facets" in page(viewer, LIST, **{"facet.customerId": "17"})
    facets.fill()
    assert "fill_facets" not in page(viewer, LIST, **{"facet.customerId": "17"})


def test_letters_are_grouped(operator: Client, viewer: Client) -> None:
    for n in range(5):
        died(f"m-{n}", n % 2, orderId=HOSTILE)
    path = f"{LIST}grouped/"
    html = page(viewer, path, by="facet.customerId", status="dlq_pending")
    assert "2 different values" in html
    (letters,) = re.findall(r'<a href="([^"]+)"><bdi>0</bdi>', html)
    assert shown(page(viewer, letters)) == ["m-0", "m-2", "m-4"]
    assert "Replay…" not in html
    (replay,) = re.findall(r'<a href="([^"]+)">Replay…', page(operator, path, by="facet.customerId", search="m-1"))
    assert "facet=customerId%3D1" in replay
    assert "search=m-1" in replay
    assert HOSTILE not in viewer.get(path, {"by": "facet.orderId"}).content.decode()
    for by in ("type", "source", "client", "codeVersion", "errorType"):
        assert viewer.get(path, {"by": by}).status_code == 200
    assert viewer.get(path, {"by": "payload"}).status_code == 302
    assert viewer.get(path, {"by": "type", "status": "x"}).status_code == 302


def test_other_pages_show_the_facets_of_their_letters(viewer: Client, intake: MemoryIntake) -> None:
    died("m-1", 17)
    died("m-2", 18)
    overview = page(viewer, "/admin/")
    (address,) = re.findall(r'hx-get="([^"]+parts/[^"]*)"', overview)
    assert ">17</bdi> 1" in page(viewer, address)
    death = a_death("m-1")
    group = fingerprint(death.error_type, death.error_reason, death.error_stack).value
    (address,) = re.findall(r'hx-get="([^"]+parts/[^"]*)"', page(viewer, f"/admin/dlq_app/lettergroup/{group}/change/"))
    assert f"fingerprint={group}" in address
    assert ">18</bdi> 1" in page(viewer, address)


def test_a_batch_shows_the_facets_of_its_letters(viewer: Client, intake: MemoryIntake) -> None:
    died("m-1", 17)
    died("m-2", 18)
    olga = with_key("read", "replay", name="olga")
    order = {"filter": {"facet.customerId": "17"}, "reason": "fixed"}
    dry = olga.post("/api/dlq/replay-batch", {**order, "dryRun": True}, content_type="application/json").json()
    assert dry["data"]["count"] == 1
    started = olga.post("/api/dlq/replay-batch", order, content_type="application/json")
    batch = started.json()["data"]["batchId"]
    (address,) = re.findall(r'hx-get="([^"]+parts/)"', page(viewer, f"/admin/dlq_app/replaybatch/{batch}/change/"))
    html = page(viewer, address)
    assert ">17</bdi> 1" in html
    assert "18" not in html
    found = olga.get(f"/api/dlq/replay-batches/{batch}/facets").json()["data"]
    assert [one["value"] for one in found["groupings"][0]["values"]] == ["17"]
    assert olga.get(f"/api/dlq/replay-batches/{batch}/facets?status=x").status_code == 400
    assert olga.get("/api/dlq/replay-batches/b-none/facets").status_code == 404
