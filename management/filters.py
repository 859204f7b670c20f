"""Which letters, said with flags: the same for every command that takes a filter."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError

from dlq_app.domain.criteria import KINDS, PRIORITIES, LetterCriteria, is_blank
from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.states import Status

#: Wire name of a criterion → flag, what to put for its value, what it means, whether it may be repeated.
_FLAGS: dict[str, tuple[str, str, str, bool]] = {
    "status": ("--status", "STATUS", ", ".join(status.value for status in Status), True),
    "errorType": ("--error-type", "TYPE", "such as TIMEOUT_ERROR", True),
    "errorKind": ("--error-kind", "KIND", ", ".join(KINDS), True),
    "type": ("--type", "TYPE", "type of message, such as order.created", True),
    "source": ("--source", "SOURCE", "who submitted it", True),
    "priority": ("--priority", "PRIORITY", ", ".join(PRIORITIES), True),
    "tag": ("--tag", "TAG", "one of its tags", True),
    "fingerprint": ("--fingerprint", "GROUP", "fingerprint of a group, 16 hexadecimal digits", True),
    "from": ("--from", "INSTANT", "last failure at or after, such as 2026-11-24T03:12:00Z", False),
    "to": ("--to", "INSTANT", "last failure before", False),
    "search": ("--search", "TEXT", "beginning of a message id, or words of the error text", False),
}
_PREFIX = "filter_"


def add_filter_arguments(parser: ArgumentParser) -> None:
    """Add a flag for every criterion, in a group of their own. ``criteria_from`` reads what they were given."""
    group = parser.add_argument_group(
        "filter", "Letters that fit every flag given; a flag that is repeated means any of its values."
    )
    for name, (flag, value, meaning, repeated) in _FLAGS.items():
        action = "append" if repeated else "store"
        group.add_argument(flag, action=action, dest=_PREFIX + name, metavar=value, help=meaning)


def criteria_from(options: Mapping[str, Any]) -> LetterCriteria:
    """The criteria that the flags name; without any, those that every letter fits.

    Raises ``CommandError`` naming each flag whose value is not allowed.
    """
    given = {name: options[_PREFIX + name] for name in _FLAGS if options.get(_PREFIX + name) is not None}
    for name, value in given.items():
        # As from a variable that is not set: left out, it would quietly mean every letter.
        if any(is_blank(name, one) for one in (value if isinstance(value, list) else [value])):
            raise CommandError(f"{_FLAGS[name][0]} is empty.")
    try:
        return LetterCriteria.parse(given)
    except CriteriaInvalid as error:
        wrong = [f"{_FLAGS[e['field']][0]} {e['message']}" for e in error.errors]
        raise CommandError("; ".join(wrong) + ".") from error
