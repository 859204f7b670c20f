"""Rules that merge and split groups: letters that match a rule form one group with its name. Pure.

Without a rule the fingerprint of the error decides. A rule runs for each message that dies, on texts that others chose,
so its pattern must be cheap: few repetitions, and none of a group.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final

from wire.fields import list_of, matching, text
from wire.policy import InvalidValue, read_table, tables

FILE: Final = "groups.toml"
MAX_RULES: Final = 100
MAX_NAME, _MAX_PATTERN = 100, 200
#: Characters of an error text that a pattern sees, and its repetitions without a limit. With both, the longest search
#: takes some milliseconds.
MAX_SEARCHED, _MAX_REPEATS = 300, 2
_FORM = "a list of 1 to 50 patterns such as order.*"
_PATTERNS = list_of(matching(r"[^\s]{1,100}", _FORM), 1, 50, _FORM)
_UNLIMITED = re.compile(r"(?<!\\)(?:\\\\)*(?:[*+]|\{\d*,\})")
_COSTLY = re.compile(r"\)[*+{]|\\[1-9]|\(\?[^:i]")


def pattern(value: object) -> str:
    """A regular expression without repeated groups, references to groups and looks ahead or behind."""
    found = text(_MAX_PATTERN, empty=False)(value)
    if _COSTLY.search(found) or len(_UNLIMITED.findall(found)) > _MAX_REPEATS:
        raise ValueError(
            f"must repeat no group, refer to none, look neither ahead nor behind, and have at most {_MAX_REPEATS} of "
            "*, + and {n,}"
        )
    try:
        re.compile(found)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from error
    return found


_READERS = {
    "name": text(MAX_NAME, empty=False),
    "error_types": _PATTERNS,
    "types": _PATTERNS,
    "sources": _PATTERNS,
    "message": pattern,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRule:
    """One rule; a letter must match everything it names."""

    name: str
    error_types: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    #: Found anywhere in the first ``MAX_SEARCHED`` characters of the error text.
    message: re.Pattern[str] | None = None

    @property
    def fingerprint(self) -> str:
        """Of its group: rules with the same name share one."""
        return hashlib.sha256(f"rule\n{self.name}".encode()).hexdigest()[:16]

    def matches(self, error_type: str, reason: str, message_type: str, source: str) -> bool:
        return (
            _fits(self.error_types, error_type)
            and _fits(self.types, message_type)
            and _fits(self.sources, source)
            and (self.message is None or self.message.search(reason[:MAX_SEARCHED]) is not None)
        )


@dataclass(frozen=True, kw_only=True)
class GroupPolicy:
    """The rules of ``groups.toml``. The last that matches wins."""

    rules: tuple[GroupRule, ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> GroupPolicy:
        """Raises ``PolicyError`` naming rule, key, value and what is accepted."""
        given = read_table(raw, {"rules": tables("rules", MAX_RULES)}, FILE).get("rules", [])
        return cls(rules=tuple(_rule(number, one) for number, one in enumerate(given, 1)))

    def of(self, error_type: str, reason: str, message_type: str, source: str) -> GroupRule | None:
        """The rule of a letter, if any."""
        matching = (rule for rule in reversed(self.rules) if rule.matches(error_type, reason, message_type, source))
        return next(matching, None)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The names of the rules by the fingerprints of their groups."""
        return {rule.fingerprint: rule.name for rule in self.rules}

    @cached_property
    def digest(self) -> str:
        """Changes with everything that decides about groups; empty without rules."""
        rules = [(rule.name, rule.error_types, rule.types, rule.sources, rule.message) for rule in self.rules]
        return hashlib.sha256(repr(rules).encode()).hexdigest()[:16] if rules else ""


def _rule(number: int, given: Mapping[str, Any]) -> GroupRule:
    where = f"{FILE} [[rules]] {number}"
    found = read_table(given, _READERS, where)
    if "name" not in found:
        raise InvalidValue(where, "name", None, "must be given")
    if len(found) == 1:
        raise InvalidValue(where, "name", found["name"], "must not be the only key: the rule would match every letter")
    searched = found.pop("message", None)
    return GroupRule(**found, message=re.compile(searched, re.IGNORECASE) if searched else None)


def _fits(patterns: Collection[str], value: str) -> bool:
    return not patterns or any(fnmatchcase(value, one) for one in patterns)


class _InForce:
    """Where the policy in force comes from. The settings decide, and this package knows none."""

    source: Callable[[], GroupPolicy] = staticmethod(GroupPolicy)


def in_force() -> GroupPolicy:
    """The policy of this installation."""
    return _InForce.source()


def provide(source: Callable[[], GroupPolicy]) -> None:
    """Take the policy in force from ``source`` from now on."""
    _InForce.source = staticmethod(source)
