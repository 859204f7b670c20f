"""A chaos run: traffic and replays under planned faults, then quiet, then the judge."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError
from redis import RedisError

from chaos import effects, judge
from chaos.faults import Injector, deck, kinds, plan
from chaos.stores import CannotRun
from chaos.traffic import KINDS, Operator, Submitter
from chaos.world import TOPOLOGIES, World
from dlqsite.tests.journeys.rig import ROOT

PREFIX = "dlq:"
#: Seconds after the faults until nothing may be under way: the sweep looks at claims that are five minutes old, and a
#: DLQ worker deletes the plan of a batch whose start was never confirmed after ten.
QUIET_LIMIT_S = 780.0
#: Automatic replays of the last messages would otherwise be waited for.
_AUTOMATIC_S = 70.0
#: Complaints of health that faults explain: a breaker counts the failures of a handler, also those during a pause. A
#: fail-over of Redis can lose steps, which stays reported until a person acknowledges it.
_EXPLAINED = {"breakers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is run. The same seed, duration, topology and version give the same plan of faults and messages."""

    seconds: float
    seed: int
    topology: str = "single"
    rate: float = 40.0
    workers: int = 2


def chaos(options: Options, tell: Callable[[str], None], keep: Path | None = None) -> dict[str, Any]:
    """Run once and return the result, as written to ``summary.json``. ``keep``: a folder for logs of a bad run."""
    with (
        thread_errors() as own_errors,
        World(topology=TOPOLOGIES[options.topology], workers=options.workers, seed=options.seed) as world,
    ):
        roles = list(world.pids())
        disks = world.data.mounted and all(store.disk.mounted for store in world.stores)
        others = ["postgres"] if world.postgres else []
        names = [store.name for store in world.stores]
        sentinels = [sentinel.name for sentinel in world.redis.sentinels] if world.redis else []
        faults = plan(options.seed, options.seconds, deck(roles, names, others, sentinels, disks=disks))
        tell(
            f"Seed {options.seed}: {len(faults)} faults in {options.seconds:.0f} s over {', '.join(roles)} and stores."
        )
        submitter = Submitter(
            world.running, options.rate, options.seed, automatic_until_s=max(0.0, options.seconds - _AUTOMATIC_S)
        ).start()
        operator = Operator(world.running, submitter, options.seed).start()
        injector = Injector(world, tell)
        injector.run(faults, options.seconds)
        operator.stop()
        submitter.stop()
        ended_early = world.running.process.poll() is not None
        begun = time.monotonic()
        left = wait_until_quiet(world, lambda: submitter.busy)
        quiet_s = time.monotonic() - begun
        tell(f"Quiet {quiet_s:.1f} s after the last fault." if not left else f"Not quiet: {', '.join(left)}.")
        health = _health(world, _EXPLAINED | ({"losses"} if len(world.redis_stores) > 1 else set()))
        code = world.stop_roles()
        client, database = world.redis_client(), world.mongo_client()["dlq"]
        books = judge.read(client, database, submitter.sent, effects.read(world.effects), PREFIX)
        books.wrong_repeats = submitter.wrong_repeats
        books.failovers = world.redis.failovers() if world.redis else 0
        verdict = judge.judge(books)
        verdict.add("nothing is left under way", left)
        verdict.add("health has no complaint that lasts", health)
        verdict.add("the supervisor outlives every fault and stops cleanly", _ending(ended_early, code))
        verdict.add("no process is left behind", world.left_behind())
        verdict.add("reconcile finds no difference", _reconcile(world))
        verdict.add("no thread of this program ended by an error", own_errors)
        if keep is not None and not verdict.holds:
            _copy_logs(world, keep)
        return {
            "seed": options.seed,
            "seconds": options.seconds,
            "topology": options.topology,
            "holds": verdict.holds,
            "violations": verdict.violations,
            "faults": {
                "planned": len(faults),
                "happened": dict(kinds(injector.done)),
                "disks": "filled" if disks else "not filled: no permission to mount a file system",
                "list": injector.done,
            },
            "traffic": _traffic(submitter),
            "operator": {"batches": len(operator.batches), "answers": dict(operator.answers.most_common())},
            "quietAfterS": round(quiet_s, 1),
            "restarts": {store.name: store.server.starts - 1 for store in world.stores},
            "books": judge.summary(books),
            "errors": _errors(world),
        }


@contextmanager
def thread_errors() -> Iterator[list[str]]:
    """Collect the errors that end threads of this program: without its clients a run proves less than it says."""
    errors: list[str] = []
    before = threading.excepthook

    def note(failed: threading.ExceptHookArgs) -> None:
        errors.append(f"{failed.thread.name if failed.thread else 'a thread'}: {failed.exc_value!r}")
        before(failed)

    threading.excepthook = note
    try:
        yield errors
    finally:
        threading.excepthook = before


