"""Arguments of the ledger's scripts, and values from their replies."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus
from messages_app.domain.attempt_lines import succeeded
from messages_app.domain.errors import LedgerRefused
from messages_app.domain.records import (
    Acceptance,
    AcceptAnswer,
    AcceptStatus,
    AccountRow,
    Claimed,
    Completed,
    Deferred,
    Failed,
    LaneFigures,
    LedgerFigures,
    Outcome,
    OutcomeAnswer,
    RateLimit,
    RateState,
    Record,
    State,
    Verdict,
)
from messages_app.envelope import ALONE, LANES
from messages_app.store.connection import refusal

log = logging.getLogger(__name__)

_ACCEPT_STATUSES = {status.encode(): status for status in AcceptStatus}
_STATES = {state.encode(): state for state in State}
_quick_line_of_json = msgspec.json.Encoder().encode
_line_of_json = json.JSONEncoder(separators=(",", ":")).encode


class ClaimRow(NamedTuple):
    """A claimed message as ``lua/shared/take.lua`` returns it: ``CLAIM_FIELDS``, then story, body and id."""

    epoch: bytes
    attempt: bytes
    fence: bytes
    started_at: bytes
    queued_at: bytes
    prior_runs: bytes
    recoveries: bytes
    deferrals: bytes
    deferred_since: bytes
    story: bytes
    body: bytes
    message_id: bytes


def _story(source: Acceptance | ForwardOrder, **more: object) -> bytes | str:
    """The accepted fields as one line of JSON, the first of the message's story. Scripts do not parse it."""
    story: dict[str, object] = {
        "type": source.type,
        "priority": source.priority,
        "source": source.source,
        "client": source.client,
    }
    if source.traceparent:
        more["traceparent"] = source.traceparent
    story |= {"tags": source.tags, **more}
    try:
        return _quick_line_of_json(story)
    except UnicodeEncodeError:  # half of a surrogate pair, from an earlier version
        return _line_of_json(story)


def accept_args(acceptance: Acceptance, limit: RateLimit | None) -> list[Any]:
    """One message's arguments of ``accept.lua``."""
    not_before = acceptance.not_before_ms
    return [
        acceptance.message_id, acceptance.type, acceptance.body, acceptance.sha256, acceptance.priority,
        _story(acceptance, notBefore=not_before, maxRetries=acceptance.max_retries),
        "" if not_before is None else not_before, acceptance.max_retries, acceptance.accept_token, acceptance.client,
        *((limit.client, limit.limit, limit.window_ms) if limit else ("", 0, 0)),
    ]  # fmt: skip


def forward_args(order: ForwardOrder) -> list[Any]:
    story = _story(
        order, maxRetries=0, version=order.version, replayId=order.replay_id, batchId=order.batch_id,
        deathSeen=order.death_seen,
    )  # fmt: skip
    epoch_seen = order.epoch - 1 if order.epoch_seen is None else order.epoch_seen
    return [
        order.message_id, order.epoch, order.deadline_ms, int(order.force), order.death_seen, epoch_seen, order.type,
        order.body, int(order.run_body is not None), order.run_body or b"", order.priority, story, order.queued_at_ms,
        order.acct_day, order.replay_id, order.prior_runs, "done" if order.ended_done else "dead",
        order.client, int(order.alone),
    ]  # fmt: skip


def forward_answer(status: str, state: str) -> ForwardAnswer:
    """The answer to one order: two values of ``forward.lua``."""
    found = ForwardStatus(status)
    return ForwardAnswer(found, str(refusal(state)) if found is ForwardStatus.REFUSED else state)


def accept_answer(
    acceptance: Acceptance, limit: RateLimit | None, reply: Sequence[Any]
) -> AcceptAnswer | LedgerRefused:
    """The answer to one message: six values of ``accept.lua``."""
    status, state, queued_at, remaining, reset, message_type = reply
    if status == b"refused":
        return refusal(message_type.decode(errors="replace"))
    return AcceptAnswer(
        status=_ACCEPT_STATUSES[status],
        message_id=acceptance.message_id,
        state=_STATES.get(state),
        type=message_type.decode(),
        queued_at_ms=int(queued_at),
        rate=RateState(limit.limit, remaining, reset) if limit and remaining >= 0 else None,
    )


def outcome_args(outcome: Outcome) -> list[Any]:
    # An attempt is one line of the story. Line breaks in JSON stand only between tokens, so a space is the same.
    attempt = outcome.attempt_json.replace("\n", " ")
    match outcome:
        case Completed():
            return [outcome.message_id, outcome.fence, outcome.result, attempt or outcome.ran]
        case Failed():
            delay = "" if outcome.delay_ms is None else outcome.delay_ms
            return [outcome.message_id, outcome.fence, delay, outcome.error, attempt]
        case Deferred():
            return [outcome.message_id, outcome.fence, outcome.delay_ms, outcome.why, attempt, outcome.held_by]


_ANSWERS = {verdict.encode(): OutcomeAnswer(verdict) for verdict in Verdict}


def outcome_answer(reply: bytes) -> OutcomeAnswer:
    """From a verdict; ``to_outbox`` is followed by the time of the end and, for a message given up, its day."""
    known = _ANSWERS.get(reply)
    if known is not None:
        return known
    verdict, finished_at, *acct_day = reply.decode().split(" ")
    return OutcomeAnswer(Verdict(verdict), int(finished_at), *acct_day)


