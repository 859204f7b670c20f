"""create_api_key and send_messages: what they print is what happened."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from dlqsite.access import known_keys
from dlqsite.models import ApiKey
from management.tests.commands import run
from messages_app.store.ledger import ledger

pytestmark = [pytest.mark.redis, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _fresh(redis_client: Any) -> None:
    known_keys.clear()


def test_the_printed_key_works_and_can_do_what_it_was_made_for() -> None:
    key = run("create_api_key", "carol", "--scope", "submit", "--scope", "read").strip()

    client = Client(headers={"Authorization": f"Api-Key {key}"})

    answer = client.post("/api/messages", b'{"payload":1}', content_type="application/json")
    assert answer.status_code == 202
    assert client.get(answer.json()["data"]["links"]["self"]).json()["data"]["source"] == "carol"


def test_a_name_that_hides_something_is_written_out(admin_client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_api_key", "eve\u202eroot", "--scope", "read")

    assert "Key of eve\\u202eroot for read." in capsys.readouterr().err
    page = admin_client.get("/admin/dlqsite/apikey/", secure=True).content.decode()
    assert "eve\\u202eroot" in page
    assert "\u202e" not in page


def test_as_json_it_says_everything_once() -> None:
    said = json.loads(run("create_api_key", "dave", "--scope", "read", "--rate", "7", "--json"))

    key = ApiKey.objects.get()
    assert said == {"name": "dave", "prefix": key.prefix, "scopes": ["read"], "apiKey": said["apiKey"]}
    assert key.rate_limit_per_minute == 7
    assert key.is_valid(said["apiKey"])


@pytest.mark.parametrize(
    "arguments",
    [["x"], ["x", "--scope", "root"], ["x" * 51, "--scope", "read"], ["x", "--scope", "read", "--rate", "-1"]],
)
def test_a_key_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        run("create_api_key", *arguments)
    assert not ApiKey.objects.exists()


def test_what_was_sent_is_in_the_ledger() -> None:
    said = json.loads(run("send_messages", "--count", "250", "--fail-share", "0.5", "--seed", "1", "--json"))

    assert (said["asked"], said["sent"], said["accepted"], said["refused"]) == (250, 250, 250, {})
    assert [(row.type, row.accepted) for row in ledger().accounting(1)] == [("demo", 250)]


def test_what_was_refused_is_counted_by_its_code() -> None:
    out = StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command("send_messages", "--count", "5", "--type", "nobody.knows", "--json", stdout=out)

    assert ended.value.code == 1
    assert json.loads(out.getvalue())["refused"] == {"unknown_type": 5}


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(CommandError, match="Stopped after 0 of 5") as refused:
        run("send_messages", "--count", "5", "--url", "http://127.0.0.1:1", "--api-key", "x")

    assert refused.value.returncode == 1


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--fail-share", "2"], ["--rate", "-1"], ["--url", "ftp://x"]])
def test_arguments_out_of_range_are_refused(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        run("send_messages", *arguments)


@pytest.mark.django_db(transaction=True)
def test_over_rest_the_answers_decide(live_server: Any) -> None:
    key = run("create_api_key", "carol", "--scope", "submit", "--rate", "1").strip()

    out = StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command(
            "send_messages", "--count", "150", "--url", live_server.url, "--api-key", key, "--json", stdout=out
        )

    said = json.loads(out.getvalue())
    assert ended.value.code == 2
    assert (said["accepted"], said["refused"]) == (100, {"rate_limited": 50})
