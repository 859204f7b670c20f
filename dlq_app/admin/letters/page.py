"""Values for the page of one letter; text from outside is masked and bounded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse

from console import permissions
from console.commands import curl, manage, path, reason_flag
from console.live import etag_of
from dlq_app import conf
from dlq_app.admin.letters.acts import acts, gate
from dlq_app.admin.letters.payload_tree import tree
from dlq_app.admin.letters.story import MAX_TEXT, RESOLUTIONS, counts, former, history, note, timeline, versions
from dlq_app.admin.letters.traceback import stack
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.explanation import explain
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.masking import MaskingPolicy, mask_json, mask_text, masked
from dlq_app.domain.payload import NotJson, parse, written
from dlq_app.domain.standing import person
from dlq_app.domain.states import Status
from dlq_app.domain.strategies import Strategy
from dlq_app.store import repository
from wire.visible_text import json_visible

log = logging.getLogger(__name__)

_MAX_STACK = 40_000
#: Payloads with more bytes scroll in their own box, to keep the rest of the page reachable.
_LONG = 1_500
_STRATEGIES = {
    Strategy.IMMEDIATE: "replayed automatically after some minutes",
    Strategy.OFF_PEAK: "replayed automatically off peak",
    Strategy.MANUAL: "needs a decision",
}


def state(request: HttpRequest, letter: DeadLetter, now: datetime) -> dict[str, Any]:
    """The live part: status, explanation, actions, timeline and history."""
    masking = conf.masking_policy()
    barrier = gate(letter)
    return {
        "letter": letter,
        "resolution": RESOLUTIONS.get(letter.resolution, "") if letter.resolution else "",
        "claimed_by": person(letter.claim.by) if letter.claim and letter.claim.by else "",
        "explanation": mask_text(explain(letter, conf.replay_policy(), now), masking),
        "gate": barrier,
        "acts": acts(request, letter, barrier),
        "timeline": timeline(letter, masking),
        "counts": counts(letter),
        "history": history(letter, masking),
        "versions": versions(letter, masking),
        "live_tag": etag_of(
            letter.id,
            letter.status,
            letter.updated_at,
            letter.fence,
            letter.next_retry_at,
            len(letter.notes),
            barrier.refused_for is None,
            barrier.is_unknown,
            permissions.can(request, permissions.REPLAY),
            permissions.can(request, permissions.ADMIN),
        ),
        "tone": {Status.RESOLVED: "ok", Status.PENDING: "", Status.PROCESSING: "busy"}.get(letter.status, "bad"),
        "as_of": now,
    }


def whole(request: HttpRequest, letter: DeadLetter, now: datetime, *, revealed: bool = False) -> dict[str, Any]:
    """Values for a letter's page. ``revealed`` shows the payload's secrets; the caller checks the permission."""
    masking = conf.masking_policy()
    error = stack_text(letter, masking)
    return {
        **state(request, letter, now),
        "reason": mask_text(letter.error_reason, masking)[:MAX_TEXT],
        "stack": stack(error),
        "stack_text": error,
        "payload": payload(letter, None if revealed else masking),
        "is_revealed": revealed,
        "why_not_reveal": permissions.denial_reason(request, permissions.ADMIN),
        "why_not_note": permissions.denial_reason(request, permissions.REPLAY),
        "former": former(letter, masking),
        "notes": [note(entry, masking) for entry in reversed(letter.notes)],
        "facts": facts(letter, masking),
        "system": system(letter, masking),
        "group": group(letter),
        "commands": equivalent_commands(letter, request.build_absolute_uri("/").rstrip("/")),
    }


def stack_text(letter: DeadLetter, masking: MaskingPolicy) -> str:
    """The stack of the letter's error, masked and limited."""
    return mask_text(letter.error_stack, masking)[:_MAX_STACK]


def payload(letter: DeadLetter, masking: MaskingPolicy | None) -> dict[str, Any]:
    """The payload as a tree, or as text if it is not JSON, and whether it was truncated."""
    try:
        node = parse(letter.text)
    except NotJson as error:
        text = letter.text if masking is None else mask_json(letter.text, masking)
        shown = text[:_MAX_STACK]
        return {"text": shown, "why": str(error), "is_cut": len(shown) < len(text), "bytes": len(letter.body)}
    shown_node = node if masking is None else masked(node, masking)
    made = tree(shown_node)
    return {
        "tree": made.html,
        "is_cut": made.is_cut,
        "is_long": len(letter.body) > _LONG,
        "bytes": len(letter.body),
        "json": "" if made.is_cut else json_visible(written(shown_node, indent=2)),
        "hides": shown_node != node,
    }


