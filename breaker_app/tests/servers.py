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
from pathlib import Path

from redis import Redis

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
