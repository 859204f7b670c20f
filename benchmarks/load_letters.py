"""Dead letters by the million, straight into a MongoDB: ``python -m benchmarks.load_letters --count 1000000``.

As they come in life: about 300 causes of very different weight, each with its time, its message types and its error;
thirty days of them, most of them resolved. The same seed makes the same letters, up to the moment that counts as now.
"""

from __future__ import annotations

import argparse
import bisect
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pymongo
from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError
from pymongo.write_concern import WriteConcern

from dlq_app.domain.letter import Death
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.replay_policy import ReplayPolicy, place_first
from dlq_app.domain.search_terms import error_words
from dlq_app.store import indexes
from dlq_app.store.documents import new_letter
from dlq_app.store.mongo import LETTERS

DAYS = 30
CAUSES = 300
_BATCH = 2000

#: Type → weight. A few types make most of the traffic.
TYPES = {
    "order.created": 30, "payment.capture": 22, "mail.send": 15, "stock.reserve": 9, "invoice.print": 6,
    "shipment.plan": 5, "search.index": 4, "customer.sync": 3, "report.daily": 2, "refund.pay": 1.5,
    "loyalty.add": 1, "webhook.deliver": 0.8, "audit.write": 0.4, "export.nightly": 0.2, "legacy.import": 0.05,
}  # fmt: skip
SOURCES = {
    "shop": 40, "app": 25, "pos": 12, "marketplace": 9, "warehouse": 6, "crm": 4, "partner-api": 3, "batch": 0.9,
    "back-office": 0.1,
}  # fmt: skip
#: Error type → kind, weight, the message of one letter. ``{c}`` is the cause's own part, ``{n}`` varies by letter.
ERRORS: dict[str, tuple[str, float, str]] = {
    "TIMEOUT_ERROR": ("transient", 34, "{c} did not answer within 10 s for order {n}"),
    "SERVICE_UNAVAILABLE": ("transient", 18, "503 from {c}: request {n} refused"),
    "NETWORK_ERROR": ("transient", 12, "connection to {c} reset while sending {n}"),
    "VALIDATION_ERROR": ("permanent", 12, "{c}: expected 11 characters, got {n}"),
    "DATABASE_ERROR": ("transient", 8, "lock wait time-out on {c}, row {n}"),
    "NOT_FOUND_ERROR": ("permanent", 6, "{c} {n} not found"),
    "RATE_LIMITED": ("transient", 4, "{c} allows no more requests, try again after {n} s"),
    "CONFLICT_ERROR": ("permanent", 3, "{c} was changed by version {n}"),
    "AUTHENTICATION_ERROR": ("permanent", 1.5, "token for {c} expired, key {n}"),
    "UNKNOWN_ERROR": ("unknown", 1.5, "unexpected answer of {c}: {n}"),
}
_WHAT = ("payments", "inventory", "orders", "receipts", "shipping", "tax", "search", "customers", "prices", "loyalty")
_PART = ("api", "store", "client", "mapper", "gateway", "template", "ledger", "cache", "queue", "export")
_PRIORITIES, _PRIORITY_WEIGHTS = ("high", "normal", "low"), (15, 70, 15)
_TAGS = ("eu", "us", "vip", "retry-me", "beta", "black-week")
_TAG_WEIGHTS = (55, 30, 5, 4, 3, 0.05)
_STACK = """Traceback (most recent call last):
  File "/srv/app/{what}/handlers.py", line {line}, in handle
    {part}.call(message.payload)
  File "/srv/app/lib/python3.11/site-packages/httpx/_client.py", line 901, in send
    raise exc
  File "/srv/app/{what}/{part}.py", line {line}, in step_{name}
    response = self.http.post(self.url(route), json=body, timeout=timeout)
  File "/srv/app/lib/python3.11/site-packages/httpx/_transports/default.py", line 118, in map_httpcore_exceptions
    raise mapped_exc(message) from exc
{error}: {reason}
"""


@dataclass(frozen=True)
class Cause:
    """One group to be: what fails how, from when to when."""

    weight: float
    begins: float
    ends: float
    error_type: str
    message: str
    types: tuple[str, ...]
    template: dict[str, Any]


