"""Edit and replay: form, review of the changes, replay. A refused version stays in the form and as a draft."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect

from console import permissions
from dlq_app import conf
from dlq_app.admin.letters import drafts
from dlq_app.admin.letters import page as letter_page
from dlq_app.admin.letters import story as letter_story
from dlq_app.admin.letters.acts import acts, gate
from dlq_app.admin.letters.bulk_pages import reason_of
from dlq_app.admin.letters.replay_form import replay_id, ticked, unconfirmed
from dlq_app.conf import intake
from dlq_app.domain.difference import diff
from dlq_app.domain.errors import DeadLetterError, LetterNotFound, PayloadInvalid, QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter as Letter
from dlq_app.domain.limits import MAX_REASON
from dlq_app.domain.masking import masked
from dlq_app.domain.payload import NotJson, parse, written
from dlq_app.domain.payload_edits import NotRestorable, restored
from dlq_app.domain.versions import only_hidden
from dlq_app.store import repository
from wire.visible_text import json_visible

_LETTER_ID = re.compile(r"[0-9a-f]{24}\Z")


class EditViews:
    """The edit of one letter, for the admin of letters."""

    # From the other classes of the admin.
    _with: Callable[[HttpRequest, str, Callable[[Letter], HttpResponse]], HttpResponse]
    _started: Callable[..., HttpResponse]
    _context: Callable[[HttpRequest, Letter, str], dict[str, Any]]
    _back: Callable[[Letter], HttpResponse]

    @method_decorator(csrf_protect)
    def edit_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Edit and replay. The sent payload is kept first, so that no later error loses it."""
        permissions.require(request, permissions.REPLAY)
        is_kept = False
        if request.method == "POST" and _LETTER_ID.match(object_id):
            if request.POST.get("step") == "discard":
                drafts.discard(request, object_id)
                messages.success(request, "Draft discarded.")
                return self._with(request, object_id, self._back)
            is_kept = drafts.save(request, object_id, _typed(request), request.POST.get("reason", ""))

        def edit(letter: Letter) -> HttpResponse:
            kept = is_kept
            if request.method == "POST" and letter.id != object_id:  # a message id, which may look like the other one
                kept = drafts.save(request, letter.id, _typed(request), request.POST.get("reason", ""))
            return self._edit(request, letter, kept)

        answer = self._with(request, object_id, edit)
        if is_kept and answer.status_code in (404, 503):
            messages.info(request, "Your edited payload is kept as a draft.")
        return answer

    def _edit(self, request: HttpRequest, letter: Letter, is_kept: bool) -> HttpResponse:
        policy = conf.masking_policy()
        try:
            original = parse(letter.text)
        except NotJson:
            original = None
        before = letter.text if original is None else written(masked(original, policy), indent=2)
        if request.method != "POST":
            draft = drafts.get(request, letter.id)
            if draft is None:
                return self._editor(request, letter, before)
            return self._editor(request, letter, draft.payload, reason=draft.reason, draft=draft)
        text = _typed(request)
        reason, wrong = reason_of(request, is_required=False)
        errors = ({"reason": wrong} if wrong else {}) | unconfirmed(request, letter)
        body = b""
        try:
            edited = parse(text)
            whole = restored(edited, original, policy)
            body = written(whole).encode("utf-8", "surrogatepass")
            intake().check_payload(body)
            after = written(masked(whole, policy), indent=2)
        except (NotJson, NotRestorable) as error:
            errors["payload"] = f"{error}."
        except PayloadInvalid as error:
            errors["payload"] = "; ".join(f"{e['field']}: {e['message']}" for e in error.errors[:5]) or error.detail
        if errors or request.POST.get("step") == "edit":
            return self._editor(request, letter, text, errors=errors, is_kept=is_kept)
        lines = letter_story.diff_lines(
            diff(before, after) or only_hidden(letter.text, body.decode("utf-8", "surrogatepass"), policy)
        )
        if request.POST.get("step") != "send":
            return self._editor(request, letter, text, diff=lines, body=body, is_kept=is_kept)
        try:
            return self._started(request, letter, reason, payload=body)
        except (StoreUnavailable, QueryTooSlow, LetterNotFound):
            raise
        except DeadLetterError as error:
            refused = {"form": error.detail}
            return self._editor(request, letter, text, diff=lines, body=body, is_kept=is_kept, errors=refused)

    def _editor(
        self,
        request: HttpRequest,
        letter: Letter,
        text: str,
        *,
        reason: str | None = None,
        draft: drafts.Draft | None = None,
        errors: Mapping[str, str] | None = None,
        diff: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        is_kept: bool = False,
    ) -> HttpResponse:
        """The form, or with a ``body`` the review of its changes."""
        context = {
            **self._context(request, letter, f"Edit and replay {letter.message_id}"),
            **letter_page.state(request, letter, repository.now()),
            # Escape invisible characters, so that users see them when editing.
            "text": json_visible(text),
            "rows": min(max(text.count("\n") + 2, 12), 40),
            "diff": diff or [],
            "is_preview": body is not None,
            "is_changed": bool(diff),
            "errors": errors or {},
            "reason": request.POST.get("reason", "") if reason is None else reason,
            **ticked(request),
            "replay_id": replay_id(request),
            "max_reason": MAX_REASON,
            "draft": draft,
            "is_kept": is_kept,
        }
        if body is not None:
            # The edited payload may choose another breaker.
            context["gate"] = gate(letter, body)
            context["acts"] = acts(request, letter, context["gate"])
        act = next(act for act in context["acts"] if act.name == "edit")
        context["locked"] = act.locked or (context["gate"].words if body is not None else "")
        status = 200 if not errors else 409 if "form" in errors else 400
        return TemplateResponse(request, "dlq_app/letter_edit.html", context, status=status)


def _typed(request: HttpRequest) -> str:
    return request.POST.get("payload", "").replace("\r\n", "\n")
