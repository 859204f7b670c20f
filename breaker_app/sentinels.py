"""Connections to the primary that Redis Sentinel names.

The Sentinels are asked in the background, each once a second on a socket and a thread of its own. So an open connection
and a new one cost no request to a Sentinel, and a Sentinel that hangs holds up no one. Once they name another server,
every older socket of the process is replaced at its next use.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from breaker_app.errors import StoreUnavailable
from breaker_app.primary import Leaving, NotPrimary, primary_moved
from breaker_app.redis_url import Address, SentinelUrl, has_sentinels, read_sentinel_url
from processes.essential import Essential
from processes.turns import OutageLog, Turns

log = logging.getLogger(__name__)

#: Seconds between two requests to a Sentinel, and for each answer.
POLL_S: Final = 1.0
#: Seconds for which an answer counts. It is older if its Sentinel, the network or this process stood still.
FRESH_S: Final = 5.0
#: Seconds for which a replica counts as a candidate after Sentinel last listed it as one: not while it is promoted.
_CANDIDATE_S: Final = 5.0
#: Seconds to wait for further Sentinels once one has answered: the newest answer counts.
_SETTLE_S: Final = 0.2
#: Seconds to wait for a first answer if the connection has no timeout.
_WAIT_S: Final = 2.0


class NoPrimary(ConnectionError):
    """The Sentinels name no primary. The text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one Sentinel said at ``at`` (monotonic seconds)."""

    at: float
    primary: Address | None = None
    #: Number of the fail-over that made it the primary. The highest is the newest.
    epoch: int = -1
    #: Enough Sentinels see each other to decide on a fail-over.
    has_quorum: bool = False
    #: Replicas that it could promote.
    candidates: frozenset[Address] = frozenset()
    #: Why it names no primary; empty if it does.
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What the Sentinels say now."""

    service: str
    sentinels: tuple[Address, ...]
    primary: Address | None
    #: Sentinels that name a primary.
    answering: int
    #: Of those, the ones that could start a fail-over.
    with_quorum: int
    #: Address and trouble of each other one.
    troubles: tuple[tuple[str, str], ...]


