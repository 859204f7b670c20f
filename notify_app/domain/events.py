"""Events that users are notified of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    #: Sent during quiet hours, too.
    CRITICAL = "critical"


class Kind(StrEnum):
    """Kind of an event, as ``events`` of the policy names it. The last three are not chosen by ``events``."""

    GROUP_NEW = "group_new"
    GROUP_REGRESSED = "group_regressed"
    BREAKER_OPENED = "breaker_opened"
    BREAKER_CLOSED = "breaker_closed"
    LETTER_OLD = "letter_old"
    BATCH_STOPPED = "batch_stopped"
    BATCH_FINISHED = "batch_finished"
    ACCOUNTING_OFF = "accounting_off"
    HEALTH = "health"
    #: Sent every morning to the recipients of ``[digest]``.
    DIGEST = "digest"
    #: The notifications that quiet hours held back.
    SUMMARY = "summary"
    #: A sample of ``manage.py notify --test``.
    TEST = "test"


#: Kinds in words, for pages.
WORDS: Mapping[Kind, str] = {
    Kind.GROUP_NEW: "New group",
    Kind.GROUP_REGRESSED: "Regressed group",
    Kind.BREAKER_OPENED: "Breaker opened",
    Kind.BREAKER_CLOSED: "Breaker closed",
    Kind.LETTER_OLD: "Old letter",
    Kind.BATCH_STOPPED: "Batch stopped",
    Kind.BATCH_FINISHED: "Batch finished",
    Kind.ACCOUNTING_OFF: "Accounts differ",
    Kind.HEALTH: "Health",
    Kind.DIGEST: "Digest",
    Kind.SUMMARY: "Summary after quiet hours",
    Kind.TEST: "Sample",
}
#: Kinds that a recipient can choose.
CHOICES = tuple(kind.value for kind in Kind if kind not in (Kind.DIGEST, Kind.SUMMARY, Kind.TEST))
#: Kinds about letters: the filters ``error_types``, ``types`` and ``sources`` apply to them only.
OF_LETTERS = frozenset({Kind.GROUP_NEW, Kind.GROUP_REGRESSED})
#: Minimum time between two notifications about one group, or about the accounts.
HOUR = timedelta(hours=1)
#: The same for a breaker: its last state must not stay unknown for long.
SHORT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. Its texts are already masked, short and free of markup."""

    kind: Kind
    severity: Severity
    #: Identifies the event: recorded again with the same key, it changes nothing. At most 190 characters.
    key: str
    #: What it is about: within ``window`` one notification with a count is sent about it. At most 190 characters.
    subject: str
    title: str
    lines: tuple[str, ...] = ()
    #: Page of the console, relative to its home.
    page: str = ""
    window: timedelta = timedelta(0)
    #: For the body of a webhook. Never a payload or a secret.
    facts: Mapping[str, Any] = field(default_factory=dict)
    error_types: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
