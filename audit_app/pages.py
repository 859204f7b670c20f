"""The audit log on the history pages of Django's admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse

from audit_app.lines import history


class LinesAsHistory(admin.ModelAdmin):  # type: ignore[type-arg]
    """An object's history page shows its lines of the audit log instead of Django's own log."""

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        lines = history(request, str(self.opts.model_name), self.id_in_lines(unquote(object_id)))
        return super().history_view(request, object_id, {**lines, **(extra_context or {})})

    def id_in_lines(self, object_id: str) -> str:
        """The object's id as the audit log has it."""
        return object_id
