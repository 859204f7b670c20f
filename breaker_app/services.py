"""Public API for operators: list breakers, read one with its transitions, change its state."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from breaker_app import conf
from breaker_app.errors import BreakerNotFound, StoreUnavailable
from breaker_app.held import NONE, Held
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Snapshot, State, Transition, Why
from breaker_app.store import KEPT_TRANSITIONS
from wire.errors import ServiceError

log = logging.getLogger(__name__)

#: Orders of operators, as URLs, commands and the audit log name them, with the state that they set.
ORDERS: Final[Mapping[str, State]] = {
    "force-open": State.FORCED_OPEN,
    "reset": State.CLOSED,
    "disable": State.DISABLED,
}
#: Transitions that are returned with one breaker.
MAX_TRANSITIONS = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Name → generation, and when the breaker left CLOSED, for breakers that an earlier version opened.
_from_history: dict[str, tuple[int, int | None]] = {}


@dataclass(frozen=True, slots=True)
class Card:
    """One breaker: name, policy and current state."""

    name: str
    policy: BreakerPolicy
    seen: Snapshot
    #: Newest first; empty if only the current state was requested.
    transitions: Sequence[Transition] = ()
    #: Messages that it holds; None if not requested, or if intake does not answer.
    held: Held | None = None

    @property
    def since(self) -> datetime | None:
        """When it last left CLOSED, however often it has probed since; None while CLOSED, or if not known."""
        left_ms = self.seen.left_closed_ms
        return None if left_ms is None else _EPOCH + timedelta(milliseconds=left_ms)


def cards(names: Iterable[str] | None = None) -> list[Card]:
    """These breakers, or all of them by name, at one point in time. Raises ``StoreUnavailable``."""
    policies = {name: conf.policy_for(name) for name in (conf.known_names() if names is None else names)}
    if not policies:
        return []
    seen = conf.patient_store().peek_many(policies)
    return [Card(name, policies[name], _with_since(name, seen[name])) for name in policies]


def transition_counts() -> dict[str, int]:
    """The number of changes of state of each breaker since its first one. Raises ``StoreUnavailable``."""
    return conf.patient_store().transition_counts(conf.known_names())


def card(name: str, *, limit: int = MAX_TRANSITIONS) -> Card:
    """One breaker with its last transitions and the messages that it holds.

    Raises ``BreakerNotFound``, ``StoreUnavailable``.
    """
    policy = _known(name)
    seen = _with_since(name, conf.patient_store().peek(name, policy))
    return with_held([Card(name, policy, seen, transitions(name, limit))])[0]


def with_held(cards: Iterable[Card]) -> list[Card]:
    """The cards with the messages that each breaker holds, in one round trip for all."""
    try:
        held = conf.held()
    except ServiceError as error:
        # The breakers themselves were read: show them without this number.
        log.warning("held_messages_unknown", extra={"why": str(error)})
        return list(cards)
    return [replace(one, held=held.get(one.name, NONE)) for one in cards]


def _with_since(name: str, seen: Snapshot) -> Snapshot:
    """The snapshot with the time at which the breaker left CLOSED: from its history if an earlier version opened it."""
    if seen.left_closed_ms is not None or seen.state is State.CLOSED:
        return seen
    generation, left_ms = _from_history.get(name, (-1, None))
    if generation != seen.generation:
        kept = conf.patient_store().transitions(name, KEPT_TRANSITIONS)
        left_ms = next((change.at_ms for change in kept if change.source is State.CLOSED), None)
        _from_history[name] = (seen.generation, left_ms)
    return replace(seen, left_closed_ms=left_ms)


def transitions(name: str, limit: int) -> list[Transition]:
    """The last transitions, newest first, secrets in their reasons hidden. Raises ``StoreUnavailable``."""
    found = conf.patient_store().transitions(name, limit)
    return [replace(one, reason=conf.hidden(one.reason)) if one.reason else one for one in found]


def whole_story(card: Card, limit: int) -> list[Transition]:
    """The last transitions, newest first, at least back to when the breaker left CLOSED.

    If that is not among the last ``limit`` ones, it is added as the oldest one, without its numbers. Raises
    ``StoreUnavailable``.
    """
    found = transitions(card.name, limit)
    left_ms = card.seen.left_closed_ms
    if left_ms is None or not found or any(change.source is State.CLOSED for change in found):
        return found
    began = Transition(
        at_ms=min(left_ms, found[-1].at_ms),
        source=State.CLOSED,
        to=found[-1].source,
        generation=0,
        why=Why.FAILURE_RATE,
        total=0,
        failures=0,
    )
    return [*found, began]


def window(name: str) -> list[tuple[int, int]]:
    """Outcomes and failures of each second of the breaker's window, oldest first. Raises as ``card`` does."""
    return conf.patient_store().window(name, _known(name))


def order(name: str, what: str, *, actor: str, reason: str) -> Card:
    """Carry out one of ``ORDERS`` and return the breaker.

    The actor and the reason are stored with the transition (about the last thousand are kept) and logged. Raises
    ``BreakerNotFound``, ``InvalidRequest`` for a missing or unusable reason, ``StoreUnavailable``: then the order may
    have been carried out, and a retry does no harm.
    """
    _known(name)
    said = {"breaker": name, "order": what, "by": actor, "why": reason.strip()}
    try:
        conf.breaker_for(name).force(ORDERS[what], actor=actor, reason=reason, store=conf.patient_store())
    except StoreUnavailable:
        # Perhaps only the answer was lost.
        log.warning("breaker_order_unanswered", extra=said)
        raise
    log.warning("breaker_ordered", extra=said)
    return card(name)


def _known(name: str) -> BreakerPolicy:
    """The policy of an existing name. No other name may create keys."""
    names = conf.known_names()
    if name not in names:
        known = f"known are {', '.join(names)}" if names else "none is known yet"
        raise BreakerNotFound(f"There is no circuit breaker with this name; {known}.")
    return conf.policy_for(name)
