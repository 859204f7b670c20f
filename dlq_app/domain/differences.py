"""Kinds of differences between ledger, letters, batches and accounts, and the report that collects them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Maximum examples of one kind in a report.
MAX_EXAMPLES = 10

_WAIT = "A running DLQ worker does this automatically."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of difference."""

    name: str
    #: A sentence: what is wrong, and what follows from it.
    meaning: str
    #: A sentence: what a repair does, or what a person must do.
    fix: str
    #: Whether a repair exists that can lose nothing and run nothing twice.
    is_repairable: bool = False


def _kinds(*kinds: Kind) -> Mapping[str, Kind]:
    return {kind.name: kind for kind in kinds}


KINDS = _kinds(
    # messages
    Kind(
        "record_unreadable",
        "The record of a message has no known state, epoch or account, so nothing can run or end it.",
        "Restore Redis from its append-only file, or have the client submit the message again under a new id.",
    ),
    Kind(
        "open_in_no_index",
        "An open message is in no index, so no process would ever run it.",
        "A repair puts it back into the index of its state.",
        is_repairable=True,
    ),
    Kind(
        "index_leftover",
        "An index contains a message that does not exist or is in another state; counts are too high.",
        "A repair removes the entry.",
        is_repairable=True,
    ),
    Kind(
        "outcome_in_no_index",
        "An outcome that MongoDB must record is neither in the outbox nor in quarantine. It would be lost.",
        "A repair puts it back into the outbox.",
        is_repairable=True,
    ),
    Kind(
        "wakeup_lost",
        "A message has been queued for more than a minute without a wake-up in its lane.",
        "A repair runs the mover once, as every worker does each second. It waits while its lane has older messages.",
        is_repairable=True,
    ),
    Kind(
        "lease_over",
        "The lease of a running message ended more than a minute ago, and no process has requeued it.",
        "A repair runs the mover once. Check that a message worker or a DLQ worker is running.",
        is_repairable=True,
    ),
    Kind(
        "overdue",
        "A retry or a scheduled message has been due for more than a minute.",
        "A repair runs the mover once. Check that a message worker or a DLQ worker is running.",
        is_repairable=True,
    ),
    Kind(
        "payload_missing",
        "An open message has no payload, so its handler would get an empty one.",
        "Submit the message again under a new id. If it is a replay, replay its letter after this run has failed.",
    ),
    Kind(
        "expires_while_open",
        "Redis would delete the record or the payload of an open message.",
        "A repair removes the expiry.",
        is_repairable=True,
    ),
    Kind(
        "never_expires",
        "The record of an ended message has no expiry, so it uses memory for ever.",
        "A repair sets the expiry of ended messages (RECORD_TTL_S).",
        is_repairable=True,
    ),
    Kind(
        "payload_without_message",
        "A payload has no record and no expiry, so it uses memory for ever.",
        "A repair lets it expire after RECORD_TTL_S.",
        is_repairable=True,
    ),
    Kind(
        "quarantined",
        "MongoDB rejected an outcome, so it is not in the dead letters.",
        "Read the reason with manage.py quarantine list, remove it, then run manage.py quarantine release.",
    ),
    Kind(
        "account_differs",
        "In an account, accepted is not done + open + dead.",
        "Find out which keys were deleted or written manually. Nothing corrects it automatically.",
    ),
    Kind(
        "account_negative",
        "A count of an account is below zero.",
        "A repair adds the missing messages to accepted.",
        is_repairable=True,
    ),
    Kind(
        "account_open_differs",
        "An account has another number of open messages than there are records of open messages.",
        "Redis was restored in part, or keys were deleted or written manually. Nothing corrects it automatically.",
    ),
    Kind(
        "account_below_records",
        "An account has fewer done or dead messages than there are records of them.",
        "Redis was restored in part, or keys were deleted or written manually. Nothing corrects it automatically.",
    ),
    Kind(
        "epoch_behind",
        "A letter has a higher epoch than new messages get, so a new message with its id could fail without a letter.",
        "A repair raises the lowest epoch of new messages above it. Check the clock of the Redis host.",
        is_repairable=True,
    ),
    # messages and letters
    Kind(
        "death_without_letter",
        "A message is dead, but its letter is missing or older.",
        "A repair records the failure again.",
        is_repairable=True,
    ),
    Kind(
        "success_without_letter",
        "A replay succeeded, but its letter is not resolved.",
        "A repair records the success again.",
        is_repairable=True,
    ),
    Kind(
        "claim_without_message",
        "A letter has been claimed for more than six minutes by a replay that has no message.",
        "A repair blocks the replay and releases the letter. " + _WAIT,
        is_repairable=True,
    ),
    Kind(
        "claim_ended",
        "A letter is claimed by a replay that has ended, and the letter does not have the outcome.",
        "A repair records the outcome again.",
        is_repairable=True,
    ),
    Kind(
        "open_letter_of_done_message",
        "A letter is open although a newer run of its message succeeded.",
        "Resolve the letter, or replay it when Redis no longer has a record of that run (RECORD_TTL_S).",
    ),
    Kind(
        "replay_without_claim",
        "A replay runs although its letter is not claimed by it.",
        "Wait: the letter gets the outcome. If the letter was resolved meanwhile, check for a double effect.",
    ),
    # letters
    Kind(
        "letters_twice",
        "A message has more than one letter.",
        "Run manage.py prepare: it names the letters. Delete all but one of each message.",
    ),
    Kind(
        "not_letters",
        "Documents in the collection of dead letters are not valid letters.",
        "Correct or delete them in MongoDB. manage.py doctor names them.",
    ),
    Kind(
        "attempt_without_outcome",
        "A letter lists a replay without an outcome, and that replay is over.",
        "Check with the service that the message calls whether the replay had an effect, and add a note.",
    ),
    Kind(
        "pending_without_time",
        "A letter waits for its automatic replay, but has no time for it.",
        "Replay it or set it aside.",
    ),
    Kind(
        "sent_twice_by_batch",
        "A batch replayed a letter more than once.",
        "Check with the service that the message calls for a double effect, and report the defect.",
    ),
    # batches
    Kind(
        "batch_unreadable",
        "The document of a replay batch cannot be read, so no executor runs it.",
        "Correct or delete it in the collection replay_batches.",
    ),
    Kind(
        "batch_counts_differ",
        "The stored counts of an ended batch are not those of its letters.",
        "A repair stores the counted numbers.",
        is_repairable=True,
    ),
    Kind(
        "batch_ended_with_open_letters",
        "A batch has ended, but some of its letters have no outcome.",
        "A repair gives the batch to the executors again, which record the outcomes and send nothing.",
        is_repairable=True,
    ),
    Kind(
        "batch_not_ended",
        "Every letter of a batch has had its outcome for more than a minute, but the batch has not ended.",
        "Check that a DLQ worker is running: it ends the batch.",
    ),
    Kind(
        "batch_letters_missing",
        "A batch has fewer letters than its total.",
        "MongoDB was restored in part. Cancel the batch and start another one with the same filter.",
    ),
    Kind(
        "batch_outcome_missing",
        "A replay of a batch ended more than a minute ago, but the batch does not have its outcome.",
        "A repair copies the outcome from the letter. " + _WAIT,
        is_repairable=True,
    ),
    Kind(
        "batch_outcome_differs",
        "A batch has another outcome for a letter than the letter itself.",
        "The letter is right. Report the defect.",
    ),
    Kind(
        "letters_without_batch",
        "Stored letters of a replay batch that does not exist use disk space.",
        "A repair deletes them.",
        is_repairable=True,
    ),
    # figures
    Kind(
        "figures_differ",
        "The stored figures of the dead letters are not the counted ones.",
        "A repair counts again. Check that a DLQ worker is running.",
        is_repairable=True,
    ),
    Kind(
        "approval_without_batch",
        "A person's hourly limit counts letters of a batch that does not exist.",
        "A repair removes it. It ends automatically within an hour.",
        is_repairable=True,
    ),
)


