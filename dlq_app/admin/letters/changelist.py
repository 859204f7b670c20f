"""Dead letters in Django's admin: the list and its actions. All changes go through services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_safe

from console import permissions
from console.live import fragment
from console.read_only import ReadOnlyAdmin
from dlq_app import conf
from dlq_app.admin.letters import story as letter_story
from dlq_app.admin.letters.bulk_pages import BULK, BulkPages
from dlq_app.admin.letters.facet_filter import FacetFilter, Suggestion, as_filter, cells, suggestions
from dlq_app.admin.letters.facet_filter import columns as facet_columns
from dlq_app.admin.letters.filters import LIST_FILTERS, AgeFilter, Chip, CriteriaFilter, address, figures
from dlq_app.admin.letters.groupings import GroupingViews, grouped_url
from dlq_app.admin.letters.queryset import LettersQuerySet, letter_of
from dlq_app.admin.letters.selection import back_to_list, criteria_of, ids_of, in_words, selection_query
from dlq_app.admin.letters.views import LetterViews
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, DeadLetterError, QueryTooSlow, SortTooLarge, StoreUnavailable
from dlq_app.domain.letter import DeadLetter as Letter
from dlq_app.domain.masking import mask_text
from dlq_app.domain.paging import MAX_COUNTED
from dlq_app.domain.states import Status
from dlq_app.models import DeadLetter
from dlq_app.services import exporting, facets
from dlq_app.store import repository
from wire.instants import iso

_EXCERPT = 180
#: Time limit for counting newer failures: every open list asks every ten seconds.
NEWER_WITHIN_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of the list."""

    letter: Letter
    url: str
    reason: str
    source: str
    tags: str
    #: Label and text of the facets with a column.
    facets: Sequence[tuple[str, str]]
    next_words: str
    is_nothing_next: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionButton:
    """A bulk action: name, label without and with a number, and why it is locked."""

    name: str
    label: str
    locked: str
    is_primary: bool = False
    is_wide_only: bool = False


class LetterList(ChangeList):
    """Django's changelist with filter chips, rows, and counts that may be capped."""

    queryset: Any
    model_admin: Any

    def _get_default_ordering(self) -> list[str]:
        # Not ModelAdmin.ordering, which must name columns of a table.
        return ["-lastFailedAt"]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.title = "Dead letters"
        # Asked here, where an unavailable store still gets an error page.
        self.lines = [self._line(row) for row in self.result_list]
        self.unreadable = repository.letters().unreadable(repository.MAX_NAMED)

    def _line(self, row: DeadLetter) -> Line:
        letter = letter_of(row)
        tags = letter.metadata.get("tags")
        priority = str(letter.metadata.get("priority") or "")
        words, is_nothing = letter_story.next_words(letter)
        shown = [f"{priority} priority"] if priority not in ("", "normal") else []
        masking = conf.masking_policy()
        shown += [mask_text(str(tag), masking) for tag in tags[:3]] if isinstance(tags, list) else []
        return Line(
            letter=letter,
            url=reverse("admin:dlq_app_deadletter_change", args=[letter.id]),
            reason=mask_text(letter.error_reason, masking)[:_EXCERPT],
            source=mask_text(str(letter.metadata.get("source") or ""), masking),
            tags=" · ".join(shown),
            facets=cells(letter),
            next_words=words,
            is_nothing_next=is_nothing,
        )

    @property
    def criteria(self) -> LetterCriteria:
        found: LetterCriteria = self.queryset.criteria
        return found

    @property
    def chips(self) -> list[Chip]:
        """Active filters, each with the address that removes it."""
        found: list[Chip] = []
        for spec in self.filter_specs:
            if isinstance(spec, CriteriaFilter | AgeFilter):
                found += spec.chips(self)
        if self.query:
            found.append(Chip("Search", self.query, address(self, {"q": None})))
        return found

    @property
    def count_words(self) -> str:
        """``10,000+``, ``317``, or "unknown"."""
        if self.queryset.is_uncounted:
            return "many"
        total = self.queryset.total()
        return f"{total.count:,}{'+' if total.is_capped else ''}"

    @property
    def is_capped(self) -> bool:
        return bool(self.queryset.total().is_capped)

    @property
    def is_last_page(self) -> bool:
        return bool(self.page_num >= self.paginator.num_pages)

    @property
    def onward(self) -> str:
        """URL of the letters after the last page: those that failed before its last letter. Newest first only."""
        if not (self.is_capped and self.is_last_page and self.lines and self.queryset.sort.name == "-lastFailedAt"):
            return ""
        return address(self, {"to": iso(self.lines[-1].letter.last_failed_at), "age": None})

    @property
    def newer_url(self) -> str:
        """URL that counts newer failures; empty if they would not appear on this page."""
        if self.page_num != 1 or self.nothing or self.queryset.sort.name != "-lastFailedAt":
            return ""
        newest = self.lines[0].letter.last_failed_at if self.lines else repository.now()
        try:
            # Times of letters are in milliseconds.
            criteria = replace(self.criteria, failed_from=newest + timedelta(milliseconds=1))
            LetterCriteria.parse(criteria.as_filter())
        except (CriteriaInvalid, OverflowError):
            return ""  # it shows letters up to a time that is past, or that nothing comes after
        return f"{reverse('admin:dlq_app_deadletter_newer')}?{criteria.as_query()}"

    @property
    def nothing(self) -> str:
        """Why the search cannot match."""
        return str(self.queryset.nothing)

    @property
    def suggestions(self) -> list[Suggestion]:
        """The search as a filter of each facet."""
        return suggestions(self)

    @property
    def lacks_facets(self) -> bool:
        """Whether letters can be missing because their facets are not filled in."""
        return bool(self.criteria.facets) and not facets.is_filled()

    @property
    def grouped_url(self) -> str:
        """The page that groups the same letters."""
        names = facets.names()
        return grouped_url(self.criteria, names[0]) if not self.nothing else ""

    @property
    def open_letters(self) -> int | None:
        """Number of open letters, for an empty list; None if unknown."""
        found: int | None = figures(self.request).get("open")
        return found

    request: HttpRequest


