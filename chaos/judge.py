"""The judge: reads both stores and the effects of handlers after a run, and lists each violation of an invariant.

It reads the stores' own fields with the stores' own clients, not with the code under test.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.effects import Run
from chaos.traffic import KINDS, Sent

Document = Mapping[str, Any]
#: Sorted sets that are empty once nothing is under way.
UNDER_WAY = (
    *("due:scheduled", "due:retry_wait", "due:running", "outbox"),
    *("waiting:high", "waiting:normal", "waiting:low", "waiting:alone"),
)
_RETRIES = 3
_LOST = "WORKER_LOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as the ledger has it. All empty: it has no record."""

    state: str = ""
    replay: str = ""
    #: How often a process was lost with it, in its present epoch.
    lost: int = 0


@dataclass(slots=True, kw_only=True)
class Books:
    """Everything that is judged."""

    sent: Mapping[str, Sent]
    messages: Mapping[str, Message]
    letters: Sequence[Document]
    items: Sequence[Document]
    batches: Sequence[Document]
    accounts: Mapping[str, Mapping[str, int]]
    effects: Mapping[str, Sequence[Run]]
    #: Entries by name, of sets that must be empty.
    under_way: Mapping[str, int]
    quarantined: int = 0
    wrong_repeats: Sequence[str] = ()
    #: How often a replica of Redis was promoted. Each may forget steps of the last second, but no accepted message: a
    #: handler runs again without a recorded loss, and a replay is known only by its letter.
    failovers: int = 0


@dataclass(slots=True)
class Verdict:
    """Violations by invariant. An invariant without one has an empty list."""

    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not any(self.violations.values())

    def add(self, invariant: str, found: Iterable[str]) -> None:
        self.violations.setdefault(invariant, []).extend(found)


def read(
    redis: Any, database: Any, sent: Mapping[str, Sent], effects: Mapping[str, Sequence[Run]], prefix: str
) -> Books:
    """Read both stores. Nothing may change them meanwhile."""
    accounts = {}
    for raw in redis.smembers(f"{prefix}acct:index"):
        rows = redis.hgetall(f"{prefix}acct:".encode() + raw)
        accounts[raw.decode()] = {name.decode(): int(value) for name, value in rows.items()}
    return Books(
        sent=sent,
        messages=_messages(redis, list(sent), prefix),
        letters=list(database["dead_letters"].find({}, {"errorStack": 0, "attempts.errorStack": 0})),
        items=list(database["replay_items"].find()),
        batches=list(database["replay_batches"].find()),
        accounts=accounts,
        effects=effects,
        under_way={name: redis.zcard(prefix + name) for name in UNDER_WAY},
        quarantined=redis.hlen(f"{prefix}quarantine"),
    )


def _messages(redis: Any, ids: Sequence[str], prefix: str) -> dict[str, Message]:
    found = {}
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        with redis.pipeline(transaction=False) as pipeline:
            for message_id in part:
                pipeline.hmget(f"{prefix}msg:{message_id}", "state", "replayId", "recoveries")
            rows = pipeline.execute()
        for message_id, (state, replay, lost) in zip(part, rows, strict=True):
            if state:
                found[message_id] = Message(state=state.decode(), replay=(replay or b"").decode(), lost=int(lost or 0))
    return found


def judge(books: Books) -> Verdict:
    """Every invariant, each with what violates it."""
    verdict = Verdict()
    letters = {letter["messageId"]: letter for letter in books.letters}
    verdict.add("every accepted message ended exactly once", _ends(books, letters))
    verdict.add("it ended as its handler decided", _right_ends(books, letters))
    verdict.add("a handler ran again only after a failure or a lost process", _runs(books, letters))
    verdict.add("one letter for each dead message, with its original bytes", _letters(books, letters))
    verdict.add("each replay has one outcome", _replays(books))
    verdict.add("each batch is finished, each of its letters has an outcome", _batches(books))
    verdict.add("accounts agree with the messages", _accounts(books))
    verdict.add("nothing is left under way", _left(books))
    verdict.add("a repeated submission was recognised", books.wrong_repeats)
    return verdict


def _ends(books: Books, letters: Mapping[str, Document]) -> Iterable[str]:
    for message_id, sent in books.sent.items():
        message, letter = books.messages.get(message_id), letters.get(message_id)
        if message is None:
            if sent.accepted or letter is not None:
                yield f"{message_id}: {'accepted' if sent.accepted else 'sent'}, and Redis does not know it"
            continue
        if message.state not in ("done", "dead"):
            yield f"{message_id}: still {message.state}"
        if message.state == "dead" and letter is None:
            yield f"{message_id}: dead without a letter"
        forgotten = books.failovers and letter is not None and _was_replayed(letter)
        if letter is not None and (message.state == "done") != (letter["status"] == "dlq_resolved") and not forgotten:
            yield f"{message_id}: {message.state}, and its letter is {letter['status']}"


def _was_replayed(letter: Document) -> bool:
    return any(replay.get("outcome") == "succeeded" for replay in letter["replayAttempts"])


