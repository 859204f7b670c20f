"""Which hosts deliveries may go to, and how each is dealt with: ``delivery.toml``, checked.

The list is closed: what it does not name is refused, and an empty one allows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from breaker_app.states import NAME
from messages_app.domain.addresses import DEFAULT_PORTS, Destination, UrlRefused, parse_authority
from messages_app.domain.policy import PolicyError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: Two while secrets are exchanged; a third leaves room for an exchange that was forgotten.
MAX_SECRETS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """How deliveries to one host go. Refuses to exist with values out of range."""

    #: As the policy names it: ``host`` or ``host:port``.
    name: str
    host: str
    #: Circuit breaker of this host; ``http:`` and the name unless given.
    breaker: str
    #: Schemes that may be used.
    schemes: tuple[str, ...] = ("https",)
    #: Ports that may be connected to; empty: each scheme's own.
    ports: tuple[int, ...] = ()
    #: Names of environment variables that hold a signing secret each; the first is the newest.
    secrets: tuple[str, ...] = field(default=(), repr=False)
    #: Deliver without signature.
    unsigned: bool = False
    #: Addresses on loopback and in private networks may be connected to.
    allow_private: bool = False
    #: Wait for a connection, TLS included, ms.
    connect_timeout_ms: int = 3000
    #: Wait for each part of the answer, ms.
    read_timeout_ms: int = 10_000
    #: Whole delivery, ms; cut to what is left of the attempt.
    total_timeout_ms: int = 20_000
    #: Bytes of the answer that are read.
    max_response_bytes: int = 65_536

    def allows(self, destination: Destination) -> bool:
        """Whether scheme and port may be used; the host is this one."""
        ports = self.ports or (DEFAULT_PORTS[destination.scheme],)
        return destination.scheme in self.schemes and destination.port in ports


def _list_of(accepted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and bool(value) and all(map(accepted, value)) and len(set(value)) == len(value)
    )


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _text(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


#: key → (check, what is accepted). Those of ``[default]`` first.
_SHARED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "connect_timeout_ms": (_whole(50, 60_000), "whole numbers from 50 to 60000"),
    "read_timeout_ms": (_whole(50, 600_000), "whole numbers from 50 to 600000"),
    "total_timeout_ms": (_whole(100, 600_000), "whole numbers from 100 to 600000"),
    "max_response_bytes": (_whole(0, 10_485_760), "whole numbers from 0 to 10485760"),
}
_KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **_SHARED,
    "schemes": (_list_of(lambda one: one in ("http", "https")), 'a list of "https" and "http"'),
    "ports": (_list_of(_whole(1, 65_535)), "a list of ports from 1 to 65535"),
    "secrets": (_list_of(_text(_VARIABLE)), f"a list of 1 to {MAX_SECRETS} names of environment variables"),
    "unsigned": (lambda value: isinstance(value, bool), "true or false"),
    "allow_private": (lambda value: isinstance(value, bool), "true or false"),
    "breaker": (_text(NAME), f"a name that matches {NAME.pattern}"),
}


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Every host that deliveries may go to, by the name that the policy gives it."""

    hosts: Mapping[str, HostPolicy]
    #: Where it was read, as messages name it.
    file: str
    #: Every circuit breaker that deliveries can have.
    breakers: frozenset[str]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, file: str) -> DeliveryPolicy:
        """Read ``{"default": {…}, "hosts": {"hooks.example.org": {…}}}``. Raises ``PolicyError``."""
        unknown = sorted(set(values) - {"default", "hosts"})
        if unknown:
            raise PolicyError(f"{file}: unknown table {unknown[0]!r}; known are default, hosts")
        default = _table(values, "default", file)
        _check(default, _SHARED, f"{file} [default]")
        tables = _table(values, "hosts", file)
        hosts: dict[str, HostPolicy] = {}
        for key in tables:
            made = _host(key, {**default, **_table(tables, key, f"{file} [hosts]")}, file)
            if made.name in hosts:
                raise PolicyError(f'{file} [hosts."{key}"]: {made.name} is named twice')
            hosts[made.name] = made
        return cls(hosts, file, frozenset(host.breaker for host in hosts.values()))

    def of(self, destination: Destination) -> HostPolicy | None:
        """The entry for this host and port, else the one for the host; None: not allowed."""
        return self.hosts.get(_name(destination.host, destination.port)) or self.hosts.get(destination.host)

    def refusal(self, destination: Destination) -> str | None:
        """Why nothing is delivered there, with what to add to the policy; None when it may be."""
        host = self.of(destination)
        where = f'[hosts."{destination.host if host is None else host.name}"] in {self.file}'
        if host is None:
            return f"{destination.origin} is not allowed: no {where}."
        if destination.scheme not in host.schemes:
            return f'{destination.origin} is not allowed: add "{destination.scheme}" to schemes of {where}.'
        if not host.allows(destination):
            return f"{destination.origin} is not allowed: add {destination.port} to ports of {where}."
        return None


def _name(host: str, port: int | None) -> str:
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(key: str, values: Mapping[str, Any], file: str) -> HostPolicy:
    where = f'{file} [hosts."{key}"]'
    # An IPv6 address may stand alone, as nothing else has so many colons.
    text = f"[{key}]" if key.count(":") > 1 and not key.startswith("[") else key
    try:
        host, port = parse_authority(text)
    except UrlRefused as error:
        raise PolicyError(f"{where}: the name {error}; accepted: host or host:port") from None
    _check(values, _KEYS, where)
    if port is not None and "ports" in values:
        raise PolicyError(f"{where}: ports = {values['ports']!r}; accepted: none, since the name holds the port")
    if len(values.get("secrets", ())) > MAX_SECRETS:
        raise PolicyError(f"{where}: secrets has {len(values['secrets'])} names; accepted: {_KEYS['secrets'][1]}")
    if bool(values.get("secrets")) == values.get("unsigned", False):
        raise PolicyError(f"{where}: one of secrets (names of environment variables) and unsigned = true is required")
    name = _name(host, port)
    given: dict[str, Any] = {
        one: tuple(value) if isinstance(value, list) else value for one, value in values.items() if one != "breaker"
    }
    if port is not None:
        given["ports"] = (port,)
    breaker = values.get("breaker", f"http:{name.replace('[', '').replace(']', '')}")
    if not NAME.fullmatch(breaker):
        raise PolicyError(f"{where}: breaker is required, since {breaker!r} is too long; accepted: {NAME.pattern}")
    return HostPolicy(name=name, host=host, breaker=breaker, **given)


def _check(values: Mapping[str, Any], keys: Mapping[str, tuple[Callable[[Any], bool], str]], where: str) -> None:
    for key, value in values.items():
        if key not in keys:
            raise PolicyError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(keys))}")
        accepts, accepted = keys[key]
        if not accepts(value):
            raise PolicyError(f"{where}: {key} = {value!r}; accepted: {accepted}")


def _table(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, Mapping):
        raise PolicyError(f"{where}: {key} = {table!r}; accepted: a table")
    return table


#: What a table of a host may say, in the order of the fields; for the pages and the tests that hold them to the code.
KEYS = tuple(one.name for one in fields(HostPolicy) if one.name in _KEYS)
