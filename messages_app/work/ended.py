"""Ended messages as outcomes for the dead-letter queue: from their records, or from the memory of their process.

Both ways give the same outcome.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from dlq_app.domain.letter import Death, Settled
from messages_app.domain.records import Claimed, Completed, Failed, OutcomeAnswer, Record
from messages_app.failures import UNKNOWN_ERROR, ErrorKind

#: Maximum characters of cached tags.
_MAX_CACHED = 1000


@dataclass(frozen=True, slots=True)
class Ended:
    """A message that ended in this process, with the ledger's answer ``to_outbox``."""

    claimed: Claimed
    outcome: Failed | Completed
    answer: OutcomeAnswer
    #: When the outcome was sent, in seconds of the monotonic clock.
    sent_at: float

    @property
    def is_known(self) -> bool:
        """Whether this process knows all that the letter needs. A claim has no original payload of an edited replay."""
        if isinstance(self.outcome, Completed):
            return bool(self.answer.finished_at_ms)
        return bool(self.answer.finished_at_ms and self.answer.acct_day) and not self.claimed.version

    @property
    def size(self) -> int:
        """Approximate bytes of its texts."""
        text = self.outcome.error if isinstance(self.outcome, Failed) else self.outcome.result
        return len(self.claimed.body) + len(self.claimed.earlier) + len(text)

    def outcome_of(self) -> Death | Settled:
        """The outcome for the dead-letter queue. Raises ``ValueError`` for a broken one."""
        return self._death(self.outcome) if isinstance(self.outcome, Failed) else self._settled(self.outcome)

    def _death(self, failed: Failed) -> Death:
        claimed = self.claimed
        return _death(
            claimed.message_id, claimed.epoch, claimed.body, failed.error, self._attempts(),
            tags=claimed.tags,
            type=claimed.type,
            priority=claimed.priority,
            source=claimed.source,
            client=claimed.client,
            queued_at=_instant(claimed.queued_at_ms),
            acct_day=self.answer.acct_day,
            retry_count=claimed.attempt,
            died_at=_instant(self.answer.finished_at_ms),
            prior_runs=claimed.prior_runs + 1,
            replay_id=claimed.replay_id or None,
            batch_id=claimed.batch_id or None,
            version=claimed.version,
            traceparent=claimed.traceparent,
        )  # fmt: skip

    def _settled(self, completed: Completed) -> Settled:
        claimed = self.claimed
        return Settled(
            message_id=claimed.message_id,
            epoch=claimed.epoch,
            replay_id=claimed.replay_id,
            attempts=self._attempts(),
            finished_at=_instant(self.answer.finished_at_ms),
            result=_decoded(completed.result) if completed.result else None,
        )

    def _attempts(self) -> list[Mapping[str, Any]]:
        lines = self.claimed.earlier.decode().split("\n") if self.claimed.earlier else []
        if self.outcome.attempt_json:
            lines.append(self.outcome.attempt_json)
        return _attempts(",".join(lines))


def death_of(record: Record) -> Death:
    """The death of a given-up message, for the dead-letter queue. Raises ``ValueError`` for a broken record."""
    return _death(
        record.message_id, record.epoch, record.body or b"null", record.last_error, _attempts(record.attempts),
        tags=record.tags,
        type=record.type,
        priority=record.priority,
        source=record.source,
        client=record.client,
        queued_at=_instant(record.queued_at_ms),
        acct_day=record.acct_day,
        retry_count=record.attempt,
        died_at=_instant(record.finished_at_ms or record.queued_at_ms),
        prior_runs=record.prior_runs,
        replay_id=record.replay_id or None,
        batch_id=record.batch_id or None,
        version=record.version,
        traceparent=record.traceparent,
    )  # fmt: skip


def settled_of(record: Record) -> Settled:
    """The outcome of a successful replay. Raises ``ValueError`` for a broken record."""
    return Settled(
        message_id=record.message_id,
        epoch=record.epoch,
        replay_id=record.replay_id,
        attempts=_attempts(record.attempts),
        finished_at=_instant(record.finished_at_ms or record.queued_at_ms),
        result=_decoded(record.result) if record.result else None,
    )


def _death(
    message_id: str, epoch: int, body: bytes, error_text: str, attempts: Sequence[Mapping[str, Any]], *, tags: str,
    **more: Any,
) -> Death:  # fmt: skip
    error: dict[str, Any] = _decoded(error_text) if error_text else {}
    return Death(
        message_id=message_id,
        epoch=epoch,
        body=body,
        tags=(_known_tags if len(tags) <= _MAX_CACHED else _tags)(tags),
        error_type=error.get("errorType", UNKNOWN_ERROR),
        error_kind=error.get("errorKind", ErrorKind.UNKNOWN),
        error_reason=error.get("errorReason", ""),
        error_stack=error.get("errorStack", ""),
        system_state=error.get("systemState") or {},
        attempts=attempts,
        **more,
    )


def _attempts(lines: str) -> list[Mapping[str, Any]]:
    attempts: list[Mapping[str, Any]] = _decoded(f"[{lines}]")
    return attempts


def _tags(tags: str) -> tuple[str, ...]:
    return tuple(json.loads(tags or "[]"))


#: Messages of one client often have the same tags.
_known_tags = lru_cache(maxsize=256)(_tags)


def _decoded(text: str) -> Any:
    """The value of a JSON text as ``json.loads`` gives it, faster."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # Lone surrogates, infinity, and what is not JSON.
        return json.loads(text)


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
