"""``python -m chaos run``: random faults for a while. ``python -m chaos failover``: MongoDB's primary is killed.

The result is one page on the terminal and a JSON file in the output folder.
Exit code 0: every invariant holds. 1: one is broken. 2: it could not run.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError
from redis import RedisError

from chaos import failover, run
from chaos.stores import CannotRun
from chaos.world import TOPOLOGIES


def _say(text: str) -> None:
    print(text, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    faults = commands.add_parser("run", help="random faults of all roles and stores")
    faults.add_argument("--seconds", type=float, default=120, help="duration of the faults (default 120)")
    faults.add_argument("--seed", type=int, help="repeats the plan of an earlier run; default: a new one")
    faults.add_argument(
        "--topology", choices=list(TOPOLOGIES), default="single", help="single, or ha with replica sets"
    )
    faults.add_argument("--rate", type=float, default=40, help="messages a second (default 40)")
    faults.add_argument("--workers", type=int, default=2, help="message worker processes (default 2)")
    mongo = commands.add_parser("failover", help="kill MongoDB's primary while messages die, and during a batch")
    mongo.add_argument("--messages", type=int, default=2000, help="messages that die (default 2000)")
    mongo.add_argument("--letters", type=int, default=5000, help="letters of the batch (default 5000)")
    for command in (faults, mongo):
        command.add_argument("--output", type=Path, default=Path("var/chaos"), help="of the result (default var/chaos)")
    return parser.parse_args()


def _result(chosen: argparse.Namespace) -> dict[str, Any]:
    if chosen.command == "failover":
        return failover.failover(chosen.messages, chosen.letters, _say)
    seed = secrets.randbelow(100_000) if chosen.seed is None else chosen.seed
    options = run.Options(
        seconds=chosen.seconds, seed=seed, topology=chosen.topology, rate=chosen.rate, workers=chosen.workers
    )
    return run.chaos(options, _say, chosen.output / f"logs-{seed}")


def main() -> int:
    chosen = _arguments()
    # Leaving by an exception stops everything that was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen.output.mkdir(parents=True, exist_ok=True)
    try:
        result = _result(chosen)
    except CannotRun as error:
        _say(f"Cannot run: {error}")
        return 2
    except (RedisError, PyMongoError) as error:
        _say(f"BROKEN: a store does not answer after the faults: {error}")
        return 1
    except KeyboardInterrupt:
        _say("Interrupted; everything is stopped.")
        return 2
    name = "failover" if chosen.command == "failover" else "summary"
    (chosen.output / f"{name}.json").write_text(json.dumps(result, indent=2, default=str) + "\n")
    _say("\n" + (run.page(result) if chosen.command == "run" else run.invariants(result)))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
