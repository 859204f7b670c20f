"""Values of a replay batch: the order, its stage and counts, its letters. Pure.

``BatchOrder.parse`` reads an order from outside. The rules are in ``batch_rules``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from math import ceil
from typing import Any

from dlq_app.domain.criteria import FIELD_NAMES, MAX_VALUES, LetterCriteria, is_blank
from dlq_app.domain.errors import CriteriaInvalid, RequestInvalid
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.limits import MAX_REASON
from dlq_app.domain.masking import MaskingPolicy, mask_text
from wire.contract import (
    BOOLEAN,
    INSTANT,
    Field,
    Invalid,
    Shape,
    Type,
    integer,
    kind,
    number,
    optional,
    text,
)
from wire.fields import field_error

MAX_IDS = 10_000
MAX_NAME = 200
MAX_RATE = 100_000.0
MAX_LETTERS = 10_000_000
MAX_CANARY = 1000
#: A failure rate is judged only after this number of letters has ended.
MIN_JUDGED = 20

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Stage(StrEnum):
    """Stage of a batch. See ``docs/replay.md`` for the changes."""

    #: Its plan is being stored; not visible to users yet.
    PLANNING = "planning"
    PLANNED = "planned"
    CANARY = "canary"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


#: Stages that never change.
FINAL = frozenset({Stage.FINISHED, Stage.CANCELLED, Stage.STOPPED})
#: Stages in which letters are sent.
SENDING = frozenset({Stage.CANARY, Stage.RUNNING})

#: Who paused a batch.
BY_OPERATOR, BY_BREAKER = "operator", "breaker"
#: Why a batch stopped automatically.
CANARY_FAILED, TOO_MANY_FAILURES = "canary_failed", "too_many_failures"

SUCCEEDED, FAILED_SAME, FAILED_NEW = "succeeded", "failed_same", "failed_new"
FAILED = (FAILED_SAME, FAILED_NEW)
#: Reasons why a letter was not replayed, stored as ``skipped:reason``.
SKIPS = ("already_done", "cancelled", "gone", "in_flight", "not_replayable", "poison", "resolved", "superseded")
SKIPPED = tuple(f"skipped:{why}" for why in SKIPS)
#: Filter values of a list of items, and the outcomes of each.
OUTCOME_FILTERS: Mapping[str, tuple[str, ...]] = {
    "succeeded": (SUCCEEDED,),
    "failed": FAILED,
    "skipped": SKIPPED,
    "open": ("",),
}


@dataclass(frozen=True, slots=True)
class Canary:
    """The first ``size`` letters that are not skipped; the rest waits until ``min_success`` of them have succeeded."""

    size: int
    min_success: int

    @property
    def failures_allowed(self) -> int:
        return self.size - self.min_success


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """Which letters to replay, and with which limits."""

    #: None if ``ids`` are given. Empty criteria match every letter and require ``everything``.
    criteria: LetterCriteria | None
    #: ``_id`` or message id of each letter.
    ids: tuple[str, ...] = ()
    everything: bool = False
    name: str = ""
    reason: str = ""
    #: Letters per second; None: no limit.
    rate_per_second: float | None = None
    canary: Canary | None = None
    #: The batch stops when more letters than this have failed.
    max_failures: int | None = None
    #: From 0 to 1: it stops when a larger share of the ended letters has failed, once ``MIN_JUDGED`` have ended.
    max_failure_rate: float | None = None
    #: Maximum number of letters, oldest failure first.
    limit: int | None = None
    scheduled_at: datetime | None = None
    #: Also letters whose message probably kills the process that runs it; each of them runs alone and once.
    poison: bool = False

    @classmethod
    def parse(cls, body: Any) -> BatchOrder:
        """The order in a JSON body; raises ``RequestInvalid`` with every problem.

        Either ``filter`` or ``ids``. A filter that matches every letter is rejected unless ``all`` is true. ``dryRun``
        is validated only: the caller reads it.
        """
        return _read_order(cls, body)


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Progress of a batch. ``sent`` letters were forwarded; ``remaining`` ones have no outcome yet, sent or not."""

    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    remaining: int = 0

    @property
    def ended(self) -> int:
        """Letters that were replayed and have their outcome."""
        return self.succeeded + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayBatch:
    """A batch as it is stored. Instants are aware UTC."""

    id: str
    name: str
    reason: str
    stage: Stage
    #: Paused: the stage to which it returns.
    resume_to: Stage | None
    #: ``operator``, ``breaker`` or empty.
    paused_by: str
    #: ``canary_failed``, ``too_many_failures``, or the reason of the user who cancelled it.
    stop_reason: str
    #: Letters in its plan.
    total: int
    #: Letters that match its filter and came after the plan, at most 10 000.
    late_arrivals: int
    counts: BatchCounts
    rate_per_second: float | None
    canary: Canary | None
    max_failures: int | None
    max_failure_rate: float | None
    requested_by: str
    criteria: LetterCriteria | None
    ids_given: bool
    limit: int | None
    created_at: datetime
    scheduled_at: datetime | None
    started_at: datetime | None
    #: Time of the last outcome.
    finished_at: datetime | None
    updated_at: datetime
    #: Whether it replays letters with ``WORKER_LOST``. Batches of earlier versions did.
    poison: bool = True
    #: What it waits for, in words; empty while it sends.
    waiting: str = ""
    #: Stopped automatically: error types of the letters that had failed, most frequent first.
    stop_errors: Sequence[tuple[str, int]] = ()
    #: {at, who, what, why} of each change of stage, oldest first; empty in a list.
    history: Sequence[Mapping[str, Any]] = ()

    def masked(self, policy: MaskingPolicy) -> ReplayBatch:
        """The batch with secrets hidden in its texts."""
        return replace(
            self,
            name=mask_text(self.name, policy),
            reason=mask_text(self.reason, policy),
            stop_reason=mask_text(self.stop_reason, policy),
            waiting=mask_text(self.waiting, policy),
            history=[{**entry, "why": mask_text(str(entry.get("why") or ""), policy)} for entry in self.history],
        )

    @property
    def is_final(self) -> bool:
        return self.stage in FINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One letter of a batch's plan."""

    batch_id: str
    #: Place in the plan, from 0: the order of sending.
    seq: int
    letter_id: str
    message_id: str
    sent: bool
    #: ``succeeded``, ``failed_same``, ``failed_new``, ``skipped:why``, or empty.
    outcome: str
    error_type: str


