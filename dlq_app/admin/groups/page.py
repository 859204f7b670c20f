"""Values for the templates of groups; text from outside is masked and bounded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from console import permissions
from console.actions import Action
from console.commands import curl, manage, path, reason_flag
from console.live import etag_for
from dlq_app import conf
from dlq_app.admin.groups.trend import (
    Course,
    chart,
    minute_chart,
    minute_spark,
    shown_course,
    spark,
    trend_words,
)
from dlq_app.admin.letters import page as letter_page
from dlq_app.admin.letters.groupings import parts_later
from dlq_app.admin.letters.traceback import stack
from dlq_app.conf import intake
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.group_states import OPEN_STATES, GroupState, Said
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.masking import MaskingPolicy, mask_text
from dlq_app.domain.owners import Owner
from dlq_app.domain.paging import PageRequest
from dlq_app.domain.standing import person
from dlq_app.services import batches
from dlq_app.services import groups as groups_service
from dlq_app.services.groups import Group
from dlq_app.store import repository
from wire.instants import iso
from wire.visible_text import shell_flag

log = logging.getLogger(__name__)

#: Seconds between reloads.
EVERY_S = 5
#: The page shows the time of figures older than this.
OLD = timedelta(seconds=5)
NEWEST = 10
_SHOWN_HISTORY = 30
#: Maximum number of running batches searched for those of a group.
_BATCHES = 20
_MAX_TEXT = 500
_TONES = {
    GroupState.REGRESSED: "bad",
    GroupState.NEW: "bad",
    GroupState.ONGOING: "warn",
    GroupState.RESOLVED: "ok",
    GroupState.IGNORED: "",
}
#: Quick actions by state; the other states offer replay, resolve and ignore.
_LIKELY = {GroupState.IGNORED: ("reopen", "replay"), GroupState.RESOLVED: ("reopen",)}
_OUTCOMES = {"succeeded": "succeeded", "failed_same": "failed the same", "failed_new": "failed in a new way"}
#: Entry of a group's history → label.
_EVENTS = {
    "resolved": "Resolved",
    "ignored": "Ignored",
    "reopened": "Reopened",
    "note": "Note",
    "owner": "Owner",
    "ignoring ended": "Ignoring ended automatically",
}
_ENDED = {
    "time": "its time ended",
    "rate": "more arrived in an hour than allowed",
    "count": "the count was reached",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact about a group: label, time, text and a link."""

    label: str
    at: datetime | None = None
    text: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A circuit breaker of the group that is not closed."""

    name: str
    state: str
    #: When it left CLOSED.
    since: datetime | None = None
    #: Messages that it holds.
    held: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Breakers and batches of some groups; empty if the stores are unavailable."""

    #: Breakers by message type.
    blocked: Mapping[str, Sequence[Blocked]]
    #: Running replay batches by fingerprint.
    batches: Mapping[str, Sequence[Fact]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card of the list."""

    fingerprint: str
    url: str
    letters_url: str
    replay_url: str
    state: GroupState
    tone: str
    error_type: str
    error_kind: str
    title: str
    frame: str
    #: Up to three message types with their counts.
    types: tuple[tuple[str, int], ...]
    more_types: int
    owner: Owner
    note: str
    note_by: str
    count: int
    open: int
    #: Path of 24 bars in a 95 by 30 drawing, and its text alternative.
    spark: str
    spark_words: str
    #: Path of 60 bars of the last hour in the same drawing; empty without a letter in it.
    minute_spark: str
    course: Course
    facts: tuple[Fact, ...]
    acts: tuple[Action, ...]
    #: Actions that fit on a card; empty if the user may not act.
    quick: tuple[Action, ...]
    blocked: tuple[Blocked, ...]


def card(group: Group, locked: str, around: Around, masking: MaskingPolicy) -> Card:
    """``locked``: why the user may not act."""
    can = acts(group, locked)
    likely = _LIKELY.get(group.state, ("replay", "resolve", "ignore"))
    return Card(
        fingerprint=group.fingerprint,
        url=url("change", group),
        letters_url=letters_url(group),
        replay_url=replay_url(group),
        state=group.state,
        tone=_TONES[group.state],
        error_type=group.error_type,
        error_kind=group.error_kind,
        title=mask_text(group.telling_title, masking)[:_MAX_TEXT],
        frame=group.frame,
        types=group.types[:3],
        more_types=max(0, len(group.types) - 3),
        owner=group.owner,
        note=mask_text(group.note.text, masking)[:_MAX_TEXT] if group.note else "",
        note_by=who(group.note.by) if group.note else "",
        count=group.count,
        open=group.open,
        spark=spark(group.trend),
        spark_words=trend_words(group.trend),
        course=shown_course(group),
        minute_spark=minute_spark(group.minutes),
        facts=(*facts(group, masking), *around.batches.get(group.fingerprint, ())),
        acts=tuple(can),
        quick=tuple(act for act in can if act.name in likely and not act.locked),
        blocked=tuple({one.name: one for name, _ in group.types for one in around.blocked.get(name, ())}.values()),
    )


def around(groups: Sequence[Group]) -> Around:
    """Breakers and running replays of these groups."""
    return Around(blocked=_blocked(groups), batches=_batches(groups))


def _batches(groups: Sequence[Group]) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {group.fingerprint: [] for group in groups}
    try:
        going_on = batches.running(_BATCHES) if groups else []
    except DeadLetterError as error:
        # The groups themselves were read: show them without this line.
        log.warning("batches_unknown", extra={"why": str(error)})
        return {}
    for batch in going_on:
        for name in batch.criteria.fingerprints if batch.criteria else ():
            if name in found:
                at = reverse("admin:dlq_app_replaybatch_change", args=[batch.id])
                text = f"{batch.name or batch.reason or 'a replay batch'}, {batch.stage.value}"
                found[name].append(Fact(label="In replay", text=text, url=at))
    return found


def _blocked(groups: Sequence[Group]) -> dict[str, list[Blocked]]:
    types = sorted({name for group in groups for name, _ in group.types})
    try:
        seen = intake().breakers(types, with_held=True) if types else {}
    except DeadLetterError as error:
        # Show the groups anyway; the replay confirmation checks breakers too.
        log.warning("breaker_unknown", extra={"why": str(error)})
        return {}
    return {
        name: [
            Blocked(name=one.name, state=one.state, since=one.since, held=one.held or 0)
            for one in many
            if not one.passes
        ]
        for name, many in seen.items()
    }


def live(request: HttpRequest, group: Group, now: datetime) -> dict[str, Any]:
    """The live part of a group's page, and its ``live_tag``."""
    masking = conf.masking_policy()
    shown = card(group, permissions.denial_reason(request, permissions.REPLAY), around([group]), masking)
    newest = _newest(group, masking)
    changing = {
        "card": shown,
        "why": why(group, masking),
        "charts": (("Last hour", minute_chart(group)), ("24 hours", chart(group))),
        "types": group.types,
        "newest": newest,
        "history": history(group, masking),
        "acts": shown.acts,
        "as_of": as_of(group.as_of, now),
    }
    return {**changing, "live_tag": etag_for(request, now, changing), "now": now, "every": EVERY_S}


def whole(request: HttpRequest, group: Group, now: datetime) -> dict[str, Any]:
    """Everything on a group's page."""
    masking = conf.masking_policy()
    changing = live(request, group, now)
    return {
        **changing,
        **_newest_letter(request, changing["newest"], masking),
        **parts_later(LetterCriteria(fingerprints=(group.fingerprint,)), with_fields=True),
        "title": mask_text(group.telling_title, masking)[:_MAX_TEXT],
        "note": mask_text(group.note.text, masking) if group.note else "",
        "note_by": who(group.note.by) if group.note else "",
        "note_at": group.note.at if group.note else None,
        "why_not_note": permissions.denial_reason(request, permissions.REPLAY),
        "owner": group.owner,
        # What users set, not what rules add to it.
        "owner_typed": groups_service.owner_by_hand(group.fingerprint) or Owner(),
        "sample": mask_text(group.sample, masking),
        "commands": equivalent_commands(group, request.build_absolute_uri("/").rstrip("/")),
    }


def as_of(counted: datetime, now: datetime) -> datetime | None:
    """When the figures were counted, if they are old."""
    return counted if now - counted > OLD else None


# --- where to ---


def url(what: str, group: Group) -> str:
    """URL of an action on the group."""
    return reverse(f"admin:dlq_app_lettergroup_{what}", args=[group.fingerprint])


def letters_url(group: Group) -> str:
    return f"{reverse('admin:dlq_app_deadletter_changelist')}?{urlencode({'fingerprint': group.fingerprint})}"


def replay_url(group: Group) -> str:
    return f"{reverse('admin:dlq_app_replaybatch_add')}?{urlencode({'fingerprint': group.fingerprint})}"


# --- what can be done ---


def acts(group: Group, locked: str) -> list[Action]:
    """All buttons; locked ones have a reason."""
    is_resolved = group.state is GroupState.RESOLVED
    said = group.said.state if group.said else None
    is_ignored = group.state is GroupState.IGNORED
    found = [
        Action(
            name="replay",
            label="Replay…",
            icon="replay",
            url=replay_url(group),
            hint="First a dry run: how many, whether it is safe now, and how fast.",
            locked=locked or ("" if group.open else "None of its letters is open."),
            is_primary=group.state in OPEN_STATES,
        ),
        Action(
            name="resolve",
            label="Resolve…",
            icon="check",
            url=url("resolve", group),
            hint="Mark the cause as fixed. A new letter with this error reopens the group as regressed.",
            locked=locked or ("It is already resolved." if is_resolved and said is GroupState.RESOLVED else ""),
        ),
        Action(
            name="ignore",
            label="Change ignoring…" if is_ignored else "Ignore…",
            icon="eyeoff",
            url=url("ignore", group),
            hint="Until a time, a rate or a count. Letters are still stored.",
            locked=locked,
        ),
        Action(
            name="reopen",
            label="Stop ignoring…" if is_ignored else "Reopen…",
            icon="up",
            url=url("reopen", group),
            hint="Undoes the last decision.",
            locked=locked or ("" if said else "It is neither resolved nor ignored."),
        ),
    ]
    # The most likely action first.
    return sorted(found, key=lambda act: act.name != "reopen") if is_ignored else found


# --- in words ---


def facts(group: Group, masking: MaskingPolicy) -> list[Fact]:
    """Facts besides the counts."""
    found = [Fact(label="First", at=group.first_seen), Fact(label="Last", at=group.last_seen)]
    if group.last_replay:
        outcome = _OUTCOMES.get(group.last_replay.outcome, group.last_replay.outcome)
        found.append(Fact(label="Last replay", at=group.last_replay.at, text=outcome))
    else:
        found.append(Fact(label="Last replay", text="never"))
    ended = group.replays_succeeded + group.replays_failed
    if ended:
        found.append(Fact(label="Replays, 24 h", text=f"{group.replays_succeeded:,} of {ended:,} succeeded"))
    said = group.said
    if said and group.state is GroupState.IGNORED:
        found += [Fact(label="Ignored", text=until_words(said)), _by(said, masking)]
    elif said and said.state is GroupState.RESOLVED:
        label = "Was resolved" if group.state is GroupState.REGRESSED else "Resolved"
        found += [Fact(label=label, at=said.at), _by(said, masking)]
    elif said and said.ended:
        found.append(Fact(label="Ignored no longer", text=_ENDED.get(said.ended, said.ended)))
    return found


def who(name: str) -> str:
    """The actor in words."""
    return person(name) if name else ""


def _by(said: Said, masking: MaskingPolicy) -> Fact:
    reason = mask_text(said.reason, masking)[:_MAX_TEXT]
    return Fact(label="By", text=f"{who(said.by)}: {reason}" if reason else who(said.by))


def until_words(said: Said) -> str:
    """Conditions that end ignoring."""
    ends = [f"until {said.until.astimezone(UTC):%-d %b %H:%M}"] if said.until else []
    ends += [f"until more than {said.until_per_hour:,} an hour"] if said.until_per_hour else []
    ends += [f"until {said.until_count:,} more died"] if said.until_count else []
    return ", or ".join(ends) or "until a user reopens it"


def why(group: Group, masking: MaskingPolicy) -> str:
    """Reason for the state, as a sentence."""
    said = group.said
    still = f"{group.open:,} of its {group.count:,} letters {'is' if group.open == 1 else 'are'} open."
    match group.state:
        case GroupState.REGRESSED if said:
            return f"{who(said.by)} resolved it, and it failed again since. {still}"
        case GroupState.NEW:
            return f"First seen within the last 24 hours. {still}"
        case GroupState.IGNORED if said:
            reason = mask_text(said.reason, masking)[:_MAX_TEXT]
            return f"Ignored by {who(said.by)} {until_words(said)}{f': {reason}' if reason else '.'}"
        case GroupState.RESOLVED if said and said.state is GroupState.RESOLVED:
            return f"{who(said.by)} resolved it. The next letter with this error reopens it as regressed."
        case GroupState.RESOLVED:
            return "None of its letters is open."
    return f"Known for more than a day. {still}"


def history(group: Group, masking: MaskingPolicy) -> list[dict[str, Any]]:
    """Decisions about the group, newest first."""
    found = []
    for entry in reversed(group.history[-_SHOWN_HISTORY:]):
        what, reason = str(entry.get("what", "")), mask_text(str(entry.get("why", "")), masking)
        found.append(
            {
                "at": entry.get("at"),
                "who": who(str(entry.get("who", ""))),
                "what": _EVENTS.get(what, what),
                "why": _ENDED.get(reason, reason) if what == "ignoring ended" else reason[:_MAX_TEXT],
            }
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One of its letters."""

    id: str
    url: str
    message_id: str
    status: str
    reason: str
    last_failed_at: datetime


def _newest(group: Group, masking: MaskingPolicy) -> list[Line] | None:
    """Its newest letters; None if they cannot be loaded in time."""
    try:
        found = repository.letters().page(
            LetterCriteria(fingerprints=(group.fingerprint,)), PageRequest(limit=NEWEST)
        )  # fmt: skip
    except DeadLetterError as error:
        log.warning("group_letters_unknown", extra={"why": str(error)})
        return None
    return [_line(letter, masking) for letter in found.letters]


def _newest_letter(request: HttpRequest, newest: list[Line] | None, masking: MaskingPolicy) -> dict[str, Any]:
    """Error, stack and payload of the newest letter, masked, for users who may see letters. Reads one letter."""
    if not request.user.has_perm("dlq_app.view_deadletter"):
        return {"why_no_letter": "You may not see letters, so no stack and no payload is shown."}
    try:
        letter = repository.letters().get(newest[0].id) if newest else None
    except DeadLetterError as error:
        log.warning("group_letter_unknown", extra={"why": str(error)})
        return {"why_no_letter": "The newest letter could not be loaded in time."}
    if letter is None:
        return {}
    text = letter_page.stack_text(letter, masking)
    return {
        "letter": letter,
        "letter_url": reverse("admin:dlq_app_deadletter_change", args=[letter.id]),
        "reason": mask_text(letter.error_reason, masking)[:_MAX_TEXT],
        "stack": stack(text),
        "stack_text": text,
        "payload": letter_page.payload(letter, masking),
    }


def _line(letter: DeadLetter, masking: MaskingPolicy) -> Line:
    return Line(
        id=letter.id,
        url=reverse("admin:dlq_app_deadletter_change", args=[letter.id]),
        message_id=letter.message_id,
        status=letter.status.value,
        reason=mask_text(letter.error_reason, masking)[:200],
        last_failed_at=letter.last_failed_at,
    )


def equivalent_commands(group: Group, site: str) -> list[tuple[str, str]]:
    """Equivalent commands to copy."""
    here = f"{site}/api/dlq/groups/{path(group.fingerprint)}"
    tomorrow = iso((group.as_of + timedelta(days=1)).replace(minute=0, second=0, microsecond=0))
    replay = {"filter": {"fingerprint": group.fingerprint}}
    flags = [shell_flag("--fingerprint", group.fingerprint), reason_flag("")]
    return [
        ("manage.py, replay", manage("replay_dlq", flags)),
        ("curl, replay", curl(f"{site}/api/dlq/replay-batch", replay, method="POST", asks="reason")),
        ("curl, look", curl(here)),
        ("curl, resolve", curl(f"{here}/resolve", {}, method="POST", asks="reason")),
        ("curl, ignore", curl(f"{here}/ignore", {"until": tomorrow}, method="POST", asks="reason")),
        ("curl, reopen", curl(f"{here}/reopen", {}, method="POST", asks="reason")),
        ("curl, note", curl(f"{here}/note", {}, method="POST", asks="text")),
    ]
