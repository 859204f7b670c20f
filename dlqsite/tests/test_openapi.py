"""The OpenAPI document is complete and tells the truth about access."""

from __future__ import annotations

from typing import Any

import pytest
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from dlqsite.api import apidocs
from dlqsite.tests.people import member, signed_in, with_key

PROBES = {"/api/system/live", "/api/system/ready", "/api/system/health"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return schema


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, told) for path, item in document["paths"].items() for method, told in item.items()]


def test_it_is_valid_and_made_without_a_warning(document: dict[str, Any]) -> None:
    validate_schema(document)  # type: ignore[no-untyped-call]

    assert not GENERATOR_STATS
    assert len(operations(document)) > 5


def test_every_operation_says_what_it_needs_and_how_it_refuses(document: dict[str, Any]) -> None:
    for path, method, told in operations(document):
        assert told["summary"], (path, method)
        assert told["tags"], (path, method)
        if path in PROBES:
            continue
        assert told["security"] == [{"apiKey": []}, {"staffSession": []}]
        assert "Scope: `" in told["description"]
        assert {"401", "403", "429"} <= told["responses"].keys()
        for status, response in told["responses"].items():
            if status >= "400" and (path, status) != ("/api/system/health", "503"):
                assert list(response["content"]) == ["application/problem+json"], (path, method, status)


def test_every_operation_with_a_body_says_how_a_bad_one_is_refused(document: dict[str, Any]) -> None:
    with_body = [(path, method, told) for path, method, told in operations(document) if "requestBody" in told]

    assert len(with_body) > 5
    for path, method, told in with_body:
        assert {"400", "415"} <= told["responses"].keys(), (path, method)


def test_pages_of_dead_letters_say_how_far_they_reach(document: dict[str, Any]) -> None:
    told = {one["name"]: one["schema"] for one in document["paths"]["/api/dlq"]["get"]["parameters"]}

    assert (told["page"]["minimum"], told["page"]["maximum"]) == (1, 10_000)
    assert (told["limit"]["minimum"], told["limit"]["maximum"]) == (1, 100)
    assert (told["cursor"]["minLength"], told["cursor"]["maxLength"]) == (1, 1000)
    assert told["cursor"]["pattern"]


def test_no_body_takes_fields_that_nobody_knows(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    requests = {name: schema for name, schema in schemas.items() if name.endswith("Request")}

    assert {"MessageInRequest", "BatchInRequest"} <= requests.keys()
    assert all(schema["additionalProperties"] is False for schema in requests.values())
    assert "additionalProperties" not in schemas["MessageStatus"]


@pytest.mark.django_db
@pytest.mark.redis
class TestThePages:
    @pytest.fixture(autouse=True)
    def _empty(self, redis_client: Any) -> None:
        """Limits begin anew."""

    def test_the_document_is_served_to_who_may_read(self) -> None:
        answer = with_key("read").get("/api/schema")

        assert answer.status_code == 200
        assert answer.json()["openapi"].startswith("3.")

    def test_the_page_has_no_inline_script_or_style(self) -> None:
        page = signed_in(member("viewer")).get("/api/docs", headers={"Accept": "text/html"}).content.decode()

        assert "<style" not in page
        assert "<script>" not in page
        assert 'src="/api/docs?script="' in page

    def test_a_browser_that_is_not_signed_in_is_sent_to_sign_in(self, client: Any) -> None:
        answer = client.get("/api/docs", headers={"Accept": "text/html"})

        assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=%2Fapi%2Fdocs")
        assert client.get("/api/docs").status_code == 401


@pytest.mark.django_db
@pytest.mark.redis
def test_it_is_made_once_for_everybody(monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]) -> None:
    client, made = signed_in(member("viewer")), []
    original = SchemaGenerator.get_schema

    def counted(self: SchemaGenerator, *args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return original(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(SchemaGenerator, "get_schema", counted)
    apidocs.document.cache_clear()

    answers = [client.get("/api/schema", query).json() for query in ({}, {"version": "9"}, {"lang": "de"})]

    assert answers == [document] * 3
    assert len(made) == 1
