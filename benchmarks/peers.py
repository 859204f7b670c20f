"""How the peers are started and filled. Their programs are under ``peers/``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import places
from .contestants import Consumer, Intake, Site, System, Work
from .load import PAYLOAD, Request
from .processes import Child, plain_environment, run
from .stores import PEERS_DATABASE

_NODE = places.PEERS / "node"
_QUEUES = places.PEERS / "queues"
_STOCK = places.PEERS / "stock"


def _message(payload: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"source": "shop", "priority": "normal", "tags": ["eu", "web"]}
    return {"type": "order.created", "payload": payload, "metadata": metadata}


def _environment(site: Site, work: Work = Work.NOOP, queue: str = "rq") -> dict[str, str]:
    return plain_environment() | {
        "BENCH_REDIS_PORT": str(site.stores.redis_port),
        "BENCH_MONGO_URL": site.stores.peers_mongodb_url,
        "BENCH_WORK": work.value,
        "BENCH_MESSAGE": json.dumps(_message(PAYLOAD)),
        "BENCH_QUEUE": queue,
        "NODE_ENV": "production",
        "NODE_PATH": str(places.NODE_MODULES),
        "PYTHONPATH": f"{_QUEUES}:{_STOCK}",
    }


def _request(site: Site, work: Work, payload: Mapping[str, Any]) -> Request:
    return Request("/api/messages", json.dumps(_message(payload), separators=(",", ":")), {})


def _served(name: str, command: Callable[[int], list[str]], cwd: Path, queue: str = "rq") -> Intake:
    def start(site: Site) -> list[Child]:
        environment = _environment(site, queue=queue)
        child = Child(command(site.http_port), env=environment, cwd=cwd, log=site.logs / f"{name}.log")
        return [child.answered(site.http_port)]

    return Intake(name, start, _request)


def _node(framework: str, library: str) -> Intake:
    return _served(f"{framework}-{library}", lambda port: ["node", "intake.js", framework, library, str(port)], _NODE)


def _gunicorn(name: str, *shape: str, queue: str = "rq") -> Intake:
    def command(port: int) -> list[str]:
        return [places.peers_python(), "-m", "gunicorn", "shop.wsgi", "-b", f"127.0.0.1:{port}", "-w", "2", *shape,
                "--log-level", "warning", "--keep-alive", "30", "--no-control-socket"]  # fmt: skip

    return _served(name, command, _STOCK, queue)


def _workers(name: str, command: Sequence[str], cwd: Path, processes: int) -> Callable[[Site, Work], list[Child]]:
    def start(site: Site, work: Work) -> list[Child]:
        log = site.logs / f"{name}.log"
        return [Child(command, env=_environment(site, work), cwd=cwd, log=log) for _ in range(processes)]

    return start


def _bull_ended(site: Site, work: Work, total: int) -> int:
    pipeline = site.stores.redis.pipeline(transaction=False)
    pipeline.llen("bull:messages:wait")
    pipeline.llen("bull:messages:active")
    pipeline.zcard("bull:messages:delayed")
    return total - sum(pipeline.execute())


def _counted(site: Site, work: Work, total: int) -> int:
    """Outcomes in the shared breaker's buckets of 10 s, which live for two minutes."""
    newest = int(time.time()) // 10
    pipeline = site.stores.redis.pipeline(transaction=False)
    for bucket in range(newest - 11, newest + 1):
        pipeline.hvals(f"breaker:{bucket}")
    return sum(int(value) for values in pipeline.execute() for value in values)


def _fill_node(library: str, site: Site, work: Work, total: int) -> None:
    run(["node", "fill.js", library, str(total)], env=_environment(site, work), cwd=_NODE)


def _fill_python(library: str, site: Site, work: Work, total: int) -> None:
    run([places.peers_python(), "fill.py", library, str(total)], env=_environment(site, work), cwd=_QUEUES)


def _rates(noop: int, fail: int, in_flight: int, sleep20: int | None = None) -> dict[Work, int]:
    return {Work.NOOP: noop, Work.FAIL: fail, Work.STAMP: 0, Work.SLEEP20: sleep20 or min(noop, 50 * in_flight)}


def _bull(library: str, in_flight: int, processes: int, noop: int, fail: int) -> Consumer:
    name = f"{library}-c{in_flight}" + (f"-x{processes}" if processes > 1 else "")
    command = ["node", "worker.js", library, str(in_flight)]
    return Consumer(
        name=name,
        in_flight=in_flight * processes,
        start=_workers(name, command, _NODE, processes),
        fill=partial(_fill_node, library),
        ended=_bull_ended,
        database=PEERS_DATABASE,
        expected=_rates(noop, fail, in_flight),
    )


