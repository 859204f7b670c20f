"""Drafts of edited payloads: no refusal loses what a person typed, and nobody else sees it."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pymongo.database import Database

from dlq_app.admin.letters import drafts
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.models import EditDraft
from dlq_app.services import dead_letters
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake, a_death, a_document
from dlqsite.tests.people import member, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis]

LIST = "/admin/dlq_app/deadletter/"
EDITED = '{"route": "eu-2-edited"}'


@pytest.fixture(autouse=True)
def _empty(store: Database[dict[str, Any]], redis_client: Any, intake: MemoryIntake) -> None:
    """Each test starts with empty stores."""


@pytest.fixture
def url(store: Database[dict[str, Any]]) -> str:
    body = json.dumps({"route": "eu-1", "token": "t-secret-1"}).encode()
    return f"{LIST}{store.dead_letters.insert_one(a_document(death=a_death('m-1', body=body))).inserted_id}/"


def page(client: Client, url: str, status: int = 200) -> str:
    answer = client.get(url)
    assert answer.status_code == status, answer
    return answer.content.decode()


def send(client: Client, url: str, step: str = "send", payload: str = EDITED, **more: str) -> Any:
    return client.post(f"{url}edit/", {"payload": payload, "reason": "other route", "step": step, **more})


def test_an_open_breaker_bars_it_like_a_replay(url: str, operator: Client, intake: MemoryIntake) -> None:
    intake.open_types["payment.capture"] = 12_000

    html = page(operator, f"{url}change/")

    assert f'href="{url}edit/"' not in html
    assert "payment.capture is open: a replay now would be refused." in html


def test_a_payload_that_chooses_its_breaker_may_be_edited_to_go_elsewhere(
    url: str, operator: Client, intake: MemoryIntake
) -> None:
    intake.destinations["payment.capture"] = ("eu-1", "eu-2")
    intake.open_types["eu-1"] = 12_000
    assert f'href="{url}edit/"' in page(operator, f"{url}change/")

    there = send(operator, url, "preview", '{"route": "eu-1", "n": 2}').content.decode()
    assert "eu-1 is open: a replay now would be refused." in there
    assert 'value="send"' not in there
    assert 'value="send"' in send(operator, url, "preview", '{"route": "eu-2"}').content.decode()
    assert send(operator, url, "send", '{"route": "eu-2"}').status_code == 302
    assert len(intake.forwarded) == 1


def test_a_version_that_the_breaker_refuses_stays_on_the_page_and_as_a_draft(
    url: str, operator: Client, intake: MemoryIntake
) -> None:
    assert 'value="send"' in send(operator, url, "preview").content.decode()
    intake.open_types["payment.capture"] = 12_000

    refused = send(operator, url)

    assert refused.status_code == 409
    said = refused.content.decode()
    assert "The circuit breaker payment.capture is open; m-1 was not changed." in said
    assert "Your version is kept as a draft." in said
    assert "eu-2-edited" in said
    assert "You have a draft of an edited payload" in page(operator, f"{url}change/")
    again = page(operator, f"{url}edit/")
    assert "eu-2-edited" in again
    assert "other route" in again
    assert "This is your draft of" in again

    intake.open_types.clear()
    assert send(operator, url).status_code == 302
    assert not EditDraft.objects.exists()
    assert "eu-2-edited" not in page(operator, f"{url}edit/")


def test_every_other_refusal_keeps_it_too(
    url: str, operator: Client, intake: MemoryIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(operator, url, payload='{"route": "broken-1",}').status_code == 400
    assert "broken-1" in page(operator, f"{url}edit/")

    dead_letters.replay("m-1", actor="user:other")
    assert send(operator, url, payload='{"route": "second-2"}').status_code == 409
    assert "second-2" in page(operator, f"{url}edit/")

    def unavailable(*_: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(Letters, "find", unavailable)
        away = send(operator, url, payload='{"route": "third-3"}')
    assert away.status_code == 503
    assert "Your edited payload is kept as a draft." in away.content.decode()
    assert "third-3" in page(operator, f"{url}edit/")


def test_it_is_seen_by_its_author_alone(url: str, operator: Client, viewer: Client) -> None:
    send(operator, url, "preview")
    other = signed_in(member("operator", name="otto"))

    assert "eu-2-edited" not in page(other, f"{url}edit/")
    assert "You have a draft" not in page(other, f"{url}change/")
    assert viewer.get(f"{url}edit/").status_code == 403
    send(other, url, "preview", '{"route": "his-own"}')
    assert "eu-2-edited" in page(operator, f"{url}edit/")


def test_it_holds_no_hidden_value_and_is_not_readable_in_the_database_or_logs(
    url: str, operator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        send(operator, url, "preview", '{"token": "•••", "key": "typed-secret"}')
        page(operator, f"{url}edit/")

    (row,) = EditDraft.objects.values_list()
    assert "typed-secret" not in str(row)
    assert "typed-secret" not in caplog.text
    assert "t-secret-1" not in page(operator, f"{url}edit/")


def test_it_can_be_discarded(url: str, operator: Client) -> None:
    send(operator, url, "preview")

    assert operator.post(f"{url}edit/", {"payload": EDITED, "step": "discard"}).status_code == 302
    assert not EditDraft.objects.exists()
    assert "eu-2-edited" not in page(operator, f"{url}edit/")


def test_drafts_are_few_bounded_and_expire(url: str, operator: Client, store: Database[dict[str, Any]]) -> None:
    letters = [f"{n:024x}" for n in range(drafts.MAX_DRAFTS + 3)]
    for letter_id in letters:
        operator.post(f"{LIST}{letter_id}/edit/", {"payload": EDITED, "step": "preview"})
    assert sorted(EditDraft.objects.values_list("letter_id", flat=True)) == letters[3:]

    answer = send(operator, url, "preview", '"' + "x" * drafts.MAX_DRAFT + '"')
    assert "kept as a draft" not in answer.content.decode()

    send(operator, url, "preview")
    EditDraft.objects.update(saved_at=timezone.now() - timedelta(days=15))
    assert "eu-2-edited" not in page(operator, f"{url}edit/")
    assert EditDraft.delete_expired() == drafts.MAX_DRAFTS
    assert not EditDraft.objects.exists()


def test_a_draft_of_another_secret_key_is_forgotten(url: str, operator: Client) -> None:
    send(operator, url, "preview")
    (sealed,) = EditDraft.objects.values_list("sealed", flat=True)
    EditDraft.objects.update(sealed=sealed[:-8] + "AAAAAAAA")

    assert "eu-2-edited" not in page(operator, f"{url}edit/")
