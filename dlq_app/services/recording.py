"""Deaths and ends of replays into letters: many at once, each exactly once.

Whoever brings an outcome may be killed at any line and bring it again. What the letter says about the epoch decides:
it has this outcome or a newer one, then there is nothing to do; or not, then one conditional update writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from dlq_app import conf
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter import Death, Recorded, Settled
from dlq_app.domain.policy import Placement, ReplayPolicy, place_again, place_first
from dlq_app.store.documents import new_letter
from dlq_app.store.outcomes import LetterState, Update, death_update, settle_update
from dlq_app.store.repository import Letters

log = logging.getLogger(__name__)

#: Letters that move at every turn are in other hands at the moment; the outbox brings the outcome again.
_ROUNDS = 8
_DONE = Recorded(ok=True)


def record(
    letters: Letters, outcomes: Sequence[Death | Settled], policy: ReplayPolicy, now: datetime
) -> list[Recorded]:
    """Write all outcomes; one answer for each, in order.

    Raises ``StoreUnavailable`` when MongoDB gives no answer: all of it may be brought again.
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

    def run(self) -> list[Recorded]:
        # A first death most likely has no letter: insert at once instead of looking first.
        inserts = [i for i, o in enumerate(self.outcomes) if isinstance(o, Death) and o.replay_id is None]
        updates = sorted(set(range(len(self.outcomes))) - set(inserts))
        for _ in range(_ROUNDS):
            updates += self._insert(inserts)
            inserts, updates = self._update(updates) if updates else ([], [])
            if not inserts and not updates:
                return [self.answers[i] for i in range(len(self.outcomes))]
        raise StoreUnavailable("letters were moved by others at every turn; bring the outcomes again")

    def _insert(self, positions: Sequence[int]) -> list[int]:
        """Insert letters for these deaths; the positions of those whose message has a letter already."""
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
        """Judge outcomes by their letters and write what is missing; (positions to insert, to judge again)."""
        outcomes = [self.outcomes[i] for i in positions]
        with_body = any(isinstance(outcome, Death) and outcome.replay_id is None for outcome in outcomes)
        states = self.letters.letter_states((o.message_id for o in outcomes), with_body=with_body)
        to_insert: list[int] = []
        again: list[int] = []
        writes: list[tuple[int, Update]] = []
        settles: list[tuple[int, Settled, LetterState]] = []
        taken: set[str] = set()
        for i, outcome in zip(positions, outcomes, strict=True):
            state = states.get(outcome.message_id)
            if state is None and isinstance(outcome, Death):
                to_insert.append(i)
            elif state is None or state.has(outcome.epoch):
                self.answers[i] = _DONE  # told already, or the letter was purged and nobody is left to be told
            elif outcome.message_id in taken:
                again.append(i)  # two epochs of one message: the second is judged by what the first leaves
            else:
                taken.add(outcome.message_id)
                if isinstance(outcome, Settled):
                    settles.append((i, outcome, state))
                else:
                    placement = self._place(outcome, state)
                    writes.append((i, death_update(outcome, state, placement, self.now)))
        all_found = self.letters.settle_many([(outcome, state) for _, outcome, state in settles], self.now)
        if all_found:
            self.answers |= {i: _DONE for i, _, _ in settles}
        elif all_found is not None:
            again += [i for i, _, _ in settles]
        else:
            # One of them cannot be changed: each alone shows which.
            writes += [(i, Update(*settle_update([(end, state)], self.now))) for i, end, state in settles]
        written = self.letters.write([update for _, update in writes])
        for place, (i, _) in enumerate(writes):
            if place in written.refused:
                self._refuse(i, written.refused[place])
            elif written.all_matched:
                self.answers[i] = _DONE
            else:
                again.append(i)  # one of them moved in between; which one shows when they are read again
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

    def _refuse(self, position: int, why: str) -> None:
        outcome = self.outcomes[position]
        log.error("outcome of message %s, epoch %d, cannot be stored: %s", outcome.message_id, outcome.epoch, why)
        self.answers[position] = Recorded(ok=False, why=why)
