"""The ledger: where every message stands. Each move is one Lua script; names, not numbers, leave this module.

What a move does, and what stops it, is told in ``docs/lifecycle.md`` and in the head of each script. Three promises:

- Every move is repeatable: the same call again has no further effect and gives the same answer. So each is sent a
  second time when its answer was lost. After that comes ``StoreUnavailable``: it may or may not have happened.
- Time is the server's. No caller can pass a time that decides anything.
- Any number of threads, processes and hosts may call anything at any time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings
from redis.exceptions import NoPermissionError, ResponseError

from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus, VoidAnswer
from dlq_app.domain.store_problem import StoreProblem
from messages_app import conf
from messages_app.domain.errors import LedgerRefused, NotConfirmed, StoreUnavailable
from messages_app.domain.records import (
    Acceptance,
    AcceptAnswer,
    AcceptStatus,
    AccountRow,
    Claim,
    Claimed,
    Completed,
    Deferred,
    Due,
    Failed,
    LaneFigures,
    LedgerFigures,
    OutboxEntry,
    Outcome,
    Problem,
    Quarantined,
    RateLimit,
    RateState,
    Record,
    State,
    Verdict,
)
from messages_app.domain.redis_state import identity_problems, replica_problems
from messages_app.envelope import ALONE, LANES
from messages_app.store.connection import Lines, ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

#: Messages per pipeline of ``accept_many``: larger ones would hold up everybody else's requests.
ACCEPT_CHUNK = 250
#: Replays per pipeline, and no more once they hold so many bytes.
FORWARD_CHUNK = 100
FORWARD_BYTES = 4 * 1024 * 1024
#: Outcomes are read in parts of so many, and no more parts once they hold so much: payloads may be large.
OUTBOX_CHUNK = 50
OUTBOX_BYTES = 8 * 1024 * 1024
#: A due entry that nobody has moved for this long is overdue.
LATE_MS = 5_000
#: The value that a probe writes is of no use afterwards.
PROBE_TTL_MS = 60_000
#: Longer than any order can be under way.
VOID_TTL_MS = 24 * 3600 * 1000
#: Between two questions to replicas about what they have on disk.
_FIRST_WAIT_MS = 5
_LONGEST_WAIT_MS = 250
#: Looking at breakers is a script that the server runs read-only (EVALSHA_RO).
_OLDEST_REDIS = (7, 0)
_VERDICTS = {verdict.encode(): verdict for verdict in Verdict}
_line_of_json = json.JSONEncoder(separators=(",", ":")).encode


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long things last, and how sure an acceptance is."""

    #: A claim is good for this long; whoever holds it renews it.
    lease_ms: int = 30_000
    #: An ended message is remembered for this long (the idempotency window).
    record_ttl_ms: int = 24 * 3600 * 1000
    #: The payload of a message that is done, its tags, source and attempts.
    body_ttl_ms: int = 3600 * 1000
    #: Confirm an acceptance only when it is on disk, and wait at most this long for that; None: do not wait.
    fsync_timeout_ms: int | None = None
    #: And on the disks of so many replicas.
    replicas: int = 0


