"""Resolving, discarding and setting aside many letters: first a page that shows how many and which, then the move."""

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
    """An operator's move in words."""

    verb: Verb
    #: ``Resolve`` 3 letters.
    order: str
    #: 3 letters were ``resolved``.
    done: str
    #: What it means.
    means: str
    icon: str
    is_danger: bool = False


#: Name in addresses → the move.
BULK: Mapping[str, Move] = {
    "resolve": Move(
        verb=Verb.RESOLVE_BY_HAND,
        order="Resolve",
        done="resolved",
        means="They count as done and will not be replayed by themselves. They stay readable until retention ends, and "
        "can be replayed all the same.",
        icon="check",
    ),
    "discard": Move(
        verb=Verb.DISCARD,
        order="Discard",
        done="discarded",
        means="They count as over without having been processed. They stay readable until retention ends, and can be "
        "replayed all the same.",
        icon="slash",
        is_danger=True,
    ),
    "set-aside": Move(
        verb=Verb.SET_ASIDE,
        order="Set aside",
        done="set aside",
        means="They will not be replayed by themselves any more: each waits until a person decides.",
        icon="hand",
    ),
}


def counted(count: int) -> str:
    """``1,203 dead letters``."""
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def reason_of(request: HttpRequest, *, is_required: bool = True) -> tuple[str, str]:
    """The reason that was given, and what is wrong with it (empty: nothing)."""
    reason = request.POST.get("reason", "").strip()
    if len(reason) > MAX_REASON:
        return reason, f"At most {MAX_REASON} characters."
    if is_required and not reason:
        return reason, "Say why: whoever looks at these letters later will ask."
    return reason, ""


class BulkPages:
    """The confirmation of a move of many, for the admin of letters."""

    admin_site: Any
    opts: Any

    #: The page for when the store does not answer.
    away: Callable[[HttpRequest, DeadLetterError], HttpResponse]

    @method_decorator(csrf_protect)
    def bulk_view(self, request: HttpRequest, what: str) -> HttpResponse:
        """Shows what the move would reach; a POST of that page makes it."""
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
            return self.away(request, error)

    def _confirmation(
        self,
        request: HttpRequest,
        move: Move,
        criteria: LetterCriteria,
        ids: tuple[str, ...],
        errors: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        # MongoDB's clock: it dates the changes that this instant is compared with.
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
            # Of more than may be moved: one too many, so that sending the page all the same is refused.
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
        """Why so many may not be moved at once by anybody; empty when they may."""
        if count > bulk.MAX_LETTERS:
            return f"At most {bulk.MAX_LETTERS:,} letters can be moved at once. Narrow the filter, for instance by age."
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
            # A page of ours sends both; without them nobody saw what this would reach.
            count, as_of = 0, datetime.now(UTC)
            errors["count"] = "Look at the number below and confirm again."
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
        described = "chosen one by one" if ids else criteria.as_text()
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
                f"{move.done}, the rest is as it was. Do it again to go on."
            )
            messages.error(request, text)
            return
        if done.count:
            messages.success(request, f"{counted(done.count).capitalize()} {move.done}.")
        left = done.asked - done.count
        if left:
            were = "was" if left == 1 else "were"
            messages.warning(request, f"{counted(left).capitalize()} changed in the meantime and {were} left alone.")
