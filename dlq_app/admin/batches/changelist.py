"""Replay batches in Django's admin: list, confirmation before a start, and batch page."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST, require_safe

from console import permissions
from console.live import etag_for, fragment
from console.read_only import ReadOnlyAdmin
from dlq_app import conf
from dlq_app.admin.batches import page as batch_page
from dlq_app.admin.batches.form import MAX_NAME, MAX_REASON, BatchForm, Which, equivalent_commands, limited
from dlq_app.admin.letters import page as letter_page
from dlq_app.admin.letters.groupings import panel
from dlq_app.admin.letters.selection import back_to_list, in_words
from dlq_app.domain import batch_rules
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import (
    ApprovalNeeded,
    BatchBeingPlanned,
    BatchNotFound,
    CriteriaInvalid,
    DeadLetterError,
    MoveRefused,
    QueryTooSlow,
    RequestInvalid,
    StoreUnavailable,
)
from dlq_app.domain.replay_batch import OUTCOME_FILTERS, DryRun, Stage
from dlq_app.domain.replay_batch import ReplayBatch as Batch
from dlq_app.domain.standing import batch_standing
from dlq_app.domain.strategies import Strategy
from dlq_app.models import ReplayBatch
from dlq_app.services import approval, batches, facets
from dlq_app.services.batch_failures import recent_like
from dlq_app.services.titles import batch_title, batch_titles
from dlq_app.store import repository
from wire.visible_text import visible

_BATCH_ID = re.compile(r"b-[0-9a-f]{32}\Z")
_COMMANDS: dict[str, tuple[Callable[..., Batch], str]] = {
    "pause": (batches.pause, "paused"),
    "resume": (batches.resume, "resumed"),
    "cancel": (batches.cancel, "cancelled"),
}
_PER_PAGE = 20
_SHOWN_STAGES = [stage for stage in Stage if stage is not Stage.PLANNING]


@admin.register(ReplayBatch)
class ReplayBatchAdmin(ReadOnlyAdmin):
    """List of batches, confirmation, and page of one batch."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        # The confirmation shows a dry run, which every viewer may read; starting needs another permission.
        return bool(self.has_view_permission(request))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> ReplayBatch | None:
        try:
            batch = batches.get(object_id)
        except BatchNotFound:
            return None
        return ReplayBatch(id=batch.id, name=batch_title(batch))

    # --- the list ---

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """All batches, newest first, with the progress of running ones."""
        self.require_view(request)
        stages = [stage for stage in request.GET.getlist("stage") if stage in {s.value for s in _SHOWN_STAGES}]
        cursor = request.GET.get("cursor") or None
        now = datetime.now(UTC)
        try:
            found = batches.page(stages=stages, limit=_PER_PAGE, cursor=cursor)
        except RequestInvalid:
            return HttpResponseRedirect(request.path)
        except (StoreUnavailable, QueryTooSlow) as error:
            return self._unavailable(request, error)
        titles = batch_titles(found.batches)
        rows = [batch_page.row(batch.masked(conf.masking_policy()), titles[batch.id], now) for batch in found.batches]
        context = {
            **self.context(request, "Replay batches"),
            "rows": rows,
            "stages": [stage.value for stage in _SHOWN_STAGES],
            "stage": stages[0] if len(stages) == 1 else "",
            "older": self._query(stages, found.next_cursor) if found.next_cursor else "",
            "is_first": cursor is None,
            "as_of": now,
            "here": request.get_full_path(),
            "every": batch_page.SLOW_S,
        }
        if request.headers.get("HX-Request"):
            return fragment(request, "dlq_app/batches_live.html", context, etag_for(request, now, found))
        return TemplateResponse(request, "dlq_app/batches.html", context)

    @staticmethod
    def _query(stages: list[str], cursor: str) -> str:
        return "?" + "&".join([*(f"stage={stage}" for stage in stages), f"cursor={cursor}"])

    # --- before a start ---

    @method_decorator(csrf_protect)
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Dry run and settings; a POST starts the batch."""
        self.require_view(request)
        try:
            which = Which.of(request.GET)
        except CriteriaInvalid:
            return HttpResponseRedirect(f"{reverse('admin:dlq_app_deadletter_changelist')}?e=1")
        if which.is_nothing:
            messages.info(request, "Select letters first, or filter the list, then replay.")
            return HttpResponseRedirect(reverse("admin:dlq_app_deadletter_changelist"))
        now = datetime.now(UTC)
        try:
            if request.method == "POST":
                return self._start(request, which, now)
            form = BatchForm(which=which, off_peak=_off_peak(now), reason=request.GET.get("reason", ""))
            return self._confirmation(request, form, now)
        except (StoreUnavailable, QueryTooSlow, BatchBeingPlanned) as error:
            return self._unavailable(request, error)

    def _confirmation(
        self, request: HttpRequest, form: BatchForm, now: datetime, errors: dict[str, str] | None = None
    ) -> HttpResponse:
        which = form.which
        order = form.shown()
        dry = batches.dry_run(which.order(poison=form.poison))
        poison = sum(one.count for one in dry.left_out if one.why == "poison")
        context = {
            **self.context(request, f"Replay {dry.count:,} dead letter{'' if dry.count == 1 else 's'}"),
            "dry": dry,
            "earlier": batch_page.earlier(_earlier(which, dry)),
            "is_safe": all(one.passes for one in dry.breakers),
            "which": None if which.ids else in_words(which.criteria),
            "ids_given": bool(which.ids),
            "everything": which.everything,
            "sample": [letter_page.sample_line(letter) for letter in dry.sample],
            "form": form,
            "errors": errors or {},
            "what": batch_page.what_will_happen(order, dry.count, dry.breakers, now),
            "failures_at_most": batch_rules.failures_at_most(dry.count, order.max_failures, order.max_failure_rate),
            "commands": equivalent_commands(
                limited(order, dry.count) if dry.count else order, which, request.build_absolute_uri("/").rstrip("/")
            ),
            "locked": self._locked(request, dry.count, poison),
            "poison": poison,
            "batch_id": request.POST.get("batch", "") or batches.new_batch_id(),
            "back": back_to_list(which.criteria),
            "as_of": now,
            "max_reason": MAX_REASON,
            "max_name": MAX_NAME,
            "approval": settings.DLQ_APPROVAL_SIZE,
            "used": approval.used(permissions.actor(request)),
        }
        return TemplateResponse(request, "dlq_app/batch_confirm.html", context, status=400 if errors else 200)

    def _locked(self, request: HttpRequest, count: int, poison: int = 0) -> str:
        """Why the batch cannot be started; empty if it can. ``poison``: letters left out because of it."""
        if not permissions.can(request, permissions.REPLAY):
            return permissions.denial_reason(request, permissions.REPLAY)
        if not count and poison:
            return "Only letters with WORKER_LOST match. Check their box and show what the settings do."
        if not count:
            return "None of these letters can be replayed."
        return (
            "" if permissions.can(request, permissions.ADMIN) else approval.why_not(permissions.actor(request), count)
        )

    def _start(self, request: HttpRequest, which: Which, now: datetime) -> HttpResponse:
        permissions.require(request, permissions.REPLAY)
        form = BatchForm.read(which, request.POST, _off_peak(now))
        order, errors = form.ordered()
        if errors or order is None or request.POST.get("step") != "start":
            return self._confirmation(request, form, now, errors)
        batch_id, seen = request.POST.get("batch", ""), _whole(request.POST.get("seen", ""))
        if not _BATCH_ID.match(batch_id) or not seen:
            return self._confirmation(request, form, now, {"form": "Check the number below and confirm again."})
        try:
            # The form was submitted twice: the batch of the first request exists, even if more letters match now.
            batch = batches.get(batch_id)
        except BatchNotFound:
            count = batches.dry_run(which.order(poison=form.poison)).count
            if form.poison and request.POST.get("with_poison") != "1":
                said = f"Now {count:,} letters, including those with WORKER_LOST. Check the number and confirm again."
                return self._confirmation(request, form, now, {"form": said})
            if count > seen:
                late = f"{count - seen:,} more letters match than this page showed. Check the number and confirm again."
                return self._confirmation(request, form, now, {"form": late})
            if not count:
                raise PermissionDenied(self._locked(request, count)) from None
            unlimited = permissions.can(request, permissions.ADMIN)
            try:
                batch = approval.start(
                    limited(order, seen), actor=permissions.actor(request), batch_id=batch_id, unlimited=unlimited
                )
            except ApprovalNeeded as error:
                raise PermissionDenied(error.detail) from None
            self._record(request, batch, f"replay of {batch.total:,} letters started", order.reason, batch.total)
            messages.success(request, f"The plan of {batch.total:,} letters is frozen.")
        return HttpResponseRedirect(reverse("admin:dlq_app_replaybatch_change", args=[batch.id]))

    # --- one batch ---

    @method_decorator(require_safe)
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A batch: progress, outcomes and actions."""

        def answer(batch: Batch) -> HttpResponse:
            outcome = request.GET.get("outcome", "")
            outcome = outcome if outcome in OUTCOME_FILTERS else ""
            shown = outcome or ("failed" if batch.counts.failed else "")
            try:
                found = batches.items(
                    batch.id, outcome=shown or None, limit=batch_page.ITEMS, cursor=request.GET.get("cursor") or None
                )
            except RequestInvalid:
                return HttpResponseRedirect(request.path)
            older = {"cursor": found.next_cursor} if found.next_cursor else {}
            context = {
                **self.context(request, visible(batch_title(batch))),
                **batch_page.whole(request, batch, repository.now()),
                "lines": [batch_page.line(item) for item in found.items],
                "outcome": shown,
                "is_first": "cursor" not in request.GET,
                "more_url": batch_page.items_url(batch, **({"outcome": shown} if shown else {}), **older)
                if older
                else "",
            }
            return TemplateResponse(request, "dlq_app/batch.html", context)

        return self._with(request, object_id, answer)

    @method_decorator(require_safe)
    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The live part of the page; 304 if it has not changed."""

        def answer(batch: Batch) -> HttpResponse:
            now = repository.now()
            context = batch_page.live(request, batch, now)
            live_tag = etag_for(request, now, (batch, context["came_back"]))
            return fragment(request, "dlq_app/batch_live.html", context, live_tag)

        return self._with(request, object_id, answer)

    @method_decorator(require_safe)
    def parts_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of the page that shows the facets of its letters."""

        def answer(batch: Batch) -> HttpResponse:
            try:
                found = facets.of_batch(batch.id, top=5)
            except DeadLetterError as error:
                return panel(request, None, LetterCriteria(), why=error.detail, is_batch=True)
            return panel(request, found, LetterCriteria(), is_batch=True)

        return self._with(request, object_id, answer)

    @method_decorator(csrf_protect)
    @method_decorator(require_POST)
    def command_view(self, request: HttpRequest, object_id: str, what: str) -> HttpResponse:
        """Pause, resume or cancel."""
        permissions.require(request, permissions.REPLAY)

        def answer(batch: Batch) -> HttpResponse:
            move, done = _COMMANDS[what]
            reason = request.POST.get("reason", "").strip()[:MAX_REASON]
            try:
                moved = move(batch.id, actor=permissions.actor(request), reason=reason)
            except MoveRefused as error:
                messages.warning(request, error.detail)
            else:
                self._record(request, moved, done, reason)
                messages.success(request, f"The batch is {done}.")
            return HttpResponseRedirect(reverse("admin:dlq_app_replaybatch_change", args=[batch.id]))

        return self._with(request, object_id, answer)

    @method_decorator(require_safe)
    def cancel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for confirmation: a cancel cannot be undone."""
        permissions.require(request, permissions.REPLAY)

        def answer(batch: Batch) -> HttpResponse:
            if batch.is_final:
                messages.warning(request, f"{batch_title(batch)} {batch_standing(batch)}: nothing is left to cancel.")
                return HttpResponseRedirect(reverse("admin:dlq_app_replaybatch_change", args=[batch.id]))
            context = {
                **self.context(request, f"Cancel {visible(batch_title(batch))}"),
                "batch_title": batch_title(batch),
                **batch_page.live(request, batch, repository.now()),
                "max_reason": MAX_REASON,
            }
            return TemplateResponse(request, "dlq_app/batch_cancel.html", context)

        return self._with(request, object_id, answer)

    # --- other URLs ---

    def get_urls(self) -> list[URLPattern]:
        def view(function: Any) -> Any:
            return self.admin_site.admin_view(function)

        name = "dlq_app_replaybatch_{}".format
        own = [
            path("<slug:object_id>/live/", view(self.live_view), name=name("live")),
            path("<slug:object_id>/parts/", view(self.parts_view), name=name("parts")),
            path("<slug:object_id>/cancel-the-rest/", view(self.cancel_view), name=name("ask_cancel")),
        ]
        own += [
            path(f"<slug:object_id>/{verb}/", view(self.command_view), {"what": verb}, name=name(verb))
            for verb in _COMMANDS
        ]
        return [*own, *super().get_urls()]

    # --- helpers ---

    def _with(self, request: HttpRequest, object_id: str, answer: Callable[[Batch], HttpResponse]) -> HttpResponse:
        """Respond for this batch, or with an error page."""
        self.require_view(request)
        try:
            return answer(batches.get(object_id).masked(conf.masking_policy()))
        except BatchNotFound:
            context = self.context(request, "No such replay batch") | {"ref": object_id[:100]}
            return TemplateResponse(request, "dlq_app/batch_missing.html", context, status=404)
        except (StoreUnavailable, QueryTooSlow) as error:
            return self._unavailable(request, error)

    def _unavailable(self, request: HttpRequest, error: DeadLetterError) -> HttpResponse:
        context = self.context(request, "Replay batches") | {
            "is_slow": isinstance(error, QueryTooSlow),
            "again": request.get_full_path() if request.method == "GET" else "",
        }
        response = TemplateResponse(request, "dlq_app/letters_away.html", context, status=503)
        response["Retry-After"] = str(round(error.retry_after or 5))
        return response

    def _record(self, request: HttpRequest, batch: Batch, what: str, why: str, count: int | None = None) -> None:
        """Add one line to the audit log, regardless of the batch's size."""
        permissions.record_audit(request, batch.id, batch_title(batch), what, why, about=ReplayBatch, count=count)


def _earlier(which: Which, dry: DryRun) -> list[Batch]:
    """The last batches of the same filter or group; of selected letters, if the sample has one group."""
    seen = {letter.fingerprint for letter in dry.sample if letter.fingerprint}
    return recent_like(None if which.ids else which.criteria, seen if len(seen) == 1 else ())


def _off_peak(now: datetime) -> datetime:
    """The next off-peak slot of the replay policy."""
    policy = conf.replay_policy()
    slot = policy.next_replay_at(Strategy.OFF_PEAK, 0, now)
    return slot or now


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
