"""Resolve, discard, set aside, resume or reopen many letters: confirmation with count and sample, then the change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect

from console import permissions
from dlq_app.admin.letters import page as letter_page
from dlq_app.admin.letters.selection import back_to_list, criteria_of, ids_of, in_words
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import ApprovalNeeded, CriteriaInvalid, DeadLetterError, QueryTooSlow, StoreUnavailable
from dlq_app.domain.limits import MAX_REASON
from dlq_app.domain.states import Verb
from dlq_app.models import DeadLetter
from dlq_app.services import approval, bulk
from dlq_app.store import repository
from dlq_app.store.repository import Selection
from wire.instants import iso, parse_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Texts of an operator's action."""

    verb: Verb
    #: ``Resolve`` 3 letters.
    order: str
    #: 3 letters were ``resolved``.
    done: str
    #: What it means.
    means: str
    icon: str
    #: Letters that it skips because of their status.
    skips: str = "resolved, or being replayed"
    is_danger: bool = False


#: Name in addresses → the move.
BULK: Mapping[str, Move] = {
    "resolve": Move(
        verb=Verb.RESOLVE_BY_HAND,
        order="Resolve",
        done="resolved",
        means="They count as done; no more automatic replays. They are kept until their retention ends and can "
        "still be replayed.",
        icon="check",
    ),
    "discard": Move(
        verb=Verb.DISCARD,
        order="Discard",
        done="discarded",
        means="Closes them without processing. They are kept until their retention ends and can still be replayed.",
        icon="slash",
        is_danger=True,
    ),
    "set-aside": Move(
        verb=Verb.SET_ASIDE,
        order="Set aside",
        done="set aside",
        means="No more automatic replays; each letter needs a decision.",
        icon="hand",
        skips="resolved, being replayed, or set aside already",
    ),
    "resume": Move(
        verb=Verb.RESUME,
        order="Resume the automatic replays of",
        done="resumed",
        means="Plans the next automatic replay of each letter that was set aside or reopened and has automatic replays "
        "left.",
        icon="clock",
        skips="not set aside, or without automatic replays left",
    ),
    "reopen": Move(
        verb=Verb.REOPEN,
        order="Reopen",
        done="reopened",
        means="Undoes resolve and discard: each letter needs a decision again and is not deleted. No replay starts. "
        "Replayed letters are not reopened.",
        icon="up",
        skips="open, or replayed",
    ),
}


def counted(count: int) -> str:
    """``1,203 dead letters``."""
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def reason_of(request: HttpRequest, *, is_required: bool = True) -> tuple[str, str]:
    """The given reason, and an error (empty if valid)."""
    reason = request.POST.get("reason", "").strip()
    if len(reason) > MAX_REASON:
        return reason, f"At most {MAX_REASON} characters."
    if is_required and not reason:
        return reason, "A reason is required; it is kept in the history."
    return reason, ""