def shown(address: Address) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Watch:
    """What the Sentinels of one URL say. Thread-safe; a forked child asks on threads and sockets of its own."""

    def __init__(self, url: SentinelUrl, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._answers: list[Answer | None] = [None] * len(url.sentinels)
        #: When each replica was last one that Sentinel could promote.
        self._candidates: dict[Address, float] = {}
        self._known: Address | None = None
        self._epoch = -1
        #: When a Sentinel last gave an answer of that epoch.
        self._epoch_at = 0.0
        self._pid = 0
        self._first_at = 0.0
        self._over = threading.Event()

    def __repr__(self) -> str:  # the driver shows it in the text of a pool
        return f"<Sentinels of {self.url.service}: {', '.join(map(shown, self.url.sentinels))}>"

    def confirming(self, connected: Collection[Address]) -> int:
        """Number of replicas that must have a write, so that each one that Sentinel could promote has it.

        ``connected``: addresses of the primary's replicas. Others than candidates confirm, too, and a number does not
        say who did. A replica that is no candidate any more counts for a while: perhaps it is being promoted.
        """
        since = self._monotonic() - _CANDIDATE_S
        candidates = {address for address, at in self._candidates.items() if at >= since}
        return len(candidates | {(_ip_of(host), port) for host, port in connected})

    def note_connected(self, replicas: Collection[Address]) -> None:
        """The primary has these replicas now. Sentinel may promote one before it is listed as a candidate here."""
        seen = {(_ip_of(host), port): self._monotonic() for host, port in replicas}
        with self._changed:
            self._add_candidates(seen)

    def primary(self, wait_s: float | None = None) -> Address:
        """The address of the primary. Waits at most ``wait_s`` for the first answers. Raises ``NoPrimary``."""
        self._start()
        until = self._monotonic() + (_WAIT_S if wait_s is None else wait_s)
        with self._changed:
            while True:
                now = self._monotonic()
                fresh = self._fresh(now)
                best = self._best(fresh)
                everyone = len(fresh) == len(self._answers)
                if best and best.primary and (everyone or now - self._first_at >= _SETTLE_S or now >= until):
                    return best.primary
                if (everyone and best is None) or now >= until:
                    raise NoPrimary(self._trouble(fresh))
                self._changed.wait(min(until - now, _SETTLE_S))

    def view(self, wait_s: float = POLL_S) -> View:
        """What each Sentinel says. Waits at most ``wait_s`` for those that were not heard yet."""
        self._start()
        until = self._monotonic() + wait_s
        with self._changed:
            while len(fresh := self._fresh(self._monotonic())) < len(self._answers):
                if (left := until - self._monotonic()) <= 0:
                    break
                self._changed.wait(left)
            best = self._best(fresh)
            named = [answer for answer in fresh.values() if answer.primary]
            troubles = {
                number: fresh[number].trouble if number in fresh else "no answer"
                for number in range(len(self._answers))
            }
            return View(
                service=self.url.service,
                sentinels=self.url.sentinels,
                primary=best.primary if best else None,
                answering=len(named),
                with_quorum=sum(answer.has_quorum for answer in named),
                troubles=tuple((shown(self.url.sentinels[n]), said) for n, said in troubles.items() if said),
            )

    def close(self) -> None:
        """Stop asking. The next request starts again."""
        self._over.set()
        self._reset()
        self._answers = [None] * len(self._answers)

    def _reset(self) -> None:
        """Start again in a forked child: its parent's threads do not exist there, and one may have held the lock."""
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._pid = 0

    def _start(self) -> None:
        if self._pid == os.getpid():
            return
        with self._changed:
            if self._pid == os.getpid():
                return
            self._first_at = self._monotonic()
            for number, address in enumerate(self.url.sentinels):
                line = Connection if not self.url.is_tls else SSLConnection
                asking = line(
                    host=address[0], port=address[1], **self.url.sentinel_options, protocol=2, socket_timeout=POLL_S,
                    socket_connect_timeout=POLL_S, retry=Retry(NoBackoff(), 0),
                )  # fmt: skip
                turns = Turns(
                    partial(self._ask, number, asking),
                    OutageLog(log, "sentinel_away", "sentinel_back", sentinel=shown(address)),
                    broken="sentinel_watch_broken", min_pause_s=POLL_S, max_pause_s=POLL_S, expected=StoreUnavailable,
                )  # fmt: skip
                args = (turns, asking, self._over)
                Essential(self._repeat, f"sentinel-{number}", args, may_end=self._over.is_set).start()
            self._pid = os.getpid()  # at the end: without one of its threads, the next caller starts again

    @staticmethod
    def _repeat(turns: Turns, line: Any, over: threading.Event) -> None:
        while not over.wait(turns.turn()):
            pass
        line.disconnect()

    def _ask(self, number: int, line: Any) -> float:
        """Ask one Sentinel and keep its answer. Raises ``StoreUnavailable`` when it names no primary."""
        try:
            answer = self._answer(line)
        except Exception as error:
            line.disconnect()
            refused = isinstance(error, AuthenticationError | ResponseError)
            said = f"{'refuses' if refused else 'no answer'}: {_short(error)}"
            self._heard(number, Answer(self._monotonic(), trouble=said))
            if isinstance(error, RedisError | OSError):
                raise StoreUnavailable(said) from error
            raise
        self._heard(number, answer)
        if answer.trouble:
            raise StoreUnavailable(answer.trouble)
        return POLL_S

    def _answer(self, line: Any) -> Answer:
        service = self.url.service
        commands = [
            ("SENTINEL", verb, service) for verb in ("GET-MASTER-ADDR-BY-NAME", "MASTER", "CKQUORUM", "REPLICAS")
        ]
        line.send_packed_command(line.pack_commands(commands), check_health=False)
        address, master, quorum, replicas = [_reply(line) for _ in commands]
        for reply in (address, master, replicas):
            if isinstance(reply, ResponseError) and "no such master" not in str(reply).lower():
                raise reply
        if isinstance(quorum, NoPermissionError):
            raise quorum
        now = self._monotonic()
        if not address or isinstance(master, ResponseError):
            return Answer(now, trouble=f"knows no service {service}")
        facts = dict(zip(master[::2], master[1::2], strict=True))
        return Answer(
            at=now,
            primary=(address[0].decode(), int(address[1])),
            epoch=int(facts.get(b"config-epoch", -1)),
            has_quorum=not isinstance(quorum, ResponseError),
            candidates=frozenset(_candidates(replicas, address)),
        )

    def _heard(self, number: int, answer: Answer) -> None:
        with self._changed:
            self._answers[number] = answer
            fresh = self._fresh(answer.at)
            best = self._best(fresh)
            moved = best is not None and best.primary != self._known
            if best is not None:
                before, self._known, self._epoch, self._epoch_at = self._known, best.primary, best.epoch, best.at
                if moved and before:
                    primary_moved()
                # Only now: the old primary may still have a replica, whose confirmation must not count.
                newest = [one for one in fresh.values() if (one.primary, one.epoch) == (best.primary, best.epoch)]
                if moved:
                    self._candidates = {}
                self._add_candidates({found: one.at for one in newest for found in one.candidates})
            self._changed.notify_all()
        if moved and best and best.primary and before:
            log.warning("redis_primary_moved", extra={"before": shown(before), "now": shown(best.primary)})

    def _add_candidates(self, seen: Mapping[Address, float]) -> None:
        """Add replicas and when they were seen. Old ones go, since addresses of containers change."""
        latest = self._candidates | {one: max(at, self._candidates.get(one, at)) for one, at in seen.items()}
        since = self._monotonic() - _CANDIDATE_S
        self._candidates = {one: at for one, at in latest.items() if at >= since}

    def _fresh(self, now: float) -> Mapping[int, Answer]:
        return {n: one for n, one in enumerate(self._answers) if one is not None and now - one.at <= FRESH_S}

    def _best(self, fresh: Mapping[int, Answer]) -> Answer | None:
        """The newest answer. An older one than was known counts only if most Sentinels give it, and none the newer one.

        A Sentinel that was cut off still names the old primary. Epochs of Sentinels that were set up again start at 0.
        """
        named = sorted((one for one in fresh.values() if one.primary), key=lambda one: (one.epoch, one.at))
        if not named:
            return None
        best = named[-1]
        is_new_setup = 2 * len(named) > len(self._answers) and best.at - self._epoch_at > FRESH_S
        return best if best.epoch >= self._epoch or is_new_setup else None

    def _trouble(self, fresh: Mapping[int, Answer]) -> str:
        said = [one.trouble for one in fresh.values() if one.trouble]
        of = f"{len(self._answers)} Sentinel{'s' if len(self._answers) > 1 else ''}"
        for trouble in said:
            if trouble.startswith("knows no"):
                return f"Sentinel {trouble}"
        for trouble in said:
            if trouble.startswith("refuses"):
                return f"Sentinel {trouble}"
        if any(one.primary for one in fresh.values()):
            return "The Sentinels that answer name an earlier primary than was known"
        why = next((trouble.partition(": ")[2] for trouble in said), "")
        return f"None of {of} answers{f' ({why})' if why else ''}"


def _short(error: Exception) -> str:
    """The text of the driver's error, which has no password, in one line."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _candidates(replicas: Sequence[Sequence[bytes]], primary: Sequence[bytes]) -> Iterator[Address]:
    for row in replicas:
        replica = dict(zip(row[::2], row[1::2], strict=True))
        if _is_candidate(replica, primary):
            yield _ip_of(replica[b"ip"].decode()), int(replica[b"port"])


def _ip_of(host: str) -> str:
    """Sentinel can name a host that the primary knows by its address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return _resolved(host, int(time.monotonic() // 60))


@lru_cache(maxsize=64)
def _resolved(host: str, _minute: int) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host


def _is_candidate(replica: Mapping[bytes, bytes], primary: Sequence[bytes]) -> bool:
    """Whether a Sentinel could promote this replica: it is up, has the data, and is not the new primary itself."""
    flags = set(replica.get(b"flags", b"").split(b","))
    return (
        not flags & {b"s_down", b"o_down", b"disconnected"}
        and replica.get(b"master-link-status") == b"ok"
        and replica.get(b"slave-priority") != b"0"
        and [replica.get(b"ip"), replica.get(b"port")] != list(primary)
    )


def _reply(line: Any) -> Any:
    """A reply; the error of an invalid request as a value."""
    try:
        return line.read_response()
    except AuthenticationError:
        raise
    except ResponseError as error:
        return error


_lock = threading.Lock()
_watches: dict[str, Watch] = {}


def watch_of(url: str) -> Watch:
    """The watch over the Sentinels of ``url``: one per process. Raises ``ValueError`` for an invalid URL."""
    with _lock:
        if url not in _watches:
            _watches[url] = Watch(read_sentinel_url(url))
        return _watches[url]


def forget_watches() -> None:
    """Stop all watches, for tests."""
    with _lock:
        for watch in _watches.values():
            watch.close()
        _watches.clear()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for watch in _watches.values():
        watch._reset()


os.register_at_fork(after_in_child=_after_fork)


class _Watched(Leaving):
    """Mixin of connections to the server that the Sentinels name."""

    socket_connect_timeout: float | None

    def __init__(
        self, *, watch: Watch, sentinels: Sequence[Address] = (), service_name: str = "", **options: Any
    ) -> None:
        # `sentinels` and `service_name` are there for RQ's pages, which show them.
        self._watch = watch
        super().__init__(**options)

    def _connect(self) -> Any:
        self.host, self.port = self._watch.primary(self.socket_connect_timeout)
        return super()._connect()  # type: ignore[no-untyped-call, safe-super]

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        # A server that was named a moment ago may have been demoted since. HELLO needs no permission, unlike ROLE.
        self.send_command("HELLO", check_health=False)  # type: ignore[no-untyped-call]
        role = _role(self.read_response())
        if role != "master":
            raise NotPrimary(f"READONLY: {shown((self.host, self.port))}, which Sentinel names, is a {role}")


def _role(hello: Any) -> str:
    pairs = hello.items() if isinstance(hello, dict) else zip(hello[::2], hello[1::2], strict=True)
    text = {_text(name): _text(value) for name, value in pairs}
    return text.get("role", "master")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class PrimaryConnection(_Watched, Connection):
    """A connection to the primary."""


class TLSPrimaryConnection(_Watched, SSLConnection):
    """A connection to the primary by TLS."""


def client_of(url: str) -> Redis:
    """A client of the server at ``url``, or of the primary that its Sentinels name.

    Connects to nothing yet. Raises ``ValueError`` for an invalid URL.
    """
    if not has_sentinels(url):
        return Redis.from_url(url)
    watch = watch_of(url)
    return Redis.from_pool(
        ConnectionPool(
            connection_class=TLSPrimaryConnection if watch.url.is_tls else PrimaryConnection,
            watch=watch,
            sentinels=watch.url.sentinels,
            service_name=watch.url.service,
            **watch.url.options,
        )
    )


def view_of(client: Redis) -> View | None:
    """What the Sentinels of this client say; None if it uses none."""
    watch = watch_behind(client)
    return watch.view() if watch else None


def watch_behind(client: Redis) -> Watch | None:
    """The watch over the Sentinels of this client; None if it uses none."""
    watch = client.connection_pool.connection_kwargs.get("watch")
    return watch if isinstance(watch, Watch) else None
