"""The objectives of an installation: which part of the dead letters is resolved in which time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from wire.fields import integer
from wire.policy import InvalidValue, Readers, read_table, refuse_unknown_tables, table, validate

FILE = "objectives.toml"
_TABLE = f"{FILE} [letters]"


def _ratio(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 0.9999:
        raise ValueError("must be a number from 0.5 to 0.9999, such as 0.9")
    return float(value)


_READERS: Readers = {"ratio": _ratio, "within_hours": integer(1, 720)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LettersObjective:
    """The age objective of letters. Raises ``PolicyError`` for a value that is not allowed."""

    #: Share of the letters that is resolved in time. 0.5 to 0.9999.
    ratio: float = 0.9
    #: Hours from the creation of a letter in which it is resolved. 1 to 720.
    within_hours: int = 24

    def __post_init__(self) -> None:
        validate(self, _READERS, _TABLE)

    @property
    def within(self) -> timedelta:
        return timedelta(hours=self.within_hours)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, keep_resolved_days: int) -> LettersObjective:
        """The objective in a parsed ``objectives.toml``; missing keys have their default.

        Letters that are deleted before they are judged could not count, so ``within_hours`` is at most the time for
        which ``replay.toml`` keeps resolved letters (``keep_resolved_days``, 0: for ever).
        """
        refuse_unknown_tables(raw, ("letters",), FILE)
        objective = cls(**read_table(table(raw, "letters", FILE), _READERS, _TABLE))
        if 0 < keep_resolved_days * 24 < objective.within_hours:
            message = (
                f"must be at most {keep_resolved_days * 24}: resolved letters are deleted after keep_resolved_days"
            )
            raise InvalidValue(_TABLE, "within_hours", objective.within_hours, message)
        return objective
