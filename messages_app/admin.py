"""Messages page of the console: look up a message, see messages in flight, check that none is lost.

Nothing here changes a message, and nothing is read by walking through what waits: a page costs the same with ten
messages in the lanes and with ten million.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from console import permissions
from console.live import fragment
from console.read_only import ReadOnlyAdmin
from dlq_app.conf import masking_policy
from dlq_app.domain.masking import mask_json, mask_text
from messages_app import registry
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import AccountRow, LedgerFigures, Quarantined, Record, State
from messages_app.models import Message
from messages_app.store import in_flight
from messages_app.store.in_flight import InFlightMessage
from messages_app.store.ledger import ledger
from messages_app.work import store_losses
from wire.cached import Cached
from wire.errors import ServiceError
from wire.traceparent import trace_id_of

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
#: Choices for the days of accounts; rows with a difference are always shown.
DAYS = (2, 7, 30)
ALL_DAYS = 400
#: Maximum number of rows, characters of a payload, and quarantined outcomes shown.
MAX_ROWS = 200
MAX_TEXT = 20_000
MAX_SET_ASIDE = 20


@dataclass(frozen=True, slots=True)
class Board:
    """Values of the live part."""

    figures: LedgerFigures
    flying: tuple[InFlightMessage, ...]
    now_ms: int
    quarantined: tuple[Quarantined, ...]


def _board() -> Board:
    book = ledger()
    figures = book.figures()
    seen = in_flight.read()
    # Usually few or none: each needs a person.
    aside = tuple(book.quarantined()[:MAX_SET_ASIDE]) if figures.quarantined else ()
    return Board(figures, seen.messages, seen.now_ms, aside)


board = Cached(_board, 1.0)
accounts = Cached(lambda: ledger().accounting(ALL_DAYS), 10.0)


@dataclass(frozen=True, slots=True)
class LaneRow:
    """Messages waiting in a lane, and the age of the oldest (ms)."""

    name: str
    waiting: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of a message as its timeline shows it."""

    number: Any
    started: str
    took_s: float | None
    outcome: str
    error_type: str
    reason: str
    worker: str
    wait_s: float | None


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    """One page instead of a list of rows: figures, and a lookup by id."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Message | None:
        """A message for Django, which only needs its id: messages have no table."""
        return Message(id=object_id) if _ID.match(object_id) else None

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        live = path("live/", view(self.live_view), name="messages_app_message_live")
        known = path("acknowledge/", view(self.acknowledge_view), name="messages_app_message_acknowledge")
        return [live, known, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return HttpResponseRedirect(f"{self._address()}?{urlencode({'id': object_id})}")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> TemplateResponse:
        self.require_view(request)
        asked = request.GET.get("id", "").strip()
        days = _days(request)
        live = live_context(days)
        body, etag = _rendered(live)
        context = {
            **self.context(request, "Messages"),
            **live,
            "body": body,
            "etag": etag,
            "asked": asked[:200],
            "found": None,
            "origin": f"{request.scheme}://{request.get_host()}",
            "may_see_letters": request.user.has_perm("dlq_app.view_deadletter"),
            "may_acknowledge": permissions.can(request, permissions.ADMIN),
            "reason": request.GET.get("reason", "")[: store_losses.MAX_REASON],
            "most": store_losses.MAX_REASON,
            **_losses(),
        }
        if asked:
            context |= look_up(asked)
        return TemplateResponse(request, "messages_app/messages.html", context)

    def live_view(self, request: HttpRequest) -> HttpResponse:
        """The live part of the page; 304 if it has not changed."""
        self.require_view(request)
        context = live_context(_days(request))
        body, etag = _rendered(context)
        context |= {"body": body, "etag": etag}
        return fragment(request, "messages_app/messages_live.html", context, etag, as_of=context["as_of"])

    def acknowledge_view(self, request: HttpRequest) -> HttpResponse:
        """Acknowledge the store losses that the page showed."""
        if request.method != "POST":
            return HttpResponseRedirect(self._address())
        self.require_view(request)
        permissions.require(request, permissions.ADMIN, "Acknowledging losses")
        ids, reason = request.POST.getlist("loss"), request.POST.get("reason", "").strip()
        try:
            new = store_losses.acknowledge(ids, actor=permissions.actor(request), reason=reason)
        except ServiceError as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(
                f"{self._address()}?{urlencode({'reason': reason[: store_losses.MAX_REASON]})}#losses"
            )
        for loss_id in new:
            permissions.record_audit(request, loss_id, f"loss {loss_id}", "acknowledge loss", reason, about=Message)
        messages.success(request, f"{len(new)} loss{'' if len(new) == 1 else 'es'} acknowledged.")
        return HttpResponseRedirect(self._address())

    def _address(self) -> str:
        return reverse(f"{self.admin_site.name}:messages_app_message_changelist")


def _rendered(context: Mapping[str, Any]) -> tuple[str, str]:
    """The live part as HTML, and its ETag."""
    html = render_to_string("messages_app/messages_body.html", dict(context))
    return html, hashlib.sha256(html.encode()).hexdigest()[:32]


def _days(request: HttpRequest) -> int:
    given = request.GET.get("days", "")
    return int(given) if given in map(str, DAYS) else DAYS[0]


def live_context(days: int) -> dict[str, Any]:
    """Messages in flight and accounts; with Redis unavailable, the error."""
    context: dict[str, Any] = {
        "as_of": datetime.now(UTC), "days": days, "day_choices": DAYS, "away": "", "home": reverse("admin:index"),
    }  # fmt: skip
    try:
        context |= {"board": board(), "lanes": _lanes(board()), **_books(accounts(), days)}
    except StoreUnavailable as error:
        context["away"] = str(error)
    return context


def _losses() -> dict[str, Any]:
    """Unacknowledged store losses, with advice."""
    try:
        known = store_losses.open_losses()
    except StoreUnavailable:
        return {}
    shown = [
        {"id": loss.id, "sentence": store_losses.sentence(loss), "advice": store_losses.advice(loss)}
        for loss in known.losses
    ]
    return {"losses": shown, "losses_incomplete": known.incomplete}


def _lanes(seen: Board) -> dict[str, Any]:
    figures, now_ms = seen.figures, seen.now_ms
    rows = [
        LaneRow(lane.name, lane.waiting, now_ms - lane.oldest_ms if lane.waiting and lane.oldest_ms else None)
        for lane in figures.lanes
        if lane.name != "alone" or lane.waiting
    ]
    return {
        "rows": rows,
        "retry_wait": figures.retry_wait,
        "scheduled": figures.scheduled,
        "running": figures.running,
        "waiting": sum(row.waiting for row in rows) + figures.retry_wait + figures.scheduled,
        "oldest_ms": max((row.oldest_ms for row in rows if row.oldest_ms is not None), default=None),
    }


def _books(rows: list[AccountRow], days: int) -> dict[str, Any]:
    """Rows of the last days, newest first, after all rows with a difference."""
    first = f"{datetime.now(UTC) - timedelta(days=days - 1):%Y%m%d}"
    differing = [row for row in reversed(rows) if row.wrong]
    recent = [row for row in rows if row.day >= first]
    fitting = sorted((row for row in recent if not row.wrong), key=lambda row: (-int(row.day), -row.accepted))
    return {
        "differing": differing,
        "unaccounted": sum(row.wrong for row in differing),
        "rows": [*differing, *fitting][:MAX_ROWS],
        "left_out": max(len(differing) + len(fitting) - MAX_ROWS, 0),
        "totals": {name: sum(getattr(row, name) for row in recent) for name in ("accepted", "done", "open", "dead")}
        | {"difference": sum(row.wrong for row in recent)},
    }


# --- one message ---


def look_up(message_id: str) -> dict[str, Any]:
    """The message with this id; secrets in its text are masked."""
    if not _ID.match(message_id):
        return {"not_found": "Invalid message id. Allowed: up to 64 letters, digits, _ and -."}
    try:
        record = ledger().get(message_id)
    except StoreUnavailable:
        return {"not_found": "Redis is not responding, so its state is unknown. Its dead letter, if any, is available."}
    if record is None:
        return {"not_found": "No such message, or its record has expired (RECORD_TTL_S)."}
    return {"found": record, **shown(record)}


def shown(record: Record) -> dict[str, Any]:
    """A record as the page shows it."""
    payload = _text(record.run_body if record.run_body is not None else record.body)
    return {
        "attempts": [_attempt(entry) for entry in _entries(f"[{record.attempts}]")],
        "source": mask_text(record.source, masking_policy()),
        "tags": [mask_text(str(tag), masking_policy()) for tag in _entries(record.tags or "[]")],
        "payload": payload[:MAX_TEXT],
        "payload_more": max(len(payload) - MAX_TEXT, 0),
        "result": _text(record.result.encode())[:MAX_TEXT] if record.result not in ("", "null") else "",
        "next_step": next_step(record),
        "has_letter": record.state is State.DEAD or bool(record.replay_id),
        "held": record.state is State.SCHEDULED and record.deferred_since_ms is not None,
        "breaker": _breaker(record),
        "trace": trace_id_of(record.traceparent),
    }


def next_step(record: Record) -> str:
    """The next automatic step."""
    match record.state:
        case State.QUEUED:
            return "will run when a worker is free"
        case State.SCHEDULED if record.deferred_since_ms is not None:
            return f"checks its breaker again at {_clock(record.due_at_ms)}"
        case State.SCHEDULED:
            return f"runs from {_clock(record.due_at_ms)} on"
        case State.RUNNING:
            return f"running; recovered if its process does not respond until {_clock(record.lease_until_ms)}"
        case State.RETRY_WAIT:
            return f"attempt {record.attempt + 1} of {record.max_retries + 1} at {_clock(record.due_at_ms)}"
        case State.DEAD_PENDING:
            return "becomes a dead letter when MongoDB is available"
        case State.DEAD:
            return "see its dead letter"
        case _:
            return "nothing, it is done"


def _clock(ms: int | None) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if ms else "unknown time"


def _breaker(record: Record) -> str:
    spec = registry.get(record.type)
    if spec is None or record.body is None:
        return ""
    try:
        return spec.breaker_of(json.loads(record.run_body or record.body)) or ""
    except (ValueError, RecursionError):
        return ""  # a payload that makes no sense has no breaker


def _entries(text: str) -> list[Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return []  # broken in the store: the other parts are still worth seeing
    return entries if isinstance(entries, list) else []


def _attempt(entry: Any) -> AttemptRow:
    fields: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    started, ended = _instant(fields.get("startedAt")), _instant(fields.get("endedAt"))
    wait = fields.get("retryDelayMs")
    return AttemptRow(
        number=fields.get("number", ""),
        started=f"{started:%Y-%m-%d %H:%M:%S}" if started else "",
        took_s=(ended - started).total_seconds() if started and ended and ended >= started else None,
        outcome=str(fields.get("outcome", "")),
        error_type=str(fields.get("errorType") or ""),
        reason=mask_text(str(fields.get("errorReason") or ""), masking_policy())[:500],
        worker=str(fields.get("worker") or ""),
        wait_s=wait / 1000 if isinstance(wait, int | float) and not isinstance(wait, bool) else None,
    )


def _instant(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _text(body: bytes | None) -> str:
    """Indented JSON with secrets masked; other text unchanged."""
    if body is None:
        return ""
    hidden = mask_json(body.decode("utf-8", "replace"), masking_policy())
    try:
        return json.dumps(json.loads(hidden), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return hidden
