"""Groups in Django's admin: list, group page, and decisions about a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST, require_safe

from audit_app.lines import history
from console import permissions
from console.live import etag_for, fragment
from console.read_only import ReadOnlyAdmin
from dlq_app import conf
from dlq_app.admin.groups import page as group_page
from dlq_app.admin.letters.filters import AgeFilter, Chip
from dlq_app.domain.errors import (
    CriteriaInvalid,
    DeadLetterError,
    GroupNotFound,
    QueryTooSlow,
    RequestInvalid,
    StoreUnavailable,
)
from dlq_app.domain.filters import FILTERS
from dlq_app.domain.group_states import OPEN_STATES, GroupState
from dlq_app.domain.limits import MAX_NOTE, MAX_NUMBER, MAX_REASON
from dlq_app.domain.masking import mask_text
from dlq_app.domain.owners import NONE
from dlq_app.models import LetterGroup
from dlq_app.rest.contract import IGNORE_IN, NOTE_IN, OWNER_IN
from dlq_app.services import groups
from dlq_app.services.groups import Group, GroupPage, GroupQuery
from dlq_app.store import repository
from wire.contract import Invalid
from wire.visible_text import visible

_PER_PAGE = 20
_WORST_FIRST = "-severity"
#: Default state filter, and the value for all states.
_OPEN, _ALL = "open", "all"
_ICONS = {
    GroupState.NEW: "tri",
    GroupState.REGRESSED: "replay",
    GroupState.ONGOING: "flat",
    GroupState.IGNORED: "eyeoff",
    GroupState.RESOLVED: "check",
}
_SORTS = {
    _WORST_FIRST: "Worst first",
    "-open": "Most open",
    "-lastSeen": "Latest",
    "firstSeen": "Oldest",
}
_LABELS = {**{name: FILTERS[name].label for name in groups.FILTERS}, "owner": "Owner", "age": "Failed"}
#: Decision → its name in the audit log, the same as over REST.
_DECISIONS = {"resolve": "resolve group", "ignore": "ignore group", "reopen": "reopen group"}
_STATES = {"resolve": GroupState.RESOLVED, "ignore": GroupState.IGNORED, "reopen": None}
_DONE = {"resolve": "resolved", "ignore": "ignored", "reopen": "open again"}
#: Owners that the filter offers.
_OWNERS = 30
_ENDS = ("until", "untilPerHour", "untilCount")


@dataclass(frozen=True, slots=True)
class StateChip:
    """A state filter above the list; ``count`` is None for all states."""

    name: str
    label: str
    icon: str
    url: str
    count: int | None
    is_current: bool


class Asked:
    """The filter of an address, and addresses with other filters. Raises ``CriteriaInvalid``."""

    def __init__(self, request: HttpRequest) -> None:
        self.params = {
            name: [value for value in values if value] for name, values in request.GET.lists() if name != "e"
        }
        self.params = {name: values for name, values in self.params.items() if values}
        given = dict(self.params)
        state, age = given.pop("state", [_OPEN])[-1], given.pop("age", [""])[-1]
        if state not in (_OPEN, _ALL):
            given["state"] = [state]
        given.setdefault("sort", [_WORST_FIRST])
        self.query = replace(GroupQuery.parse(given), limit=_PER_PAGE)
        self.state, self.age = state, age
        if state == _OPEN:
            self.query = replace(self.query, states=OPEN_STATES)
        if age:
            self._since(age)

    def _since(self, age: str) -> None:
        if age not in AgeFilter.AGES:
            problem = f"must be one of {', '.join(AgeFilter.AGES)}"
            raise CriteriaInvalid(f"age: {problem}", errors=[{"field": "age", "message": problem}])
        ago, edge, _ = AgeFilter.AGES[age]
        edges: dict[str, Any] = {edge: (datetime.now(UTC) - ago).replace(microsecond=0)}
        self.query = replace(self.query, criteria=replace(self.query.criteria, **edges))

    def address(self, **changes: str | None) -> str:
        """The list's address with changed parameters (None removes one), at its first page."""
        changed = {"cursor": None, **changes}
        pairs = [(name, value) for name, values in self.params.items() if name not in changed for value in values]
        pairs += [(name, value) for name, value in changed.items() if value]
        return f"?{urlencode(pairs)}"

    @property
    def is_first(self) -> bool:
        return self.query.cursor is None

    def states(self, found: GroupPage) -> list[StateChip]:
        """State filters with the number of groups in each."""
        counts = found.states
        shown = [(_OPEN, "Open", "", sum(counts[state] for state in OPEN_STATES))]
        shown += [(state.value, state.value.capitalize(), icon, counts[state]) for state, icon in _ICONS.items()]
        chips = [
            StateChip(name, label, icon, self.address(state=name), count, self.state == name)
            for name, label, icon, count in shown
        ]
        return [*chips, StateChip(_ALL, "All", "", self.address(state=_ALL), None, self.state == _ALL)]

    def sorts(self) -> list[tuple[str, str, bool]]:
        """Address, label, and whether it is the current sort order."""
        return [(self.address(sort=sort), words, self.query.sort == sort) for sort, words in _SORTS.items()]

    def chips(self) -> list[Chip]:
        """Active filters except the state, each with the address that removes it."""
        found = []
        for name, label in _LABELS.items():
            values = self.params.get(name)
            if values:
                shown = [AgeFilter.AGES[self.age][2]] if name == "age" else values
                found.append(Chip(label, ", ".join(shown), self.address(**{name: None})))
        return found


