"""Submissions of single messages in the event loop of a web process, without a thread.

``worker.py`` offers it each complete request. A request with anything unusual is none of its: gunicorn's parser and a
thread answer it, as they answer all other requests. So the rules of HTTP stay in one place.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from gunicorn.util import http_date

from dlqsite import access
from dlqsite.metrics.http import note_request
from dlqsite.web.connection import Wire
from messages_app.rest.committer import Committer
from messages_app.rest.front import STATUS, reply_headers
from messages_app.rest.intake import CHEAP_BODY, Pending, prepare, reply_of
from messages_app.work import measuring

#: Longer heads are left to the parser, and so are those with more fields.
MAX_HEAD: Final = 4096
MAX_FIELDS: Final = 40

_BEGIN: Final = b"POST /api/messages HTTP/1.1\r\n"
#: Fields that all parsers read alike: names without an underscore, values of visible ASCII characters.
_FIELDS: Final = re.compile(rb"(?:[A-Za-z0-9-]+:[ \t]*[!-~][ -~]*\r\n)+")
#: Fields that change what the bytes around them mean.
_UNUSUAL: Final = frozenset(
    {"HTTP_EXPECT", "HTTP_TRAILER", "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE", "HTTP_HTTP2_SETTINGS"}
)

#: Gives the client behind a request if that is known without asking a store; tests have a key of their own.
known_client: Callable[[Mapping[str, Any]], Any] = access.known_client


@dataclass(slots=True, eq=False)
class Visit:
    """A submission on its way through the door."""

    pending: Pending
    request_id: str
    #: The client wants the connection to be closed.
    is_last: bool
    #: Bytes of the request.
    size: int
    began: float


class Door:
    """The door of one process. Only its event loop may use it."""

    def __init__(self, cfg: Any, post: Callable[..., None]) -> None:
        self.committer = Committer(post)
        # With these settings gunicorn does more for each request than is done here.
        self._is_open = not (
            cfg.is_ssl or cfg.proxy_protocol not in (False, "off") or cfg.accesslog or cfg.statsd_host
        ) and not os.environ.get("SCRIPT_NAME")

    def read(self, wire: Wire, client: Any) -> Visit | None:
        """The submission that a complete request is, parsed and validated; None if it is anything else, or in doubt."""
        head = wire.head
        if not self._is_open or head is None or head.refused or head.is_last or head.expects:
            return None
        request = wire.collected(_BEGIN, MAX_HEAD + CHEAP_BODY)
        if request is None:
            return None
        end = request.find(b"\r\n\r\n") + 2
        if end > MAX_HEAD or len(request) - end - 2 > CHEAP_BODY or not _FIELDS.fullmatch(request, len(_BEGIN), end):
            return None
        began = time.perf_counter()
        environ = _environ(request[len(_BEGIN) : end - 2].decode("ascii"))
        if environ is None:
            return None
        connection = environ.get("HTTP_CONNECTION", "keep-alive").lower()
        if connection not in ("keep-alive", "close") or not _UNUSUAL.isdisjoint(environ) or "HTTP_HOST" not in environ:
            return None
        environ["REMOTE_ADDR"] = client[0] if isinstance(client, tuple) else os.fsdecode(client)
        environ["wsgi.url_scheme"] = "http"
        access.drop_claims(environ)
        known = known_client(environ)
        if known is None:
            return None
        measuring.begin()
        pending = prepare(environ, request[end + 2 :], known)
        return Visit(pending, environ.get("HTTP_X_REQUEST_ID", ""), connection == "close", len(request), began)

    def answer(self, visit: Visit, *, stays: bool) -> bytes:
        """The reply to a concluded submission as gunicorn would send it. Counts the request."""
        reply = reply_of(visit.pending)
        self.note(visit, reply.status)
        fields = "".join(f"{name}: {value}\r\n" for name, value in reply_headers(reply, visit.request_id))
        head = (
            f"HTTP/1.1 {STATUS[reply.status]}\r\nServer: gunicorn\r\nDate: {_date(int(time.time()))}\r\n"
            f"Connection: {'keep-alive' if stays else 'close'}\r\n{fields}\r\n"
        )
        return head.encode("latin-1") + reply.body

    def note(self, visit: Visit, status: int) -> None:
        """Count and time the request."""
        note_request("POST", "api/messages", str(status), time.perf_counter() - visit.began)


def _environ(text: str) -> dict[str, Any] | None:
    """The fields under their CGI names; None if one is repeated, or if there are too many."""
    lines = text.split("\r\n")
    environ: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(":")
        environ[_cgi_name(name)] = value.strip(" \t")
    return environ if len(environ) == len(lines) <= MAX_FIELDS else None


@lru_cache(maxsize=512)
def _cgi_name(name: str) -> str:
    upper = name.upper().replace("-", "_")
    return upper if upper in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{upper}"


@lru_cache(maxsize=1)
def _date(_second: int) -> str:
    return str(http_date())
