"""The OpenAPI document is complete and has the right access rules."""

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
    return [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def test_it_is_valid_and_made_without_a_warning(document: dict[str, Any]) -> None:
    validate_schema(document)  # type: ignore[no-untyped-call]

    assert not GENERATOR_STATS
    assert len(operations(document)) > 5


def test_every_operation_has_its_scope_and_its_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        assert operation["tags"], (path, method)
        if path in PROBES:
            continue
        assert operation["security"] == [{"apiKey": []}, {"staffSession": []}]
        assert "Scope: `" in operation["description"]
        assert {"401", "403", "429"} <= operation["responses"].keys()
        for status, response in operation["responses"].items():
            if status >= "400" and (path, status) != ("/api/system/health", "503"):
                assert list(response["content"]) == ["application/problem+json"], (path, method, status)


def test_every_operation_with_a_body_has_the_problems_of_bodies(document: dict[str, Any]) -> None:
    with_body = [
        (path, method, operation) for path, method, operation in operations(document) if "requestBody" in operation
    ]

    assert len(with_body) > 5
    for path, method, operation in with_body:
        assert {"400", "415"} <= operation["responses"].keys(), (path, method)


def test_page_parameters_of_dead_letters_have_limits(document: dict[str, Any]) -> None:
    parameters = {one["name"]: one["schema"] for one in document["paths"]["/api/dlq"]["get"]["parameters"]}

    assert (parameters["page"]["minimum"], parameters["page"]["maximum"]) == (1, 10_000)
    assert (parameters["limit"]["minimum"], parameters["limit"]["maximum"]) == (1, 100)
    assert (parameters["cursor"]["minLength"], parameters["cursor"]["maxLength"]) == (1, 1000)
    assert parameters["cursor"]["pattern"]


def test_no_request_allows_unknown_fields(document: dict[str, Any]) -> None:
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
        """Reset the rate limits."""

    def test_the_scope_read_is_enough_for_the_document(self) -> None:
        answer = with_key("read").get("/api/schema")

        assert answer.status_code == 200
        assert answer.json()["openapi"].startswith("3.")

    def test_the_page_has_no_inline_script_or_style(self) -> None:
        page = signed_in(member("viewer")).get("/api/docs", headers={"Accept": "text/html"}).content.decode()

        assert "<style" not in page
        assert "<script>" not in page
        assert 'src="/api/docs?script="' in page

    def test_a_browser_without_a_session_is_redirected_to_sign_in(self, client: Any) -> None:
        answer = client.get("/api/docs", headers={"Accept": "text/html"})

        assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=%2Fapi%2Fdocs")
        assert client.get("/api/docs").status_code == 401


@pytest.mark.django_db
@pytest.mark.redis
def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]) -> None:
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
