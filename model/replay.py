"""A dead letter and its replays, up to the same id being accepted anew.

The first death is on its way into MongoDB. Clicks (operators, the DLQ worker: the same steps) claim the letter, forward
its message, or void and release. The sweep repairs claims that nobody carries on, drainers write outcomes into the
letter, records and void marks expire after a day, the id is accepted again, the resolved letter is purged, or replayed
once more by somebody who insists. Any request may be answered late, never, or land long after its sender has given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from model.search import Model, Step

#: Running stands for everything between queued and its outcome: that part is the model of one message.
ABSENT, RUNNING, DONE, DEAD_PENDING, DEAD = "absent", "running", "done", "dead_pending", "dead"
#: Waiting stands for dlq_pending, dlq_failed and dlq_manual.
WAITING, PROCESSING, RESOLVED = "waiting", "processing", "resolved"
IDLE, CLAIM, READ_BACK, FORWARD, VOID, RELEASE, END = "idle", "claim", "read back", "forward", "void", "release", "end"
WRITE, DRAIN = "write", "drain"
NOBODY = -1

CLAIM_ONE_UPDATE = "claim: one conditional update on status and fence as read"
CLAIM_DRAWS_EPOCH = "claim: draws an epoch of its own"
CLAIM_READ_BACK = "claim: a lost answer is read back by the replay's id"
FORWARD_SAME_EPOCH = "forward: the same epoch again is nothing new"
FORWARD_NEWER = "forward: never over a newer epoch"
FORWARD_FORGOTTEN = "forward: makes the record that Redis has forgotten"
FORWARD_PENDING = "forward: also over the death that the letter already has"
FORWARD_VOID = "forward: never at or below the void mark"
FORWARD_DEADLINE = "forward: never after the deadline of its claim"
FORWARD_ACCOUNTS = "forward: moves the accounts in its script"
FORWARD_ENDED = "forward: a forgotten message leaves the account that the letter names"
RELEASE_VOIDED = "release: only after void, also by the claimant"
RELEASE_FENCE = "release: fence equal"
SWEEP_VOIDS = "sweep: looks and bars in one script"
OUTBOX_SETTLES = "settle: by the outbox, never by the worker"
LETTER_CLOSED = "letter: one outcome per epoch (closedEpoch)"
DEATH_CLOSES = "death: closes older attempts as superseded"
DRAINED_MATCH = "drained: state and epoch equal"
EXPIRE_DRAINED = "expiry: never while the outbox holds it"
ACCEPT_CLOCK = "accept: epoch from the server's clock"
PURGE_LATER = "purge: only when no write can be under way any more"


class Record(NamedTuple):
    state: str = ABSENT
    epoch: int = 0
    #: Which of the contents accepted under this id.
    content: int = 0
    #: Number of the click whose replay this is.
    replay: int = NOBODY
    outbox: bool = False


class Attempt(NamedTuple):
    replay: int
    epoch: int
    outcome: str = ""


class Letter(NamedTuple):
    status: str
    fence: int
    closed_epoch: int
    content: int
    replay: int = NOBODY
    #: The status before the claim.
    came_from: str = WAITING
    failed_replays: int = 0
    attempts: tuple[Attempt, ...] = ()


class Order(NamedTuple):
    """What a claim brings back and a forward carries."""

    epoch: int
    death_seen: int
    content: int
    #: How the message ended, as far as the letter knows.
    ended: str


NO_ORDER = Order(0, 0, 0, "")


class Click(NamedTuple):
    doing: str = IDLE
    order: Order = NO_ORDER
    #: The letter's fence as it was read.
    saw: int = 0


class Fate(NamedTuple):
    """What really became of a click, known to nobody inside."""

    forwarded: bool = False
    #: The last epoch of it that was barred.
    voided: int = 0
    #: The last epoch of it that was reported as never started.
    released: int = 0
    outcome: str = ""


class Outcome(NamedTuple):
    """What a drainer has read from the outbox."""

    state: str
    epoch: int
    content: int
    replay: int


class Drainer(NamedTuple):
    doing: str = IDLE
    outcome: Outcome | None = None


class Late(NamedTuple):
    """A request whose sender has given up waiting."""

    what: str
    click: int = NOBODY
    order: Order = NO_ORDER
    outcome: Outcome | None = None
    saw: int = 0


class Accounts(NamedTuple):
    accepted: int = 1
    done: int = 0
    dead: int = 0
    open: int = 1


class Budget(NamedTuple):
    kills: int = 0
    lost_answers: int = 0
    late_requests: int = 0
    #: Sweeps that come while the claimant is merely slow.
    early_sweeps: int = 0
    #: Things forgotten because a day has passed.
    days: int = 0
    accepted_again: int = 0
    purges: int = 0
    #: Clicks that give up before they forward (the circuit breaker refuses).
    refusals: int = 0


class World(NamedTuple):
    record: Record
    letter: Letter | None
    clicks: tuple[Click, ...]
    fates: tuple[Fate, ...]
    drainers: tuple[Drainer, Drainer]
    #: (replay, epoch) that a sweep has voided and is about to release.
    sweep: tuple[int, int] | None
    late: Late | None
    void_mark: int
    #: Every claim up to this epoch was made more than four minutes ago.
    past_deadline: int
    accounts: Accounts
    contents: int
    purged: bool
    budget: Budget
    broken: str = ""


class ReplayModel(Model[World]):
    name = "replay"
    guards = (
        CLAIM_ONE_UPDATE, CLAIM_DRAWS_EPOCH, CLAIM_READ_BACK, FORWARD_SAME_EPOCH, FORWARD_NEWER, FORWARD_FORGOTTEN,
        FORWARD_PENDING, FORWARD_VOID, FORWARD_DEADLINE, FORWARD_ACCOUNTS, FORWARD_ENDED, RELEASE_VOIDED, RELEASE_FENCE,
        SWEEP_VOIDS, OUTBOX_SETTLES, LETTER_CLOSED, DEATH_CLOSES, DRAINED_MATCH, EXPIRE_DRAINED, ACCEPT_CLOCK,
        PURGE_LATER,
    )  # fmt: skip

    def __init__(self, dropped: Collection[str] = (), clicks: int = 2, forced: int = 0, **budget: int) -> None:
        """``forced``: that many of the clicks, the last ones, also replay a letter that is resolved."""
        super().__init__(dropped)
        self.clicks = clicks
        self.forced = range(clicks - forced, clicks)
        self.budget = Budget(**budget)

    def initial(self) -> World:
        return World(
            record=Record(DEAD_PENDING, epoch=10, content=1, outbox=True),
            letter=None,
            clicks=(Click(),) * self.clicks,
            fates=(Fate(),) * self.clicks,
            drainers=(Drainer(), Drainer()),
            sweep=None,
            late=None,
            void_mark=0,
            past_deadline=0,
            accounts=Accounts(),
            contents=1,
            purged=False,
            budget=self.budget,
        )

    def steps(self, world: World) -> Iterator[Step[World]]:
        for i, click in enumerate(world.clicks):
            if click.doing != END:
                yield from self.click(world, i, click)
        yield from self.sweep(world)
        for i, drainer in enumerate(world.drainers):
            if i == 0 or drainer != world.drainers[0]:
                yield from self.drain(world, i, drainer)
        yield from self.land(world)
        yield from self.run(world)
        yield from self.expire(world)
        yield from self.accept_again(world)
        yield from self.purge(world)

    # -- a click, step by step ------------------------------------------------------------------------------------

    def click(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        if click.doing == IDLE:
            letter = world.letter
            if letter is not None:
                then = Click(CLAIM, saw=letter.fence) if self.may_claim(letter, i) else Click(END)
                yield Step(f"click {i} reads the letter: {letter.status}", set_click(world, i, then))
            elif not world.record.outbox:
                yield Step(f"click {i} finds no letter", set_click(world, i, Click(END)))
            return
        if world.budget.kills:
            killed = spend(set_click(world, i, Click(END)), "kills")
            yield Step(f"click {i} is killed before it could {click.doing}", killed, fault=True)
        step = {
            CLAIM: self.click_claims,
            READ_BACK: self.click_reads_back,
            FORWARD: self.click_forwards,
            VOID: self.click_voids,
            RELEASE: self.click_releases,
        }[click.doing]
        yield from step(world, i, click)

    def click_claims(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        after, order = self.claim(world, i, click.saw)
        look = set_click(world, i, Click(READ_BACK))
        if order is None:
            yield Step(f"click {i} claims: refused", look)
        else:
            yield Step(f"click {i} claims epoch {order.epoch}", set_click(after, i, Click(FORWARD, order)))
            if world.budget.lost_answers:
                lost = spend(set_click(after, i, Click(READ_BACK)), "lost_answers")
                yield Step(f"click {i} claims epoch {order.epoch}, answer lost", lost, fault=True)
        if world.budget.late_requests and world.late is None:
            late = spend(look, "late_requests")._replace(late=Late(CLAIM, i, saw=click.saw))
            yield Step(f"click {i} claims, times out, under way", late, fault=True)

    def click_reads_back(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        """After a claim that failed or was not answered: the letter says whose it is."""
        letter = world.letter
        mine = letter is not None and letter.status == PROCESSING and letter.replay == i
        if letter and mine and self.on(CLAIM_READ_BACK):
            yield Step(f"click {i} looks: its own claim", set_click(world, i, Click(FORWARD, order_of(letter))))
        elif letter and self.may_claim(letter, i):
            yield Step(f"click {i} looks: {letter.status}", set_click(world, i, Click(CLAIM, saw=letter.fence)))
        else:
            if mine:
                world = world._replace(broken="X4 a click was told that somebody else replays, and it is its own claim")
            yield Step(f"click {i} looks: in other hands", set_click(world, i, Click(END)))

    def click_forwards(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        order, give_up = click.order, Click(VOID, click.order)
        after, answer = self.forward(world, i, order)
        then = Click(END) if answer == "forwarded" else give_up
        yield Step(f"click {i} forwards: {answer}", set_click(after, i, then))
        if world.budget.lost_answers:
            yield Step(f"click {i} forwards: {answer}, answer lost", spend(after, "lost_answers"), fault=True)
        if world.budget.late_requests and world.late is None:
            late = spend(set_click(world, i, give_up), "late_requests")
            yield Step(
                f"click {i} forwards, times out, under way", late._replace(late=Late(FORWARD, i, order)), fault=True
            )
        if world.budget.refusals:
            yield Step(f"click {i} is refused by the breaker", spend(set_click(world, i, give_up), "refusals"))

    def click_voids(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        after, exists = world, False
        if self.on(RELEASE_VOIDED):
            after, exists = self.void(world, i, click.order.epoch)
        then = Click(END) if exists else Click(RELEASE, click.order)
        yield Step(f"click {i} voids: {'exists' if exists else 'voided'}", set_click(after, i, then))

    def click_releases(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        after = self.release(world, click.order.epoch)
        yield Step(f"click {i} releases", set_click(after, i, Click(END)))
        if world.budget.lost_answers:
            yield Step(f"click {i} releases, answer lost", spend(after, "lost_answers"), fault=True)

    # -- moves: one conditional update or one script each ---------------------------------------------------------

    def claim(self, world: World, i: int, saw: int) -> tuple[World, Order | None]:
        letter = world.letter
        if letter is None:
            return world, None
        stolen = letter.status == PROCESSING and not self.on(CLAIM_ONE_UPDATE)
        as_read = self.may_claim(letter, i) and letter.fence == saw
        if not as_read and not stolen:
            return world, None
        epoch = (letter.fence if self.on(CLAIM_DRAWS_EPOCH) else letter.closed_epoch) + 1
        claimed = letter._replace(
            status=PROCESSING,
            fence=epoch,
            replay=i,
            came_from=letter.came_from if stolen else letter.status,
            attempts=(*letter.attempts, Attempt(i, epoch)),
        )
        return world._replace(letter=claimed), order_of(claimed)

    def may_claim(self, letter: Letter, i: int) -> bool:
        return letter.status == WAITING or (letter.status == RESOLVED and i in self.forced)

    def forward(self, world: World, i: int, order: Order) -> tuple[World, str]:
        after, answer = self.judge_forward(world, i, order)
        letter, record = world.letter, world.record
        if letter and letter.status == PROCESSING and letter.fence == order.epoch and not world.fates[i].forwarded:
            recorded_death = record.state == DEAD_PENDING and letter.closed_epoch >= record.epoch
            if (
                answer == "unknown"
                or (answer == "voided" and world.fates[i].voided != order.epoch)
                or (answer == "busy" and recorded_death)
            ):
                return after._replace(broken=f"X4 a valid claim was answered '{answer}', nothing is in flight"), answer
        return after, answer

    def judge_forward(self, world: World, i: int, order: Order) -> tuple[World, str]:
        record = world.record
        known = record.state != ABSENT
        if known and record.epoch == order.epoch:
            if record.replay != i:
                world = world._replace(broken="I6 a click was told 'forwarded', but another one's content runs")
            if self.on(FORWARD_SAME_EPOCH):
                return world, "forwarded"
        if order.epoch <= world.void_mark and self.on(FORWARD_VOID):
            return world, "voided"
        if order.epoch <= world.past_deadline and self.on(FORWARD_DEADLINE):
            return world, "too late"
        if not known:
            if not self.on(FORWARD_FORGOTTEN):
                return world, "unknown"
            was = order.ended if self.on(FORWARD_ENDED) else DEAD
            return self.forwarded(world, i, order, was), "forwarded"
        if record.epoch > order.epoch and self.on(FORWARD_NEWER):
            return world, "superseded"
        if record.state == DEAD:
            return self.forwarded(world, i, order, DEAD), "forwarded"
        if record.state == DEAD_PENDING and record.epoch <= order.death_seen:
            if not self.on(FORWARD_PENDING):
                return world, "busy"
            return self.forwarded(world, i, order, DEAD_PENDING), "forwarded"
        if record.epoch == order.epoch and not self.on(FORWARD_SAME_EPOCH):
            return self.forwarded(world, i, order, RUNNING), "forwarded"
        if record.state in (RUNNING, DEAD_PENDING) or record.outbox:
            return world, "busy"
        if i in self.forced:
            return self.forwarded(world, i, order, DONE), "forwarded"
        return world, "already done"

    def forwarded(self, world: World, i: int, order: Order, was: str) -> World:
        fate, broken = world.fates[i], world.broken
        if fate.forwarded:
            broken = "I6 one click ran twice"
        elif fate.released >= order.epoch:
            broken = "I6 a click that was reported as not started ran after all"
        elif world.record.state == RUNNING:
            broken = "I1 an open message was overwritten"
        world = world._replace(record=Record(RUNNING, order.epoch, order.content, i), broken=broken)
        if was in (DONE, DEAD) and self.on(FORWARD_ACCOUNTS):
            world = count(world, done=-(was == DONE), dead=-(was == DEAD), open=1)
        return set_fate(world, i, fate._replace(forwarded=True))

    def void(self, world: World, i: int, epoch: int) -> tuple[World, bool]:
        """Look whether the epoch's message exists; if not, see to it that it never will."""
        if world.record.state != ABSENT and world.record.epoch == epoch:
            return world, True
        world = set_fate(world, i, world.fates[i]._replace(voided=epoch))
        return world._replace(void_mark=max(world.void_mark, epoch)), False

    def release(self, world: World, fence: int) -> World:
        letter = world.letter
        if letter is None or letter.status != PROCESSING or (letter.fence != fence and self.on(RELEASE_FENCE)):
            return world
        i = letter.replay
        kept = tuple(a for a in letter.attempts if a.epoch != letter.fence or a.outcome)
        fate, record = world.fates[i], world.record
        back = letter._replace(status=letter.came_from, replay=NOBODY, came_from=WAITING, attempts=kept)
        world = world._replace(letter=back)
        if fate.forwarded and not fate.outcome and record.replay == i:
            world = world._replace(broken="I6 a click was released while its message runs")
        return set_fate(world, i, fate._replace(released=letter.fence))

    # -- the sweep ------------------------------------------------------------------------------------------------

    def sweep(self, world: World) -> Iterator[Step[World]]:
        if world.sweep:
            i, fence = world.sweep
            yield Step("the sweep releases", self.release(world, fence)._replace(sweep=None))
            if world.budget.kills:
                killed = spend(world._replace(sweep=None), "kills")
                yield Step("the sweep is killed before it could release", killed, fault=True)
            return
        letter = world.letter
        if letter is None or letter.status != PROCESSING:
            return
        i, fence = letter.replay, letter.fence
        early = world.clicks[i].doing not in (IDLE, END)
        if early and not world.budget.early_sweeps:
            return
        after = spend(world, "early_sweeps") if early else world
        exists = world.record.state != ABSENT and world.record.epoch == fence
        if self.on(SWEEP_VOIDS):
            after, exists = self.void(after, i, fence)
        label = f"the sweep looks at {'a slow' if early else 'an abandoned'} claim"
        if not exists:
            yield Step(f"{label}: no message", after._replace(sweep=(i, fence)), fault=early)
        elif early:
            yield Step(f"{label}: its message exists", after, fault=True)

    # -- the message itself ---------------------------------------------------------------------------------------

    def run(self, world: World) -> Iterator[Step[World]]:
        record = world.record
        if record.state != RUNNING:
            return
        is_replay = record.replay != NOBODY
        if is_replay:
            fate = world.fates[record.replay]
            dead = set_fate(world, record.replay, fate._replace(outcome=DEAD))
            done = set_fate(world, record.replay, fate._replace(outcome=DONE))
        else:
            dead = done = world
        yield Step("the message dies", dead._replace(record=record._replace(state=DEAD_PENDING, outbox=True)))
        done = count(done, done=1, open=-1)
        if self.on(OUTBOX_SETTLES) or not is_replay:
            yield Step("the message is done", done._replace(record=record._replace(state=DONE, outbox=is_replay)))
            return
        unsettled = done._replace(record=record._replace(state=DONE, outbox=False))
        outcome = Outcome(DONE, record.epoch, record.content, record.replay)
        yield Step("the message is done, its worker settles the letter", self.write_letter(unsettled, outcome))
        if world.budget.kills:
            yield Step("the worker is killed before it settles", spend(unsettled, "kills"), fault=True)

    # -- from the outbox to the letter ----------------------------------------------------------------------------

    def drain(self, world: World, i: int, drainer: Drainer) -> Iterator[Step[World]]:
        record, outcome = world.record, drainer.outcome
        if outcome is None:
            if record.outbox:
                found = Drainer(WRITE, Outcome(record.state, record.epoch, record.content, record.replay))
                yield Step("a drainer reads the outbox", set_drainer(world, i, found))
            return
        if world.budget.kills:
            killed = spend(set_drainer(world, i, Drainer()), "kills")
            yield Step(f"a drainer is killed before it could {drainer.doing}", killed, fault=True)
        if drainer.doing == DRAIN:
            yield Step("drained", set_drainer(self.drained(world, outcome), i, Drainer()))
            return
        written = self.write_letter(world, outcome)
        label = f"the letter is told: {outcome.state}"
        yield Step(label, set_drainer(written, i, Drainer(DRAIN, outcome)))
        if world.budget.lost_answers:
            yield Step(f"{label}, answer lost", spend(written, "lost_answers"), fault=True)
        if world.budget.late_requests and world.late is None:
            late = spend(world._replace(late=Late(WRITE, outcome=outcome)), "late_requests")
            yield Step("telling the letter times out, under way", late, fault=True)

    def write_letter(self, world: World, outcome: Outcome) -> World:
        letter = world.letter
        if letter is None:
            if outcome.state == DEAD_PENDING:
                letter = Letter(WAITING, outcome.epoch, outcome.epoch, outcome.content)
            return world._replace(letter=letter)
        if letter.closed_epoch >= outcome.epoch and self.on(LETTER_CLOSED):
            return world
        if letter.fence > outcome.epoch:  # only when Redis fell back, see the model of that
            return world
        return self.settle(world, letter, outcome) if outcome.state == DONE else self.death(world, letter, outcome)

    def settle(self, world: World, letter: Letter, outcome: Outcome) -> World:
        return world._replace(
            letter=letter._replace(
                status=RESOLVED,
                fence=outcome.epoch,
                closed_epoch=outcome.epoch,
                replay=NOBODY,
                came_from=WAITING,
                attempts=ended(letter.attempts, outcome, DONE),
            )
        )

    def death(self, world: World, letter: Letter, outcome: Outcome) -> World:
        attempts = ended(letter.attempts, outcome, DEAD)
        if self.on(DEATH_CLOSES):
            for attempt in attempts:
                if not attempt.outcome and attempt.epoch < outcome.epoch:
                    fate = world.fates[attempt.replay]
                    world = set_fate(world, attempt.replay, fate._replace(released=attempt.epoch))
            attempts = tuple(a for a in attempts if a.outcome or a.epoch >= outcome.epoch)
        return world._replace(
            letter=Letter(
                WAITING,
                max(letter.fence, outcome.epoch),
                outcome.epoch,
                outcome.content,
                failed_replays=letter.failed_replays + (outcome.replay != NOBODY),
                attempts=attempts,
            )
        )

    def drained(self, world: World, outcome: Outcome) -> World:
        record = world.record
        fits = record.outbox and (record.state, record.epoch) == (outcome.state, outcome.epoch)
        if not fits and (self.on(DRAINED_MATCH) or record.state not in (DEAD_PENDING, DONE)):
            return world
        if record.state == DONE:
            return world._replace(record=record._replace(outbox=False))
        told = world.purged or (world.letter is not None and world.letter.closed_epoch >= record.epoch)
        if not told:
            world = world._replace(broken="I5 dead, but the letter does not have this death")
        return count(world._replace(record=record._replace(state=DEAD, outbox=False)), dead=1, open=-1)

    # -- what comes late, what is forgotten, what comes anew ------------------------------------------------------

    def land(self, world: World) -> Iterator[Step[World]]:
        late = world.late
        if late is None:
            return
        world = world._replace(late=None)
        if late.what == CLAIM:
            yield Step(f"the late claim of click {late.click} lands", self.claim(world, late.click, late.saw)[0])
        elif late.what == FORWARD:
            after, answer = self.forward(world, late.click, late.order)
            yield Step(f"the late forward of click {late.click} lands: {answer}", after)
        elif late.outcome is not None:
            yield Step(f"the late outcome {late.outcome.state} lands", self.write_letter(world, late.outcome))

    def expire(self, world: World) -> Iterator[Step[World]]:
        """A day after it ended, or was barred. Claims made before that are long past their deadline."""
        if not world.budget.days:
            return
        record = world.record
        ended = record.state in (DONE, DEAD) and not record.outbox
        if ended or (record.state in (DONE, DEAD_PENDING) and not self.on(EXPIRE_DRAINED)):
            gone = world._replace(record=Record(), past_deadline=max(world.past_deadline, record.epoch))
            if record.state == DEAD_PENDING:
                gone = count(gone, dead=1, open=-1)
            yield Step("the record expires", spend(gone, "days"))
        if world.void_mark:
            gone = world._replace(void_mark=0, past_deadline=max(world.past_deadline, world.void_mark))
            yield Step("the void mark expires", spend(gone, "days"))

    def accept_again(self, world: World) -> Iterator[Step[World]]:
        if not world.budget.accepted_again or world.record.state != ABSENT:
            return
        contents = world.contents + 1
        epoch = 10 * contents if self.on(ACCEPT_CLOCK) else 10
        anew = world._replace(record=Record(RUNNING, epoch, contents), contents=contents)
        yield Step("the id is accepted again", spend(count(anew, accepted=1, open=1), "accepted_again"))

    def purge(self, world: World) -> Iterator[Step[World]]:
        if not world.budget.purges or world.letter is None or world.letter.status != RESOLVED:
            return
        late = world.late is not None and world.late.what == WRITE
        if self.on(PURGE_LATER) and (late or any(d.doing == WRITE for d in world.drainers)):
            return
        yield Step("the resolved letter is purged", spend(world._replace(letter=None, purged=True), "purges"))

    # -- what must hold -------------------------------------------------------------------------------------------

    def violation(self, world: World) -> str:
        record, letter, accounts = world.record, world.letter, world.accounts
        if world.broken:
            return world.broken
        is_open = record.state in (RUNNING, DEAD_PENDING)
        if accounts.accepted != accounts.done + accounts.dead + accounts.open or accounts.open != is_open:
            return "I10 the accounts do not add up"
        if accounts.done < 0 or accounts.dead < 0:
            return "I10 fewer than none are done or dead"
        holds = letter is not None and (letter.status, letter.fence) == (PROCESSING, record.epoch)
        if record.state == RUNNING and record.replay != NOBODY and not holds:
            return "I9 a replay runs whose letter it does not hold"
        if letter is None:
            return ""
        if any(a.outcome and a.outcome != world.fates[a.replay].outcome for a in letter.attempts):
            return "X3 the letter tells another outcome than the one that happened"
        if letter.failed_replays > sum(fate.outcome == DEAD for fate in world.fates):
            return "X3 a failed replay was counted twice"
        return ""

    def settled(self, world: World) -> bool:
        """Ended, nothing on its way, no claim open, and the letter tells every replay that happened."""
        letter = world.letter
        busy = (
            world.record.state in (RUNNING, DEAD_PENDING)
            or world.record.outbox
            or world.late is not None
            or world.sweep is not None
            or any(drainer.doing != IDLE for drainer in world.drainers)
            or any(click.doing != END for click in world.clicks)
        )
        if busy or letter is None:
            return not busy and world.purged
        if letter.status == PROCESSING or any(not a.outcome for a in letter.attempts):
            return False
        told = {a.replay: a.outcome for a in letter.attempts}
        return world.purged or all(fate.outcome == told.get(i, "") for i, fate in enumerate(world.fates))


