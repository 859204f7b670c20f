"""Policies: tables of a TOML file, each key checked by a reader of ``fields``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from wire.errors import PolicyError
from wire.fields import Reader

Readers = Mapping[str, Reader[Any]]


#: Keys that name environment variables. A secret itself, put there by mistake, must not reach a log.
_MAY_BE_SECRET: Final = frozenset({"secrets", "url_env"})


class InvalidValue(PolicyError):
    """A value of a policy is not allowed."""

    def __init__(self, where: str, key: str, value: object, message: str) -> None:
        """``where``: file and table; ``message``: what is allowed, such as ``must be true or false``."""
        self.where, self.key, self.value, self.message = where, key, value, message
        shown = " (its value is not shown)" if key in _MAY_BE_SECRET else f" = {value!r}"
        super().__init__(f"{where}: {key}{shown}: {message}")

    def at(self, where: str) -> InvalidValue:
        """The same error in another place."""
        return type(self)(where, self.key, self.value, self.message)


class UnknownKey(PolicyError):
    """A policy has a key or a table that nothing reads."""

    def __init__(self, where: str, key: str, known: Iterable[str], kind: str = "key") -> None:
        super().__init__(f"{where}: unknown {kind} {key!r}; known are {', '.join(known)}")


def read_table(values: Mapping[str, Any], readers: Readers, where: str) -> dict[str, Any]:
    """The checked values of a table. Raises ``UnknownKey`` or ``InvalidValue`` for the first mistake."""
    for key in values:
        if key not in readers:
            raise UnknownKey(where, key, readers)
    found = {}
    for key, value in values.items():
        try:
            found[key] = readers[key](value)
        except PolicyError:
            raise  # it names a place inside this value
        except ValueError as error:
            raise InvalidValue(where, key, value, str(error)) from error
    return found


def validate(policy: object, readers: Readers, where: str) -> None:
    """Check the fields of a frozen dataclass, and replace each by what its reader returns."""
    for key, value in read_table({key: getattr(policy, key) for key in readers}, readers, where).items():
        object.__setattr__(policy, key, value)


def refuse_unknown_tables(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise ``UnknownKey`` for a table that is not ``known``."""
    names = list(known)
    for key in values:
        if key not in names:
            raise UnknownKey(where, key, names, "table")


def tables(name: str, most: int) -> Reader[list[Mapping[str, Any]]]:
    """A reader of at most ``most`` tables ``[[name]]``; what they contain is not checked."""

    def read(value: object) -> list[Mapping[str, Any]]:
        if not isinstance(value, list) or len(value) > most or not all(isinstance(one, Mapping) for one in value):
            raise ValueError(f"must be at most {most} tables [[{name}]]")
        return value

    return read


def table(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """The table ``key``; empty if there is none. Raises ``InvalidValue`` for another kind of value."""
    found = values.get(key, {})
    if not isinstance(found, Mapping):
        raise InvalidValue(where, key, found, "must be a table")
    return found
