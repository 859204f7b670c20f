"""Measures of the whole local stack of this project: a replay batch beside many letters, and a soak."""

from __future__ import annotations

import json
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from dlq_app.store.mongo import LETTERS

from . import machine, ours, replay
from .contestants import Site, System, Work
from .load import PAYLOAD, post_many
from .load_letters import load
from .measures import Row, account, all_ended, running, until
from .stores import OURS_DATABASE

#: Emptied by no other measure: its letters are loaded once per series.
_DATABASE = "dlq_replay"
#: Records of ended messages live this long in a soak, so that a soak of minutes also shows what expires.
_SOAK_TTL_S = 300
_STEP_LIMIT_S = 300.0
#: Redis looks for expired keys at intervals.
_EXPIRY_S = 60


def replay_batch(site: Site, *, letters: int, beside: int) -> Row:
    """Letters per second of one batch without limits, from its start to the last outcome in its plan.

    ``letters`` messages die first, beside ``beside`` dead letters as in life. They stay, resolved: the next round has
    that many more.
    """
    database: Any = site.stores.mongo[_DATABASE]
    site.stores.empty()
    missing = beside - database[LETTERS].estimated_document_count()
    if missing > 0:
        # Before the indexes, which are built from a full collection in a fraction of the time.
        load(database[LETTERS], missing)
    ours.prepare(site, MONGODB_DATABASE=_DATABASE)
    processes = ours.start_system(site, MONGODB_DATABASE=_DATABASE)
    with running(list(processes.values())) as children:
        stack = replay.Stack(_connection(site))
        run = f"bench-{uuid.uuid4().hex[:8]}"
        prepared_s = replay.prepare(stack, run, letters)
        stored = database[LETTERS].estimated_document_count()
        cpu = account(site, children)
        took_s = replay.time_batch(stack, run, letters, look=lambda batch: None)
        row: Row = {"letters": letters, "beside": stored - letters, "prepared_s": prepared_s}
        row["letters_per_s"] = letters / took_s
        row |= cpu.close(letters)
        row["memory_mb"] = machine.memory_mb(children)
        row["roles_mb"] = {role: machine.memory_mb([child])["all"] for role, child in processes.items()}
        return row


def _connection(site: Site) -> Path:
    path = site.folder / "replay-connection.json"
    path.write_text(json.dumps({"url": f"http://127.0.0.1:{site.http_port}", "apiKey": ours.api_key(site)}))
    return path


def soak(site: Site, contestant: System, *, minutes: float, step_s: int = 20, connections: int = 32) -> Row:
    """Memory of each role and size of both stores, step by step, for ``minutes``.

    A step is ``step_s`` of full intake while the worker runs, a second of messages that fail for good, then a pause
    until every message has ended. At the end, what the stores keep once all records have expired.
    """
    site.stores.empty()
    at_start, letters_at_start = _used(site), _letters_bytes(site)
    processes = ours.start_system(site, RECORD_TTL_S=str(_SOAK_TTL_S), BODY_TTL_S=str(_SOAK_TTL_S))
    steps: list[dict[str, float]] = []
    done, failed, begun = 0, 0, time.monotonic()
    with running(list(processes.values())) as children:
        succeeding, failing = (contestant.intake.request(site, work, PAYLOAD) for work in (Work.NOOP, Work.FAIL))
        while not steps or time.monotonic() - begun < minutes * 60:
            before = _used(site)
            posted = int(post_many(site.http_port, succeeding, connections=connections, seconds=step_s)["requests"])
            done += posted
            until(partial(all_ended, site, contestant.consumer, done), _STEP_LIMIT_S, children)
            after = _used(site)
            failed += int(post_many(site.http_port, failing, connections=2, seconds=1)["requests"])
            until(partial(_all_written, site, failed), _STEP_LIMIT_S, children)
            step = {"seconds": time.monotonic() - begun, "messages": done, "letters": failed, "redis_mb": after / 2**20}
            step["redis_bytes"] = (after - before) / posted
            step |= {f"{role}_mb": machine.memory_mb([child])["all"] for role, child in processes.items()}
            steps.append({name: round(value, 1) for name, value in step.items()})
        time.sleep(_SOAK_TTL_S + _EXPIRY_S)
        kept, letters = _used(site) - at_start, _letters_bytes(site) - letters_at_start
    later = steps[len(steps) // 2 :]
    return {
        "messages": done,
        "letters": failed,
        "steps": steps,
        "first_mb": steps[0]["worker_mb"],
        "last_mb": steps[-1]["worker_mb"],
        "later_growth_mb": {role: round(later[-1][f"{role}_mb"] - later[0][f"{role}_mb"], 1) for role in processes},
        # Before the first record expires.
        "redis_bytes_per_message": steps[0]["redis_bytes"],
        "redis_kept_bytes_per_message": round(kept / (done + failed), 2),
        "mongodb_bytes_per_letter": round(letters / max(failed, 1)),
    }


def _all_written(site: Site, letters: int) -> bool:
    return site.stores.letters(OURS_DATABASE) >= letters


def _used(site: Site) -> int:
    memory: Any = site.stores.redis.info("memory")
    return int(memory["used_memory"])


def _letters_bytes(site: Site) -> int:
    """Documents and indexes of the whole database, before compression of the documents."""
    stats = site.stores.mongo[OURS_DATABASE].command("dbStats")
    return int(stats["dataSize"] + stats["indexSize"])
