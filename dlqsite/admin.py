"""The console's pages about access: API keys and the audit log."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from rest_framework_api_key.admin import APIKeyModelAdmin
from rest_framework_api_key.models import APIKey

from dlq_app.conf import masking_policy
from dlq_app.masking import mask_text
from dlq_app.shown import visible
from dlqsite import rq_pages  # noqa: F401  # registers them
from dlqsite.models import SCOPES, ApiKey
from dlqsite.templatetags.console import badge

# The library registers its own model, which has no scopes and which nothing here would accept.
admin.site.unregister(APIKey)


#: What Django's log tells apart → tone, icon, word.
_ACTIONS = {
    ADDITION: ("ok", "note", "Added"),
    CHANGE: ("busy", "edit", "Changed"),
    DELETION: ("bad", "x", "Deleted"),
}


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
class ApiKeyAdmin(APIKeyModelAdmin):
    """Keys are made here or by ``create_api_key``; the key itself is shown once, when it is made."""

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
        """Filters by the list's own only: by others the hash could be asked for sign by sign."""
        return lookup in ("revoked__exact", "revoked")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _KeyList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The key by its prefix: its id holds its hash. Addresses of the last version hold the id."""
        return self.get_queryset(request).filter(prefix=unquote(object_id).partition(".")[0]).first()

    def save_model(self, request: HttpRequest, obj: Any, form: Any = None, change: bool = False) -> None:
        """Save; of a new key also say, this once, what it is."""
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


class ActionFilter(admin.SimpleListFilter):
    """What was done, in the words of the list's first column; the address is the one of Django's own filter."""

    title = "what was done"
    parameter_name = "action_flag__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(flag), word) for flag, (_, _, word) in _ACTIONS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[LogEntry]) -> QuerySet[LogEntry]:
        flag = self.value()
        return queryset.filter(action_flag=int(flag)) if flag in dict(self.lookup_choices) else queryset


class KindFilter(admin.RelatedOnlyFieldListFilter):
    """To what it was done."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "what it was done to"


@admin.register(LogEntry)
class AuditLogAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Who did what, to what, why: read only, newest first."""

    list_display = ("action_time", "user", "what", "target", "said")
    list_filter = (ActionFilter, ("content_type", KindFilter))
    search_fields = ("object_repr", "change_message", "user__username")
    list_select_related = ("user", "content_type")
    list_display_links = None
    ordering = ("-action_time", "-id")
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": "Audit log", **(extra_context or {})})

    @admin.display(description="What", ordering="action_flag")
    def what(self, entry: LogEntry) -> SafeString:
        tone, icon, word = _ACTIONS.get(entry.action_flag, ("mute", "info", "Other"))
        return badge(tone, icon, word)

    @admin.display(description="Of")
    def target(self, entry: LogEntry) -> str:
        kind = entry.content_type.name if entry.content_type else "something"
        try:
            url = entry.get_admin_url() if entry.action_flag != DELETION else None
        except NoReverseMatch:
            url = None  # its page is not part of this console
        name = mask_text(entry.object_repr, masking_policy()) or entry.object_id or "?"
        if not url:
            return f"{kind} {name}"
        return format_html('<span class="muted">{}</span> <a href="{}">{}</a>', kind, url, name)

    @admin.display(description="How and why")
    def said(self, entry: LogEntry) -> str:
        return mask_text(entry.get_change_message(), masking_policy()) or "—"