class BulkPages:
    """Confirmation of an action on many letters, for the admin of letters."""

    admin_site: Any
    opts: Any

    #: The page for an unavailable store.
    unavailable: Callable[[HttpRequest, DeadLetterError], HttpResponse]

    @method_decorator(csrf_protect)
    def bulk_view(self, request: HttpRequest, what: str) -> HttpResponse:
        """Show which letters are affected; a POST changes them."""
        move = BULK.get(what)
        if move is None:
            raise Http404
        permissions.require(request, permissions.REPLAY)
        try:
            criteria = criteria_of(request.GET)
        except CriteriaInvalid:
            return HttpResponseRedirect(f"{reverse('admin:dlq_app_deadletter_changelist')}?e=1")
        ids = tuple(ids_of(request.GET))
        try:
            if request.method == "POST":
                return self._move_many(request, move, criteria, ids)
            return self._confirmation(request, move, criteria, ids)
        except (StoreUnavailable, QueryTooSlow) as error:
            return self.unavailable(request, error)

    def _confirmation(
        self,
        request: HttpRequest,
        move: Move,
        criteria: LetterCriteria,
        ids: tuple[str, ...],
        errors: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        # MongoDB's clock also dates the changes that this time is compared with.
        now = repository.now()
        which = Selection(criteria=None if ids else criteria, ids=ids, as_of=now)
        shown = bulk.preview(which, move.verb)
        number = min(shown.count, bulk.MAX_LETTERS)
        context = {
            **self.admin_site.each_context(request),
            "title": f"{move.order} {'more than ' if shown.is_too_many else ''}{counted(number)}",
            "opts": self.opts,
            "move": move,
            "count": number,
            # If there are too many, one more than the limit, so that submitting the page anyway is rejected.
            "asked": shown.count,
            "is_too_many": shown.is_too_many,
            "counted": counted(number),
            "left_out": shown.left_out,
            "sample": [letter_page.sample_line(letter) for letter in shown.sample],
            "criteria": in_words(criteria),
            "is_everything": criteria.is_empty and not ids,
            "ids": ids,
            "as_of": now,
            "as_of_text": iso(now),
            "back": back_to_list(criteria),
            "locked": self._too_many(shown.count) or self._not_approved(request, shown.count),
            "reason": request.POST.get("reason", ""),
            "errors": errors or {},
            "max_reason": MAX_REASON,
        }
        return TemplateResponse(request, "dlq_app/letters_confirm.html", context, status=400 if errors else 200)

    @staticmethod
    def _too_many(count: int) -> str:
        """Why so many letters cannot be changed at once; empty if they can."""
        if count > bulk.MAX_LETTERS:
            return f"At most {bulk.MAX_LETTERS:,} letters can be changed at once. Narrow the filter, such as by age."
        return ""

    @staticmethod
    def _not_approved(request: HttpRequest, count: int) -> str:
        return (
            "" if permissions.can(request, permissions.ADMIN) else approval.why_not(permissions.actor(request), count)
        )

    def _move_many(
        self, request: HttpRequest, move: Move, criteria: LetterCriteria, ids: tuple[str, ...]
    ) -> HttpResponse:
        reason, wrong = reason_of(request)
        errors = {"reason": wrong} if wrong else {}
        try:
            count, as_of = int(request.POST.get("count", "")), parse_instant(request.POST.get("as_of", ""))
        except ValueError:
            # Our page sends both; without them the user did not see the affected letters.
            count, as_of = 0, datetime.now(UTC)
            errors["count"] = "Check the number below and confirm again."
        if errors or count < 1:
            return self._confirmation(request, move, criteria, ids, errors or {"count": "There is nothing to do."})
        locked = self._too_many(count)
        if locked:
            raise PermissionDenied(locked)
        which = Selection(criteria=None if ids else criteria, ids=ids, as_of=as_of)
        unlimited = permissions.can(request, permissions.ADMIN)
        try:
            done = approval.move_many(
                which, move.verb, count=count, actor=permissions.actor(request), reason=reason, unlimited=unlimited
            )
        except ApprovalNeeded as error:
            raise PermissionDenied(error.detail) from None
        described = "selected individually" if ids else criteria.as_text()
        outcome = f"{done.count:,} of {count:,}" if done.count != count else f"{count:,}"
        permissions.record_audit(
            request,
            "",
            f"{counted(count)}: {described}",
            f"{move.done} {outcome}",
            reason,
            about=DeadLetter,
            count=done.count,
        )
        self._say(request, move, done)
        return HttpResponseRedirect(back_to_list(criteria))

    def _say(self, request: HttpRequest, move: Move, done: bulk.Moved) -> None:
        if done.stopped:
            text = (
                f"Stopped after {done.count:,} of {done.asked:,}: {done.stopped.detail} Those {done.count:,} are "
                f"{move.done}, the rest is unchanged. Repeat the action to continue."
            )
            messages.error(request, text)
            return
        if done.count:
            messages.success(request, f"{counted(done.count).capitalize()} {move.done}.")
        left = done.asked - done.count
        if left:
            were = "was" if left == 1 else "were"
            messages.warning(request, f"{counted(left).capitalize()} changed in the meantime and {were} skipped.")
