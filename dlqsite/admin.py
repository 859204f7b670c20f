"""The console's pages about access: API keys and the audit log."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from axes.models import AccessAttempt
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.safestring import SafeString
from rest_framework_api_key.admin import APIKeyModelAdmin
from rest_framework_api_key.models import APIKey

from audit_app.models import AuditLine, masked
from audit_app.pages import LinesAsHistory
from console.templatetags.console import badge
from dlqsite import rq_pages  # noqa: F401  # registers them
from dlqsite.models import SCOPES, ApiKey
from wire.visible_text import visible

# The library registers its own model, which has no scopes and is not accepted here.
admin.site.unregister(APIKey)
# Pages with secrets of second factors, and of applications and addresses that this site does not use.
for _of_library in (Authenticator, EmailAddress, SocialAccount, SocialApp, SocialToken):
    admin.site.unregister(_of_library)


def _is_out_of_range(value: str) -> bool:
    """Whether it is a date at the edge of the calendar, which a time zone conversion would exceed."""
    try:
        moment = parse_datetime(value)
    except ValueError:
        return False  # no date of any calendar: Django says so
    return moment is not None and not 1 < moment.year < 9999


class _PlainFilters(admin.ModelAdmin):  # type: ignore[type-arg]
    """Lists that accept only the lookups of their own filters.

    Django takes any lookup of a field from the address: patterns that keep the database busy, years that it does not
    know.
    """

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        _, *how = lookup.split("__")
        is_plain = how in ([], ["exact"], ["gte"], ["lt"], ["isnull"], ["id", "exact"])
        return is_plain and not _is_out_of_range(value) and super().lookup_allowed(lookup, value, request)


class _LineEach(LinesAsHistory):
    """Log each deleted object: Django adds several lines at once, without the signal."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> list[Any]:
        one_each: Any = super().log_deletions
        return [line for one in queryset for line in one_each(request, [one])]


for _model in (User, Group, AccessAttempt):
    _stock = type(admin.site.get_model_admin(_model))
    admin.site.unregister(_model)
    admin.site.register(_model, type(_stock.__name__, (_LineEach, _PlainFilters, _stock), {"__module__": __name__}))


class _KeyList(ChangeList):
    def url_for_result(self, result: Any) -> str:
        return reverse("admin:dlqsite_apikey_change", args=[quote(result.prefix)], current_app="admin")


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES],
        widget=forms.CheckboxSelectMultiple,
        help_text=ApiKey._meta.get_field("scopes").help_text,
    )

    class Meta:
        model = ApiKey
        fields = ("name", "scopes", "rate_limit_per_minute", "expiry_date", "revoked")


