"""Claims of several messages at once, and a message that kills whoever runs it.

Two processes claim up to two messages each, start them one after another and flush what has ended. Two of the four
messages are poison: starting one kills the process together with everything else it holds. Poison has to die at its
third loss; its neighbours must not die with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import NamedTuple

from model.search import Model, Step

QUEUED, HELD, DONE, DEAD = "queued", "held", "done", "dead"
POISON = (0, 1)
MESSAGES = range(4)
BATCH = 2
MAX_LOSSES = 3

CLAIM_ALONE = "claim: a message lost twice goes to the lane of its own"
CLAIM_STRAY = "claim: a stray wake-up in a common lane does not free it from there"
CLAIM_HOLDING = "claim: alone only for a process that holds nothing, and nothing beside it"
CLAIM_REPEAT = "claim: repeated with its token gives the same batch"
LOSS_COUNTED = "due: losses are counted"
FLUSH_FENCES = "flush: each outcome judged by its own fence"


class Message(NamedTuple):
    state: str = QUEUED
    recoveries: int = 0
    fence: int = 0
    #: How often it really was lost with the process that held it.
    losses: int = 0
    #: Another wake-up of it lies about in a common lane.
    stray: bool = False

    @property
    def suspect(self) -> bool:
        return self.recoveries >= MAX_LOSSES - 1


class Holding(NamedTuple):
    message: int
    fence: int
    ended: bool = False


class Process(NamedTuple):
    holds: tuple[Holding, ...] = ()
    #: False while the answer to its claim is lost: it holds these, and does not know.
    knows: bool = True


class Budget(NamedTuple):
    kills: int = 0
    pauses: int = 0
    lost_answers: int = 0
    strays: int = 0


class World(NamedTuple):
    messages: tuple[Message, ...]
    processes: tuple[Process, ...]
    budget: Budget
    broken: str = ""


class ClaimsModel(Model[World]):
    name = "claims"
    guards = (CLAIM_ALONE, CLAIM_STRAY, CLAIM_HOLDING, CLAIM_REPEAT, LOSS_COUNTED, FLUSH_FENCES)

    def __init__(self, dropped: Collection[str] = (), **budget: int) -> None:
        super().__init__(dropped)
        self.budget = Budget(**budget)

    def initial(self) -> World:
        return World((Message(),) * len(MESSAGES), (Process(), Process()), self.budget)

    def steps(self, world: World) -> Iterator[Step[World]]:
        for i, process in enumerate(world.processes):
            if i == 1 and process == world.processes[0]:
                continue
            if not process.knows:
                yield from self.repeat(world, i, process)
                continue
            yield from self.claim(world, i, process)
            yield from self.run(world, i, process)
            yield from self.flush(world, i, process)
            if world.budget.kills and process.holds:
                yield Step("a process is killed", spend(self.killed(world, i), "kills"), fault=True)
        yield from self.due(world)
        if world.budget.strays:
            for number in MESSAGES:
                stray = change(world, number, world.messages[number]._replace(stray=True))
                yield Step(f"a wake-up of {number} is doubled", spend(stray, "strays"), fault=True)

    # -- claims ---------------------------------------------------------------------------------------------------

    def claim(self, world: World, i: int, process: Process) -> Iterator[Step[World]]:
        if any(world.messages[h.message].suspect for h in process.holds) and self.on(CLAIM_HOLDING):
            return
        room = BATCH - len(process.holds)
        queued = [n for n in MESSAGES if world.messages[n].state == QUEUED]
        common = [n for n in queued if not self.on(CLAIM_ALONE) or self.from_common_lane(world.messages[n])]
        for size in range(1, room + 1):
            for batch in combinations(common, size):
                yield from self.claimed(world, i, batch)
        if not process.holds or not self.on(CLAIM_HOLDING):
            for number in queued:
                if room and number not in common:
                    yield from self.claimed(world, i, (number,))

    def from_common_lane(self, message: Message) -> bool:
        return not message.suspect or (message.stray and not self.on(CLAIM_STRAY))

    def claimed(self, world: World, i: int, batch: tuple[int, ...]) -> Iterator[Step[World]]:
        holds = world.processes[i].holds
        for number in batch:
            message = world.messages[number]
            fence = message.fence + 1
            world = change(world, number, message._replace(state=HELD, fence=fence, stray=False))
            holds = (*holds, Holding(number, fence))
        label = f"claim {', '.join(map(str, batch))}"
        yield Step(label, hold(world, i, holds))
        if world.budget.lost_answers:
            lost = spend(world, "lost_answers")
            if self.on(CLAIM_REPEAT):
                lost = set_process(lost, i, Process(tuple(sorted(holds)), knows=False))
            yield Step(f"{label}, answer lost", lost, fault=True)

    def repeat(self, world: World, i: int, process: Process) -> Iterator[Step[World]]:
        yield Step("claim, again with its token", set_process(world, i, process._replace(knows=True)))

    # -- what processes do with what they hold --------------------------------------------------------------------

    def run(self, world: World, i: int, process: Process) -> Iterator[Step[World]]:
        for held in process.holds:
            if held.ended:
                continue
            if held.message in POISON:
                yield Step(f"{held.message} kills its process", self.killed(world, i))
            else:
                others = tuple(h for h in process.holds if h != held)
                yield Step(f"{held.message} has run", hold(world, i, (*others, held._replace(ended=True))))

    def killed(self, world: World, i: int) -> World:
        for held in world.processes[i].holds:
            world = self.lost(world, held.message, held.fence)
        return hold(world, i, ())

    def lost(self, world: World, number: int, fence: int) -> World:
        message = world.messages[number]
        if message.state != HELD or message.fence != fence:
            return world
        return change(world, number, message._replace(losses=message.losses + 1))

    def flush(self, world: World, i: int, process: Process) -> Iterator[Step[World]]:
        ended = [h for h in process.holds if h.ended]
        if not ended:
            return
        after = world
        for held in ended:
            message = world.messages[held.message]
            current = message.fence == held.fence
            if message.state == HELD and (current or not self.on(FLUSH_FENCES)):
                after = change(after, held.message, message._replace(state=DONE))
                if not current:
                    after = after._replace(broken="I3 an outcome with an old fence was applied")
        yield Step("flush", hold(after, i, tuple(h for h in process.holds if not h.ended)))
        if world.budget.lost_answers:
            yield Step("flush, answer lost", spend(after, "lost_answers"), fault=True)

    def due(self, world: World) -> Iterator[Step[World]]:
        held_now = {(h.message, h.fence) for process in world.processes for h in process.holds}
        for number, message in enumerate(world.messages):
            if message.state != HELD:
                continue
            if (number, message.fence) not in held_now:
                yield Step(f"due: {number} is lost", self.recovered(world, number))
            elif world.budget.pauses:
                paused = spend(self.lost(world, number, message.fence), "pauses")
                yield Step(f"due: {number} is lost, its process is paused", self.recovered(paused, number), fault=True)

    def recovered(self, world: World, number: int) -> World:
        message = world.messages[number]
        recoveries = message.recoveries + self.on(LOSS_COUNTED)
        state = DEAD if recoveries >= MAX_LOSSES else QUEUED
        return change(world, number, message._replace(state=state, recoveries=recoveries))

    # -- what must hold -------------------------------------------------------------------------------------------

    def violation(self, world: World) -> str:
        outside = self.budget.kills + self.budget.pauses
        if world.broken:
            return world.broken
        if any(m.recoveries > m.losses for m in world.messages):
            return "X1 a recovery was counted although no lease was lost"
        if any(m.losses > MAX_LOSSES for m in world.messages):
            return "I4 a message that kills its process is run for ever"
        if not outside and any(m.state == DEAD for n, m in enumerate(world.messages) if n not in POISON):
            return "X2 an innocent message ended as WORKER_LOST"
        return ""

    def settled(self, world: World) -> bool:
        return all(m.state in (DONE, DEAD) for m in world.messages) and not any(p.holds for p in world.processes)


def change(world: World, number: int, message: Message) -> World:
    return world._replace(messages=(*world.messages[:number], message, *world.messages[number + 1 :]))


def hold(world: World, i: int, holds: tuple[Holding, ...]) -> World:
    return set_process(world, i, Process(tuple(sorted(holds))))


def set_process(world: World, i: int, process: Process) -> World:
    """Processes are alike: keeping them sorted halves the states."""
    return world._replace(processes=tuple(sorted((process, world.processes[1 - i]))))


def spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))
