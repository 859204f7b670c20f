"""Kill a process whose interpreter is blocked: ``python monitor.py PID LIMIT NAME PARENT``, heartbeats on stdin.

It is a separate program: code that holds the interpreter of a process blocks all of its threads, including a watchdog.
``LIMIT``: seconds without a heartbeat after which the process is killed. When the process has ended for any reason, the
children that it left in its process group are ended, except those of ``PARENT``, its own parent.

Only time in which the process could run counts as silence. The clock is this program's own turns, so a suspended host
or a paused container adds nothing, nor does a process that a signal or a debugger has stopped. On a loaded machine, a
process that waits for a CPU or a disk is charged only the CPU time that it gets.

Every process has one, so it imports as little as possible: nothing of this project, and of the standard library only
modules written in C. ``json``, ``signal``, ``datetime``, ``contextlib`` and ``typing`` would add a third to its memory.
"""

from __future__ import annotations

# What the module `signal` wraps.
import _signal as signal  # type: ignore[import-not-found]
import os
import select
import sys
import time

#: Seconds in which the killed process may write the stacks of its threads, and in which children may exit.
STACKS_WITHIN_S = 1.0
CHILDREN_S = 5.0
#: Asks the process for the stacks of its threads; see ``watchdog``.
STACKS = signal.SIGUSR2
#: Ends a process that SIGKILL cannot end: the first one of a container. See ``watchdog``.
EXIT = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 5
_TICKS = os.sysconf("SC_CLK_TCK")
#: The minimum that counts as silence.
_MIN_SILENCE_S = 1e-6


def watch(pid: int, limit_s: float, name: str) -> None:
    """Read heartbeats until the process has ended."""
    turn_s = min(1.0, limit_s / 20)
    silent_s = cpu_s = 0.0
    while os.getppid() == pid:
        if select.select([0], [], [], turn_s)[0]:
            if not os.read(0, 65536):
                break  # it ends, or stopped its watchdog
            silent_s = 0.0
        else:
            before_s, cpu_s = cpu_s, cpu_seconds(pid)
            # The first silent turn has no earlier figure to compare with.
            used_s = cpu_s - before_s if silent_s else turn_s
            silent_s += turn_s if all_asleep(pid) else max(min(used_s, turn_s), _MIN_SILENCE_S)
        if silent_s >= limit_s:
            end(pid, name, silent_s)
            silent_s = 0.0


def all_asleep(pid: int) -> bool:
    """Whether all threads sleep, as those do that wait for the interpreter. True if unknown."""
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
    """Let the process write its stacks and kill it, unless a heartbeat arrives."""
    try:  # noqa: SIM105 - `contextlib` is one of the large modules
        _log(pid, name, silent_s)
    except Exception:  # noqa: S110 - no log, or too many open files for these imports: it must be killed all the same
        pass
    os.kill(pid, STACKS)
    if select.select([0], [], [], STACKS_WITHIN_S)[0]:
        return
    os.kill(pid, signal.SIGKILL)
    if not has_ended(pid, STACKS_WITHIN_S):
        os.kill(pid, EXIT)


def _log(pid: int, name: str, silent_s: float) -> None:
    import json
    from datetime import UTC, datetime

    line = {
        "event": "process_mute", "role": name, "pid": pid, "silent_s": round(silent_s, 1),
        "why": "something holds its interpreter; the stacks name it", "level": "critical",
        "time": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    os.write(2, json.dumps(line).encode() + b"\n")


def has_ended(pid: int, within_s: float) -> bool:
    """Whether the process that started this one ends within the time."""
    until = time.monotonic() + within_s
    while os.getppid() == pid:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


class Stat:
    def __init__(self, state: str, parent: int, group: int, cpu_s: float) -> None:
        self.state, self.parent, self.group, self.cpu_s = state, parent, group, cpu_s


def stat(path: str) -> Stat | None:
    """The state of a process or thread in ``/proc``; None if it does not exist."""
    try:
        with open(f"/proc/{path}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(fields[0].decode(), int(fields[1]), int(fields[2]), (int(fields[11]) + int(fields[12])) / _TICKS)


def left_behind(group: int, but_of: int) -> list[int]:
    """The processes of a group, except those with the parent ``but_of``: a shell puts a pipeline into one group."""
    try:
        found = [(int(entry), stat(entry)) for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return []
    return [pid for pid, its in found if its and its.state != "Z" and its.group == group and its.parent != but_of]


def end_children(group: int, but_of: int) -> None:
    """End the children that the process left in its group: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left_behind(group, but_of):
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
        until = time.monotonic() + CHILDREN_S
        while left_behind(group, but_of) and time.monotonic() < until:
            time.sleep(0.2)


def main() -> None:
    # Signals to the whole group or unit are for the process; this program ends after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid, limit_s, name = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    its_parent = int(sys.argv[4])
    try:  # noqa: SIM105
        watch(pid, limit_s, name)
    except ProcessLookupError:  # it has just ended
        pass
    if has_ended(pid, CHILDREN_S):
        end_children(pid, its_parent)


if __name__ == "__main__":
    main()
