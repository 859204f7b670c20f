"""Requests and answers of the dead-letter queue's REST API, each declared once. Commands print the same JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from dlq_app import conf
from dlq_app.domain.explanation import explain
from dlq_app.domain.facets import shown_facets
from dlq_app.domain.group_states import MINUTES, GroupState
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.letter_fields import FIELDS as LETTER_FIELDS
from dlq_app.domain.letter_fields import LetterField, Shown
from dlq_app.domain.letter_values import plain
from dlq_app.domain.limits import MAX_NOTE, MAX_NUMBER, MAX_REASON
from dlq_app.domain.masking import MaskingPolicy, mask, mask_json, mask_text
from dlq_app.domain.owners import MAX_OWNER, MAX_URL, link, owner_name
from dlq_app.domain.states import Status
from dlq_app.domain.versions import masked_diff
from dlq_app.rest.requests import Verbatim
from dlq_app.services import facets
from dlq_app.store import repository
from dlq_app.store.groupings import Grouping, Part
from wire.contract import (
    ANY,
    BOOLEAN,
    COUNT,
    INSTANT,
    NUMBER,
    OBJECT,
    TEXT,
    Field,
    Shape,
    Type,
    choice,
    envelope,
    integer,
    kind,
    many,
    mapping,
    nullable,
    optional,
    text,
)

#: Characters of an error text in a list.
_EXCERPT = 300
Masking = MaskingPolicy | None


# --- values in which secrets are hidden; without a masking policy nothing is ---


def _masked_text(value: object, masking: Masking) -> str:
    given = "" if value is None else str(plain(value))
    return given if masking is None else mask_text(given, masking)


class _Whole:
    """A letter whose original message is masked once: that takes a third of a second for the largest ones."""

    def __init__(self, letter: DeadLetter, masking: Masking) -> None:
        self.letter = letter
        self.original = letter.text if masking is None else mask_json(letter.text, masking)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.letter, name)


def _json(given: str) -> Any:
    try:
        return json.loads(given, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None


def _version(letter: DeadLetter, entry: Mapping[str, Any], masking: Masking) -> dict[str, Any]:
    found: dict[str, Any] = plain(entry)
    payload, diff = str(found.pop("payload", "")), str(found.pop("diff", ""))
    if masking is not None:
        payload, diff, found = mask_json(payload, masking), masked_diff(letter, entry, masking), mask(found, masking)
    return {**found, "payload": _json(payload), "diff": diff}


def _former(entry: Mapping[str, Any], masking: Masking) -> dict[str, Any]:
    found: dict[str, Any] = plain(entry)
    original = str(found.get("originalMessage", ""))
    return {**found, "originalMessage": original if masking is None else mask_json(original, masking)}


def _claim(letter: DeadLetter, masking: Masking) -> dict[str, Any] | None:
    claim = letter.claim
    if claim is None:
        return None
    return {
        "id": claim.replay_id,
        "kind": claim.kind,
        "by": claim.by,
        "why": _masked_text(claim.why, masking),
        "batchId": claim.batch_id or None,
        "version": claim.version,
        "lockedBy": claim.locked_by,
        "lockedAt": plain(claim.locked_at),
    }


MASKED_TEXT = kind({"type": "string"}, _masked_text)
EXCERPT = kind({"type": "string"}, lambda value, masking: _masked_text(value, masking)[:_EXCERPT])
LINKS = mapping(TEXT)


# --- dead letters ---

#: Instead of the value of the table.
_OWN: Mapping[str, Callable[[Any, Masking], Any]] = {
    "originalMessage": lambda letter, _: letter.original,
    "versions": lambda letter, masking: [_version(letter, entry, masking) for entry in letter.versions],
    "formerMessages": lambda letter, masking: [_former(entry, masking) for entry in letter.former_messages],
    "replay": _claim,
    "facets": lambda letter, masking: shown_facets(letter.facets, masking),
}


def _letter_field(of: LetterField, excerpt: int | None = None) -> Field:
    def value(letter: DeadLetter, masking: Masking) -> Any:
        found = of.value(letter)
        if of.secret and masking is not None:
            found = mask(found, masking)
        return found if excerpt is None else found[:excerpt]

    schema = (nullable(of.kind.schema) if of.nullable else of.kind.schema).schema
    return Field(of.name, Type(schema), of.doc, _OWN.get(of.name, value))


LETTER_SUMMARY = Shape(
    "DeadLetterSummary",
    [
        _letter_field(field, _EXCERPT if field.name == "errorReason" else None)
        for field in LETTER_FIELDS
        if field.shown is Shown.LIST
    ],
    Field("links", LINKS, get=lambda letter, _: {"self": f"/api/dlq/{letter.id}"}),
)
_LETTER = Shape(
    "DeadLetterWhole",
    [_letter_field(field) for field in LETTER_FIELDS if field.shown],
    Field(
        "explanation",
        MASKED_TEXT,
        "Why the message is dead and what happens next, in one sentence.",
        lambda letter, _: explain(letter, conf.replay_policy(), repository.now()),
    ),
    Field(
        "payload",
        ANY,
        "The original message as JSON; null if it is not JSON.",
        lambda letter, _: _json(letter.original),
    ),
    Field(
        "masked",
        BOOLEAN,
        "Whether a part of the original message is hidden.",
        lambda letter, _: letter.original != letter.text,
    ),
    Field(
        "links",
        LINKS,
        get=lambda letter, _: {"self": f"/api/dlq/{letter.id}", "message": f"/api/messages/{letter.message_id}"},
    ),
)
LETTER = Type(_LETTER.schema, lambda letter, masking: _LETTER.write(_Whole(letter, masking), masking))
LETTER_OUT = envelope("LetterOut", LETTER)

_COMPLETE = "False: letters from before a change of `facets.toml` lack its facets. Run `manage.py fill_facets`."
LETTER_LIST = Shape(
    "LetterList",
    Field("data", many(LETTER_SUMMARY)),
    Field(
        "pagination",
        Shape(
            "LettersPagination",
            Field("page", nullable(COUNT), "Null with `cursor`."),
            Field("limit", COUNT),
            Field("total", COUNT, "Exact up to 10 000, unless letters must be read to count them."),
            Field("totalIsCapped", BOOLEAN, "True: `total` is a minimum. Go on by `nextCursor`."),
            Field("pages", COUNT),
            Field("nextCursor", nullable(TEXT), "Null on the last page."),
        ),
    ),
    Field("facetsComplete", BOOLEAN, _COMPLETE),
    Field(
        "unreadable",
        many(Shape("UnreadableDocument", Field("_id", TEXT), Field("why", TEXT))),
        "Documents in the collection that are not dead letters, whatever the filter; at most 20. Lists, exports and "
        "batches leave them out.",
    ),
)


def _part(part: Part, grouping: Grouping, answer: Mapping[str, Any], masking: Masking) -> dict[str, Any]:
    shown = _masked_text(part.value, masking)
    criteria = facets.narrowed(answer["criteria"], grouping.by, part, answer["found"]) if shown == part.value else None
    return {
        "value": shown,
        "count": part.count,
        "oldest": part.oldest,
        "newest": part.newest,
        # Of a hidden value it would show it.
        "filter": criteria and criteria.as_filter(),
        "links": {"letters": f"/api/dlq?{criteria.as_query()}"} if criteria else {},
    }


_PART = Shape(
    "LetterPart",
    Field("value", TEXT),
    Field("count", COUNT),
    Field("oldest", nullable(INSTANT), "Last failure of the oldest of these letters."),
    Field("newest", nullable(INSTANT)),
    Field("filter", nullable(OBJECT), "For a replay batch of these letters; null if the value is hidden."),
    Field("links", LINKS),
)
_GROUPING = Shape(
    "LetterGrouping",
    Field("by", TEXT, "As in the request."),
    Field("label", TEXT),
    Field("distinct", COUNT, "Different values of the counted letters."),
    Field("letters", COUNT, "Counted letters that have a value."),
    Field("values", many(_PART), "The most frequent, most frequent first."),
)


def _groupings(answer: Mapping[str, Any], masking: Masking) -> list[dict[str, Any]]:
    return [
        {
            "by": one.by,
            "label": facets.label(one.by),
            "distinct": one.distinct,
            "letters": one.letters,
            "values": [_part(part, one, answer, masking) for part in one.parts],
        }
        for one in answer["found"].groupings
    ]


GROUPINGS_OUT = envelope(
    "LetterGroupingsOut",
    Shape(
        "LetterGroupings",
        Field("groupings", many(_GROUPING), get=_groupings),
        Field(
            "counted",
            COUNT,
            "Letters that were counted, newest failure first.",
            lambda answer, _: answer["found"].counted,
        ),
        Field(
            "isPartial",
            BOOLEAN,
            "True: more letters match than were counted.",
            lambda answer, _: answer["found"].is_partial,
        ),
        Field("facetsComplete", BOOLEAN, _COMPLETE, lambda answer, _: answer["complete"]),
    ),
)

_OUTCOME_COUNTS = Shape("ReplayOutcomeCounts", Field("succeeded", COUNT), Field("failed", COUNT))
_ERROR_COUNT = Shape("ErrorTypeCount", Field("errorType", TEXT), Field("count", COUNT))
#: Written by ``services.figures``.
STATS_OUT = envelope(
    "LetterStatsOut",
    Shape(
        "LetterStats",
        Field("total", COUNT),
        Field("open", COUNT),
        Field("byStatus", mapping(COUNT)),
        Field("topErrorTypes", many(_ERROR_COUNT)),
        Field("byType", mapping(COUNT), "The 50 most frequent, most frequent first."),
        Field("bySource", mapping(COUNT), "The 50 most frequent, most frequent first."),
        Field("oldestOpenSeconds", nullable(COUNT), "As of `asOf`."),
        Field(
            "replaySuccessRate",
            nullable(NUMBER),
            "0 to 1, of the letters whose last replay ended in the hours of `hours`; null if there are none.",
        ),
        Field("replays", _OUTCOME_COUNTS, "Letters whose last replay ended in the hours of `hours`, by outcome."),
        Field(
            "hours",
            Shape(
                "HourCounts",
                Field("since", INSTANT, "Start of the first of 24 clock hours."),
                Field("inflow", many(COUNT), "Letters created in each hour; the last hour is not over."),
                Field("outflow", many(COUNT), "Letters resolved in each hour."),
            ),
        ),
        Field("groups", COUNT, "Number of groups."),
        Field("asOf", INSTANT, "Time of these figures. With many letters they are up to some minutes old."),
    ),
)

REPLAY_STARTED_OUT = envelope(
    "ReplayStartedOut",
    Shape(
        "ReplayStarted",
        Field("replayId", TEXT),
        Field("messageId", TEXT),
        Field("status", choice([Status.PROCESSING]), get=lambda *_: Status.PROCESSING),
    ),
)
IMPORT_SUMMARY = Shape(
    "ImportSummary",
    Field("lines", COUNT),
    Field("imported", COUNT),
    Field("unchanged", COUNT, "Lines whose message already has a letter."),
    Field("rejectedCount", COUNT, get="refused"),
    Field(
        "rejected",
        many(Shape("RejectedLine", Field("line", COUNT, "From 1."), Field("error", TEXT))),
        "The first 1000.",
        lambda summary, _: [{"line": line, "error": why} for line, why in summary.errors],
    ),
    Field(
        "complete",
        nullable(BOOLEAN),
        "Whether every letter that the file's last line counts was read; null without such a line.",
    ),
)
IMPORT_OUT = envelope("ImportOut", IMPORT_SUMMARY)


# --- groups ---

_SAID = Shape(
    "GroupSaid",
    Field("state", choice([GroupState.RESOLVED, GroupState.IGNORED])),
    Field("by", TEXT),
    Field("at", INSTANT),
    Field("reason", MASKED_TEXT),
    Field("until", nullable(INSTANT)),
    Field("untilPerHour", nullable(COUNT)),
    Field("untilCount", nullable(COUNT)),
    Field(
        "ended",
        nullable(choice(["time", "rate", "count"])),
        "Which limit ended the ignoring; null while it is in force.",
        lambda said, _: said.ended or None,
    ),
)
GROUP = Shape(
    "LetterGroup",
    Field("fingerprint", TEXT),
    Field("state", choice(GroupState)),
    Field("errorType", TEXT),
    Field("errorKind", TEXT),
    Field("message", MASKED_TEXT, "The error text with # for the parts that vary."),
    Field("sample", EXCERPT, "The error text of one letter."),
    Field("rule", TEXT, "Name of the rule of `groups.toml` that makes this group; empty: its error does."),
    Field("frame", TEXT, "Application code in the stack of one letter; may be empty."),
    Field(
        "types",
        many(Shape("GroupTypeCount", Field("type", TEXT), Field("count", COUNT))),
        "The five most frequent, most frequent first.",
        lambda group, _: [{"type": name, "count": count} for name, count in group.types],
    ),
    Field("count", COUNT),
    Field("open", COUNT),
    Field("firstSeen", INSTANT),
    Field("lastSeen", INSTANT),
    Field(
        "trend",
        Shape(
            "GroupTrend",
            Field("since", INSTANT, "Start of the first of 24 clock hours.", "trend_from"),
            Field("counts", many(COUNT), "Letters that arrived in each hour.", "trend"),
            Field(
                "minutes",
                many(COUNT),
                "Letters that arrived in each of the last 60 clock minutes, the minute of `asOf` last.",
                lambda group, _: group.minutes or (0,) * MINUTES,
            ),
        ),
        get=lambda group, _: group,
    ),
    Field(
        "lastReplay",
        nullable(
            Shape(
                "GroupLastReplay",
                Field("at", INSTANT),
                Field("outcome", choice(["succeeded", "failed_same", "failed_new"])),
            )
        ),
    ),
    Field(
        "replays",
        _OUTCOME_COUNTS,
        "Letters whose last replay ended in these 24 clock hours, by outcome.",
        lambda group, _: {"succeeded": group.replays_succeeded, "failed": group.replays_failed},
    ),
    Field("said", nullable(_SAID), "The last change of its state by a user."),
    Field(
        "owner",
        Shape(
            "GroupOwner",
            Field("name", TEXT, "Empty without an owner."),
            Field("runbook", TEXT),
            Field("ticket", TEXT),
            Field("by", TEXT, "Who set it by hand; empty for a rule of `owners.toml`."),
        ),
    ),
    Field("note", nullable(Shape("GroupNote", Field("text", MASKED_TEXT), Field("by", TEXT), Field("at", INSTANT)))),
    Field("asOf", INSTANT),
    Field(
        "links",
        LINKS,
        get=lambda group, _: {
            "self": f"/api/dlq/groups/{group.fingerprint}",
            "letters": f"/api/dlq?fingerprint={group.fingerprint}",
        },
    ),
    optional(
        "history",
        many(OBJECT),
        "Changes by users; not in lists.",
        lambda group, masking: [
            {key: _masked_text(value, masking) if key == "why" else value for key, value in plain(entry).items()}
            for entry in group.history
        ],
    ),
)
GROUP_OUT = envelope("GroupOut", GROUP)
_IN_LISTS = Shape("LetterGroup", [field for field in GROUP.fields if field.required])
GROUP_LIST = Shape(
    "GroupList",
    Field("data", Type(many(GROUP).schema, many(_IN_LISTS).write)),
    Field(
        "pagination",
        Shape(
            "GroupsPagination",
            Field("limit", COUNT),
            Field("total", COUNT),
            Field("totalIsCapped", BOOLEAN, "True: there are more than the 2000 that are considered."),
            Field("nextCursor", nullable(TEXT), "Null on the last page."),
        ),
    ),
    Field(
        "owners",
        mapping(COUNT),
        "How many groups match the other filters for each owner; `none`: without one.",
    ),
    Field(
        "states", mapping(COUNT), "How many groups match the filters in each state, whatever `state` is in the request."
    ),
    Field("asOf", INSTANT),
)


# --- requests ---


def _read_payload(value: object) -> bytes:
    given = value if isinstance(value, Verbatim) else json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair becomes the escape that it was, so that intake's own check reports it.
    return given.encode("utf-8", "backslashreplace")


def _read_future(value: object) -> datetime:
    moment: datetime = INSTANT.read(value)
    if moment <= repository.now():
        raise ValueError("must be in the future")
    return moment


_REASON = optional("reason", text(MAX_REASON))
REASON_IN = Shape("LetterReasonIn", _REASON)
REASON_NEEDED_IN = Shape("LetterReasonNeededIn", Field("reason", text(MAX_REASON, blank=False), "Why."))
REVEAL_IN = Shape("RevealReasonIn", Field("reason", text(MAX_REASON, blank=False), "Why you need to see the secrets."))
NOTE_IN = Shape("NoteIn", Field("text", text(MAX_NOTE, blank=False)))
REPLAY_IN = Shape(
    "ReplayIn",
    _REASON,
    optional("force", BOOLEAN, "Replay even if the letter is resolved or the message done."),
    optional(
        "poison",
        BOOLEAN,
        "Required for a letter with `WORKER_LOST`, whose message probably kills the process that runs it: replay it "
        "once, in a process without other messages.",
    ),
    optional("payload", kind({}, read=_read_payload), "Runs instead of the original, which is kept unchanged."),
)
OWNER_IN = Shape(
    "GroupOwnerIn",
    optional("name", kind({"type": "string", "maxLength": MAX_OWNER}, read=owner_name)),
    optional("runbook", kind({"type": "string", "maxLength": MAX_URL}, read=link), "An address of http or https."),
    optional("ticket", kind({"type": "string", "maxLength": MAX_URL}, read=link), "An address of http or https."),
)
IGNORE_IN = Shape(
    "IgnoreIn",
    _REASON,
    optional("until", Type(INSTANT.schema, read=_read_future), "An instant in the future."),
    optional("untilPerHour", integer(1, MAX_NUMBER), "Ends when more than this arrive in one clock hour."),
    optional("untilCount", integer(1, MAX_NUMBER), "Ends when this many more letters have died."),
)