def payload_text(letter: DeadLetter, masking: MaskingPolicy) -> str:
    """The whole payload with secrets masked, indented if it is JSON."""
    try:
        return written(masked(parse(letter.text), masking), indent=2)
    except NotJson:
        return mask_json(letter.text, masking)


# --- facts ---


def facts(letter: DeadLetter, masking: MaskingPolicy) -> dict[str, Any]:
    """Priority, source, tags, client and strategy."""
    by_hand = sum(entry.get("kind") != "auto" for entry in letter.replay_attempts)
    tags = letter.metadata.get("tags")
    return {
        "priority": str(letter.metadata.get("priority") or ""),
        "source": mask_text(str(letter.metadata.get("source") or ""), masking),
        "client": mask_text(str(letter.metadata.get("client") or ""), masking),
        "tags": [mask_text(str(one), masking) for one in tags[:20]] if isinstance(tags, list) else [],
        "strategy": _STRATEGIES.get(letter.strategy, letter.strategy.value),
        "most": conf.replay_policy().max_automatic_replays,
        "by_hand": by_hand,
    }


def system(letter: DeadLetter, masking: MaskingPolicy) -> list[tuple[str, str]]:
    """The system at the last failure, as labels and values."""
    raw = letter.metadata.get("systemState")
    given: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}

    def text(name: str) -> str:
        value = given.get(name)
        return mask_text(str(value), masking)[:200] if value not in (None, "") else ""

    def number(name: str, unit: str) -> str:
        value = given.get(name)
        return f"{value:.0f} {unit}" if isinstance(value, int | float) and value == value else ""

    def memory() -> str:
        # Workers report bytes of their process, other sources a percentage of the host's memory.
        value = given.get("memory")
        if isinstance(value, int | float) and 100 < value < 2**50:
            return filesizeformat(value).replace("\N{NO-BREAK SPACE}", " ")  # else written out as unseen
        return number("memory", "%")

    worker, host = text("worker"), text("host")
    load = ", ".join(part for part in (number("cpu", "%"), memory()) if part)
    uptime = given.get("uptime")
    up = str(timedelta(seconds=int(uptime))) if isinstance(uptime, int | float) and 0 <= uptime < 10**9 else ""
    pairs = [
        ("Worker", f"{worker} on {host}" if worker and host else worker or host),
        ("Code", text("codeVersion")),
        ("CPU load, memory", load),
        ("Uptime", up),
    ]
    return [(name, value) for name, value in pairs if value]


def group(letter: DeadLetter) -> dict[str, Any] | None:
    """Other letters with the same error; None without a group or if counting fails."""
    if not letter.fingerprint:
        return None
    try:
        total = repository.letters().count(LetterCriteria(fingerprints=(letter.fingerprint,)), within_s=0.3)
    except DeadLetterError as error:
        log.warning("group_unknown", extra={"why": str(error)})
        return None
    others = max(0, total.count - 1)
    return {
        "url": reverse("admin:dlq_app_lettergroup_change", args=[letter.fingerprint]),
        "others": f"{others:,}{'+' if total.is_capped else ''}",
        "is_alone": others == 0,
    }


def equivalent_commands(letter: DeadLetter, site: str) -> list[tuple[str, str]]:
    """Commands for curl and manage.py that replay the letter."""
    address = f"{site}/api/dlq/{path(letter.id)}/replay"
    flags, body = [reason_flag("")], {"poison": True} if letter.is_poison else {}
    if letter.is_poison:
        flags.append("--poison")
    return [
        ("manage.py", manage("replay_dlq", flags, [letter.message_id])),
        ("curl", curl(address, body, method="POST", asks="reason")),
    ]


def sample_line(letter: DeadLetter) -> dict[str, Any]:
    """A letter in the sample of a confirmation."""
    return {
        "letter": letter,
        "reason": mask_text(letter.error_reason, conf.masking_policy())[:200],
        "url": reverse("admin:dlq_app_deadletter_change", args=[letter.id]),
    }
