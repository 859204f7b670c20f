"""How this project takes part: its real endpoints and commands, as the local stack starts them, with everything on.

On: API key with its scope check, rate limit (counted and judged, but never reached), idempotency, circuit breakers,
attempt history, accounting, request log, Redis with its append-only file, dead letters with majority and journal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from . import places
from .contestants import Consumer, Intake, Site, System, Work
from .load import PAYLOAD, Request
from .processes import Child, plain_environment, run
from .stores import OURS_DATABASE

_BATCH = 100
_KEY_FILE = "ours.key"


def _environment(site: Site, **more: str) -> dict[str, str]:
    return plain_environment() | {
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        "DATA_DIR": str(site.folder),
        "REDIS_URL": site.stores.redis_url,
        "MONGODB_URL": site.stores.ours_mongodb_url,
        "MONGODB_DATABASE": OURS_DATABASE,
        "DATABASE_URL": f"sqlite:///{site.folder / 'ours.sqlite3'}",
        "SECRET_KEY": "of-the-benchmark-only-" * 3,
        "HTTPS": "false",
        "BIND": f"127.0.0.1:{site.http_port}",
        **more,
    }


def prepare(site: Site) -> None:
    """Tables, indexes and an API key, once per series."""
    command = [places.OURS_PYTHON, "-m", "benchmarks.inside", "prepare", str(site.folder / _KEY_FILE)]
    run(command, env=_environment(site), cwd=places.PROJECT)


def _serve(site: Site) -> list[Child]:
    command = [places.OURS_PYTHON, "-m", "gunicorn", "--config", "gunicorn.conf.py", "dlqsite.wsgi:application"]
    child = Child(command, env=_environment(site), cwd=places.PROJECT, log=site.logs / "ours-web.log")
    return [child.answered(site.http_port)]


def _message(work: Work) -> dict[str, Any]:
    return {"type": f"bench.{work}", "payload": PAYLOAD, "source": "shop", "priority": "normal", "tags": ["eu", "web"]}


def _headers(site: Site) -> dict[str, str]:
    return {"Authorization": f"Api-Key {(site.folder / _KEY_FILE).read_text()}"}


def _single(site: Site, work: Work) -> Request:
    return Request("/api/messages", json.dumps(_message(work), separators=(",", ":")), _headers(site))


def _batch(site: Site, work: Work) -> Request:
    body = json.dumps({"messages": [_message(work)] * _BATCH}, separators=(",", ":"))
    return Request("/api/messages/batch", body, _headers(site), messages=_BATCH)


def _work(processes: int, concurrency: int) -> Callable[[Site, Work], list[Child]]:
    def start(site: Site, work: Work) -> list[Child]:
        environment = _environment(site, WORKER_CONCURRENCY=str(concurrency))
        command = [places.OURS_PYTHON, "manage.py", "run_worker"]
        log = site.logs / "ours-worker.log"
        return [Child(command, env=environment, cwd=places.PROJECT, log=log) for _ in range(processes)]

    return start


def _fill(site: Site, work: Work, total: int) -> None:
    command = [places.OURS_PYTHON, "-m", "benchmarks.inside", "fill", f"bench.{work}", str(total)]
    run(command, env=_environment(site), cwd=places.PROJECT)


def _ended(outcome: str, site: Site, work: Work, total: int) -> int:
    """From the accounts of today's (and, around midnight, yesterday's) messages of this type."""
    today = datetime.now(UTC)
    pipeline = site.stores.redis.pipeline(transaction=False)
    for day in (today, today - timedelta(days=1)):
        pipeline.hget(f"dlq:acct:{day:%Y%m%d}:bench.{work}", outcome)
    return sum(int(count or 0) for count in pipeline.execute())


def _consumer(concurrency: int, processes: int = 1, *, noop: int) -> Consumer:
    return Consumer(
        name=f"ours-c{concurrency}" + (f"-x{processes}" if processes > 1 else ""),
        in_flight=concurrency * processes,
        start=_work(processes, concurrency),
        fill=_fill,
        ended=partial(_ended, "done"),
        database=OURS_DATABASE,
        expected={Work.NOOP: noop, Work.SLEEP20: 50 * concurrency, Work.FAIL: 4000, Work.STAMP: 0},
    )


_WEB = Intake("ours", _serve, _single)
_WEB_BATCH = Intake("ours-batch100", _serve, _batch)
_WORKER = _consumer(10, noop=25_000)

INTAKES = (_WEB, _WEB_BATCH)
CONSUMERS = (_WORKER, _consumer(10, 2, noop=35_000), _consumer(50, noop=25_000))
SYSTEMS = (System("ours", _WEB, _WORKER),)
