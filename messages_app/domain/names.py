"""What a process of this system calls itself."""

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
    """``host-pid-random``: only letters, digits, ``.``, ``_`` and ``-``; never used twice, so that nobody inherits."""
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:40]
    pid = os.getpid()
    return f"{host}-{pid}-{_suffix(pid)}"
