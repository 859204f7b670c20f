"""Where a delivery may go."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages_app.domain.addresses import Destination, UrlRefused, parse_authority, parse_url, why_forbidden


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://hooks.example.org", ("https", "hooks.example.org", 443, "/")),
        ("HTTPS://Hooks.Example.ORG./a/b?c=d&e", ("https", "hooks.example.org", 443, "/a/b?c=d&e")),
        ("http://127.0.0.1:8080/x", ("http", "127.0.0.1", 8080, "/x")),
        ("http://127.0.0.1.:80/../", ("http", "127.0.0.1", 80, "/../")),
        ("http://[::1]:80/", ("http", "::1", 80, "/")),
        ("https://[2606:4700:0:0::1111]/", ("https", "2606:4700::1111", 443, "/")),
        ("https://xn--bcher-kva.example/?q", ("https", "xn--bcher-kva.example", 443, "/?q")),
        ("https://a_b.example//x", ("https", "a_b.example", 443, "//x")),
        ("https://a.example/%2f%7E%zz/{x}|^?", ("https", "a.example", 443, "/%2f%7E%zz/{x}|^?")),
        ("https://a.example?%2f", ("https", "a.example", 443, "/?%2f")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[str, str, int, str]) -> None:
    assert parse_url(url) == Destination(*parts)


@pytest.mark.parametrize(
    "url",
    [
        None, 5, "", "hooks.example.org", "//hooks.example.org/", "ftp://a.example/", "file:///etc/passwd",
        "gopher://a.example/", "http:a.example", "http:/a.example", "http:///x", "https://", "javascript:alert(1)",
        # users, other hosts hidden behind one
        "http://user@a.example/", "http://a.example:80@127.0.0.1/", "http://a.example\\@127.0.0.1/",
        "http://127.0.0.1#@a.example/", "http://a.example/#x",
        # white space, controls, line ends
        " http://a.example/", "http://a.example/ x", "http://a.example/\r\nHost: b", "http://a.\texample/",
        "http://a.example/\x00",
        # other ways to write an IPv4 address
        "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/",
        "http://127.0.0.01/", "http://1.2.3.4.5/", "http://1.2.3/", "http://0x/", "http://a.0x7f/", "http://300.1.1.1/",
        # and IPv6
        "http://[::1", "http://::1/", "http://[::1]x/", "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/",
        "http://[v1.x]/", "http://[]/", "http://[127.0.0.1]/",
        # ports
        "http://a.example:/", "http://a.example:0/", "http://a.example:65536/", "http://a.example:-1/",
        "http://a.example:80:80/", "http://a.example:8 0/", "http://a.example:٣/",
        # names
        "http://.a.example/", "http://a..example/", "http://a.example../", "http://-a.example/", "http://a-.example/",
        "http://a%2eexample/", "http://127.0.0.1%00.a.example/", f"http://{'a' * 64}.example/",
        f"http://{'a.' * 130}example/", "http://bücher.example/", "http://127。0。0。1/", "http://①②⑦.0.0.1/",
        "http://a.example/é", f"http://a.example/{'x' * 2048}",
    ],
)  # fmt: skip
def test_everything_else_is_refused(url: object) -> None:
    with pytest.raises(UrlRefused) as caught:
        parse_url(url)
    assert not isinstance(url, str) or len(url) < 9 or url not in str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"https?://[0-9a-zA-Z.:@\[\]%x-]{0,30}/?.{0,10}"))
def test_whatever_is_accepted_is_one_of_the_two_kinds_of_host(url: str) -> None:
    try:
        found = parse_url(url)
    except UrlRefused:
        return
    assert found.scheme in ("http", "https")
    assert 0 < found.port < 65536
    assert found.target.startswith("/")
    try:
        assert str(ipaddress.ip_address(found.host)) == found.host
    except ValueError:
        assert found.host == found.host.lower()
        assert not found.host.rpartition(".")[2].isdigit()
        assert parse_authority(found.host) == (found.host, None)


def test_what_is_shown_of_a_url_holds_no_secret() -> None:
    assert parse_url("https://a.example:443/services/T0/secret?token=x").origin == "https://a.example"
    assert parse_url("http://[::1]:8080/").origin == "http://[::1]:8080"


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert why_forbidden(address) is None


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"), ("127.8.8.8", "loopback"), ("::1", "loopback"), ("10.0.0.1", "private"),
        ("172.16.0.1", "private"), ("172.31.255.255", "private"), ("192.168.1.1", "private"), ("fd12::1", "private"),
        ("100.64.0.1", "shared (CGNAT)"), ("100.127.255.255", "shared (CGNAT)"),
        ("::ffff:127.0.0.1", "loopback"), ("::ffff:10.0.0.1", "private"), ("::127.0.0.1", "loopback"),
        ("::ffff:0:192.168.0.1", "private"), ("2002:7f00:1::", "loopback"), ("2002:a00:1::5", "private"),
        ("64:ff9b::127.0.0.1", "loopback"), ("64:ff9b::a00:1", "private"),
    ],
)  # fmt: skip
def test_addresses_inside_need_the_policys_word(address: str, kind: str) -> None:
    assert why_forbidden(address) == kind
    assert why_forbidden(address, allow_private=True) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fe80::1",
        "fe80::1%eth0", "0.0.0.0", "0.1.2.3",  # noqa: S104
        "::", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "ff02::1",
        "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "100.100.100.200",
        "168.63.129.16", "fd00:ec2::254", "2001::1", "2001:db8::1", "3fff::1", "fec0::1", "100::1", "5f00::1",
        "64:ff9b:1::7f00:1", "4000::1", "::ffff:0.0.0.0", "", "localhost", "1.2.3", "1.2.3.4.5",
    ],
)  # fmt: skip
def test_some_addresses_are_never_delivered_to(address: str) -> None:
    assert why_forbidden(address) is not None
    assert why_forbidden(address, allow_private=True) is not None


@given(st.ip_addresses(v=4))
def test_no_allowed_ipv4_address_is_anything_but_public(address: ipaddress.IPv4Address) -> None:
    if why_forbidden(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast
    for inside in (
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        str(ipaddress.IPv6Address(0x2002 << 112 | int(address) << 80)),
    ):
        assert why_forbidden(inside) == why_forbidden(str(address))


@given(st.ip_addresses(v=6))
def test_no_allowed_ipv6_address_is_anything_but_public(address: ipaddress.IPv6Address) -> None:
    if why_forbidden(str(address)) is None and address not in ipaddress.ip_network("2002::/16"):
        assert address.is_global
        assert not address.is_multicast
