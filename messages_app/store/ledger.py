"""The ledger: every message's record, and its moves. Each move is one Lua script.

``docs/lifecycle.md`` and the head of each script describe the moves and their conditions. Three guarantees:

- Every move is repeatable: repeating a call has no further effect and returns the same answer. So a call is sent a
  second time when its answer was lost. After that it raises ``StoreUnavailable``: it may or may not have happened.
- The server's clock decides. Callers cannot pass a time that does.
- Any number of threads, processes and hosts may call any method at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import redis
from django.conf import settings

from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus, VoidAnswer
from messages_app.domain.errors import LedgerRefused
from messages_app.domain.records import (
    Acceptance,
    AcceptAnswer,
    Claim,
    Claimed,
    Completed,
    Deferred,
    Due,
    Failed,
    OutboxEntry,
    Outcome,
    OutcomeAnswer,
    RateLimit,
    RateState,
    Record,
    Verdict,
)
from messages_app.store.connection import connection
from messages_app.store.ledger_codec import (
    accept_answer,
    accept_args,
    forward_answer,
    forward_args,
    outcome_answer,
    outcome_args,
    readable_claims,
)
from messages_app.store.ledger_reads import LedgerReads
from messages_app.store.ledger_server import terms_from_settings
from processes.once import OncePerProcess

#: Maximum messages and bytes per script of ``accept_group``: a script delays all other requests.
ACCEPT_CHUNK = 100
ACCEPT_BYTES = 1024 * 1024
#: The same of ``forward_many``.
FORWARD_CHUNK = 100
FORWARD_BYTES = 1024 * 1024
#: Outcomes are read in chunks; no further chunk is read once they hold this many bytes, since payloads may be large.
OUTBOX_CHUNK = 50
OUTBOX_BYTES = 8 * 1024 * 1024
#: Accounts per step of ``carry_accounts``: about a millisecond of the server's time.
CARRY_CHUNK = 500
#: Longer than the lifetime of any order.
VOID_TTL_MS = 24 * 3600 * 1000
_STALE = OutcomeAnswer(Verdict.STALE)

_Entry = TypeVar("_Entry")

log = logging.getLogger(__name__)


class Ledger(LedgerReads):
    """The transitions of messages in one Redis, one method per script. Safe for threads and forks."""

    # -- intake

    def accept(self, acceptance: Acceptance, limit: RateLimit | None = None) -> AcceptAnswer:
        """Accept a message once. With a ``limit`` the request is counted, and rejected above it.

        A repeated ``accept_token`` is the same request: ``accepted``, counted once. A known id is a ``duplicate`` with
        the same content and a ``conflict`` with other content.
        """
        (answer,) = self.accept_group([(acceptance, limit)])
        if isinstance(answer, LedgerRefused):
            raise answer
        return answer

    def accept_many(self, acceptances: Sequence[Acceptance]) -> list[AcceptAnswer]:
        """``accept`` for each, in order, in one round trip. Raises the first refusal once all others are accepted."""
        answers = []
        for answer in self.accept_group([(acceptance, None) for acceptance in acceptances]):
            if isinstance(answer, LedgerRefused):
                raise answer
            answers.append(answer)
        return answers

    def accept_group(
        self, requests: Sequence[tuple[Acceptance, RateLimit | None]]
    ) -> list[AcceptAnswer | LedgerRefused]:
        """``accept`` for each of many requests, in order, in one round trip with one wait for durability.

        A request that the ledger refuses gets its ``LedgerRefused`` and does not affect the others. Raises
        ``StoreUnavailable`` for all of them: each may or may not have been accepted.
        """
        if not requests:
            return []
        parts = list(_chunks(requests, ACCEPT_CHUNK, ACCEPT_BYTES, lambda request: len(request[0].body)))
        replies = self.run_confirmed(
            [("accept", [part for request in requests for part in accept_args(*request)]) for requests in parts]
        )
        answers = (reply[first : first + 6] for reply in replies for first in range(0, len(reply), 6))
        return [accept_answer(*request, answer) for request, answer in zip(requests, answers, strict=True)]

    def throttle(self, limit: RateLimit) -> tuple[bool, RateState]:
        """Count a request that is not an acceptance; return whether it is allowed, and the rate limit's state."""
        return self.throttle_many([limit])[0]

    def throttle_many(self, limits: Sequence[RateLimit]) -> list[tuple[bool, RateState]]:
        """``throttle`` for each, in order, in one round trip."""
        calls = [("throttle", (limit.client, limit.limit, limit.window_ms)) for limit in limits]
        replies = zip(limits, self._scripts.run_many(calls), strict=True)
        return [(bool(allowed), RateState(limit.limit, left, reset)) for limit, (allowed, left, reset) in replies]

    # -- running

    def claim(self, *, token: str, limit: int, owner: str, holding: int, max_bytes: int = 4 * 1024 * 1024) -> Claim:
        """Claim up to ``limit`` messages for ``owner``, each with a fence and a lease.

        ``token`` is new for each claim; repeating it returns the same messages while they run. ``holding`` is the
        number of messages that the process holds. A message that must run alone (``Claimed.alone``) goes only to a
        process that holds none; it is then the only one, and the process must not claim another until it has ended.
        """
        alone, empty, rows = self._scripts.run(
            "claim", token, limit, owner, holding, max_bytes, self._terms.lease_ms
        )  # fmt: skip
        return Claim(readable_claims(rows), alone, bool(empty))

    def claim_one(self, message_id: str, epoch: int, attempt: int, *, token: str, owner: str) -> Claimed | None:
        """Claim the message of a wake-up that RQ popped; None when the wake-up is outdated."""
        rows = self._scripts.run("claim_one", message_id, epoch, attempt, token, owner, self._terms.lease_ms)
        return next(iter(readable_claims(rows)), None)

    def wait_for_work(self, timeout_s: float) -> None:
        """Return when a wake-up has been pushed, or after ``timeout_s``, at most a second."""
        self._waiting_connections.call("BLPOP", self._prefix + "bell", min(timeout_s, 1.0))

    def renew(self, leases: Sequence[tuple[str, int, int]]) -> set[str]:
        """Renew leases, given as (id, fence, latest end ms); return the ids of the lost ones."""
        if not leases:
            return set()
        lost = self._scripts.run("renew", self._terms.lease_ms, *(part for lease in leases for part in lease))
        return {message_id.decode() for message_id in lost}

    def flush(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Record outcomes, each checked by its fence; return the verdicts in the same order.

        Include outcomes whose lease seems lost: the ledger decides. One bad entry does not fail the others.
        """
        return [answer.verdict for answer in self.flush_for_letters(outcomes)]

    def flush_for_letters(self, outcomes: Sequence[Outcome]) -> list[OutcomeAnswer]:
        """``flush``, for a caller who then writes the letters of messages that were given up, and of ended replays."""
        calls: list[tuple[str, list[Any]]] = []
        places: list[list[int]] = []
        for script, kind, head in (
            ("complete", Completed, [self._terms.record_ttl_ms, self._terms.body_ttl_ms]),
            ("fail", Failed, []),
            ("defer", Deferred, []),
        ):
            chosen = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, kind)]
            if chosen:
                calls.append((script, head + [part for place in chosen for part in outcome_args(outcomes[place])]))
                places.append(chosen)
        answers = [_STALE] * len(outcomes)
        for chosen, replies in zip(places, self._scripts.run_many(calls), strict=True):
            for place, reply in zip(chosen, replies, strict=True):
                answers[place] = outcome_answer(reply)
        return answers

    # -- upkeep

    def due(self, limit: int = 100) -> Due:
        """Move due retries and schedules, lost runs and lost wake-ups, up to ``limit`` of each."""
        moved, next_ms, now_ms, recovered, given_up, woken_again = self._scripts.run("due", limit)
        return Due(moved, None if next_ms < 0 else next_ms, now_ms, recovered, given_up, woken_again)

    def outbox(self, limit: int = 100, *, leave_ms: int = 0) -> list[OutboxEntry]:
        """Outcomes without an acknowledgement of MongoDB, oldest first; fewer than ``limit`` when they are large.

        Without those of the oldest ``limit`` that were added less than ``leave_ms`` ago.
        """
        found = self._connections.call("ZRANGE", self._prefix + "outbox", 0, limit - 1, "WITHSCORES")
        # An entry from the future is not young: the server's clock was set back.
        now = self.now_ms() if found and leave_ms else 0
        ids = [
            entry.decode()
            for entry, added in zip(found[::2], found[1::2], strict=True)
            if not 0 <= now - float(added) < leave_ms
        ]
        entries: list[OutboxEntry] = []
        size = 0
        for first in range(0, len(ids), OUTBOX_CHUNK):
            if size > OUTBOX_BYTES:
                break
            chunk = ids[first : first + OUTBOX_CHUNK]
            records = self._readable_records(chunk)
            read = [OutboxEntry(found.outbox, found) for found in records if found.outbox]
            entries += read
            size += sum(len(entry.record.body or b"") + len(entry.record.run_body or b"") for entry in read)
            # An entry without an outcome would block those after it. The script checks again before it removes it.
            readable = {entry.record.message_id for entry in read}
            self.drained([(message_id, 0, "death") for message_id in chunk if message_id not in readable])
        return entries

    def _readable_records(self, message_ids: Sequence[str]) -> list[Record]:
        """The existing records. An unreadable one is quarantined, so that it does not block the others."""
        try:
            return [found for found in self.get_many(message_ids) if found]
        except (ValueError, KeyError, TypeError, AttributeError, redis.ResponseError) as error:
            if len(message_ids) > 1:
                return [found for message_id in message_ids for found in self._readable_records([message_id])]
            log.exception("outcome_unreadable", extra={"message_id": message_ids[0]})
            epoch = self._connections.call("HGET", f"{self._prefix}msg:{message_ids[0]}", "epoch")
            self.quarantine(
                message_ids[0], int(epoch or 0), f"The record cannot be read: {type(error).__name__}: {error}"
            )
            return []

    def drained(self, acknowledged: Sequence[tuple[str, int, str]]) -> list[bool]:
        """Remove acknowledged outcomes, as (id, epoch, kind), from the outbox; False for a message that moved on."""
        if not acknowledged:
            return []
        parts = (part for entry in acknowledged for part in entry)
        replies = self._scripts.run("drained", self._terms.record_ttl_ms, self._terms.body_ttl_ms, *parts)
        return [bool(reply) for reply in replies]

    def expire_payloads(self, most: int) -> int:
        """Delete payloads and stories of messages that were done ``BODY_TTL_S`` ago.

        Return the number of messages, from ``most`` on when others may be due. Any number of processes may do this at
        the same time.
        """
        return int(self._scripts.run("expire", most))

    def resettle(self, message_id: str, epoch: int) -> bool:
        """Return the outcome of an ended epoch to the outbox; False when the message has not ended in that epoch."""
        return bool(self._scripts.run("resettle", message_id, epoch))

    def resettle_many(self, ended: Sequence[tuple[str, int]]) -> int:
        """``resettle`` for each (id, epoch), in one round trip; return how many succeeded."""
        return sum(map(bool, self._scripts.run_many([("resettle", one) for one in ended])))

    def quarantine(self, message_id: str, epoch: int, why: str) -> bool:
        """Set aside an outcome that MongoDB can never store in this form; False when the message moved on."""
        return bool(self._scripts.run("quarantine", message_id, epoch, why[:1000]))

    def release_quarantined(self, message_id: str) -> bool:
        """Return a quarantined outcome to the outbox; False when there is none."""
        return bool(self._scripts.run("release", message_id))

    def balance(self) -> int:
        """Correct accounts that an earlier version left below zero; return their number."""
        return int(self._scripts.run("balance"))

    def carry_accounts(self) -> None:
        """Add the accounts of days that are over to sums that outlive them. Repeat it every minute.

        Any number of processes may do this at the same time; each account is added once.
        """
        cursor = 0
        while True:
            cursor = int(self._scripts.run("carry", cursor, CARRY_CHUNK))
            if cursor == 0:
                return

    def forget_accounts(self) -> int:
        """Remove accounts that expired after 400 days from the index; return their number."""
        return int(self._scripts.run("forget"))

    # -- replays

    def forward(self, order: ForwardOrder) -> ForwardAnswer:
        """Start the replay of a claimed letter. Repeating an epoch is the same order."""
        (answer,) = self.forward_many([order])
        if answer.status is ForwardStatus.REFUSED:
            raise LedgerRefused(answer.state)
        return answer

    def forward_many(self, orders: Sequence[ForwardOrder]) -> list[ForwardAnswer]:
        """``forward`` for each, in order, in few round trips. The answer to an impossible order is ``refused``."""
        answers: list[ForwardAnswer] = []
        for part in _chunks(orders, FORWARD_CHUNK, FORWARD_BYTES, _order_bytes):
            reply = self._scripts.run("forward", *(argument for order in part for argument in forward_args(order)))
            values = [value.decode(errors="replace") for value in reply]
            answers += [forward_answer(*values[at : at + 2]) for at in range(0, len(values), 2)]
        return answers

    def void(self, message_id: str, epoch: int) -> VoidAnswer:
        """Return whether the epoch's message exists; if not, make sure that it never will."""
        exists, state = self._scripts.run("void", message_id, epoch, VOID_TTL_MS)
        return VoidAnswer(bool(exists), state.decode())


def _order_bytes(order: ForwardOrder) -> int:
    return len(order.body) + len(order.run_body or b"")


def _chunks(
    entries: Sequence[_Entry], max_entries: int, max_bytes: int, size_of: Callable[[_Entry], int]
) -> Iterator[list[_Entry]]:
    """Entries by script or pipeline. Larger ones would delay other requests and time out."""
    part: list[_Entry] = []
    size = 0
    for entry in entries:
        part.append(entry)
        size += size_of(entry)
        if len(part) == max_entries or size >= max_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


@OncePerProcess
def ledger() -> Ledger:
    """This process's ledger, configured by the settings."""
    return Ledger(connection(), settings.REDIS_PREFIX, terms=terms_from_settings())
