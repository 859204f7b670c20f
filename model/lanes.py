"""A lane of wake-ups, and how upkeep knows that a queued message has lost its own.

A lane is first in, first out. ``wakeAt`` is the time at which a message's newest wake-up was pushed; ``head`` is the
highest wakeAt that was claimed from the lane. A message is woken again when the lane is empty or when it was overtaken
(head > wakeAt). Two things are checked: nobody waits for ever, not even in a lane that is never empty; and nobody is
woken while the wake-up is still there, however long the lane is. The second is what makes a long queue cheap.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from model.search import Model, Step

FRESH, QUEUED, RUNNING = "fresh", "queued", "running"
#: The number of the message that stands for traffic: claimed, it is at once followed by the next one.
TRAFFIC = 0

WAKE_EMPTY = "wake again: when the lane is empty"
WAKE_OVERTAKEN = "wake again: when overtaken"
WAKE_YOUNGER = "wake again: overtaken by a younger one, not by one of the same age"
WAKE_OLD = "wake again: only 10 s after the last wake-up"
HEAD_NEWEST = "head: moved only by a message's newest wake-up"
HEAD_BACK = "head: never moved by a wake-up that was pushed to the front"
SCORE_ANEW = "waiting: scored anew with each wake-up"


class Message(NamedTuple):
    state: str = FRESH
    #: How many wake-ups it has had in all.
    wakes: int = 0
    wake_at: int = 0
    #: Its newest wake-up was pushed to the front, past all that waited.
    at_front: bool = False


class Wakeup(NamedTuple):
    message: int
    n: int


class Budget(NamedTuple):
    lost: int = 0
    doubled: int = 0
    late: int = 0
    paused: int = 0
    deferrals: int = 0


class World(NamedTuple):
    messages: tuple[Message, ...]
    lane: tuple[Wakeup, ...]
    #: What a worker of RQ's own kind has taken from the lane and not yet claimed.
    hand: Wakeup | None
    now: int
    head: int
    #: Wake-ups pushed while the former one was still there, less those that a late or paused one explains.
    needless: int
    budget: Budget


class LaneModel(Model[World]):
    name = "lanes"
    guards = (WAKE_EMPTY, WAKE_OVERTAKEN, WAKE_YOUNGER, WAKE_OLD, HEAD_NEWEST, HEAD_BACK, SCORE_ANEW)

    def __init__(self, dropped: Collection[str] = (), messages: int = 2, busy: bool = False, **budget: int) -> None:
        super().__init__(dropped)
        self.first = TRAFFIC if busy else TRAFFIC + 1
        self.count = messages + 1
        self.busy = busy
        self.budget = Budget(**budget)

    def initial(self) -> World:
        world = World((Message(),) * self.count, (), None, 1, 0, 0, self.budget)
        return self.push(world, TRAFFIC, 1) if self.busy else world

    def steps(self, world: World) -> Iterator[Step[World]]:
        for label, after, fault in self.raw_steps(world):
            yield Step(label, ranked(after), fault)

    def raw_steps(self, world: World) -> Iterator[Step[World]]:
        for number, message in enumerate(world.messages):
            if number == TRAFFIC:
                continue
            if message.state == FRESH:
                for now in (world.now, world.now + 1):
                    yield Step(f"{number} is queued", self.push(world, number, now))
            elif message.state == RUNNING and world.budget.deferrals:
                deferred = spend(world, "deferrals")
                yield Step(f"{number} is deferred", self.push(deferred, number, world.now + 1))
                yield Step(f"{number} is handed back", self.push(deferred, number, world.now + 1, at_front=True))
            elif message.state == QUEUED:
                yield from self.wake_again(world, number)
        if world.lane:
            rest = world._replace(lane=world.lane[1:])
            yield from self.claim(rest, world.lane[0])
            if world.hand is None and world.lane[0].message != TRAFFIC:
                yield Step(f"{world.lane[0].message} is taken by RQ", rest._replace(hand=world.lane[0]))
        if world.hand:
            yield from self.claim(world._replace(hand=None), world.hand)
            if world.budget.lost:
                yield Step("what RQ took is lost", spend(world._replace(hand=None), "lost"), fault=True)
        yield from self.mishaps(world)

    def mishaps(self, world: World) -> Iterator[Step[World]]:
        lane, budget = world.lane, world.budget
        for i, wakeup in enumerate(lane):
            if wakeup.message == TRAFFIC:
                continue
            rest = lane[:i] + lane[i + 1 :]
            if budget.lost:
                yield Step(f"{wakeup} is lost", spend(world._replace(lane=rest), "lost"), fault=True)
            if budget.doubled:
                twice = world._replace(lane=(*lane[:i], wakeup, *lane[i:]))
                yield Step(f"{wakeup} is doubled", spend(twice, "doubled"), fault=True)
                later = world._replace(lane=(*lane, wakeup), needless=world.needless - 1)
                yield Step(f"{wakeup} is doubled, at the end", spend(later, "doubled"), fault=True)
            if budget.late and rest:
                moved = world._replace(lane=(*rest, wakeup), needless=world.needless - 1)
                yield Step(f"{wakeup} is put back at the end", spend(moved, "late"), fault=True)

    def push(self, world: World, number: int, now: int, *, again: bool = False, at_front: bool = False) -> World:
        old = world.messages[number]
        wake_at = old.wake_at if again and not self.on(SCORE_ANEW) else now
        messages = list(world.messages)
        messages[number] = Message(QUEUED, 1 if number == TRAFFIC else old.wakes + 1, wake_at, at_front)
        wakeup = Wakeup(number, messages[number].wakes)
        lane = (wakeup, *world.lane) if at_front else (*world.lane, wakeup)
        return world._replace(messages=tuple(messages), lane=lane, now=now)

    def claim(self, world: World, wakeup: Wakeup) -> Iterator[Step[World]]:
        number = wakeup.message
        message = world.messages[number]
        if message.state != QUEUED:
            yield Step(f"claim: {number} is not to run", world)
            return
        head = world.head
        newest = wakeup.n == message.wakes or not self.on(HEAD_NEWEST)
        if newest and not (message.at_front and self.on(HEAD_BACK)):
            head = max(head, message.wake_at)
        messages = list(world.messages)
        messages[number] = message._replace(state=RUNNING, at_front=False)
        claimed = world._replace(messages=tuple(messages), head=head)
        if number == TRAFFIC:
            yield Step("claim: traffic, and more arrives", self.push(claimed, TRAFFIC, world.now + 1))
        else:
            yield Step(f"claim: {number}", claimed)

    def wake_again(self, world: World, number: int) -> Iterator[Step[World]]:
        message = world.messages[number]
        empty = not world.lane and self.on(WAKE_EMPTY)
        overtaken = world.head > message.wake_at or (world.head == message.wake_at and not self.on(WAKE_YOUNGER))
        if not (empty or (overtaken and self.on(WAKE_OVERTAKEN))):
            return
        newest = Wakeup(number, message.wakes)
        needless = newest in world.lane or newest == world.hand
        if newest == world.hand and self.on(WAKE_OLD):
            # nobody keeps a wake-up in the hand for 10 s, unless it is stopped
            if world.budget.paused:
                paused = spend(world, "paused")
                yield Step(
                    f"{number} is woken again, RQ's worker is paused",
                    self.push(paused, number, world.now + 1, again=True),
                    fault=True,
                )
            return
        world = world._replace(needless=world.needless + needless)
        yield Step(f"{number} is woken again", self.push(world, number, world.now + 1, again=True))

    def violation(self, world: World) -> str:
        return "W1 woken again although its wake-up is still there" if world.needless > 0 else ""

    def settled(self, world: World) -> bool:
        return world.hand is None and all(m.state == RUNNING for m in world.messages[TRAFFIC + 1 :])


def spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def ranked(world: World) -> World:
    """Only the order of the times matters: by their ranks the states are finite, however long the traffic flows."""
    seen = {world.now, world.head, *(m.wake_at for m in world.messages if m.state == QUEUED)}
    rank = {at: i for i, at in enumerate(sorted(seen))}
    messages = tuple(m._replace(wake_at=rank[m.wake_at] if m.state == QUEUED else 0) for m in world.messages)
    return world._replace(messages=messages, now=rank[world.now], head=rank[world.head])
