"""How reading holds up when there are many dead letters: ``python -m benchmarks.scale --count 200000 --count 1000000``.

Starts a Redis, a mongod and the web server on free ports of 127.0.0.1, loads letters, times requests over HTTP on one
connection with an API key, one after the other, and prints a table for each number of letters. With ``--mongodb-url``
and ``--database`` letters that are loaded already are used, and nothing is written but what reading writes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pymongo

from dlq_app.store import indexes
from dlq_app.store.mongo import LETTERS

from . import ours, places
from .contestants import Site
from .load_letters import load
from .processes import Child, run
from .stores import Stores


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Api-Key {key}"}

    def get(self, path: str) -> tuple[float, int, Any]:
        """Milliseconds, status and JSON of one answer."""
        begun = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        raw = answer.read()
        took = (time.perf_counter() - begun) * 1000
        return took, answer.status, json.loads(raw)


def questions(database: Any) -> Iterator[tuple[str, str]]:
    """What is asked, as (name, path). Values come from the letters that are there."""
    letters = database[LETTERS]
    some = letters.find_one({"status": "dlq_failed"}, skip=1000)
    day = timedelta(days=1)
    begin, end = (datetime.now(UTC) - n * day for n in (29, 28))
    iso = "%Y-%m-%dT%H:%M:%SZ"
    lists: list[tuple[str, dict[str, Any]]] = [
        ("as it opens", {}),
        ("page 500 by number", {"page": 500}),
        ("one status", {"status": "dlq_failed"}),
        ("open", {"status": ["dlq_pending", "dlq_processing", "dlq_failed", "dlq_manual"]}),
        ("kind, few", {"errorKind": "unknown"}),
        ("priority", {"priority": "high"}),
        ("source, few", {"source": "back-office"}),
        ("tag, many", {"tag": "eu"}),
        ("tag, few", {"tag": "black-week"}),
        ("type and status", {"type": "search.index", "status": "dlq_pending"}),
        ("error type and source, few", {"errorType": "TIMEOUT_ERROR", "source": "back-office"}),
        ("error type and source, many", {"errorType": "TIMEOUT_ERROR", "source": "shop"}),
        ("error type and type, few", {"errorType": "UNKNOWN_ERROR", "type": "order.created"}),
        ("error type and kind, none", {"errorType": "TIMEOUT_ERROR", "errorKind": "permanent"}),
        ("priority and source", {"priority": "high", "source": "batch"}),
        ("group, open", {"fingerprint": some["fingerprint"], "status": ["dlq_failed", "dlq_manual"]}),
        ("tag and error type", {"tag": "vip", "errorType": "AUTHENTICATION_ERROR"}),
        ("one day, a month ago", {"from": begin.strftime(iso), "to": end.strftime(iso)}),
        ("word, common", {"search": "answer"}),
        ("word, rare", {"search": some["messageId"].split("-")[1]}),
        ("words, common and no match", {"search": "order refused"}),
        ("word and status", {"search": "answer", "status": "dlq_manual"}),
        ("beginning of an id", {"search": some["messageId"][:5]}),
    ]
    lists += [(f"sort {sort}", {"sort": sort}) for sort in ("createdAt", "messageId", "-status", "errorType", "type")]
    lists += [("one source, sort createdAt", {"source": "crm", "sort": "createdAt"})]
    yield from ((f"list: {name}", f"/api/dlq?{urlencode(query, doseq=True)}") for name, query in lists)
    customer = next(one for one in some["facets"] if one.startswith("customerId="))
    open_ = ["dlq_pending", "dlq_processing", "dlq_failed", "dlq_manual"]
    facets: list[tuple[str, dict[str, Any]]] = [
        ("of open letters", {"status": open_}),
        ("of all letters", {}),
        ("of a group", {"fingerprint": some["fingerprint"], "status": open_}),
        ("of a type, few open", {"type": "search.index", "status": "dlq_pending"}),
        ("of a common word", {"search": "answer"}),
        ("type, source, client, version", {"by": ["type", "source", "client", "codeVersion"]}),
    ]
    yield from ((f"facets: {name}", f"/api/dlq/facets?{urlencode(query, doseq=True)}") for name, query in facets)
    filters: list[tuple[str, dict[str, Any]]] = [
        ("facet, many", {"facet": "customerId=c-0"}),
        ("facet, few", {"facet": customer}),
        ("facet, one", {"facet": some["facets"][1]}),
        ("facet and status", {"facet": "customerId=c-0", "status": "dlq_manual"}),
        ("two facets", {"facet": ["customerId=c-0", some["facets"][1]]}),
        ("client", {"client": "key:shop"}),
    ]
    yield from ((f"list: {name}", f"/api/dlq?{urlencode(query, doseq=True)}") for name, query in filters)
    yield "one letter", f"/api/dlq/{some['_id']}"
    yield "stats", "/api/dlq/stats"
    yield "groups", "/api/dlq/groups"
    yield "groups: filtered, by last failure", "/api/dlq/groups?errorType=TIMEOUT_ERROR&state=ongoing&sort=-lastSeen"
    yield "one group", f"/api/dlq/groups/{some['fingerprint']}"


def deep(client: Client, steps: int = 30) -> float:
    """Median milliseconds of a page by cursor, far into the list."""
    path, took = "/api/dlq?limit=100", []
    for _ in range(steps):
        ms, _, page = client.get(path)
        took.append(ms)
        path = f"/api/dlq?limit=100&cursor={page['pagination']['nextCursor']}"
    return statistics.median(took)


def measure(site: Site, url: str, database: str, repeat: int) -> None:
    """Time every question and print a table."""
    held = pymongo.MongoClient(url, tz_aware=True)[database]
    for derived in ("dlq_figures", "dlq_groups"):
        held.drop_collection(derived)
    environment = ours.environment(site, MONGODB_URL=url, MONGODB_DATABASE=database)
    key_file = site.folder / "scale.key"
    run([places.OURS_PYTHON, "-m", "benchmarks.inside", "prepare", str(key_file)], env=environment, cwd=places.PROJECT)
    server = Child(
        [places.OURS_PYTHON, "-m", "gunicorn", "--config", "gunicorn.conf.py", "dlqsite.wsgi:application"],
        env=environment,
        cwd=places.PROJECT,
        log=site.logs / "scale-web.log",
    )
    try:
        server.answering(site.http_port)
        client = Client(site.http_port, key_file.read_text())
        print(f"\n{held[LETTERS].estimated_document_count()} letters\n")
        print("| question | ms median | ms most | matches |\n|---|---|---|---|")
        first, status, _ = client.get("/api/dlq/stats")
        print(f"| stats, the first ever (status {status}) | {first:.0f} | | |", flush=True)
        deadline = time.monotonic() + 90
        while client.get("/api/dlq/stats")[1] != 200 and time.monotonic() < deadline:
            time.sleep(1)
        client.get("/api/dlq/groups")  # describes every group once
        for name, path in questions(held):
            answers = [client.get(path) for _ in range(repeat)]
            took = [ms for ms, _, _ in answers]
            _, status, body = answers[-1]
            page = body.get("pagination", {}) if status == 200 else {}
            total = f"{page['total']}{'+' if page['totalIsCapped'] else ''}" if page else ""
            said = total if status == 200 else f"{status} {body.get('code')}"
            print(f"| {name} | {statistics.median(took):.1f} | {max(took):.0f} | {said} |", flush=True)
        print(f"| list: 100 letters by cursor, 30 pages on | {deep(client):.1f} | | |")
        kept = held["dlq_figures"].find_one({}, {"cost_ms": 1})
        print(f"\nCounting all figures took {kept['cost_ms'] if kept else 0:.0f} ms.")
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reading with many dead letters.")
    parser.add_argument("--count", type=int, action="append", help="letters to load; may be repeated")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--mongodb-url", default="", help="where letters are loaded already")
    parser.add_argument("--database", action="append", help="beside --mongodb-url; may be repeated")
    options = parser.parse_args()
    folder, logs = places.HOME / "scale", places.HOME / "logs"
    stores = Stores(folder, logs)
    try:
        site = Site(stores, places.free_port(), folder, logs)
        if options.mongodb_url:
            for database in options.database or ["dlq"]:
                measure(site, options.mongodb_url, database, options.repeat)
            return
        for count in options.count or [200_000, 1_000_000]:
            database = f"scale_{count}"
            held: Any = stores.mongo[database]
            print(f"{count} letters in {load(held[LETTERS], count):.0f} s", file=sys.stderr)
            with pymongo.timeout(900):
                indexes.ensure(held, keep_resolved_days=90)
            measure(site, stores.ours_mongodb_url, database, options.repeat)
    finally:
        stores.stop()


if __name__ == "__main__":
    main()
