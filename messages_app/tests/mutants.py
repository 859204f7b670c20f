"""What a guard is worth: leave each out of the scripts, one at a time, and see which test fails.

``python -m messages_app.tests.mutants`` runs the ledger's tests once per guard and prints the table; it exits 1 when a
guard can be left out unnoticed. Guards are the lines marked ``--[g]``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

#: Names one mutant to the tests of a mutation run.
VARIABLE = "LEDGER_MUTANT"
TESTS = ("messages_app/tests/test_ledger.py", "messages_app/tests/test_ledger_upkeep.py",
         "messages_app/tests/test_ledger_replay.py", "messages_app/tests/test_ledger_claims.py")  # fmt: skip

_FOLDER = Path(__file__).resolve().parent.parent / "lua"
_GUARD = re.compile(r"^.*--\[g\].*$", re.MULTILINE)
_WHOLE = re.compile(r"^\s*(if .* then .* end|write_accounts\(\)|wake\(.*\)|wake_again\(lane\))\s*--\[g\]")
_OPENING = re.compile(r"^(\s*)(if|elseif) .* then\s*--\[g\]")

#: Guards that are more than a condition to drop: what may stand there when they are left out.
_REPLACED = {
    "if count > now then fence = string.format('%.0f', count) end": ["", "fence = string.format('%.0f', count)"],
    "if highest > now then epoch = string.format('%.0f', highest) end": [
        "",
        "epoch = string.format('%.0f', highest + 1)",
    ],
    "rows = again(token) or rows": [""],
    "local rows = again(token)": ["local rows"],
    "if wait and number < retries then": ["if wait then"],
    "if record.recoveries < LOSSES_MAX then return queue(id, record) end": ["do return queue(id, record) end"],
    "local letter_has_it = state == 'dead_pending' and old_epoch <= death_seen": [
        "local letter_has_it = false",
        "local letter_has_it = state == 'dead_pending'",
    ],
}


def guards() -> list[tuple[str, str]]:
    """(file, line) of every guard, in order."""
    return [
        (path.relative_to(_FOLDER).with_suffix("").as_posix(), found[0])
        for path in sorted(_FOLDER.rglob("*.lua"))
        for found in _GUARD.finditer(path.read_text(encoding="utf-8"))
    ]


def without(line: str) -> list[str]:
    """What may stand in the place of a guarded line when the guard is left out."""
    code = line.split("--[g]")[0].strip()
    if code in _REPLACED:
        return _REPLACED[code]
    if _WHOLE.match(line):
        return [""]
    opening = _OPENING.match(line)
    if opening is None:
        raise ValueError(f"no way to leave out: {line!r}")
    return [f"{opening[1]}{opening[2]} false then"]


def every_mutant() -> dict[str, tuple[str, str]]:
    """Mutants by name: the guarded line and what stands there instead."""
    return {
        f"{file}:{number}.{way}": (line, instead)
        for number, (file, line) in enumerate(guards())
        for way, instead in enumerate(without(line))
    }


def changed(source: str, mutant: str) -> str:
    """The source, without the guard that ``mutant`` names if it holds it."""
    if not mutant:
        return source
    line, instead = every_mutant()[mutant]
    return source.replace(line, instead)


def _first_failure(mutant: str) -> str | None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS],
        env={**os.environ, VARIABLE: mutant},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", run.stdout, re.MULTILINE)
    return failed[1] if failed else run.stdout[-300:]


def main() -> int:
    survivors = 0
    for mutant, (line, instead) in every_mutant().items():
        failure = _first_failure(mutant)
        survivors += failure is None
        what = line.split("--[g]")[1].strip() + (f" -> {instead.strip()}" if instead else "")
        sys.stdout.write(f"{mutant:20} {what[:70]:70} {failure or 'SURVIVED'}\n")
        sys.stdout.flush()
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
