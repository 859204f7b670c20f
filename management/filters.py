"""Filter options shared by all commands."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError

from dlq_app.domain.criteria import LetterCriteria, is_blank
from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.filters import FILTERS

_PREFIX = "filter_"


def add_filter_arguments(parser: ArgumentParser) -> None:
    """Add a flag for every criterion, in a group of their own. ``criteria_from`` reads what they were given."""
    group = parser.add_argument_group(
        "filter", "Letters must match every filter; repeat a filter to allow several values."
    )
    for one in FILTERS.values():
        group.add_argument(
            one.flag,
            action="append" if one.is_repeated else "store",
            dest=_PREFIX + one.name,
            metavar=one.placeholder,
            help=one.help or ", ".join(one.options),
        )


def criteria_from(options: Mapping[str, Any]) -> LetterCriteria:
    """The criteria that the flags name; without any, those that every letter fits.

    Raises ``CommandError`` naming each flag whose value is not allowed.
    """
    given = {name: options[_PREFIX + name] for name in FILTERS if options.get(_PREFIX + name) is not None}
    for name, value in given.items():
        # As from a variable that is not set: left out, it would quietly mean every letter.
        if any(is_blank(name, one) for one in (value if isinstance(value, list) else [value])):
            raise CommandError(f"{FILTERS[name].flag} is empty.")
    try:
        return LetterCriteria.parse(given)
    except CriteriaInvalid as error:
        wrong = [f"{FILTERS[e['field']].flag} {e['message']}" for e in error.errors]
        raise CommandError("; ".join(wrong) + ".") from error
