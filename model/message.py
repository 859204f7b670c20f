"""One message from acceptance to done or dead.

One message id that a client submits (again and again, also after its record has expired), two workers, two drainers,
the upkeep of anybody. Wake-ups get lost and doubled, answers get lost, processes are killed or paused beyond their
lease, a write to MongoDB lands long after its time-out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from model.search import Model, Step

ABSENT, QUEUED, RUNNING, RETRY_WAIT, DONE, DEAD_PENDING, DEAD = (
    "absent", "queued", "running", "retry_wait", "done", "dead_pending", "dead",
)  # fmt: skip
#: Only a mutant gets here: out of the index, and not yet in the lane.
NOWHERE = "nowhere"

IDLE, CLAIMING, HANDLING = "idle", "claiming", "handling"
COMPLETE, FAIL, GIVE_UP, DEFER = "complete", "fail", "give up", "defer"
WRITE, DRAIN = "write", "drain"

MAX_RETRIES = 1
MAX_LOSSES = 3

ACCEPT_ONCE = "accept: only an id that has no record"
ACCEPT_CLOCK = "accept: epoch from the server's clock"
ACCOUNTS_TOGETHER = "accounts: moved in the script that moves the state"
CLAIM_QUEUED = "claim: only from queued"
CLAIM_MATCH = "claim: epoch and attempt equal the wake-up's"
CLAIM_FENCE = "claim: fence from the server's clock"
CLAIM_REPEAT = "claim: repeated with its token gives the same answer"
OUTCOME_RUNNING = "outcome: only from running"
OUTCOME_FENCE = "outcome: fence equal"
DEFER_UNSPENT = "defer: attempt unchanged"
DUE_LEASE = "due: lease read inside the script"
DUE_FENCE = "due: takes the fence away with the lease"
DUE_LOSSES = "due: the third loss is the end"
DUE_TOGETHER = "due: index and lane changed by one script"
WAKE_AGAIN = "wake again: a queued message whose wake-up is gone"
DRAINED_LATER = "drained: only after MongoDB acknowledged"
DRAINED_MATCH = "drained: state and epoch equal"
LETTER_CLOSED = "letter: one outcome per epoch (closedEpoch)"
EXPIRE_ENDED = "expiry: only of what has ended"


class Record(NamedTuple):
    state: str = ABSENT
    epoch: int = 0
    attempt: int = 0
    fence: int = 0
    recoveries: int = 0
    lease_over: bool = False


class Wakeup(NamedTuple):
    epoch: int
    attempt: int


class Worker(NamedTuple):
    doing: str = IDLE
    fence: int = 0
    epoch: int = 0


class Drainer(NamedTuple):
    doing: str = IDLE
    death: tuple[int, int] = (0, 0)  # epoch and which of the accepted contents


class Letter(NamedTuple):
    closed_epoch: int
    content: int
    deaths: int


class Accounts(NamedTuple):
    accepted: int = 0
    done: int = 0
    dead: int = 0
    open: int = 0


class History(NamedTuple):
    """What really happened, known to nobody inside: counts of the present epoch, then of all."""

    runs: int = 0
    failures: int = 0
    losses: int = 0
    deferrals: int = 0
    accepted: int = 0
    promised: bool = False
    expired: bool = False
    #: The last fence whose outcome was applied.
    spoken: int = 0


class Budget(NamedTuple):
    """How often each of these may still happen."""

    requests: int = 1
    lost_wakeups: int = 0
    doubled_wakeups: int = 0
    kills: int = 0
    pauses: int = 0
    lost_answers: int = 0
    late_writes: int = 0
    expiries: int = 0
    deferrals: int = 0


class World(NamedTuple):
    record: Record
    lane: tuple[Wakeup, ...]
    workers: tuple[Worker, ...]
    drainers: tuple[Drainer, ...]
    letter: Letter | None
    late_write: tuple[int, int] | None
    accounts: Accounts
    history: History
    budget: Budget
    #: The server's clock, as far as it shows: the highest fence drawn.
    clock: int = 0
    broken: str = ""


def spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def push_wakeup(world: World) -> World:
    """A third copy of the same wake-up would behave like the second: two are kept."""
    wakeup = Wakeup(world.record.epoch, world.record.attempt)
    if world.lane.count(wakeup) >= 2:
        return world
    return world._replace(lane=tuple(sorted((*world.lane, wakeup))))


def without(lane: tuple[Wakeup, ...], wakeup: Wakeup) -> tuple[Wakeup, ...]:
    at = lane.index(wakeup)
    return lane[:at] + lane[at + 1 :]


def set_worker(world: World, i: int, worker: Worker) -> World:
    """Workers are alike: keeping them sorted halves the states."""
    return world._replace(workers=tuple(sorted((worker, world.workers[1 - i]))))


def set_drainer(world: World, i: int, drainer: Drainer) -> World:
    return world._replace(drainers=tuple(sorted((drainer, world.drainers[1 - i]))))


def count(world: World, accepted: int = 0, done: int = 0, dead: int = 0, open: int = 0) -> World:
    a = world.accounts
    return world._replace(accounts=Accounts(a.accepted + accepted, a.done + done, a.dead + dead, a.open + open))


class MessageModel(Model[World]):
    name = "message"
    guards = (
        ACCEPT_ONCE, ACCEPT_CLOCK, ACCOUNTS_TOGETHER, CLAIM_QUEUED, CLAIM_MATCH, CLAIM_FENCE, CLAIM_REPEAT,
        OUTCOME_RUNNING, OUTCOME_FENCE, DEFER_UNSPENT, DUE_LEASE, DUE_FENCE, DUE_LOSSES, DUE_TOGETHER, WAKE_AGAIN,
        DRAINED_LATER, DRAINED_MATCH, LETTER_CLOSED, EXPIRE_ENDED,
    )  # fmt: skip

    def __init__(self, dropped: Collection[str] = (), **budget: int) -> None:
        super().__init__(dropped)
        self.budget = Budget(**budget)

    def initial(self) -> World:
        return World(
            Record(), (), (Worker(), Worker()), (Drainer(), Drainer()), None, None, Accounts(), History(), self.budget
        )

    def steps(self, world: World) -> Iterator[Step[World]]:
        yield from self.accept(world)
        yield from self.carry(world)
        for i, worker in enumerate(world.workers):
            if i == 0 or worker != world.workers[0]:
                yield from self.work(world, i, worker)
        yield from self.due(world)
        for i, drainer in enumerate(world.drainers):
            if i == 0 or drainer != world.drainers[0]:
                yield from self.drain(world, i, drainer)
        yield from self.late(world)
        yield from self.expire(world)

    # -- intake ---------------------------------------------------------------------------------------------------

    def accept(self, world: World) -> Iterator[Step[World]]:
        if not world.budget.requests:
            return
        after, answer = spend(world, "requests"), "duplicate"
        if world.record.state == ABSENT or not self.on(ACCEPT_ONCE):
            after, answer = self.accepted(after), "accepted"
            if world.record.state not in (ABSENT, DONE, DEAD):
                after = after._replace(broken="I1 an open message was overwritten")
        told = after._replace(history=after.history._replace(promised=True))
        yield Step(f"accept: {answer}", told)
        if world.budget.lost_answers:
            yield Step(f"accept: {answer}, answer lost", spend(after, "lost_answers"), fault=True)

    def accepted(self, world: World) -> World:
        times = world.history.accepted + 1
        epoch = 10 * times if self.on(ACCEPT_CLOCK) else 10
        world = world._replace(
            record=Record(QUEUED, epoch),
            history=History(accepted=times, promised=world.history.promised, expired=world.history.expired),
        )
        return count(push_wakeup(world), accepted=1, open=1)

    # -- wake-ups and claims --------------------------------------------------------------------------------------

    def carry(self, world: World) -> Iterator[Step[World]]:
        """Everything that can become of a wake-up that lies in the lane."""
        for wakeup in sorted(set(world.lane)):
            taken = world._replace(lane=without(world.lane, wakeup))
            if world.budget.lost_wakeups:
                yield Step("a wake-up is lost", spend(taken, "lost_wakeups"), fault=True)
            if world.budget.doubled_wakeups and world.lane.count(wakeup) < 2:
                doubled = world._replace(lane=tuple(sorted((*world.lane, wakeup))))
                yield Step("a wake-up is doubled", spend(doubled, "doubled_wakeups"), fault=True)
            if Worker() in world.workers:
                yield from self.claim(world, taken, wakeup)

    def claim(self, world: World, taken: World, wakeup: Wakeup) -> Iterator[Step[World]]:
        record, i = world.record, world.workers.index(Worker())
        matches = wakeup == (record.epoch, record.attempt)
        allowed = record.state == QUEUED or (not self.on(CLAIM_QUEUED) and record.state in (RUNNING, DONE))
        if not self.on(
            CLAIM_MATCH
        ):  # by the id alone, a message that waits for its retry looks like one that is to run
            allowed = allowed or record.state == RETRY_WAIT
        elif not matches:
            allowed = False
        if not allowed:
            yield Step("claim: nothing to run", taken)
            return
        fence = (world.clock if self.on(CLAIM_FENCE) else record.fence) + 1
        claimed = taken._replace(record=record._replace(state=RUNNING, fence=fence, lease_over=False), clock=fence)
        if record.state == RETRY_WAIT:
            claimed = claimed._replace(broken="I4 a run began before its time")
        elif record.state == DONE:
            claimed = claimed._replace(broken="I2 what was done ran again")
        yield Step("claim", self.begin(claimed, i, fence))
        if world.budget.lost_answers:
            repeats = Worker(CLAIMING, fence, record.epoch) if self.on(CLAIM_REPEAT) else Worker()
            yield Step("claim, answer lost", spend(set_worker(claimed, i, repeats), "lost_answers"), fault=True)

    def begin(self, world: World, i: int, fence: int) -> World:
        history = world.history._replace(runs=world.history.runs + 1)
        return set_worker(world._replace(history=history), i, Worker(HANDLING, fence, world.record.epoch))

    # -- workers --------------------------------------------------------------------------------------------------

    def work(self, world: World, i: int, worker: Worker) -> Iterator[Step[World]]:
        if worker.doing == IDLE:
            return
        record, history = world.record, world.history
        holds = record.state == RUNNING and record.fence == worker.fence
        if world.budget.kills:
            killed = world._replace(history=history._replace(losses=history.losses + holds))
            yield Step("a worker is killed", spend(set_worker(killed, i, Worker()), "kills"), fault=True)
        if worker.doing == CLAIMING:
            after = self.begin(world, i, worker.fence) if holds else set_worker(world, i, Worker())
            yield Step("claim, again with its token", after)
        elif worker.doing == HANDLING:
            yield from self.handle(world, i, worker)
        else:
            yield from self.flush(world, i, worker)

    def handle(self, world: World, i: int, worker: Worker) -> Iterator[Step[World]]:
        for outcome in (COMPLETE, FAIL, GIVE_UP, DEFER):
            history, after = world.history, world
            if outcome == DEFER:
                if not world.budget.deferrals:
                    continue
                after = spend(after, "deferrals")
            if worker.epoch == world.record.epoch:
                history = history._replace(
                    failures=history.failures + (outcome == FAIL), deferrals=history.deferrals + (outcome == DEFER)
                )
            after = set_worker(after._replace(history=history), i, worker._replace(doing=outcome))
            yield Step(f"the handler ends: {outcome}", after)

    def flush(self, world: World, i: int, worker: Worker) -> Iterator[Step[World]]:
        """Send one outcome; it is judged by the record alone."""
        record = world.record
        fence_fits = record.fence == worker.fence or not self.on(OUTCOME_FENCE)
        state_fits = record.state == RUNNING or (not self.on(OUTCOME_RUNNING) and record.state != ABSENT)
        after, answer = world, "stale"
        if record.fence == worker.fence and record.state != RUNNING:
            answer = "already"
            if world.history.spoken != worker.fence:
                after = world._replace(broken="X5 answered 'already', but this outcome was never applied")
        if fence_fits and state_fits:
            move = {COMPLETE: self.complete, FAIL: self.fail, GIVE_UP: self.give_up, DEFER: self.defer}[worker.doing]
            spoken = world._replace(history=world.history._replace(spoken=worker.fence))
            after, answer = move(spoken), "applied"
            if record.fence != worker.fence:
                after = after._replace(broken="I3 an outcome with an old fence was applied")
        yield Step(f"{worker.doing}: {answer}", set_worker(after, i, Worker()))
        if world.budget.lost_answers:
            yield Step(f"{worker.doing}: {answer}, answer lost", spend(after, "lost_answers"), fault=True)
        if not self.on(ACCOUNTS_TOGETHER) and answer == "applied" and world.budget.kills:
            half = set_worker(after._replace(accounts=world.accounts), i, Worker())
            yield Step("a worker is killed between state and accounts", spend(half, "kills"), fault=True)

    def complete(self, world: World) -> World:
        return count(self.moved(world, DONE), done=1, open=-1)

    def fail(self, world: World) -> World:
        if world.record.attempt >= MAX_RETRIES:
            return self.give_up(world)
        waiting = self.moved(world, RETRY_WAIT)
        return waiting._replace(record=waiting.record._replace(attempt=world.record.attempt + 1))

    def give_up(self, world: World) -> World:
        return self.moved(world, DEAD_PENDING)

    def defer(self, world: World) -> World:
        back = self.moved(world, QUEUED)
        if not self.on(DEFER_UNSPENT):
            back = back._replace(record=back.record._replace(attempt=back.record.attempt + 1))
        return push_wakeup(back)

    def moved(self, world: World, state: str) -> World:
        return world._replace(record=world.record._replace(state=state, lease_over=False))

    # -- upkeep ---------------------------------------------------------------------------------------------------

    def due(self, world: World) -> Iterator[Step[World]]:
        record, history = world.record, world.history
        if record.state == RUNNING and not record.lease_over:
            held = any(w.doing != IDLE and w.fence == record.fence for w in world.workers)
            over = world._replace(record=record._replace(lease_over=True))
            if not held:
                yield Step("the lease runs out", over)
            elif world.budget.pauses:
                paused = over._replace(history=history._replace(losses=history.losses + 1))
                yield Step("a worker is paused beyond its lease", spend(paused, "pauses"), fault=True)
        if record.state == RUNNING and (record.lease_over or not self.on(DUE_LEASE)):
            yield Step("due: the run is lost", self.recover(world))
        if record.state == RETRY_WAIT:
            yield Step("due: time for the retry", push_wakeup(self.moved(world, QUEUED)))
            if not self.on(DUE_TOGETHER) and world.budget.kills:
                half = spend(self.moved(world, NOWHERE), "kills")
                yield Step("upkeep is killed between index and lane", half, fault=True)
        gone = record.state == QUEUED and (record.epoch, record.attempt) not in world.lane
        if gone and self.on(WAKE_AGAIN):  # how it knows that the wake-up is gone is the model of lanes
            yield Step("due: wake again", push_wakeup(world))

    def recover(self, world: World) -> World:
        losses = world.record.recoveries + 1
        lost = world._replace(record=world.record._replace(recoveries=losses))
        if self.on(DUE_FENCE):
            fence = world.clock + 1
            lost = lost._replace(record=lost.record._replace(fence=fence), clock=fence)
        if losses >= MAX_LOSSES and self.on(DUE_LOSSES):
            return self.moved(lost, DEAD_PENDING)
        return push_wakeup(self.moved(lost, QUEUED))

    # -- from the outbox to the letter ----------------------------------------------------------------------------

    def drain(self, world: World, i: int, drainer: Drainer) -> Iterator[Step[World]]:
        record, death = world.record, drainer.death
        if drainer.doing == IDLE:
            if record.state == DEAD_PENDING:
                first = WRITE if self.on(DRAINED_LATER) else DRAIN
                found = Drainer(first, (record.epoch, world.history.accepted))
                yield Step("a drainer reads the outbox", set_drainer(world, i, found))
            return
        if world.budget.kills:
            yield Step("a drainer is killed", spend(set_drainer(world, i, Drainer()), "kills"), fault=True)
        if drainer.doing == WRITE:
            written = self.write_letter(world, death)
            then = Drainer(DRAIN, death) if self.on(DRAINED_LATER) else Drainer()
            yield Step("the letter is written", set_drainer(written, i, then))
            if world.budget.lost_answers:
                yield Step("the letter is written, answer lost", spend(written, "lost_answers"), fault=True)
            if world.budget.late_writes and world.late_write is None:
                under_way = spend(world._replace(late_write=death), "late_writes")
                yield Step("writing the letter times out, and is still under way", under_way, fault=True)
        else:
            then = Drainer() if self.on(DRAINED_LATER) else Drainer(WRITE, death)
            yield Step("drained", set_drainer(self.drained(world, death[0]), i, then))

    def write_letter(self, world: World, death: tuple[int, int]) -> World:
        letter, (epoch, content) = world.letter, death
        if letter is None:
            return world._replace(letter=Letter(epoch, content, 1))
        if letter.closed_epoch >= epoch and self.on(LETTER_CLOSED):
            return world
        return world._replace(letter=Letter(epoch, content, letter.deaths + 1))

    def drained(self, world: World, epoch: int) -> World:
        record = world.record
        fits = record.state == DEAD_PENDING and record.epoch == epoch
        if fits or (not self.on(DRAINED_MATCH) and record.state not in (ABSENT, DEAD)):
            return count(self.moved(world, DEAD), dead=1, open=-1)
        return world

    def late(self, world: World) -> Iterator[Step[World]]:
        if world.late_write:
            landed = self.write_letter(world, world.late_write)._replace(late_write=None)
            yield Step("the late write lands", landed)

    def expire(self, world: World) -> Iterator[Step[World]]:
        state = world.record.state
        ended = state in (DONE, DEAD)
        if world.budget.expiries and state != ABSENT and (ended or not self.on(EXPIRE_ENDED)):
            known = History(accepted=world.history.accepted, promised=world.history.promised, expired=True)
            gone = world._replace(record=Record(), history=known)
            if not ended:
                gone = gone._replace(broken="I1 the record of an open message expired")
            yield Step("the record expires", spend(gone, "expiries"))

    # -- what must hold -------------------------------------------------------------------------------------------

    def violation(self, world: World) -> str:
        record, letter, history, accounts = world.record, world.letter, world.history, world.accounts
        told = letter is not None and (letter.closed_epoch, letter.content) == (record.epoch, history.accepted)
        is_open = record.state not in (ABSENT, DONE, DEAD)
        allowed_runs = 1 + record.attempt + record.recoveries + history.deferrals
        rules = (
            (bool(world.broken), world.broken),
            (history.promised and record.state == ABSENT and not history.expired, "I1 an accepted message is missing"),
            (record.state == DONE and told, "I2 done and dead in one epoch"),
            (
                sum(w.doing != IDLE and w.fence == record.fence for w in world.workers) > 1,
                "I3 two workers hold the live fence",
            ),
            (history.runs > allowed_runs or record.recoveries > MAX_LOSSES, "I4 a run that nothing explains"),
            (record.attempt > history.failures, "I7 a retry was used up that no failure explains"),
            (record.recoveries > history.losses, "X1 a recovery was counted although no lease was lost"),
            (record.state == DEAD and not told, "I5 dead, but the letter has another outcome or none"),
            (letter is not None and letter.deaths > history.accepted, "I5 one death was written twice"),
            (
                accounts.accepted != accounts.done + accounts.dead + accounts.open
                or accounts.open != is_open
                or accounts.accepted != history.accepted,
                "I10 the accounts do not add up",
            ),
        )
        return next((name for broken, name in rules if broken), "")

    def settled(self, world: World) -> bool:
        return (
            world.record.state in (ABSENT, DONE, DEAD)
            and world.late_write is None
            and all(worker.doing == IDLE for worker in world.workers)
            and all(drainer.doing == IDLE for drainer in world.drainers)
        )
