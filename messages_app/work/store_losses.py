"""Detection of stores that lost data: finds losses, keeps their evidence, and lists unacknowledged ones.

Three ways, each of which finds losses that the others may miss:

- Every worker remembers the last mark that it read, and checks twice a second whether Redis still has it. Finds the
  loss of a fail-over to a lagging replica, down to half a second, as long as one worker survives.
- Cron and the DLQ workers keep a mark in MongoDB every ten seconds. Finds the loss of a restored or emptied Redis while
  no process was running.
- Redis stores which mark MongoDB has confirmed. Finds a restored MongoDB.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings

from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from dlq_app.domain.loss import Loss
from messages_app.domain.errors import InvalidRequest, LossNotFound
from messages_app.store.ledger import ledger
from messages_app.store.marks import EVERY_MS, Mark, Marks, MarkStatus, NotedLoss, marks
from messages_app.store.recorded_outcomes import recorded_outcomes
from processes.turns import OutageLog
from wire import errors

if TYPE_CHECKING:
    from dlq_app.store.repository import Losses

log = logging.getLogger(__name__)

#: Interval between marks in MongoDB.
KEEP_EVERY_S = 10.0
MAX_REASON = 1000


class LossDetector:
    """Compares Redis with the last mark that this process read. For one thread."""

    def __init__(self, book: Marks) -> None:
        self._marks = book
        self._known: Mark | None = None

    def check(self) -> float:
        """Compare; return the seconds until the next check. Raises the ledger's ``StoreUnavailable``."""
        said, newest = self._marks.look(self._known)
        if said is MarkStatus.LOST:
            _log_loss(self._known, newest)
        self._known = newest
        return EVERY_MS / 1000


class MarkKeeper:
    """Keeps the ledger's last mark in MongoDB. Several may run at once: each step depends on the state that it read."""

    def __init__(
        self, book: Marks, store: Callable[[], Losses], prefix: str, build: Callable[[], None] = lambda: None
    ) -> None:
        """``build``: builds MongoDB's indexes; called when MongoDB has no mark."""
        self._marks = book
        self._store = store
        self._prefix = prefix
        self._build = build
        #: The last mark that MongoDB had. Redis may lose its copy together with it.
        self._had: Mark | None = None

    def turn(self) -> None:
        """Compare the mark in MongoDB with Redis, copy losses to MongoDB, keep a newer mark.

        A kill at any point leaves an old mark, or a loss that the next turn finds or copies again. Raises the
        ``StoreUnavailable`` of either store.
        """
        store = self._store()
        # Read before MongoDB's mark, so that it is never newer, whatever other keepers do meanwhile.
        kept = self._marks.kept()
        stored = _mark(store.mark(self._prefix))
        said, newest = self._marks.look(stored)
        if said is MarkStatus.LOST:
            _log_loss(stored, newest)
        elif kept and (stored is None or stored.number < kept[0]):
            self._letters_fell_back(store, stored, kept, newest)
        elif stored is None and self._had is not None:
            self._letters_fell_back(store, None, (self._had.number, self._had.token, self._had.at_ms), newest)
        if stored is None:
            self._build_indexes()
        copy_losses(self._marks, store, self._prefix)
        token = stored.token if stored else None
        if store.advance(self._prefix, token, {**newest._asdict(), "at": _instant(newest.at_ms)}):
            self._marks.keep(newest)
            self._had = newest
        else:
            self._had = stored

    def _build_indexes(self) -> None:
        """Build the indexes of an emptied MongoDB: without them a repeated outcome would create a second letter."""
        try:
            self._build()
        except DeadLetterError as error:  # health reports the missing indexes
            log.error("indexes_not_built", extra={"why": str(error)})

    def _letters_fell_back(self, store: Losses, stored: Mark | None, kept: tuple[int, str, int], newest: Mark) -> None:
        _, token, at_ms = kept
        from_ms = stored.at_ms if stored else 0
        loss = Loss(
            id=f"mongodb-{token}", store="mongodb", since=_instant(from_ms) if stored else None,
            until=_instant(at_ms), seen_at=_instant(newest.at_ms), missing=recorded_outcomes().count(from_ms, at_ms),
        )  # fmt: skip
        store.note(self._prefix, loss)
        log.error("letters_fell_back", extra={"since": _iso(loss.since), "until": _iso(loss.until)})


class Periodic:
    """A keeper's turns, at most one in ``every_s``. Logs an unavailable store once."""

    def __init__(self, turn: Callable[[], None], every_s: float) -> None:
        self._turn = turn
        self._every_s = every_s
        self._next = 0.0
        self._outage = OutageLog(log, "marks_not_kept", "marks_kept_again")
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._every_s
        try:
            self._turn()
        except errors.StoreUnavailable as error:
            self._outage.failed(error)
        else:
            self._outage.succeeded()


@dataclass(frozen=True, slots=True)
class OpenLosses:
    """Unacknowledged losses, and whether MongoDB could be read."""

    losses: Sequence[Loss]
    #: Why there may be more; empty when the list is complete.
    incomplete: str = ""


