"""Adding lines to the audit log, and finding those about one thing."""

from __future__ import annotations

import logging
from typing import Any

from django.core.paginator import Paginator
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpRequest

from audit_app.models import AuditLine, masked

log = logging.getLogger(__name__)
_PAGE = 100


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

    When the database does not take it, the line goes to the program's log at level error: the change has happened and
    an answer that denies it would be wrong. With ``must``, for what only shows secrets and has not yet happened, raises
    Django's ``DatabaseError`` after that, so that nothing is shown.
    """
    texts = {
        "who": (who or "unknown")[:200],
        "what": masked(what)[:200],
        "kind": kind[:40],
        "object_id": object_id[:200],
        "name": masked(name)[:200],
        "why": masked(why),
    }
    # PostgreSQL does not store it.
    texts = {field: text.replace("\0", "\\0") for field, text in texts.items()}
    try:
        with transaction.atomic():
            # The database's clock: lines of hosts whose clocks differ stand in their order.
            AuditLine.objects.create(**texts, count=count, at=Now())
    except DatabaseError as error:
        told = {("target" if field == "name" else field): text for field, text in texts.items()}
        log.error("audit_line_unwritten", extra={**told, "count": count, "error": str(error)})
        if must:
            raise


def history(request: HttpRequest, kind: str, object_id: str) -> dict[str, Any]:
    """The context with which Django's history page shows the lines about one thing, oldest first."""
    lines = AuditLine.objects.filter(kind=kind, object_id=object_id.replace("\0", "\\0")).order_by("at", "pk")
    paginator = Paginator(lines, _PAGE)
    page = paginator.get_page(request.GET.get("p", 1))
    return {
        "action_list": page,
        "page_range": paginator.get_elided_page_range(page.number),
        "pagination_required": paginator.count > _PAGE,
    }
