"""Breakers in Redis: four scripts over three keys per name, and the pause after an error."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from redis import ConnectionPool, Redis, RedisError
from redis.exceptions import NoScriptError, ResponseError

from breaker_app.errors import StoreUnavailable
from breaker_app.policy import BreakerPolicy
from breaker_app.primary import leaving, retry_once
from breaker_app.sentinels import client_of
from breaker_app.states import Entry, Permit, Recorded, Snapshot, State, Transition, Why
from wire.scripts import CLOCK, load_scripts

log = logging.getLogger(__name__)

#: Maximum wait for a connection and for an answer, in seconds. A breaker must not be slower than the calls that it
#: protects.
TIMEOUT_S: Final = 0.1
#: Pause after an error, in seconds, so that an outage costs one timeout and not one per call.
PAUSE_S: Final = 1.0
#: Set of all names that processes have announced.
NAMES_KEY: Final = "cb:names"
#: Transitions kept per name; the script trims to about this many.
KEPT_TRANSITIONS: Final = 1_000

#: Options of a client that its copy has too; timeouts and retries are not among them.
_ADDRESS: Final = re.compile(
    r"host|port|path|db|username|password|credential_provider|client_name|socket_keepalive|watch|ssl_.*"
)


def on_test_clock(name: str, source: str) -> str:
    """The script with its last argument as the time. The script that production sends has no such argument."""
    return CLOCK.sub("local now = tonumber(ARGV[#ARGV])", source)


def _connection_options(timeout_s: float) -> dict[str, Any]:
    # A script may have run although its answer was lost. The driver would send it again by default and count an
    # outcome twice. A command that a server refused because it is no primary did not run.
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": retry_once(),
        "retry_on_error": [],
        "protocol": 2,
        "decode_responses": True,
        "encoding_errors": "replace",
    }


def _own_client(connection: Redis, timeout_s: float) -> Redis:
    """A client of the same server with the timeouts and retries of a breaker."""
    pool = connection.connection_pool
    address = {key: value for key, value in pool.connection_kwargs.items() if _ADDRESS.fullmatch(key)}
    return Redis(
        connection_pool=ConnectionPool(
            connection_class=leaving(pool.connection_class), **address, **_connection_options(timeout_s)
        )
    )


class Outage:
    """Skips requests to a store that is unavailable. Shared by all threads that use the store.

    The first error begins an outage. During an outage one caller per pause tries the store and all others fail at once.
    It ends when an attempt that began after the last error succeeds. Both changes are logged once, as
    ``store_unavailable`` and ``store_back``.
    """

    def __init__(self, *, pause_s: float = PAUSE_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._next_try: float | None = None
        self._errors = 0
        #: Requests without an answer of the store, since this process began.
        self.unanswered = 0

    @property
    def is_on(self) -> bool:
        """Whether the last attempt failed."""
        return self._next_try is not None

    def begin(self) -> int:
        """Return a ticket for one attempt. Raises ``StoreUnavailable`` during a pause."""
        if self._next_try is None:
            return self._errors
        with self._lock:
            now = self._monotonic()
            if self._next_try is not None:
                if now < self._next_try:
                    self.unanswered += 1
                    raise StoreUnavailable(retry_after=self._next_try - now)
                self._next_try = now + self._pause_s
            return self._errors

    def failed(self, error: Exception) -> None:
        """Record that the attempt failed."""
        with self._lock:
            begins = self._next_try is None
            self._errors += 1
            self.unanswered += 1
            self._next_try = self._monotonic() + self._pause_s
        if begins:
            log.warning("store_unavailable", extra={"why": f"{type(error).__name__}: {error}"})

    def succeeded(self, ticket: int) -> None:
        """Record that the attempt succeeded. It is ignored if it began before the last error."""
        if self._next_try is None:
            return
        with self._lock:
            ends = self._next_try is not None and ticket == self._errors
            if ends:
                self._next_try = None
        if ends:
            log.info("store_back")


class RedisBreakerStore:
    """The breakers that all processes share. Every method is one script in one round trip.

    ``connection`` names the server; the store opens connections of its own that wait at most ``timeout_s`` and send no
    command twice. ``clock`` returns whole milliseconds, for tests. Without it the scripts use the time of the server,
    so all hosts share one clock.

    Every method raises ``StoreUnavailable`` if the server cannot be reached, answers late, or refuses the script.
    Thread-safe and fork-safe.
    """

    def __init__(
        self,
        connection: Redis,
        clock: Callable[[], int] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        outage: Outage | None = None,
    ) -> None:
        self._redis = _own_client(connection, timeout_s)
        self._clock = clock
        self.outage = outage or Outage()
        self._scripts = load_scripts("breaker_app", on_test_clock if clock else None)

    @classmethod
    def from_url(cls, url: str, *, timeout_s: float = TIMEOUT_S) -> RedisBreakerStore:
        """The store on the server at ``url``, or on the primary that its Sentinels name."""
        return cls(client_of(url), timeout_s=timeout_s)

    def acquire(self, name: str, policy: BreakerPolicy, token: str) -> Permit:
        """Ask for a permit for the call ``token``; idempotent by token."""
        allowed, state, generation, wait = self._ask("acquire", name, policy, token)
        return Permit(allowed == 1, State.of(state), generation, wait, token)

    def record(self, name: str, policy: BreakerPolicy, entries: Sequence[Entry]) -> Recorded:
        """Count the outcomes in order, atomically. If it raises, they may have been counted: never send them again."""
        runs = _runs(entries, policy)
        state, generation, total, failures, *counts = self._ask("record", name, policy, json.dumps(runs))
        used: list[bool] = []
        for (*_, length), count in zip(runs, counts, strict=True):
            used += [True] * count + [False] * (length - count)
        return Recorded(tuple(used), State.of(state), generation, total, failures)

    def admin(self, name: str, policy: BreakerPolicy, state: State, *, actor: str, reason: str) -> None:
        """Set the breaker to ``state`` and store the actor and the reason. Tries the store also during a pause."""
        self._ask("admin", name, policy, state.letter, actor, reason, insist=True)

    def peek(self, name: str, policy: BreakerPolicy) -> Snapshot:
        """Read the breaker. The script runs read-only: the server refuses its writes."""
        return _snapshot(self._ask("peek", name, policy))

    def peek_many(self, policies: Mapping[str, BreakerPolicy]) -> dict[str, Snapshot]:
        """Read several breakers in one round trip."""
        script = self._scripts["peek"]
        now = (self._clock(),) if self._clock else ()

        def run(verb: str, text: str) -> list[Any]:
            with self._redis.pipeline(transaction=False) as pipe:
                for name, policy in policies.items():
                    getattr(pipe, verb)(text, 3, *_keys(name), *policy.wire, *now)
                return pipe.execute()

        def run_known() -> list[Any]:
            try:
                return run("evalsha_ro", script.sha)
            except NoScriptError:
                return run("eval_ro", script.source)

        return dict(zip(policies, map(_snapshot, self._try(run_known)), strict=True))

    def transitions(self, name: str, limit: int) -> list[Transition]:
        """The newest ``limit`` changes of state, newest first."""
        entries = self._try(lambda: self._redis.xrevrange(_keys(name)[2], count=limit))
        return [_transition(fields) for _, fields in entries]

    def transition_counts(self, names: Iterable[str]) -> dict[str, int]:
        """The number of changes of state of each breaker since its first one, in one round trip."""
        wanted = list(names)

        def read() -> list[Any]:
            with self._redis.pipeline(transaction=False) as pipe:
                for name in wanted:
                    pipe.xinfo_stream(_keys(name)[2])
                return pipe.execute(raise_on_error=False)

        counts = {}
        for name, answer in zip(wanted, self._try(read), strict=True):
            if isinstance(answer, ResponseError) and "no such key" in str(answer):
                answer = {"entries-added": 0}  # it has never changed
            if isinstance(answer, Exception):
                raise StoreUnavailable(retry_after=PAUSE_S) from answer
            counts[name] = int(answer["entries-added"])
        return counts

    def window(self, name: str, policy: BreakerPolicy) -> list[tuple[int, int]]:
        """Outcomes and failures of each second of the window, oldest first; the last is the current second.

        For display: it reads without the scripts, so concurrent outcomes may be missing.
        """

        def read() -> tuple[dict[str, str], int]:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(_keys(name)[0])
                pipe.time()
                row, (second, _) = pipe.execute()
            return row, int(self._clock()) // 1000 if self._clock else int(second)

        row, now = self._try(read)
        length = policy.time_window_ms // 1000
        found = [(0, 0)] * length
        touched = int(row.get("ep", 0))
        for field, value in row.items():
            if not (field.startswith("b") and field[1:].isdigit()) or (slot := int(field[1:])) >= length:
                continue
            age = (touched - slot) % length + now - touched
            if 0 <= age < length:
                total, failed, _ = value.split(",")
                found[length - 1 - age] = (int(total), int(failed))
        return found

    def announce(self, names: Iterable[str]) -> None:
        """Publish these names."""
        found = sorted(names)
        if found:
            self._try(lambda: self._redis.sadd(NAMES_KEY, *found))

    def announced(self) -> set[str]:
        """The names of all processes."""
        return set(self._try(lambda: self._redis.smembers(NAMES_KEY)))

    def _ask(self, verb: str, name: str, policy: BreakerPolicy, *arguments: str, insist: bool = False) -> Any:
        """Run the script ``verb``: by EVALSHA, or by EVAL if the server does not know it."""
        script = self._scripts[verb]
        rest = (3, *_keys(name), *policy.wire, *arguments, *([self._clock()] if self._clock else ()))
        known, unknown = (self._redis.evalsha, self._redis.eval)
        if verb == "peek":
            known, unknown = (self._redis.evalsha_ro, self._redis.eval_ro)

        def run() -> Any:
            try:
                return known(script.sha, *rest)
            except NoScriptError:
                return unknown(script.source, *rest)

        return self._try(run, insist=insist)

    def _try(self, run: Callable[[], Any], *, insist: bool = False) -> Any:
        ticket = 0 if insist and self.outage.is_on else self.outage.begin()
        try:
            reply = run()
        # Every error of the server (unreachable, late, out of memory, read-only) means that the store is unavailable.
        # It is no information about the downstream.
        except RedisError as error:
            self.outage.failed(error)
            raise StoreUnavailable(retry_after=PAUSE_S) from error
        self.outage.succeeded(ticket)
        return reply


def _keys(name: str) -> tuple[str, str, str]:
    return f"cb:{{{name}}}:s", f"cb:{{{name}}}:p", f"cb:{{{name}}}:ev"


def _runs(entries: Sequence[Entry], policy: BreakerPolicy) -> list[tuple[str, int, str, int, int]]:
    """The outcomes as runs of equal neighbours: (token, generation, outcome, slow, count).

    Many successful calls with one permit are a single run.
    """
    flat = (
        (permit.token, permit.generation, outcome.value, int(policy.is_slow(took))) for permit, outcome, took in entries
    )
    return [(*run, sum(1 for _ in group)) for run, group in groupby(flat)]


def _snapshot(reply: Sequence[Any]) -> Snapshot:
    state, generation, total, failures, slow, leases, succeeded, failed, lost, opens, wait, due, left = reply
    return Snapshot(
        state=State.of(state),
        generation=generation,
        total=total,
        failures=failures,
        slow=slow,
        leases=leases,
        probes_succeeded=succeeded,
        probes_failed=failed,
        probes_lost=lost,
        opens=opens,
        retry_after_ms=wait,
        due=due == 1,
        left_closed_ms=left or None,
    )


def _transition(fields: dict[str, str]) -> Transition:
    return Transition(
        at_ms=int(fields["at"]),
        source=State.of(fields["from"]),
        to=State.of(fields["to"]),
        generation=int(fields["gen"]),
        why=Why(fields["why"]),
        total=int(fields["n"]),
        failures=int(fields["f"]),
        actor=fields["actor"],
        reason=fields["reason"],
    )
