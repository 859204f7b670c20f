"""No body, whatever is in it and however long it is, is more to any address than a mistake of the client's."""

from __future__ import annotations

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern, get_resolver

from dlqsite.tests.people import with_key

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]


def writable() -> list[str]:
    """Every address of the API that takes a JSON body."""
    found = set()
    for outer in get_resolver().url_patterns:
        for pattern in getattr(outer, "url_patterns", [outer]):
            view = getattr(pattern.callback, "view_class", None) if isinstance(pattern, URLPattern) else None
            if {"POST", "PUT", "PATCH"} & set(getattr(view, "required_scopes", {})):
                route = str(pattern.pattern)
                for converter in pattern.pattern.converters:
                    route = route.replace(f"<str:{converter}>", "x").replace(f"<{converter}>", "x")
                found.add(f"/{route}")
    return sorted(found - {"/api/dlq/import"})


def test_the_addresses_are_found() -> None:
    assert {"/api/messages", "/api/dlq/x/replay", "/api/breakers/x/reset", "/api/dlq/replay-batch"} <= set(writable())


@pytest.mark.parametrize("path", writable())
def test_deep_json_is_invalid_json_and_a_long_body_too_large(redis_client: object, mongo_db: object, path: str) -> None:
    client = with_key("submit", "replay", "admin")

    deep = client.post(path, b"[" * 200_000, content_type="application/json")
    long = client.post(path, b"[" * 20_000_000, content_type="application/json")

    assert (deep.status_code, deep.json()["code"]) == (400, "invalid_json")
    assert (long.status_code, long.json()["code"]) == (413, "payload_too_large")


def test_no_page_takes_a_file(settings: object) -> None:
    answer = Client().post("/admin/login/", {"username": "a", "file": SimpleUploadedFile("a.txt", b"x" * 100_000)})

    assert answer.status_code == 400
