"""``REDIS_URL``: the address of one server, or of the Sentinels that know the primary. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from redis.connection import parse_url

Address = tuple[str, int]

DEFAULT_PORT: Final = 26379
SENTINEL_FORM: Final = "redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379,HOST:26379/SERVICE/NUMBER"
#: Options in the query of a URL with Sentinels. Timeouts and retries are the system's own.
OPTIONS: Final = (
    "client_name", "sentinel_password", "sentinel_username", "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs",
    "ssl_certfile", "ssl_check_hostname", "ssl_keyfile", "ssl_min_version", "ssl_password",
)  # fmt: skip

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://")
_PARTS = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)"
    r"(?:/(?P<service>[^/?#]*))?(?:/(?P<db>[^/?#]*))?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?")
#: What Sentinel itself accepts as the name of a service.
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,200}")
_VERIFY = ("none", "optional", "required")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A URL with Sentinels, read."""

    sentinels: tuple[Address, ...]
    service: str
    is_tls: bool
    #: Options of connections to the server, and of connections to Sentinels: credentials, TLS, database.
    options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]


def has_sentinels(url: str) -> bool:
    """Whether the URL names Sentinels and not a server."""
    return url.startswith(("redis+sentinel://", "rediss+sentinel://"))


def url_problem(url: str) -> str:
    """Why ``url`` is not a valid address of a Redis server; empty when it is. Never contains a password."""
    if has_sentinels(url):
        try:
            read_sentinel_url(url)
        except ValueError as error:
            return f"REDIS_URL {error}; use {SENTINEL_FORM}."
        return ""
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1] not in ("redis", "rediss", "unix"):
        begins = f"begins with {scheme[0]}" if scheme else "has no scheme"
        return (
            f"REDIS_URL {begins}; use redis://, rediss:// or unix:// and the address of the primary, "
            "or redis+sentinel:// or rediss+sentinel:// and the addresses of its Sentinels."
        )
    try:
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        return f"REDIS_URL cannot be read ({error}); use redis://USER:PASSWORD@HOST:PORT/NUMBER."
    return ""


def read_sentinel_url(url: str) -> SentinelUrl:
    """The parts of ``url``. Raises ``ValueError`` that names the invalid part and contains no password."""
    found = _PARTS.fullmatch(url)
    if found is None or "@" in f"{found['service']}{found['db']}":
        raise ValueError("cannot be read: write @, /, ? and # inside a user or password as %40, %2F, %3F and %23")
    is_tls = found["scheme"] == "rediss"
    service = unquote(found["service"] or "")
    if not _SERVICE.fullmatch(service):
        raise ValueError("has no valid name of a service behind the Sentinels (letters, digits, '.', '-', '_')")
    db = found["db"] or "0"
    if not (db.isascii() and db.isdigit()):
        raise ValueError("has a database that is not a number")
    user, _, password = (found["user"] or "").partition(":")
    sentinel, options = _query(found["query"] or "", is_tls=is_tls)
    credentials = {"username": unquote(user), "password": unquote(password)}
    return SentinelUrl(
        sentinels=_hosts(found["hosts"]),
        service=service,
        is_tls=is_tls,
        options={**options, **{name: value for name, value in credentials.items() if value}, "db": int(db)},
        sentinel_options={**{name: value for name, value in options.items() if name.startswith("ssl_")}, **sentinel},
    )


def _hosts(text: str) -> tuple[Address, ...]:
    found: list[Address] = []
    for number, host in enumerate(text.split(","), 1):
        parts = _HOST.fullmatch(host)
        port = int(parts["port"] or DEFAULT_PORT) if parts else 0
        if parts is None or not 1 <= port <= 65535:
            raise ValueError(f"has no valid HOST:PORT as Sentinel {number} (an IPv6 address needs brackets)")
        found.append((parts["v6"] or parts["name"], port))
    if len(set(found)) < len(found):
        raise ValueError("names a Sentinel twice")
    return tuple(found)


def _query(query: str, *, is_tls: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of connections to Sentinels, and of all connections."""
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    for name in names:
        if name not in OPTIONS:
            shown = name if re.fullmatch(r"[a-z_]{1,40}", name) else "that is not a name"
            raise ValueError(f"has an unknown option {shown} (accepted: {', '.join(OPTIONS)})")
        if name.startswith("ssl_") and not is_tls:
            raise ValueError(f"has the option {name}, which needs rediss+sentinel://")
    options: dict[str, Any] = parse_url(f"rediss://host/0?{query}")  # type: ignore[no-untyped-call]
    for name in ("host", "db", "connection_class"):
        options.pop(name, None)
    if options.get("ssl_cert_reqs", "none") not in _VERIFY:
        raise ValueError(f"has an invalid ssl_cert_reqs (accepted: {', '.join(_VERIFY)})")
    sentinel = {
        name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options
    }
    return sentinel, options
