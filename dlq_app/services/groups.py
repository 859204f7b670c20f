"""Dead letters grouped by their error: lists of groups, one group, and what users decide and note about it.

Counts come from ``figures``, so a list costs the same for any number of letters. States and notes are read each time:
a change is visible at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, GroupNotFound
from dlq_app.domain.filters import FILTERS as LETTER_FILTERS
from dlq_app.domain.group_states import OPEN_STATES, GroupFigures, GroupState, Said, state_of
from dlq_app.domain.owners import MAX_OWNER, NONE, Owner, merged
from dlq_app.domain.paging import DEFAULT_LIMIT, MAX_LIMIT
from dlq_app.domain.search_terms import error_words, words
from dlq_app.services import figures
from dlq_app.store import repository
from dlq_app.store.figures import figures as figures_store
from dlq_app.store.groups import GroupDescription, Note, groups
from wire import cursor as cursors
from wire.fields import digits, field_error, one_of, single, summary, text, unknown_field

#: Filters of letters that also apply to groups; ``from`` and ``to`` refer to the last failure of the group.
FILTERS = tuple(one.name for one in LETTER_FILTERS.values() if one.of_group or not one.is_repeated)
#: Parameters of ``GroupQuery.parse``.
PARAMETERS = (*FILTERS, "state", "owner", "sort", "limit", "cursor")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}\Z")
#: The exception's name before the text, as in ``KeyError: x``, and words of at least three letters.
_ERROR_NAME = re.compile(r"\A\s*[\w.]+:")
_WORD = re.compile(r"[^\W\d_]{3,}")
_LONG_TITLE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LastReplay:
    """The result of the last replay of a letter of the group."""

    at: datetime
    #: ``succeeded``, ``failed_same`` or ``failed_new``.
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(GroupFigures):
    """Letters that failed with the same error: their counts, and what users decided and noted about them."""

    types: tuple[tuple[str, int], ...] = ()
    trend: tuple[int, ...] = ()
    #: By the minute of the last hour, the minute of ``as_of`` last; empty if there is none.
    minutes: tuple[int, ...] = ()
    error_kind: str
    #: The error text with ``#`` for what varies.
    message: str
    #: The error text of one letter. May contain secrets of a client: mask it before it is shown.
    sample: str
    #: ``payments/gateway.py:88 capture()``; empty without application code in the stack.
    frame: str
    #: Beginning of the first hour of ``trend``.
    trend_from: datetime
    state: GroupState
    said: Said | None
    note: Note | None
    #: Name of the rule of ``groups.toml`` that makes this group; empty: its error does.
    rule: str = ""
    #: By hand, else by rule; may be empty.
    owner: Owner = field(default_factory=Owner)
    #: ``{at, who, what, why}``, oldest first.
    history: Sequence[Mapping[str, Any]]
    as_of: datetime

    @property
    def last_replay(self) -> LastReplay | None:
        return LastReplay(at=self.replayed_at, outcome=self.replay_outcome) if self.replayed_at else None

    @property
    def title(self) -> str:
        """The error text without its variable parts."""
        return self.rule or self.message or self.error_type or self.fingerprint

    @property
    def telling_title(self) -> str:
        """The title, or one letter's error text if the title has no words, as in ``KeyError: #``.

        It can contain secrets: mask it before display.
        """
        text = telling(self.message, self.sample)
        if self.rule or not text or text == self.message:
            return self.title
        return text if self.count == 1 else f"{text} and the like"

    @property
    def is_new(self) -> bool:
        return self.state is GroupState.NEW


def telling(message: str, sample: str) -> str:
    """The message of a group, or the error text of one letter if the message has no words, as in ``KeyError: #``.

    It can contain secrets: mask it before display.
    """
    left = _WORD.findall(_ERROR_NAME.sub("", message))
    example = " ".join(sample.strip()[:_LONG_TITLE].split("\n")[0].split())
    return message if left or not example else example


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPage:
    """A page of groups, and the cursor of the next page (None on the last)."""

    groups: list[Group]
    next_cursor: str | None
    #: Number of matching groups; if ``is_capped``, a lower bound.
    total: int
    is_capped: bool
    #: Number of groups that match the filters in each state, independent of the requested states.
    states: Mapping[GroupState, int]
    #: Number of groups of each owner, independent of the requested states and owners; ``none`` for those without.
    owners: Mapping[str, int]
    as_of: datetime


#: States by severity, worst last. Within a state the number of open letters decides.
_SEVERITY = (GroupState.RESOLVED, GroupState.IGNORED, GroupState.ONGOING, GroupState.NEW, GroupState.REGRESSED)
_SORTS: Mapping[str, Callable[[Group], int]] = {
    "severity": lambda group: _SEVERITY.index(group.state) * 10**12 + group.open,
    "open": lambda group: group.open,
    "count": lambda group: group.count,
    "lastSeen": lambda group: _ms(group.last_seen),
    "firstSeen": lambda group: _ms(group.first_seen),
}
SORTS = tuple(f"{sign}{name}" for name in _SORTS for sign in ("-", ""))
DEFAULT_SORT = "-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupQuery:
    """Filters, order and page of a list of groups."""

    criteria: LetterCriteria = LetterCriteria()  # noqa: RUF009 - frozen
    states: tuple[GroupState, ...] = ()
    #: Names of owners, or ``none``; empty: any.
    owners: tuple[str, ...] = ()
    sort: str = DEFAULT_SORT
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    @classmethod
    def parse(cls, params: Mapping[str, Sequence[str]]) -> GroupQuery:
        """The query in HTTP parameters; raises ``CriteriaInvalid`` with every problem."""
        unknown = [name for name in list(params)[:50] if name not in PARAMETERS]
        errors = [unknown_field(name, PARAMETERS, "parameter") for name in unknown]
        found: dict[str, Any] = {}
        try:
            found["criteria"] = LetterCriteria.parse({name: params[name] for name in FILTERS if name in params})
        except CriteriaInvalid as error:
            errors += error.errors
        readers: dict[str, Callable[[str], object]] = {
            "sort": one_of(SORTS),
            "limit": digits(1, MAX_LIMIT),
            "cursor": _read_cursor,
        }
        for name, read in readers.items():
            if name in params:
                try:
                    found[name] = read(single(params[name]))
                except ValueError as error:
                    errors.append(field_error(name, str(error)))
        wanted = list(dict.fromkeys(params.get("state", ())))
        if set(wanted) <= set(GroupState):
            found["states"] = tuple(GroupState(state) for state in wanted)
        else:
            errors.append(field_error("state", "must be one of " + ", ".join(GroupState)))
        try:
            found["owners"] = tuple(dict.fromkeys(map(text(MAX_OWNER, empty=False), params.get("owner", ()))))
        except ValueError as error:
            errors.append(field_error("owner", str(error)))
        cursor = found.get("cursor")
        if cursor and not errors:
            sort = _decoded(cursor)[0]
            if found.setdefault("sort", sort) != sort:
                errors.append(field_error("sort", f"the cursor was made for {sort}"))
        if errors:
            raise CriteriaInvalid(summary(errors), errors=errors)
        return cls(**found)


def page(
    criteria: LetterCriteria = LetterCriteria(),  # noqa: B008 - frozen
    *,
    states: Sequence[GroupState] = (),
    owners: Sequence[str] = (),
    sort: str = DEFAULT_SORT,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> GroupPage:
    """Groups that match the ``FILTERS`` of the criteria and have one of the states (default: any).

    By cursor no group is seen twice while its own figures stay as they are.
    """
    every, as_of, is_capped = _all()
    fitting = [group for group in every if _matches(group, criteria)]
    by_owner = Counter(group.owner.name or NONE for group in fitting)
    if owners:
        fitting = [group for group in fitting if (group.owner.name or NONE) in owners]
    by_state = Counter(group.state for group in fitting)
    if states:
        fitting = [group for group in fitting if group.state in states]
    value = _SORTS[sort.removeprefix("-")]
    sign = -1 if sort.startswith("-") else 1
    fitting.sort(key=lambda group: (sign * value(group), group.fingerprint))
    total = len(fitting)
    if cursor:
        _, after, name = _decoded(cursor)
        fitting = [group for group in fitting if (sign * value(group), group.fingerprint) > (sign * after, name)]
    shown = fitting[:limit]
    more = len(fitting) > limit
    return GroupPage(
        groups=shown,
        next_cursor=cursors.encode([sort, value(shown[-1]), shown[-1].fingerprint]) if more and shown else None,
        total=total,
        is_capped=is_capped,
        states={state: by_state[state] for state in GroupState},
        owners=by_owner,
        as_of=as_of,
    )


def top(limit: int) -> list[Group]:
    """The groups that need attention, most open letters first."""
    return page(states=OPEN_STATES, limit=limit).groups


def get(fingerprint: str) -> Group:
    """One group. Raises ``GroupNotFound`` if it has no letters."""
    snapshot = figures.snapshot()
    hours_from, as_of = snapshot.hours_from, snapshot.as_of
    counted = next((group for group in snapshot.groups if group.fingerprint == fingerprint), None)
    if counted is None:
        # Newer than the snapshot, or not among its largest groups.
        found = figures_store().group(fingerprint) if _FINGERPRINT.match(fingerprint) else None
        if found is None:
            raise GroupNotFound(f"There is no group {fingerprint[:64]}.")
        counted, hours_from, as_of = found
    described = groups().described([fingerprint]).get(fingerprint, GroupDescription(fingerprint=fingerprint))
    return _group(counted, described, hours_from, as_of, repository.letters().server_now())


def set_state(
    fingerprint: str,
    state: GroupState | None,
    *,
    actor: str,
    reason: str = "",
    until: datetime | None = None,
    until_per_hour: int | None = None,
    until_count: int | None = None,
) -> Group:
    """Resolve or ignore a group, or with None undo that. Changes none of its letters.

    The last call wins. Ignoring ends at ``until``, when more than ``until_per_hour`` letters arrive in one clock hour,
    or after ``until_count`` more failures, whichever comes first; without these only a user ends it.
    Raises ``GroupNotFound``.
    """
    if state not in (GroupState.RESOLVED, GroupState.IGNORED, None):
        raise ValueError(f"a group cannot be set to {state}")
    get(fingerprint)
    groups().set_state(
        fingerprint,
        state,
        by=actor,
        reason=reason,
        at=repository.letters().server_now(),
        until=until,
        until_per_hour=until_per_hour,
        until_count=until_count,
    )
    return get(fingerprint)


def set_note(fingerprint: str, *, actor: str, text: str) -> Group:
    """Replace the note of a group. Raises ``GroupNotFound``."""
    get(fingerprint)
    groups().set_note(fingerprint, by=actor, note=text, at=repository.letters().server_now())
    return get(fingerprint)


def owner_by_hand(fingerprint: str) -> Owner | None:
    """What users set as the owner of a group."""
    described = groups().described([fingerprint]).get(fingerprint)
    return described.owner if described else None


def owner_of(fingerprint: str, error_type: str, message_type: str) -> Owner:
    """The owner of a letter: of its group if a user set it, else by rule."""
    return merged(owner_by_hand(fingerprint), conf.owner_policy().of(fingerprint, error_type, [message_type]))


def set_owner(fingerprint: str, *, actor: str, name: str = "", runbook: str = "", ticket: str = "") -> Group:
    """Set the owner and the links of a group; empty ones come from ``owners.toml``. Raises ``GroupNotFound``."""
    get(fingerprint)
    owner = Owner(name=name, runbook=runbook, ticket=ticket, by=actor)
    groups().set_owner(fingerprint, owner, at=repository.letters().server_now())
    return get(fingerprint)


def _all() -> tuple[list[Group], datetime, bool]:
    """Every group of the snapshot."""
    snapshot = figures.snapshot()
    described = groups().described(group.fingerprint for group in snapshot.groups)
    now = repository.letters().server_now()
    found = [
        _group(
            group,
            described.get(group.fingerprint) or GroupDescription(fingerprint=group.fingerprint),
            snapshot.hours_from,
            snapshot.as_of,
            now,
        )
        for group in snapshot.groups
    ]
    return found, snapshot.as_of, snapshot.is_capped


def _group(
    counted: GroupFigures, described: GroupDescription, hours_from: datetime, as_of: datetime, now: datetime
) -> Group:
    # Its oldest letters may have been deleted.
    first_seen = min(counted.first_seen, described.first_seen or counted.first_seen)
    counted = replace(
        counted,
        first_seen=first_seen,
        error_type=counted.error_type or described.error_type,
        types=tuple(counted.types),
        trend=tuple(counted.trend),
        minutes=tuple(counted.minutes),
    )
    said, deaths = described.said, figures.deaths_since(counted, described.said)
    return Group(
        **{field.name: getattr(counted, field.name) for field in fields(counted)},
        error_kind=described.error_kind,
        message=described.message,
        sample=described.sample,
        frame=described.frame,
        trend_from=hours_from,
        state=state_of(said, counted, now, hours_from=hours_from, deaths_since=deaths),
        said=said,
        note=described.note,
        rule=conf.group_policy().names.get(counted.fingerprint, ""),
        owner=merged(
            described.owner,
            conf.owner_policy().of(counted.fingerprint, counted.error_type, [name for name, _ in counted.types]),
        ),
        history=tuple(described.history),
        as_of=as_of,
    )


def _matches(group: Group, criteria: LetterCriteria) -> bool:
    for one in LETTER_FILTERS.values():
        wanted = getattr(criteria, one.attribute)
        if wanted and one.of_group and not set(wanted) & set(one.of_group(group)):
            return False
    return (
        (criteria.failed_from is None or group.last_seen >= criteria.failed_from)
        and (criteria.failed_to is None or group.last_seen < criteria.failed_to)
        and (not criteria.search or set(words(criteria.search)) <= _words_of(group))
    )


def _words_of(group: Group) -> set[str]:
    """The words of a group for search: of its masked text, so that no search confirms a secret."""
    return set(error_words(group.error_type, f"{group.message} {group.frame}", conf.masking_policy()))


def _read_cursor(text: str) -> str:
    _decoded(text)
    return text


def _decoded(text: str) -> tuple[str, int, str]:
    """Sort, value and fingerprint of the last group of a page. Raises ``NotACursor``."""
    match cursors.decode(text):
        case [str(sort), value, str(fingerprint)] if sort in SORTS:
            return sort, cursors.integer(value), fingerprint
    raise cursors.NotACursor


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
