"""State of the process: load, memory and uptime, for dead letters and the console."""

from __future__ import annotations

import json
import os
import socket
import time
from functools import partial

from messages_app import conf
from wire.cached import Cached

_STARTED = time.monotonic()
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_bytes() -> int:
    """Resident memory of this process; 0 where unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


@partial(Cached, keep_s=1.0)
def system_state(worker: str) -> str:
    """JSON text of {cpu, memory, uptime, host, worker, codeVersion}, at most one second old.

    ``cpu``: the host's load average over its number of CPUs, in percent · ``memory``: bytes held by this process ·
    ``uptime``: seconds since this process began.
    """
    try:
        cpu = round(100 * os.getloadavg()[0] / (os.cpu_count() or 1), 1)
    except OSError:
        cpu = 0.0
    return json.dumps(
        {
            "cpu": cpu,
            "memory": resident_bytes(),
            "uptime": round(time.monotonic() - _STARTED, 1),
            "host": socket.gethostname(),
            "worker": worker,
            "codeVersion": conf.code_version(),
        }
    )
