"""Destinations of deliveries: strict parsing of URLs, and forbidden addresses. Pure.

Deny by default: a URL is rejected unless every part is valid, an address unless it is known to be public. Names are
compared as they are looked up: lower case, without the final dot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: Maximum length of a URL, in characters.
MAX_URL: Final = 2048

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
#: With such a last label other programs read the whole host as an IPv4 address: 127.1, 0x7f000001, 2130706433.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[0-9]{1,5}")
_PRINTABLE = re.compile(r"[!-~]+")


class UrlRefused(ValueError):
    """The URL is not a valid destination. The text gives the reason and never contains the URL."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A parsed URL. ``host`` is a lower-case name, or an IP address in canonical form."""

    scheme: str
    host: str
    port: int
    #: Path and query, byte for byte as given.
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, for display and logs. Path and query can contain secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def parse_url(url: object) -> Destination:
    """Parse an http or https URL. Raises ``UrlRefused``."""
    if not isinstance(url, str) or not url:
        raise UrlRefused("must be the text of a URL")
    if len(url) > MAX_URL:
        raise UrlRefused(f"has more than {MAX_URL} characters")
    if not url.isascii():
        raise UrlRefused("must be ASCII: write the host's xn-- form and encode the rest with %")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise UrlRefused("contains white space, control characters or a backslash")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlRefused("is malformed") from None
    if parts.scheme not in DEFAULT_PORTS or not url[len(parts.scheme) :].startswith("://"):
        raise UrlRefused("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise UrlRefused("must not hold a user or a password")
    if "#" in url:
        raise UrlRefused("must not have a fragment (#…)")
    host, port = _split(parts.netloc)
    # Cut out of the text, so that an empty query keeps its question mark.
    target = url[len(parts.scheme) + 3 + len(parts.netloc) :]
    if not target.startswith("/"):
        target = f"/{target}"
    return Destination(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], target)


def parse_authority(text: str) -> tuple[str, int | None]:
    """Host and port of ``host`` or ``host:port``, by the rules of ``parse_url``. Raises ``UrlRefused``."""
    if not _PRINTABLE.fullmatch(text) or set(text) & set("@/?#\\"):
        raise UrlRefused("must be a host, or host:port")
    return _split(text)


def _split(netloc: str) -> tuple[str, int | None]:
    if netloc.startswith("["):
        inside, closed, after = netloc[1:].partition("]")
        if not closed or (after and not after.startswith(":")):
            raise UrlRefused("has a malformed IPv6 address")
        return _ipv6(inside), _port(after[1:]) if after else None
    host, colon, port = netloc.partition(":")
    return _name(host), _port(port) if colon else None


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise UrlRefused("has a port outside 1 to 65535")
    return int(text)


def _ipv6(text: str) -> str:
    try:
        # A zone (%eth0) selects an interface of this host, which a message must not do.
        return str(IPv6Address("" if "%" in text else text))
    except ValueError:
        raise UrlRefused("has a malformed IPv6 address") from None


def _name(text: str) -> str:
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise UrlRefused("writes an IPv4 address oddly; only four decimal numbers are taken") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("has a malformed host")
    return host


#: Addresses inside an organisation: allowed only where the policy says ``allow_private``.
_PRIVATE: Final = (
    ("loopback", "127.0.0.0/8"),
    ("private", "10.0.0.0/8"),
    ("private", "172.16.0.0/12"),
    ("private", "192.168.0.0/16"),
    ("shared (CGNAT)", "100.64.0.0/10"),
    ("loopback", "::1/128"),
    ("private", "fc00::/7"),
)
#: Never allowed, whatever the policy. Above all the addresses where clouds provide credentials.
_NEVER: Final = (
    ("a cloud's metadata", "100.100.100.200/32"),
    ("a cloud's metadata", "168.63.129.16/32"),
    ("a cloud's metadata", "fd00:ec2::254/128"),
    ("link-local", "169.254.0.0/16"),
    ("unspecified", "0.0.0.0/8"),
    ("reserved", "192.0.0.0/24"),
    ("reserved", "192.0.2.0/24"),
    ("reserved", "192.88.99.0/24"),
    ("reserved", "198.18.0.0/15"),
    ("reserved", "198.51.100.0/24"),
    ("reserved", "203.0.113.0/24"),
    ("multicast", "224.0.0.0/4"),
    ("reserved", "240.0.0.0/4"),
    ("unspecified", "::/128"),
    ("link-local", "fe80::/10"),
    ("multicast", "ff00::/8"),
    ("a local translator's", "64:ff9b:1::/48"),
    ("reserved", "2001::/23"),
    ("reserved", "2001:db8::/32"),
    ("reserved", "3fff::/20"),
)
#: IPv6 networks whose addresses contain an IPv4 address, and the number of bits after it.
_EMBEDDED: Final = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("2002::/16"), 80),
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")

_Network = IPv4Network | IPv6Network


def _network(text: str) -> _Network:
    return IPv6Network(text) if ":" in text else IPv4Network(text)


_PRIVATE_NETWORKS: Final = [(what, _network(text)) for what, text in _PRIVATE]
_NEVER_NETWORKS: Final = [(what, _network(text)) for what, text in _NEVER]


def why_forbidden(address: str, *, allow_private: bool = False) -> str | None:
    """Kind of a forbidden address (``loopback``, ``private`` …); None for an allowed one."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "malformed"
    return _kind(found, allow_private)


def _kind(address: IPv4Address | IPv6Address, allow_private: bool) -> str | None:
    for what, network in _NEVER_NETWORKS:
        if address in network:
            return what
    for what, network in _PRIVATE_NETWORKS:
        if address in network:
            return None if allow_private else what
    if isinstance(address, IPv4Address):
        return None
    for network, after in _EMBEDDED:
        if address in network:
            return _kind(IPv4Address(int(address) >> after & 0xFFFF_FFFF), allow_private)
    return None if address in _GLOBAL_V6 else "reserved"