@dataclass(slots=True)
class Difference:
    """The differences of one kind."""

    kind: Kind
    count: int = 0
    repaired: int = 0
    examples: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind.name,
            "count": self.count,
            "repaired": self.repaired,
            "examples": self.examples,
            "meaning": self.kind.meaning,
            "fix": self.kind.fix,
            "repairable": self.kind.is_repairable,
        }


@dataclass(slots=True)
class Report:
    """Collects differences. Its size does not depend on their number."""

    #: Whether to repair differences that have a safe repair.
    fix: bool = False
    found: dict[str, Difference] = field(default_factory=dict)
    #: Number of compared objects, by name.
    compared: dict[str, int] = field(default_factory=dict)
    #: What is under way and therefore no difference, by name.
    in_flight: dict[str, int] = field(default_factory=dict)
    #: Comparisons that could not be decided, because the compared objects never stopped changing.
    undecided: list[str] = field(default_factory=list)

    def add(self, name: str, *examples: str, count: int | None = None) -> None:
        """Add differences: ``count`` of them, else one for each example."""
        entry = self.found.setdefault(name, Difference(KINDS[name]))
        entry.count += len(examples) if count is None else count
        entry.examples += examples[: MAX_EXAMPLES - len(entry.examples)]

    def repaired(self, name: str, count: int = 1) -> None:
        self.found[name].repaired += count

    def looked_at(self, what: str, count: int) -> None:
        self.compared[what] = self.compared.get(what, 0) + count

    @property
    def differences(self) -> list[Difference]:
        """In the order of ``KINDS``."""
        return [self.found[name] for name in KINDS if name in self.found and self.found[name].count]

    @property
    def left(self) -> int:
        """Number of differences that are not repaired."""
        return sum(one.count - one.repaired for one in self.differences)


def named(items: Iterable[object]) -> tuple[str, ...]:
    """Examples for a report, shortened: ids can come from other programs."""
    return tuple(str(item)[:100] for item in items)