def causes(dice: random.Random, now: datetime) -> list[Cause]:
    """Weights fall like 1/rank; every second cause is over, some are of today. ``begins`` and ``ends`` are 0 to 1."""
    found = []
    for rank in range(CAUSES):
        error_type = dice.choices(list(ERRORS), [weight for _, weight, _ in ERRORS.values()])[0]
        kind, _, message = ERRORS[error_type]
        what, part, name = dice.choice(_WHAT), dice.choice(_PART), _letters(rank)
        message = message.replace("{c}", f"{what}-{part} {name}")
        begins = 0.0 if rank < 5 else dice.random() * (0.999 if rank % 7 else 0.02) + (0 if rank % 7 else 0.967)
        ends = 1.0 if rank < 5 or rank % 2 == 0 else min(1.0, begins + 0.01 + dice.random() * 0.3)
        types = tuple(dict.fromkeys(dice.choices(list(TYPES), list(TYPES.values()), k=3)))
        stack = _STACK.format(
            what=what, part=part, name=name, line=dice.randrange(20, 400), error=error_type, reason="{reason}"
        )
        death = _death(error_type, kind, message.replace("{n}", "4711"), stack, now)
        place = place_first(ReplayPolicy(), error_type=error_type, error_kind=kind, died_at=now)
        template = new_letter(death, place, now, MaskingPolicy())
        found.append(Cause(1 / (rank + 3), begins, ends, error_type, message, types, template))
    return found


def letters(count: int, *, seed: int = 7, now: datetime | None = None) -> Iterator[dict[str, Any]]:
    """``count`` letters in the order in which they died, ``_id`` included."""
    dice = random.Random(seed)
    now = now or datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    every = causes(dice, now)
    span = timedelta(days=DAYS)
    alive: list[Cause] = []
    weights: list[float] = []
    slot = -1
    sources, source_weights = list(SOURCES), list(accumulate(SOURCES.values()))
    for n in range(count):
        share = (n + dice.random()) / count
        if int(share * DAYS * 24) != slot:
            slot = int(share * DAYS * 24)
            alive = [cause for cause in every if cause.begins <= share + 1 / (DAYS * 24) and share <= cause.ends]
            weights = list(accumulate(cause.weight for cause in alive))
        cause = alive[min(bisect.bisect(weights, dice.random() * weights[-1]), len(alive) - 1)]
        source = sources[bisect.bisect(source_weights, dice.random() * source_weights[-1])]
        yield _letter(n, cause, source, now - span * (1 - share), now, dice)