@dataclass(frozen=True, slots=True)
class BatchPage:
    batches: list[ReplayBatch]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ItemPage:
    items: list[BatchItem]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Letters that match the order and would not be replayed.

    ``why`` is ``resolved``, ``in_flight``, ``in_batch`` (an unfinished batch has them), ``poison`` (their messages
    probably kill the process that runs them), ``limit``, ``not_found`` or ``unreadable`` (documents that are not valid
    letters).
    """

    why: str
    count: int


@dataclass(frozen=True, slots=True)
class BreakerSeen:
    """A circuit breaker that some letters meet."""

    name: str
    #: CLOSED, OPEN, HALF_OPEN, FORCED_OPEN, DISABLED or METRICS_ONLY.
    state: str
    #: Not closed: number of trial calls that it would allow now.
    trials: int = 0
    types: tuple[str, ...] = ()
    #: When it left CLOSED, however often it has probed since; None while CLOSED or if not known.
    since: datetime | None = None
    #: Messages that it holds; None if not requested or not known.
    held: int | None = None

    @property
    def passes(self) -> bool:
        """Whether every call is allowed."""
        return self.state in ("CLOSED", "DISABLED", "METRICS_ONLY")

    @property
    def words(self) -> str:
        return f"circuit breaker {self.name} is {self.state}"


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a batch would do now; nothing was written."""

    count: int
    #: The first letters of the plan, at most 10, without their heavy fields.
    sample: list[DeadLetter]
    by_error_type: list[tuple[str, int]]
    by_type: list[tuple[str, int]]
    breakers: list[BreakerSeen] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    #: Letters that may fail before the batch stops; None without a budget of failures.
    failures_at_most: int | None = None


# --- reading an order ---


def _read_filter(value: object) -> LetterCriteria:
    if not isinstance(value, Mapping):
        raise ValueError('must be an object such as {"status": ["dlq_failed"]}')
    for name, given in value.items():
        # An empty value, as from a variable that is not set, must not widen the filter.
        values = given if isinstance(given, list) else [given]
        if not values or any(isinstance(one, str) and is_blank(str(name), one) for one in values):
            raise Invalid([field_error(name, "must not be empty; leave the field out instead")])
    try:
        return LetterCriteria.parse({str(name): given for name, given in value.items()})
    except CriteriaInvalid as problem:
        raise Invalid(problem.errors) from problem


def _read_ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of ids")
    if len(value) > MAX_IDS:
        raise ValueError(f"at most {MAX_IDS} ids; use a filter for more")
    if not all(isinstance(one, str) and _ID.match(one) for one in value):
        raise ValueError("must be ids of dead letters or messages: letters, digits, - and _, at most 64")
    return tuple(dict.fromkeys(value))