def _python(
    name: str, library: str, command: Sequence[str], cwd: Path,
    *, processes: int = 1, in_flight: int, noop: int, fail: int,
) -> Consumer:  # fmt: skip
    return Consumer(
        name=name,
        in_flight=in_flight,
        start=_workers(name, command, cwd, processes),
        fill=partial(_fill_python, library),
        ended=_counted,
        database=PEERS_DATABASE,
        expected=_rates(noop, fail, in_flight),
    )


def _rq(name: str, *arguments: str, in_flight: int = 1, processes: int = 1, noop: int) -> Consumer:
    command = [places.peers_python(), "manage.py", *arguments]
    return _python(name, "rq", command, _STOCK, in_flight=in_flight, processes=processes, noop=noop, fail=noop)


def _celery(name: str, pool: str, in_flight: int) -> Consumer:
    command = [places.peers_python(), "-m", "celery", "-A", "celery_app", "worker", "-P", pool, "-c", str(in_flight),
               "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]  # fmt: skip
    return _python(name, "celery", command, _QUEUES, in_flight=in_flight, noop=900, fail=500)


def _dramatiq(in_flight: int, processes: int = 1) -> Consumer:
    name = f"dramatiq-t{in_flight}" + (f"-x{processes}" if processes > 1 else "")
    command = [places.peers_python(), "-m", "dramatiq", "dramatiq_app", "-p", str(processes), "-t", str(in_flight)]
    return _python(name, "dramatiq", command, _QUEUES, in_flight=in_flight * processes, noop=2000 * processes, fail=900)


def _huey(in_flight: int) -> Consumer:
    consumer = str(places.PEERS_VENV / "bin" / "huey_consumer")
    command = [consumer, "huey_app.huey", "-k", "thread", "-w", str(in_flight), "-q"]
    return _python(f"huey-t{in_flight}", "huey", command, _QUEUES, in_flight=in_flight, noop=2000, fail=800)


EXPRESS_BULL = _node("express", "bull")
EXPRESS_BULLMQ = _node("express", "bullmq")
FASTIFY_BULLMQ = _node("fastify", "bullmq")
STOCK_SYNC = _gunicorn("django-stock-sync", "-k", "sync")
STOCK_GTHREAD = _gunicorn("django-stock-gthread", "-k", "gthread", "--threads", "8")
INTAKES = (EXPRESS_BULL, EXPRESS_BULLMQ, FASTIFY_BULLMQ, STOCK_SYNC, STOCK_GTHREAD)

_BULL_10 = _bull("bull", 10, 1, 12000, 800)
_BULLMQ_10 = _bull("bullmq", 10, 1, 12000, 900)
_SIMPLE = ("rqworker", "default", "--worker-class", "rq.SimpleWorker")
_RQ_SIMPLE = _rq("rq-simple", *_SIMPLE, noop=300)
_CELERY_10 = _celery("celery-threads10", "threads", 10)
_DRAMATIQ_10 = _dramatiq(10)
_HUEY_10 = _huey(10)
CONSUMERS = (
    _BULL_10,
    _bull("bull", 10, 2, 12000, 1200),
    _bull("bull", 50, 1, 12000, 800),
    _BULLMQ_10,
    _bull("bullmq", 50, 1, 12000, 900),
    _RQ_SIMPLE,
    _rq("rq-simple-x10", *_SIMPLE, in_flight=10, processes=10, noop=400),
    _rq("rq-fork", "rqworker", "default", noop=60),
    _celery("celery-prefork2", "prefork", 2),
    _CELERY_10,
    _celery("celery-threads50", "threads", 50),
    _DRAMATIQ_10,
    _dramatiq(10, processes=2),
    _dramatiq(50),
    _HUEY_10,
    _huey(50),
)
SYSTEMS = (
    System("express-bull", EXPRESS_BULL, _BULL_10),
    System("express-bullmq", EXPRESS_BULLMQ, _BULLMQ_10),
    System("fastify-bullmq", FASTIFY_BULLMQ, _BULLMQ_10),
    # The view and server of stock Django, whichever library queues.
    System("django-stock-rq", STOCK_SYNC, _RQ_SIMPLE),
    System("django-celery", _gunicorn("django-celery", "-k", "sync", queue="celery"), _CELERY_10),
    System("django-dramatiq", _gunicorn("django-dramatiq", "-k", "sync", queue="dramatiq"), _DRAMATIQ_10),
    System("django-huey", _gunicorn("django-huey", "-k", "sync", queue="huey"), _HUEY_10),
)
