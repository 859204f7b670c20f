"""What the page of one letter shows: plain values for templates, everything from outside masked and bounded."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse

from dlq_app import conf, repository
from dlq_app.admin import people
from dlq_app.admin.stack import stack
from dlq_app.admin.tree import tree, visible
from dlq_app.criteria import LetterCriteria
from dlq_app.errors import DeadLetterError
from dlq_app.explanation import explain
from dlq_app.letter import DeadLetter
from dlq_app.masking import MaskingPolicy, mask_json, mask_text
from dlq_app.payload import NotJson, masked, parse, written
from dlq_app.ports import intake
from dlq_app.states import Resolution, Status, Verb, is_allowed
from dlq_app.strategies import Strategy

log = logging.getLogger(__name__)

_MAX_DIFF_LINES = 400
_MAX_TEXT = 4_000
_MAX_STACK = 40_000
#: Bytes of a payload above which it scrolls by itself, so that what comes after it stays within reach.
_LONG = 1_500
_STRATEGIES = {
    Strategy.IMMEDIATE: "replays by itself after some minutes",
    Strategy.OFF_PEAK: "replays by itself off peak",
    Strategy.MANUAL: "a person decides",
}
_OUTCOMES = {
    "succeeded": ("ok", "check", "succeeded"),
    "failed_same": ("bad", "x", "failed the same"),
    "failed_new": ("bad", "octx", "failed in a new way"),
    "superseded": ("", "skip", "overtaken by a newer run"),
    None: ("busy", "spin", "under way"),
}
_ATTEMPTS = {
    "succeeded": ("ok", "check"),
    "failed": ("bad", "x"),
    "lost": ("bad", "octx"),
    "deferred": ("warn", "pause"),
}
#: What history holds that the timeline does not show otherwise.
_EVENTS = {
    Verb.DEAD_LETTER.value: ("bad", "octx", "Dead letter"),
    Verb.RELEASE.value: ("warn", "pause", "Replay put back"),
    Verb.HAND_OVER.value: ("hand", "hand", "Left to a person"),
    Verb.SET_ASIDE.value: ("hand", "hand", "Set aside"),
    Verb.RESOLVE_BY_HAND.value: ("ok", "check", "Resolved by hand"),
    Verb.DISCARD.value: ("", "slash", "Discarded"),
}
_WORDS = {
    Verb.DEAD_LETTER.value: "Became a dead letter",
    Verb.CLAIM.value: "Claimed for a replay",
    Verb.CLAIM_AGAIN.value: "Claimed for a replay although resolved",
    Verb.RESOLVE.value: "Resolved",
    Verb.PUT_BACK.value: "Put back: the replay failed",
    Verb.FAIL.value: "Gave up: automatic replays are used up",
    Verb.HAND_OVER.value: "Left to a person",
    Verb.RELEASE.value: "Replay put back",
    Verb.RESOLVE_BY_HAND.value: "Resolved by hand",
    Verb.DISCARD.value: "Discarded",
    Verb.SET_ASIDE.value: "Set aside",
    "reveal": "Secrets revealed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A button: what it does, or why it does not."""

    name: str
    label: str
    icon: str
    url: str
    hint: str
    #: Why it is locked, in words; empty when it may be pressed.
    locked: str = ""
    is_primary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of the timeline."""

    at: datetime
    tone: str
    icon: str
    title: str
    text: str = ""
    took: timedelta | None = None
    url: str = ""
    url_text: str = ""
    is_next: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What would become of a replay right now: the circuit breaker's word."""

    #: Seconds until the breaker looks again; None when nothing is in the way.
    refused_for: float | None = None
    breaker: str = ""
    is_unknown: bool = False

    @property
    def words(self) -> str:
        if self.refused_for is None:
            return ""
        name = self.breaker or "The circuit breaker of this type"
        return f"{name} is open: a replay now would be refused."


