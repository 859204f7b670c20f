"""Facets of letters, and groups by rule: whether all letters have them, filling them in, and counts by facet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.states import OPEN
from dlq_app.store import repository
from dlq_app.store.facet_filling import Filling, filling
from dlq_app.store.groupings import COUNTED, FACET, FIELDS, Groupings, Part
from processes.steps import progressed
from wire.cached import Cached
from wire.instants import iso

OPEN_STATUSES = tuple(sorted(status.value for status in OPEN))
#: Values that one answer lists.
TOP, MAX_TOP = 10, 100
#: Fields without an index of their own.
_NOT_INDEXED = ("client", "codeVersion")
LABELS = {
    "type": "Type",
    "source": "Source",
    "client": "Client",
    "codeVersion": "Code version",
    "errorType": "Error type",
}


def names() -> list[str]:
    """What letters can be grouped by: facets first."""
    return [*(f"{FACET}{name}" for name in conf.facet_policy().facets), *FIELDS]


def label(by: str) -> str:
    """The name of a grouping in the console."""
    return LABELS.get(by) or conf.facet_policy().label(by.removeprefix(FACET))


def grouped(criteria: LetterCriteria, by: Sequence[str] | None = None, *, top: int = TOP) -> Groupings:
    """The most frequent values in the newest letters that match: of each facet, or of these ``names``.

    Can raise ``QueryTooSlow``.
    """
    wanted = [name for name in names() if name.startswith(FACET)] if by is None else by
    return repository.letters().grouped(criteria, wanted, top)


def of_batch(batch_id: str, by: Sequence[str] | None = None, *, top: int = TOP) -> Groupings:
    """The same for the letters of a batch, in the order of its plan."""
    wanted = [name for name in names() if name.startswith(FACET)] if by is None else by
    items = repository.items().page(batch_id, None, -1, COUNTED + 1)
    return repository.letters().grouped_of([item.letter_id for item in items], wanted, top)


def _of_open() -> Groupings:
    return grouped(LetterCriteria(statuses=OPEN_STATUSES))


#: The most frequent values of each facet in open letters, for suggestions.
of_open = Cached(_of_open, 15.0)


def narrowed(criteria: LetterCriteria, by: str, part: Part, groupings: Groupings) -> LetterCriteria:
    """The letters of one part.

    If not all letters were counted, those of a field without an index are only the counted ones: the others would be
    found by reading every letter.
    """
    given = criteria.as_filter()
    if by.startswith(FACET):
        name = by.removeprefix(FACET)
        others = [one for one in criteria.facets if not one.startswith(f"{name}=")]
        given["facet"] = [*others, f"{name}={part.value}"]
    else:
        given[by] = [part.value]
    if groupings.is_partial and by in _NOT_INDEXED and groupings.since:
        given["from"] = [iso(groupings.since)]
    return LetterCriteria.parse(given)


def is_filled() -> bool:
    """Whether every letter has the facets of the policy in force; also if the store does not answer.

    Letters of a replaced policy are found by it only after ``fill``.
    """
    try:
        return _is_filled(_digest())
    except StoreUnavailable:
        return True  # the page itself shows that the store does not respond


def _digest() -> str:
    """Changes with the policies whose values letters keep; empty without any."""
    policy, rules = conf.facet_policy(), conf.group_policy().digest
    return f"{policy.digest if policy else ''}{rules}"


def _asked(digest: str) -> bool:
    if not digest:
        return True
    found = filling().progress()
    return found is not None and found.is_complete and found.policy == digest


_is_filled = Cached(_asked, 10.0)


def start() -> None:
    """Before any letter is written: letters that do not exist need not be filled in."""
    digest, store = _digest(), filling()
    if digest and store.progress() is None and not store.has_letters():
        store.keep(Filling(policy=digest, is_complete=True))


def fill(progress: Callable[[Filling], None] = lambda found: None, *, again: bool = False) -> Filling:
    """Fill in the facets, and the groups by rule, of all letters; calls ``progress`` after each step.

    Can be killed at any point: the next call continues. With ``again`` it begins with the first letter, as after a
    change of the policy. Letters that are written meanwhile have their facets, if every process has this policy.
    Raises ``StoreUnavailable``.
    """
    digest, store = _digest(), filling()
    found = store.progress()
    if again or found is None or found.policy != digest or found.is_complete:
        found = Filling(policy=digest)
        store.keep(found)
    while not found.is_complete:
        read, changed, last = store.step(found.after, conf.facet_policy(), conf.group_policy())
        found = replace(
            found,
            after=last or found.after,
            read=found.read + read,
            changed=found.changed + changed,
            is_complete=not last,
        )
        store.keep(found)
        progress(found)
        progressed()
    _is_filled.forget()
    return found
