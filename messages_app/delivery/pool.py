"""Connections of deliveries: kept open for the next one, made only to addresses that were checked, never waited for
longer than a delivery may take.

urllib3 speaks HTTP; what differs from it is how a connection is opened and how long anything may take. A name is looked
up once per connection, every address of the answer is judged, and the connection goes to one of those very addresses:
what the name says a moment later cannot matter. TLS still asks for the name, and for its certificate.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse

from messages_app.delivery.response import Response
from messages_app.domain.addresses import Destination, why_forbidden
from messages_app.domain.delivery_policy import HostPolicy
from processes.once import OncePerProcess

#: Connections kept open per destination, if as many threads deliver at once.
KEPT: Final = 500
#: A connection older than this, in seconds, is not used again: the name may have moved.
MAX_AGE_S: Final = 60.0
#: Names that are looked up at the same time; the system's resolver cannot be interrupted.
MAX_LOOKUPS: Final = 64

#: Name, port → addresses. Raises OSError.
Resolver = Callable[[str, int], list[str]]

_monotonic = time.monotonic
log = logging.getLogger(__name__)


class AddressRefused(Exception):
    """The name leads to an address that nothing may be delivered to; the text says which."""


class OutOfTime(TimeoutError):
    """The delivery as a whole has taken as long as it may."""


class LookupFailed(OSError):
    """The name could not be resolved."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``body`` is cut to what may be read; ``is_whole`` tells whether that was all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool


class _Budget(threading.local):
    """What is left for the delivery that this thread makes. A connection serves one thread at a time."""

    deadline = 0.0
    #: Path and query as submitted; urllib3 would write them its own way, and receivers sign and route by them.
    target = ""
    #: Longest single wait, s.
    patience = 0.0

    def left(self) -> float:
        left = self.deadline - _monotonic()
        if left <= 0:
            raise OutOfTime("the time for this delivery is over")
        return left


_budget = _Budget()


class _Paced(io.RawIOBase):
    """What is read from a socket, each wait cut to what is left. A body that drips ends with the delivery's time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # The socket's own file object, for it keeps the socket open until it is closed itself.
        self._raw: Any = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(min(_budget.left(), _budget.patience))
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """A connected socket, as far as HTTP needs one, on the time of the delivery that uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def settimeout(self, value: float | None) -> None:
        """The budget decides."""

    def sendall(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            self._sock.settimeout(min(_budget.left(), _budget.patience))
            view = view[self._sock.send(view) :]

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Paced(self._sock))

    def fileno(self) -> int:
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


class Connector:
    """Opens connections for one host of the policy: looks up, judges, connects."""

    def __init__(self, policy: HostPolicy, resolve: Resolver) -> None:
        self._policy = policy
        self._resolve = resolve

    def open(self, host: str, port: int) -> socket.socket:
        """A connection to one of the host's addresses. Raises ``AddressRefused``, ``OutOfTime`` or another OSError."""
        until = min(_budget.deadline, _monotonic() + self._policy.connect_timeout_ms / 1000)
        addresses = [host] if _is_literal(host) else _looked_up(self._resolve, host, port, until)
        if not addresses:
            raise LookupFailed(f"{host} has no address")
        for address in addresses:
            kind = why_forbidden(address, allow_private=self._policy.allow_private)
            if kind is not None:
                leads = "is" if address == host else f"leads to {address},"
                raise AddressRefused(f"{host} {leads} a {kind} address")
        return _first_reachable(addresses, port, until)


def _is_literal(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()


def _first_reachable(addresses: list[str], port: int, until: float) -> socket.socket:
    """One after the other, none with more than its share of the time, so that a dead one does not eat it all."""
    failed: OSError = OutOfTime("the time for connecting is over")
    for tried, address in enumerate(addresses):
        left = until - _monotonic()
        if left <= 0:
            break
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:  # a host without IPv6
            failed = error
            continue
        try:
            sock.settimeout(left / (len(addresses) - tried))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((address, port))
            # What is left of the time to connect is for TLS.
            sock.settimeout(max(0.001, until - _monotonic()))
            return sock
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            # The attempt's interruption comes at any line, and it is none of the errors above.
            sock.close()
            raise
    raise failed


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name by the system's resolver, in its order, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)


def _looked_up(resolve: Resolver, host: str, port: int, until: float) -> list[str]:
    """What the resolver says, if it says so in time. It runs on a thread of its own: it has no time-out."""
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host, port))
        except Exception as error:  # handed to the thread that waits, whatever it is
            answers.put(error)
        finally:
            _lookups.release()

    if not _lookups.acquire(timeout=max(0.0, until - _monotonic())):
        raise OutOfTime(f"{host} was not looked up in time")
    threading.Thread(target=ask, name="lookup", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.001, until - _monotonic()))
    except Empty:
        raise OutOfTime(f"{host} was not looked up in time") from None
    if isinstance(answer, list):
        return answer
    raise LookupFailed(f"{host} cannot be looked up: {answer}") from answer


