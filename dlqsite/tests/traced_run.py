"""One message from intake to its replay, in a process of its own: OpenTelemetry can be set up once per process.

    python -m dlqsite.tests.traced_run URL

URL: a ``Receiver``, which first answers 503, then 302, then 200. Prints what tests compare with the spans.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any
from urllib.request import urlopen

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PAYLOAD = "the-payload-of-nobody-else"


def main(url: str) -> dict[str, Any]:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dlqsite.settings")
    import django
    from django.conf import settings

    host = url.split("/")[2]

    def answer(mode: str) -> None:
        with urlopen(f"http://{host}/-/mode?to={mode}", data=b""):
            pass

    settings.DELIVERY_POLICY = {"hosts": {host: {"schemes": ["http"], "allow_private": True, "unsigned": True}}}
    settings.RETRY_POLICY = {"default": {"max_retries": 1, "base_delay_ms": 1, "max_delay_ms": 1}}
    django.setup()

    from dlq_app.services import dead_letters
    from dlq_app.services.dead_letters import record_outcomes
    from dlq_app.services.replaying import Replayed
    from dlq_app.store.repository import letters
    from messages_app import services
    from messages_app.domain.clients import Client
    from messages_app.rest.intake import submit
    from messages_app.store.ledger import ledger
    from messages_app.work.draining import drain

    body = json.dumps({"type": "http.deliver", "messageId": "m1", "payload": {"url": url, "body": PAYLOAD}}).encode()
    head = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), "HTTP_TRACEPARENT": PARENT}
    reply = submit(head, io.BytesIO(body).read, Client(label="key:test", rate_key="test"))
    assert reply.status == 202, reply.body
    book = ledger()

    def run() -> str:
        record = book.get("m1")
        assert record is not None
        return services.process("m1", record.epoch, record.attempt)

    answer("unavailable")
    outcomes = [run()]
    until = time.monotonic() + 10
    while not book.due(10).moved:
        assert time.monotonic() < until
    answer("redirect")
    outcomes.append(run())
    assert drain(book, record_outcomes) == 1
    letter = letters().find("m1")
    assert letter is not None
    assert isinstance(dead_letters.replay("m1", actor="test"), Replayed)
    answer("ok")
    outcomes.append(run())
    assert drain(book, record_outcomes) == 1
    return {"outcomes": outcomes, "letter": letter.traceparent, "modules": sorted(sys.modules)}


def break_down() -> None:
    """An error of the web, then the end of a thread that the process cannot do without."""
    from unittest.mock import patch

    from django.test import Client

    from processes.essential import Essential

    def broken(*_: object) -> None:
        body = {"payload": PAYLOAD}
        raise RuntimeError(f"broken with {len(body)} fields, password=hunter22")

    with patch("dlqsite.health.report.LiveView.get", broken):
        answer = Client(raise_request_exception=False).get(
            f"/api/system/live?why={PAYLOAD}", headers={"host": "localhost"}
        )
    assert answer.status_code == 500
    Essential(broken, "loop").start()
    time.sleep(60)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
    sys.stdout.flush()
    if os.environ.get("SENTRY_DSN"):
        break_down()