def _traffic(submitter: Submitter) -> dict[str, Any]:
    latencies = sorted(submitter.latencies_ms)
    return {
        "sent": len(submitter.sent),
        "accepted": submitter.accepted(),
        "answers": dict(submitter.answers.most_common()),
        "p50Ms": round(latencies[len(latencies) // 2], 1) if latencies else None,
        "longestGapS": round(submitter.longest_gap_s[0], 1),
        "gapBeganAtS": round(submitter.longest_gap_s[1], 1),
    }


def wait_until_quiet(world: World, busy: Callable[[], bool]) -> list[str]:
    """Wait until no client is busy and nothing is under way; what still is after ``QUIET_LIMIT_S``."""
    deadline = time.monotonic() + QUIET_LIMIT_S
    while True:
        left = ["clients wait for an answer"] if busy() else _under_way(world)
        if not left or time.monotonic() > deadline or world.running.process.poll() is not None:
            return left
        world.wait(0.5)


def _under_way(world: World) -> list[str]:
    found: dict[str, int] = {}
    try:
        with world.redis_client() as client:
            found |= {name: int(client.zcard(PREFIX + name)) for name in judge.UNDER_WAY}
        with world.mongo_client() as mongo:
            database = mongo["dlq"]
            automatic = [name for name, kind in KINDS.items() if kind.automatic]
            found["open items of batches"] = database["replay_items"].count_documents({"outcome": None})
            found["active batches"] = database["replay_batches"].count_documents({"active": True})
            found["letters in a replay"] = database["dead_letters"].count_documents({"status": "dlq_processing"})
            found["letters that replay soon"] = database["dead_letters"].count_documents(
                {"status": "dlq_pending", "metadata.tags": {"$in": automatic}}
            )
    except (RedisError, PyMongoError, CannotRun) as error:
        return [f"a store does not answer: {type(error).__name__}"]
    return [f"{count} {name}" for name, count in found.items() if count]


def _health(world: World, explained: set[str]) -> list[str]:
    """Complaints that last for half a minute."""
    deadline = time.monotonic() + 30
    while True:
        try:
            checks = world.running.get("/api/system/health").data["checks"]
        except Exception as error:  # any problem is what is reported
            complaints = [f"health does not answer: {error!r}"]
        else:
            complaints = [
                f"{name}: {check.get('detail')}"
                for name, check in checks.items()
                if check["status"] != "healthy" and name not in explained
            ]
        if not complaints or time.monotonic() > deadline or world.running.process.poll() is not None:
            return complaints
        world.wait(1.0)


def _ending(ended_early: bool, code: int) -> list[str]:
    return (["it ended during the run"] if ended_early else []) + ([f"exit code {code}"] if code else [])


def _reconcile(world: World) -> list[str]:
    done = subprocess.run(
        [sys.executable, "manage.py", "reconcile", "--json"],
        cwd=ROOT,
        env=world.running.environment | {"SECRET_KEY": (world.running.data_dir / "secret_key").read_text().strip()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return [] if done.returncode == 0 else [(done.stdout + done.stderr)[-2000:]]


def _errors(world: World) -> dict[str, int]:
    """Lines of level error in the logs of the roles, by role and event."""
    found: Counter[str] = Counter()
    for path in (world.running.data_dir / "logs").glob("*.log*"):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                with suppress(ValueError):
                    entry = json.loads(line)
                    if entry.get("level") in ("error", "critical"):
                        found[f"{path.name.split('.')[0]}: {str(entry.get('event'))[:80]}"] += 1
    return dict(found.most_common(30))


def _copy_logs(world: World, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    sources = [*(world.running.data_dir / "logs").glob("*"), world.running.folder / "up.log", world.effects]
    for source in (*sources, *(store.server.log for store in world.stores)):
        if source.is_file():
            (keep / source.name).write_bytes(source.read_bytes())


def page(result: dict[str, Any]) -> str:
    """The result on one page."""
    traffic, faults, books = result["traffic"], result["faults"], result["books"]
    lines = [
        f"Chaos, seed {result['seed']}, {result['seconds']:.0f} s, {result['topology']}: "
        + ("every invariant holds." if result["holds"] else "AN INVARIANT IS BROKEN."),
        "",
        f"  faults     {_counts(faults['happened'])}; disks {faults['disks']}",
        f"  traffic    {traffic['accepted']} of {traffic['sent']} messages accepted, p50 {traffic['p50Ms']} ms, "
        f"longest gap {traffic['longestGapS']} s from second {traffic['gapBeganAtS']:.0f}",
        f"  answers    {_counts(traffic['answers'])}",
        f"  replays    {result['operator']['batches']} batches; items {_counts(books['items'])}",
        f"  ends       {_counts(books['states'])}; letters {_counts(books['letters'])}",
        f"  lost       {books['lostProcesses']} runs with a lost process, {books['givenUp']} given up",
        f"  quiet      {result['quietAfterS']} s after the last fault",
        "",
        invariants(result),
    ]
    return "\n".join(lines)


def invariants(result: dict[str, Any]) -> str:
    """Each invariant on one line, with the first violations."""
    lines = []
    for name, found in result["violations"].items():
        lines.append(f"  {'ok    ' if not found else 'BROKEN'}  {name}" + (f": {len(found)}" if found else ""))
        lines += [f"            {one}" for one in found[:5]]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
