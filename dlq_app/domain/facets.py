"""Facets: values inside payloads that letters are found, grouped and listed by. Pure.

A policy names paths of payloads. Each letter keeps the values there as texts such as ``customerId=4711``, limited in
length and number, so that one index serves every facet. Masked facets keep a keyed hash: a search for a whole value
finds it, and nothing shows it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from dlq_app.domain.masking import MaskingPolicy, mask_text
from wire.fields import boolean, list_of, matching, text
from wire.policy import InvalidValue, read_table, refuse_unknown_tables, table

FILE: Final = "facets.toml"
#: Facets of a policy; each value is an entry of an index, which makes writing letters slower.
MAX_FACETS = 16
#: Values of one facet, and of all facets, that a letter keeps.
MAX_EACH, MAX_ALL = 20, 64
#: Characters of a value. A longer one keeps its beginning and a digest.
MAX_VALUE = 120
#: Values of a payload that are looked at for one path.
_SCANNED = 1000
#: Characters of a value in a filter.
_SEARCHED = 1000
_NAME = matching(r"[a-z][A-Za-z0-9_]{0,31}", "1 to 32 letters, digits or _, beginning with a small letter")
_PATH_FORM = "a list of 1 to 4 paths such as payload.order.id, at most eight names deep"
_PATH = list_of(matching(r"payload(\.[^.\s]{1,64}){1,8}", _PATH_FORM), 1, 4, _PATH_FORM)
_TYPES_FORM = "a list of message types, such as order.created"
_TYPES = list_of(matching(r"[a-z][a-z0-9_.-]{0,63}", _TYPES_FORM), 1, 50, _TYPES_FORM)
_READERS = {"paths": _PATH, "label": text(40, empty=False), "types": _TYPES, "masked": boolean, "column": boolean}
_HASHED = re.compile(r"#[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """One facet, as ``facets.toml`` describes it."""

    name: str
    #: Where its values are in a payload, as names of keys; a list on the way means each of its items.
    paths: tuple[tuple[str, ...], ...]
    #: In the console.
    label: str
    #: Message types that have it; empty: all.
    types: frozenset[str] = frozenset()
    #: Keep a keyed hash of each value.
    masked: bool = False
    #: A column of the list of letters.
    column: bool = False


@dataclass(frozen=True, kw_only=True)
class FacetPolicy:
    """The facets of an installation. ``key`` is the secret of the hashes."""

    facets: Mapping[str, Facet] = field(default_factory=dict)
    key: bytes = b""
    masking: MaskingPolicy = field(default_factory=MaskingPolicy)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, key: bytes, masking: MaskingPolicy) -> FacetPolicy:
        """The policy in a parsed ``facets.toml``. Raises ``PolicyError`` naming key, value and what is accepted.

        A path through a key that ``masking.toml`` hides must be of a masked facet.
        """
        refuse_unknown_tables(raw, ("facets",), FILE)
        given = table(raw, "facets", FILE)
        if len(given) > MAX_FACETS:
            raise InvalidValue(FILE, "facets", len(given), f"at most {MAX_FACETS} facets")
        return cls(facets={name: _facet(name, given, masking) for name in given}, key=key, masking=masking)

    def __bool__(self) -> bool:
        return bool(self.facets)

    def of(self, body: bytes, message_type: str) -> list[str]:
        """The facets of a payload as stored: ``name=value``, each once. Empty for a payload that is not JSON.

        Of a key that an object repeats the last value counts, as for handlers.
        """
        facets = [one for one in self.facets.values() if not one.types or message_type in one.types]
        # Most payloads of other types are not parsed at all. An escape can spell a name.
        if not facets or not (b"\\" in body or any(name in body for name in self._names)):
            return []
        try:
            payload = json.loads(body, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            return []
        found: list[str] = []
        for facet in facets:
            values = dict.fromkeys(value for path in facet.paths for value in _values(payload, path))
            found += [self._kept(facet, value) for value in list(values)[:MAX_EACH]]
        return found[:MAX_ALL]

    def of_all(self, bodies: Iterable[bytes], message_type: str) -> list[str]:
        """The facets of a payload and of its edited versions."""
        return list(dict.fromkeys(one for body in bodies for one in self.of(body, message_type)))[:MAX_ALL]

    def wanted(self, given: str) -> str:
        """The stored text for a filter such as ``customerId=4711``; raises ``ValueError`` with what is allowed.

        A hash, as lists show it for a masked value, finds that value.
        """
        name, separator, value = given.partition("=")
        facet = self.facets.get(name)
        if facet is None:
            known = ", ".join(self.facets) or "none: name them in facets.toml"
            raise ValueError(f"unknown facet {name[:32]!r}; known are {known}" if separator else _form(self.facets))
        if not value or len(value) > _SEARCHED:
            raise ValueError(f"{_form(self.facets)}; of at most {_SEARCHED} characters")
        return f"{name}={value}" if _HASHED.match(value) else self._kept(facet, value)

    def label(self, name: str) -> str:
        """The label of a facet; its name when the policy has it no longer."""
        return self.facets[name].label if name in self.facets else name

    @property
    def columns(self) -> list[Facet]:
        return [facet for facet in self.facets.values() if facet.column]

    @cached_property
    def digest(self) -> str:
        """Changes with everything that decides about stored texts: paths, types, masking and the key."""
        rules = [(name, one.paths, sorted(one.types), one.masked) for name, one in sorted(self.facets.items())]
        secrets = (sorted(self.masking.contains), sorted(self.masking.exact))
        return hmac.new(self.key, repr((rules, secrets)).encode(), hashlib.sha256).hexdigest()[:16]

    @cached_property
    def _names(self) -> list[bytes]:
        """The last key of each path, as a payload spells it."""
        return [json.dumps(path[-1], ensure_ascii=False).encode() for one in self.facets.values() for path in one.paths]

    def _kept(self, facet: Facet, value: str) -> str:
        if facet.masked or mask_text(value, self.masking) != value:
            value = f"#{hmac.new(self.key, f'{facet.name}={value}'.encode(), hashlib.sha256).hexdigest()[:32]}"
        elif len(value) > MAX_VALUE:
            value = f"{value[: MAX_VALUE - 20]}…{hashlib.sha256(value.encode()).hexdigest()[:16]}"
        return f"{facet.name}={value}"


def by_name(stored: Iterable[str]) -> dict[str, list[str]]:
    """Stored texts as values by facet."""
    found: dict[str, list[str]] = {}
    for one in stored:
        name, _, value = one.partition("=")
        found.setdefault(name, []).append(value)
    return found


def shown_facets(stored: Iterable[str], masking: MaskingPolicy | None) -> dict[str, list[str]]:
    """The same for people: secrets that an earlier ``masking.toml`` did not know are hidden."""
    return {
        name: [value if masking is None else mask_text(value, masking) for value in values]
        for name, values in by_name(stored).items()
    }


def _facet(name: str, given: Mapping[str, Any], masking: MaskingPolicy) -> Facet:
    where = f"{FILE} [facets.{name}]"
    try:
        _NAME(name)
    except ValueError as error:
        raise InvalidValue(FILE, "facets", name, f"a name {error}") from error
    found = read_table(table(given, name, f"{FILE} [facets]"), _READERS, where)
    if "paths" not in found:
        raise InvalidValue(where, "paths", None, f"must be {_PATH_FORM}")
    paths = tuple(tuple(path.split(".")[1:]) for path in found["paths"])
    secret = next((key for path in paths for key in path if masking.is_secret(key)), None)
    if secret and not found.get("masked"):
        raise InvalidValue(where, "masked", False, f"must be true: masking.toml hides values of {secret}")
    return Facet(
        name=name,
        paths=paths,
        label=found.get("label", name),
        types=frozenset(found.get("types", ())),
        masked=found.get("masked", False),
        column=found.get("column", False),
    )


def _values(payload: Any, path: Sequence[str]) -> Iterator[str]:
    """The texts at ``path``: of texts, numbers as written, and truth values."""
    level = [payload]
    for key in path:
        level = [inner[key] for inner in _flat(level) if isinstance(inner, dict) and key in inner]
    for value in _flat(level):
        if isinstance(value, bool):
            yield "true" if value else "false"
        elif isinstance(value, str) and value:
            # As MongoDB can hold it.
            yield value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _flat(values: Iterable[Any]) -> list[Any]:
    """The values, with the items of lists instead of the lists; the first thousand."""
    found: list[Any] = []
    for value in values:
        found += value[:_SCANNED] if isinstance(value, list) else [value]
        if len(found) >= _SCANNED:
            break
    return found[:_SCANNED]


def _form(known: Iterable[str]) -> str:
    name = next(iter(known), "customerId")
    return f"must be NAME=VALUE, such as {name}=4711"


class _InForce:
    """Where the policy in force comes from. The settings decide, and this package knows none."""

    source: Callable[[], FacetPolicy] = staticmethod(FacetPolicy)


def in_force() -> FacetPolicy:
    """The policy of this installation."""
    return _InForce.source()


def provide(source: Callable[[], FacetPolicy]) -> None:
    """Take the policy in force from ``source`` from now on."""
    _InForce.source = staticmethod(source)
