"""The hot path's own door: ``POST /api/messages`` with a key seen a moment ago is answered before Django.

Same core, same answers as the view. Whatever this door is not sure of (another path, no key or one it does not know, a
plain request where https is wanted) goes to Django unread, and Django decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http.client import responses
from typing import Any

from messages_app.domain.clients import Client
from messages_app.request_ids import request_id_of
from messages_app.rest.intake import submit
from messages_app.rest.replies import Reply

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
#: Gives the client behind a request if that is known without asking anybody, and if it may submit; else None.
KnownClient = Callable[[Environ], "Client | None"]

STATUS = {code: f"{code} {phrase}" for code, phrase in responses.items()}


class Front:
    """A WSGI application in front of another."""

    def __init__(self, behind: Application, known_client: KnownClient) -> None:
        self.behind = behind
        self.known_client = known_client

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/api/messages" or environ["REQUEST_METHOD"] != "POST":
            return self.behind(environ, start_response)
        client = self.known_client(environ)
        if client is None:
            return self.behind(environ, start_response)
        reply = submit(environ, environ["wsgi.input"].read, client)
        start_response(STATUS[reply.status], reply_headers(reply, environ.get("HTTP_X_REQUEST_ID", "")))
        return (reply.body,)


def reply_headers(reply: Reply, request_id: str) -> list[tuple[str, str]]:
    """The headers of a reply. ``request_id``: the client's ``X-Request-Id``, or empty."""
    return [
        ("Content-Type", reply.content_type),
        ("Content-Length", str(len(reply.body))),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Request-Id", request_id_of(request_id)),
        *reply.headers.items(),
    ]
