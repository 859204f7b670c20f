"""What intake or an import accepts as tag, source or error type: REST, batch, command and console find it alike."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from dlq_app.services import importing
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.people import member, signed_in, with_key
from management.tests.commands import run
from messages_app.domain.parsing import parse_envelope
from messages_app.rest.validation import check

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

LABELS = (
    "vip", " vip", "vip ", " ", "👨\u200d👩\u200d👧", "🏴\U000e0067\U000e0062\U000e007f", "a\u00a0b", "a\u202fb",
    "a\u3000b", "so\u00adft", "\u0645\u06cc\u200c\u062e", "\ue000", "\U0001fae8", "$ne", "a,b", "=1", "--all", "x" * 64,
)  # fmt: skip
FIELDS = {"tag": "--tag", "source": "--source", "errorType": "--error-type"}


@pytest.fixture
def rig(letters: Any, intake: Any) -> Rig:
    return Rig(letters, intake)


def test_every_label_that_comes_in_is_found_everywhere(rig: Rig) -> None:
    api, browser = with_key("admin"), signed_in(member("administrator"))
    for number, label in enumerate(LABELS):
        check(parse_envelope(json.dumps({"payload": 1, "source": label, "tags": [label]})))
        rig.die(f"m-{number}", tags=(label,), source=label, error_type=label)
    for number, label in enumerate(LABELS):
        for name in FIELDS:
            found = api.get("/api/dlq", {name: label}).json()
            assert [one["messageId"] for one in found.get("data", ())] == [f"m-{number}"], (name, label, found)
        body = {"filter": dict.fromkeys(FIELDS, label), "dryRun": True}
        dry = api.post("/api/dlq/replay-batch", json.dumps(body), content_type="application/json").json()
        assert [one["messageId"] for one in dry["data"]["sample"]] == [f"m-{number}"], (label, dry)
        flags = [f"{flag}={label}" for flag in FIELDS.values()]
        assert json.loads(run("replay_dlq", *flags, "--dry-run", "--json"))["sample"][0]["messageId"] == f"m-{number}"
        page = browser.get("/admin/dlq_app/deadletter/?" + urlencode(dict.fromkeys(FIELDS, label))).content.decode()
        assert page.count('class="action-select"') == 1, label
        assert f">m-{number}<" in page


@pytest.mark.parametrize("label", ["\x1b[31m", "a\nb", "\u2028", "\x85", "", "x" * 101])
def test_what_cannot_be_a_label_is_refused_at_the_door(rig: Rig, label: str) -> None:
    line = {
        "messageId": "m-1", "type": "demo", "status": "dlq_manual", "errorType": "E", "errorKind": "unknown",
        "lastFailedAt": "2026-11-24T12:00:00Z", "originalMessage": "1",
    }  # fmt: skip
    for change in ({"errorType": label}, {"metadata": {"tags": [label]}}, {"metadata": {"source": label}}):
        if change == {"metadata": {"source": ""}}:
            continue  # nobody said one
        summary = importing.import_lines(io.BytesIO(json.dumps({**line, **change}).encode()).read, actor="t")
        assert (summary.imported, summary.refused) == (0, 1), change
        assert "must be a text of 1 to" in summary.errors[0][1]


def test_labels_that_an_earlier_version_took_are_found(rig: Rig) -> None:
    odd = "a\x1b[31m\nb"
    rig.die("m-1", tags=(odd,), source=odd, error_type=odd)

    for name in FIELDS:
        assert [one["messageId"] for one in with_key("read").get("/api/dlq", {name: odd}).json()["data"]] == ["m-1"]
