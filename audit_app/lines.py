"""Add lines to the audit log, and find the lines about one object."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.core.paginator import Paginator
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection, transaction
from django.db.models.functions import Now
from django.http import HttpRequest

from audit_app.models import AuditLine, masked

log = logging.getLogger(__name__)
_PAGE = 100
_CHUNK = 1000


def record(
    who: str,
    what: str,
    *,
    kind: str = "",
    object_id: str = "",
    name: str = "",
    why: str = "",
    count: int | None = None,
    must: bool = False,
) -> None:
    """Add a line; secrets in its texts are hidden.

    If the database rejects it, the line goes to the log at level error: the change has happened, and an error response
    would deny it. With ``must``, for actions that reveal secrets, it then raises Django's ``DatabaseError``, so that
    nothing is revealed.
    """
    texts = {
        "who": (who or "unknown")[:200],
        "what": masked(what)[:200],
        "kind": kind[:40],
        "object_id": object_id[:200],
        "name": masked(name)[:200],
        "why": masked(why),
    }
    # PostgreSQL cannot store U+0000.
    texts = {field: text.replace("\0", "\\0") for field, text in texts.items()}
    try:
        with transaction.atomic():
            # The clock of the database keeps lines of several hosts in order.
            AuditLine.objects.create(**texts, count=count, at=Now())
    except DatabaseError as error:
        fields = {("target" if field == "name" else field): text for field, text in texts.items()}
        log.error("audit_line_unwritten", extra={**fields, "count": count, "error": str(error)})
        if must:
            raise


def record_automatic(what: str, *, kind: str, name: str, count: int) -> None:
    """``record`` an action of the system itself, in a process that keeps its connection for hours."""
    if not connection.in_atomic_block:
        close_old_connections()
    record("system", what, kind=kind, name=name, count=count)


def delete_older_than(age: timedelta) -> int:
    """Delete lines that are older, a thousand at a time, and return their number. Raises Django's database errors.

    The database's clock decides, which has dated them. Can be repeated and run in several processes.
    """
    deleted = 0
    while True:
        old = AuditLine.objects.filter(at__lt=Now() - age).order_by("at").values_list("pk", flat=True)[:_CHUNK]
        some, _ = AuditLine.objects.filter(pk__in=list(old)).delete()
        deleted += some
        if not some:
            return deleted


def history(request: HttpRequest, kind: str, object_id: str) -> dict[str, Any]:
    """The context of Django's history page: the lines about one object, oldest first."""
    lines = AuditLine.objects.filter(kind=kind, object_id=object_id.replace("\0", "\\0")).order_by("at", "pk")
    paginator = Paginator(lines, _PAGE)
    page = paginator.get_page(request.GET.get("p", 1))
    return {
        "action_list": page,
        "page_range": paginator.get_elided_page_range(page.number),
        "pagination_required": paginator.count > _PAGE,
    }
