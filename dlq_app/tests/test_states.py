"""The closed table of moves."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from django.conf import settings

from dlq_app.domain.states import TRANSITIONS, WAITING, IllegalMove, Status, Verb, froms, is_allowed, require
from dlq_app.store.repository import Letters

PENDING, PROCESSING, RESOLVED, FAILED, MANUAL = Status

#: Written out on purpose: the table must be changed in two places, deliberately.
LEGAL: dict[Verb, tuple[set[Status | None], set[Status]]] = {
    Verb.DEAD_LETTER: ({None, *Status}, {PENDING, MANUAL, FAILED}),
    Verb.CLAIM: ({PENDING, FAILED, MANUAL}, {PROCESSING}),
    Verb.CLAIM_AGAIN: ({RESOLVED}, {PROCESSING}),
    Verb.RESOLVE: (set(Status), {RESOLVED}),
    Verb.PUT_BACK: ({PROCESSING}, {PENDING}),
    Verb.FAIL: ({PROCESSING}, {FAILED}),
    Verb.HAND_OVER: ({PROCESSING}, {MANUAL}),
    Verb.RELEASE: ({PROCESSING}, {PENDING, FAILED, MANUAL, RESOLVED}),
    Verb.RESOLVE_BY_HAND: ({PENDING, FAILED, MANUAL}, {RESOLVED}),
    Verb.DISCARD: ({PENDING, FAILED, MANUAL}, {RESOLVED}),
    Verb.SET_ASIDE: ({PENDING, FAILED}, {MANUAL}),
    Verb.RESUME: ({MANUAL}, {PENDING}),
    Verb.REOPEN: ({RESOLVED}, {MANUAL}),
}


@pytest.mark.parametrize("verb", list(Verb))
def test_each_verb_leads_where_the_table_says_and_nowhere_else(verb: Verb) -> None:
    starts, ends = LEGAL[verb]

    for before, after in itertools.product([None, *Status], Status):
        if before in starts and after in ends:
            assert require(verb, before, after) is after
        else:
            with pytest.raises(IllegalMove) as caught:
                require(verb, before, after)
            assert str(before or "no letter") in str(caught.value)
            assert str(after) in str(caught.value)


def test_the_table_is_whole_and_closed() -> None:
    assert set(TRANSITIONS) == set(Verb) == set(LEGAL)
    with pytest.raises(TypeError):
        TRANSITIONS[Verb.CLAIM] = TRANSITIONS[Verb.DISCARD]  # type: ignore[index]


def test_what_may_be_claimed_is_what_waits() -> None:
    assert froms(Verb.CLAIM) == ["dlq_pending", "dlq_failed", "dlq_manual"]
    assert {status for status in Status if is_allowed(Verb.CLAIM, status)} == WAITING


def test_every_verb_has_its_place_in_the_repository() -> None:
    """Deaths and ends of replays are written in bulk; the other verbs are methods of their own name."""
    in_bulk = {
        Verb.DEAD_LETTER: "dead_letter_new",
        Verb.RESOLVE: "write",
        Verb.PUT_BACK: "write",
        Verb.FAIL: "write",
        Verb.CLAIM_AGAIN: "claim",
    }

    for verb in Verb:
        assert callable(getattr(Letters, in_bulk.get(verb, str(verb))))


def test_the_lifecycle_page_names_every_status_and_verb() -> None:
    page = (Path(settings.BASE_DIR) / "docs" / "lifecycle.md").read_text(encoding="utf-8")

    for word in [*Status, *Verb]:
        assert re.search(rf"`{word}`", page), f"docs/lifecycle.md does not name {word}"
