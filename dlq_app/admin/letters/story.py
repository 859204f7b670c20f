"""History of a letter and its next automatic step; text from outside is masked and bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.urls import reverse

from dlq_app import conf
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.masking import MaskingPolicy, mask_json, mask_text
from dlq_app.domain.standing import person
from dlq_app.domain.states import Resolution, Status, Verb
from dlq_app.domain.versions import masked_diff

#: Maximum number of characters shown of a text.
MAX_TEXT = 4_000


_MAX_DIFF_LINES = 400
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
#: How a letter was resolved.
RESOLUTIONS = {Resolution.REPLAYED: "replayed", Resolution.DISCARDED: "discarded", Resolution.BY_HAND: "by hand"}
#: Entries of the history that the timeline shows.
_EVENTS = {
    Verb.DEAD_LETTER.value: ("bad", "octx", "Dead letter"),
    Verb.RELEASE.value: ("warn", "pause", "Replay deferred"),
    Verb.HAND_OVER.value: ("hand", "hand", "Needs a decision"),
    Verb.SET_ASIDE.value: ("hand", "hand", "Set aside"),
    Verb.RESOLVE_BY_HAND.value: ("ok", "check", "Resolved manually"),
    Verb.DISCARD.value: ("", "slash", "Discarded"),
    Verb.RESUME.value: ("", "clock", "Automatic replays resumed"),
    Verb.REOPEN.value: ("warn", "up", "Reopened"),
}
_WORDS = {
    Verb.DEAD_LETTER.value: "Became a dead letter",
    Verb.CLAIM.value: "Claimed for a replay",
    Verb.CLAIM_AGAIN.value: "Claimed for a replay although resolved",
    Verb.RESOLVE.value: "Resolved",
    Verb.PUT_BACK.value: "Replay failed",
    Verb.FAIL.value: "No automatic replays left",
    Verb.HAND_OVER.value: "Needs a decision",
    Verb.RELEASE.value: "Replay deferred",
    Verb.RESOLVE_BY_HAND.value: "Resolved manually",
    Verb.DISCARD.value: "Discarded",
    Verb.SET_ASIDE.value: "Set aside",
    Verb.RESUME.value: "Automatic replays resumed",
    Verb.REOPEN.value: "Reopened",
    "reveal": "Secrets revealed",
}


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
    #: From an import; the name is the one in the file.
    is_imported: bool = False


def timeline(letter: DeadLetter, masking: MaskingPolicy) -> list[Moment]:
    """Acceptance, attempts, replays and moves in time order, and the next automatic step."""
    found: list[Moment] = []
    source = mask_text(str(letter.metadata.get("source") or ""), masking)
    priority = str(letter.metadata.get("priority") or "normal")
    if letter.queued_at:
        text = f"from {source}, {priority} priority" if source else f"{priority} priority"
        found.append(Moment(at=letter.queued_at, tone="", icon="letter", title="Accepted", text=text))
    replays = {entry.get("epoch"): entry for entry in letter.replay_attempts}
    own = [entry for entry in letter.attempts if entry.get("epoch") not in replays]
    found += _attempts(own, masking)
    found += [moment for entry in letter.replay_attempts if (moment := _replay(entry, letter, masking))]
    for entry in letter.history:
        known = _EVENTS.get(str(entry.get("what")))
        at = entry.get("at")
        if known and isinstance(at, datetime):
            tone, icon, title = known
            who, why = _name(entry.get("who")), mask_text(str(entry.get("why") or ""), masking)
            text = f"{who}: {why}" if who and why else who or why
            found.append(
                Moment(at=at, tone=tone, icon=icon, title=title, text=text[:MAX_TEXT], is_imported=_is_imported(entry))
            )
    found.sort(key=lambda moment: moment.at)
    if letter.status is Status.PENDING and letter.next_retry_at:
        most = conf.replay_policy().max_automatic_replays
        title = f"Next: automatic replay {letter.dlq_retry_count + 1} of {most}"
        found.append(Moment(at=letter.next_retry_at, tone="warn", icon="clock", title=title, is_next=True))
    return found


def _attempts(entries: Sequence[Mapping[str, Any]], masking: MaskingPolicy) -> list[Moment]:
    """Attempts of the message itself. A run lost with its worker uses no retry, so the next one has its number."""
    lost = Counter(_run(entry) for entry in entries if entry.get("outcome") == "lost")
    runs: Counter[tuple[Any, Any]] = Counter()
    found = []
    for entry in entries:
        runs[_run(entry)] += 1
        moment = _attempt(entry, runs[_run(entry)] if lost[_run(entry)] else 0, masking)
        if moment:
            found.append(moment)
    return found


def _run(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry.get("epoch"), entry.get("number")


def _attempt(entry: Mapping[str, Any], run: int, masking: MaskingPolicy) -> Moment | None:
    """``run``: which run of this attempt it is; 0 if there is only one."""
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
        title=f"Attempt {entry.get('number', '')}{f', run {run}' if run else ''}: {words}",
        text="; ".join(details),
        took=_took(entry, "startedAt", "endedAt"),
    )


def _replay(entry: Mapping[str, Any], letter: DeadLetter, masking: MaskingPolicy) -> Moment | None:
    at = entry.get("at")
    if not isinstance(at, datetime):
        return None
    tone, icon, outcome = _OUTCOMES.get(entry.get("outcome"), ("", "info", str(entry.get("outcome"))))
    by, why = person(str(entry.get("by") or "")), mask_text(str(entry.get("why") or ""), masking)
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
    lost = sum(one.get("epoch") == entry.get("epoch") and one.get("outcome") == "lost" for one in letter.attempts)
    if lost:
        details.append("lost with its worker" if lost == 1 else f"lost with its worker {lost} times")
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
        is_imported=_is_imported(entry),
        url=f"{reverse('admin:index')}dlq_app/replaybatch/{quote(batch, safe='')}/change/" if batch else "",
        url_text="its batch" if batch else "",
    )


def _name(who: object) -> str:
    """The actor in words; empty for the system."""
    name = str(who or "")
    return "" if name in ("", "system") else person(name)


def _is_imported(entry: Mapping[str, Any]) -> bool:
    return entry.get("imported") is True


def _took(entry: Mapping[str, Any], begin: str, end: str) -> timedelta | None:
    begun, ended = entry.get(begin), entry.get(end)
    if not isinstance(begun, datetime) or not isinstance(ended, datetime) or ended < begun:
        return None
    return ended - begun


def counts(letter: DeadLetter) -> str:
    replays = {entry.get("epoch") for entry in letter.replay_attempts}
    attempts = sum(entry.get("epoch") not in replays for entry in letter.attempts)
    parts = [f"{attempts} attempt{'' if attempts == 1 else 's'}"]
    if letter.replay_attempts:
        count = len(letter.replay_attempts)
        parts.append(f"{count} replay{'' if count == 1 else 's'}")
    return ", ".join(parts)


def history(letter: DeadLetter, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """History, newest first."""
    return [
        {
            "at": entry.get("at"),
            "who": _name(entry.get("who")) or "the system",
            "what": _WORDS.get(str(entry.get("what")), str(entry.get("what"))),
            "why": mask_text(str(entry.get("why") or ""), masking)[:MAX_TEXT],
            "is_imported": _is_imported(entry),
        }
        for entry in reversed(letter.history)
    ]


def note(entry: Mapping[str, Any], masking: MaskingPolicy) -> dict[str, Any]:
    text = mask_text(str(entry.get("text") or ""), masking)
    return {"at": entry.get("at"), "by": _name(entry.get("by")), "text": text, "is_imported": _is_imported(entry)}


def versions(letter: DeadLetter, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """Edited versions, newest first, with difference and outcome."""
    outcomes = {entry.get("version"): entry.get("outcome") for entry in letter.replay_attempts if entry.get("version")}
    found = []
    for entry in reversed(letter.versions):
        outcome = outcomes.get(entry.get("version"))
        found.append(
            {
                "number": entry.get("version"),
                "by": _name(entry.get("by")),
                "at": entry.get("at"),
                "is_imported": _is_imported(entry),
                "why": mask_text(str(entry.get("why") or ""), masking)[:MAX_TEXT],
                "outcome": _OUTCOMES.get(outcome, ("", "", str(outcome)))[2],
                "lines": diff_lines(masked_diff(letter, entry, masking)),
            }
        )
    return found


def former(letter: DeadLetter, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """Payloads of earlier messages with the same id."""
    found = []
    for entry in reversed(letter.former_messages):
        raw = entry.get("originalMessage")
        text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw or "")
        found.append({"until": entry.get("until"), "text": mask_json(text, masking)[:MAX_TEXT]})
    return found


def diff_lines(diff: str) -> list[tuple[str, str]]:
    """Lines of a unified diff with their CSS class."""
    lines: list[tuple[str, str]] = []
    given = diff.splitlines()
    for line in given[:_MAX_DIFF_LINES]:
        if line.startswith(("---", "+++")):
            continue
        kind = {"@": "hunk", "-": "del", "+": "add"}.get(line[:1], "")
        lines.append((kind, line))
    if len(given) > _MAX_DIFF_LINES:
        lines.append(("hunk", f"\\ {len(given) - _MAX_DIFF_LINES} more lines are not shown."))
    return lines


def next_words(letter: DeadLetter) -> tuple[str, bool]:
    """The next automatic step for a row of the list, and whether there is none."""
    most = conf.replay_policy().max_automatic_replays
    match letter.status:
        case Status.PROCESSING:
            return "being replayed", False
        case Status.RESOLVED:
            return RESOLUTIONS.get(letter.resolution, "resolved") if letter.resolution else "resolved", True
        case Status.FAILED:
            return f"nothing: {most} of {most} replays used", True
        case Status.PENDING if letter.next_retry_at:
            return f"({letter.dlq_retry_count + 1} of {most})", False
    return "needs a decision", True
