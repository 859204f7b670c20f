"""Send through apprise, which knows Slack, Teams, PagerDuty, Opsgenie, e-mail and a hundred other services.

Apprise reports only success or failure; the reason is in its log. That log is read here and goes nowhere else, since it
can contain addresses and tokens.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from notify_app.domain.events import Severity
from notify_app.domain.wording import Content, plain, text_of
from notify_app.store.outbox import SENT, Result, refused, uncertain

if TYPE_CHECKING:
    from apprise import NotifyBase

#: Maximum wait for a connection, and for each part of an answer, in seconds. A notifier must not hang on one recipient.
TIMEOUT_S: Final = 10.0
_TYPES: Final = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
#: Log entries that prove that nothing arrived: no connection, none that is secure, or no sign-in; or the service
#: answered with an error.
_NOT_CONNECTED: Final = re.compile(
    r"NewConnectionError|ConnectTimeout|NameResolutionError|getaddrinfo|Name or service not known|Connection refused"
    r"|Temporary failure in name resolution|No route to host|Network is unreachable|SSLCertVerificationError"
    r"|SSLError|ProxyError|connect timed out|CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|UNSUPPORTED_PROTOCOL"
    r"|extension not supported by server|No suitable authentication method",
    re.IGNORECASE,
)
_ANSWERED: Final = re.compile(r"\berror=(\d{3})\b")
_SMTP_REFUSED: Final = re.compile(r"Socket Exception: (?:\(|\{'[^']+': \()(\d{3}), ")
#: Why an e-mail failed. Only of e-mails: other services quote their addresses there.
_SMTP_CAUSE: Final = re.compile(r"Socket Exception: (.+)", re.DOTALL)
#: Parts of a URL that are too short or too common to be a secret.
_PART: Final = re.compile(r"[^/:@?&=,+#]{4,}")


class _Entries(logging.Handler):
    """Collects the log entries of the thread that sends."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._of_thread = threading.local()

    def emit(self, entry: logging.LogRecord) -> None:
        found: list[tuple[int, str]] | None = getattr(self._of_thread, "entries", None)
        if found is not None:
            found.append((entry.levelno, entry.getMessage()))

    @contextmanager
    def collected(self) -> Iterator[list[tuple[int, str]]]:
        self._of_thread.entries = []
        try:
            yield self._of_thread.entries
        finally:
            self._of_thread.entries = None


@cache
def _entries() -> _Entries:
    handler, log = _Entries(), logging.getLogger("apprise")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    return handler


def problem(url: str) -> str:
    """Why apprise cannot use the URL, without any part of it; empty if it can."""
    with _entries().collected():
        return "" if _service(url) else "is not one that apprise can use: see https://appriseit.com/services/"


def send(url: str, content: Content) -> Result:
    """Send once. ``failed``: it certainly did not arrive; ``uncertain``: it may have. Never raises for a service.

    Waits at most ``TIMEOUT_S`` for each step of the service.
    """
    with _entries().collected() as entries:
        service = _service(url)
        if service is None:
            return refused("The URL in the environment is not one that apprise can use.")
        try:
            arrived = service.notify(
                body=text_of(content.text, count=content.count, link=content.link) or content.title,
                title=content.title,
                notify_type=_TYPES.get(Severity(content.severity), "info"),
                # Declares the text as plain: apprise escapes it for services that expect HTML or Markdown.
                body_format="text",
            )
        except Exception as error:
            # A plugin of apprise: whatever it raises, it must not end the thread that sends for this recipient.
            return uncertain(f"apprise failed with {type(error).__name__}.")
        return SENT if arrived else _judged(url, entries)


def _service(url: str) -> NotifyBase | None:
    from apprise import Apprise, AppriseAsset

    # secure_logging: no secret in its own log entries. It keeps nothing on disk and loads no plugins of its own.
    asset = AppriseAsset(
        secure_logging=True, storage_mode="memory", plugin_paths=[], app_id="dlq", app_desc="Dead-letter queue"
    )
    service: Any = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if service is None:
        return None
    service.socket_connect_timeout = min(service.socket_connect_timeout, TIMEOUT_S)
    service.socket_read_timeout = min(service.socket_read_timeout, TIMEOUT_S)
    # Attempts are counted and limited here, and only if nothing arrived.
    service.retry = 0
    made: NotifyBase = service
    return made


def _judged(url: str, entries: list[tuple[int, str]]) -> Result:
    """The result of a failed attempt, from what apprise logged."""
    texts = [text for _, text in entries]
    causes = [text for level, text in entries if level >= logging.WARNING]
    if url.lower().startswith("mailto"):
        causes += [found[1] for text in texts if (found := _SMTP_CAUSE.match(text))]
    said = _without_parts(url, "; ".join(causes))
    some_arrived = any(level == logging.INFO and text.startswith("Sent") for level, text in entries)
    if some_arrived:
        return uncertain(f"One of several addresses of this recipient failed. {said}")
    if any(_ANSWERED.search(text) or _SMTP_REFUSED.search(text) for text in texts):
        return refused(f"The service refused it. {said}")
    if any(_NOT_CONNECTED.search(text) for text in texts):
        return refused(f"No connection to the service. {said}")
    return uncertain(f"The service did not confirm it. {said}")


def _without_parts(url: str, text: str) -> str:
    """The text without any part of the URL: each can be a token."""
    for part in sorted(set(_PART.findall(url)), key=len, reverse=True):
        text = text.replace(part, "•••")
    return plain(text)
