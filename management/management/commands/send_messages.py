"""Send sample traffic, over REST or straight through intake, and say truthfully what became of it."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import CommandError

from management.terminal import StrictCommand
from messages_app.domain.clients import Client
from messages_app.rest.contract import MAX_BATCH
from messages_app.rest.intake import submit_batch

#: Ways in which the built-in demo handler fails: for good, until retried, for a person to look at.
FAILURES: tuple[dict[str, Any], ...] = (
    {"simulateError": True, "errorType": "TIMEOUT_ERROR"},
    {"simulateError": True, "errorType": "VALIDATION_ERROR"},
    {"simulateError": True, "errorType": "UNKNOWN_ERROR"},
    {"failTimes": 2, "errorType": "NETWORK_ERROR"},
)
_TIMEOUT_S = 30
_BATCHES_PER_SECOND = 10

#: Sends one batch body; gives status, headers that matter, and the answer.
Send = Callable[[bytes], tuple[int, dict[str, Any]]]


class Command(StrictCommand):
    help = (
        "Send sample messages. Exit code 0: all accepted, 2: some were not, 1: nothing could be sent. "
        "Messages that a rate limit or a breaker rejects are counted as refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=100, metavar="N", help="Messages to send (100)")
        parser.add_argument("--rate", type=float, default=0.0, metavar="N", help="Messages per second; 0 for no limit")
        parser.add_argument(
            "--fail-share",
            type=float,
            default=0.0,
            metavar="0-1",
            help="Share of messages that fail in different ways",
        )
        parser.add_argument("--type", default="demo", help="Type of the messages (demo)")
        parser.add_argument(
            "--url", help="Send over REST to this address, like http://127.0.0.1:8000; else in this process"
        )
        parser.add_argument("--api-key", default="", help="For --url; without it the variable DLQ_API_KEY")
        parser.add_argument("--seed", type=int, help="Make the mix repeatable")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print the summary as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        count, rate, share = options["count"], options["rate"], options["fail_share"]
        if count < 1 or rate < 0 or not 0 <= share <= 1:
            raise CommandError("--count must be at least 1, --rate at least 0, --fail-share from 0 to 1.")
        with ExitStack() as open_things:
            send = self._over_rest(options["url"], options["api_key"], open_things) if options["url"] else _in_process
            self._send_all(send, options)

    def _send_all(self, send: Send, options: dict[str, Any]) -> None:
        count, rate, share = options["count"], options["rate"], options["fail_share"]
        dice = random.Random(options["seed"])  # noqa: S311  # sample data
        size = max(1, min(MAX_BATCH, int(rate / _BATCHES_PER_SECOND))) if rate else min(100, count)
        outcome: Counter[str] = Counter()
        began = time.monotonic()
        sent = 0
        trouble = ""
        while sent < count:
            if rate:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
            messages = list(_sample(options["type"], share, dice, sent, min(size, count - sent)))
            try:
                outcome += _results(*send(json.dumps({"messages": messages}).encode()), len(messages))
            except OSError as error:
                trouble = f"{type(error).__name__}: {error}"
                break
            sent += len(messages)
        self._report(outcome, sent, count, time.monotonic() - began, trouble, options["as_json"])

    def _over_rest(self, url: str, api_key: str, open_things: ExitStack) -> Send:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"{url} is no http or https address.")
        key = api_key or os.environ.get("DLQ_API_KEY", "")
        if not key:
            raise CommandError("--url needs --api-key, or the variable DLQ_API_KEY.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = open_things.enter_context(closing(kind(parts.hostname, parts.port, timeout=_TIMEOUT_S)))
        headers = {"Authorization": f"Api-Key {key}", "Content-Type": "application/json"}
        path = parts.path.rstrip("/") + "/api/messages/batch"

        def send(body: bytes) -> tuple[int, dict[str, Any]]:
            try:
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                text = response.read()
            except http.client.HTTPException as error:
                raise OSError(f"no HTTP answer ({type(error).__name__})") from error
            try:
                answer = json.loads(text)
            except ValueError:
                answer = {}
            return response.status, answer if isinstance(answer, dict) else {}

        return send

    def _report(
        self, outcome: Counter[str], sent: int, count: int, seconds: float, trouble: str, as_json: bool
    ) -> None:
        accepted = outcome["accepted"]
        summary = {
            "asked": count,
            "sent": sent,
            "accepted": accepted,
            "refused": {code: number for code, number in sorted(outcome.items()) if code != "accepted"},
            "seconds": round(seconds, 2),
            "perSecond": round(accepted / seconds, 1) if seconds else 0.0,
        }
        if as_json:
            self.stdout.write(json.dumps(summary | ({"error": trouble} if trouble else {})))
        else:
            self.stdout.write(
                f"{accepted} of {count} accepted in {summary['seconds']} s ({summary['perSecond']} a second)."
            )
            for code, number in summary["refused"].items():  # type: ignore[attr-defined]
                self.stdout.write(f"{number} refused: {code}")
        if trouble:
            raise CommandError(f"Stopped after {sent} of {count}: {trouble}", returncode=1 if not accepted else 2)
        if accepted < count:
            raise SystemExit(2 if accepted else 1)


def _sample(kind: str, share: float, dice: random.Random, start: int, count: int) -> Iterator[dict[str, Any]]:
    for number in range(start, start + count):
        fails = dice.random() < share
        payload = {"number": number, "note": "sample", **(dice.choice(FAILURES) if fails else {})}
        yield {"type": kind, "payload": payload, "tags": ["sample"]}


def _results(status: int, answer: dict[str, Any], count: int) -> Counter[str]:
    """How many were accepted, and how many were refused with which code."""
    if status != http.client.ACCEPTED:
        return Counter({str(answer.get("code", f"status {status}")): count})
    results = answer["data"]["results"]
    return Counter(r["status"] if r["status"] != "rejected" else r["problem"]["code"] for r in results)


def _in_process(body: bytes) -> tuple[int, dict[str, Any]]:
    client = Client(label="command:send_messages", rate_key="command", source="sample", rate_limit_per_minute=0)
    head = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
    reply = submit_batch(head, io.BytesIO(body).read, client)
    return reply.status, json.loads(reply.body)
