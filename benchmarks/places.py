"""Where things are: folders, interpreters, binaries, free ports."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import IO

from management import embedded

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
PEERS = HERE / "peers"

#: Everything that is installed or written while measuring, outside the repository.
HOME = Path(os.environ.get("BENCH_HOME", Path(tempfile.gettempdir()) / "dlq-bench"))
OURS_PYTHON = os.environ.get("BENCH_PYTHON", sys.executable)
PEERS_VENV = Path(os.environ.get("BENCH_PEERS_VENV", HOME / "venv"))
NODE_MODULES = Path(os.environ.get("BENCH_NODE_MODULES", HOME / "node" / "node_modules"))


class Missing(Exception):
    """Something that must be installed first; the message says what and how."""


def redis_server() -> str:
    """The Redis-compatible server of the local stack. ``BENCH_REDIS_SERVER`` overrides."""
    return os.environ.get("BENCH_REDIS_SERVER") or _embedded(embedded.valkey_binary(), "BENCH_REDIS_SERVER")


def mongod() -> str:
    """The mongod of the local stack. ``BENCH_MONGOD`` overrides."""
    return os.environ.get("BENCH_MONGOD") or _embedded(embedded.mongod_binary(), "BENCH_MONGOD")


def _embedded(found: embedded.Binary | None, variable: str) -> str:
    if found is None:
        raise Missing(f"no server: install requirements-embedded.txt, or set {variable} to a program of yours")
    return found.path


def only_series() -> IO[bytes]:
    """Keep ``HOME`` for this series until the file is closed. Raises ``Missing`` while another series has it."""
    HOME.mkdir(parents=True, exist_ok=True)
    lock = (HOME / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Missing(f"another series runs in {HOME}: wait for it, or set BENCH_HOME to another folder") from None
    return lock


def free_port() -> int:
    """A port of the loopback interface that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def peers_python() -> str:
    return str(PEERS_VENV / "bin" / "python")


def require(*, peers: bool) -> None:
    """Raise ``Missing`` unless the load generator (and, if wanted, the peers) are installed."""
    if not shutil.which("wrk"):
        raise Missing("wrk is not installed: apt-get install wrk")
    if not peers:
        return
    if not shutil.which("node") or not NODE_MODULES.is_dir():
        raise Missing(f"the Node peers are not installed (looked in {NODE_MODULES}): run benchmarks/run.sh once")
    if not Path(peers_python()).exists():
        raise Missing(f"the Python peers are not installed (looked in {PEERS_VENV}): run benchmarks/run.sh once")
