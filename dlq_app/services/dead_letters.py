"""The operations on dead letters for other apps, REST, the console and commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from audit_app.lines import record_automatic
from dlq_app import conf
from dlq_app.conf import intake
from dlq_app.domain.errors import BodyTooLarge, LetterNotFound, MoveRefused, PayloadInvalid, StoreUnavailable
from dlq_app.domain.import_readers import MAX_PAYLOAD
from dlq_app.domain.letter import DeadLetter, Death, Recorded, Settled
from dlq_app.domain.masking import MASK
from dlq_app.domain.payload import Node, NotJson, parse, written
from dlq_app.domain.payload_edits import NotRestorable, restored
from dlq_app.domain.standing import DONE, standing
from dlq_app.domain.states import Verb, is_allowed
from dlq_app.domain.strategies import Strategy
from dlq_app.services import facets, figures, recording, replaying
from dlq_app.services.replaying import ReplayAnswer, Replayed, Replayer, ReplayRequest, new_replay_id
from dlq_app.store import indexes, mongo, repository
from processes.steps import progressed

log = logging.getLogger(__name__)

#: The actor of automatic moves.
SYSTEM = "system"
#: Limits of the wait of an automatic replay whose breaker is open.
_MIN_WAIT, _MAX_WAIT = timedelta(seconds=1), timedelta(minutes=5)
_NOT_STARTED_WAIT = timedelta(minutes=1)


def record_outcomes(deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
    """Record deaths and successful replays in their letters; one answer for each, deaths first, in order.

    A majority has acknowledged them when this returns. Idempotent and safe under concurrency: an outcome can be
    repeated at any time. Raises ``StoreUnavailable`` when MongoDB does not answer; then all of them can be repeated.
    """
    return recording.record(repository.letters(), [*deaths, *settles], conf.replay_policy(), _now())


def lacking(outcomes: Sequence[tuple[str, int, bool]]) -> list[bool]:
    """Whether each outcome, given as (message id, epoch, is a death), is missing from the letters.

    A successful replay without a letter is not missing: the letter was resolved and deleted.
    """
    states = repository.letters().letter_states((message_id for message_id, _, _ in outcomes), with_body=False)
    answers = []
    for message_id, epoch, is_death in outcomes:
        state = states.get(message_id)
        answers.append(is_death if state is None else not state.has(epoch))
    return answers


def build_indexes() -> None:
    """Build missing indexes. Raises ``StoreUnavailable``, and ``LettersTwice`` when a message has two letters."""
    indexes.ensure(mongo.database(), keep_resolved_days=conf.replay_policy().keep_resolved_days)
    facets.start()


# --- replays ---


def replay(
    ref: str,
    *,
    actor: str,
    reason: str = "",
    force: bool = False,
    poison: bool = False,
    payload: bytes | None = None,
    replay_id: str | None = None,
) -> ReplayAnswer:
    """Replay the letter with this ``_id`` or message id, as one attempt through intake.

    A letter whose message probably kills its process (``DeadLetter.is_poison``) needs ``poison``; it then runs in a
    process without other messages, and only once. ``payload`` runs instead of the original, which is kept; hidden
    values in it are taken from the original. Raises ``PayloadInvalid`` when the original has no hidden value there, or
    intake would reject the payload. Of concurrent callers one gets ``Replayed``. ``StoreUnavailable``: nothing was
    started, or the sweep ends the claim; the call can be repeated with the same ``replay_id``.
    """
    letters = repository.letters()
    letter = letters.find(ref)
    if letter is None:
        return replaying.NotFound(ref)
    if payload is not None:
        payload = _with_secrets(payload, letter)
        if len(payload) > MAX_PAYLOAD:
            raise BodyTooLarge(f"The payload has {len(payload)} bytes; the maximum is {MAX_PAYLOAD}.")
        intake().check_payload(payload)
    request = ReplayRequest(
        replay_id=replay_id or new_replay_id(),
        kind="operator",
        by=actor,
        why=reason,
        force=force,
        poison=poison,
        payload=payload,
    )
    return Replayer(letters, intake()).replay(letter, request)


def _with_secrets(payload: bytes, letter: DeadLetter) -> bytes:
    """The edited payload with its hidden values restored: people edit a payload in which secrets are hidden.

    ``MASK`` itself must never run: a replay would send it instead of the secret.
    """
    if MASK.encode() not in payload:
        return payload
    try:
        original: Node = parse(letter.text)
    except NotJson:
        original = None  # it has no hidden values
    try:
        whole = restored(parse(payload.decode("utf-8", "backslashreplace")), original, conf.masking_policy())
    except NotJson:
        return payload  # intake's own check says what is wrong
    except NotRestorable as error:
        raise PayloadInvalid(str(error), errors=[{"field": error.path, "message": str(error)}]) from error
    return written(whole).encode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRound:
    """What one round of automatic replays did."""

    #: Letters that were due, at most the limit.
    due: int = 0
    replayed: int = 0
    #: Moved to a later time: their breaker is open, or their off-peak slot is over.
    postponed: int = 0
    #: In other hands, or done already.
    left: int = 0


def replay_due(limit: int = 100) -> DueRound:
    """Start the automatic replays that are due now, longest first, at most ``limit``.

    Any number of processes may do this at the same time: each letter is claimed by one of them. Raises
    ``StoreUnavailable`` when a store gives no answer; what was started stays started.
    """
    letters, port, policy = repository.letters(), intake(), conf.replay_policy()
    replayer = Replayer(letters, port)
    now = letters.server_now()
    replayed = postponed = left = 0
    refused: set[str] = set()
    found = letters.due(now, limit)
    for letter in found:
        progressed()
        if letter.type in refused:
            continue  # postponed with the others of its type
        due_at = letter.next_retry_at or now
        later = policy.missed(letter.strategy, due_at, now)
        if later is not None:
            postponed += letters.postpone(letter, later)
            continue
        request = ReplayRequest(
            replay_id=new_replay_id(),
            kind="auto",
            by=SYSTEM,
            why=f"automatic replay {letter.dlq_retry_count + 1} of {policy.max_automatic_replays}",
            poison=True,  # the policy names this error type, so no one is asked
        )
        match replayer.replay(letter, request):
            case Replayed():
                replayed += 1
            case replaying.Refused(message_type=message_type, retry_after=retry_after):
                wait = min(max(timedelta(seconds=retry_after), _MIN_WAIT), _MAX_WAIT)
                if len(port.breakers([message_type]).get(message_type, ())) > 1:
                    # The payload chose this breaker; others of the type may go elsewhere.
                    postponed += letters.postpone(letter, now + wait)
                else:
                    refused.add(message_type)
                    postponed += letters.postpone_type(message_type, now, now + wait)
            case replaying.NotStarted():
                postponed += letters.postpone(letter, now + _NOT_STARTED_WAIT)
            case replaying.Unknown():
                raise StoreUnavailable("intake gives no answer; automatic replays wait")
            case _:
                left += 1
    return DueRound(due=len(found), replayed=replayed, postponed=postponed, left=left)


def record_round(done: DueRound) -> None:
    """Add the started replays of one round to the audit log: one line. Never fails; each letter has them, too."""
    if done.replayed:
        letters = f"{done.replayed:,} dead letter{'' if done.replayed == 1 else 's'}"
        record_automatic("automatic replays started", kind="deadletter", name=letters, count=done.replayed)


def release_stale(limit: int = 100) -> int:
    """Look after claims older than five minutes, at most ``limit``; how many were released.

    A claim whose message exists is kept: its outcome will come. Raises ``StoreUnavailable`` when a store is silent.
    """
    letters = repository.letters()
    replayer = Replayer(letters, intake())
    released = 0
    for letter in letters.stale(letters.server_now(), limit):
        progressed()
        done = replayer.end_stale(letter)
        released += done == "released"
        log.info("stale_claim", extra={"message_id": letter.message_id, "epoch": letter.fence, "found": done})
    return released


# --- what operators do ---


def resolve_by_hand(ref: str, *, actor: str, reason: str = "") -> DeadLetter:
    """Mark the letter as done. Raises ``LetterNotFound``, or ``MoveRefused`` with its status."""
    return _move(ref, Verb.RESOLVE_BY_HAND, repository.letters().resolve_by_hand, actor, reason)


def discard(ref: str, *, actor: str, reason: str = "") -> DeadLetter:
    """Mark the letter as irrelevant. Raises ``LetterNotFound``, or ``MoveRefused`` with its status."""
    return _move(ref, Verb.DISCARD, repository.letters().discard, actor, reason)


def set_aside(ref: str, *, actor: str, reason: str = "") -> DeadLetter:
    """Stop automatic replays; the letter then needs a decision. Raises ``LetterNotFound`` or ``MoveRefused``."""
    return _move(ref, Verb.SET_ASIDE, repository.letters().set_aside, actor, reason)


def resume(ref: str, *, actor: str, reason: str = "") -> DeadLetter:
    """Plan the next automatic replay of a letter that needs a decision. Raises ``LetterNotFound`` or ``MoveRefused``.

    Only if its error allows automatic replays and some are left: it was set aside, or reopened.
    """
    return _move(ref, Verb.RESUME, repository.letters().resume, actor, reason)


def reopen(ref: str, *, actor: str, reason: str = "") -> DeadLetter:
    """Undo ``resolve_by_hand`` or ``discard``: the letter needs a decision, and its retention no longer runs.

    Raises ``LetterNotFound``, or ``MoveRefused`` for a letter that is open or was replayed.
    """
    return _move(ref, Verb.REOPEN, repository.letters().reopen, actor, reason)


def add_note(ref: str, *, actor: str, text: str) -> DeadLetter:
    """Add a note, in any status. Raises ``LetterNotFound``."""
    letters = repository.letters()
    letter = _found(letters.find(ref), ref)
    return _found(letters.add_note(letter.id, who=actor, note=text, now=_now()), ref)


def reveal(ref: str, *, actor: str, reason: str = "") -> DeadLetter:
    """Return the letter with its secrets, after recording the user in its history."""
    letters = repository.letters()
    letter = _found(letters.find(ref), ref)
    letters.add_history(letter.id, who=actor, what="reveal", why=reason, now=_now())
    return _found(letters.get(letter.id), ref)


def next_replay_at(types: Sequence[str], limit_s: float) -> datetime | None:
    """When the next automatic replay of these message types is due; None if none is planned.

    Raises ``StoreUnavailable``, and ``QueryTooSlow`` after ``limit_s`` seconds.
    """
    return repository.letters().next_due_of(types, limit_s)


def _move(ref: str, verb: Verb, move: Callable[..., DeadLetter | None], actor: str, reason: str) -> DeadLetter:
    letters = repository.letters()
    letter = _found(letters.find(ref), ref)
    moved = move(letter.id, who=actor, why=reason, now=_now())
    if moved is None:
        letter = _found(letters.get(letter.id), ref)
        why = _why_unmovable(letter, verb) or f"it cannot be {DONE[verb]}."
        raise MoveRefused(f"{letter.message_id} {standing(letter)}: {why}")
    return moved


def _why_unmovable(letter: DeadLetter, verb: Verb) -> str:
    """Why a letter in the right status cannot be moved; empty if its status is the reason."""
    if not is_allowed(verb, letter.status):
        return ""
    if verb is Verb.REOPEN:
        return "a replay succeeded. Only letters that were resolved or discarded by hand can be reopened."
    if verb is Verb.RESUME and letter.strategy is Strategy.MANUAL:
        return f"its error {letter.error_type} has no automatic replays. Replay it, resolve it or discard it."
    if verb is Verb.RESUME:
        maximum = conf.replay_policy().max_automatic_replays
        return f"all {maximum} automatic replays are used. Replay it, resolve it or discard it."
    return ""


def _found(letter: DeadLetter | None, ref: str) -> DeadLetter:
    if letter is None:
        raise LetterNotFound(f"There is no dead letter {ref}.")
    return letter


# --- figures ---


def stats() -> dict[str, Any]:
    """Figures about all letters by wire name, as of ``asOf``."""
    return figures.stats()


def _now() -> datetime:
    return repository.now()