def copy_losses(book: Marks, store: Losses, prefix: str) -> None:
    """Copy losses from Redis to MongoDB, which keeps them until they are acknowledged."""
    for noted in book.losses():
        store.note(prefix, _loss(noted))
        book.carried(noted)


def open_losses() -> OpenLosses:
    """Unacknowledged losses, oldest first. Raises ``StoreUnavailable`` when Redis does not answer."""
    from dlq_app.store import repository

    noted = [_loss(one) for one in marks().losses()]
    try:
        stored = repository.losses().open(settings.REDIS_PREFIX)
    except LettersUnavailable:
        return OpenLosses(noted, "MongoDB does not answer: it may have more.")
    ids = {loss.id for loss in stored}
    return OpenLosses([*stored, *(loss for loss in noted if loss.id not in ids)])


def all_losses() -> list[Loss]:
    """All losses, newest first."""
    from dlq_app.store import repository

    copy_losses(marks(), repository.losses(), settings.REDIS_PREFIX)
    return repository.losses().all(settings.REDIS_PREFIX)


def acknowledge(ids: Sequence[str], *, actor: str, reason: str) -> list[str]:
    """Acknowledge losses as ``actor``, with a reason; return the ids that were not acknowledged before.

    Also corrects accounts that an earlier version left below zero. Raises ``InvalidRequest`` for an empty or too long
    reason, ``LossNotFound`` before anything is changed, and the ``StoreUnavailable`` of either store: then some may be
    acknowledged, and a repetition is safe.
    """
    from dlq_app.store import repository

    why = reason.strip()
    if not 1 <= len(why) <= MAX_REASON:
        raise InvalidRequest("reason", f"say in 1 to {MAX_REASON} characters what happened")
    known = {loss.id for loss in all_losses()}
    for loss_id in ids:
        if loss_id not in known:
            raise LossNotFound(f"No loss is called {loss_id[:100]}.")
    store = repository.losses()
    new = store.acknowledge(settings.REDIS_PREFIX, ids, by=actor, why=why, at=repository.now())
    for loss_id in new:
        log.warning("loss_acknowledged", extra={"loss": loss_id, "by": actor, "why": why})
    ledger().balance()
    return new


def sentence(loss: Loss) -> str:
    """Description of a loss, in one or two sentences."""
    if loss.store == "mongodb":
        if loss.since is None:
            return f"MongoDB was emptied or replaced: the dead letters that it had at {_clock(loss.until)} are missing."
        return (
            f"MongoDB fell back to its state of {_clock(loss.since)}: what was recorded until {_clock(loss.until)} "
            f"is missing in the dead letters, about {loss.missing:,} outcome{'' if loss.missing == 1 else 's'}."
        )
    what = f"{loss.missing:,} accepted message{'' if loss.missing == 1 else 's'}"
    if loss.since is None:
        return (
            f"Redis was emptied or replaced: its state of {_clock(loss.until)} is missing, with about {what} since the "
            f"beginning. {loss.open:,} of them had not ended."
        )
    if not loss.missing:
        what = f"{loss.moves:,} claims and outcomes"
    return (
        f"Redis fell back to its state of {_clock(loss.since)}: what it did until {_clock(loss.until)} is missing, "
        f"with about {what}."
    )


def advice(loss: Loss) -> str:
    """Advice on what to do about a loss."""
    if loss.store == "mongodb":
        since = f"{loss.since:%Y-%m-%dT%H:%M:%SZ}" if loss.since else "24h"
        return f"Run manage.py bring_again --since {since}, then acknowledge the loss."
    return (
        "Find out why. Have clients submit again, with the same ids, what was accepted in that time. Then acknowledge "
        "the loss: manage.py losses acknowledge --all --reason TEXT."
    )


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def mark_keeper(every_s: float = KEEP_EVERY_S) -> Periodic:
    """A keeper for the stores in the settings. Extra calls within ``every_s`` do nothing."""

    def store() -> Losses:
        # Imported with the first turn: until then a worker needs no driver.
        from dlq_app.store import repository

        return repository.losses()

    def build() -> None:
        from dlq_app.services import dead_letters

        dead_letters.build_indexes()

    return Periodic(MarkKeeper(marks(), store, settings.REDIS_PREFIX, build).turn, every_s)


def _log_loss(known: Mark | None, newest: Mark) -> None:
    log.error(
        "ledger_fell_back",
        extra={
            "until": _iso(_instant(known.at_ms)) if known else "",
            "accepted_then": known.accepted if known else 0,
            "accepted_now": newest.accepted,
        },
    )


def _loss(noted: NotedLoss) -> Loss:
    return Loss(
        id=noted.id, store="redis", since=_instant(noted.from_ms) if noted.from_ms else None,
        until=_instant(noted.to_ms), seen_at=_instant(noted.seen_ms), missing=noted.missing, moves=noted.moves,
        open=noted.open,
    )  # fmt: skip


def _mark(document: Mapping[str, Any] | None) -> Mark | None:
    if document is None:
        return None
    number, token, *numbers = (document[name] for name in Mark._fields)
    return Mark(int(number), str(token), *map(int, numbers))


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _iso(moment: datetime | None) -> str:
    return moment.isoformat(timespec="milliseconds") if moment else "the beginning"
