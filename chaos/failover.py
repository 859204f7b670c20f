"""Fail-over of MongoDB, measured: the primary of three is killed while messages die, and during a replay batch."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos import effects, judge
from chaos.run import PREFIX, wait_until_quiet
from chaos.stores import CannotRun, Store, hello, primary_of
from chaos.traffic import Submitter
from chaos.world import Topology, World

#: Seconds that a batch may take.
_BATCH_S = 600.0


@dataclass
class Reader:
    """Reads letters four times a second, as a page of the console does, and counts the answers."""

    world: World
    answers: list[tuple[float, int]] = field(default_factory=list)

    def start(self) -> Reader:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stopping.wait(0.25):
            try:
                status = self.world.running.call("GET", "/api/dlq?limit=1").status
            except OSError:
                status = 0
            self.answers.append((time.monotonic(), status))

    def stop(self, since: float) -> dict[str, Any]:
        """Answers since the fault, and the seconds from it to the last answer that was no 200."""
        self._stopping.set()
        self._thread.join(40)
        after = [(at, status) for at, status in self.answers if at >= since]
        bad = [at - since for at, status in after if status != 200]
        return {
            "answers": dict(Counter(status for _, status in after)),
            "goodAgainAfterS": round(max(bad, default=0.0), 1),
        }


def failover(messages: int, letters: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Both experiments on one system; the result of each, and whether every invariant holds."""
    with World(topology=Topology(mongo=3), proxied=False) as world:
        tell(f"{messages} messages die at 400 a second; the primary is killed.")
        deaths = _deaths(world, messages, tell)
        tell(f"A batch replays {letters} letters; the primary is killed.")
        batch, submitted = _batch(world, letters, tell)
        left = wait_until_quiet(world, lambda: False)
        code = world.stop_roles()
        sent = {**deaths.pop("sent"), **submitted}
        books = judge.read(world.redis_client(), world.mongo_client()["dlq"], sent, effects.read(world.effects), PREFIX)
        verdict = judge.judge(books)
        verdict.add("nothing is left under way", left)
        verdict.add("the roles stop cleanly", [f"exit code {code}"] if code else [])
        return {
            "holds": verdict.holds,
            "violations": verdict.violations,
            "deaths": deaths,
            "batch": batch,
            "books": judge.summary(books),
        }


def _kill_primary(world: World) -> tuple[Store, float]:
    """Kill it; the killed member and the time."""
    victim = primary_of(world.mongo)
    if victim is None or victim.server.process is None:
        raise CannotRun("MongoDB has no primary")
    victim.server.process.kill()
    victim.server.process.wait()
    return victim, time.monotonic()


def _new_primary(world: World, victim: Store, at: float) -> float:
    """Seconds until another member is the primary. The victim stays down until then."""
    others = [member for member in world.mongo if member is not victim]
    while primary_of(others) is None:
        if time.monotonic() > at + 60:
            raise CannotRun("no new primary within 60 s")
        time.sleep(0.1)
    return round(time.monotonic() - at, 1)


def _rejoin(world: World, victim: Store) -> None:
    deadline = time.monotonic() + 60
    while not {"isWritablePrimary", "secondary"} & {
        key for key, value in hello(victim.server.port).items() if value is True
    }:
        if time.monotonic() > deadline:
            raise CannotRun(f"{victim.name} does not join again")
        world.wait(0.2)


def _count(world: World, where: Mapping[str, Any], collection: str = "dead_letters") -> int:
    with world.mongo_client() as client:
        return int(client["dlq"][collection].count_documents(where))


def _deaths(world: World, messages: int, tell: Callable[[str], None]) -> dict[str, Any]:
    submitter = Submitter(
        world.running, 400, 5, prefix="died", threads=12, mix={"permanent": 1}, limit=messages
    ).start()
    reader = Reader(world).start()
    time.sleep(2)
    before = _count(world, {})
    victim, at = _kill_primary(world)
    elected_s = _new_primary(world, victim, at)
    tell(f"  killed with {before} letters; a new primary after {elected_s} s")
    while submitter.busy or _count(world, {}) < messages:
        if time.monotonic() > at + 180:
            break
        world.wait(0.2)
    complete_s = round(time.monotonic() - at, 1)
    readers = reader.stop(at)
    _rejoin(world, victim)
    tell(f"  all letters {complete_s} s after the kill")
    return {
        "sent": submitter.sent,
        "lettersWhenKilled": before,
        "newPrimaryAfterS": elected_s,
        "allLettersAfterS": complete_s,
        "submissions": dict(submitter.answers),
        "readers": readers,
    }


def _batch(world: World, letters: int, tell: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Any]]:
    submitter = Submitter(world.running, 500, 9, prefix="again", threads=16, mix={"once": 1}, limit=letters).start()
    while submitter.busy or _count(world, {"metadata.tags": "once"}) < letters:
        world.wait(0.5)
    order = {"filter": {"tag": "once"}, "name": "fail-over", "reason": "the primary is killed"}
    reply = world.running.call("POST", "/api/dlq/replay-batch", order)
    if reply.status not in (200, 202):
        raise CannotRun(f"the batch was not started: {reply.status} {reply.raw[:300]!r}")
    batch_id, begun = str(reply.data["batchId"]), time.monotonic()
    while _count(world, {"outcome": {"$ne": None}}, "replay_items") < letters // 5:
        world.wait(0.05)
    victim, at = _kill_primary(world)
    elected_s = _new_primary(world, victim, at)
    tell(f"  killed after {at - begun:.1f} s; a new primary after {elected_s} s")
    found: dict[str, Any] = {}
    while not found.get("finishedAt") and time.monotonic() < at + _BATCH_S:
        world.wait(0.3)
        reply = world.running.get(f"/api/dlq/replay-batches/{batch_id}")
        found = reply.data if reply.status == 200 else found
    finished_s = round(time.monotonic() - at, 1)
    tell(f"  finished {finished_s} s after the kill: {found.get('counts')}")
    _rejoin(world, victim)
    figures = {
        "killedAfterS": round(at - begun, 1),
        "newPrimaryAfterS": elected_s,
        "finishedAfterKillS": finished_s,
        "stage": found.get("stage"),
        "counts": found.get("counts"),
    }
    return figures, dict(submitter.sent)
