"""Breakers page of the console: states, history of one breaker, and manual control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from breaker_app import conf, page, services
from breaker_app.errors import BreakerNotFound, InvalidRequest
from breaker_app.held import NONE
from breaker_app.models import Breaker
from breaker_app.services import MAX_TRANSITIONS
from breaker_app.states import MAX_REASON, State
from breaker_app.store import KEPT_TRANSITIONS
from console import permissions
from console.live import etag_of, fragment
from console.read_only import ReadOnlyAdmin


@admin.register(Breaker)
class BreakerAdmin(ReadOnlyAdmin):
    """Cards of all breakers, and counts, history and actions of one."""

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("live/", wrap(self.live_view), name="breaker_app_breaker_live"),
            path("<str:name>/order/", wrap(self.order_view), name="breaker_app_breaker_order"),
            *super().get_urls(),
        ]

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Breaker | None:
        """A breaker for Django's history page, which only needs its name: breakers have no table."""
        return Breaker(name=object_id) if any(card.name == object_id for card in services.cards()) else None

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return HttpResponseRedirect(_address(object_id))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> TemplateResponse:
        self.require_view(request)
        board = _board(request.GET.get("name", ""))
        context = {
            **self.context(request, "Breakers"),
            **board,
            "etag": _etag(board),
            "policy_file": conf.file(),
            "may_order": permissions.can(request, permissions.ADMIN),
            "most": MAX_REASON,
            "origin": f"{request.scheme}://{request.get_host()}",
            "reason": request.GET.get("reason", "")[:MAX_REASON],
        }
        return TemplateResponse(request, "breaker_app/breakers.html", context)

    def live_view(self, request: HttpRequest) -> HttpResponse:
        """The live part of the page; 304 if it has not changed."""
        self.require_view(request)
        board = _board(request.GET.get("name", ""))
        etag = _etag(board)
        return fragment(request, "breaker_app/breakers_live.html", {**board, "etag": etag}, etag, as_of=board["as_of"])

    def order_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Execute an order; the breaker's history and the audit log record user and reason."""
        if request.method != "POST":
            return HttpResponseRedirect(_address(name))
        self.require_view(request)
        permissions.require(request, permissions.ADMIN, "Controlling breakers")
        what, reason = request.POST.get("do", ""), request.POST.get("reason", "").strip()
        if what not in services.ORDERS:
            raise Http404("There is no such order.")
        try:
            card = services.order(name, what, actor=permissions.actor(request), reason=reason)
        except InvalidRequest as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(_address(name, reason=reason[:MAX_REASON]))
        permissions.record_audit(request, name, name, what, reason, about=Breaker)
        messages.success(request, f"Breaker {name} is {page.WORDS[card.seen.state]} now.")
        return HttpResponseRedirect(_address(name))


def _address(name: str, **more: str) -> str:
    return f"{reverse('admin:breaker_app_breaker_changelist')}?{urlencode({'name': name, **more})}"


def _etag(board: Mapping[str, Any]) -> str:
    """A tag of what is shown; the live part shows the time to the minute."""
    parts = {key: value for key, value in board.items() if key not in ("as_of", "hour_ago", "day_ago", "held")}
    return etag_of(f"{board['as_of']:%Y-%m-%d %H:%M}", parts)


def _board(name: str) -> Mapping[str, Any]:
    """Context of the live part, with the history of the named breaker or of the worst.

    Raises ``StoreUnavailable``, and ``BreakerNotFound`` for a name that does not exist.
    """
    now = datetime.now(UTC)
    cards = sorted(services.with_held(services.cards()), key=page.harm)
    if name and all(card.name != name for card in cards):
        raise BreakerNotFound("No circuit breaker has this name.")
    # One more query for each breaker that is not closed: who changed it. Usually there are none.
    cards = [
        card if card.seen.state is State.CLOSED else replace(card, transitions=services.transitions(card.name, 1))
        for card in cards
    ]
    restless = any(card.seen.state is not State.CLOSED for card in cards)
    context: dict[str, Any] = {
        "breakers": [page.shown(card) for card in cards],
        "summary": page.summary(cards),
        "every": 1 if restless else 5,
        "as_of": now,
        "chosen": None,
    }
    if not cards:
        return context
    chosen = services.card(name or cards[0].name, limit=MAX_TRANSITIONS)
    whole = services.whole_story(chosen, KEPT_TRANSITIONS)
    window = services.window(chosen.name)
    now_ms = int(now.timestamp() * 1000)
    held = chosen.held or NONE
    return {
        **context,
        "chosen": page.shown(chosen),
        "window": page.bars(window),
        "window_s": chosen.policy.time_window_ms // 1000,
        "calls": sum(total for total, _ in window),
        "failures": sum(failed for _, failed in window),
        "limit": page.percent(chosen.policy.failure_threshold),
        "lane": page.lane(whole, chosen.seen.state, now_ms),
        "day": page.day(whole, chosen.seen.state, now_ms),
        "held": held if chosen.held else None,
        "held_bars": page.bars([(count, 0) for count in held.minutes]),
        "held_course": page.held_course(held)[0],
        "hour_ago": datetime.fromtimestamp(now.timestamp() - 3600, UTC),
        "day_ago": datetime.fromtimestamp(now.timestamp() - 86_400, UTC),
        "changes": page.story(chosen.transitions, chosen.policy),
        "changes_told": len(chosen.transitions),
        "rules": page.rules(chosen.policy),
    }
