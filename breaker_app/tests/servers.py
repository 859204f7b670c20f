"""A server that a test may stop, and a proxy that loses what it is told to lose."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis, RedisError
from redis.connection import Connection

from management.embedded import Valkey, valkey_binary
from management.supervisor import bound_to_parent


class OwnServer:
    """A Redis-compatible server on a Unix socket, for one test. ``more``: further options of the server."""

    def __init__(self, *more: str) -> None:
        binary = valkey_binary()
        assert binary is not None
        self.folder = Path(tempfile.mkdtemp(prefix="brk-"))
        self._valkey = Valkey(binary, self.folder, self.folder)
        self.socket = self._valkey.socket
        self.url = self._valkey.url
        self.process: subprocess.Popen[bytes] | None = None
        self._more = more

    @property
    def client(self) -> Redis:
        return Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        command = bound_to_parent([*self._valkey.command, *self._more], signal.SIGKILL)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while not self._valkey.ready(self.process.pid):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None
        self.socket.unlink(missing_ok=True)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Pair:
    """A primary and its replica behind one address, as a virtual address or a managed Redis shows them."""

    def __init__(self) -> None:
        self.ports = [_free_port(), _free_port()]
        self.servers = [
            OwnServer("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
            for port in self.ports
        ]
        for server in self.servers:
            server.start()
        self.primary = 0
        self._follow()
        self.proxy = Proxy(self.servers[0].socket)
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"

    def switch(self) -> None:
        """Let primary and replica change roles. New connections reach the new primary, old ones stay where they are."""
        self.primary = 1 - self.primary
        self.servers[self.primary].client.replicaof("NO", "ONE")
        self.proxy.upstream = self.servers[self.primary].socket
        self._follow()

    @property
    def client(self) -> Redis:
        """A client of the server that is the primary now, past the address."""
        return self.servers[self.primary].client

    def remove(self) -> None:
        self.proxy.close()
        for server in self.servers:
            server.remove()

    def _follow(self) -> None:
        replica = self.servers[1 - self.primary].client
        replica.replicaof("127.0.0.1", self.ports[self.primary])
        deadline = time.monotonic() + 15
        while replica.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < deadline, "the replica did not follow"
            time.sleep(0.01)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Proxy:
    """A TCP port in front of a server's socket.

    ``pass`` forwards both ways; ``hang`` accepts and never answers; ``lose`` forwards requests and drops the answers.
    ``requests`` counts the commands that carried a script.
    """

    def __init__(self, upstream: Path) -> None:
        self.upstream = upstream
        self.mode = "pass"
        self.requests = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def client(self) -> Redis:
        """A client with the driver's own manners: ten retries, five seconds."""
        return Redis(host="127.0.0.1", port=self.port)

    def cut(self) -> None:
        """Close every connection."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def close(self) -> None:
        # Shut down first: closing alone leaves the accepting thread holding the port.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            self._open += [client, server]
            try:
                server.connect(str(self.upstream))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.requests += to_server and b"EVAL" in data
                if self.mode == "pass" or (self.mode == "lose" and to_server):
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class Watched:
    """A primary with two replicas and three Sentinels, on ports of 127.0.0.1. ``more``: further options of servers.

    ``door``: returns the port at which others reach the server on a port, if that is another one.
    """

    SERVICE = "dlq"

    def __init__(
        self,
        *more: str,
        down_after_ms: int = 1000,
        failover_timeout_ms: int = 1000,
        door: Callable[[int], int] | None = None,
    ) -> None:
        own = [_free_port() for _ in range(3)]
        self.ports = [door(port) for port in own] if door else own
        self.sentinel_ports = [_free_port() for _ in range(3)]
        self.folder = Path(tempfile.mkdtemp(prefix="snt-"))
        self.servers = [
            OwnServer(
                *("--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"),
                *("--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(shown), *more),
            )
            for port, shown in zip(own, self.ports, strict=True)
        ]
        self.sentinels: list[subprocess.Popen[bytes] | None] = [None] * 3
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinel_ports)}/{self.SERVICE}/0"
        try:
            for server in self.servers:
                server.start()
            for server in self.servers[1:]:
                server.client.replicaof("127.0.0.1", self.ports[0])
            for number, port in enumerate(self.sentinel_ports):
                (self.folder / f"{number}.conf").write_text(
                    f"port {port}\nbind 127.0.0.1\ndir {self.folder}\nlogfile {self.folder}/{number}.log\n"
                    f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.ports[0]} 2\n"
                    f"sentinel down-after-milliseconds {self.SERVICE} {down_after_ms}\n"
                    f"sentinel failover-timeout {self.SERVICE} {failover_timeout_ms}\n"
                )
                self.start_sentinel(number)
            self.wait(lambda: self.is_complete)
        except BaseException:
            self.remove()
            raise

    @property
    def is_complete(self) -> bool:
        """Every Sentinel knows both others and both replicas, which follow the primary."""
        seen = [self.ask(number, "MASTER") for number in range(3)]
        if not all(one["num-slaves"] == "2" and one["num-other-sentinels"] == "2" for one in seen):
            return False
        info = self.servers[self.primary].client.info("replication")
        return [info.get(f"slave{number}", {}).get("state") for number in range(2)] == ["online"] * 2

    def ask(self, number: int, verb: str) -> dict[str, str]:
        """The reply of a Sentinel to ``SENTINEL verb service``, as pairs."""
        found = self.tell(number, verb)
        return dict(zip(found[::2], found[1::2], strict=True))

    def tell(self, number: int, verb: str, *more: str) -> Any:
        """The reply of a Sentinel to ``SENTINEL verb service more``, as it comes."""
        port = self.sentinel_ports[number]
        line = Connection(port=port, decode_responses=True, protocol=2)  # type: ignore[no-untyped-call]
        try:
            line.send_command("SENTINEL", verb, self.SERVICE, *more)  # type: ignore[no-untyped-call]
            return line.read_response()
        finally:
            line.disconnect()  # type: ignore[no-untyped-call]

    @property
    def primary(self) -> int:
        """Number of the server that the first running Sentinel names."""
        number = next(n for n, process in enumerate(self.sentinels) if process is not None)
        return self.ports.index(int(self.ask(number, "MASTER")["port"]))

    def start_sentinel(self, number: int) -> None:
        binary = valkey_binary()
        assert binary is not None
        command = [binary.path, str(self.folder / f"{number}.conf"), "--sentinel"]
        self.sentinels[number] = subprocess.Popen(
            bound_to_parent(command, signal.SIGKILL), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.wait(lambda: self.answers(number))

    def answers(self, number: int) -> bool:
        with contextlib.suppress(OSError, RedisError):
            return bool(self.ask(number, "MASTER"))
        return False

    def kill_sentinel(self, number: int) -> None:
        process = self.sentinels[number]
        assert process is not None
        process.kill()
        process.wait()
        self.sentinels[number] = None

    @staticmethod
    def wait(look: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            assert time.monotonic() < deadline, "the Sentinels did not come to it"
            time.sleep(0.05)

    def remove(self) -> None:
        for number, process in enumerate(self.sentinels):
            if process is not None:
                self.kill_sentinel(number)
        for server in self.servers:
            if server.process is not None:
                server.process.send_signal(signal.SIGCONT)
            server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
