"""What operators see and do: the breakers that exist, one of them with its story, and orders that are written down."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from breaker_app import conf
from breaker_app.errors import BreakerNotFound, StoreUnavailable
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Snapshot, State, Transition

log = logging.getLogger(__name__)

#: What staff may order, as addresses, commands and the audit log name it, and where it sends the breaker.
ORDERS: Final[Mapping[str, State]] = {
    "force-open": State.FORCED_OPEN,
    "reset": State.CLOSED,
    "disable": State.DISABLED,
}
#: Transitions shown with one breaker.
SHOWN_TRANSITIONS = 100


@dataclass(frozen=True, slots=True)
class Card:
    """One breaker: its name, the policy it goes by, and how it stands."""

    name: str
    policy: BreakerPolicy
    seen: Snapshot
    #: Newest first; empty where only the present was asked for.
    transitions: Sequence[Transition] = ()


def cards() -> list[Card]:
    """Every breaker that exists, by name, as of one instant. Raises ``StoreUnavailable``."""
    policies = {name: conf.policy_for(name) for name in conf.known_names()}
    seen = conf.patient_store().peek_many(policies)
    return [Card(name, policies[name], seen[name]) for name in policies]


def card(name: str, *, limit: int = SHOWN_TRANSITIONS) -> Card:
    """One breaker with its last changes. Raises ``BreakerNotFound``, ``StoreUnavailable``."""
    policy = _known(name)
    return Card(name, policy, conf.patient_store().peek(name, policy), transitions(name, limit))


def transitions(name: str, limit: int) -> list[Transition]:
    """The last changes of state, newest first, as they may be shown. Raises ``StoreUnavailable``."""
    found = conf.patient_store().transitions(name, limit)
    return [replace(one, reason=conf.hidden(one.reason)) if one.reason else one for one in found]


def window(name: str) -> list[tuple[int, int]]:
    """Outcomes and failures of each second of the breaker's window, oldest first. Raises as ``card`` does."""
    return conf.patient_store().window(name, _known(name))


def order(name: str, what: str, *, actor: str, reason: str) -> Card:
    """Carry out one of ``ORDERS`` and tell how the breaker stands then.

    Who and why are kept with the transition, of which the last thousand or so stay, and said in the log. Raises
    ``BreakerNotFound``, ``InvalidRequest`` for a missing or unusable reason, ``StoreUnavailable``: after that one the
    order may have been carried out, and giving it again does no harm.
    """
    _known(name)
    said = {"breaker": name, "order": what, "by": actor, "why": reason.strip()}
    try:
        conf.breaker_for(name).force(ORDERS[what], actor=actor, reason=reason, store=conf.patient_store())
    except StoreUnavailable:
        # Its answer may be all that was lost.
        log.warning("breaker_order_unanswered", extra=said)
        raise
    log.warning("breaker_ordered", extra=said)
    return card(name)


def _known(name: str) -> BreakerPolicy:
    """The policy of a name that exists: whoever asks for another cannot make keys with it."""
    names = conf.known_names()
    if name not in names:
        known = f"known are {', '.join(names)}" if names else "none is known yet"
        raise BreakerNotFound(f"There is no circuit breaker with this name; {known}.")
    return conf.policy_for(name)
