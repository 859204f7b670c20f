"""The weaker world: Redis loses its last steps once, by a power cut or a fail-over to a replica that lags behind.

Redis as a whole falls back to some earlier state of itself. MongoDB, workers and clicks keep what they know. What is
promised even then: nothing gets stuck, no two workers hold one live fence, the letter keeps the first outcome of an
epoch and no older one moves it, the accounts fit the records. What is given up: a message of the lost seconds unless
its client sends it again, and runs that happen twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from model.search import Model, Step

ABSENT, QUEUED, RUNNING, DONE, DEAD_PENDING, DEAD = "absent", "queued", "running", "done", "dead_pending", "dead"
WAITING, PROCESSING, RESOLVED = "waiting", "processing", "resolved"
IDLE, WRITE, DRAIN, FORWARD, END = "idle", "write", "drain", "forward", "end"
NOBODY = -1

CLAIM_FENCE = "claim: fence from the server's clock as well as from the count"
LETTER_CLOSED = "letter: one outcome per epoch (closedEpoch)"
LETTER_FENCE = "letter: never moved by an outcome older than its fence"
FORWARD_OPEN = "forward: never over an open message"
ACCOUNTS_ENTER = "accounts: what an account lacks enters it"


class Redis(NamedTuple):
    """All that falls back together."""

    state: str = ABSENT
    epoch: int = 0
    fence: int = 0
    replay: int = NOBODY
    outbox: bool = False
    void_mark: int = 0
    accepted: int = 0
    done: int = 0
    dead: int = 0
    open: int = 0


class Outcome(NamedTuple):
    state: str
    epoch: int


class Letter(NamedTuple):
    status: str
    fence: int
    closed_epoch: int
    replay: int = NOBODY
    #: Every outcome that moved it.
    told: tuple[Outcome, ...] = ()


class Drainer(NamedTuple):
    doing: str = IDLE
    outcome: Outcome | None = None


class Click(NamedTuple):
    doing: str = IDLE
    epoch: int = 0
    death_seen: int = 0


class World(NamedTuple):
    redis: Redis
    disk: Redis
    letter: Letter | None
    #: The fences under which the two workers run; 0 for idle.
    workers: tuple[int, int]
    drainer: Drainer
    clicks: tuple[Click, ...]
    #: The fence that a sweep has voided and is about to release.
    sweep: int | None
    clock: int
    kills: int
    fell_back: bool = False
    sent_again: bool = False
    broken: str = ""


class FallbackModel(Model[World]):
    name = "fallback"
    guards = (CLAIM_FENCE, LETTER_CLOSED, LETTER_FENCE, FORWARD_OPEN, ACCOUNTS_ENTER)

    def __init__(self, dropped: Collection[str] = (), clicks: int = 1, kills: int = 0) -> None:
        super().__init__(dropped)
        self.clicks = clicks
        self.kills = kills

    def initial(self) -> World:
        accepted = Redis(QUEUED, epoch=10, accepted=1, open=1)
        return World(accepted, Redis(), None, (0, 0), Drainer(), (Click(),) * self.clicks, None, 1, self.kills)

    def steps(self, world: World) -> Iterator[Step[World]]:
        yield from self.fall_back(world)
        yield from self.accept_again(world)
        for i in (0, 1):
            if i == 0 or world.workers[1] != world.workers[0]:
                yield from self.claim(world, i)
                yield from self.finish(world, i)
        yield from self.due(world)
        yield from self.drain(world)
        for i, click in enumerate(world.clicks):
            yield from self.click(world, i, click)
        yield from self.sweep(world)

    def fall_back(self, world: World) -> Iterator[Step[World]]:
        if not world.fell_back and world.disk != world.redis:
            yield Step("Redis has this on its disk", world._replace(disk=world.redis))
            yield Step("Redis falls back", world._replace(redis=world.disk, fell_back=True), fault=True)

    def accept_again(self, world: World) -> Iterator[Step[World]]:
        redis = world.redis
        if redis.state == ABSENT and world.fell_back and not world.sent_again:
            epoch = 10 + 100 * world.clock
            anew = redis._replace(
                state=QUEUED, epoch=epoch, replay=NOBODY, outbox=False, accepted=redis.accepted + 1, open=redis.open + 1
            )
            yield Step("the client sends it again", world._replace(redis=anew, sent_again=True))

    # -- running --------------------------------------------------------------------------------------------------

    def claim(self, world: World, i: int) -> Iterator[Step[World]]:
        redis = world.redis
        if world.workers[i] or redis.state != QUEUED:
            return
        fence = redis.fence + 1
        if self.on(CLAIM_FENCE):
            fence = max(fence, world.clock)
        claimed = world._replace(redis=redis._replace(state=RUNNING, fence=fence), clock=world.clock + 1)
        yield Step("claim", set_worker(claimed, i, fence))

    def finish(self, world: World, i: int) -> Iterator[Step[World]]:
        redis, fence = world.redis, world.workers[i]
        if not fence:
            return
        if redis.state != RUNNING or redis.fence != fence:
            yield Step("outcome: refused", set_worker(world, i, 0))
        else:
            done = redis._replace(state=DONE, outbox=redis.replay != NOBODY, done=redis.done + 1, open=redis.open - 1)
            dead = redis._replace(state=DEAD_PENDING, outbox=True)
            yield Step("complete: applied", set_worker(world._replace(redis=done), i, 0))
            yield Step("fail: applied, given up", set_worker(world._replace(redis=dead), i, 0))
        if world.kills:
            yield Step("a worker is killed", set_worker(world._replace(kills=world.kills - 1), i, 0), fault=True)

    def due(self, world: World) -> Iterator[Step[World]]:
        if world.redis.state == RUNNING and world.redis.fence not in world.workers:
            yield Step("due: the run is lost", world._replace(redis=world.redis._replace(state=QUEUED)))

    # -- from the outbox to the letter ----------------------------------------------------------------------------

    def drain(self, world: World) -> Iterator[Step[World]]:
        redis, outcome = world.redis, world.drainer.outcome
        if outcome is None:
            if redis.outbox:
                found = Drainer(WRITE, Outcome(redis.state, redis.epoch))
                yield Step("a drainer reads the outbox", world._replace(drainer=found))
        elif world.drainer.doing == WRITE:
            written = self.write_letter(world, outcome)
            yield Step(f"the letter is told: {outcome.state}", written._replace(drainer=Drainer(DRAIN, outcome)))
        else:
            yield Step("drained", self.drained(world, outcome)._replace(drainer=Drainer()))

    def write_letter(self, world: World, outcome: Outcome) -> World:
        letter = world.letter
        if letter is None:
            if outcome.state == DEAD_PENDING:
                letter = Letter(WAITING, outcome.epoch, outcome.epoch, told=(outcome,))
            return world._replace(letter=letter)
        if letter.closed_epoch >= outcome.epoch and self.on(LETTER_CLOSED):
            return world
        if letter.fence > outcome.epoch:
            if self.on(LETTER_FENCE):
                return world
            world = world._replace(broken="I9 an outcome older than its fence moved the letter")
        if any(told.epoch == outcome.epoch and told.state != outcome.state for told in letter.told):
            world = world._replace(broken="I2 the letter was told done and dead for one epoch")
        status = RESOLVED if outcome.state == DONE else WAITING
        fence = max(letter.fence, outcome.epoch)
        return world._replace(letter=Letter(status, fence, outcome.epoch, told=(*letter.told, outcome)))

    def drained(self, world: World, outcome: Outcome) -> World:
        redis = world.redis
        if not redis.outbox or (redis.state, redis.epoch) != (outcome.state, outcome.epoch):
            return world
        if redis.state == DEAD_PENDING:
            redis = redis._replace(state=DEAD, dead=redis.dead + 1, open=redis.open - 1)
        return world._replace(redis=redis._replace(outbox=False))

    # -- replays --------------------------------------------------------------------------------------------------

    def click(self, world: World, i: int, click: Click) -> Iterator[Step[World]]:
        letter = world.letter
        if click.doing == IDLE and letter and letter.status == WAITING:
            epoch = letter.fence + 1
            claimed = world._replace(letter=letter._replace(status=PROCESSING, fence=epoch, replay=i))
            then = Click(FORWARD, epoch, letter.closed_epoch)
            yield Step(f"click {i} claims epoch {epoch}", set_click(claimed, i, then))
        elif click.doing == FORWARD:
            after, answer = self.forward(world, i, click)
            # Whatever it is refused for, the sweep voids and releases.
            yield Step(f"click {i} forwards: {answer}", set_click(after, i, Click(END)))
            if world.kills:
                killed = set_click(world._replace(kills=world.kills - 1), i, Click(END))
                yield Step(f"click {i} is killed before it could forward", killed, fault=True)

    def forward(self, world: World, i: int, click: Click) -> tuple[World, str]:
        redis, epoch = world.redis, click.epoch
        if redis.state != ABSENT and redis.epoch == epoch:
            return world, "forwarded"
        if redis.void_mark >= epoch:
            return world, "voided"
        if redis.epoch > epoch:
            return world, "superseded"
        letter_has_it = redis.state == DEAD_PENDING and redis.epoch <= click.death_seen
        if redis.state in (QUEUED, RUNNING, DEAD_PENDING) and not letter_has_it:
            if self.on(FORWARD_OPEN):
                return world, "busy"
            world = world._replace(broken="I1 an open message was overwritten")
        if redis.state == DONE:
            return world, "busy" if redis.outbox else "already done"
        forwarded = redis._replace(state=QUEUED, epoch=epoch, replay=i, outbox=False)
        if redis.state in (ABSENT, DEAD):  # what was forgotten is taken for counted as dead
            forwarded = forwarded._replace(dead=redis.dead - 1, open=redis.open + 1)
        if forwarded.dead < 0 and self.on(ACCOUNTS_ENTER):
            forwarded = forwarded._replace(dead=0, accepted=redis.accepted + 1)
        return world._replace(redis=forwarded), "forwarded"

    def sweep(self, world: World) -> Iterator[Step[World]]:
        letter, redis = world.letter, world.redis
        if world.sweep is not None:
            if letter and (letter.status, letter.fence) == (PROCESSING, world.sweep):
                letter = letter._replace(status=WAITING, replay=NOBODY)
            yield Step("the sweep releases", world._replace(letter=letter, sweep=None))
            return
        abandoned = letter is not None and letter.status == PROCESSING and world.clicks[letter.replay].doing == END
        if letter and abandoned and (redis.state == ABSENT or redis.epoch != letter.fence):
            voided = redis._replace(void_mark=max(redis.void_mark, letter.fence))
            yield Step("the sweep voids an abandoned claim", world._replace(redis=voided, sweep=letter.fence))

    # -- what must hold -------------------------------------------------------------------------------------------

    def violation(self, world: World) -> str:
        redis, letter = world.redis, world.letter
        if world.broken:
            return world.broken
        if world.workers == (redis.fence, redis.fence) and redis.state == RUNNING:
            return "I3 two workers hold the live fence"
        is_open = redis.state in (QUEUED, RUNNING, DEAD_PENDING)
        if redis.accepted != redis.done + redis.dead + redis.open or redis.open != is_open:
            return "I10 the accounts do not add up"
        if min(redis.done, redis.dead, redis.open) < 0:
            return "I10 an account is below zero"
        if redis.state == DEAD and (letter is None or letter.closed_epoch < redis.epoch):
            return "I5 dead, but the letter does not have this death"
        return ""

    def settled(self, world: World) -> bool:
        redis, letter = world.redis, world.letter
        return (
            redis.state in (ABSENT, DONE, DEAD)
            and not redis.outbox
            and world.drainer.doing == IDLE
            and world.sweep is None
            and world.workers == (0, 0)
            and all(click.doing != FORWARD for click in world.clicks)
            and not (letter and letter.status == PROCESSING)
        )


def set_worker(world: World, i: int, fence: int) -> World:
    """Workers are alike: keeping them sorted halves the states."""
    first, second = sorted((fence, world.workers[1 - i]))
    return world._replace(workers=(first, second))


def set_click(world: World, i: int, click: Click) -> World:
    return world._replace(clicks=(*world.clicks[:i], click, *world.clicks[i + 1 :]))