def order_of(letter: Letter) -> Order:
    return Order(letter.fence, letter.closed_epoch, letter.content, DONE if letter.came_from == RESOLVED else DEAD)


def ended(attempts: tuple[Attempt, ...], outcome: Outcome, how: str) -> tuple[Attempt, ...]:
    mine = (outcome.replay, outcome.epoch)
    return tuple(a._replace(outcome=how) if (a.replay, a.epoch) == mine else a for a in attempts)


def spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def set_click(world: World, i: int, click: Click) -> World:
    return world._replace(clicks=(*world.clicks[:i], click, *world.clicks[i + 1 :]))


def set_fate(world: World, i: int, fate: Fate) -> World:
    return world._replace(fates=(*world.fates[:i], fate, *world.fates[i + 1 :]))


def set_drainer(world: World, i: int, drainer: Drainer) -> World:
    """Drainers are alike: keeping them in order halves the states."""
    first, second = sorted((drainer, world.drainers[1 - i]), key=lambda d: (d.doing, d.outcome or ()))
    return world._replace(drainers=(first, second))


def count(world: World, accepted: int = 0, done: int = 0, dead: int = 0, open: int = 0) -> World:
    a = world.accounts
    return world._replace(accounts=Accounts(a.accepted + accepted, a.done + done, a.dead + dead, a.open + open))
