"""Run the models. Exit code 1 when an invariant breaks, or when a guard can be dropped without any breaking."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from model.runs import SUITES, Bounds
from model.search import Report, explore


def say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--mutants", action="store_true", help="drop each guard in turn instead")
    parser.add_argument(
        "--trace", action="store_true", help="with each break, the shortest way to it (implies --mutants)"
    )
    parser.add_argument("--narrow", action="store_true", help="only the quick runs")
    parser.add_argument("names", nargs="*", help="only models, or guards, whose name contains one of these")
    options = parser.parse_args(arguments)
    began = time.process_time()
    if options.mutants or options.trace:
        problems = run_mutants(options.names, options.trace)
    else:
        problems = run_models(options.names, options.narrow)
    say(f"{problems or 'no'} problem{'' if problems == 1 else 's'}, {time.process_time() - began:.0f} s of CPU")
    return 1 if problems else 0


def run_models(names: Sequence[str], narrow: bool) -> int:
    problems = 0
    for name, suite in SUITES.items():
        if not wanted(names, name):
            continue
        for bounds in suite.narrow if narrow else suite.narrow + suite.wide:
            report = explore(suite.model(**bounds))
            size = f"{report.states:>8} states {report.moves:>9} moves {report.seconds:5.1f} s"
            say(f"{name:9} {size}  {report.violation or 'holds':6} {told(bounds)}")
            if report.violation:
                problems += 1
                show_trace(report)
    return problems


def run_mutants(names: Sequence[str], trace: bool) -> int:
    problems = 0
    say(f"{'model':9} {'without':75} {'breaks':72} steps")
    for name, suite in SUITES.items():
        for guard in suite.guards:
            if not wanted(names, f"{name} {guard}"):
                continue
            report = first_break(name, guard)
            if report is None:
                problems += 1
                say(f"{name:9} {guard:75} NOTHING: superfluous, or the model does not see what it is for")
                continue
            say(f"{name:9} {guard:75} {report.violation:72} {len(report.trace):>5}")
            if trace:
                show_trace(report)
    return problems


def first_break(name: str, guard: str) -> Report | None:
    """What breaks without this guard, in the first of the model's runs that shows it."""
    suite = SUITES[name]
    for bounds in suite.narrow + suite.wide:
        report = explore(suite.model(dropped=[guard], **bounds))
        if report.violation:
            return report
    return None


def wanted(names: Sequence[str], name: str) -> bool:
    return not names or any(part.lower() in name.lower() for part in names)


def told(bounds: Bounds) -> str:
    return ", ".join(f"{name}={value}" for name, value in bounds.items())


def show_trace(report: Report) -> None:
    for number, label in enumerate(report.trace, 1):
        say(f"      {number:>2}. {label}")


if __name__ == "__main__":
    sys.exit(main())
