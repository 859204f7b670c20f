"""Actions on a letter: a button for each, or why it is locked."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse

from console import permissions
from console.actions import Action
from dlq_app import conf
from dlq_app.conf import intake
from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.states import UNDOABLE, Status, Verb, is_allowed
from dlq_app.domain.strategies import Strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Whether the circuit breaker allows a replay now."""

    #: Seconds until the breaker allows probes; None if a replay is allowed.
    refused_for: float | None = None
    breaker: str = ""
    #: The payload chooses the breaker, so an edited one may meet another.
    is_chosen: bool = False
    is_unknown: bool = False

    @property
    def words(self) -> str:
        if self.refused_for is None:
            return ""
        name = self.breaker or "The circuit breaker of this type"
        return f"{name} is open: a replay now would be refused."


def gate(letter: DeadLetter, body: bytes | None = None) -> Gate:
    """Ask intake about the letter's payload, or about an edited one; unknown if intake does not respond."""
    body = letter.body if body is None else body
    try:
        wait_ms = intake().retry_after_ms(letter.type, body)
        name = intake().breaker_of(letter.type, body) or ""
        is_chosen = wait_ms is not None and len(intake().breakers([letter.type]).get(letter.type, ())) > 1
    except DeadLetterError as error:
        log.warning("breaker_unknown", extra={"why": str(error)})
        return Gate(is_unknown=True)
    refused_for = None if wait_ms is None else max(wait_ms, 0) / 1000
    return Gate(refused_for=refused_for, breaker=name, is_chosen=is_chosen)


def acts(request: HttpRequest, letter: DeadLetter, barrier: Gate) -> list[Action]:
    """All buttons; locked ones have a reason."""
    role = permissions.denial_reason(request, permissions.REPLAY)
    busy = "A replay is in progress: wait for its outcome." if letter.status is Status.PROCESSING else ""
    resolved = letter.status is Status.RESOLVED
    done = "It is already resolved." if resolved else ""
    aside = "" if is_allowed(Verb.SET_ASIDE, letter.status) else (done or busy or "It already needs a decision.")
    undo = _undo(letter, role)
    return [
        Action(
            name="replay",
            label="Replay again…" if resolved else "Replay…",
            icon="replay",
            url=_url("replay", letter),
            hint=_replay_hint(letter, resolved),
            locked=role or busy or barrier.words,
            is_primary=not resolved and not letter.is_poison,
        ),
        Action(
            name="edit",
            label="Edit and replay…",
            icon="edit",
            url=_url("edit", letter),
            hint="The original is kept; your version is stored with your name.",
            # Unless the payload chooses the breaker: then an edit may be what avoids the open one.
            locked=role or busy or ("" if barrier.is_chosen else barrier.words),
            is_primary=not resolved and barrier.is_chosen,
        ),
        Action(
            name="resolve",
            label="Resolve…",
            icon="check",
            url=_url("resolve", letter),
            hint="Mark as done. The letter is kept.",
            locked=role or done or busy,
        ),
        Action(
            name="discard",
            label="Discard…",
            icon="slash",
            url=_url("discard", letter),
            hint="Close without processing; the letter is kept.",
            locked=role or done or busy,
        ),
        undo
        or Action(
            name="set_aside",
            label="Set aside…",
            icon="hand",
            url=_url("set_aside", letter),
            hint="Stops automatic replays; the letter needs a decision.",
            locked=role or aside,
        ),
    ]


def _undo(letter: DeadLetter, role: str) -> Action | None:
    """What undoes an operator's move of this letter, in the place of ``set_aside``; None if there is none."""
    if letter.resolution in UNDOABLE:
        hint = "Undo: the letter needs a decision again."
        return Action(name="reopen", label="Reopen…", icon="up", url=_url("reopen", letter), hint=hint, locked=role)
    if letter.status is Status.MANUAL and letter.strategy is not Strategy.MANUAL:
        maximum = conf.replay_policy().max_automatic_replays
        used = "" if letter.dlq_retry_count < maximum else f"All {maximum} automatic replays are used."
        return Action(
            name="resume",
            label="Resume automatic replays…",
            icon="clock",
            url=_url("resume", letter),
            hint="Plans the next automatic replay.",
            locked=role or used,
        )
    return None


def _replay_hint(letter: DeadLetter, resolved: bool) -> str:
    if letter.is_poison:
        return "It probably kills the worker that runs it; you will be asked to confirm."
    if resolved:
        return "Already resolved; you will be asked to confirm."
    return "One attempt, now. The outcome appears here."


def _url(what: str, letter: DeadLetter) -> str:
    return reverse(f"admin:dlq_app_deadletter_{what}", args=[letter.id])
