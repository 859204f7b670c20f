"""Who looks after a group of letters: rules of a policy, as in CODEOWNERS, and what a user sets by hand. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import urlsplit

from wire.fields import list_of, matching, text
from wire.policy import InvalidValue, read_table, tables

FILE: Final = "owners.toml"
MAX_RULES: Final = 200
MAX_OWNER, MAX_URL = 64, 500
#: The filter for groups without an owner.
NONE: Final = "none"
_OWNER = matching(rf"[^\s,]([^\n\r,]{{0,{MAX_OWNER - 2}}}[^\s,])?", f"1 to {MAX_OWNER} characters without a comma")
_PATTERNS_FORM = "a list of 1 to 50 patterns such as order.*"
_PATTERNS = list_of(matching(r"[A-Za-z0-9_.*-]{1,100}", _PATTERNS_FORM), 1, 50, _PATTERNS_FORM)
_FINGERPRINTS_FORM = "a list of fingerprints of 16 hexadecimal digits"
_FINGERPRINTS = list_of(matching(r"[0-9a-f]{16}", _FINGERPRINTS_FORM), 1, 500, _FINGERPRINTS_FORM)


def owner_name(value: object) -> str:
    """The name of an owner; empty for none."""
    if value == NONE:
        raise ValueError(f"must not be {NONE}: it is the filter for groups without an owner")
    return "" if value == "" else _OWNER(value)


def link(value: object) -> str:
    """An address of http or https; empty for none. No other scheme: users click on it."""
    found = text(MAX_URL)(value).strip()
    if not found:
        return ""
    try:
        parts = urlsplit(found)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", found)
    except ValueError:
        is_good = False
    if not is_good:
        raise ValueError("must be an address such as https://wiki.example.org/payments")
    return found


_READERS = {
    "owner": owner_name,
    "runbook": link,
    "ticket": link,
    "error_types": _PATTERNS,
    "types": _PATTERNS,
    "fingerprints": _FINGERPRINTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who looks after a group, and where to read and to write about it. Each may be empty."""

    name: str = ""
    runbook: str = ""
    ticket: str = ""
    #: Who set it by hand, and when; empty and None: a rule.
    by: str = ""
    at: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.name or self.runbook or self.ticket)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Groups and letters that match everything it names belong to its owner."""

    owner: Owner
    error_types: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()

    def matches(self, fingerprint: str, error_type: str, types: Collection[str]) -> bool:
        return (
            (not self.error_types or _any(self.error_types, [error_type]))
            and (not self.types or _any(self.types, types))
            and (not self.fingerprints or fingerprint in self.fingerprints)
        )


@dataclass(frozen=True, kw_only=True)
class OwnerPolicy:
    """The rules of ``owners.toml``. The last that matches wins."""

    rules: tuple[Rule, ...] = field(default=())

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> OwnerPolicy:
        """Raises ``PolicyError`` naming rule, key, value and what is accepted."""
        given = read_table(raw, {"rules": tables("rules", MAX_RULES)}, FILE).get("rules", [])
        return cls(rules=tuple(_rule(number, one) for number, one in enumerate(given, 1)))

    def of(self, fingerprint: str, error_type: str, types: Collection[str]) -> Owner:
        """The owner of a group, or of a letter with its only type. Without a match it is empty."""
        found = (rule.owner for rule in reversed(self.rules) if rule.matches(fingerprint, error_type, types))
        return next(found, Owner())


def merged(by_hand: Owner | None, by_rule: Owner) -> Owner:
    """What a user set replaces the rule, field by field."""
    if not by_hand:
        return by_rule
    return Owner(
        name=by_hand.name or by_rule.name,
        runbook=by_hand.runbook or by_rule.runbook,
        ticket=by_hand.ticket or by_rule.ticket,
        by=by_hand.by,
        at=by_hand.at,
    )


def _rule(number: int, given: Mapping[str, Any]) -> Rule:
    where = f"{FILE} [[rules]] {number}"
    found = read_table(given, _READERS, where)
    if not found.get("owner"):
        raise InvalidValue(where, "owner", found.get("owner"), "must be given")
    owner = Owner(name=found.pop("owner"), runbook=found.pop("runbook", ""), ticket=found.pop("ticket", ""))
    return Rule(owner=owner, **found)


def _any(patterns: Collection[str], values: Collection[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns for value in values)
