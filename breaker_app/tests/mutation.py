"""Change the scripts one line at a time and see whether the tests notice.

    python -m breaker_app.tests.mutation [--traces N] [--only acquire,record]

Each mutant is played the conformance cases and, if it survives them, random traces beside the model; the first that
notices is named. What survives is either listed in ``SAME`` with the reason why it changes no rule, or a gap in the
tests: then the exit code is 1. Not part of the test run: it takes minutes. Starts a server of its own.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from redis import Redis, ResponseError

from breaker_app.errors import StoreUnavailable
from breaker_app.store import RedisBreakerStore, on_test_clock
from breaker_app.testing import FakeClock
from breaker_app.tests.bench import POLICIES, Bench, Twins, random_trace
from breaker_app.tests.cases import CASES
from breaker_app.tests.servers import OwnServer
from wire import scripts
from wire.scripts import load_scripts

FILES = ("shared/machine", "acquire", "record", "admin", "peek")

#: (what, pattern, replacement): each match on a code line is one mutant.
CHANGES: tuple[tuple[str, str, str], ...] = (
    (">= to >", r">=", ">"),
    ("<= to <", r"<=", "<"),
    ("> to >=", r"(?<![-<>=~])>(?!=)", ">="),
    ("< to <=", r"(?<![-<>=~])<(?!=)", "<="),
    ("== to ~=", r"==", "~="),
    ("~= to ==", r"~=", "=="),
    ("and to or", r"\band\b", "or"),
    ("or to and", r"\bor\b", "and"),
    ("not dropped", r"\bnot ", ""),
    ("+ to -", r" \+ ", " - "),
    ("- to +", r" - ", " + "),
    ("min to max", r"math\.min", "math.max"),
    ("max to min", r"math\.max", "math.min"),
    ("0 to 1", r"(?<![\w.%\]'{\[-])0(?![\w.,}])", "1"),
    ("1 to 0", r"(?<![\w.%\]'\[#-])1(?![\w.])", "0"),
    ("1000 to 999", r"\b1000\b", "999"),
    ("nil to now", r"\bnil\b", "now"),
    ("'S' to 'F'", r"'S'", "'F'"),
    ("'F' to 'S'", r"'F'", "'S'"),
    ("'I' to 'S'", r"'I'", "'S'"),
    ("'C' to 'M'", r"'C'", "'M'"),
    ("'O' to 'F'", r"'O'", "'F'"),
    ("'H' to 'O'", r"'H'", "'O'"),
    ("'M' to 'C'", r"'M'", "'C'"),
    ("reason blank", r"'(failure_rate|slow_rate|open_time_over|probes_\w+|manual)'", "''"),
    ("field of another", r"'(ok|bad|lost|opens|n|f|sl|ep|until|gen)'", "'junk'"),
)

#: Mutants that change no rule, with the reason. (file, part of the mutated line, what was done)
SAME: dict[tuple[str, str, str], str] = {
    ("shared/machine", "slot > window", ""): "a slot left by a longer window grows old like slot 0",
    ("shared/machine", "if sec <= b.ep or slot", ""): "the same second has returned before",
    ("shared/machine", "to == 'O' and now + open_ms or 1", ""): "the deadline is read in OPEN only",
    ("shared/machine", "b['until'] >= now + open_ms", ""): "equal deadlines are cut to themselves",
    ("shared/machine", "till >= now + lease_ms", ""): "equal leases are cut to themselves",
    (
        "shared/machine",
        "if b.st ~= 'H' then return end",
        "line left out",
    ): "outside HALF_OPEN there is nothing to judge",
    ("shared/machine", "if #row > 1 then", ""): "a row has none or at least two",
    ("shared/machine", "'MAXLEN', '~', 999,", ""): "the stream is trimmed to about a thousand",
}


@dataclass(frozen=True)
class Mutant:
    """One changed line of one file."""

    file: str
    line: int
    change: str
    before: str
    after: str

    def text(self) -> str:
        lines = originals[self.file].split("\n")
        lines[self.line] = self.after
        return "\n".join(lines)


originals = scripts.read_sources("breaker_app")


def mutants() -> Iterator[Mutant]:
    """Every single change of every code line, and every line left out."""
    for file, text in originals.items():
        in_clock = False
        for number, line in enumerate(text.split("\n")):
            in_clock = (in_clock or line == "--@TIME") and line != "--@END"
            code = line.split(" -- ")[0]
            if not code.strip() or code.strip().startswith("--") or in_clock:
                continue
            if not re.match(r"\s*(local function|end\b|return|else$|for .* do$|if .* then$|local FIELDS)", code):
                yield Mutant(file, number, "line left out", line, "")
            for what, pattern, replacement in CHANGES:
                for found in re.finditer(pattern, code):
                    after = code[: found.start()] + found.expand(replacement) + code[found.end() :]
                    yield Mutant(file, number, what, line, after)
            for statement in re.finditer(r"(?<=; )[^;]+|put\([^;]*?\)(?=;| end|$)", code):
                after = code[: statement.start()] + "local _" + code[statement.end() :]
                if after.strip() != "local _":
                    yield Mutant(file, number, "statement left out", line, after)


def play(client: Redis, traces: int) -> str | None:
    """The first case or trace that notices that something is wrong; None when none does."""
    for name, trace in CASES.items():
        client.flushall()
        clock = FakeClock()
        try:
            trace(Bench(RedisBreakerStore(client, clock, timeout_s=5), clock))
        except StoreUnavailable as error:
            return f"error: {error.__cause__}"
        # Whatever a broken script makes of a trace (wrong answer, wrong shape, no such state), it was noticed.
        except (AssertionError, ValueError, KeyError, TypeError, IndexError):
            return name
    try:
        idle(client)
    except AssertionError:
        return "idle breakers are only read"
    for seed in range(traces):
        client.flushall()
        clock = FakeClock(random.Random(seed).choice((0, 999, 1_700_000_000_123)))
        twins = Twins(RedisBreakerStore(client, clock, timeout_s=5), clock, POLICIES[seed % len(POLICIES)])
        try:
            for _ in random_trace(random.Random(seed), twins, 80):
                bounded(client)
        except StoreUnavailable as error:
            return f"error: {error.__cause__}"
        except (AssertionError, ValueError, KeyError, TypeError, IndexError):
            return f"trace {seed}"
    return None


def bounded(client: Redis) -> None:
    """Nothing lives longer than its rule: no lease outside HALF_OPEN, no bucket too many, no field nobody knows."""
    known = {"st", "gen", "until", "ep", "n", "f", "sl", "ok", "bad", "lost", "opens", "left"}
    row: dict[str, str] = {str(key, "ascii"): str(value, "ascii") for key, value in raw(client, "cb:{twin}:s").items()}
    buckets = {key: value for key, value in row.items() if key not in known}
    assert all(re.fullmatch(r"b\d+", field) and not value.startswith("0,") for field, value in buckets.items())
    if row.get("st") != "H":
        assert client.exists("cb:{twin}:p") == 0


def raw(client: Redis, key: str) -> dict[bytes, bytes]:
    """A hash as bytes: the clients here decode nothing."""
    return client.hgetall(key)  # type: ignore[return-value]


def idle(client: Redis) -> None:
    """Admitting calls to an idle breaker writes nothing."""
    client.flushall()
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(client, clock, timeout_s=5), clock)
    bench.acquire(at=0)
    before = client.dump("cb:{orders-db}:s")
    bench.acquire(at=1_000)
    bench.acquire(at=9_000)
    assert client.dump("cb:{orders-db}:s") == before


def compiles(client: Redis, mutant: Mutant) -> bool:
    """Whether the server takes the script at all."""
    verbs = ("acquire", "record", "admin", "peek") if mutant.file == "shared/machine" else (mutant.file,)
    try:
        for verb in verbs:
            client.script_load(load_scripts("breaker_app", on_test_clock)[verb].source)
    except ResponseError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=40)
    parser.add_argument("--only", default=",".join(FILES))
    arguments = parser.parse_args()
    logging.disable()
    server = OwnServer()
    server.start()
    client = server.client
    files = dict(originals)
    scripts.read_sources = lambda package: files
    counts: Counter[str] = Counter()
    survivors = []
    try:
        assert play(client, arguments.traces) is None, "the scripts as they are do not pass"
        for mutant in mutants():
            if mutant.file not in arguments.only.split(","):
                continue
            files[mutant.file] = mutant.text()
            if compiles(client, mutant):
                noticed = play(client, arguments.traces)
                same = reason_for(mutant)
                verdict = noticed or (f"same: {same}" if same else "SURVIVED")
                counts["caught" if noticed else "same" if same else "survived"] += 1
                if verdict == "SURVIVED":
                    survivors.append(mutant)
                where = f"{mutant.file}.lua:{mutant.line + 1}"
                sys.stdout.write(f"{where:15} {mutant.change:18} {verdict:60} {mutant.after.strip()[:90]}\n")
                sys.stdout.flush()
            files[mutant.file] = originals[mutant.file]
    finally:
        server.remove()
    sys.stdout.write(f"\n{dict(counts)}\n")
    return 1 if survivors else 0


def reason_for(mutant: Mutant) -> str | None:
    """Why this mutant changes no rule, if that is known."""
    for (file, part, change), reason in SAME.items():
        if file == mutant.file and part in (mutant.after or mutant.before) and change in ("", mutant.change):
            return reason
    return None


if __name__ == "__main__":
    sys.exit(main())
