"""Messages over REST, as a reader and as another client see them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from dlqsite.tests.people import audited, member, signed_in, staff, with_key

pytestmark = [pytest.mark.redis, pytest.mark.django_db]

PATH = "/api/messages/m-1"
MESSAGE = {"messageId": "m-1", "payload": {"password": "s3cret", "url": "amqp://u:s3cret@mq", "n": 1}}


def post(client: Client, path: str, body: object) -> Any:
    return client.post(path, json.dumps(body), content_type="application/json")


@pytest.fixture
def shop(redis_client: Any) -> Client:
    """A client that has submitted ``m-1``."""
    client = with_key("submit", name="shop")
    assert post(client, "/api/messages", MESSAGE).status_code == 202
    return client


@pytest.mark.usefixtures("shop")
def test_readers_see_no_secret_of_a_message() -> None:
    for reader in (with_key("read"), signed_in(member("viewer")), with_key("admin", name="root")):
        answer = reader.get(PATH)

        assert answer.json()["data"]["payload"]["n"] == 1
        assert b"s3cret" not in answer.content
        assert "no-store" in answer["Cache-Control"]
        assert {"authorization", "cookie"} <= {name.strip().lower() for name in answer["Vary"].split(",")}


@pytest.mark.usefixtures("shop")
def test_revealing_a_message_needs_the_scope_admin_and_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    root = with_key("admin", name="root")

    for client in (with_key("submit", "read", "replay"), staff("olga", "replay")):
        assert post(client, f"{PATH}/reveal", {"reason": "case 7"}).status_code == 403
    for body in ({}, {"reason": " "}, {"reason": 7}, {"reason": "case 7", "why": ""}):
        assert post(root, f"{PATH}/reveal", body).status_code == 400
    assert post(root, "/api/messages/nobody/reveal", {"reason": "case 7"}).status_code == 404
    answer = post(root, f"{PATH}/reveal", {"reason": "case 7"})

    assert answer.json()["data"]["payload"] == MESSAGE["payload"]
    assert "no-store" in answer["Cache-Control"]
    (told,) = [record for record in caplog.records if record.message == "secrets_revealed"]
    assert (getattr(told, "by", ""), getattr(told, "why", "")) == ("key:root", "case 7")


@pytest.mark.usefixtures("shop")
def test_staff_who_reveal_a_message_are_in_the_audit_log() -> None:
    answer = post(staff("ada", "admin"), f"{PATH}/reveal", {"reason": "case 7"})

    assert answer.json()["data"]["payload"] == MESSAGE["payload"]
    entry = audited().get()
    assert (entry.object_id, entry.name, entry.said) == ("m-1", "m-1", "reveal: case 7")


def test_ids_are_one_space_and_tell_other_clients_no_more_than_that_they_are_taken(shop: Client) -> None:
    own = post(shop, "/api/messages", MESSAGE).json()["data"]
    stranger, reader = with_key("submit", name="other"), with_key("submit", "read", name="reader")

    same, other = post(stranger, "/api/messages", MESSAGE), post(stranger, "/api/messages", MESSAGE | {"payload": 1})
    batch = post(stranger, "/api/messages/batch", {"messages": [MESSAGE, MESSAGE | {"payload": 1}]}).json()["data"]

    assert (own["status"], own["duplicate"]) == ("queued", True)
    assert same.status_code == 200
    assert same.json()["data"] == {
        "messageId": "m-1", "type": "demo", "duplicate": True, "links": {"self": PATH},
    }  # fmt: skip
    assert other.status_code == 409
    assert not {"queued", "shop", "s3cret"} & set(other.content.decode().replace('"', " ").split())
    assert [set(result) for result in batch["results"]] == [
        {"index", "status", "messageId"},
        {"index", "status", "messageId", "problem"},
    ]
    assert post(reader, "/api/messages", MESSAGE).json()["data"] == own
    mine = post(shop, "/api/messages/batch", {"messages": [MESSAGE]}).json()["data"]["results"]
    assert mine[0]["state"] == "queued"
