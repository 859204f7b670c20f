"""The filters of letters: one table for criteria, queries, the API, commands and the console. Pure.

A new filter is an attribute of ``LetterCriteria`` and an entry here, and an index if it is often used alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from dlq_app.domain import facets
from dlq_app.domain.labels import MAX_FILTER
from dlq_app.domain.search_terms import MAX_WORDS, words
from dlq_app.domain.states import Status
from wire.fields import Reader, instant, matching, one_of, single, text

MAX_SEARCH = 100
#: The filter of facets; ``facet.customerId`` is the filter of one.
FACET = "facet"
KINDS = ("transient", "permanent", "unknown")
PRIORITIES = ("high", "normal", "low")
#: A possible beginning of a message id. A search for such a text also finds ids that begin with it.
ID_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter. ``name`` is its name on the wire."""

    name: str
    #: Of ``LetterCriteria``.
    attribute: str
    #: From the given texts to the attribute's value; a ``ValueError`` says what is allowed.
    read: Callable[[Sequence[str]], object]
    #: The field of a document; empty: ``store.queries`` makes the query.
    path: str = ""
    #: Of the query; with ``$in`` any of several values matches.
    operator: Literal["$in", "$gte", "$lt"] = "$in"
    #: Spaces at the ends are part of the value.
    verbatim: bool = False
    #: All values there are; empty: any text.
    options: tuple[str, ...] = ()
    #: In the console.
    label: str
    #: For the value, in the help of commands.
    placeholder: str
    #: For commands and the API; empty: the options.
    help: str = ""
    #: More for the API.
    doc: str = ""
    #: The values of a ``services.groups.Group`` to compare with; None: groups have no such filter.
    of_group: Callable[[Any], Collection[str]] | None = None

    @property
    def is_repeated(self) -> bool:
        return bool(self.path) and self.operator == "$in"

    @property
    def flag(self) -> str:
        """The option of commands."""
        return "--" + re.sub("[A-Z]", lambda found: f"-{found[0].lower()}", self.name)


def _each(read: Reader[str]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    return lambda values: tuple(map(read, values))


def _instant(values: Sequence[str]) -> datetime:
    return instant(single(values))


def _search(values: Sequence[str]) -> str:
    search = text(MAX_SEARCH)(single(values))
    if not words(search) and not ID_PREFIX.match(search):
        raise ValueError("must contain a word or the beginning of a message id")
    return search


def _facets(values: Sequence[str]) -> tuple[str, ...]:
    policy = facets.in_force()
    return tuple(dict.fromkeys(map(policy.wanted, values)))


def filter_named(name: str) -> Filter | None:
    """The filter with this name on the wire, or of this facet; None if there is none."""
    return FILTERS.get(FACET if name.startswith(f"{FACET}.") else name)


def _any_of(
    name: str, attribute: str, path: str, label: str, read: Reader[str], about: str = "", **more: Any
) -> Filter:
    more = {"placeholder": label.upper(), "help": about, **more}
    return Filter(name=name, attribute=attribute, path=path, label=label, read=_each(read), **more)


def _options(name: str, attribute: str, path: str, label: str, options: Sequence[str], **more: Any) -> Filter:
    return _any_of(name, attribute, path, label, one_of(options), options=tuple(options), **more)


_FREE = text(MAX_FILTER)
_TYPE = matching(r"[a-z][a-z0-9_.-]{0,63}", "a message type, such as order.created")
_FINGERPRINT = matching(r"[0-9a-f]{16}", "16 hexadecimal digits")
_WORDS = (
    f"A letter must contain all words. The search covers the error's type and the first {MAX_WORDS} words and parts of "
    "words of its text as shown, with secrets hidden; not the stack, the payload or notes. Case and Unicode form make "
    "no difference. `timeout` finds `SocketTimeout`, `email` finds `email_address`, `5521` finds `order5521`. In "
    "Chinese, Japanese and Korean it finds any two neighbouring characters."
)
_FACETS = (
    "`facets.toml` names the facets. Values of the same facet: any of them; of different facets: all. "
    "`facet.customerId=4711` is the same as `facet=customerId=4711`."
)
_ALL = (
    _options("status", "statuses", "status", "Status", [status.value for status in Status]),
    _any_of("errorType", "error_types", "errorType", "Error", _FREE, "such as TIMEOUT_ERROR", verbatim=True,
            of_group=lambda group: [group.error_type]),
    _options("errorKind", "error_kinds", "errorKind", "Kind", KINDS, of_group=lambda group: [group.error_kind]),
    _any_of("type", "types", "type", "Type", _TYPE, "type of message, such as order.created",
            of_group=lambda group: [name for name, _ in group.types]),
    _any_of("source", "sources", "metadata.source", "Source", _FREE, "who submitted it", verbatim=True),
    _any_of("client", "clients", "metadata.client", "Client", _FREE, "key that submitted it, such as key:shop",
            verbatim=True),
    _any_of("codeVersion", "versions", "metadata.systemState.codeVersion", "Code version", _FREE,
            "code version of the worker in which it failed", verbatim=True, placeholder="VERSION"),
    _options("priority", "priorities", "metadata.priority", "Priority", PRIORITIES),
    _any_of("tag", "tags", "metadata.tags", "Tag", _FREE, "one of its tags", verbatim=True),
    _any_of("fingerprint", "fingerprints", "fingerprint", "Group", _FINGERPRINT,
            "fingerprint of a group, 16 hexadecimal digits", of_group=lambda group: [group.fingerprint]),
    Filter(name=FACET, attribute="facets", path="facets", read=_facets, verbatim=True, label="Facet",
           placeholder="NAME=VALUE", help="a value inside the payload, such as customerId=4711", doc=_FACETS),
    Filter(name="from", attribute="failed_from", path="lastFailedAt", operator="$gte", read=_instant,
           label="Failed from", placeholder="INSTANT", help="last failure at or after, such as 2026-11-24T03:12:00Z"),
    Filter(name="to", attribute="failed_to", path="lastFailedAt", operator="$lt", read=_instant,
           label="Failed before", placeholder="INSTANT", help="last failure before, such as 2026-11-24T04:00:00Z"),
    Filter(name="search", attribute="search", read=_search, label="Search", placeholder="TEXT",
           help="beginning of a message id, or words of the error text", doc=_WORDS),
)  # fmt: skip
FILTERS: Final = {one.name: one for one in _ALL}