@admin.register(LetterGroup)
class LetterGroupAdmin(ReadOnlyAdmin):
    """The list of groups, and the page of one."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> LetterGroup | None:
        try:
            group = groups.get(object_id)
        except GroupNotFound:
            return None
        title = visible(mask_text(group.telling_title, conf.masking_policy()))
        return LetterGroup(fingerprint=group.fingerprint, title=title[:200])

    # --- the list ---

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Cards, worst first; only the live part for a request by htmx."""
        self.require_view(request)
        try:
            asked = Asked(request)
        except CriteriaInvalid:
            return HttpResponseRedirect(f"{request.path}?e=1")
        query = asked.query
        try:
            found = groups.page(
                query.criteria,
                states=query.states,
                owners=query.owners,
                sort=query.sort,
                limit=query.limit,
                cursor=query.cursor,
            )
        except (StoreUnavailable, QueryTooSlow) as error:
            return self._unavailable(request, error)
        return self._list(request, asked, found, repository.now())

    def _list(self, request: HttpRequest, asked: Asked, found: GroupPage, now: datetime) -> HttpResponse:
        locked, masking = permissions.denial_reason(request, permissions.REPLAY), conf.masking_policy()
        around = group_page.around(found.groups)
        as_of = group_page.as_of(found.as_of, now)
        cards = [group_page.card(group, locked, around, masking) for group in found.groups]
        states = asked.states(found)
        next_url = asked.address(cursor=found.next_cursor) if found.next_cursor else ""
        live_tag = etag_for(request, now, (cards, states, next_url, found.total, found.is_capped, as_of, locked))
        context = {
            "cards": cards,
            "locked": locked,
            "states": states,
            "state": asked.state,
            "total": found.total,
            "is_capped": found.is_capped,
            "everything": sum(found.states.values()),
            "next_url": next_url,
            "first_url": "" if asked.is_first else asked.address(),
            "chips": asked.chips(),
            "all_states_url": asked.address(state=_ALL),
            "counted_at": as_of,
            "now": now,
            "every": group_page.EVERY_S,
            "here": request.get_full_path(),
            "live_tag": live_tag,
        }
        if request.headers.get("HX-Request"):
            return fragment(request, "dlq_app/groups_live.html", context, live_tag)
        context |= {
            **self.context(request, "Groups"),
            "sorts": asked.sorts(),
            "search": asked.query.criteria.search,
            "kept": [(n, v) for n, values in asked.params.items() if n not in ("search", "cursor") for v in values],
            "kinds": self._choices(asked, "errorKind", FILTERS["errorKind"].options),
            "owners": self._owners(asked, found.owners),
            "ages": self._choices(asked, "age", tuple(AgeFilter.AGES)),
            "has_wrong_address": "e" in request.GET,
        }
        return TemplateResponse(request, "dlq_app/groups.html", context)

    @staticmethod
    def _choices(asked: Asked, name: str, values: Sequence[str]) -> list[tuple[str, str, bool]]:
        """Address, label, and whether it is selected, for each value of a filter."""
        chosen = asked.params.get(name, [])
        return [
            (asked.address(**{name: None if value in chosen else value}),
             AgeFilter.AGES[value][2] if name == "age" else value.capitalize(), value in chosen)
            for value in values
        ]  # fmt: skip

    @staticmethod
    def _owners(asked: Asked, counts: Mapping[str, int]) -> list[tuple[str, str, int, bool]]:
        """Address, name, number of groups, and whether it is selected, for each owner; most groups first."""
        chosen = asked.params.get("owner", [])
        names = sorted({*counts, *chosen}, key=lambda name: (-counts.get(name, 0), name))[:_OWNERS]
        return [
            (
                asked.address(owner=None if name in chosen else name),
                "no owner" if name == NONE else name,
                counts.get(name, 0),
                name in chosen,
            )
            for name in names
        ]

    # --- one group ---

    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A group: state, trend, letters and actions."""
        return self._with(request, object_id, lambda group: self._page(request, group))

    def _page(self, request: HttpRequest, group: Group, status: int = 200, **more: Any) -> HttpResponse:
        context = {
            **self.context(request, ""),
            **group_page.whole(request, group, repository.now()),
            "max_note": MAX_NOTE,
            **more,
        }
        context["title"] = visible(context["title"])
        return TemplateResponse(request, "dlq_app/group.html", context, status=status)

    @method_decorator(require_safe)
    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The live part of the page; 304 if it has not changed."""

        def answer(group: Group) -> HttpResponse:
            context = group_page.live(request, group, repository.now())
            return fragment(request, "dlq_app/group_live.html", context, context["live_tag"])

        return self._with(request, object_id, answer)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Django's history page with lines of the audit log."""

        def answer(group: Group) -> HttpResponse:
            title = visible(mask_text(group.telling_title, conf.masking_policy())[:100])
            more = {
                "title": f"Audit log of {title}",
                "subtitle": None,
                **history(request, "lettergroup", group.fingerprint),
            }
            more |= extra_context or {}
            return super(LetterGroupAdmin, self).history_view(request, object_id, more)

        return self._with(request, object_id, answer)

    # --- what is said ---

    @method_decorator(csrf_protect)
    def decision_view(self, request: HttpRequest, object_id: str, what: str) -> HttpResponse:
        """Resolve, ignore or reopen: asks for a reason; a POST does it."""
        permissions.require(request, permissions.REPLAY)

        def answer(group: Group) -> HttpResponse:
            act = next(act for act in group_page.acts(group, "") if act.name == what)
            if act.locked:
                messages.info(request, f"Nothing to do: {act.locked}")
                return self._back(group)
            if request.method != "POST":
                return self._confirmation(request, group, what, self._proposed(what, group))
            typed = {name: request.POST.get(name, "").strip() for name in ("reason", *_ENDS)}
            try:
                said = _read(what, typed)
            except RequestInvalid as error:
                errors = {entry["field"]: f"It {entry['message']}." for entry in error.errors}
                return self._confirmation(request, group, what, typed, errors)
            now_said = groups.set_state(group.fingerprint, _STATES[what], actor=permissions.actor(request), **said)
            ends = f" {group_page.until_words(now_said.said)}" if what == "ignore" and now_said.said else ""
            self._record(request, now_said, f"{_DECISIONS[what]}{ends}", said["reason"])
            messages.success(request, f"The group is {_DONE[what]}.")
            return self._back(group)

        return self._with(request, object_id, answer)

    @staticmethod
    def _proposed(what: str, group: Group) -> dict[str, str]:
        """Default values: ignoring ends tomorrow."""
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(minute=0)
        return {"until": f"{tomorrow:%Y-%m-%dT%H:%M}"} if what == "ignore" else {}

    def _confirmation(
        self,
        request: HttpRequest,
        group: Group,
        what: str,
        typed: Mapping[str, str],
        errors: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        context = {
            **self.context(request, f"{what.capitalize()} this group?"),
            **group_page.live(request, group, repository.now()),
            "what": what,
            "typed": typed,
            "errors": errors or {},
            "max_reason": MAX_REASON,
            "max_number": MAX_NUMBER,
        }
        return TemplateResponse(request, "dlq_app/group_say.html", context, status=400 if errors else 200)

    @method_decorator(csrf_protect)
    @method_decorator(require_POST)
    def note_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Set the group's note, replacing an earlier one."""
        permissions.require(request, permissions.REPLAY)

        def answer(group: Group) -> HttpResponse:
            text = request.POST.get("text", "").replace("\r\n", "\n").strip()
            try:
                NOTE_IN.read({"text": text})
            except Invalid:
                problem = f"At most {MAX_NOTE} characters." if text else "Enter a note."
                return self._page(request, group, 400, note=text, note_error=problem)
            noted = groups.set_note(group.fingerprint, actor=permissions.actor(request), text=text)
            self._record(request, noted, "note", text)
            messages.success(request, "Note saved.")
            return self._back(group, "#note")

        return self._with(request, object_id, answer)

    @method_decorator(csrf_protect)
    @method_decorator(require_POST)
    def owner_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Set the group's owner and links; empty ones come from the policy."""
        permissions.require(request, permissions.REPLAY)

        def answer(group: Group) -> HttpResponse:
            typed = {name: request.POST.get(name, "").strip() for name in OWNER_IN.names}
            try:
                given = OWNER_IN.read(typed)
            except Invalid as error:
                wrong = {entry["field"]: f"It {entry['message']}." for entry in error.errors}
                return self._page(request, group, 400, owner_typed=typed, owner_errors=wrong)
            owned = groups.set_owner(group.fingerprint, actor=permissions.actor(request), **given)
            self._record(request, owned, "owner", typed["name"])
            messages.success(request, "Owner saved." if any(typed.values()) else "Owner removed: the rules apply.")
            return self._back(group, "#owner")

        return self._with(request, object_id, answer)

    # --- other URLs ---

    def get_urls(self) -> list[URLPattern]:
        def view(function: Any) -> Any:
            return self.admin_site.admin_view(function)

        name = "dlq_app_lettergroup_{}".format
        own = [
            path("<slug:object_id>/live/", view(self.live_view), name=name("live")),
            path("<slug:object_id>/owner/", view(self.owner_view), name=name("owner")),
            path("<slug:object_id>/note/", view(self.note_view), name=name("note")),
        ]
        own += [
            path(f"<slug:object_id>/{verb}/", view(self.decision_view), {"what": verb}, name=name(verb))
            for verb in _DECISIONS
        ]
        return [*own, *super().get_urls()]

    # --- helpers ---

    def _back(self, group: Group, place: str = "") -> HttpResponse:
        return HttpResponseRedirect(f"{group_page.url('change', group)}{place}")

    def _with(self, request: HttpRequest, object_id: str, answer: Callable[[Group], HttpResponse]) -> HttpResponse:
        """Respond for this group, or with an error page."""
        self.require_view(request)
        try:
            return answer(groups.get(object_id))
        except GroupNotFound:
            context = self.context(request, "No such group") | {"ref": object_id[:100]}
            return TemplateResponse(request, "dlq_app/group_missing.html", context, status=404)
        except (StoreUnavailable, QueryTooSlow) as error:
            return self._unavailable(request, error)

    def _unavailable(self, request: HttpRequest, error: DeadLetterError) -> HttpResponse:
        context = self.context(request, "Groups") | {
            "is_slow": isinstance(error, QueryTooSlow),
            "again": request.get_full_path() if request.method == "GET" else "",
            "list_url": reverse("admin:dlq_app_lettergroup_changelist"),
        }
        response = TemplateResponse(request, "dlq_app/groups_away.html", context, status=503)
        response["Retry-After"] = str(round(error.retry_after or 5))
        return response

    def _record(self, request: HttpRequest, group: Group, what: str, why: str) -> None:
        title = mask_text(group.telling_title, conf.masking_policy())
        permissions.record_audit(request, group.fingerprint, title, what, why, about=LetterGroup)


def _read(what: str, typed: Mapping[str, str]) -> dict[str, Any]:
    """Arguments for the service, parsed as over REST; raises ``RequestInvalid`` with all problems."""
    given: dict[str, Any] = {"reason": typed["reason"]}
    if what == "ignore":
        # Convert numbers as in JSON; other text is rejected below with an error for its field.
        given |= {name: int(typed[name]) if _is_number(typed[name]) else typed[name] for name in _ENDS if typed[name]}
        if isinstance(given.get("until"), str):
            given["until"] += "Z"
    errors = []
    if not typed["reason"]:
        errors.append({"field": "reason", "message": "is required; it is kept in the history"})
    found: dict[str, Any] = {}
    try:
        found = IGNORE_IN.read(given)
    except Invalid as error:
        errors += error.errors
    if errors:
        raise RequestInvalid("; ".join(entry["message"] for entry in errors), errors=errors)
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