def _right_ends(books: Books, letters: Mapping[str, Document]) -> Iterable[str]:
    for message_id, message in books.messages.items():
        letter = letters.get(message_id)
        given_up = letter is not None and letter["errorType"] == _LOST
        expected = KINDS[books.sent[message_id].kind].end
        if not message.replay and message.state in ("done", "dead") and message.state != expected and not given_up:
            yield f"{message_id} ({books.sent[message_id].kind}): {message.state}"
        ran_well = any(run.succeeded for run in books.effects.get(message_id, ()))
        if message.state == "done" and not ran_well:
            yield f"{message_id}: done, and its handler never succeeded"


def _lost(message: Message | None, letter: Document | None) -> Counter[str]:
    """How often a process was lost with the message, by replay; empty: its first epoch."""
    found: Counter[str] = Counter()
    if letter is None:
        if message is not None:
            found[message.replay] = message.lost
        return found
    replays = {attempt["epoch"]: str(attempt["replayId"]) for attempt in letter["replayAttempts"]}
    for attempt in letter["attempts"]:
        if attempt["outcome"] == "lost":
            found[replays.get(attempt["epoch"], "")] += 1
    return found


def _runs(books: Books, letters: Mapping[str, Document]) -> Iterable[str]:
    for message_id, runs in books.effects.items():
        if message_id not in books.sent:
            yield f"{message_id}: ran, and was never sent"
            continue
        lost = _lost(books.messages.get(message_id), letters.get(message_id))
        by_replay: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_replay[run.replay].append(run)
        for replay, those in by_replay.items():
            successes = sum(run.succeeded for run in those)
            where = f"in replay {replay}" if replay else "in its first epoch"
            again = lost[replay] + books.failovers
            if successes > 1 + again:
                yield f"{message_id}: succeeded {successes} times {where}, with {lost[replay]} lost processes"
            if len(those) > 1 + (0 if replay else _RETRIES) + again:
                yield f"{message_id}: ran {len(those)} times {where}, with {lost[replay]} lost processes"


def _letters(books: Books, letters: Mapping[str, Document]) -> Iterable[str]:
    if len(letters) != len(books.letters):
        yield f"{len(books.letters) - len(letters)} letters too many"
    for message_id, letter in letters.items():
        sent = books.sent.get(message_id)
        if sent is None:
            yield f"{message_id}: a letter of a message that was never sent"
        elif letter["originalMessage"] != sent.payload:
            yield f"{message_id}: sent {sent.payload!r}, its letter has {str(letter['originalMessage'])[:200]!r}"


def _replays(books: Books) -> Iterable[str]:
    for letter in books.letters:
        message_id, replays = letter["messageId"], letter["replayAttempts"]
        if letter["status"] == "dlq_processing":
            yield f"{message_id}: its letter is still in a replay"
        for replay in replays:
            if not replay.get("outcome"):
                yield f"{message_id}: replay {replay['replayId']} has no outcome"
        for name, values in (
            ("epoch", [replay["epoch"] for replay in replays]),
            ("batch", [replay["batchId"] for replay in replays if replay.get("batchId")]),
        ):
            if len(values) != len(set(values)):
                yield f"{message_id}: two replays with the same {name}"
        successes = sum(replay.get("outcome") == "succeeded" for replay in replays)
        if successes > 1:
            yield f"{message_id}: {successes} successful replays"


def _batches(books: Books) -> Iterable[str]:
    sizes = Counter(item["batchId"] for item in books.items)
    for batch in books.batches:
        name = f"{batch['_id']} ({batch.get('name', '')})"
        if batch.get("active") or not batch.get("finishedAt"):
            yield f"batch {name} is still {batch['stage']}"
        if sizes[batch["_id"]] != batch["total"]:
            yield f"batch {name} has {batch['total']} letters and {sizes[batch['_id']]} items"
    for item in books.items:
        if not item.get("outcome"):
            yield f"batch {item['batchId']}: {item.get('messageId')} has no outcome"


def _accounts(books: Books) -> Iterable[str]:
    totals: Counter[str] = Counter()
    for name, row in books.accounts.items():
        totals.update(row)
        difference = row.get("accepted", 0) - row.get("done", 0) - row.get("dead", 0) - row.get("open", 0)
        if difference or any(value < 0 for value in row.values()):
            yield f"{name}: {dict(row)}, difference {difference}"
    states = Counter(message.state for message in books.messages.values())
    counted = {"accepted": len(books.messages), "done": states["done"], "dead": states["dead"], "open": 0}
    for name, count in counted.items():
        if totals[name] != count:
            yield f"{totals[name]} {name} in the accounts, {count} in the ledger"


def _left(books: Books) -> Iterable[str]:
    for name, count in books.under_way.items():
        if count:
            yield f"{count} entries in {name}"
    if books.quarantined:
        yield f"{books.quarantined} outcomes in quarantine"


def summary(books: Books) -> dict[str, Any]:
    """Figures of the books, for a report."""
    return {
        "states": dict(Counter(message.state for message in books.messages.values())),
        "letters": dict(Counter(letter["status"] for letter in books.letters)),
        "failoversOfRedis": books.failovers,
        "lostProcesses": sum(message.lost for message in books.messages.values()),
        "givenUp": sum(letter["errorType"] == _LOST for letter in books.letters),
        "runs": sum(len(runs) for runs in books.effects.values()),
        "batches": dict(Counter(batch["stage"] for batch in books.batches)),
        "items": dict(Counter(str(item.get("outcome")) for item in books.items)),
        "accounts": json.loads(json.dumps(books.accounts)),
    }
