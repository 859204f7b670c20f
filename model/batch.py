"""Replay batches: executors that may die, a canary, pauses, a cancel, a budget of failures, and others at the letters.

A batch is a frozen plan of items, each naming a letter. Two executors work on all plans at once, one step at a time:
look at an item, claim its letter, forward, mark it sent, copy what the letter says of it. A mark may come late,
after the outcome, or never: who sent a letter may copy its outcome without having marked it. Meanwhile an operator
pauses, resumes and cancels the first batch, the circuit breaker opens and closes, somebody replays the first letter by
hand, a second plan may hold the same letter. What happens inside a claim and a forward is the model of one letter's
replay; here only what a batch relies on is left of it.

Not modelled: counts (they are derived from the items), chunks and rate (they say when an item is picked, not what may
become of it), a letter that is purged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, TypeVar

from model.search import Model, Step

T = TypeVar("T")

CANARY, RUNNING, PAUSED, FINISHED, CANCELLED, STOPPED = (
    "canary", "running", "paused", "finished", "cancelled", "stopped",
)  # fmt: skip
FINAL = (FINISHED, CANCELLED, STOPPED)
OPERATOR, BREAKER = "operator", "breaker"
WAITING, PROCESSING, RESOLVED = "waiting", "processing", "resolved"
OPEN, GOOD, BAD, SKIPPED = "", "succeeded", "failed", "skipped"
IDLE, MOVE, LOOK, CLAIM, FORWARD, MARK, SKIP, COPY = (
    "idle", "move", "look", "claim", "forward", "mark", "skip", "copy",
)  # fmt: skip
WRITE, DRAIN, END = "write", "drain", "end"
#: Plans are numbered from 1; this is the replay by hand.
HAND = 0
NOBODY = -1

CLAIM_ONCE = "batch: claims a letter once, ever"
CLAIM_NOT_SKIPPED = "batch: never claims a letter that says it is skipped"
SKIP_IN_LETTER = "batch: a skip is decided in the letter before it is told"
SKIP_NOT_REPLAYED = "batch: a letter that it has replayed cannot be skipped"
LOOK_COPIES = "batch: what has ended is copied, not skipped"
ITEMS_COPY = "batch: outcomes are copies of the letter, made by any executor"
ENDED_COPIES = "batch: also a stopped one copies what it had sent"
ENDED_SKIPS = "batch: what a stopped one has not sent gets its outcome"
MARK_OPEN = "batch: an item is marked sent only while it has no outcome"
STAGE_CAS = "batch: a stage moves only from the one that was read"
CANARY_OUTCOMES = "batch: the canary is judged by outcomes, not by sends"
CANARY_FIRST = "batch: nothing beyond the canary before the verdict"
CANARY_REPLACED = "batch: a canary that was skipped is replaced by the next letter"
RESUME_BACK = "batch: resumes to the stage it was paused in"
PAUSE_KEEPS = "batch: paused twice, it still knows the stage it came from"
BREAKER_OWN = "batch: the breaker lifts only its own pause"
FINISH_ALL = "batch: finishes only when every item has its outcome"
BUDGET_EACH = "batch: failures are counted before each send"
FORWARD_ONCE = "batch: the same epoch forwarded again is nothing new"
SWEEP_VOIDS = "batch: a claim is released only after its epoch is barred"


class Batch(NamedTuple):
    stage: str
    resume_to: str = ""
    paused_by: str = ""
    #: Its canary was judged good. Known to nobody inside.
    passed: bool = False


class Item(NamedTuple):
    sent: bool = False
    outcome: str = OPEN


class Attempt(NamedTuple):
    by: int
    epoch: int
    outcome: str = OPEN


class Letter(NamedTuple):
    status: str = WAITING
    fence: int = 10
    claimed_by: int = NOBODY
    attempts: tuple[Attempt, ...] = ()
    skipped_by: tuple[int, ...] = ()


class Message(NamedTuple):
    """What intake knows. ``outcome`` open: it runs."""

    epoch: int = 0
    by: int = NOBODY
    outcome: str = OPEN
    outbox: bool = False


class Task(NamedTuple):
    """What an executor, or the replay by hand, is about to do."""

    doing: str = IDLE
    item: int = NOBODY
    epoch: int = 0
    #: For ``copy``.
    outcome: str = OPEN
    #: For ``move``: whose stage, as it was read, and what it shall become.
    batch: int = NOBODY
    read: str = ""
    to: str = ""


class Drainer(NamedTuple):
    doing: str = IDLE
    letter: int = NOBODY
    message: Message = Message()


class Budget(NamedTuple):
    kills: int = 0
    lost_answers: int = 0
    #: Claims that land after their sender gave up.
    late_claims: int = 0
    #: Sweeps that come while the claimant is merely slow.
    early_sweeps: int = 0
    pauses: int = 0
    cancels: int = 0
    trips: int = 0


class World(NamedTuple):
    batches: tuple[Batch, ...]
    items: tuple[Item, ...]
    letters: tuple[Letter, ...]
    messages: tuple[Message, ...]
    barred: tuple[int, ...]
    executors: tuple[Task, Task]
    hand: Task
    drainer: Drainer
    late: int
    breaker_open: bool
    #: The operator wants the first batch to stand still.
    held: bool
    #: (plan, letter) of everything that a batch ever set running, in order.
    sends: tuple[tuple[int, int], ...]
    budget: Budget
    broken: str = ""


class BatchModel(Model[World]):
    name = "batch"
    guards = (
        CLAIM_ONCE, CLAIM_NOT_SKIPPED, SKIP_IN_LETTER, SKIP_NOT_REPLAYED, LOOK_COPIES, ITEMS_COPY, ENDED_COPIES,
        ENDED_SKIPS, MARK_OPEN, STAGE_CAS, CANARY_OUTCOMES, CANARY_FIRST, CANARY_REPLACED, RESUME_BACK,
        PAUSE_KEEPS, BREAKER_OWN, FINISH_ALL, BUDGET_EACH, FORWARD_ONCE, SWEEP_VOIDS,
    )  # fmt: skip

    def __init__(
        self,
        dropped: Collection[str] = (),
        plan: tuple[tuple[int, int], ...] = ((1, 0), (1, 1)),
        by_hand: bool = False,
        canary: bool = True,
        max_failures: int = 9,
        **budget: int,
    ) -> None:
        """``plan``: for each item its batch, from 1, and its letter. ``canary``: the first batch sends one ahead."""
        super().__init__(dropped)
        self.plan = plan
        self.by_hand = by_hand
        self.canary = canary
        self.max_failures = max_failures
        self.budget = Budget(**budget)
        self.own = {b: [i for i, (batch, _) in enumerate(plan) if batch == b] for b in sorted({b for b, _ in plan})}

    def initial(self) -> World:
        letters = 1 + max(letter for _, letter in self.plan)
        return World(
            batches=tuple(Batch(CANARY if self.canary and b == 1 else RUNNING) for b in self.own),
            items=(Item(),) * len(self.plan),
            letters=(Letter(),) * letters,
            messages=(Message(),) * letters,
            barred=(0,) * letters,
            executors=(Task(), Task()),
            hand=Task() if self.by_hand else Task(END),
            drainer=Drainer(),
            late=NOBODY,
            breaker_open=False,
            held=False,
            sends=(),
            budget=self.budget,
        )

    def steps(self, world: World) -> Iterator[Step[World]]:
        for k, task in enumerate(world.executors):
            if k == 0 or task != world.executors[0]:
                yield from self.execute(world, k, task)
        yield from self.operate(world)
        yield from self.breaker(world)
        yield from self.replay_by_hand(world)
        yield from self.land(world)
        yield from self.run(world)
        yield from self.sweep(world)
        yield from self.drain(world)

    # -- an executor, step by step --------------------------------------------------------------------------------

    def execute(self, world: World, k: int, task: Task) -> Iterator[Step[World]]:
        if task.doing == IDLE:
            for b in self.own:
                yield from self.choose(world, k, b)
            return
        if world.budget.kills:
            killed = spend(set_task(world, k, Task()), "kills")
            yield Step(f"an executor is killed before it could {task.doing}", killed, fault=True)
        if task.doing == MOVE:
            yield self.moves_stage(world, k, task)
        elif task.doing == LOOK:
            yield self.looks(world, k, task)
        elif task.doing == CLAIM:
            yield from self.claims(world, k, task)
        elif task.doing == FORWARD:
            yield from self.forwards(world, k, task)
        elif task.doing == MARK:
            item = world.items[task.item]
            marked = item._replace(sent=True) if item.outcome == OPEN else item
            if not self.on(MARK_OPEN):
                marked = Item(sent=True)
            yield Step(f"marks {task.item} sent", set_task(set_item(world, task.item, marked), k, Task()))
            yield Step(f"marks {task.item} later", set_task(world, k, Task()))
        elif task.doing == SKIP:
            yield self.skips(world, k, task)
        elif task.doing == COPY:
            after = self.write_outcome(world, task.item, task.outcome)
            yield Step(f"copies {task.outcome} to {task.item}", set_task(after, k, Task()))

    def choose(self, world: World, k: int, b: int) -> Iterator[Step[World]]:
        """What an idle executor may begin for one batch, by what it reads now."""
        batch, items = world.batches[b - 1], world.items
        outcomes = [items[i].outcome for i in self.own[b]]
        failures = outcomes.count(BAD)
        is_over = b == 1 and failures > self.max_failures
        canary = self.canary_of(world, b)
        for i in self.own[b]:
            if items[i].outcome != OPEN:
                continue
            # An executor remembers what it has sent; what nobody has sent, nobody marks.
            was_sent = items[i].sent or self.plan[i] in world.sends
            if was_sent and not items[i].sent:
                yield Step(f"is about to mark {i} late", set_task(world, k, Task(MARK, i)))
            if was_sent and self.has_ended(world, i) and self.may_copy(batch):
                yield Step(f"looks at {i}, which was sent", set_task(world, k, Task(LOOK, i)))
            if items[i].sent:
                continue
            if batch.stage == RUNNING or (batch.stage == CANARY and (i == canary or not self.on(CANARY_FIRST))):
                if not (is_over and self.on(BUDGET_EACH)):
                    after = set_task(world, k, Task(CLAIM, i))
                    if is_over:
                        after = after._replace(broken="B6 a letter was picked although the failures allowed are passed")
                    yield Step(f"picks {i}", after)
            elif batch.stage in FINAL and self.on(ENDED_SKIPS):
                yield Step(f"looks at {i}, which was not sent", set_task(world, k, Task(LOOK, i)))
        yield from self.judge(world, k, b, is_over)

    def judge(self, world: World, k: int, b: int, is_over: bool) -> Iterator[Step[World]]:
        """The moves of a batch's stage that an executor sees reason for."""
        batch, items = world.batches[b - 1], world.items
        moves: list[str] = []
        if batch.stage == CANARY:
            canary = self.canary_of(world, b)
            first = Item(outcome=GOOD) if canary is None else items[canary]
            if first.outcome == GOOD or (first.sent and first.outcome == OPEN and not self.on(CANARY_OUTCOMES)):
                moves.append(RUNNING)
            elif first.outcome == BAD:
                moves.append(STOPPED)
        if batch.stage == RUNNING:
            if is_over:
                moves.append(STOPPED)
            has_all = all(items[i].outcome != OPEN for i in self.own[b])
            if has_all or (all(items[i].sent or items[i].outcome for i in self.own[b]) and not self.on(FINISH_ALL)):
                moves.append(FINISHED)
        if batch.stage in (CANARY, RUNNING) and world.breaker_open and b == 1:
            moves.append(PAUSED)
        may_lift = batch.paused_by == BREAKER or not self.on(BREAKER_OWN)
        if batch.stage == PAUSED and may_lift and not world.breaker_open:
            moves.append(self.back(batch))
        for to in moves:
            task = Task(MOVE, batch=b, read=batch.stage, to=to)
            yield Step(f"sees reason to move batch {b} from {batch.stage} to {to}", set_task(world, k, task))

    def moves_stage(self, world: World, k: int, task: Task) -> Step[World]:
        batch = world.batches[task.batch - 1]
        after = set_task(world, k, Task())
        # A pause is lifted by the filter on who paused, not on the stage alone.
        is_as_read = batch.stage == task.read and (
            batch.stage != PAUSED or batch.paused_by == BREAKER or not self.on(BREAKER_OWN)
        )
        if not is_as_read and self.on(STAGE_CAS):
            return Step(f"moves batch {task.batch}: no longer {task.read}", after)
        passed = batch.passed
        if task.read == CANARY and task.to == RUNNING:
            canary = self.canary_of(world, task.batch)
            passed = canary is None or world.items[canary].outcome == GOOD
        moved = Batch(task.to, passed=passed)
        if task.to == PAUSED:
            moved = Batch(PAUSED, task.read, BREAKER, passed)
        after = set_batch(after, task.batch, moved)
        if batch.stage in FINAL and task.to != batch.stage:
            after = after._replace(broken="B4 a batch left the stage that it had ended in")
        return Step(f"moves batch {task.batch} to {task.to}", after)

    def looks(self, world: World, k: int, task: Task) -> Step[World]:
        i = task.item
        b, n = self.plan[i]
        letter, is_ending = world.letters[n], world.batches[b - 1].stage in FINAL
        attempt = attempt_of(letter, b)
        then = Task(SKIP, i)
        if letter.status == PROCESSING and letter.claimed_by == b:
            then = Task() if is_ending else Task(FORWARD, i, letter.fence)
        elif attempt and attempt.outcome and self.on(LOOK_COPIES):
            then = Task(COPY, i, outcome=attempt.outcome)
        elif b in letter.skipped_by:
            then = Task(COPY, i, outcome=SKIPPED)
        elif letter.status == WAITING and not is_ending and (attempt is None or not self.on(CLAIM_ONCE)):
            then = Task()
        return Step(f"looks at {i}: {then.doing}", set_task(world, k, then))

    def claims(self, world: World, k: int, task: Task) -> Iterator[Step[World]]:
        i = task.item
        look = set_task(world, k, Task(LOOK, i))
        after, epoch = self.claim(world, *self.plan[i])
        if epoch == 0:
            yield Step(f"claims {i}: refused", look)
        else:
            yield Step(f"claims {i}: epoch {epoch}", set_task(after, k, Task(FORWARD, i, epoch)))
            if world.budget.lost_answers:
                lost = spend(set_task(after, k, Task(LOOK, i)), "lost_answers")
                yield Step(f"claims {i}, answer lost", lost, fault=True)
        if world.budget.late_claims and world.late == NOBODY:
            late = spend(look, "late_claims")._replace(late=i)
            yield Step(f"claims {i}, times out, under way", late, fault=True)

    def forwards(self, world: World, k: int, task: Task) -> Iterator[Step[World]]:
        b, n = self.plan[task.item]
        after, is_there = self.forward(world, b, n, task.epoch)
        then = Task(MARK, task.item) if is_there else Task()
        yield Step(f"forwards {task.item}: {'on its way' if is_there else 'refused'}", set_task(after, k, then))
        if is_there and world.budget.lost_answers:
            yield Step(f"forwards {task.item}, answer lost", spend(after, "lost_answers"), fault=True)

    def skips(self, world: World, k: int, task: Task) -> Step[World]:
        b, n = self.plan[task.item]
        letter = world.letters[n]
        told = set_task(world, k, Task(COPY, task.item, outcome=SKIPPED))
        if not self.on(SKIP_IN_LETTER):
            return Step(f"skips {task.item}", told)
        if attempt_of(letter, b) and self.on(SKIP_NOT_REPLAYED):
            return Step(f"may not skip {task.item}", set_task(world, k, Task(LOOK, task.item)))
        skipped = letter._replace(skipped_by=tuple(sorted({*letter.skipped_by, b})))
        return Step(f"lets the letter of {task.item} say that it is skipped", set_letter(told, n, skipped))

    def canary_of(self, world: World, b: int) -> int | None:
        """The first item that was not skipped; None when all were."""
        if not self.on(CANARY_REPLACED):
            return self.own[b][0]
        return next((i for i in self.own[b] if world.items[i].outcome != SKIPPED), None)

    def may_copy(self, batch: Batch) -> bool:
        return self.on(ITEMS_COPY) and (batch.stage not in FINAL or self.on(ENDED_COPIES))

    def has_ended(self, world: World, i: int) -> bool:
        b, n = self.plan[i]
        attempt = attempt_of(world.letters[n], b)
        return bool(attempt and attempt.outcome)

    def back(self, batch: Batch) -> str:
        return batch.resume_to if self.on(RESUME_BACK) else RUNNING

    # -- moves: one conditional update or one script each ---------------------------------------------------------

    def claim(self, world: World, by: int, n: int) -> tuple[World, int]:
        letter = world.letters[n]
        is_again = by != HAND and attempt_of(letter, by) is not None and self.on(CLAIM_ONCE)
        is_skipped = by in letter.skipped_by and self.on(CLAIM_NOT_SKIPPED)
        if letter.status != WAITING or is_again or is_skipped:
            return world, 0
        epoch = letter.fence + 1
        claimed = letter._replace(
            status=PROCESSING, fence=epoch, claimed_by=by, attempts=(*letter.attempts, Attempt(by, epoch))
        )
        return set_letter(world, n, claimed), epoch

    def forward(self, world: World, by: int, n: int, epoch: int) -> tuple[World, bool]:
        message = world.messages[n]
        if message.epoch == epoch and self.on(FORWARD_ONCE):
            return world, True
        # A failure that only lacks its acknowledgement is in nobody's way: the letter that was claimed has it.
        is_under_way = message.outcome == OPEN or (message.outcome == GOOD and message.outbox)
        is_in_the_way = message.epoch not in (0, epoch) and is_under_way
        if epoch <= world.barred[n] or message.epoch > epoch or is_in_the_way:
            return world, False
        broken = world.broken
        if by != HAND:
            if (by, n) in world.sends:
                broken = "B1 a batch sent a letter twice"
            elif by == 1 and self.canary and not world.batches[0].passed and any(b == 1 for b, _ in world.sends):
                broken = "B3 more than the canary was sent before it was known to be good"
            world = world._replace(sends=(*world.sends, (by, n)))
        messages = replaced(world.messages, n, Message(epoch, by))
        return world._replace(messages=messages, broken=broken), True

    def write_outcome(self, world: World, i: int, outcome: str) -> World:
        item = world.items[i]
        if item.outcome == OPEN:
            return set_item(world, i, item._replace(outcome=outcome))
        if item.outcome != outcome:
            return world._replace(broken="B2 two outcomes for one item")
        return world

    # -- everybody else -------------------------------------------------------------------------------------------

    def operate(self, world: World) -> Iterator[Step[World]]:
        batch = world.batches[0]
        if batch.stage in FINAL:
            return
        if world.budget.pauses and batch.paused_by != OPERATOR:
            came_from = batch.resume_to if batch.stage == PAUSED and self.on(PAUSE_KEEPS) else batch.stage
            paused = set_batch(world, 1, batch._replace(stage=PAUSED, resume_to=came_from, paused_by=OPERATOR))
            yield Step("the operator pauses", spend(paused._replace(held=True), "pauses"))
        if batch.paused_by == OPERATOR:
            resumed = set_batch(world, 1, Batch(self.back(batch), passed=batch.passed))
            yield Step("the operator resumes", resumed._replace(held=False))
        if world.budget.cancels:
            cancelled = set_batch(world, 1, Batch(CANCELLED, passed=batch.passed))
            yield Step("the operator cancels", spend(cancelled._replace(held=False), "cancels"))

    def breaker(self, world: World) -> Iterator[Step[World]]:
        if world.breaker_open:
            yield Step("the breaker closes", world._replace(breaker_open=False))
        elif world.budget.trips:
            yield Step("the breaker opens", spend(world._replace(breaker_open=True), "trips"))

    def replay_by_hand(self, world: World) -> Iterator[Step[World]]:
        task = world.hand
        if task.doing == IDLE:
            after, epoch = self.claim(world, HAND, 0)
            then = Task(FORWARD, epoch=epoch) if epoch else Task(END)
            yield Step(f"a replay by hand claims: {epoch or 'refused'}", after._replace(hand=then))
        elif task.doing == FORWARD:
            after, _ = self.forward(world, HAND, 0, task.epoch)
            yield Step("the replay by hand forwards", after._replace(hand=Task(END)))
            if world.budget.kills:
                killed = spend(world._replace(hand=Task(END)), "kills")
                yield Step("the replay by hand is killed before it could forward", killed, fault=True)

    def land(self, world: World) -> Iterator[Step[World]]:
        if world.late != NOBODY:
            after, epoch = self.claim(world, *self.plan[world.late])
            label = f"the late claim of {world.late} lands: {epoch or 'refused'}"
            yield Step(label, after._replace(late=NOBODY))

    def run(self, world: World) -> Iterator[Step[World]]:
        for n, message in enumerate(world.messages):
            if message.epoch and message.outcome == OPEN:
                for outcome in (GOOD, BAD):
                    ended = message._replace(outcome=outcome, outbox=True)
                    yield Step(f"message {n} {outcome}", world._replace(messages=replaced(world.messages, n, ended)))

    def sweep(self, world: World) -> Iterator[Step[World]]:
        """Looks at claims whose message is not there; bars the epoch, then puts the letter back."""
        for n, letter in enumerate(world.letters):
            if letter.status != PROCESSING or world.messages[n].epoch == letter.fence:
                continue
            is_held = any(
                task.doing == FORWARD and task.item >= 0 and self.plan[task.item][1] == n and task.epoch == letter.fence
                for task in world.executors
            ) or (n == 0 and world.hand.doing == FORWARD and world.hand.epoch == letter.fence)
            if is_held and not world.budget.early_sweeps:
                continue
            after = spend(world, "early_sweeps") if is_held else world
            if self.on(SWEEP_VOIDS):
                after = after._replace(barred=replaced(after.barred, n, letter.fence))
            kept = tuple(a for a in letter.attempts if a.epoch != letter.fence)
            back = letter._replace(status=WAITING, claimed_by=NOBODY, attempts=kept)
            yield Step(f"the sweep releases letter {n}", set_letter(after, n, back), fault=is_held)

    def drain(self, world: World) -> Iterator[Step[World]]:
        drainer = world.drainer
        if drainer.doing == IDLE:
            for n, message in enumerate(world.messages):
                if message.outbox:
                    reads = world._replace(drainer=Drainer(WRITE, n, message))
                    yield Step(f"a drainer reads the outcome of message {n}", reads)
            return
        n, message = drainer.letter, drainer.message
        if world.budget.kills:
            killed = spend(world._replace(drainer=Drainer()), "kills")
            yield Step(f"the drainer is killed before it could {drainer.doing}", killed, fault=True)
        if drainer.doing == WRITE:
            after = set_letter(world, n, settled(world.letters[n], message))
            yield Step(f"the drainer writes letter {n}", after._replace(drainer=Drainer(DRAIN, n, message)))
        elif drainer.doing == DRAIN:
            after = world._replace(drainer=Drainer())
            now = world.messages[n]
            if now.epoch == message.epoch:
                after = after._replace(messages=replaced(world.messages, n, now._replace(outbox=False)))
            yield Step(f"the drainer acknowledges message {n}", after)

    # -- what must hold -------------------------------------------------------------------------------------------

    def violation(self, world: World) -> str:
        if world.broken:
            return world.broken
        if world.held and world.batches[0].stage in (CANARY, RUNNING):
            return "B4 an operator's pause was lifted by somebody else"
        for b, batch in enumerate(world.batches, 1):
            if batch.stage == FINISHED:
                if any(letter.status == PROCESSING and letter.claimed_by == b for letter in world.letters):
                    return "B5 a batch is finished while a letter of it is in flight"
                if any(world.items[i].outcome == OPEN for i in self.own[b]):
                    return "B5 a batch is finished while a letter of it has no outcome"
        if self.is_quiet(world):
            for i, (b, n) in enumerate(self.plan):
                attempt = attempt_of(world.letters[n], b)
                told, truth = world.items[i].outcome, attempt.outcome if attempt else OPEN
                if told != OPEN and (truth or SKIPPED) != told:
                    return f"B2 an item says {told}, its replay {truth or 'never was'}"
        return ""

    def is_quiet(self, world: World) -> bool:
        return (
            world.executors == (Task(), Task())
            and world.drainer == Drainer()
            and world.late == NOBODY
            and world.hand.doing in (IDLE, END)
            and all(letter.status != PROCESSING for letter in world.letters)
            and not any(m.epoch and (m.outcome == OPEN or m.outbox) for m in world.messages)
        )

    def settled(self, world: World) -> bool:
        return (
            self.is_quiet(world)
            and all(batch.stage in FINAL for batch in world.batches)
            and all(item.outcome != OPEN for item in world.items)
        )


