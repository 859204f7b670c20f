"""Moves of letters by operators: their names in addresses and commands, and the order to move many. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import RequestInvalid
from dlq_app.domain.limits import MAX_REASON
from dlq_app.domain.replay_batch import FILTER_IN, IDS_IN, require_choice
from dlq_app.domain.states import Verb
from wire.contract import BOOLEAN, Field, Invalid, Shape, choice, optional, text
from wire.fields import field_error

#: Name in addresses and commands → verb, and what was done to the letters.
MOVES: Mapping[str, tuple[Verb, str]] = {
    "resolve": (Verb.RESOLVE_BY_HAND, "resolved"),
    "discard": (Verb.DISCARD, "discarded"),
    "set-aside": (Verb.SET_ASIDE, "set aside"),
    "resume": (Verb.RESUME, "resumed"),
    "reopen": (Verb.REOPEN, "reopened"),
}
MAX_TOKEN = 500
ORDER_IN = Shape(
    "LetterMoveIn",
    Field("move", choice(list(MOVES))),
    optional("filter", FILTER_IN, get="criteria"),
    optional("ids", IDS_IN, "`_id` or message id of each letter, instead of a filter."),
    optional("all", BOOLEAN, "Required for a filter that matches every letter.", "everything"),
    optional("dryRun", BOOLEAN, "Count the letters and return a `token`; change nothing."),
    optional("token", text(MAX_TOKEN, blank=False), "The `token` of the dry run; required to move the letters."),
    optional("reason", text(MAX_REASON, blank=False), "Why; required to move the letters."),
    null_is_absent=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveOrder:
    """Which letters to move, and how."""

    move: str
    #: None if ``ids`` are given.
    criteria: LetterCriteria | None
    #: ``_id`` or message id of each letter.
    ids: tuple[str, ...] = ()
    dry_run: bool = False
    #: Empty in a dry run.
    token: str = ""
    reason: str = ""

    @classmethod
    def parse(cls, body: Any) -> MoveOrder:
        """The order in a JSON body; raises ``RequestInvalid`` with every problem."""
        try:
            found = ORDER_IN.read(body)
        except Invalid as problem:
            raise RequestInvalid(str(problem), errors=problem.errors) from problem
        require_choice(found)
        dry_run = found.get("dry_run", False)
        needed = {
            "token": 'is required: send the request with "dryRun": true first',
            "reason": "is required: why these letters are moved",
        }
        errors = [] if dry_run else [field_error(name, why) for name, why in needed.items() if not found.get(name)]
        if errors:
            raise RequestInvalid("; ".join(f"{one['field']} {one['message']}" for one in errors), errors=errors)
        ids = tuple(found.get("ids", ()))
        return cls(
            move=found["move"],
            criteria=None if ids else found.get("criteria", LetterCriteria()),
            ids=ids,
            dry_run=dry_run,
            token="" if dry_run else found["token"],
            reason=found.get("reason", "").strip(),
        )

    @property
    def verb(self) -> Verb:
        return MOVES[self.move][0]

    @property
    def done(self) -> str:
        """What happened to moved letters, such as ``resolved``."""
        return MOVES[self.move][1]

    @property
    def digest(self) -> str:
        """The same for orders that move the same letters in the same way, whatever their reason."""
        which = sorted(self.ids) if self.criteria is None else self.criteria.as_filter()
        return hashlib.sha256(json.dumps([self.move, which], sort_keys=True).encode()).hexdigest()[:32]

    @property
    def selection(self) -> str:
        """The selected letters in words, for the audit log."""
        return "named one by one" if self.criteria is None else self.criteria.as_text()

    def outcome(self, count: int, asked: int) -> str:
        """What was done, such as ``resolved 2 of 3``."""
        return f"{self.done} {count:,}" if count == asked else f"{self.done} {count:,} of {asked:,}"


def counted(number: int) -> str:
    """``1 dead letter``, ``1,203 dead letters``."""
    return f"{number:,} dead letter{'' if number == 1 else 's'}"
