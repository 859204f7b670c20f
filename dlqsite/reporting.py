"""Unexpected errors, sent to Sentry or a compatible service. Off, and not imported, without ``SENTRY_DSN``.

What is sent is what the log has at the level "error": its event, its numbers and names, and the stack, masked like the
log. Never sent: payloads, requests, users, local variables, earlier log lines, and texts of drivers, which quote what
they could not store.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, cast

from dlqsite.logs import hide_secrets
from processes.hard_exit import before_hard_exit

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

#: Parts of an event that can be sent; all others are removed.
_SENT: Final = (
    "event_id", "timestamp", "level", "platform", "logger", "logentry", "exception", "extra", "environment", "release",
    "server_name", "sdk",
)  # fmt: skip
_WITHHELD: Final = "(see the log)"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:@/-]{1,128}")
#: Packages whose errors quote documents and commands.
_QUOTING: Final = ("pymongo", "bson", "redis")
#: Errors of clients, such as an unknown host name: anyone could send any number of them.
_OF_CLIENTS: Final = "django.security."
_MAX_TEXT: Final = 1000
#: Characters of a text that are masked.
_MAX_MASKED: Final = 20_000
_MAX_DEPTH: Final = 30
#: Seconds that an ending process waits for its last errors.
_LAST_S: Final = 2


def switch(dsn: str, *, environment: str, release: str) -> str:
    """Send errors from now on if there is a ``dsn``; return what is wrong with it, or an empty text."""
    if not dsn:
        return ""
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.integrations.threading import ThreadingIntegration

    try:
        sentry_sdk.init(
            dsn,
            environment=environment,
            release=f"dlq@{release}",
            # The log has every unexpected error of every role, once. Integrations of frameworks would add requests.
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[
                LoggingIntegration(level=None, event_level=logging.ERROR),
                ExcepthookIntegration(),
                ThreadingIntegration(),
                DedupeIntegration(),
                AtexitIntegration(callback=lambda pending, timeout: None),
            ],
            before_send=scrubbed,
            send_default_pii=False,
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            enable_logs=False,
            shutdown_timeout=_LAST_S,
        )
    except ValueError as error:  # of its parts, or of ``urllib`` about host and port
        return f"SENTRY_DSN is not valid ({error}); accepted: https://<key>@<host>/<project>"
    before_hard_exit(lambda: sentry_sdk.flush(_LAST_S))
    return ""


def scrubbed(event: Event, hint: Hint) -> Event | None:
    """The event without what could contain payloads or users, its texts masked and shortened; None: it is not sent."""
    if str(event.get("logger")).startswith(_OF_CLIENTS):
        return None
    kept: MutableMapping[str, Any] = {name: value for name, value in event.items() if name in _SENT}
    if entry := kept.get("logentry"):
        # Without its parameters, which can be texts from outside.
        kept["logentry"] = {"message": str(entry.get("message") or "")}
    extra: Mapping[str, Any] = kept.get("extra") or {}
    kept["extra"] = {name: _plain(value) for name, value in extra.items()}
    for one in (kept.get("exception") or {}).get("values") or ():
        if str(one.get("module") or "").startswith(_QUOTING):
            one["value"] = _WITHHELD
        for frame in (one.get("stacktrace") or {}).get("frames") or ():
            frame.pop("vars", None)
    # Masked before it is cut: half of a secret would not be recognised.
    hidden = hide_secrets(None, "", {name: _shortened(value, _MAX_MASKED) for name, value in kept.items()})
    found: Any = {name: _shortened(value, _MAX_TEXT) for name, value in hidden.items()}
    return cast("Event", found)


def _plain(value: Any) -> Any:
    """Numbers and names; any other text may quote a payload."""
    if isinstance(value, bool | int | float | None):
        return value
    return value if isinstance(value, str) and _NAME.fullmatch(value) else _WITHHELD


def _shortened(value: Any, limit: int, depth: int = _MAX_DEPTH) -> Any:
    if isinstance(value, str):
        return value[:limit]
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {name: _shortened(inner, limit, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(inner, limit, depth - 1) for inner in value]
    return value
