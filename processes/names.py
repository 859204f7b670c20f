"""The name of a process, for leases, presence and logs."""

from __future__ import annotations

import os
import re
import socket
import uuid

from processes.once import OncePerProcess


def new_name() -> str:
    """A new ``host-pid-random``: only letters, digits, ``.``, ``_`` and ``-``, and never the same twice."""
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@OncePerProcess
def process_name() -> str:
    """The name of this process; a forked child has its own."""
    return new_name()


def has_ended(name: str) -> bool:
    """Whether the process that made ``name`` has ended. False for a process of another host: that cannot be seen."""
    host, process_id, _ = ["", "", "", *name.rsplit("-", 2)][-3:]
    if host != _host() or not process_id.isdigit():
        return False
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64]
