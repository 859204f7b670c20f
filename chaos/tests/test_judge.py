"""The judge finds each way in which the books can be wrong, and nothing in books that are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos.effects import Run
from chaos.judge import UNDER_WAY, Books, Message, judge
from chaos.traffic import KINDS, Sent

WELL, FAILED = Run("", 1, succeeded=True), Run("", 1, succeeded=False)
REPLAY = {"replayId": "r1", "epoch": 2, "batchId": "b", "outcome": "succeeded"}
ACCOUNT = "20260101:t"


def sent(kind: str) -> Sent:
    return Sent(kind, "{}", accepted=True)


def letter(message_id: str, status: str, **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "messageId": message_id,
        "status": status,
        "errorType": "VALIDATION_ERROR",
        "originalMessage": "{}",
        "attempts": [{"epoch": 1, "outcome": "failed"}],
        "replayAttempts": [],
    }
    return base | fields


class Open:
    """The books as plain values that a test may damage."""

    def __init__(self) -> None:
        """One message that is done, one that is dead, one that died and was replayed by a batch."""
        self.sent = {"good": sent("plain"), "bad": sent("permanent"), "again": sent("once")}
        self.messages = {
            "good": Message(state="done"),
            "bad": Message(state="dead"),
            "again": Message(state="done", replay="r1"),
        }
        self.letters = [letter("bad", "dlq_manual"), letter("again", "dlq_resolved", replayAttempts=[dict(REPLAY)])]
        self.items: list[dict[str, Any]] = [{"batchId": "b", "messageId": "again", "outcome": "succeeded"}]
        self.batch = {"_id": "b", "total": 1, "active": False, "finishedAt": "now", "stage": "finished"}
        self.account = {"accepted": 3, "done": 2, "dead": 1, "open": 0}
        self.effects = {"good": [WELL], "bad": [FAILED], "again": [FAILED, Run("r1", 1, succeeded=True)]}
        self.under_way = dict.fromkeys(UNDER_WAY, 0)
        self.quarantined = 0
        self.wrong_repeats: list[str] = []

    def violations(self) -> list[str]:
        books = Books(
            sent=self.sent,
            messages=self.messages,
            letters=self.letters,
            items=self.items,
            batches=[self.batch],
            accounts={ACCOUNT: self.account},
            effects=self.effects,
            under_way=self.under_way,
            quarantined=self.quarantined,
            wrong_repeats=self.wrong_repeats,
        )
        return [text for texts in judge(books).violations.values() for text in texts]


def test_right_books_hold() -> None:
    assert Open().violations() == []


DAMAGES: dict[str, Callable[[Open], object]] = {
    "an accepted message is unknown": lambda books: books.messages.pop("good"),
    "a message is open": lambda books: books.messages.update(good=Message(state="queued")),
    "a dead message has no letter": lambda books: books.letters.pop(0),
    "a message has two letters": lambda books: books.letters.append(books.letters[0]),
    "a letter of nothing that was sent": lambda books: books.letters.append(letter("ghost", "dlq_manual")),
    "a letter has other bytes": lambda books: books.letters[0].update(originalMessage="{} "),
    "done, and its handler never ran": lambda books: books.effects.pop("good"),
    "a handler succeeded twice": lambda books: books.effects["good"].append(WELL),
    "a replay ran twice": lambda books: books.effects["again"].append(Run("r1", 1, succeeded=False)),
    "more runs than retries": lambda books: books.effects["bad"].extend([FAILED] * 4),
    "a run of a message that was never sent": lambda books: books.effects.update(ghost=[WELL]),
    "it ended otherwise": lambda books: books.sent.update(bad=sent("plain")),
    "done, and its letter is open": lambda books: books.letters[1].update(status="dlq_manual"),
    "a letter is still in a replay": lambda books: books.letters[0].update(status="dlq_processing"),
    "a replay has no outcome": lambda books: books.letters[1]["replayAttempts"][0].update(outcome=None),
    "a batch replayed a letter twice": lambda books: books.letters[1]["replayAttempts"].append(
        {**REPLAY, "epoch": 3, "outcome": "failed_same"}
    ),
    "an item has no outcome": lambda books: books.items[0].update(outcome=None),
    "an item is missing": lambda books: books.items.clear(),
    "a batch is not finished": lambda books: books.batch.update(finishedAt=None),
    "an account does not add up": lambda books: books.account.update(done=1),
    "an account has too many": lambda books: books.account.update(accepted=4, done=3),
    "an account is negative": lambda books: books.account.update(dead=-1, done=4),
    "an entry is left": lambda books: books.under_way.update(outbox=1),
    "an outcome is in quarantine": lambda books: setattr(books, "quarantined", 1),
    "a message was accepted twice": lambda books: books.wrong_repeats.append("good: 202"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_each_damage_is_found(damage: Callable[[Open], object]) -> None:
    books = Open()
    damage(books)

    assert books.violations()


def test_a_run_of_a_lost_process_may_be_repeated() -> None:
    books = Open()
    books.messages["good"] = Message(state="done", lost=1)
    books.effects["good"].append(WELL)

    assert books.violations() == []


def test_a_message_that_was_given_up_may_be_dead() -> None:
    books = Open()
    books.messages["good"] = Message(state="dead", lost=3)
    lost = [{"epoch": 1, "outcome": "lost"}] * 3
    books.letters.append(letter("good", "dlq_manual", errorType="WORKER_LOST", attempts=lost))
    books.account.update(done=1, dead=2)

    assert books.violations() == []


def test_the_shares_of_all_kinds_make_a_hundred() -> None:
    assert sum(kind.share for kind in KINDS.values()) == 100
