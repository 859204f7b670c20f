"""Audit log lines about letters, groups and batches, for REST."""

from __future__ import annotations

from rest_framework.request import Request

from audit_app.lines import record


def log_batch(request: Request, batch_id: str, name: str, what: str, why: str, *, count: int | None = None) -> None:
    """Add one line about a replay batch."""
    record(actor(request), what, kind="replaybatch", object_id=batch_id, name=name or batch_id, why=why, count=count)


def log_group(request: Request, fingerprint: str, title: str, what: str, why: str) -> None:
    """Add a line about a group."""
    record(actor(request), what, kind="lettergroup", object_id=fingerprint, name=title, why=why)


def log(
    request: Request,
    letter_id: str,
    name: str,
    what: str,
    why: str,
    *,
    count: int | None = None,
    must: bool = False,
) -> None:
    """Add a line about a letter, or about many letters that ``name`` describes. ``must``: see ``record``."""
    record(actor(request), what, kind="deadletter", object_id=letter_id, name=name, why=why, count=count, must=must)


def actor(request: Request) -> str:
    """The client, as history shows it: ``key:NAME`` or ``user:NAME``."""
    return str(getattr(request, "actor", "")) or "unknown"
