"""Child processes: started in order, watched, restarted, stopped in reverse order, never left behind.

The kernel tells children when the thread that started them ends (Linux), so a supervisor belongs in the main thread.
Children write to their logs themselves: a stalled supervisor stalls nobody.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from management.child_log import ChildLog
from management.errors import StackError, Stopped
from processes.forks import LOCK_VARIABLE

_LAUNCH = Path(__file__).resolve().parent / "launch.py"

#: Seconds; a child that dies younger than this has died quickly.
QUICK = 10.0
#: So many quick deaths in a row end the stack.
QUICK_DEATHS = 5
#: Seconds to wait before the n-th restart in a row of quick deaths.
BACKOFF = (0.0, 0.2, 0.5, 1.0, 2.0)
#: The same for what is never given up: a store that has served before, and applications while a store is away.
PATIENT_BACKOFF = (*BACKOFF, 5.0, 10.0, 20.0, 30.0)
#: Seconds for which the restart of an application waits for a store. Applications can do without one for a time.
STORE_WAIT = 10.0
#: Tiers: everything below ``APP`` is a store, without which an application cannot be expected to live.
REDIS, MONGOD, APP = 0, 1, 2
#: Seconds between two looks when nothing happens. Signals, a child's death among them, wake the supervisor at once.
TICK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A process that must always run."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] | None = None
    #: Roles stop from the highest tier down, those of one tier together.
    tier: int = APP
    #: Seconds from SIGTERM to SIGKILL.
    grace: float = 10.0
    #: Whether the process with this id serves. None: being alive is enough.
    ready: Callable[[int], bool] | None = None
    #: Why it may be unable to run, in a few words; empty when nothing is known.
    hindrance: Callable[[], str] | None = None
    #: Whether lines that look like warnings are shown on the console.
    show_warnings: bool = True
    pass_fds: tuple[int, ...] = ()
    cwd: str | None = None


@dataclass(slots=True)
class _Child:
    role: Role
    log: ChildLog
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    is_ready: bool = False
    #: Whether it has served at least once since the supervisor began.
    was_ready: bool = False
    #: When it stopped serving (monotonic).
    away_since: float = 0.0
    quick_deaths: int = 0
    #: Quick deaths in a row that are no reason to give it up.
    excused_deaths: int = 0
    #: When to start it again (monotonic), None while it runs.
    restart_at: float | None = None
    #: When a role that was asked to end, to be started again, is killed (monotonic); None for all others.
    replace_until: float | None = None

    @property
    def is_store(self) -> bool:
        return self.role.tier < APP

    def becomes_ready(self, pid: int) -> bool:
        """Look whether it serves by now."""
        self.is_ready = self.role.ready is None or self.role.ready(pid)
        self.was_ready = self.was_ready or self.is_ready
        return self.is_ready


def bound_to_parent(command: Sequence[str], number: int = signal.SIGTERM) -> list[str]:
    """``command``, such that the kernel sends it ``number`` when the thread that starts it ends (Linux)."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), str(int(number)), *command]


