"""How this project takes part: its real endpoints and commands, as the local stack starts them, with everything on.

On: API key with its scope check, rate limit (counted and judged, but never reached), idempotency, circuit breakers,
attempt history, accounting, request log, Redis with its append-only file, dead letters with majority and journal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from . import places
from .contestants import Consumer, Intake, Site, System, Work
from .load import Request
from .processes import Child, plain_environment, run
from .stores import OURS_DATABASE

_BATCH = 100
_KEY_FILE = "ours.key"


def environment(site: Site, **more: str) -> dict[str, str]:
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


def prepare(site: Site, **more: str) -> None:
    """Tables, indexes and an API key, once per series and database."""
    command = [places.OURS_PYTHON, "-m", "benchmarks.inside", "prepare", str(site.folder / _KEY_FILE)]
    run(command, env=environment(site, **more), cwd=places.PROJECT)


def _serve(site: Site, **more: str) -> list[Child]:
    command = [places.OURS_PYTHON, "-m", "gunicorn", "--config", "gunicorn.conf.py", "dlqsite.wsgi:application"]
    child = Child(command, env=environment(site, **more), cwd=places.PROJECT, log=site.logs / "ours-web.log")
    return [child.answered(site.http_port)]


def _message(work: Work, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": f"bench.{work}", "payload": payload, "source": "shop", "priority": "normal", "tags": ["eu", "web"]}


def api_key(site: Site) -> str:
    return (site.folder / _KEY_FILE).read_text()


def _headers(site: Site) -> dict[str, str]:
    return {"Authorization": f"Api-Key {api_key(site)}"}


def _single(site: Site, work: Work, payload: Mapping[str, Any]) -> Request:
    return Request("/api/messages", json.dumps(_message(work, payload), separators=(",", ":")), _headers(site))


def _batch(site: Site, work: Work, payload: Mapping[str, Any]) -> Request:
    body = json.dumps({"messages": [_message(work, payload)] * _BATCH}, separators=(",", ":"))
    return Request("/api/messages/batch", body, _headers(site), messages=_BATCH)


def start_system(site: Site, **more: str) -> dict[str, Child]:
    """The processes of the local stack that take part in a replay or a soak, by role, with these settings.

    The caller stops them. Returns when the web server answers.
    """
    settings = environment(site, **more)
    children = {"web": _serve(site, **more)[0]}
    for role, command in (("worker", "run_worker"), ("dlq_worker", "run_dlq_worker")):
        log = site.logs / f"ours-{role}.log"
        program = [places.OURS_PYTHON, "manage.py", command]
        children[role] = Child(program, env=settings, cwd=places.PROJECT, log=log)
    return children


def _work(processes: int, concurrency: int) -> Callable[[Site, Work], list[Child]]:
    def start(site: Site, work: Work) -> list[Child]:
        settings = environment(site, WORKER_CONCURRENCY=str(concurrency))
        command = [places.OURS_PYTHON, "manage.py", "run_worker"]
        log = site.logs / "ours-worker.log"
        return [Child(command, env=settings, cwd=places.PROJECT, log=log) for _ in range(processes)]

    return start


def _fill(site: Site, work: Work, total: int) -> None:
    command = [places.OURS_PYTHON, "-m", "benchmarks.inside", "fill", f"bench.{work}", str(total)]
    run(command, env=environment(site), cwd=places.PROJECT)


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
_WEB_ONE = Intake("ours-w1", partial(_serve, WEB_PROCESSES="1"), _single)
_WEB_BATCH = Intake("ours-batch100", _serve, _batch)
_WORKER = _consumer(10, noop=25_000)

INTAKES = (_WEB, _WEB_ONE, _WEB_BATCH)
CONSUMERS = (_WORKER, _consumer(10, 2, noop=35_000), _consumer(50, noop=25_000))
SYSTEMS = (System("ours", _WEB, _WORKER),)