def readable_claims(rows: list[list[bytes]]) -> tuple[Claimed, ...]:
    """The claimed messages. An unreadable one is skipped: its leases expire until it is given up."""
    claimed = []
    for row in rows:
        try:
            claimed.append(_claimed_of(ClaimRow._make(row)))
        except (ValueError, KeyError, TypeError):
            log.exception("claimed_unreadable", extra={"message_id": row[-1].decode(errors="replace")})
    return tuple(claimed)


@lru_cache(maxsize=256)
def _accepted_fields(line: bytes) -> Mapping[str, Any]:
    """The first line of a story. Cached: it is the same for most messages of one client."""
    fields: dict[str, Any] = json.loads(line)
    return fields


def _claimed_of(row: ClaimRow) -> Claimed:
    line, _, earlier = row.story.partition(b"\n")
    # A line with a trace is that of one message: it would only displace others from the cache.
    fields = json.loads(line) if b'"traceparent"' in line else _accepted_fields(line)
    return Claimed(
        message_id=row.message_id.decode(),
        epoch=int(row.epoch),
        attempt=int(row.attempt),
        fence=int(row.fence),
        type=fields["type"],
        body=row.body,
        version=fields.get("version", 0),
        priority=fields["priority"],
        source=fields["source"],
        client=fields["client"],
        tags=fields["tags"],
        queued_at_ms=int(row.queued_at),
        claimed_at_ms=int(row.started_at),
        max_retries=fields["maxRetries"],
        prior_runs=int(row.prior_runs or 0),
        recoveries=int(row.recoveries or 0),
        deferrals=int(row.deferrals or 0),
        deferred_since_ms=int(row.deferred_since) if row.deferred_since else None,
        replay_id=fields.get("replayId", ""),
        batch_id=fields.get("batchId", ""),
        traceparent=fields.get("traceparent", ""),
        earlier=earlier,
    )


def pairs(flat: list[bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}


def record_of(message_id: str, row: list[Any]) -> Record | None:
    fields, story, body, run_body = pairs(row[0]), row[1], row[2], row[3]
    if not fields:
        return None
    accepted, *attempts = (story or b"{}").decode().split("\n")
    described = json.loads(accepted)
    state = State(fields["state"])
    # Left over from an earlier epoch, if the message is a replay now.
    if story and state is State.DONE and not fields.get("replayId") and (ran := fields.get("ran")):
        started_ms, _, ended_ms = ran.partition(" ")
        owner = json.dumps(fields.get("owner", ""))[1:-1]
        attempts.append(succeeded(int(fields["attempt"]) + 1, int(started_ms), int(ended_ms), owner))
    waits = state in (State.SCHEDULED, State.RETRY_WAIT)
    acct_day, _, message_type = fields["account"].partition(":")

    def number(name: str) -> int:
        return int(fields.get(name) or 0)

    def moment(name: str, applies: bool = True) -> int | None:
        return int(fields[name]) if applies and fields.get(name) else None

    return Record(
        message_id=message_id,
        state=state,
        epoch=number("epoch"),
        attempt=number("attempt"),
        fence=number("fence"),
        # The story of a done message expires after an hour; from then on only the record remains.
        type=described.get("type", message_type),
        body=body,
        run_body=run_body if fields.get("edited") == "1" else None,
        version=described.get("version", 0),
        sha256=fields.get("sha256", ""),
        priority=fields["priority"],
        source=described.get("source", ""),
        client=described.get("client", fields.get("client", "")),
        tags=described.get("tags", "[]"),
        queued_at_ms=number("queuedAt"),
        not_before_ms=described.get("notBefore"),
        due_at_ms=moment("dueAt", waits),
        lease_until_ms=moment("leaseUntil", state is State.RUNNING),
        started_at_ms=moment("startedAt"),
        finished_at_ms=moment("finishedAt"),
        acct_day=acct_day,
        max_retries=number("maxRetries"),
        recoveries=number("recoveries"),
        deferrals=number("deferrals"),
        deferred_since_ms=moment("deferredSince"),
        prior_runs=number("priorRuns"),
        replay_id=fields.get("replayId", ""),
        batch_id=described.get("batchId", ""),
        death_seen=described.get("deathSeen", 0),
        owner=fields.get("owner", ""),
        outbox=fields.get("outbox", ""),
        last_error=fields.get("lastError", ""),
        attempts=",".join(attempts),
        result=fields.get("result", ""),
        traceparent=described.get("traceparent", ""),
        began_alone=fields.get("alone") == "1",
    )


def figures_of(reply: list[int]) -> LedgerFigures:
    (now, scheduled, retry_wait, running, overdue, outbox, outbox_oldest, quarantined, foreign), lanes = (
        reply[:9],
        reply[9:],
    )
    return LedgerFigures(
        now_ms=now,
        lanes=tuple(
            LaneFigures(name=name, waiting=waiting, oldest_ms=None if oldest < 0 else oldest)
            for name, waiting, oldest in zip((*LANES, ALONE), lanes[::2], lanes[1::2], strict=True)
        ),
        scheduled=scheduled,
        retry_wait=retry_wait,
        running=running,
        overdue=overdue,
        outbox=outbox,
        outbox_oldest_ms=None if outbox_oldest < 0 else outbox_oldest,
        quarantined=quarantined,
        foreign=foreign,
    )


def account_row(name: str, fields: dict[str, str]) -> AccountRow:
    day, _, message_type = name.partition(":")
    accepted, done, dead, still_open = (int(fields.get(key, 0)) for key in ("accepted", "done", "dead", "open"))
    return AccountRow(day=day, type=message_type, accepted=accepted, done=done, dead=dead, open=still_open)
