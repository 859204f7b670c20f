"""Send a webhook, signed by the rules of Standard Webhooks.

The id is the same for every attempt, so a receiver recognises repetitions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from urllib3.exceptions import HTTPError

from messages_app.conf import code_version
from messages_app.domain import signing
from messages_app.domain.addresses import Destination, UrlRefused, parse_url
from messages_app.domain.delivery_policy import HostPolicy
from notify_app.domain.wording import Content, text_of
from notify_app.store.outbox import SENT, Result, refused

if TYPE_CHECKING:
    from messages_app.delivery.pool import Pools

#: Limits in ms: for a connection, for each part of the answer, for all of it.
CONNECT_MS: Final = 5_000
READ_MS: Final = 10_000
TOTAL_MS: Final = 20_000


def body_of(content: Content) -> bytes:
    """The body: JSON with ``type``, ``timestamp`` and ``data``."""
    data: dict[str, Any] = {
        "severity": content.severity,
        "title": content.title,
        "text": text_of(content.text, count=content.count, link=""),
        "count": content.count,
        "link": content.link or None,
        **content.facts,
    }
    value = {"type": f"dlq.{content.kind}", "timestamp": content.at, "id": content.id, "data": data}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def send(url: str, keys: Sequence[bytes], content: Content, pools: Pools | None = None) -> Result:
    """Send once within 20 s; follows no redirects. Every failure can be repeated: the id stays the same."""
    if pools is None:
        from messages_app.delivery.pool import pools as pools_of_process

        pools = pools_of_process()
    try:
        destination = parse_url(url)
    except UrlRefused as error:
        return refused(f"The URL in the environment {error}.")
    body = body_of(content)
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"dlq/{code_version()}",
        **signing.headers(keys, content.id, int(time.time()), body),
    }
    try:
        answer = pools.post(destination, _policy(destination), body, headers, TOTAL_MS / 1000)
    except (HTTPError, OSError) as error:
        # Without the error's text: it repeats the URL, whose path can be a secret.
        return refused(f"{destination.origin} did not answer ({type(error).__name__}).")
    if 200 <= answer.status < 300:
        return SENT
    return refused(f"{destination.origin} answered {answer.status}.")


def _policy(destination: Destination) -> HostPolicy:
    """Limits of the connection. The operator chose the address, so private networks are allowed."""
    return HostPolicy(
        name=destination.host,
        host=destination.host,
        breaker="",
        schemes=(destination.scheme,),
        ports=(destination.port,),
        allow_private=True,
        connect_timeout_ms=CONNECT_MS,
        read_timeout_ms=READ_MS,
        total_timeout_ms=TOTAL_MS,
        max_response_bytes=1024,
    )
