"""What operators see and do: the breakers that exist, one of them with its story, and orders that are written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from breaker_app import conf
from breaker_app.errors import BreakerNotFound
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Snapshot, State, Transition

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
    seen = conf.store().peek_many(policies)
    return [Card(name, policies[name], seen[name]) for name in policies]


def card(name: str, *, limit: int = SHOWN_TRANSITIONS) -> Card:
    """One breaker with its last changes. Raises ``BreakerNotFound``, ``StoreUnavailable``."""
    policy = _known(name)
    store = conf.store()
    return Card(name, policy, store.peek(name, policy), store.transitions(name, limit))


def window(name: str) -> list[tuple[int, int]]:
    """Outcomes and failures of each second of the breaker's window, oldest first. Raises as ``card`` does."""
    return conf.store().window(name, _known(name))


def order(name: str, state: State, *, actor: str, reason: str) -> Card:
    """Send a breaker to ``state`` and tell how it stands then. Who and why are kept with the transition.

    Raises ``BreakerNotFound``, ``InvalidRequest`` for a missing or unusable reason, ``StoreUnavailable``: after that
    one the order may have been carried out, and giving it again does no harm.
    """
    _known(name)
    conf.breaker_for(name).force(state, actor=actor, reason=reason)
    return card(name)


def _known(name: str) -> BreakerPolicy:
    """The policy of a name that exists: whoever asks for another cannot make keys with it."""
    names = conf.known_names()
    if name not in names:
        known = f"known are {', '.join(names)}" if names else "none is known yet"
        raise BreakerNotFound(f"No circuit breaker has this name; {known}.")
    return conf.policy_for(name)