def gate(letter: DeadLetter) -> Gate:
    """Asks intake; when it does not answer nobody knows."""
    try:
        wait_ms = intake().retry_after_ms(letter.type, letter.body)
        name = intake().breaker_of(letter.type, letter.body) or ""
    except DeadLetterError as error:
        log.warning("breaker_unknown", extra={"why": str(error)})
        return Gate(is_unknown=True)
    return Gate(refused_for=None if wait_ms is None else max(wait_ms, 0) / 1000, breaker=name)


def state(request: HttpRequest, letter: DeadLetter, now: datetime) -> dict[str, Any]:
    """The part that changes while somebody looks: status, sentence, what can be done, timeline, history."""
    masking = conf.masking_policy()
    barrier = gate(letter)
    return {
        "letter": letter,
        "explanation": mask_text(explain(letter, conf.replay_policy(), now), masking),
        "gate": barrier,
        "acts": acts(request, letter, barrier),
        "timeline": timeline(letter, masking),
        "counts": _counts(letter),
        "history": history(letter, masking),
        "versions": versions(letter, masking),
        "live_tag": tag(request, letter, barrier),
        "tone": {Status.RESOLVED: "ok", Status.PENDING: "", Status.PROCESSING: "busy"}.get(letter.status, "bad"),
        "as_of": now,
    }