class _Connection(HTTPConnection):
    """HTTP to a checked address."""

    response_class = Response

    def __init__(self, *arguments: Any, connector: Connector, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connector = connector
        self.opened_at = 0.0

    def _new_conn(self) -> socket.socket:
        self.opened_at = _monotonic()
        return self.connector.open(self.host, int(self.port))

    def connect(self) -> None:
        super().connect()
        self.sock: Any = _TimedSocket(self.sock)

    def putrequest(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        super().putrequest(method, _budget.target, *arguments, **options)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS. The certificate must match the name, whatever its address."""


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        """A connection, closed if it is too old: the next request opens it again and looks the name up again."""
        connection: Any = super()._get_conn(timeout)
        if not connection.is_closed and _monotonic() - connection.opened_at > MAX_AGE_S:
            connection.close()
        return connection


class _TlsPool(_Pool, HTTPSConnectionPool):
    ConnectionCls: Any = _TlsConnection


class Pools:
    """The open connections of one process, by destination: as many pools as the policy has hosts, schemes and ports.

    Safe for threads. ``resolve`` and ``tls`` exist for tests and for installations with their own authority.
    """

    def __init__(self, resolve: Resolver = look_up, tls: ssl.SSLContext | None = None) -> None:
        self._resolve = resolve
        self._tls = tls
        self._pools: dict[tuple[HostPolicy, str, int], HTTPConnectionPool] = {}
        self._lock = threading.Lock()

    def post(
        self, destination: Destination, policy: HostPolicy, body: bytes, headers: Mapping[str, str], within_s: float
    ) -> Answer:
        """POST and read the answer, all of it within ``within_s`` seconds.

        Follows nothing, keeps no cookies, uses no proxy, sends nothing twice. Raises ``AddressRefused``, ``OSError``
        and urllib3's ``HTTPError`` when there is no answer.
        """
        _budget.deadline = _monotonic() + min(within_s, policy.total_timeout_ms / 1000)
        _budget.patience = policy.read_timeout_ms / 1000
        _budget.target = destination.target
        response = self._pool(destination, policy).urlopen(
            "POST", destination.target, body, headers, retries=False, redirect=False, preload_content=False,
            decode_content=False, timeout=policy.connect_timeout_ms / 1000,
        )  # fmt: skip
        return _read(response, policy.max_response_bytes)

    def opened(self) -> int:
        """Connections made so far."""
        return sum(pool.num_connections for pool in self._pools.values())

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _pool(self, destination: Destination, policy: HostPolicy) -> HTTPConnectionPool:
        key = (policy, destination.scheme, destination.port)
        pool = self._pools.get(key)
        if pool is None:
            with self._lock:
                pool = self._pools.get(key) or self._made(destination, policy)
                self._pools[key] = pool
        return pool

    def _made(self, destination: Destination, policy: HostPolicy) -> HTTPConnectionPool:
        connector = Connector(policy, self._resolve)
        if destination.scheme == "http":
            return _Pool(destination.host, destination.port, maxsize=KEPT, connector=connector)
        # One context for all connections of a pool: its certificates are read once.
        context = self._tls or ssl.create_default_context()
        return _TlsPool(destination.host, destination.port, maxsize=KEPT, connector=connector, ssl_context=context)


def _read(response: BaseHTTPResponse, most: int) -> Answer:
    """The body up to ``most`` bytes. A connection with more to come, or that broke, is not used again.

    The status counts, whatever becomes of the body: its failure is not raised, it leaves the answer unfinished.
    """
    body, whole = b"", False
    in_doubt = getattr(response, "_original_response").doubt  # noqa: B009  # urllib3 has no public name for it
    try:
        # One byte more than is kept tells whether that was all, without reading on to find out. An answer that ends
        # too early is an error only of the read that finds nothing more.
        while not whole and not in_doubt and len(body) <= most:
            part = response.read(most + 1 - len(body), decode_content=False)
            body += part
            whole = not part
    except Exception as error:
        # What a foreign body can break is open: chunks, lengths, resets, time-outs.
        log.debug("delivery_body_unfinished", extra={"error": type(error).__name__})
    finally:
        if not whole:
            response.close()
        response.release_conn()
    return Answer(response.status, response.headers, body[:most], whole)


@OncePerProcess
def pools() -> Pools:
    """The connections of this process."""
    return Pools()
