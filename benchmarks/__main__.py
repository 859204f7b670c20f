"""``python -m benchmarks``: run a series, or print the tables of a recorded one."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import machine, ours, peers, places, report, series, targets
from .contestants import Field, Site
from .processes import DidNotStart
from .stores import Stores

#: What is run without ``--all``: the rivals that the project's targets name.
_CORE = {
    "express-bull", "django-stock-sync", "django-stock-gthread", "bull-c10", "bull-c50", "rq-simple", "celery-prefork2",
    "celery-threads10", "dramatiq-t10",
}  # fmt: skip

#: What is run without naming a measure: about half an hour.
_SHORT = [measure for measure in series.MEASURES if measure not in ("payload", "waiting", "replay", "soak")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = f"{', '.join(series.MEASURES)}; targets: what the table of targets needs; without: all but the long ones"
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=known)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="just these contestants")
    parser.add_argument("--all", action="store_true", help="every peer, not just the ones that targets name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement")
    parser.add_argument("--connections", default="32,64", help="HTTP connections, comma separated")
    tries = "how often a disturbed measurement is made at most; without: 2, and 1 for targets, which has a time limit"
    parser.add_argument("--tries", type=int, help=tries)
    parser.add_argument("--waiting", type=int, default=100_000, help="messages that wait, in the measure of that name")
    parser.add_argument("--replay-letters", type=int, default=20_000, help="letters of the replay batch")
    parser.add_argument("--replay-beside", type=int, default=220_000, help="letters stored beside the batch")
    parser.add_argument("--soak-minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=places.HERE / "out" / time.strftime("%Y%m%d-%H%M%S.jsonl"))
    parser.add_argument("--list", action="store_true", help="name the contestants and end")
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="print recorded series and end")
    return parser


def _field(only: list[str] | None, everyone: bool) -> Field:
    def wanted(name: str) -> bool:
        return name in only if only else everyone or name.startswith("ours") or name in _CORE

    return Field(
        intakes=[each for each in (*ours.INTAKES, *peers.INTAKES) if wanted(each.name)],
        consumers=[each for each in (*ours.CONSUMERS, *peers.CONSUMERS) if wanted(each.name)],
        systems=[each for each in (*ours.SYSTEMS, *peers.SYSTEMS) if wanted(each.name)],
    )


def main() -> int:
    options = _parser().parse_args()
    if options.report:
        recorded = report.read(options.report)
        print(report.markdown(recorded) + "\n" + targets.costs(recorded) + "\n" + targets.table(recorded))
        return 0
    everything = "targets" in options.measures
    if everything and len(options.measures) > 1:
        sys.exit("targets cannot be combined with other measures")
    field = _field(options.only, options.all or options.list or everything)
    names = [each.name for group in (field.intakes, field.consumers, field.systems) for each in group]
    if options.list:
        print("\n".join(dict.fromkeys(names)))
        return 0
    places.require(peers=any(not name.startswith("ours") for name in names))
    wanted = targets.MEASURES if everything else options.measures or _SHORT
    plan = series.Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        connections=tuple(int(number) for number in options.connections.split(",")),
        tries=options.tries or (1 if everything else 2),
        soak_minutes=options.soak_minutes,
        waiting=options.waiting,
        replay_letters=options.replay_letters,
        replay_beside=options.replay_beside,
    )
    # A terminated series stops its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with places.only_series():
        failures = _measure(options, names, wanted, field, plan, everything)
    recorded = report.read([options.out])
    print("\n" + report.markdown(recorded))
    if everything:
        print(targets.costs(recorded) + "\n" + targets.table(recorded))
    print(f"rows: {options.out}")
    return 1 if failures else 0


def _measure(
    options: argparse.Namespace,
    names: Sequence[str],
    wanted: Iterable[str],
    field: Field,
    plan: series.Plan,
    only_targets: bool,
) -> int:
    """Run the series into ``options.out``; return how many measurements failed."""
    stores = Stores(places.HOME / "data", places.HOME / "logs")
    try:
        site = Site(stores, places.free_port(), places.HOME / "data", places.HOME / "logs")
        if any(name.startswith("ours") for name in names):
            ours.prepare(site)
        about = {"measure": "about", "at": time.strftime("%Y-%m-%d %H:%M")}
        about |= machine.description() | stores.versions()
        print(json.dumps(about), flush=True)
        with options.out.open("a") as rows:
            rows.write(json.dumps(about) + "\n")
        chosen = {"chosen": targets.needed} if only_targets else {}
        return series.run(wanted, site, field, plan, options.out, lambda line: print(line, flush=True), **chosen)
    finally:
        stores.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (places.Missing, DidNotStart) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