def tag(request: HttpRequest, letter: DeadLetter, barrier: Gate) -> str:
    """Names what ``state`` shows, but for the time: the same as long as nothing changed."""
    parts = [
        letter.id,
        letter.status,
        letter.updated_at.isoformat(),
        letter.fence,
        letter.next_retry_at and letter.next_retry_at.isoformat(),
        len(letter.notes),
        barrier.refused_for is None,
        barrier.is_unknown,
        people.may(request, "replay"),
        people.may(request, "admin"),
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


def whole(request: HttpRequest, letter: DeadLetter, now: datetime, *, revealed: bool = False) -> dict[str, Any]:
    """All of the page. ``revealed``: with the secrets of the payload, for who may see them."""
    masking = conf.masking_policy()
    error = mask_text(letter.error_stack, masking)[:_MAX_STACK]
    return {
        **state(request, letter, now),
        "reason": mask_text(letter.error_reason, masking)[:_MAX_TEXT],
        "stack": stack(error),
        "stack_text": error,
        "payload": payload(letter, None if revealed else masking),
        "is_revealed": revealed,
        "why_not_reveal": people.why_not(request, "admin"),
        "why_not_note": people.why_not(request, "replay"),
        "former": former(letter, masking),
        "notes": [_note(entry, masking) for entry in reversed(letter.notes)],
        "facts": facts(letter, masking),
        "system": system(letter, masking),
        "group": group(letter),
        "twins": twins(letter, request.build_absolute_uri("/").rstrip("/")),
    }


def payload(letter: DeadLetter, masking: MaskingPolicy | None) -> dict[str, Any]:
    """The tree of the payload, or its text when it is no JSON; and what was left out."""
    try:
        node = parse(letter.text)
    except NotJson as error:
        text = letter.text if masking is None else mask_text(letter.text, masking)
        shown = text[:_MAX_STACK]
        return {"text": shown, "why": str(error), "is_cut": len(shown) < len(text), "bytes": len(letter.body)}
    shown_node = node if masking is None else masked(node, masking)
    made = tree(shown_node)
    return {
        "tree": made.html,
        "is_cut": made.is_cut,
        "is_long": len(letter.body) > _LONG,
        "bytes": len(letter.body),
        "json": "" if made.is_cut else visible(written(shown_node, indent=2)),
        "hides": shown_node != node,
    }


def payload_text(letter: DeadLetter, masking: MaskingPolicy) -> str:
    """The whole payload with secrets hidden, laid out when it is JSON."""
    try:
        return written(masked(parse(letter.text), masking), indent=2)
    except NotJson:
        return mask_json(letter.text, masking)


# --- what can be done ---


def acts(request: HttpRequest, letter: DeadLetter, barrier: Gate) -> list[Act]:
    """Every button with what it needs; locked ones say why."""
    role = people.why_not(request, "replay")
    busy = "A replay is under way: wait for its outcome." if letter.status is Status.PROCESSING else ""
    resolved = letter.status is Status.RESOLVED
    done = "It is resolved already." if resolved else ""
    aside = "" if is_allowed(Verb.SET_ASIDE, letter.status) else (done or busy or "It waits for a person already.")
    return [
        Act(
            name="replay",
            label="Replay again…" if resolved else "Replay…",
            icon="replay",
            url=_url("replay", letter),
            hint="It is resolved: you will be asked to insist."
            if resolved
            else "One attempt, at once. Its outcome comes back here.",
            locked=role or busy or barrier.words,
            is_primary=not resolved,
        ),
        Act(
            name="edit",
            label="Edit and replay…",
            icon="edit",
            url=_url("edit", letter),
            hint="The original stays; your version is kept with your name.",
            locked=role or busy,
            is_primary=not resolved and bool(barrier.words),
        ),
        Act(
            name="resolve",
            label="Resolve…",
            icon="check",
            url=_url("resolve", letter),
            hint="It is done: you say so. The letter stays.",
            locked=role or done or busy,
        ),
        Act(
            name="discard",
            label="Discard…",
            icon="slash",
            url=_url("discard", letter),
            hint="It does not matter any more. The letter stays.",
            locked=role or done or busy,
        ),
        Act(
            name="set_aside",
            label="Set aside…",
            icon="hand",
            url=_url("set_aside", letter),
            hint="Stops the automatic replays until a person decides.",
            locked=role or aside,
        ),
    ]


def _url(what: str, letter: DeadLetter) -> str:
    return reverse(f"admin:dlq_app_deadletter_{what}", args=[letter.id])


# --- what happened ---


def timeline(letter: DeadLetter, masking: MaskingPolicy) -> list[Moment]:
    """Acceptance, attempts, replays and moves in the order of time, and what comes next by itself."""
    found: list[Moment] = []
    source = str(letter.metadata.get("source") or "")
    priority = str(letter.metadata.get("priority") or "normal")
    if letter.queued_at:
        text = f"from {source}, {priority} priority" if source else f"{priority} priority"
        found.append(Moment(at=letter.queued_at, tone="", icon="letter", title="Accepted", text=text))
    replays = {entry.get("epoch"): entry for entry in letter.replay_attempts}
    own = [entry for entry in letter.attempts if entry.get("epoch") not in replays]
    found += [moment for entry in own if (moment := _attempt(entry, masking))]
    found += [moment for entry in letter.replay_attempts if (moment := _replay(entry, letter, masking))]
    for entry in letter.history:
        known = _EVENTS.get(str(entry.get("what")))
        at = entry.get("at")
        if known and isinstance(at, datetime):
            tone, icon, title = known
            who, why = str(entry.get("who") or ""), mask_text(str(entry.get("why") or ""), masking)
            text = why if who in ("", "system") else f"{who}: {why}" if why else who
            found.append(Moment(at=at, tone=tone, icon=icon, title=title, text=text[:_MAX_TEXT]))
    found.sort(key=lambda moment: moment.at)
    if letter.status is Status.PENDING and letter.next_retry_at:
        most = conf.replay_policy().max_automatic_replays
        title = f"Next: automatic replay {letter.dlq_retry_count + 1} of {most}"
        found.append(Moment(at=letter.next_retry_at, tone="warn", icon="clock", title=title, is_next=True))
    return found


def _attempt(entry: Mapping[str, Any], masking: MaskingPolicy) -> Moment | None:
    at = entry.get("startedAt") or entry.get("endedAt")
    if not isinstance(at, datetime):
        return None
    outcome = str(entry.get("outcome") or "")
    tone, icon = _ATTEMPTS.get(outcome, ("", "info"))
    what = str(entry.get("errorType") or "") if outcome == "failed" else ""
    words = what or {"lost": "lost with its worker", "deferred": "handed back"}.get(outcome, outcome)
    details = [str(entry["worker"])] if entry.get("worker") else []
    if isinstance(entry.get("retryDelayMs"), int | float) and entry["retryDelayMs"]:
        details.append(f"then waited {entry['retryDelayMs'] / 1000:.1f} s")
    reason = mask_text(str(entry.get("errorReason") or ""), masking)
    if reason:
        details.append(reason[:300])
    return Moment(
        at=at,
        tone=tone,
        icon=icon,
        title=f"Attempt {entry.get('number', '')}: {words}",
        text="; ".join(details),
        took=_took(entry, "startedAt", "endedAt"),
    )


def _replay(entry: Mapping[str, Any], letter: DeadLetter, masking: MaskingPolicy) -> Moment | None:
    at = entry.get("at")
    if not isinstance(at, datetime):
        return None
    tone, icon, outcome = _OUTCOMES.get(entry.get("outcome"), ("", "info", str(entry.get("outcome"))))
    by, why = str(entry.get("by") or ""), mask_text(str(entry.get("why") or ""), masking)
    version, batch = entry.get("version"), str(entry.get("batchId") or "")
    if entry.get("kind") == "auto":
        title = f"{why[:1].upper()}{why[1:]}" if why else "Automatic replay"
        why = ""
    elif version:
        title, icon = f"{by} edited and replayed", "edit" if outcome != "under way" else icon
    else:
        title = f"{by} replayed it"
    details = [f"version {version}"] if version else []
    details += [f"“{why}”"] if why else []
    if entry.get("outcome") in ("failed_same", "failed_new"):
        reason = mask_text(str(entry.get("errorReason") or ""), masking)[:300]
        details.append(f"{entry.get('errorType') or ''} {reason}".strip())
    return Moment(
        at=at,
        tone=tone,
        icon=icon,
        title=f"{title}: {outcome}",
        text="; ".join(details),
        took=_took(entry, "at", "endedAt"),
        url=f"{reverse('admin:index')}dlq_app/replaybatch/{quote(batch, safe='')}/change/" if batch else "",
        url_text=f"batch {batch}" if batch else "",
    )


def _took(entry: Mapping[str, Any], begin: str, end: str) -> timedelta | None:
    begun, ended = entry.get(begin), entry.get(end)
    if not isinstance(begun, datetime) or not isinstance(ended, datetime) or ended < begun:
        return None
    return ended - begun


def _counts(letter: DeadLetter) -> str:
    replays = {entry.get("epoch") for entry in letter.replay_attempts}
    attempts = sum(entry.get("epoch") not in replays for entry in letter.attempts)
    parts = [f"{attempts} attempt{'' if attempts == 1 else 's'}"]
    if letter.replay_attempts:
        count = len(letter.replay_attempts)
        parts.append(f"{count} replay{'' if count == 1 else 's'}")
    return ", ".join(parts)


def history(letter: DeadLetter, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """Who did what, newest first."""
    return [
        {
            "at": entry.get("at"),
            "who": str(entry.get("who") or ""),
            "what": _WORDS.get(str(entry.get("what")), str(entry.get("what"))),
            "why": mask_text(str(entry.get("why") or ""), masking)[:_MAX_TEXT],
        }
        for entry in reversed(letter.history)
    ]


def _note(entry: Mapping[str, Any], masking: MaskingPolicy) -> dict[str, Any]:
    text = mask_text(str(entry.get("text") or ""), masking)
    return {"at": entry.get("at"), "by": str(entry.get("by") or ""), "text": text}


def versions(letter: DeadLetter, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """Edited versions, newest first, each with its difference and what became of it."""
    outcomes = {entry.get("version"): entry.get("outcome") for entry in letter.replay_attempts if entry.get("version")}
    found = []
    for entry in reversed(letter.versions):
        outcome = outcomes.get(entry.get("version"))
        found.append(
            {
                "number": entry.get("version"),
                "by": str(entry.get("by") or ""),
                "at": entry.get("at"),
                "why": mask_text(str(entry.get("why") or ""), masking)[:_MAX_TEXT],
                "outcome": _OUTCOMES.get(outcome, ("", "", str(outcome)))[2],
                "lines": diff_lines(mask_text(str(entry.get("diff") or ""), masking)),
            }
        )
    return found


def former(letter: DeadLetter, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """What earlier messages with the same id carried."""
    found = []
    for entry in reversed(letter.former_messages):
        raw = entry.get("originalMessage")
        text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw or "")
        found.append({"until": entry.get("until"), "text": mask_json(text, masking)[:_MAX_TEXT]})
    return found


def diff_lines(diff: str) -> list[tuple[str, str]]:
    """Lines of a unified diff with the class each is drawn with."""
    lines: list[tuple[str, str]] = []
    for line in diff.splitlines()[:_MAX_DIFF_LINES]:
        if line.startswith(("---", "+++")):
            continue
        kind = {"@": "hunk", "-": "del", "+": "add"}.get(line[:1], "")
        lines.append((kind, line))
    return lines


# --- facts ---


def facts(letter: DeadLetter, masking: MaskingPolicy) -> dict[str, Any]:
    """What stands beside: priority, source, tags, client, strategy."""
    by_hand = sum(entry.get("kind") != "auto" for entry in letter.replay_attempts)
    tags = letter.metadata.get("tags")
    return {
        "priority": str(letter.metadata.get("priority") or ""),
        "source": str(letter.metadata.get("source") or ""),
        "client": mask_text(str(letter.metadata.get("client") or ""), masking),
        "tags": [str(one) for one in tags[:20]] if isinstance(tags, list) else [],
        "strategy": _STRATEGIES.get(letter.strategy, letter.strategy.value),
        "most": conf.replay_policy().max_automatic_replays,
        "by_hand": by_hand,
    }


def system(letter: DeadLetter, masking: MaskingPolicy) -> list[tuple[str, str]]:
    """Where it failed last, as pairs for people."""
    raw = letter.metadata.get("systemState")
    given: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}

    def text(name: str) -> str:
        value = given.get(name)
        return mask_text(str(value), masking)[:200] if value not in (None, "") else ""

    def number(name: str, unit: str) -> str:
        value = given.get(name)
        return f"{value:.0f} {unit}" if isinstance(value, int | float) and value == value else ""

    def memory() -> str:
        # Workers tell the bytes that their process holds; other sources a part of the host's memory.
        value = given.get("memory")
        if isinstance(value, int | float) and 100 < value < 2**50:
            return filesizeformat(value)
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
    """The letters that failed the same way; None when the letter has no group or nobody can count."""
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


def twins(letter: DeadLetter, site: str) -> list[tuple[str, str]]:
    """The replay as a command and as a request, to copy."""
    ref = shlex.quote(letter.message_id)
    return [
        ("manage.py", f"manage.py replay_dlq {ref} --reason '…'"),
        (
            "curl",
            'curl -X POST -H "Authorization: Api-Key $KEY" \\\n'
            "  -H 'Content-Type: application/json' -d '{\"reason\":\"…\"}' \\\n"
            f"  {site}/api/dlq/{letter.id}/replay",
        ),
    ]


def next_words(letter: DeadLetter) -> tuple[str, bool]:
    """What happens next by itself, for a row of the list; whether that is nothing."""
    most = conf.replay_policy().max_automatic_replays
    match letter.status:
        case Status.PROCESSING:
            return "being replayed", False
        case Status.RESOLVED:
            how = {Resolution.REPLAYED: "replayed", Resolution.DISCARDED: "discarded", Resolution.BY_HAND: "by hand"}
            return how.get(letter.resolution, "resolved") if letter.resolution else "resolved", True
        case Status.FAILED:
            return f"nothing: {most} of {most} replays used", True
        case Status.PENDING if letter.next_retry_at:
            return f"({letter.dlq_retry_count + 1} of {most})", False
    return "nothing: a person decides", True


def sample_line(letter: DeadLetter) -> dict[str, Any]:
    """A letter as one line of a confirmation's sample."""
    return {
        "letter": letter,
        "reason": mask_text(letter.error_reason, conf.masking_policy())[:200],
        "url": reverse("admin:dlq_app_deadletter_change", args=[letter.id]),
    }
