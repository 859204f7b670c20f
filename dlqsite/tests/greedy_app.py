"""An application for a real web server under test: the real one, a key that needs no database, and a few odd addresses.

The deadlines and limits of the server are made small, so that a test sees them pass.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django

from dlqsite.web import connection, worker

worker.HEAD_S = connection.WINDOW_S = worker._LINGER_S = float(os.environ["PATIENCE_S"])  # type: ignore[misc]
worker.MAX_HELD = 10_000_000  # type: ignore[misc]
connection.HIGH_WATER = 256 * 1024  # type: ignore[misc]

django.setup()

from dlqsite.access import believed  # noqa: E402  # needs the apps
from dlqsite.web import door  # noqa: E402
from dlqsite.wsgi import _django  # noqa: E402
from messages_app.domain.clients import Client  # noqa: E402
from messages_app.rest import committer  # noqa: E402
from messages_app.rest.front import Front  # noqa: E402
from messages_app.work import measuring  # noqa: E402
from processes.hard_exit import before_hard_exit  # noqa: E402
from processes.measured import measured  # noqa: E402

committer.MAX_WAITING = int(os.environ.get("MAX_WAITING", committer.MAX_WAITING))  # type: ignore[misc]
_folder = Path(os.environ["DATA_DIR"])


class Endless:
    """An answer without an end; says in a file that somebody ended it."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    def close(self) -> None:
        (_folder / "ended").touch()


def _stuck() -> None:
    """Leave a thread that waits for a store for ever, something to send at the end, and something that was counted."""
    ThreadPoolExecutor(1).submit(threading.Event().wait)
    before_hard_exit((_folder / "prepared").touch)
    measuring.begin()
    measured.count("stuck")


def _odd(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    answer: Iterable[bytes] = [b"?"]
    if path == "/big":
        answer = [b"x" * 8_000_000]
    elif path == "/endless":
        answer = Endless()
    elif path == "/echo":
        answer = [environ["wsgi.input"].read()]
    elif path == "/wait":
        (_folder / "waits").touch()
        while not (_folder / "go").exists():
            time.sleep(0.01)
        answer = [b"done"]
    elif path == "/hold":
        (_folder / "holds").write_text(str(os.getpid()))
        re.match("(a+)+$", "a" * 60 + "b")  # does not come back and lets no other thread run
    elif path == "/stuck":
        _stuck()
    elif path == "/peer":
        answer = [repr((environ["SCRIPT_NAME"], environ.get("HTTP_X_FORWARDED_PROTO"))).encode()]
    else:
        return _django(environ, start_response)
    length = [("Content-Length", str(len(answer[0])))] if isinstance(answer, list) else []
    start_response("200 OK", [("Content-Type", "text/plain"), *length])
    return answer


def _known(environ: Any) -> Client | None:
    known = environ.get("HTTP_AUTHORIZATION") == "Api-Key known"
    return Client(label="key:known", rate_key="key:known", rate_limit_per_minute=0) if known else None


door.known_client = _known
application = believed(Front(_odd, _known))
