"""Letters as JSON for REST, export and commands: wire names, ISO instants, secrets hidden. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dlq_app.domain.explanation import explain
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.letter_fields import FIELDS, LetterField, Shown
from dlq_app.domain.letter_values import iso_or_none, plain
from dlq_app.domain.masking import MaskingPolicy, mask, mask_json, mask_text
from dlq_app.domain.policy import ReplayPolicy
from dlq_app.domain.replay_batch import BatchItem, DryRun, ReplayBatch
from dlq_app.domain.versions import masked_diff
from wire.instants import iso

if TYPE_CHECKING:
    from dlq_app.services.groups import Group

#: Characters of an error text in a list.
_EXCERPT = 300
_IN_LISTS = [field for field in FIELDS if field.shown is Shown.LIST]
_SHOWN = [field for field in FIELDS if field.shown]


def summary(letter: DeadLetter, masking: MaskingPolicy | None) -> dict[str, Any]:
    """A letter in a list: no payload, no stack, the beginning of the error text."""
    shown = {field.name: _value(field, letter, masking) for field in _IN_LISTS}
    return {
        **shown,
        "errorReason": shown["errorReason"][:_EXCERPT],
        "links": {"self": f"/api/dlq/{letter.id}"},
    }


def whole(letter: DeadLetter, policy: ReplayPolicy, masking: MaskingPolicy | None, now: datetime) -> dict[str, Any]:
    """All shown fields of a letter. Without a masking policy nothing is hidden: only for people who may see secrets.

    ``payload`` is the original message as JSON, null if it is not JSON; ``originalMessage`` its text, byte for byte
    unless something in it is hidden (``masked``).
    """
    original = letter.text if masking is None else mask_json(letter.text, masking)
    claim = letter.claim

    def text(value: str) -> str:
        return value if masking is None else mask_text(value, masking)

    own = {
        "originalMessage": original,
        "versions": [_version(letter, entry, masking) for entry in letter.versions],
        "formerMessages": [_former(entry, masking) for entry in letter.former_messages],
        "replay": claim
        and {
            "id": claim.replay_id,
            "kind": claim.kind,
            "by": claim.by,
            "why": text(claim.why),
            "batchId": claim.batch_id or None,
            "version": claim.version,
            "lockedBy": claim.locked_by,
            "lockedAt": iso_or_none(claim.locked_at),
        },
    }
    return {
        **{field.name: _value(field, letter, masking) for field in _SHOWN if field.name not in own},
        **own,
        "explanation": text(explain(letter, policy, now)),
        "payload": _json(original),
        "masked": original != letter.text,
        "links": {"self": f"/api/dlq/{letter.id}", "message": f"/api/messages/{letter.message_id}"},
    }


def _value(field: LetterField, letter: DeadLetter, masking: MaskingPolicy | None) -> Any:
    value = field.value(letter)
    return mask(value, masking) if field.secret and masking is not None else value


def masked_batch(of: ReplayBatch, masking: MaskingPolicy) -> ReplayBatch:
    """The batch with secrets hidden in what people wrote and what it met: name, reasons, history."""
    return replace(
        of,
        name=mask_text(of.name, masking),
        reason=mask_text(of.reason, masking),
        stop_reason=mask_text(of.stop_reason, masking),
        waiting=mask_text(of.waiting, masking),
        history=[{**entry, "why": mask_text(str(entry.get("why") or ""), masking)} for entry in of.history],
    )


def batch(of: ReplayBatch, masking: MaskingPolicy) -> dict[str, Any]:
    """A replay batch, secrets hidden."""
    of = masked_batch(of, masking)
    return {
        "batchId": of.id,
        "name": of.name,
        "reason": of.reason,
        "stage": of.stage.value,
        "stopReason": of.stop_reason or None,
        "stopErrors": [{"errorType": error_type, "count": count} for error_type, count in of.stop_errors],
        "pausedBy": of.paused_by or None,
        "waiting": of.waiting or None,
        "total": of.total,
        "lateArrivals": of.late_arrivals,
        "counts": {
            "sent": of.counts.sent,
            "succeeded": of.counts.succeeded,
            "failed": of.counts.failed,
            "skipped": of.counts.skipped,
            "remaining": of.counts.remaining,
        },
        "filter": None if of.ids_given or of.criteria is None else mask(of.criteria.as_filter(), masking),
        "limit": of.limit,
        "ratePerSecond": of.rate_per_second,
        "canary": of.canary and {"size": of.canary.size, "minSuccess": of.canary.min_success},
        "maxFailures": of.max_failures,
        "maxFailureRate": of.max_failure_rate,
        "requestedBy": of.requested_by,
        "createdAt": iso(of.created_at),
        "scheduledAt": iso_or_none(of.scheduled_at),
        "startedAt": iso_or_none(of.started_at),
        "finishedAt": iso_or_none(of.finished_at),
        "updatedAt": iso(of.updated_at),
        "links": {"self": f"/api/dlq/replay-batches/{of.id}", "items": f"/api/dlq/replay-batches/{of.id}/items"},
    }


def batch_item(item: BatchItem) -> dict[str, Any]:
    """One letter of a batch; ``outcome`` is null until it is known."""
    return {
        "messageId": item.message_id,
        "deadLetterId": item.letter_id,
        "outcome": item.outcome or None,
        "errorType": item.error_type or None,
    }


def batch_report(rows: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """How many letters of a batch have each outcome and error type."""
    return [
        {"outcome": outcome or None, "errorType": error_type or None, "count": count}
        for outcome, error_type, count in rows
    ]


def dry_run(found: DryRun, masking: MaskingPolicy | None) -> dict[str, Any]:
    """What a batch would do."""
    return {
        "count": found.count,
        "sample": [summary(letter, masking) for letter in found.sample],
        "byErrorType": dict(found.by_error_type),
        "byType": dict(found.by_type),
        "breakers": [{"name": b.name, "state": b.state, "types": list(b.types)} for b in found.breakers],
        "leftOut": [{"why": one.why, "count": one.count} for one in found.left_out],
        "failuresAtMost": found.failures_at_most,
    }


def group(found: Group, masking: MaskingPolicy | None, *, with_history: bool = False) -> dict[str, Any]:
    """A group, with what was done with it only when asked for."""

    def text(value: object) -> str:
        return str(value) if masking is None else mask_text(str(value), masking)

    said, note, replay = found.said, found.note, found.last_replay
    shown: dict[str, Any] = {
        "fingerprint": found.fingerprint,
        "state": found.state.value,
        "errorType": found.error_type,
        "errorKind": found.error_kind,
        "message": text(found.message),
        "sample": text(found.sample)[:_EXCERPT],
        "frame": found.frame,
        "types": [{"type": name, "count": count} for name, count in found.types],
        "count": found.count,
        "open": found.open,
        "firstSeen": iso(found.first_seen),
        "lastSeen": iso(found.last_seen),
        "trend": {"since": iso(found.trend_from), "counts": list(found.trend)},
        "lastReplay": replay and {"at": iso(replay.at), "outcome": replay.outcome},
        "replays": {"succeeded": found.replays_succeeded, "failed": found.replays_failed},
        "said": said
        and {
            "state": said.state.value,
            "by": said.by,
            "at": iso(said.at),
            "reason": text(said.reason),
            "until": iso_or_none(said.until),
            "untilPerHour": said.until_per_hour,
            "untilCount": said.until_count,
            "ended": said.ended or None,
        },
        "note": note and {"text": text(note.text), "by": note.by, "at": iso(note.at)},
        "asOf": iso(found.as_of),
        "links": {
            "self": f"/api/dlq/groups/{found.fingerprint}",
            "letters": f"/api/dlq?fingerprint={found.fingerprint}",
        },
    }
    if with_history:
        shown["history"] = [
            {key: text(value) if key == "why" else value for key, value in plain(entry).items()}
            for entry in found.history
        ]
    return shown


def _version(letter: DeadLetter, entry: Mapping[str, Any], masking: MaskingPolicy | None) -> dict[str, Any]:
    found: dict[str, Any] = plain(entry)
    payload, diff = str(found.pop("payload", "")), str(found.pop("diff", ""))
    if masking is not None:
        payload, diff, found = mask_json(payload, masking), masked_diff(letter, entry, masking), mask(found, masking)
    return {**found, "payload": _json(payload), "diff": diff}


def _former(entry: Mapping[str, Any], masking: MaskingPolicy | None) -> dict[str, Any]:
    found: dict[str, Any] = plain(entry)
    original = str(found.get("originalMessage", ""))
    return {**found, "originalMessage": original if masking is None else mask_json(original, masking)}


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
