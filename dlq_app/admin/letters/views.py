"""Page of one letter and its actions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST, require_safe

from audit_app.lines import history
from console import permissions
from console.live import fragment
from dlq_app import conf
from dlq_app.admin.letters import drafts
from dlq_app.admin.letters import page as letter_page
from dlq_app.admin.letters.bulk_pages import BULK, reason_of
from dlq_app.admin.letters.editing import EditViews
from dlq_app.admin.letters.replay_form import replay_id, ticked, unconfirmed
from dlq_app.domain.errors import DeadLetterError, LetterNotFound, QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter as Letter
from dlq_app.domain.limits import MAX_NOTE, MAX_REASON
from dlq_app.models import DeadLetter
from dlq_app.services import dead_letters
from dlq_app.services.replaying import Replayed, refusal
from dlq_app.store import repository
from wire.visible_text import visible

_SERVICES: Mapping[str, Callable[..., Letter]] = {
    "resolve": dead_letters.resolve_by_hand,
    "discard": dead_letters.discard,
    "set-aside": dead_letters.set_aside,
    "resume": dead_letters.resume,
    "reopen": dead_letters.reopen,
}


class LetterViews(EditViews):
    """Views of one letter, for the admin of letters."""

    admin_site: Any
    opts: Any

    # From the admin class.
    has_view_permission: Callable[[HttpRequest], bool]
    unavailable: Callable[[HttpRequest, DeadLetterError], HttpResponse]
    missing: Callable[[HttpRequest, str], HttpResponse]

    # --- read ---

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The letter's page; a message id redirects to the letter's id."""
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        return self._with(request, object_id, lambda letter: self._page(request, letter, extra_context))

    def _page(
        self, request: HttpRequest, letter: Letter, extra: Mapping[str, Any] | None = None, *, revealed: bool = False
    ) -> HttpResponse:
        context = {
            **self._context(request, letter, letter.message_id),
            **letter_page.whole(request, letter, repository.now(), revealed=revealed),
            "max_note": MAX_NOTE,
            "draft": drafts.get(request, letter.id),
            **(extra or {}),
        }
        response = TemplateResponse(request, "admin/dlq_app/deadletter/change_form.html", context)
        response["Cache-Control"] = "no-store" if revealed else "private, no-cache"
        return response

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Django's history page with lines of the audit log."""
        inherited: Any = super()

        def page(letter: Letter) -> HttpResponse:
            title = {"title": f"Audit log of {letter.message_id}", "subtitle": None}
            more = {**title, **history(request, "deadletter", letter.id), **(extra_context or {})}
            response: HttpResponse = inherited.history_view(request, letter.id, more)
            return response

        return self._with(request, object_id, page)

    @method_decorator(require_safe)
    def state_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The live part of the page; 304 if it has not changed."""

        def answer(letter: Letter) -> HttpResponse:
            shown = letter_page.state(request, letter, repository.now())
            return fragment(request, "dlq_app/letter_live.html", shown, shown["live_tag"])

        return self._with(request, object_id, answer)

    @method_decorator(require_safe)
    def payload_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The whole payload as a text file, secrets masked."""

        def answer(letter: Letter) -> HttpResponse:
            text = letter_page.payload_text(letter, conf.masking_policy())
            name = re.sub(r"[^A-Za-z0-9_-]", "_", letter.message_id)[:64]
            return HttpResponse(
                text.encode("utf-8", "backslashreplace"),
                content_type="text/plain; charset=utf-8",
                headers={"Content-Disposition": f'attachment; filename="{name}.txt"', "Cache-Control": "no-store"},
            )

        return self._with(request, object_id, answer)

    # --- change ---

    @method_decorator(csrf_protect)
    def move_view(self, request: HttpRequest, object_id: str, what: str) -> HttpResponse:
        """Resolve, discard, set aside, resume or reopen, with a reason."""
        permissions.require(request, permissions.REPLAY)
        move = BULK[what]

        def answer(letter: Letter) -> HttpResponse:
            if request.method != "POST":
                return self._confirm_page(request, letter, what)
            reason, wrong = reason_of(request)
            if wrong:
                return self._confirm_page(request, letter, what, errors={"reason": wrong})
            moved = _SERVICES[what](letter.id, actor=permissions.actor(request), reason=reason)
            permissions.record_audit(request, moved.id, moved.message_id, move.done, reason, about=DeadLetter)
            messages.success(request, f"{move.done.capitalize()}: {moved.message_id}.")
            return self._back(letter)

        return self._with(request, object_id, answer)

    @method_decorator(csrf_protect)
    def replay_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Replay the original payload."""
        permissions.require(request, permissions.REPLAY)

        def answer(letter: Letter) -> HttpResponse:
            if request.method != "POST":
                return self._confirm_page(request, letter, "replay")
            reason, wrong = reason_of(request, is_required=False)
            errors = ({"reason": wrong} if wrong else {}) | unconfirmed(request, letter)
            if errors:
                return self._confirm_page(request, letter, "replay", errors=errors)
            return self._started(request, letter, reason)

        return self._with(request, object_id, answer)

    @method_decorator(csrf_protect)
    @method_decorator(require_POST)
    def note_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Add a note."""
        permissions.require(request, permissions.REPLAY)

        def answer(letter: Letter) -> HttpResponse:
            text = request.POST.get("text", "").replace("\r\n", "\n").strip()
            if not text or len(text) > MAX_NOTE:
                problem = f"At most {MAX_NOTE} characters." if text else "Enter a note."
                response = self._page(request, letter, {"note": text, "note_error": problem})
                response.status_code = 400
                return response
            dead_letters.add_note(letter.id, actor=permissions.actor(request), text=text)
            permissions.record_audit(request, letter.id, letter.message_id, "note", text, about=DeadLetter)
            messages.success(request, "Note saved.")
            return HttpResponseRedirect(f"{self._url(letter)}#notes")

        return self._with(request, object_id, answer)

    @method_decorator(csrf_protect)
    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for a reason, record it, and show the payload with secrets once."""
        permissions.require(request, permissions.ADMIN)

        def answer(letter: Letter) -> HttpResponse:
            if request.method != "POST":
                return self._confirm_page(request, letter, "reveal")
            reason, wrong = reason_of(request)
            if wrong:
                return self._confirm_page(request, letter, "reveal", errors={"reason": wrong})
            shown = dead_letters.reveal(letter.id, actor=permissions.actor(request), reason=reason)
            permissions.record_audit(request, shown.id, shown.message_id, "reveal", reason, about=DeadLetter, must=True)
            return self._page(request, shown, revealed=True)

        return self._with(request, object_id, answer)

    # --- shared ---

    def _with(self, request: HttpRequest, object_id: str, answer: Callable[[Letter], HttpResponse]) -> HttpResponse:
        """Respond for this letter, or with an error page or message."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            letter = repository.letters().find(object_id)
            if letter is None:
                return self.missing(request, object_id)
            try:
                return answer(letter)
            except (StoreUnavailable, QueryTooSlow):
                raise
            except LetterNotFound:
                return self.missing(request, object_id)
            except DeadLetterError as error:
                messages.error(request, f"Nothing was changed: {error.detail}")
                return self._back(letter)
        except (StoreUnavailable, QueryTooSlow) as error:
            return self.unavailable(request, error)

    def _started(
        self, request: HttpRequest, letter: Letter, reason: str, *, payload: bytes | None = None
    ) -> HttpResponse:
        """Replay, record it in the audit log, and redirect to the letter."""
        answer = dead_letters.replay(
            letter.id,
            actor=permissions.actor(request),
            reason=reason,
            **ticked(request),
            payload=payload,
            replay_id=replay_id(request),
        )
        problem = refusal(answer)
        if problem:
            raise problem
        assert isinstance(answer, Replayed)  # noqa: S101  every other answer is a problem
        what = "edited and replayed" if payload is not None else "replay"
        permissions.record_audit(
            request, letter.id, letter.message_id, f"{what} {answer.replay_id}", reason, about=DeadLetter
        )
        drafts.discard(request, letter.id)
        messages.success(request, f"Replaying {letter.message_id}. The outcome will appear here.")
        return self._back(letter)

    def _confirm_page(
        self, request: HttpRequest, letter: Letter, what: str, *, errors: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """The confirmation page, which asks for a reason."""
        move = BULK.get(what)
        order = {"replay": "Replay", "reveal": "Reveal the secrets of"}.get(what) or (move.order if move else what)
        context = {
            **self._context(request, letter, f"{order} {letter.message_id}"),
            **letter_page.state(request, letter, repository.now()),
            "order": order,
            "move": move,
            "errors": errors or {},
            "reason": request.POST.get("reason", ""),
            "is_reason_required": what != "replay",
            **ticked(request),
            "replay_id": replay_id(request) if what == "replay" else "",
            "max_reason": MAX_REASON,
        }
        action = what.replace("-", "_")
        context["act"] = next((a for a in context["acts"] if a.name == action), None)
        template = f"dlq_app/letter_confirm_{action}.html"
        return TemplateResponse(request, template, context, status=400 if errors else 200)

    def _context(self, request: HttpRequest, letter: Letter, title: str) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "title": visible(title),
            "opts": self.opts,
            "letter_url": self._url(letter),
            "has_view_permission": True,
        }

    def _url(self, letter: Letter) -> str:
        return reverse("admin:dlq_app_deadletter_change", args=[letter.id])

    def _back(self, letter: Letter) -> HttpResponse:
        return HttpResponseRedirect(self._url(letter))
