#!/usr/bin/env python3
"""replay-dlq.py [OPTION]... [--] [ID]...

Replay dead letters over REST, from a machine that has Python 3.8 or newer. Nothing else has to be installed.

The letters are replayed in one batch: those with the given ids (message id or _id), or those that match a filter. The
script shows their number and asks for confirmation, unless --yes is given. Put -- before ids that begin with a dash.

Filters; a letter must match all of them. Repeat an option to allow several values:
  --status STATUS       --error-type TYPE     --error-kind KIND     --type TYPE
  --source SOURCE       --priority PRIORITY   --tag TAG             --fingerprint GROUP
  --client NAME         --code-version TEXT   --facet NAME=VALUE    --search TEXT
  --from INSTANT        --to INSTANT
  --all                 every letter; required when there is no other filter
  --limit N             replay at most N letters

Batch:
  --rate N              letters per second
  --canary N            send N letters first, and the others only if these succeed
  --min-success N       with --canary: continue if at least N of the first succeed (default: all of them)
  --max-failures N      stop when more than N fail
  --max-failure-rate R  stop when a larger share of the outcomes are failures (0 to 1)
  --poison              also letters with WORKER_LOST, which probably kill a worker: each once, alone in a process
  --schedule INSTANT    do not start before this time, for example 2026-11-24T03:12:00Z
  --name TEXT, --reason TEXT

  --dry-run             show what would be replayed; change nothing
  --wait                wait for the outcome of every letter
  --yes                 do not ask
  --json                print the answers of the API, one JSON object per line
  --url URL             address of the system (default: DLQ_URL, else http://127.0.0.1:8000)
  --key-file FILE       file with the API key (default: DLQ_API_KEY). There is no option for the key itself: every
                        user of this machine could read it in the process list.

Exit code: 0 success (with --wait: every letter succeeded), 2 some letters failed or were left out, 1 error.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any, NoReturn

FILTERS = {
    "--status": "status", "--error-type": "errorType", "--error-kind": "errorKind", "--type": "type",
    "--source": "source", "--priority": "priority", "--tag": "tag", "--fingerprint": "fingerprint", "--from": "from",
    "--to": "to", "--search": "search", "--facet": "facet",
    "--client": "client", "--code-version": "codeVersion",
}  # fmt: skip
TEXTS = {"--schedule": "scheduledAt", "--name": "name", "--reason": "reason"}
INTEGERS = {"--limit": "limit", "--canary": "canary", "--min-success": "minSuccess", "--max-failures": "maxFailures"}
NUMBERS = {"--rate": "ratePerSecond", "--max-failure-rate": "maxFailureRate"}
SWITCHES = ("--all", "--poison", "--dry-run", "--wait", "--yes", "--json")
BATCHES = "/api/dlq/replay-batch"
ENDED = ("finished", "cancelled", "stopped")


def fail(text: str) -> NoReturn:
    print("replay-dlq: " + plain(text), file=sys.stderr)
    sys.exit(1)


def plain(text: object) -> str:
    """The text without characters that could control a terminal."""
    return "".join(one if one.isprintable() else " " for one in str(text))


def letters(number: int) -> str:
    return "1 letter" if number == 1 else f"{number} letters"


class Order:
    """The command line: the body of the request, and how to run."""

    def __init__(self, arguments: list[str]) -> None:
        self.body: dict[str, Any] = {}
        self.switches: set[str] = set()
        self.url = os.environ.get("DLQ_URL") or "http://127.0.0.1:8000"
        self.key = os.environ.get("DLQ_API_KEY", "")
        rest = list(arguments)
        while rest:
            flag = rest.pop(0)
            if flag == "--":
                for one in rest:
                    self._add_id(one)
                break
            if flag in ("-h", "--help"):
                print(__doc__.rstrip())
                sys.exit(0)
            if flag in SWITCHES:
                self.switches.add(flag)
            elif flag.startswith("--"):
                flag, equals, value = flag.partition("=")
                if not equals:
                    if not rest:
                        fail(f"{flag} needs a value")
                    value = rest.pop(0)
                self._take(flag, value)
            elif flag.startswith("-"):
                fail(f"there is no {flag}; see --help")
            else:
                self._add_id(flag)
        self._check()

    def _add_id(self, value: str) -> None:
        self.body.setdefault("ids", []).append(_text("an id", value))

    def _take(self, flag: str, value: str) -> None:
        if flag in FILTERS:
            self.body.setdefault("filter", {}).setdefault(FILTERS[flag], []).append(_text(flag, value))
        elif flag in TEXTS:
            self.body[TEXTS[flag]] = _text(flag, value)
        elif flag in INTEGERS:
            if not re.fullmatch("0|[1-9][0-9]*", value):
                fail(f"{flag} must be a whole number")
            self.body[INTEGERS[flag]] = int(value)
        elif flag in NUMBERS:
            if not re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]+)?", value):
                fail(f"{flag} must be a number")
            self.body[NUMBERS[flag]] = float(value)
        elif flag == "--url":
            self.url = value
        elif flag == "--key-file":
            try:
                with open(value, encoding="utf-8", errors="replace") as file:
                    self.key = file.readline().rstrip("\r\n")
            except OSError:
                fail(f"{value} cannot be read")
        else:
            fail(f"there is no {flag}; see --help")

    def _check(self) -> None:
        self.url = self.url.rstrip("/")
        if not re.match("https?://.", self.url):
            fail(f"{self.url} is no http or https address")
        if not self.key:
            fail("set DLQ_API_KEY, or give --key-file")
        if not self.key.isascii() or not self.key.isprintable():
            fail("the API key must be one line of ASCII characters")
        if "--poison" in self.switches:
            self.body["poison"] = True
        if "--all" in self.switches:
            self.body["all"] = True
        minimum = self.body.pop("minSuccess", None)
        if "canary" in self.body:
            self.body["canary"] = {"size": self.body["canary"]}
            if minimum is not None:
                self.body["canary"]["minSuccess"] = minimum
        elif minimum is not None:
            fail("--min-success needs --canary")
        if not {"ids", "filter", "all"} & set(self.body):
            fail("say which letters: ids, a filter, or --all for every letter")


def _text(flag: str, value: str) -> str:
    """An empty value would mean "any" to the API."""
    if not value:
        fail(f"{flag} is empty")
    if re.search(r"[\x00-\x1f\x7f]", value):
        fail(f"{flag} must not contain control characters")
    return value


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send the key, and the order as a GET, to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Api:
    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, method: str, path: str, body: Any = None, *, tries: int = 1, once: str = "") -> Any:
        """``data`` of the answer. No answer, 429 and 503 are tried again; ``once`` is the idempotency key."""
        headers = {"Authorization": f"Api-Key {self._key}", "Accept": "application/json, application/problem+json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if once:
            headers["Idempotency-Key"] = once
        raw = None if body is None else json.dumps(body).encode()
        for attempt in range(tries):
            request = urllib.request.Request(self._url + path, raw, headers, method=method)
            status, answer = self._send(request)
            if status not in (0, 429, 503) or attempt + 1 == tries:
                break
            time.sleep(min(2**attempt, 8))
        try:
            found = json.loads(answer)
            if status in (200, 202):
                return found["data"]
            words = f"{found['code']}: {found['detail']}"
        except (ValueError, KeyError, TypeError):
            words = "no JSON in the answer"
        fail(f"{status} {words}" if status else f"{self._url} does not answer: {answer.decode()}")

    def _send(self, request: urllib.request.Request) -> tuple[int, bytes]:
        """Status and body; status 0 and the reason when there is no answer."""
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read()
        except (OSError, ValueError) as error:
            return 0, str(error).encode()
        except Exception as error:  # http.client raises errors of its own for a broken answer
            return 0, type(error).__name__.encode()


def confirm(number: int) -> None:
    if not sys.stdin.isatty():
        fail("there is no terminal to ask at; say --yes")
    print(f"Replay {letters(number)}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        fail("nothing was started")


def show_plan(found: dict[str, Any]) -> None:
    print(f"{letters(found['count'])} would be replayed.")
    left_out = {one["why"]: one["count"] for one in found.get("leftOut") or ()}
    for title, counts in (
        ("by error type", found.get("byErrorType")),
        ("by type", found.get("byType")),
        ("left out", left_out),
    ):
        if counts:
            print(f"  {title}: " + plain(", ".join(f"{name} {number}" for name, number in counts.items())))
    if found.get("failuresAtMost") is not None:
        print(f"  at most {found['failuresAtMost']} of them can fail before the batch stops automatically")


def follow(api: Api, batch: dict[str, Any], address: str, as_json: bool) -> dict[str, Any]:
    """Show the progress of the batch until it has ended."""
    look = 0
    while True:
        counts = batch["counts"]
        line = plain(
            f"{batch['stage']}: {counts['remaining']} of {batch['total']} left, {counts['succeeded']} succeeded, "
            f"{counts['failed']} failed, {counts['skipped']} skipped"
        )
        if as_json:
            print(json.dumps(batch), flush=True)
        elif sys.stdout.isatty():
            print(f"\r{line:78}", end="", flush=True)
        elif look % 3 == 0:
            print(line, flush=True)
        if batch["stage"] in ENDED and not counts["remaining"]:
            return batch
        look += 1
        time.sleep(2)
        # Long enough for a restart of everything.
        batch = api.ask("GET", address, tries=12)


def main() -> int:
    order = Order(sys.argv[1:])
    api, as_json = Api(order.url, order.key), "--json" in order.switches
    found = api.ask("POST", BATCHES, {**order.body, "dryRun": True})
    dry_run = "--dry-run" in order.switches
    if not as_json:
        show_plan(found)
    elif dry_run:
        print(json.dumps(found))
    if dry_run:
        return 0
    # Each id was meant; a filter may match letters that need no replay.
    has_ids = "ids" in order.body
    left_out = has_ids and any(one["why"] != "limit" for one in found.get("leftOut") or ())
    if not found["count"]:
        return 2 if has_ids else 0
    if "--yes" not in order.switches:
        confirm(found["count"])
    # A repeated request with the same key starts nothing twice.
    batch = api.ask("POST", BATCHES, order.body, tries=6, once=uuid.uuid4().hex)
    address = f"/api/dlq/replay-batches/{batch['batchId']}"
    if "--wait" not in order.switches:
        print(
            json.dumps(batch)
            if as_json
            else f"Batch {batch['batchId']} with {letters(batch['total'])}: {order.url}{address}"
        )
        return 0
    try:
        batch = follow(api, batch, address, as_json)
    except KeyboardInterrupt:
        print(
            f"\nThe batch continues. Watch: GET {order.url}{address} - cancel: POST {order.url}{address}/cancel",
            file=sys.stderr,
        )
        return 130
    if not as_json:
        if sys.stdout.isatty():
            print()
        reason = f" ({batch['stopReason']})" if batch.get("stopReason") else ""
        print(plain(f"Batch {batch['batchId']} is {batch['stage']}{reason}: {letters(batch['total'])}"))
        for row in api.ask("GET", f"{address}/report", tries=5):
            print(plain(f"  {row['count']}  {row['outcome']}" + (f"  {row['errorType']}" if row["errorType"] else "")))
    counts = batch["counts"]
    return 2 if batch["stage"] != "finished" or counts["failed"] or counts["skipped"] or left_out else 0


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined, union-attr, unused-ignore]
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)  # nobody reads the output any more
