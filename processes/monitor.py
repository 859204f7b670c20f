"""End a process whose interpreter is held: ``python monitor.py PID LIMIT NAME PARENT``, its beats on standard input.

A program of its own: code that holds the interpreter of a process stops every thread of it, a watching one as well.
``LIMIT``: seconds without a beat after which the process is killed. When the process has ended, by itself or not, the
children that it left behind in its process group are ended, but for those of ``PARENT``, its own parent.

Only time that the process really had counts as silence. The clock is this program's own turns, so a host that was
suspended or a container that was paused lost no time. A process that is stopped by a signal or a debugger has none
either. On a loaded machine, a process that waits for a CPU or a disk has only the CPU time that it gets.

Uses the standard library only and imports nothing of this project, so it is small and starts at once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

#: Seconds for which the killed process may write where its threads stand, and for which children may end by themselves.
LAST_WORDS_S = 1.0
CHILDREN_S = 5.0
#: Asks the process for the stacks of its threads; see ``watchdog``.
STACKS = signal.SIGUSR2
#: Ends a process that SIGKILL cannot end: the first one of a container. See ``watchdog``.
EXIT = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 5
_TICKS = os.sysconf("SC_CLK_TCK")
#: Counts as a beginning.
_LEAST_S = 1e-6


def watch(pid: int, limit_s: float, name: str) -> None:
    """Read beats until the process has ended."""
    turn_s = min(1.0, limit_s / 20)
    silent_s = cpu_s = 0.0
    while os.getppid() == pid:
        if select.select([0], [], [], turn_s)[0]:
            if not os.read(0, 65536):
                break  # it ends, or watches itself no more
            silent_s = 0.0
        else:
            before_s, cpu_s = cpu_s, cpu_seconds(pid)
            # The first silent turn has no earlier figure to compare with.
            used_s = cpu_s - before_s if silent_s else turn_s
            silent_s += turn_s if all_asleep(pid) else max(min(used_s, turn_s), _LEAST_S)
        if silent_s >= limit_s:
            end(pid, name, silent_s)
            silent_s = 0.0


def all_asleep(pid: int) -> bool:
    """Whether every thread sleeps, as threads do that wait for the interpreter. True if unknown."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(its.state == "S" for thread in threads if (its := stat(f"{pid}/task/{thread}")))


def cpu_seconds(pid: int) -> float:
    """CPU time of the process so far; 0 if unknown."""
    its = stat(str(pid))
    return its.cpu_s if its else 0.0


def end(pid: int, name: str, silent_s: float) -> None:
    """Have the process write its stacks and kill it, unless it beats after all."""
    line = {
        "event": "process_mute", "role": name, "pid": pid, "silent_s": round(silent_s, 1),
        "why": "something holds its interpreter; the stacks name it", "level": "critical",
        "time": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    with suppress(OSError):
        os.write(2, json.dumps(line).encode() + b"\n")
    os.kill(pid, STACKS)
    if select.select([0], [], [], LAST_WORDS_S)[0]:
        return
    os.kill(pid, signal.SIGKILL)
    if not has_ended(pid, LAST_WORDS_S):
        os.kill(pid, EXIT)


def has_ended(pid: int, within_s: float) -> bool:
    """Whether the process that started this one ends in time."""
    until = time.monotonic() + within_s
    while os.getppid() == pid:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


class Stat(NamedTuple):
    state: str
    parent: int
    group: int
    cpu_s: float


def stat(path: str) -> Stat | None:
    """What the kernel says of a process or thread below ``/proc``; None when there is none."""
    try:
        with open(f"/proc/{path}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(fields[0].decode(), int(fields[1]), int(fields[2]), (int(fields[11]) + int(fields[12])) / _TICKS)


def left_behind(group: int, but_of: int) -> list[int]:
    """The processes of a group. Not those whose parent is ``but_of``: a shell puts a whole pipeline into one group."""
    with suppress(OSError):
        found = [(int(entry), stat(entry)) for entry in os.listdir("/proc") if entry.isdigit()]
        return [pid for pid, its in found if its and its.state != "Z" and its.group == group and its.parent != but_of]
    return []


def end_children(group: int, but_of: int) -> None:
    """End what the process left behind in its group: SIGTERM, and SIGKILL for those that do not end in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left_behind(group, but_of):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        until = time.monotonic() + CHILDREN_S
        while left_behind(group, but_of) and time.monotonic() < until:
            time.sleep(0.2)


def main() -> None:
    # Signals for the whole group or unit mean the process; this one ends after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid, limit_s, name = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    its_parent = int(sys.argv[4])
    with suppress(ProcessLookupError):  # it ended by itself at the last moment
        watch(pid, limit_s, name)
    if has_ended(pid, CHILDREN_S):
        end_children(pid, its_parent)


if __name__ == "__main__":
    main()
