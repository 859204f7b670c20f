"""The notifications page of the console: notifications, their recipients and results, and what needs a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_protect

from audit_app.lines import record
from console import permissions
from console.read_only import ReadOnlyAdmin
from console.templatetags.console import badge
from dlq_app.domain.limits import MAX_REASON
from notify_app import services
from notify_app.conf import policy
from notify_app.models import Notification, State
from notify_app.store.outbox import UNSOLVED
from wire.visible_text import visible

_LIST: Final = "admin:notify_app_notification_changelist"
#: Notifications that one action changes.
_MAX: Final = 1000
_BADGES: Final[Mapping[str, tuple[str, str]]] = {
    State.WAITING: ("warn", "clock"),
    State.HELD: ("mute", "moon"),
    State.SENDING: ("busy", "spin"),
    State.SENT: ("ok", "check"),
    State.FAILED: ("bad", "octx"),
    State.UNCERTAIN: ("bad", "tri"),
    State.MERGED: ("mute", "group"),
    State.DISMISSED: ("mute", "slash"),
}


@dataclass(frozen=True, slots=True)
class _Decision:
    """What a user does with failed and uncertain notifications."""

    order: str
    done: str
    means: str
    icon: str


_DECISIONS: Final[Mapping[str, _Decision]] = {
    "retry": _Decision(
        "Send again",
        "queued",
        "A failed notification did not arrive. An uncertain one may arrive a second time.",
        "replay",
    ),
    "dismiss": _Decision("Dismiss", "dismissed", "Nothing is sent, and health no longer reports it.", "slash"),
}


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    """Notifications, newest first."""

    list_display = ("created_at", "shown_state", "shown_title", "recipient", "event", "shown_error")
    list_display_links = ("shown_title",)
    list_filter = ("state", "recipient", "event")
    ordering = ("-created_at", "-pk")
    show_full_result_count = False
    fields = (
        "shown_state", "shown_title", "shown_text", "recipient", "event", "severity", "count", "created_at", "due_at",
        "sent_at", "attempts", "give_up_at", "shown_error", "uid",
    )  # fmt: skip
    actions = ("retry", "dismiss")
    change_list_template = "notify_app/notifications.html"
    change_form_template = "notify_app/notification.html"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        guide = reverse("admin:docs", args=["notifications"])
        context = {"recipients": sorted(policy().recipients), "guide": guide, **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_fields(self, request: HttpRequest, obj: Notification | None = None) -> list[Any]:
        """Without the error if there is none."""
        return [name for name in self.fields if name != "shown_error" or (obj and self.shown_error(obj))]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Users who can read dead letters: it names groups, breakers and batches, which they see anyway."""
        return bool(request.user.has_perm("dlq_app.view_deadletter"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Accept only the list's own filters."""
        return lookup in ("state__exact", "recipient", "recipient__exact", "event", "event__exact")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return super().get_actions(request) if permissions.can(request, permissions.ADMIN) else {}

    def get_urls(self) -> list[URLPattern]:
        ours = path("act/<slug:what>/", self.admin_site.admin_view(self.act), name="notify_app_notification_act")
        return [ours, *super().get_urls()]

    # --- columns ---

    @admin.display(description="State", ordering="state")
    def shown_state(self, one: Notification) -> SafeString:
        tone, icon = _BADGES.get(one.state, ("mute", "info"))
        return badge(tone, icon, one.get_state_display())

    @admin.display(description="What", ordering="title")
    def shown_title(self, one: Notification) -> str:
        return visible(one.title) + (f" ({one.count:,} events)" if one.count > 1 else "")

    @admin.display(description="Text")
    def shown_text(self, one: Notification) -> str:
        return visible(one.text)

    @admin.display(description="Error")
    def shown_error(self, one: Notification) -> str:
        return visible(one.error) if one.state != State.SENT else ""

    # --- decisions ---

    @admin.action(description="Send again")
    def retry(self, request: HttpRequest, queryset: QuerySet[Notification]) -> HttpResponse | None:
        return self._ask(request, "retry", queryset)

    @admin.action(description="Dismiss")
    def dismiss(self, request: HttpRequest, queryset: QuerySet[Notification]) -> HttpResponse | None:
        return self._ask(request, "dismiss", queryset)

    def _ask(self, request: HttpRequest, what: str, queryset: QuerySet[Notification]) -> HttpResponse | None:
        ids = list(queryset.filter(state__in=UNSOLVED).values_list("pk", flat=True)[:_MAX])
        if not ids:
            messages.warning(request, "Only failed and uncertain notifications need a decision; none is selected.")
            return None
        address = reverse("admin:notify_app_notification_act", args=[what])
        return HttpResponseRedirect(f"{address}?ids={','.join(map(str, ids))}")

    @method_decorator(csrf_protect)
    def act(self, request: HttpRequest, what: str) -> HttpResponse:
        """Ask for a reason; a POST carries out the decision."""
        permissions.require(request, permissions.ADMIN)
        decision = _DECISIONS.get(what)
        if decision is None:
            raise Http404
        given = [int(one) for one in request.GET.get("ids", "").split(",") if one.isascii() and one.isdigit()]
        found = Notification.objects.filter(pk__in=[one for one in given if one < 2**63][:_MAX], state__in=UNSOLVED)
        reason, wrong = request.POST.get("reason", "").strip(), ""
        if request.method == "POST":
            wrong = _problem(reason)
            if not wrong:
                self._carry_out(request, what, decision, found, reason)
                return HttpResponseRedirect(reverse(_LIST))
        shown = list(found.order_by("-created_at")[:20])
        context = {
            **self.context(request, f"{decision.order}: {_counted(found.count())}"),
            "decision": decision,
            "shown": shown,
            "count": found.count(),
            "counted": _counted(found.count()),
            "reason": reason,
            "error": wrong,
            "max_reason": MAX_REASON,
            "back": reverse(_LIST),
        }
        return TemplateResponse(request, "notify_app/decide.html", context, status=400 if wrong else 200)

    def _carry_out(
        self, request: HttpRequest, what: str, decision: _Decision, found: QuerySet[Notification], reason: str
    ) -> None:
        titles = dict(found.values_list("pk", "title"))
        change = services.retry if what == "retry" else services.dismiss
        number = 0
        for one, title in titles.items():
            if change([one]):
                number += 1
                record(
                    permissions.actor(request), decision.order.lower(), kind="notification", object_id=str(one),
                    name=title, why=reason,
                )  # fmt: skip
        if number:
            messages.success(request, f"{_counted(number)} {decision.done}.")
        else:
            messages.warning(request, "Nothing was changed: they were changed in the meantime.")


def _problem(reason: str) -> str:
    if not reason:
        return "A reason is required; it is kept in the audit log."
    return f"At most {MAX_REASON} characters." if len(reason) > MAX_REASON else ""


def _counted(number: int) -> str:
    return f"{number:,} notification{'' if number == 1 else 's'}"