class Ledger:
    """Every move of a message, over one Redis. Thread-safe, and safe across forks."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "dlq:",
        *,
        terms: Terms | None = None,
        scripts: Mapping[str, Script] | None = None,
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())
        self._lines = self._scripts.lines
        # Its own socket: an answer that is waited for must not stand before one that is needed.
        self._waiting_lines = Lines(client)
        self._prefix = prefix
        self._terms = terms or Terms()

    # -- intake

    def accept(self, acceptance: Acceptance, limit: RateLimit | None = None) -> AcceptAnswer:
        """Put a message into the ledger once. With a ``limit`` the request is counted, and refused above it.

        The same ``accept_token`` again is the same request (``accepted``, not counted twice); the same id with the same
        content is a ``duplicate``, with other content a ``conflict``.
        """
        return self._accept([acceptance], limit)[0]

    def accept_many(self, acceptances: Sequence[Acceptance]) -> list[AcceptAnswer]:
        """``accept`` for each, in order, in few round trips; one that is refused does not touch the others."""
        answers: list[AcceptAnswer] = []
        for start in range(0, len(acceptances), ACCEPT_CHUNK):
            answers += self._accept(acceptances[start : start + ACCEPT_CHUNK], None)
        return answers

    def throttle(self, limit: RateLimit) -> tuple[bool, RateState]:
        """Count a request that is not an acceptance: whether it may go, and what is left."""
        allowed, remaining, reset = self._scripts.run("throttle", limit.client, limit.limit, limit.window_ms)
        return bool(allowed), RateState(limit.limit, remaining, reset)

    def _confirmed(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The replies of scripts whose writes are as safe as the terms ask for. Raises ``NotConfirmed``."""
        terms = self._terms
        if terms.fsync_timeout_ms is None:
            return self._scripts.run_many(calls)
        # Behind all of them in the same round trip, so that one wait covers the whole batch. WAITAOF waits for what
        # this connection wrote. A duplicate writes nothing; the probe makes it wait for the first acceptance, too.
        waits = [("WAITAOF", 1, terms.replicas, ms) for ms in _waits_ms(terms.fsync_timeout_ms, terms.replicas)]
        replies = self._scripts.run_many([*calls, ("probe", [PROBE_TTL_MS])], after=waits)
        on_disk, on_replicas = replies[-1]
        if on_disk < 1 or on_replicas < terms.replicas:
            where = "its disk" if on_disk < 1 else "the disk of a replica"
            raise NotConfirmed(
                f"Redis did not confirm within {terms.fsync_timeout_ms / 1000:g} s that the message reached {where}. "
                "It may be processed all the same: send it again with the same messageId."
            )
        return replies[: len(calls)]

    def _accept(self, acceptances: Sequence[Acceptance], limit: RateLimit | None) -> list[AcceptAnswer]:
        replies = self._confirmed([_accept_call(acceptance, limit) for acceptance in acceptances])
        return [
            _accept_answer(acceptance, limit, reply) for acceptance, reply in zip(acceptances, replies, strict=True)
        ]

    # -- reading

    def now_ms(self) -> int:
        """The clock by which everything here is judged."""
        return int(self._scripts.run("clock"))

    def get(self, message_id: str) -> Record | None:
        """The record as it stands at one instant, payload included; None when it is not (or no longer) known."""
        return self.get_many([message_id])[0]

    def get_many(self, message_ids: Sequence[str]) -> list[Record | None]:
        """``get`` for each, in order, all of one instant."""
        if not message_ids:
            return []
        rows = self._scripts.run("read", *message_ids)
        return [_record(message_id, row) for message_id, row in zip(message_ids, rows, strict=True)]

    def figures(self) -> LedgerFigures:
        """Counts of one instant; cheap however much waits."""
        return _figures(self._scripts.run("figures", LATE_MS))

    def accounting(self, days: int = 400) -> list[AccountRow]:
        """accepted, done, dead and open by UTC day and type of acceptance; the last ``days`` days, oldest first."""
        today = datetime.fromtimestamp(self.now_ms() / 1000, UTC)
        first = (today - timedelta(days=days - 1)).strftime("%Y%m%d")
        index = self._prefix + "acct:index"
        names = sorted(name.decode() for name in self._lines.call("SMEMBERS", index))
        wanted = [name for name in names if name[:8] >= first]
        if not wanted:
            return []
        accounts = self._lines.call_many([("HGETALL", self._prefix + "acct:" + name) for name in wanted])
        return [_account_row(name, _pairs(fields)) for name, fields in zip(wanted, accounts, strict=True) if fields]

    def balance(self) -> int:
        """Put accounts right that an earlier version left below zero; how many were."""
        return int(self._scripts.run("balance"))

    def forget_accounts(self) -> int:
        """Take accounts that have expired after 400 days out of the index; how many."""
        return int(self._scripts.run("forget"))

    # -- running

    def claim(self, *, token: str, limit: int, owner: str, holding: int, max_bytes: int = 4 * 1024 * 1024) -> Claim:
        """Up to ``limit`` messages for ``owner``, each with a fence and a lease.

        ``token`` is made for each claim: the same again gives the same messages while they run. ``holding`` is what the
        process holds already: only one that holds nothing gets a message that has to run alone, and then only that one
        (``Claimed.alone``): it must claim nothing more until that message has ended.
        """
        alone, empty, rows = self._scripts.run(
            "claim", token, limit, owner, holding, max_bytes, self._terms.lease_ms
        )  # fmt: skip
        return Claim(_readable(rows), alone, bool(empty))

    def claim_one(self, message_id: str, epoch: int, attempt: int, *, token: str, owner: str) -> Claimed | None:
        """The message of a wake-up that somebody else popped; None when the wake-up no longer fits."""
        rows = self._scripts.run("claim_one", message_id, epoch, attempt, token, owner, self._terms.lease_ms)
        return next(iter(_readable(rows)), None)

    def wait_for_work(self, timeout_s: float) -> None:
        """Return when a wake-up has been pushed, or after ``timeout_s`` (at most a second; more gains nothing)."""
        self._waiting_lines.call("BLPOP", self._prefix + "bell", min(timeout_s, 1.0))

    def renew(self, leases: Sequence[tuple[str, int, int]]) -> set[str]:
        """Prolong leases given as (id, fence, latest end ms); the ids of those that are lost."""
        if not leases:
            return set()
        lost = self._scripts.run("renew", self._terms.lease_ms, *(part for lease in leases for part in lease))
        return {message_id.decode() for message_id in lost}

    def flush(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Send outcomes, each judged by its own fence; the verdicts in the same order.

        Send them also when a lease looks lost: the ledger decides. Nothing here fails because one entry is bad.
        """
        calls: list[tuple[str, list[Any]]] = []
        places: list[list[int]] = []
        for script, kind, head in (
            ("complete", Completed, [self._terms.record_ttl_ms, self._terms.body_ttl_ms]),
            ("fail", Failed, []),
            ("defer", Deferred, []),
        ):
            chosen = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, kind)]
            if chosen:
                calls.append((script, head + [part for place in chosen for part in _outcome_args(outcomes[place])]))
                places.append(chosen)
        verdicts = [Verdict.STALE] * len(outcomes)
        for chosen, reply in zip(places, self._scripts.run_many(calls), strict=True):
            for place, verdict in zip(chosen, reply, strict=True):
                verdicts[place] = _VERDICTS[verdict]
        return verdicts

    # -- upkeep

    def due(self, limit: int = 100) -> Due:
        """Move what time alone moves: due retries and schedules, lost runs, lost wake-ups; ``limit`` per index."""
        moved, next_ms, now_ms, recovered, given_up, woken_again = self._scripts.run("due", limit)
        return Due(moved, None if next_ms < 0 else next_ms, now_ms, recovered, given_up, woken_again)

    def outbox(self, limit: int = 100) -> list[OutboxEntry]:
        """Outcomes that MongoDB has not acknowledged, oldest first; fewer than ``limit`` when they are large."""
        ids = [entry.decode() for entry in self._lines.call("ZRANGE", self._prefix + "outbox", 0, limit - 1)]
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
            # What stands for nothing would hold up what is behind it; the script looks again before it clears it.
            told = {entry.record.message_id for entry in read}
            self.drained([(message_id, 0, "death") for message_id in chunk if message_id not in told])
        return entries

    def _readable_records(self, message_ids: Sequence[str]) -> list[Record]:
        """The records that are there; one that is broken in the store is set aside and does not hold up the others."""
        try:
            return [found for found in self.get_many(message_ids) if found]
        except (ValueError, KeyError, TypeError, AttributeError, redis.ResponseError) as error:
            if len(message_ids) > 1:
                return [found for message_id in message_ids for found in self._readable_records([message_id])]
            log.exception("outcome_unreadable", extra={"message_id": message_ids[0]})
            epoch = self._lines.call("HGET", f"{self._prefix}msg:{message_ids[0]}", "epoch")
            self.quarantine(
                message_ids[0], int(epoch or 0), f"The record cannot be read: {type(error).__name__}: {error}"
            )
            return []

    def drained(self, acknowledged: Sequence[tuple[str, int, str]]) -> list[bool]:
        """Take acknowledged outcomes, as (id, epoch, kind), out of the outbox; False for one that has moved on."""
        if not acknowledged:
            return []
        parts = (part for entry in acknowledged for part in entry)
        replies = self._scripts.run("drained", self._terms.record_ttl_ms, self._terms.body_ttl_ms, *parts)
        return [bool(reply) for reply in replies]

    def resettle(self, message_id: str, epoch: int) -> bool:
        """Put an ended epoch's outcome into the outbox again; False when no ended message stands at that epoch."""
        return bool(self._scripts.run("resettle", message_id, epoch))

    def resettle_many(self, ended: Sequence[tuple[str, int]]) -> int:
        """``resettle`` for each (id, epoch), in one round trip; how many went."""
        return sum(map(bool, self._scripts.run_many([("resettle", one) for one in ended])))

    def quarantine(self, message_id: str, epoch: int, why: str) -> bool:
        """Set aside an outcome that MongoDB can never take in this form; False when it has moved on."""
        return bool(self._scripts.run("quarantine", message_id, epoch, why[:1000]))

    def quarantined(self) -> list[Quarantined]:
        """What was set aside, oldest first."""
        entries = _pairs(self._lines.call("HGETALL", self._prefix + "quarantine"))
        found = [
            Quarantined(message_id, int(entry["epoch"]), entry["why"], int(entry["at"]))
            for message_id, entry in ((key, json.loads(value)) for key, value in entries.items())
        ]
        return sorted(found, key=lambda quarantined: quarantined.at_ms)

    def release_quarantined(self, message_id: str) -> bool:
        """Put a set-aside outcome back into the outbox; False when there is none."""
        return bool(self._scripts.run("release", message_id))

    # -- replays

    def forward(self, order: ForwardOrder) -> ForwardAnswer:
        """Start the run that a claimed letter asks for; the same epoch again is the same order."""
        status, state = self._scripts.run("forward", *_forward_args(order))
        return ForwardAnswer(ForwardStatus(status.decode()), state.decode())

    def forward_many(self, orders: Sequence[ForwardOrder]) -> list[ForwardAnswer]:
        """``forward`` for each, in order, in few round trips; one that can never be is answered ``refused``."""
        answers: list[ForwardAnswer] = []
        for part in _parts(orders):
            for reply in self._scripts.run_each([("forward", _forward_args(order)) for order in part]):
                if isinstance(reply, LedgerRefused):
                    answers.append(ForwardAnswer(ForwardStatus.REFUSED, str(reply)))
                else:
                    status, state = reply
                    answers.append(ForwardAnswer(ForwardStatus(status.decode()), state.decode()))
        return answers

    def void(self, message_id: str, epoch: int) -> VoidAnswer:
        """Whether the epoch's message exists; if not, it never will."""
        exists, state = self._scripts.run("void", message_id, epoch, VOID_TTL_MS)
        return VoidAnswer(bool(exists), state.decode())

    # -- the server

    def try_write(self) -> int:
        """Write a small value as surely as an acceptance is written; the server's time (ms).

        Raises ``StoreUnavailable`` when no message would be accepted either.
        """
        try:
            return int(self._confirmed([("probe", [PROBE_TTL_MS])])[0])
        except ResponseError as error:  # such as a user who may not run scripts
            raise StoreUnavailable(f"Redis refuses: {error}") from error

    def identity_problems(self) -> list[StoreProblem]:
        """Why this server cannot be used, whatever its settings: what kind it is, which every user may ask."""
        answer = self._lines.call("HELLO")
        pairs = zip(answer[::2], answer[1::2], strict=True)
        hello = {name.decode(): value.decode() for name, value in pairs if isinstance(value, bytes)}
        problems = list(identity_problems(hello))
        if problems:
            self._lines.close()  # the address may lead elsewhere next time
        return problems

    def server_info(self) -> Mapping[str, str]:
        """What the server says about itself; empty when this user may not ask (INFO)."""
        try:
            lines = self._lines.call("INFO").decode().splitlines()
        except NoPermissionError:
            return {}
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def require_safe_redis(self, info: Mapping[str, str] | None = None) -> list[Problem]:
        """What start-up must refuse about this server, each with its fix; empty when all is well.

        ``info``: what ``server_info`` has answered, so as not to ask again.
        """
        info = self.server_info() if info is None else info
        return _server_problems(info, self._terms) if info else []

    def durability_problems(self, info: Mapping[str, str]) -> list[StoreProblem]:
        """Why acceptances cannot be confirmed as the terms ask for, as far as ``server_info`` tells."""
        return list(replica_problems(info)) if info and self._terms.replicas else []


def _waits_ms(timeout_ms: int, replicas: int) -> list[int]:
    """How long to wait for a confirmation, in parts. With replicas each part begins by asking them again.

    A replica says by itself once a second what it has on disk, and else only when it is asked.
    """
    parts: list[int] = []
    part = _FIRST_WAIT_MS if replicas else timeout_ms
    while (left := timeout_ms - sum(parts)) > 0:
        parts.append(min(part, left))
        part = min(2 * part, _LONGEST_WAIT_MS)
    return parts


def _parts(orders: Sequence[ForwardOrder]) -> Iterator[list[ForwardOrder]]:
    """Orders that go together: others wait behind a request, and its answer has to come in time."""
    part: list[ForwardOrder] = []
    size = 0
    for order in orders:
        part.append(order)
        size += len(order.body) + len(order.run_body or b"")
        if len(part) == FORWARD_CHUNK or size >= FORWARD_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _story(source: Acceptance | ForwardOrder, **more: object) -> str:
    """What was accepted, as the one line of JSON that begins a message's story; scripts hand it on without a look."""
    story = {"type": source.type, "priority": source.priority, "source": source.source, "client": source.client}
    return _line_of_json({**story, "tags": source.tags, **more})


def _accept_call(acceptance: Acceptance, limit: RateLimit | None) -> tuple[str, list[Any]]:
    not_before = acceptance.not_before_ms
    return "accept", [
        acceptance.message_id, acceptance.type, acceptance.body, acceptance.sha256, acceptance.priority,
        _story(acceptance, notBefore=not_before, maxRetries=acceptance.max_retries),
        "" if not_before is None else not_before, acceptance.max_retries, acceptance.accept_token,
        *((limit.client, limit.limit, limit.window_ms) if limit else ("", 0, 0)), acceptance.client,
    ]  # fmt: skip


def _forward_args(order: ForwardOrder) -> list[Any]:
    story = _story(
        order, maxRetries=0, version=order.version, replayId=order.replay_id, batchId=order.batch_id,
        deathSeen=order.death_seen,
    )  # fmt: skip
    return [
        order.message_id, order.epoch, order.deadline_ms, int(order.force), order.death_seen, order.type, order.body,
        int(order.run_body is not None), order.run_body or b"", order.priority, story, order.queued_at_ms,
        order.acct_day, order.replay_id, order.prior_runs, "done" if order.ended_done else "dead",
        order.client,
    ]  # fmt: skip


def _accept_answer(acceptance: Acceptance, limit: RateLimit | None, reply: list[Any]) -> AcceptAnswer:
    status, state, message_type, queued_at, remaining, reset = reply
    return AcceptAnswer(
        status=AcceptStatus(status.decode()),
        message_id=acceptance.message_id,
        state=State(state.decode()) if state else None,
        type=message_type.decode(),
        queued_at_ms=int(queued_at),
        rate=RateState(limit.limit, remaining, reset) if limit and remaining >= 0 else None,
    )


def _outcome_args(outcome: Outcome) -> list[Any]:
    # An attempt is one line of the story; between JSON's tokens a line break is only a space.
    attempt = outcome.attempt_json.replace("\n", " ")
    match outcome:
        case Completed():
            return [outcome.message_id, outcome.fence, outcome.result, attempt]
        case Failed():
            delay = "" if outcome.delay_ms is None else outcome.delay_ms
            return [outcome.message_id, outcome.fence, delay, outcome.error, attempt]
        case Deferred():
            return [outcome.message_id, outcome.fence, outcome.delay_ms, outcome.why, attempt]


def _readable(rows: list[list[bytes]]) -> tuple[Claimed, ...]:
    """The claimed messages; one that is broken in the store goes to its end by its leases, without the others."""
    claimed = []
    for row in rows:
        try:
            claimed.append(_claimed(row))
        except (ValueError, KeyError, TypeError):
            log.exception("claimed_unreadable", extra={"message_id": row[-1].decode(errors="replace")})
    return tuple(claimed)


@lru_cache(maxsize=256)
def _told(line: bytes) -> Mapping[str, Any]:
    """The line that begins a story. Most messages of one client differ only in what is not in it."""
    told: dict[str, Any] = json.loads(line)
    return told


def _claimed(row: list[bytes]) -> Claimed:
    (epoch, attempt, fence, started_at, queued_at, prior_runs, recoveries, deferrals, deferred_since, story, body,
     message_id) = row  # fmt: skip
    told = _told(story.split(b"\n", 1)[0])
    return Claimed(
        message_id=message_id.decode(),
        epoch=int(epoch),
        attempt=int(attempt),
        fence=int(fence),
        type=told["type"],
        body=body,
        version=told.get("version", 0),
        priority=told["priority"],
        source=told["source"],
        client=told["client"],
        tags=told["tags"],
        queued_at_ms=int(queued_at),
        claimed_at_ms=int(started_at),
        max_retries=told["maxRetries"],
        prior_runs=int(prior_runs or 0),
        recoveries=int(recoveries or 0),
        deferrals=int(deferrals or 0),
        deferred_since_ms=int(deferred_since) if deferred_since else None,
        replay_id=told.get("replayId", ""),
        batch_id=told.get("batchId", ""),
    )


def _pairs(flat: list[bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _record(message_id: str, row: list[Any]) -> Record | None:
    fields, story, body, run_body = _pairs(row[0]), row[1], row[2], row[3]
    if not fields:
        return None
    accepted, *attempts = (story or b"{}").decode().split("\n")
    told = json.loads(accepted)
    state = State(fields["state"])
    waits = state in (State.SCHEDULED, State.RETRY_WAIT)
    acct_day, _, message_type = fields["account"].partition(":")

    def number(name: str) -> int:
        return int(fields.get(name) or 0)

    def moment(name: str, stands: bool = True) -> int | None:
        return int(fields[name]) if stands and fields.get(name) else None

    return Record(
        message_id=message_id,
        state=state,
        epoch=number("epoch"),
        attempt=number("attempt"),
        fence=number("fence"),
        # The story of a done message expires after an hour; from then on only the record remains.
        type=told.get("type", message_type),
        body=body,
        run_body=run_body if fields.get("edited") == "1" else None,
        version=told.get("version", 0),
        sha256=fields.get("sha256", ""),
        priority=fields["priority"],
        source=told.get("source", ""),
        client=told.get("client", fields.get("client", "")),
        tags=told.get("tags", "[]"),
        queued_at_ms=number("queuedAt"),
        not_before_ms=told.get("notBefore"),
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
        batch_id=told.get("batchId", ""),
        death_seen=told.get("deathSeen", 0),
        owner=fields.get("owner", ""),
        outbox=fields.get("outbox", ""),
        last_error=fields.get("lastError", ""),
        attempts=",".join(attempts),
        result=fields.get("result", ""),
    )


def _figures(reply: list[int]) -> LedgerFigures:
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


def _account_row(name: str, fields: dict[str, str]) -> AccountRow:
    day, _, message_type = name.partition(":")
    accepted, done, dead, still_open = (int(fields.get(key, 0)) for key in ("accepted", "done", "dead", "open"))
    return AccountRow(day=day, type=message_type, accepted=accepted, done=done, dead=dead, open=still_open)


def _server_problems(info: Mapping[str, str], terms: Terms) -> list[Problem]:
    problems = []
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < _OLDEST_REDIS:
        problems.append(Problem(f"Redis {info['redis_version']} is too old.", "Use Redis 7.0 or newer, or Valkey."))
    if terms.fsync_timeout_ms is not None and version < (7, 2):
        name = "replicated" if terms.replicas else "fsync"
        problems.append(
            Problem(
                f"ACCEPT_DURABILITY is {name}, but this Redis knows no WAITAOF.", "Use Redis 7.2 or newer, or Valkey."
            )
        )
    if info.get("aof_enabled") != "1":
        problems.append(
            Problem("Redis keeps no append-only file: a restart would lose accepted messages.", "Set appendonly yes.")
        )
    policy = info.get("maxmemory_policy", "")
    if policy != "noeviction":
        problems.append(
            Problem(
                f"Redis may evict accepted messages (maxmemory-policy {policy}).", "Set maxmemory-policy noeviction."
            )
        )
    return problems


def terms_from_settings() -> Terms:
    """The terms that settings name. Raises PolicyError when ``ACCEPT_DURABILITY`` is none of what it may be."""
    default = Terms()
    durability = conf.durability()
    return Terms(
        lease_ms=int(getattr(settings, "LEASE_S", default.lease_ms / 1000) * 1000),
        record_ttl_ms=int(getattr(settings, "RECORD_TTL_S", default.record_ttl_ms / 1000) * 1000),
        body_ttl_ms=int(getattr(settings, "BODY_TTL_S", default.body_ttl_ms / 1000) * 1000),
        fsync_timeout_ms=int(getattr(settings, "ACCEPT_FSYNC_TIMEOUT_MS", 1500)) if durability != "everysec" else None,
        replicas=1 if durability == "replicated" else 0,
    )


@OncePerProcess
def ledger() -> Ledger:
    """The ledger of this process, as settings describe it."""
    return Ledger(connection(), settings.REDIS_PREFIX, terms=terms_from_settings())