@admin.register(ApiKey)
class ApiKeyAdmin(LinesAsHistory, APIKeyModelAdmin):
    """API keys; a new key is shown once, when it is created."""

    form = ApiKeyForm
    list_display: Any = (
        "shown_name",
        "prefix",
        "scope_names",
        "rate_limit_per_minute",
        "created",
        "expiry_date",
        "state",
    )
    list_filter = ("revoked",)
    search_fields = ("name", "prefix")
    actions = None  # boxes beside the rows would hold ids, and those hold hashes

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Accept only the list's own filters: others would reveal the hash character by character."""
        return lookup in ("revoked__exact", "revoked")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _KeyList

    def id_in_lines(self, object_id: str) -> str:
        return object_id.partition(".")[0]

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Find the key by its prefix, because its id contains the hash. Old addresses contain the id."""
        return self.get_queryset(request).filter(prefix=unquote(object_id).partition(".")[0]).first()

    def save_model(self, request: HttpRequest, obj: Any, form: Any = None, change: bool = False) -> None:
        """Save; show a new key once."""
        if obj.pk:
            obj.save()
            return
        key = type(obj).objects.assign_key(obj)
        obj.save()
        said = format_html(
            "<span>The API key of {} is <code data-copied>{}</code>. It is shown this once: store it where the client "
            'reads it.</span> <button type="button" class="button quietly small-ish" data-copy>Copy</button>',
            visible(obj.name),
            key,
        )
        messages.warning(request, said)

    @admin.display(description="Name", ordering="name")
    def shown_name(self, key: ApiKey) -> str:
        return visible(key.name)

    @admin.display(description="Scopes")
    def scope_names(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="State", ordering="revoked")
    def state(self, key: ApiKey) -> SafeString:
        if key.revoked:
            return badge("mute", "slash", "Revoked")
        return badge("warn", "clock", "Expired") if key.has_expired else badge("ok", "check", "Valid")


#: Kind of object → its page.
_PAGES = {
    "deadletter": "admin:dlq_app_deadletter_change",
    "lettergroup": "admin:dlq_app_lettergroup_change",
    "replaybatch": "admin:dlq_app_replaybatch_change",
    "notification": "admin:notify_app_notification_change",
    "apikey": "admin:dlqsite_apikey_change",
    "user": "admin:auth_user_change",
    "group": "admin:auth_group_change",
}
#: Kind of object → label.
_KINDS = {
    "deadletter": "dead letter",
    "lettergroup": "group",
    "replaybatch": "replay batch",
    "breaker": "breaker",
    "message": "message",
    "notification": "notification",
    "apikey": "API key",
    "user": "user",
    "group": "role",
    "dashboard": "queue",
    "accessattempt": "refused sign-in",
    "policy": "policy",
    "auditline": "audit log",
}


#: Parameter of the list → the same filter of its file.
_IN_FILES = {"kind": "kind", "by": "actor", "at__gte": "from", "at__lt": "to"}


class KindFilter(admin.SimpleListFilter):
    """Kind of object."""

    title = "what it was done to"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(_KINDS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditLine]) -> QuerySet[AuditLine]:
        return queryset.filter(kind=self.value()) if self.value() in _KINDS else queryset


class WhoFilter(admin.SimpleListFilter):
    """Kind of actor."""

    title = "who"
    parameter_name = "by"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("user", "Staff"),
            ("key", "API keys"),
            ("cli", "Commands"),
            ("system", "System"),
            ("address", "Strangers"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditLine]) -> QuerySet[AuditLine]:
        value = self.value()
        return queryset.filter(who__startswith=value) if value in dict(self.lookup_choices) else queryset


@admin.register(AuditLine)
class AuditLogAdmin(_PlainFilters):
    """The audit log: read only, newest first."""

    list_display = ("at", "by", "target", "done", "count")
    list_filter = (WhoFilter, KindFilter, "at")
    search_fields = ("who", "what", "name", "object_id", "why")
    list_display_links = None
    ordering = ("-at", "-pk")
    show_full_result_count = False
    actions = None

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("admin.view_logentry"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        export = {
            parameter: request.GET[given]
            for given, parameter in _IN_FILES.items()
            if request.GET.get(given, "").strip()
        }
        context = {
            "title": "Audit log",
            "export_url": f"{reverse('audit-export')}?{urlencode(export)}",
            "export_leaves_out": bool(request.GET.get("q")),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @admin.display(description="Who", ordering="who")
    def by(self, line: AuditLine) -> str:
        return visible(line.who)

    @admin.display(description="Of")
    def target(self, line: AuditLine) -> str:
        kind = _KINDS.get(line.kind, line.kind)
        name = visible(masked(line.name) or line.object_id or "—")
        try:
            url = reverse(_PAGES[line.kind], args=[quote(line.object_id)]) if line.object_id else ""
        except (KeyError, NoReverseMatch):
            url = ""  # it has no page of its own
        if not url:
            return f"{kind} {name}".strip()
        return format_html('<span class="muted">{}</span> <a href="{}">{}</a>', kind, url, name)

    @admin.display(description="What and why", ordering="what")
    def done(self, line: AuditLine) -> str:
        return visible(line.said)
