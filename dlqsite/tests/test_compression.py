"""Pages are compressed, and nothing that could give away a secret by its length."""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.mark.django_db
def test_a_page_is_compressed_for_browsers_that_accept_it() -> None:
    plain = Client().get("/admin/login/")
    packed = Client().get("/admin/login/", headers=GZIP)

    assert "Content-Encoding" not in plain.headers
    assert packed["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed["Vary"]
    assert int(packed["Content-Length"]) == len(packed.content) < len(plain.content)
    assert b"<html" in gzip.decompress(packed.content)


@pytest.mark.django_db
def test_answers_to_posts_and_answers_of_rest_are_not_compressed() -> None:
    wrong = Client().post("/admin/login/", {"username": "olga", "password": "wrong"}, headers=GZIP)
    rest = Client().get("/api/dlq?" + "x" * 400, headers=GZIP)

    assert wrong["Content-Type"].startswith("text/html")
    assert len(rest.content) > 100
    assert "Content-Encoding" not in wrong.headers
    assert "Content-Encoding" not in rest.headers


@pytest.mark.django_db
def test_the_csrf_token_and_the_length_differ_from_page_to_page() -> None:
    browser = Client()
    answers = [browser.get("/admin/login/", headers=GZIP).content for _ in range(8)]
    tokens = {re.findall(rb'csrfmiddlewaretoken" value="(\w+)"', gzip.decompress(one))[0] for one in answers}

    assert len(tokens) == 8
    assert len({len(one) for one in answers}) > 1


@pytest.mark.redis
@pytest.mark.mongo
def test_a_live_fragment_that_is_compressed_is_not_sent_twice(viewer: Any, redis_client: Any, mongo_db: Any) -> None:
    url = reverse("overview_fragment")
    first = viewer.get(url, headers=GZIP)

    assert first["Content-Encoding"] == "gzip"
    assert first["ETag"].startswith('W/"')
    for tag in (first["ETag"], first["ETag"].removeprefix("W/"), f'"other", {first["ETag"]}'):
        again = viewer.get(url, headers={**GZIP, "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert viewer.get(url, headers={**GZIP, "If-None-Match": '"other"'}).status_code == 200