def attempt_of(letter: Letter, by: int) -> Attempt | None:
    return next((attempt for attempt in reversed(letter.attempts) if attempt.by == by), None)


def settled(letter: Letter, message: Message) -> Letter:
    """The letter with the outcome of this epoch's message, unless it has it."""
    mine = [a for a in letter.attempts if a.epoch == message.epoch and a.outcome == OPEN]
    if not mine:
        return letter
    attempts = tuple(a._replace(outcome=message.outcome) if a in mine else a for a in letter.attempts)
    if letter.fence != message.epoch:
        return letter._replace(attempts=attempts)
    status = RESOLVED if message.outcome == GOOD else WAITING
    return letter._replace(status=status, claimed_by=NOBODY, attempts=attempts)


def replaced(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


def set_task(world: World, k: int, task: Task) -> World:
    """Executors are alike: keeping them in order halves the states."""
    first, second = sorted((task, world.executors[1 - k]))
    return world._replace(executors=(first, second))


def set_batch(world: World, b: int, batch: Batch) -> World:
    return world._replace(batches=replaced(world.batches, b - 1, batch))


def set_item(world: World, i: int, item: Item) -> World:
    return world._replace(items=replaced(world.items, i, item))


def set_letter(world: World, n: int, letter: Letter) -> World:
    return world._replace(letters=replaced(world.letters, n, letter))


def spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))