def _read_canary(value: object) -> Canary:
    if not isinstance(value, Mapping):
        raise ValueError('must be an object such as {"size": 5, "minSuccess": 4}')
    given = CANARY_IN.read(value)
    size, minimum = given["size"], given.get("min_success", given["size"])
    if isinstance(minimum, float):
        # A share, as in 0.95: of 20 letters 19. The rounding removes what binary fractions add to 0.95 * 20.
        minimum = ceil(round(minimum * size, 6))
    if minimum > size:
        raise Invalid([field_error("minSuccess", f"must be a whole number from 0 to {size}, or a share such as 0.95")])
    return Canary(size, minimum)


def _read_min_success(value: object) -> int | float:
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    try:
        return int(integer(0, MAX_CANARY).read(value))
    except ValueError as problem:
        raise ValueError(f"{problem}, or a share such as 0.95") from problem


_TEXTS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": MAX_VALUES}]}
FILTER_IN = kind(
    {
        "type": "object",
        "description": "As the parameters of the list of dead letters: one value, or a list that means any of them.",
        "properties": dict.fromkeys(FIELD_NAMES, _TEXTS),
        "additionalProperties": False,
        "example": {"errorType": ["TIMEOUT_ERROR"], "status": "dlq_failed"},
    },
    read=_read_filter,
)
IDS_IN = kind(
    {
        "type": "array",
        "items": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "minItems": 1,
        "maxItems": MAX_IDS,
    },
    read=_read_ids,
)
_MIN_SUCCESS = kind(
    {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": MAX_CANARY},
            {"type": "number", "minimum": 0, "maximum": 1},
        ]
    },
    read=_read_min_success,
)
CANARY_IN = Shape(
    "CanaryIn",
    Field("size", integer(1, MAX_CANARY), "Letters that are sent first."),
    optional(
        "minSuccess",
        _MIN_SUCCESS,
        "How many of them must succeed, or with a decimal point the share, as in 0.95. Default: all.",
    ),
    null_is_absent=True,
)
ORDER_IN = Shape(
    "ReplayBatchIn",
    optional("filter", FILTER_IN, get="criteria"),
    optional("ids", IDS_IN, "`_id` or message id of each letter, instead of a filter."),
    optional("all", BOOLEAN, "Required for a filter that matches every letter.", "everything"),
    optional("dryRun", BOOLEAN, "Report what would be replayed, and write nothing."),
    optional("name", text(MAX_NAME)),
    optional("reason", text(MAX_REASON)),
    optional("ratePerSecond", number(0.01, MAX_RATE), "Letters per second. Default: as fast as they are processed."),
    optional("canary", Type(CANARY_IN.schema, read=_read_canary)),
    optional("maxFailures", integer(0, MAX_LETTERS), "Stop when more letters than this have failed."),
    optional("maxFailureRate", number(0, 1), "Stop when a larger share of the letters with an outcome has failed."),
    optional("limit", integer(1, MAX_LETTERS), "Maximum number of letters, oldest failure first."),
    optional("scheduledAt", INSTANT, "Do not start before this instant."),
    optional(
        "poison",
        BOOLEAN,
        "Also replay letters with `WORKER_LOST`, whose messages probably kill the process that runs them: each once, "
        "in a process without other messages. Default: they are left out.",
    ),
    null_is_absent=True,
)


def _read_order(cls: type[BatchOrder], body: Any) -> BatchOrder:
    try:
        found = ORDER_IN.read(body)
    except Invalid as problem:
        raise RequestInvalid(str(problem), errors=problem.errors) from problem
    require_choice(found)
    texts = {name: found.pop(name, "").strip() for name in ("name", "reason")}
    found.pop("dry_run", None)
    return cls(**{"criteria": None if found.get("ids") else LetterCriteria(), **found, **texts})


def require_choice(found: Mapping[str, Any]) -> None:
    """Raise ``RequestInvalid`` unless an order names letters by ``ids``, by criteria, or all of them explicitly."""
    criteria, ids, everything = found.get("criteria"), found.get("ids"), found.get("everything", False)
    if ids and (criteria is not None or everything):
        raise _invalid("ids", "give ids or a filter, not both")
    if not ids and not everything and (criteria is None or criteria.is_empty):
        raise _invalid("filter", 'is empty, which means every letter; set "all": true if you want that')


def _invalid(field: str, message: str) -> RequestInvalid:
    return RequestInvalid(f"{field}: {message}", errors=[field_error(field, message)])
