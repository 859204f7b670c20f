"""The name of a process, for leases, presence and logs."""

from __future__ import annotations

import os
import re
import socket
import uuid
from functools import cache


@cache
def _suffix(process_id: int) -> str:
    return uuid.uuid4().hex[:6]


def process_name() -> str:
    """``host-pid-random``, of letters, digits, ``.``, ``_`` and ``-``. No other process ever has the same name."""
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:40]
    pid = os.getpid()
    return f"{host}-{pid}-{_suffix(pid)}"