@dataclass(slots=True, repr=False)
class Supervisor:
    """Starts and watches roles. ``changed`` is called with the process ids by role after every start of one."""

    log_for: Callable[[str], ChildLog]
    say: Callable[[str], None]
    changed: Callable[[dict[str, int]], None] = lambda pids: None
    #: Called about every half second while everything runs.
    look: Callable[[], None] = lambda: None
    #: Kept open in every child: whoever locks the same file waits for all of them.
    lock_fd: int | None = None
    _children: dict[str, _Child] = field(default_factory=dict)
    #: Process groups that dead children left behind, and when (monotonic) they are killed.
    _orphans: dict[int, float] = field(default_factory=dict)
    _stopping: bool = False
    _wake_read: int = -1

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP ask to stop (once is enough); a child's death wakes the loop."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._wake_read = read
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else somebody said nohup
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._ask_to_stop) for number in numbers}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        before_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wake_read = -1
            os.close(read)
            os.close(write)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    def pids(self) -> dict[str, int]:
        """Process ids by role, in starting order, of those that run."""
        return {name: child.process.pid for name, child in self._children.items() if child.process is not None}

    def start(self, role: Role, *, timeout: float = 60.0) -> None:
        """Start a role and wait until it is ready.

        Raises StackError when it dies or is not ready after ``timeout`` seconds, Stopped when asked to stop meanwhile.
        """
        child = self.launch(role)
        self.wait_until(lambda: child.is_ready, f"{role.name} was not ready", timeout, only=child, pause=0.02)

    def launch(self, role: Role) -> _Child:
        """Start a role without waiting for it."""
        child = self._children[role.name] = _Child(role, self.log_for(role.name))
        self._spawn(child)
        return child

    def run_once(self, role: Role, *, timeout: float) -> None:
        """Run a command to its end. Raises StackError with its last words unless that is 0 in ``timeout`` seconds."""
        child = self._children[role.name] = _Child(role, self.log_for(role.name))
        process = self._spawn(child)
        deadline = time.monotonic() + timeout
        while process.poll() is None:
            self._leave_if_stopping()
            if time.monotonic() > deadline:
                raise StackError(f"{role.name} did not end within {timeout:.0f} s; see {child.log.path}")
            self._pause(0.1)
        del self._children[role.name]
        child.log.close()
        if process.returncode != 0:
            raise StackError(self._obituary(child, process.returncode))

    def wait_until(
        self, condition: Callable[[], bool], otherwise: str, timeout: float, *, only: _Child | None = None, pause: float
    ) -> None:
        """Watch until ``condition`` holds. A first death of a child is an error here: nothing has worked yet."""
        deadline = time.monotonic() + timeout
        while True:
            self._leave_if_stopping()
            for child, process in self._running():
                code = process.poll()
                if code is not None:
                    raise StackError(self._obituary(child, code))
                if not child.is_ready and (only is None or child is only):
                    child.becomes_ready(process.pid)
            if condition():
                return
            if time.monotonic() > deadline:
                raise StackError(f"{otherwise} within {timeout:.0f} s; see {self._logs(only)}")
            self._show_warnings()
            self._pause(pause)

    def watch(self) -> None:
        """Keep everything running. Returns when asked to stop; raises StackError when a role cannot be kept running."""
        while not self._stopping:
            for child in self._children.values():
                self._look_at(child)
            self._end_orphans(time.monotonic())
            self._show_warnings()
            self.look()
            now = time.monotonic()
            # A restart that is due waits for a store.
            waits = [c.restart_at - now for c in self._children.values() if c.restart_at and c.restart_at > now]
            starting = any(c.process is not None and not c.is_ready for c in self._children.values())
            self._pause(min([0.05 if starting else TICK, *waits]))

    def replace_apps(self) -> None:
        """Ask the roles that are no stores to end, and start each again when it has ended. Does not wait."""
        for child, process in self._running():
            if not child.is_store and child.replace_until is None:
                child.replace_until = time.monotonic() + child.role.grace
                process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End every child: tier by tier from the highest, SIGTERM, its grace, SIGKILL. Returns when none is left."""
        for tier in sorted({child.role.tier for child in self._children.values()}, reverse=True):
            running = [(child, process) for child, process in self._running() if child.role.tier == tier]
            for _, process in running:
                process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            for child, process in running:
                try:
                    process.wait(max(0.0, begun + child.role.grace - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self.say(f"{child.role.name} did not stop within {child.role.grace:.0f} s and is killed")
                _signal_group(process.pid, signal.SIGKILL)
                process.wait()
        self._end_orphans(float("inf"))
        self._show_warnings()
        for child in self._children.values():
            child.log.close()
        self._children.clear()

    def _running(self) -> list[tuple[_Child, subprocess.Popen[bytes]]]:
        return [(child, child.process) for child in self._children.values() if child.process is not None]

    def _spawn(self, child: _Child) -> subprocess.Popen[bytes]:
        env = dict(os.environ if child.role.env is None else child.role.env)
        fds = child.role.pass_fds
        if self.lock_fd is not None:
            fds = (*fds, self.lock_fd)
            env[LOCK_VARIABLE] = str(self.lock_fd)
        output = child.log.open()
        child.process = subprocess.Popen(
            bound_to_parent(child.role.command),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=fds,
            cwd=child.role.cwd,
            start_new_session=True,
        )
        child.started_at = time.monotonic()
        child.restart_at = None
        child.is_ready = False
        self.changed(self.pids())
        return child.process

    def _look_at(self, child: _Child) -> None:
        process = child.process
        if process is None:
            now = time.monotonic()
            if child.restart_at is not None and now >= child.restart_at and not self._waits_for_store(child, now):
                self._start_again(child)
            return
        code = process.poll()
        if code is not None:
            self._bury(child, code)
        elif child.replace_until is not None and time.monotonic() >= child.replace_until:
            _signal_group(process.pid, signal.SIGKILL)
        elif not child.is_ready and child.becomes_ready(process.pid) and child.is_store:
            self.say(f"{child.role.name} is ready again")

    def _start_again(self, child: _Child) -> None:
        try:
            self._spawn(child)
        except OSError as error:  # too many processes, no memory, a full disk: it worked once and may work again
            child.restart_at = time.monotonic() + BACKOFF[-1]
            self.say(f"{child.role.name} cannot be started now: {error}")

    def _bury(self, child: _Child, code: int) -> None:
        now = time.monotonic()
        if child.process is not None and _signal_group(child.process.pid, signal.SIGTERM):
            # The processes that it leaves behind may finish what they have in hand, within the same time as itself.
            self._orphans[child.process.pid] = now + child.role.grace
        child.process = None
        if child.replace_until is not None:
            child.replace_until, child.is_ready, child.restart_at = None, False, now
            return
        if child.is_ready:
            child.away_since = now
        if child.is_ready and now - child.started_at >= QUICK:
            child.quick_deaths = child.excused_deaths = 0
        # SIGKILL comes from outside (an operator, the kernel short of memory): no sign that it cannot run.
        elif code != -signal.SIGKILL:
            # A store that has served before fails for a reason that passes, such as a full disk. Applications go on
            # meanwhile: intake needs no MongoDB, and reading letters needs no Redis.
            if (child.is_store and child.was_ready) or self._a_store_is_away(child):
                child.excused_deaths += 1
            else:
                child.quick_deaths += 1
        child.is_ready = False
        if child.quick_deaths >= QUICK_DEATHS:
            raise StackError(f"{self._obituary(child, code)} (died {QUICK_DEATHS} times in a row)")
        delay = PATIENT_BACKOFF[min(child.quick_deaths + child.excused_deaths, len(PATIENT_BACKOFF) - 1)]
        child.restart_at = now + delay
        if child.is_store and code != -signal.SIGKILL:
            self.say(f"{self._obituary(child, code)}; restarting {f'in {delay:g} s' if delay else 'now'}")
        else:
            self.say(f"{child.role.name} {_how(code)} and is restarted")

    def _end_orphans(self, now: float) -> None:
        """Kill what dead children left behind and what did not end in its time."""
        for group, until in list(self._orphans.items()):
            if now >= until:
                _signal_group(group, signal.SIGKILL)
                del self._orphans[group]

    def _a_store_is_away(self, child: _Child) -> bool:
        return not child.is_store and any(c.is_store and not c.is_ready for c in self._children.values())

    def _waits_for_store(self, child: _Child, now: float) -> bool:
        """Whether a restart should wait a moment, since a store is being started again, too."""
        return not child.is_store and any(
            c.is_store and not c.is_ready and now - c.away_since < STORE_WAIT for c in self._children.values()
        )

    def _obituary(self, child: _Child, code: int) -> str:
        words = (child.role.hindrance() if child.role.hindrance else "") or child.log.last_words()
        return f"{child.role.name} {_how(code)}{': ' + words if words else ''}; see {child.log.path}"

    def _logs(self, only: _Child | None) -> str:
        return str(only.log.path) if only else str(next(iter(self._children.values())).log.path.parent)

    def _leave_if_stopping(self) -> None:
        if self._stopping:
            raise Stopped

    def _pause(self, seconds: float) -> None:
        if self._wake_read < 0:
            time.sleep(seconds)
            return
        readable, _, _ = select.select([self._wake_read], [], [], seconds)
        if readable:
            with suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _show_warnings(self) -> None:
        for child in self._children.values():
            try:
                lines = child.log.follow()
            except Exception as error:
                # Whatever a child writes, it ends neither the supervisor nor the other children.
                lines = [f"a part of its log could not be shown: {type(error).__name__}"]
            if child.role.show_warnings:
                for line in lines:
                    self.say(f"{child.role.name} | {line}")


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _signal_group(leader: int, number: int) -> bool:
    """Signal a child's process group, including its children. Returns False if no process is left."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of zombies
        return False
    return True
