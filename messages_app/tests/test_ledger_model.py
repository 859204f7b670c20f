"""The scripts against a plain model of themselves: the same random events on both, compared after every one.

The model is the readable form of ``docs/lifecycle.md``: two messages, their wake-ups, and the accounts. Events include
what goes wrong: lost and doubled wake-ups, repeated requests, outcomes of runs that lost their lease, late orders.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from messages_app.domain.records import Acceptance, AcceptAnswer
from messages_app.tests.ledgers import START_MS, Desk, acceptance, order

pytestmark = pytest.mark.redis

IDS = ("a", "b")
LANES = {"a": "high", "b": "low"}
LEASE_MS = 30_000
MAX_RETRIES = 1
OPEN = ("scheduled", "queued", "running", "retry_wait", "dead_pending")


@dataclass
class Message:
    state: str
    epoch: int
    token: str
    max_retries: int
    attempt: int = 0
    fence: int = 0
    recoveries: int = 0
    deferrals: int = 0
    wakes: int = 0
    wake_at: int = 0
    #: When the newest wake-up was pushed, to whichever end of the lane.
    waits_since: int = 0
    at: int = 0
    replay: bool = False
    outbox: str = ""
    runs: int = 0

    @property
    def seen(self) -> tuple[Any, ...]:
        return (self.state, self.epoch, self.attempt, self.fence, self.recoveries, self.deferrals, self.outbox)


@dataclass
class Model:
    """What the scripts do, in Python. Times in ms; wake-ups are (id, epoch, attempt, n)."""

    now: int = START_MS
    messages: dict[str, Message] = field(default_factory=dict)
    lanes: dict[str, list[tuple[str, int, int, int]]] = field(
        default_factory=lambda: {n: [] for n in ("high", "low", "alone")}
    )
    heads: Counter[str] = field(default_factory=Counter)
    voids: Counter[str] = field(default_factory=Counter)
    account: Counter[str] = field(default_factory=Counter)
    epoch_high: int = 0

    def count(self, **changes: int) -> None:
        """A field that would fall below zero lacks the message: it enters the account as accepted."""
        self.account.update(changes)
        for field_name, stands in list(self.account.items()):
            if stands < 0:
                self.account[field_name] = 0
                self.account["accepted"] -= stands

    def lane(self, name: str) -> str:
        return "alone" if self.messages[name].recoveries >= 2 else LANES[name]

    def wake(self, name: str, *, front: bool = False) -> None:
        message = self.messages[name]
        message.state = "queued"
        message.wakes += 1
        message.wake_at = 0 if front else self.now
        message.waits_since = self.now
        job = (name, message.epoch, message.attempt, message.wakes)
        lane = self.lanes[self.lane(name)]
        lane.insert(0 if front else len(lane), job)

    def accept(self, name: str, token: str, not_before: int) -> str:
        known = self.messages.get(name)
        if known:
            return "accepted" if known.token == token else "duplicate"
        self.epoch_high = max(self.now, self.epoch_high)
        message = Message("scheduled", self.epoch_high, token, MAX_RETRIES, at=not_before)
        self.messages[name] = message
        self.count(accepted=1, open=1)
        if not_before <= self.now:
            self.wake(name)
        return "accepted"

    def _serve(self, lane: str, limit: int) -> list[tuple[str, int]]:
        handed: list[tuple[str, int]] = []
        while self.lanes[lane] and len(handed) < limit:
            name, epoch, attempt, n = self.lanes[lane].pop(0)
            message = self.messages.get(name)
            fits = message and (message.state, message.epoch, message.attempt) == ("queued", epoch, attempt)
            own = self.lane(name) if message else ""
            if not message or not fits or (own == "alone") != (lane == "alone"):
                continue
            if n == message.wakes and own == lane:
                self.heads[lane] = max(self.heads[lane], message.wake_at)
            message.state = "running"
            message.fence = max(message.fence + 1, self.now)
            message.at = self.now + LEASE_MS
            message.runs += 1
            handed.append((name, message.fence))
        return handed

    def claim(self, holding: int) -> list[tuple[str, int]]:
        if holding == 0 and (alone := self._serve("alone", 1)):
            return alone
        return self._serve("high", 10) + self._serve("low", 10)

    def outcome(self, name: str, fence: int, how: str, delay: int | None) -> str:
        message = self.messages.get(name)
        if message is None or message.fence != fence:
            return "stale"
        if message.state != "running":
            return "already"
        if how == "complete":
            message.state = "done"
            message.outbox = "settle" if message.replay else ""
            self.count(done=1, open=-1)
            return "to_outbox" if message.replay else "applied"
        if how == "fail":
            if delay is not None and message.attempt < message.max_retries:
                message.state, message.at = "retry_wait", self.now + delay
                message.attempt += 1
                return "applied"
            message.state, message.outbox = "dead_pending", "death"
            return "to_outbox"
        message.deferrals += how == "breaker"
        if delay:
            message.state, message.at = "scheduled", self.now + delay
        else:
            self.wake(name, front=how != "breaker")
        return "applied"

    def due(self) -> None:
        for state in ("scheduled", "retry_wait", "running"):
            late = [(m.at, name) for name, m in self.messages.items() if m.state == state and m.at <= self.now]
            for _, name in sorted(late):
                self._move(name)
        for lane, jobs in self.lanes.items():
            before = self.now - 10_000
            if jobs:
                before = min(before, self.heads[lane] - 1)
            waiting = [(m.waits_since, name) for name, m in self.messages.items() if m.state == "queued"]
            for since, name in sorted(waiting):
                if self.lane(name) == lane and since <= before:
                    self.wake(name)

    def _move(self, name: str) -> None:
        message = self.messages[name]
        if message.state == "running":
            message.recoveries += 1
            message.fence += 1
            if message.recoveries >= 3:
                message.state, message.outbox = "dead_pending", "death"
                return
        self.wake(name)

    def drained(self, name: str, epoch: int, kind: str) -> bool:
        message = self.messages.get(name)
        if message is None or message.epoch != epoch or message.outbox != kind:
            return False
        message.outbox = ""
        if kind == "death":
            message.state = "dead"
            self.count(dead=1, open=-1)
        return True

    def forward(self, name: str, epoch: int, death_seen: int, late: bool, force: bool) -> str:
        message = self.messages.get(name)
        state = message.state if message else ""
        if message and message.epoch == epoch and message.replay:
            return "forwarded"
        if self.voids[name] >= epoch:
            return "voided"
        if late:
            return "too_late"
        if message and message.epoch >= epoch:
            return "superseded"
        letter_has_it = message is not None and state == "dead_pending" and message.epoch <= death_seen
        if (state in OPEN and not letter_has_it) or (message and state == "done" and message.outbox):
            return "busy"
        if state == "done" and not force:
            return "already_done"
        if not letter_has_it:
            self.count(**{"done" if state == "done" else "dead": -1, "open": 1})
        old = message or Message("", 0, "", 0)
        self.messages[name] = Message("", epoch, old.token, 0, fence=old.fence, wakes=old.wakes, replay=True)
        self.wake(name)
        return "forwarded"

    def void(self, name: str, epoch: int) -> bool:
        message = self.messages.get(name)
        if message and message.epoch == epoch and message.replay:
            return True
        self.voids[name] = max(self.voids[name], epoch)
        return False


names = st.sampled_from(IDS)


class Ledgers(RuleBasedStateMachine):
    """Both at once. ``client`` is set by the test."""

    client: Any

    @initialize()
    def start(self) -> None:
        self.client.flushall()
        self.desk = Desk.open(self.client)
        self.model = Model()
        self.requests: dict[str, Acceptance] = {}
        #: Every (id, fence) that was ever handed out, and every epoch that an id ever had.
        self.handed: list[tuple[str, int]] = [("a", 1)]
        self.epochs: dict[str, list[int]] = {name: [5] for name in IDS}
        self.last_claim: tuple[str, list[tuple[str, int]]] | None = None
        self.claims = 0

    def _compare(self, real: Any, expected: Any) -> None:
        assert real == expected

    @rule(name=names, later=st.sampled_from([0, 0, 700]))
    def accept(self, name: str, later: int) -> None:
        request = acceptance(
            name, priority=LANES[name], max_retries=MAX_RETRIES, not_before_ms=self.desk.now + later if later else None
        )
        expected = self.model.accept(name, request.accept_token, self.desk.now + later)
        real = self.desk.ledger.accept(request).status
        # A replay of a forgotten message has no digest, but its bytes are the same here.
        self._compare(real, expected)
        if self.model.messages[name].token == request.accept_token:
            self.requests[name] = request
        self.epochs[name].append(self.model.messages[name].epoch)

    @rule(name=names)
    def accept_again(self, name: str) -> None:
        known = self.model.messages.get(name)
        if name in self.requests and known:
            request = self.requests[name]
            self._compare(self.desk.ledger.accept(request).status, self.model.accept(name, request.accept_token, 0))

    @rule(first=names, again=st.booleans())
    def accept_in_company(self, first: str, again: bool) -> None:
        second = IDS[1 - IDS.index(first)]
        group = [acceptance(name, priority=LANES[name], max_retries=MAX_RETRIES) for name in (first, second, first)]
        expected = [self.model.accept(request.message_id, request.accept_token, self.desk.now) for request in group]
        for _ in range(1 + again):
            answers = self.desk.ledger.accept_group([(request, None) for request in group])
            self._compare([answer.status for answer in answers if isinstance(answer, AcceptAnswer)], expected)
        for request in group:
            message = self.model.messages[request.message_id]
            if message.token == request.accept_token:
                self.requests[request.message_id] = request
            self.epochs[request.message_id].append(message.epoch)

    @rule(holding=st.sampled_from([0, 0, 1]))
    def claim(self, holding: int) -> None:
        self.claims += 1
        expected = self.model.claim(holding)
        real = self.desk.claim(limit=10, token=f"c{self.claims}", holding=holding)
        self._compare(sorted((claimed.message_id, claimed.fence) for claimed in real), sorted(expected))
        self.handed += expected
        self.last_claim = (f"c{self.claims}", expected) if expected else None

    @rule()
    def claim_again(self) -> None:
        if self.last_claim is None:
            return
        last, handed = self.last_claim
        still = [
            (name, fence)
            for name, fence in handed
            if (m := self.model.messages.get(name)) and m.state == "running" and m.fence == fence
        ]
        if still:
            real = self.desk.claim(limit=10, token=last)
            self._compare(sorted((claimed.message_id, claimed.fence) for claimed in real), sorted(still))

    @rule(
        data=st.data(),
        how=st.sampled_from(["complete", "fail", "fail", "breaker", "shutdown"]),
        delay=st.sampled_from([None, 0, 400]),
    )
    def outcome(self, data: st.DataObject, how: str, delay: int | None) -> None:
        name, fence = data.draw(st.sampled_from(self.handed[-6:]))
        if how == "complete":
            real = self.desk.complete(name, fence)
        elif how == "fail":
            real = self.desk.fail(name, fence, delay)
        else:
            delay = delay or 0
            real = self.desk.defer(name, fence, delay, how)
        self._compare(real, self.model.outcome(name, fence, how, delay))

    @rule(ms=st.sampled_from([1, 399, 400, 10_000, 30_000]))
    def wait(self, ms: int) -> None:
        self.desk.wait(ms)
        self.model.now += ms

    @rule()
    def due(self) -> None:
        self.model.due()
        self.desk.ledger.due()

    @rule(data=st.data(), kind=st.sampled_from(["death", "death", "settle"]))
    def drained(self, data: st.DataObject, kind: str) -> None:
        name = data.draw(names)
        epoch = data.draw(st.sampled_from(self.epochs[name][-3:]))
        self._compare(self.desk.ledger.drained([(name, epoch, kind)]), [self.model.drained(name, epoch, kind)])

    @rule(
        data=st.data(),
        name=names,
        ahead=st.sampled_from([0, 1, 1, 2]),
        letter_is_behind=st.booleans(),
        late=st.sampled_from([False, False, False, True]),
        force=st.booleans(),
    )
    def forward(
        self, data: st.DataObject, name: str, ahead: int, letter_is_behind: bool, late: bool, force: bool
    ) -> None:
        epoch = data.draw(st.sampled_from(self.epochs[name][-3:])) + ahead
        seen = epoch - 2 if letter_is_behind else epoch - 1
        deadline = self.desk.now - (1 if late else 0)
        asked = order(
            name, epoch, priority=LANES[name], death_seen=seen, deadline_ms=deadline, force=force, acct_day="20270115"
        )
        self._compare(self.desk.ledger.forward(asked).status, self.model.forward(name, epoch, seen, late, force))
        self.epochs[name].append(epoch)

    @rule(data=st.data(), name=names, ahead=st.sampled_from([0, 1]))
    def void(self, data: st.DataObject, name: str, ahead: int) -> None:
        epoch = data.draw(st.sampled_from(self.epochs[name][-3:])) + ahead
        self._compare(self.desk.ledger.void(name, epoch).exists, self.model.void(name, epoch))

    @rule(name=names)
    def expire(self, name: str) -> None:
        message = self.model.messages.get(name)
        ages = message is not None and message.state in ("done", "dead") and not message.outbox
        self._compare(self.client.pttl(f"dlq:msg:{name}") > 0, ages)
        if ages:
            self.client.delete(*(f"dlq:{part}:{name}" for part in ("msg", "story", "body", "run")))
            del self.model.messages[name]

    @rule(lane=st.sampled_from(["high", "low", "alone"]))
    def lose_a_wake_up(self, lane: str) -> None:
        if self.model.lanes[lane]:
            self.model.lanes[lane].pop(0)
            self.client.lpop(f"rq:queue:{lane}")

    @rule(lane=st.sampled_from(["high", "low", "alone"]), into=st.sampled_from(["high", "low", "alone"]))
    def double_a_wake_up(self, lane: str, into: str) -> None:
        if self.model.lanes[lane] and len(self.model.lanes[into]) < 4:
            name, epoch, attempt, n = self.model.lanes[lane][0]
            self.model.lanes[into].append((name, epoch, attempt, n))
            self.client.rpush(f"rq:queue:{into}", f"m-{name}-{epoch}-{attempt}-{n}")

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "desk"):
            return
        for name in IDS:
            record, message = self.desk.ledger.get(name), self.model.messages.get(name)
            assert (record is None) == (message is None)
            if record and message:
                seen = (record.state, record.epoch, record.attempt, record.fence, record.recoveries, record.deferrals)
                assert (*seen, record.outbox) == message.seen
        for lane, jobs in self.model.lanes.items():
            assert [job.decode() for job in self.client.lrange(f"rq:queue:{lane}", 0, -1)] == [
                f"m-{name}-{epoch}-{attempt}-{n}" for name, epoch, attempt, n in jobs
            ]

    @invariant()
    def the_accounts_add_up(self) -> None:
        if not hasattr(self, "desk"):
            return
        account = self.model.account
        assert self.desk.account() == (account["accepted"], account["done"], account["dead"], account["open"])
        assert min(account.values(), default=0) >= 0
        assert account["open"] == sum(message.state in OPEN for message in self.model.messages.values())

    @invariant()
    def everything_open_is_where_somebody_will_find_it(self) -> None:
        if not hasattr(self, "desk"):
            return
        figures = self.desk.ledger.figures()
        states = Counter(message.state for message in self.model.messages.values())
        assert (figures.scheduled, figures.retry_wait, figures.running) == (
            states["scheduled"], states["retry_wait"], states["running"],
        )  # fmt: skip
        assert sum(lane.waiting for lane in figures.lanes) == states["queued"]
        assert figures.outbox == sum(bool(message.outbox) for message in self.model.messages.values())


def test_the_scripts_do_what_their_model_does(redis_client: redis.Redis) -> None:
    machine = type("Machine", (Ledgers,), {"client": redis_client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            database=None,
        ),
    )
