"""The hosts that deliveries may go to, with their settings: ``delivery.toml``, validated.

Hosts that it does not name are rejected; an empty list allows none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from breaker_app.states import NAME
from messages_app.domain.addresses import DEFAULT_PORTS, Destination, UrlRefused, parse_authority
from wire.errors import PolicyError
from wire.fields import boolean, integer, list_of, matching, one_of
from wire.policy import InvalidValue, Readers, read_table, refuse_unknown_tables, table

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: Two during a rotation; a third allows for an unfinished rotation.
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


#: Readers of the keys of ``[default]``, and of those of a host.
_SHARED: Readers = {
    "connect_timeout_ms": integer(50, 60_000),
    "read_timeout_ms": integer(50, 600_000),
    "total_timeout_ms": integer(100, 600_000),
    "max_response_bytes": integer(0, 10_485_760),
}
_SECRETS = f"a list of 1 to {MAX_SECRETS} names of environment variables"
_READERS: Readers = {
    **_SHARED,
    "schemes": list_of(one_of(("http", "https")), 1, 2, 'a list of "https" and "http"'),
    "ports": list_of(integer(1, 65_535), 1, 65_535, "a list of ports from 1 to 65535"),
    "secrets": list_of(matching(_VARIABLE, _SECRETS), 1, MAX_SECRETS, _SECRETS),
    "unsigned": boolean,
    "allow_private": boolean,
    "breaker": matching(NAME, f"a name that matches {NAME.pattern}"),
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
        refuse_unknown_tables(values, ("default", "hosts"), file)
        default = read_table(table(values, "default", file), _SHARED, f"{file} [default]")
        tables = table(values, "hosts", file)
        hosts: dict[str, HostPolicy] = {}
        for key in tables:
            made = _host(key, default, table(tables, key, f"{file} [hosts]"), file)
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


def _host(key: str, default: Mapping[str, Any], values: Mapping[str, Any], file: str) -> HostPolicy:
    where = f'{file} [hosts."{key}"]'
    # An IPv6 address may stand alone, as nothing else has so many colons.
    text = f"[{key}]" if key.count(":") > 1 and not key.startswith("[") else key
    try:
        host, port = parse_authority(text)
    except UrlRefused as error:
        raise PolicyError(f"{where}: the name {error}; it must be host or host:port") from None
    given = {**default, **read_table(values, _READERS, where)}
    if port is not None and "ports" in given:
        raise InvalidValue(where, "ports", values["ports"], "must be left out, since the name holds the port")
    if bool(given.get("secrets")) == given.get("unsigned", False):
        raise PolicyError(f"{where}: one of secrets (names of environment variables) and unsigned = true is required")
    name = _name(host, port)
    if port is not None:
        given["ports"] = (port,)
    breaker = given.pop("breaker", f"http:{name.replace('[', '').replace(']', '')}")
    if not NAME.fullmatch(breaker):
        raise PolicyError(f"{where}: breaker is required, since {breaker!r} is too long; it must match {NAME.pattern}")
    return HostPolicy(name=name, host=host, breaker=breaker, **given)


#: What a table of a host may say, in the order of the fields; for the pages and the tests that hold them to the code.
KEYS = tuple(one.name for one in fields(HostPolicy) if one.name in _READERS)