def _letter(n: int, cause: Cause, source: str, at: datetime, now: datetime, dice: random.Random) -> dict[str, Any]:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    number = str(10_000_000 + n)
    reason = cause.message.replace("{n}", number)
    letter = dict(cause.template)
    metadata = dict(letter["metadata"])
    metadata["source"] = source
    metadata["priority"] = dice.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0]
    metadata["tags"] = list(dict.fromkeys(dice.choices(_TAGS, _TAG_WEIGHTS, k=2)))
    fence = int(at.timestamp() * 1000)
    # A few customers have most of the letters. Without the dice: all else stays as in earlier measurements.
    customer = int(20_000 * (n * 2_654_435_761 % 2**32 / 2**32) ** 4)
    letter |= {
        "facets": [f"customerId=c-{customer}", f"orderId={number}"],
        "_id": ObjectId(),
        "messageId": f"{_id_prefix(dice)}-{number}",
        "type": cause.types[0] if dice.random() < 0.8 else dice.choice(cause.types),
        "originalMessage": letter["originalMessage"].replace("4711", number),
        "errorReason": reason,
        "errorStack": letter["errorStack"].replace("{reason}", reason),
        "searchWords": error_words(cause.error_type, reason, MaskingPolicy()),
        "metadata": metadata,
        "createdAt": at,
        "firstFailedAt": at - timedelta(seconds=7),
        "lastFailedAt": at,
        "updatedAt": at,
        "fence": fence,
        "closedEpoch": fence,
    }
    age = now - at
    chance = dice.random()
    if age > timedelta(minutes=30) and chance < (0.75 if cause.ends < 1 else 0.55):
        resolved_at = at + min(age, timedelta(days=2)) * dice.random()
        letter |= {
            "status": "dlq_resolved",
            "resolution": dice.choices(("replayed", "discarded", "resolved_by_hand"), (85, 8, 7))[0],
            "resolvedAt": resolved_at.replace(microsecond=resolved_at.microsecond // 1000 * 1000),
            "nextRetryAt": None,
        }
        letter["updatedAt"] = letter["resolvedAt"]
    elif chance < 0.85:
        letter |= {"status": "dlq_failed", "dlqRetryCount": 5, "nextRetryAt": None}
    elif letter["errorKind"] != "transient" or chance < 0.9:
        letter |= {"status": "dlq_manual", "nextRetryAt": None}
    else:
        # In the future: a worker that runs beside a measurement must find nothing to do.
        letter |= {"status": "dlq_pending", "nextRetryAt": now + timedelta(days=1 + 20 * dice.random())}
    if letter["status"] == "dlq_failed" or letter.get("resolution") == "replayed":
        _replayed(letter, fence, now, dice)
    return letter


def _replayed(letter: dict[str, Any], fence: int, now: datetime, dice: random.Random) -> None:
    resolved = letter["status"] == "dlq_resolved"
    ended_at = letter.get("resolvedAt") or min(now, letter["lastFailedAt"] + timedelta(hours=2) * dice.random())
    ended_at = ended_at.replace(microsecond=ended_at.microsecond // 1000 * 1000)
    attempt = {
        "replayId": f"r-{fence}", "epoch": fence + 1, "kind": "auto", "by": "system", "why": "automatic replay 1 of 5",
        "batchId": "", "version": 0, "at": ended_at - timedelta(seconds=2), "endedAt": ended_at,
        "outcome": "succeeded" if resolved else "failed_same",
    }  # fmt: skip
    last = {"at": ended_at, "outcome": attempt["outcome"]}
    letter |= {"replayAttempts": [attempt], "lastReplay": last, "fence": fence + 1, "closedEpoch": fence + 1}
    if not resolved:
        letter["lastFailedAt"] = ended_at


def _death(error_type: str, kind: str, reason: str, stack: str, now: datetime) -> Death:
    attempts = [
        {
            "number": n, "startedAt": "2026-11-24T11:59:50.000Z", "endedAt": "2026-11-24T11:59:57.300Z",
            "outcome": "failed", "errorType": error_type, "errorReason": reason, "retryDelayMs": 1000,
            "worker": "worker-1",
        }
        for n in range(1, 5)
    ]  # fmt: skip
    return Death(
        message_id="m", epoch=1, type="order.created", priority="normal", source="shop", client="key:shop",
        body=b'{"orderId":"4711","customer":{"id":12,"email":"someone@example.com"},"items":[{"sku":"AB-1","qty":2}]}',
        tags=("eu",), queued_at=now, acct_day=f"{now:%Y%m%d}", error_type=error_type, error_kind=kind,
        error_reason=reason, error_stack=stack, attempts=attempts, retry_count=3, died_at=now,
        system_state={"cpu": 38.0, "memory": 61.0, "uptime": 2100.0, "host": "app-2", "worker": "worker-1"},
    )  # fmt: skip


def _letters(number: int) -> str:
    """A number as letters: digits would be taken for something that varies within the group."""
    return "".join(chr(97 + int(digit)) for digit in f"{number:03}")


def _id_prefix(dice: random.Random) -> str:
    return f"{dice.getrandbits(32):08x}"


def load(collection: Collection[dict[str, Any]], count: int, *, seed: int = 7) -> float:
    """Insert ``count`` letters; seconds it took. Not acknowledged by the journal: these letters can be made again."""
    fast = collection.with_options(write_concern=WriteConcern(w=1, j=False))
    begun = time.monotonic()
    batch: list[dict[str, Any]] = []
    for n, letter in enumerate(letters(count, seed=seed), 1):
        batch.append(letter)
        if len(batch) == _BATCH or n == count:
            try:
                fast.insert_many(batch, ordered=False)
            except BulkWriteError as error:
                # Its own text holds every letter.
                raise SystemExit("Some of these letters are there already: another --seed, or --fresh.") from error
            batch = []
            if n % 50_000 == 0:
                print(f"{n} letters, {n / (time.monotonic() - begun):.0f} a second", file=sys.stderr)
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fill a MongoDB with dead letters. What it holds stays, unless --fresh."
    )
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--mongodb-url", required=True)
    parser.add_argument("--database", default="dlq")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--fresh", action="store_true", help="drop the letters that are there first")
    options = parser.parse_args()
    database: Any = pymongo.MongoClient(options.mongodb_url, tz_aware=True)[options.database]
    if options.fresh:
        database.drop_collection(LETTERS)
    took = load(database[LETTERS], options.count, seed=options.seed)
    begun = time.monotonic()
    # Afterwards: an index is built from a full collection in a fraction of the time.
    indexes.ensure(database, keep_resolved_days=90)
    print(f"{options.count} letters in {took:.0f} s, indexes in {time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
