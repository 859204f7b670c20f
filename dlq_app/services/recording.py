"""Record deaths and successful replays in letters: many at once, each exactly once.

A caller can be killed at any line and repeat its outcomes. If a letter already has an epoch's outcome or a newer one,
there is nothing to do; otherwise one conditional update writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from dlq_app import conf
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter import Death, Recorded, Settled
from dlq_app.domain.replay_batch import SUCCEEDED
from dlq_app.domain.replay_policy import Placement, ReplayPolicy, place_again, place_first
from dlq_app.store.documents import new_letter
from dlq_app.store.outcome_updates import (
    LetterState,
    PlacedDeath,
    Update,
    death_update,
    place_death,
    settle_update,
)
from dlq_app.store.repository import Letters
from processes.measured import measured

log = logging.getLogger(__name__)

#: Attempts for letters that others keep changing; after them the outbox repeats the outcome.
_ROUNDS = 8
_DONE = Recorded(ok=True)
#: Name of the count of ended replays, by outcome.
REPLAYS = "replays"


def record(
    letters: Letters, outcomes: Sequence[Death | Settled], policy: ReplayPolicy, now: datetime
) -> list[Recorded]:
    """Write all outcomes; one answer for each, in order.

    Raises ``StoreUnavailable`` when MongoDB does not answer: all outcomes can be repeated.
    """
    return _Recording(letters, outcomes, policy, now).run()


class _Recording:
    """One call of ``record``. Positions are places in the list of outcomes."""

    def __init__(
        self, letters: Letters, outcomes: Sequence[Death | Settled], policy: ReplayPolicy, now: datetime
    ) -> None:
        self.letters = letters
        self.outcomes = outcomes
        self.policy = policy
        self.now = now
        self.answers: dict[int, Recorded] = {}
        #: Outcomes of replays that this call has sent, by position, until they are counted.
        self.replays: dict[int, str] = {}

    def run(self) -> list[Recorded]:
        # A first death most likely has no letter: insert it unread. A success changes nothing that must be read first.
        inserts = [i for i, o in enumerate(self.outcomes) if isinstance(o, Death) and o.replay_id is None]
        settles = [i for i, o in enumerate(self.outcomes) if isinstance(o, Settled)]
        self._settle(settles)
        updates = sorted(set(range(len(self.outcomes))) - set(inserts) - set(self.answers))
        for _ in range(_ROUNDS):
            updates += self._insert(inserts)
            inserts, updates = self._update(updates) if updates else ([], [])
            if not inserts and not updates:
                return [self.answers[i] for i in range(len(self.outcomes))]
        raise StoreUnavailable("other processes kept changing these letters; repeat the outcomes")

    def _settle(self, positions: Sequence[int]) -> bool:
        """Resolve letters whose replays succeeded, together; False if one of them cannot be changed.

        Answers all of them if each was still to be resolved; if not, read the letters to find out which.
        """
        settles = {o.message_id: o for i in positions if isinstance(o := self.outcomes[i], Settled)}
        if not positions or len(settles) < len(positions):
            return True  # two epochs of one message: one after the other
        resolved = self.letters.settle_many(list(settles.values()), self.now)
        if resolved:
            measured.count(REPLAYS, SUCCEEDED, by=resolved)
        if resolved == len(positions):
            self.answers |= dict.fromkeys(positions, _DONE)
        return resolved is not None

    def _insert(self, positions: Sequence[int]) -> list[int]:
        """Insert letters for these deaths; returns the positions of messages that already have a letter."""
        deaths = [(i, death) for i in positions if isinstance(death := self.outcomes[i], Death)]
        inserted = self.letters.dead_letter_new(
            [new_letter(death, self._first_place(death), self.now, conf.masking_policy()) for _, death in deaths]
        )
        for place, (i, _) in enumerate(deaths):
            if place in inserted.refused:
                self._refuse(i, inserted.refused[place])
            elif place not in inserted.existing:
                self.answers[i] = _DONE
        return [deaths[place][0] for place in sorted(inserted.existing)]

    def _update(self, positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """Write missing outcomes to existing letters; returns the positions to insert, and to check again."""
        outcomes = [self.outcomes[i] for i in positions]
        with_body = any(isinstance(outcome, Death) and outcome.replay_id is None for outcome in outcomes)
        states = self.letters.letter_states((o.message_id for o in outcomes), with_body=with_body)
        to_insert: list[int] = []
        again: list[int] = []
        writes: list[tuple[int, Update]] = []
        settles: list[tuple[int, Settled]] = []
        failed: list[tuple[int, PlacedDeath]] = []
        taken: set[str] = set()
        for i, outcome in zip(positions, outcomes, strict=True):
            state = states.get(outcome.message_id)
            if state is None and isinstance(outcome, Death):
                to_insert.append(i)
            elif state is None or state.has(outcome.epoch):
                self._done(i)  # recorded already, or the letter was deleted
            elif outcome.message_id in taken:
                again.append(i)  # two epochs of one message: check the second after the first is written
            else:
                taken.add(outcome.message_id)
                if isinstance(outcome, Settled):
                    settles.append((i, outcome))
                    continue
                placed = place_death(outcome, state, self._place(outcome, state), self.now)
                if outcome.replay_id is None:
                    writes.append((i, death_update(placed, self.now)))
                else:
                    failed.append((i, placed))
                    self.replays[i] = placed.outcome
        if self._settle([i for i, _ in settles]):
            again += [i for i, _ in settles if i not in self.answers]
        else:
            # One of them cannot be changed: each alone shows which.
            writes += [(i, Update(*settle_update([end], self.now))) for i, end in settles]
            self.replays |= {i: SUCCEEDED for i, _ in settles}
        all_found = self.letters.fail_many([placed for _, placed in failed], self.now)
        if all_found:
            for i, _ in failed:
                self._done(i)
        elif all_found is not None:
            again += [i for i, _ in failed]
        else:
            writes += [(i, death_update(placed, self.now)) for i, placed in failed]
        written = self.letters.write([update for _, update in writes])
        for place, (i, _) in enumerate(writes):
            if place in written.refused:
                self._refuse(i, written.refused[place])
            elif written.all_matched:
                self._done(i)
            else:
                again.append(i)  # one of them changed in between: read them again to find out which
        return to_insert, again

    def _first_place(self, death: Death) -> Placement:
        return place_first(self.policy, error_type=death.error_type, error_kind=death.error_kind, died_at=death.died_at)

    def _place(self, death: Death, state: LetterState) -> Placement:
        if death.replay_id is None:
            return self._first_place(death)
        return place_again(
            self.policy,
            error_type=death.error_type,
            error_kind=death.error_kind,
            died_at=death.died_at,
            done=state.dlq_retry_count + (state.kind_of(death.epoch) == "auto"),
            was_set_aside=state.was_set_aside,
        )

    def _done(self, position: int) -> None:
        self.answers[position] = _DONE
        if ended := self.replays.pop(position, ""):
            measured.count(REPLAYS, ended)

    def _refuse(self, position: int, why: str) -> None:
        outcome = self.outcomes[position]
        log.error("outcome of message %s, epoch %d, cannot be stored: %s", outcome.message_id, outcome.epoch, why)
        self.answers[position] = Recorded(ok=False, why=why)