@admin.register(DeadLetter)
class DeadLetterAdmin(BulkPages, GroupingViews, LetterViews, ReadOnlyAdmin):  # type: ignore[misc]
    """List of dead letters. Actions without permission are shown locked, with the reason."""

    list_display: Any = (
        "message",
        "status",
        "error",
        "kind",
        "tries",
        "last_failed",
        "next",
    )
    list_filter = (*LIST_FILTERS[:4], FacetFilter, *LIST_FILTERS[4:])
    list_per_page = 20
    list_max_show_all = 100
    search_fields = ("message_id",)
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    actions: Any = ("replay", "resolve", "discard", "set_aside", "resume", "reopen", "export")

    # --- permissions ---

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return permissions.can(request, permissions.REPLAY)

    # --- hooks of Django's changelist ---

    def get_list_display(self, request: HttpRequest) -> Any:
        return (*self.list_display[:-3], *facet_columns(), *self.list_display[-3:])

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        return LettersQuerySet()  # type: ignore[return-value]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LetterList

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        found = super().get_changelist_instance(request)
        found.request = request  # type: ignore[attr-defined]
        return found

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        # The queryset rejects an unknown parameter, which redirects to the plain list instead of a 400.
        return True

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        letters: LettersQuerySet = queryset
        if not search_term.strip():
            return letters, False
        try:
            search = LetterCriteria.parse({"search": search_term}).search
        except CriteriaInvalid as error:
            return letters.none("; ".join(f"The search {entry['message']}" for entry in error.errors)), False
        return letters.narrowed(search=search), False

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> DeadLetter | None:
        queryset: Any = self.get_queryset(request)
        try:
            found: DeadLetter = queryset.get(pk=object_id)
        except DeadLetter.DoesNotExist:
            return None
        return found

    # --- columns: sortable by an index, or for a limited number of letters ---

    @admin.display(description="Message", ordering="messageId")
    def message(self, row: DeadLetter) -> str:
        return row.message_id

    @admin.display(description="Status", ordering="status")
    def status(self, row: DeadLetter) -> str:
        return letter_of(row).status.word

    @admin.display(description="Error", ordering="errorType")
    def error(self, row: DeadLetter) -> str:
        return letter_of(row).error_type

    @admin.display(description="Type, source", ordering="type")
    def kind(self, row: DeadLetter) -> str:
        return letter_of(row).type

    @admin.display(description="Tries", ordering="tries")
    def tries(self, row: DeadLetter) -> int:
        return letter_of(row).tries

    @admin.display(description="Last failed", ordering="lastFailedAt")
    def last_failed(self, row: DeadLetter) -> str:
        # Formatted here: Django would convert a datetime to its time zone, which fails at the edges of the calendar.
        return iso(letter_of(row).last_failed_at)

    @admin.display(description="Next automatic step", ordering="nextRetryAt")
    def next(self, row: DeadLetter) -> str:
        return letter_story.next_words(letter_of(row))[0]

    # --- the page ---

    @method_decorator(csrf_protect)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        self.require_view(request)
        elsewhere = self._elsewhere(request)
        if elsewhere:
            return elsewhere
        context = {
            "title": "Dead letters",
            "has_wrong_address": "e" in request.GET,
            "max_counted": f"{MAX_COUNTED:,}",
            **(extra_context or {}),
        }
        # Django treats a second invalid address as a broken database.
        query = request.GET.copy()
        query.pop("e", None)
        request.GET = query  # type: ignore[assignment]
        try:
            response = super().changelist_view(request, context)
        except SortTooLarge as error:
            messages.warning(request, f"{error.detail[:1].upper()}{error.detail[1:]}")
            query.pop("o", None)
            return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")
        except (StoreUnavailable, QueryTooSlow) as error:
            return self.unavailable(request, error)
        if isinstance(response, TemplateResponse) and response.context_data:
            changelist: LetterList = response.context_data["cl"]
            response.context_data |= {
                "action_buttons": self._buttons(request, changelist.criteria),
                "page_range": list(changelist.paginator.get_elided_page_range(changelist.page_num)),
                "first_page": address(changelist, {}),
                "now": repository.now(),
            }
        return response

    def _elsewhere(self, request: HttpRequest) -> HttpResponse | None:
        """Redirect actions and some addresses to other pages."""
        if request.method == "POST":
            return self._refused_action(request)
        message_id = request.GET.get("message")
        if message_id:
            return self._looked_up(request, message_id)
        filtered = as_filter(request)
        if filtered:
            return filtered
        if "search" in request.GET:
            # The wire name of the search box's `q`.
            query = request.GET.copy()
            searches = query.pop("search")
            query.setdefault("q", str(searches[-1]))
            return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")
        return None

    def _refused_action(self, request: HttpRequest) -> HttpResponse | None:
        action = request.POST.get("action", "")
        if action in self.actions and action not in self.get_actions(request):
            raise PermissionDenied(permissions.denial_reason(request, permissions.REPLAY))
        if not request.POST.getlist(ACTION_CHECKBOX_NAME):
            messages.warning(request, "Select letters first. Nothing was changed.")
            return HttpResponseRedirect(request.get_full_path())
        return None

    def _looked_up(self, request: HttpRequest, message_id: str) -> HttpResponse:
        try:
            row = self.get_object(request, message_id)
        except DeadLetterError as error:
            return self.unavailable(request, error)
        if row is None:
            return self.missing(request, message_id)
        return HttpResponseRedirect(reverse("admin:dlq_app_deadletter_change", args=[row.pk]))

    def _buttons(self, request: HttpRequest, criteria: LetterCriteria) -> list[ActionButton]:
        locked = permissions.denial_reason(request, permissions.REPLAY)
        return [
            ActionButton(name="replay", label="Replay", locked=locked, is_primary=True),
            ActionButton(name="resolve", label="Resolve", locked=locked),
            ActionButton(name="discard", label="Discard", locked=locked),
            ActionButton(name="set_aside", label="Set aside", locked=locked),
            *(ActionButton(name=name, label=label, locked=locked) for name, label in _undoing(criteria)),
            ActionButton(name="export", label="Export", locked="", is_wide_only=True),
        ]

    def unavailable(self, request: HttpRequest, error: DeadLetterError) -> HttpResponse:
        """The page for MongoDB not responding, or not in time."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Dead letters",
            "opts": self.opts,
            "is_slow": isinstance(error, QueryTooSlow),
            "again": request.get_full_path() if request.method == "GET" else "",
        }
        response = TemplateResponse(request, "dlq_app/letters_away.html", context, status=503)
        response["Retry-After"] = str(round(error.retry_after or 5))
        return response

    def missing(self, request: HttpRequest, ref: str) -> HttpResponse:
        """The page for a letter that does not exist."""
        context = {
            **self.admin_site.each_context(request),
            "title": "No such dead letter",
            "opts": self.opts,
            "ref": ref[:100],
        }
        return TemplateResponse(request, "dlq_app/letter_missing.html", context, status=404)

    # --- actions: each opens a confirmation ---

    @admin.action(description="Replay", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        query = selection_query(queryset, everything="all")
        return HttpResponseRedirect(f"{reverse('admin:index')}dlq_app/replaybatch/add/?{query}")

    @admin.action(description="Resolve", permissions=["replay"])
    def resolve(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        return self._confirm("resolve", queryset)

    @admin.action(description="Discard", permissions=["replay"])
    def discard(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        return self._confirm("discard", queryset)

    @admin.action(description="Set aside", permissions=["replay"])
    def set_aside(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        return self._confirm("set-aside", queryset)

    @admin.action(description="Resume automatic replays", permissions=["replay"])
    def resume(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        return self._confirm("resume", queryset)

    @admin.action(description="Reopen", permissions=["replay"])
    def reopen(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        return self._confirm("reopen", queryset)

    @admin.action(description="Export")
    def export(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        query = selection_query(queryset)
        return HttpResponseRedirect(f"{reverse('admin:dlq_app_deadletter_export')}?{query}")

    def _confirm(self, what: str, queryset: Any) -> HttpResponse:
        query = selection_query(queryset)
        return HttpResponseRedirect(f"{reverse('admin:dlq_app_deadletter_bulk', args=[what])}?{query}")

    # --- other URLs ---

    def get_urls(self) -> list[URLPattern]:
        def view(function: Any) -> Any:
            return self.admin_site.admin_view(function)

        name = "dlq_app_deadletter_{}".format
        own = [
            path("count/", view(self.count_view), name=name("count")),
            path("newer/", view(self.newer_view), name=name("newer")),
            path("grouped/", view(self.grouped_view), name=name("grouped")),
            path("parts/", view(self.parts_view), name=name("parts")),
            path("export/", view(self.export_view), name=name("export")),
            path("many/<slug:what>/", view(self.bulk_view), name=name("bulk")),
            path("<slug:object_id>/state/", view(self.state_view), name=name("state")),
            path("<slug:object_id>/edit/", view(self.edit_view), name=name("edit")),
            path("<slug:object_id>/note/", view(self.note_view), name=name("note")),
            path("<slug:object_id>/reveal/", view(self.reveal_view), name=name("reveal")),
            path("<slug:object_id>/payload/", view(self.payload_view), name=name("payload")),
            path("<slug:object_id>/replay/", view(self.replay_view), name=name("replay")),
        ]
        own += [
            path(f"<slug:object_id>/{verb}/", view(self.move_view), {"what": verb}, name=name(verb.replace("-", "_")))
            for verb in BULK
        ]
        return [*own, *super().get_urls()]

    @method_decorator(require_safe)
    def count_view(self, request: HttpRequest) -> HttpResponse:
        """Exact number of matching letters and the time of counting, for "select all"."""
        self.require_view(request)
        try:
            criteria = criteria_of(request.GET)
            count = repository.letters().exact_count(criteria)
        except DeadLetterError as error:
            return JsonResponse({"detail": error.detail}, status=error.status)
        return JsonResponse(
            {"count": count, "at": f"{datetime.now(UTC):%H:%M:%S}"}, headers={"Cache-Control": "no-store"}
        )

    @method_decorator(require_safe)
    def newer_view(self, request: HttpRequest) -> HttpResponse:
        """Number of newer failures for the line above the list; 304 if it has not changed."""
        self.require_view(request)
        try:
            newer = repository.letters().count(criteria_of(request.GET), within_s=NEWER_WITHIN_S)
        except QueryTooSlow:
            # Too slow: keep the previous number.
            return HttpResponse(status=204)
        except DeadLetterError as error:
            return HttpResponse(error.detail, status=error.status, content_type="text/plain; charset=utf-8")
        live_tag = f"{newer.count}{'+' if newer.is_capped else ''}"
        context = {"newer": newer, "newer_url": request.get_full_path(), "live_tag": live_tag}
        return fragment(request, "dlq_app/letters_newer.html", context, live_tag)

    @method_decorator(require_safe)
    def export_view(self, request: HttpRequest) -> HttpResponse:
        """Confirmation of an export with its download links; selected letters are downloaded here."""
        self.require_view(request)
        ids = ids_of(request.GET)
        try:
            if ids and request.GET.get("format") == "jsonl":
                return self._named(ids)
            criteria = criteria_of(request.GET)
            count = len(ids) or repository.letters().exact_count(criteria)
        except CriteriaInvalid:
            return HttpResponseRedirect(f"{reverse('admin:dlq_app_deadletter_changelist')}?e=1")
        except DeadLetterError as error:
            return self.unavailable(request, error)
        here = f"{request.path}?{urlencode([('format', 'jsonl'), *(('id', one) for one in ids)])}"
        there = f"{reverse('dead-letter-export')}?"
        context = {
            **self.admin_site.each_context(request),
            "title": f"Export {count:,} dead letter{'' if count == 1 else 's'}",
            "opts": self.opts,
            "count": count,
            "criteria": in_words(criteria),
            "jsonl": here if ids else there + urlencode([("format", "jsonl"), *criteria.as_params()]),
            "csv": "" if ids else there + urlencode([("format", "csv"), *criteria.as_params()]),
            "back": back_to_list(criteria),
            "at": repository.now(),
        }
        return TemplateResponse(request, "dlq_app/letters_export.html", context)

    def _named(self, ids: Sequence[str]) -> HttpResponse:
        export = exporting.Export(form="jsonl", ids=ids)
        name = f"dead-letters-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        return HttpResponse(
            b"".join(export.chunks()),
            content_type=exporting.FORMS["jsonl"],
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
        )


def _undoing(criteria: LetterCriteria) -> list[tuple[str, str]]:
    """Name and label of the actions that undo others, if the list shows letters that they fit."""
    undoing = {
        Status.MANUAL: ("resume", "Resume automatic replays"),
        Status.RESOLVED: ("reopen", "Reopen"),
    }
    return [action for status, action in undoing.items() if status in criteria.statuses]
