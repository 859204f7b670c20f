"""Which hosts deliveries may go to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings

from messages_app import checks
from messages_app.delivery.client import breaker_names, breaker_of
from messages_app.domain.addresses import parse_url
from messages_app.domain.delivery_policy import KEYS, DeliveryPolicy, HostPolicy
from wire.errors import PolicyError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def policy(hosts: dict[str, Any], **default: Any) -> DeliveryPolicy:
    return DeliveryPolicy.from_mapping({"default": default, "hosts": hosts}, file="d.toml")


def one(name: str, **differing: Any) -> HostPolicy:
    (host,) = policy({name: {"unsigned": True, **differing}}).hosts.values()
    return host


def test_an_empty_policy_allows_nothing_and_says_what_to_add() -> None:
    refusal = policy({}).refusal(parse_url("https://hooks.example.org/x"))

    assert refusal == 'https://hooks.example.org is not allowed: no [hosts."hooks.example.org"] in d.toml.'


def test_what_is_shipped_allows_nothing() -> None:
    assert django_settings.POLICIES.file("delivery") == "dlqsite/policies/delivery.toml"
    assert DeliveryPolicy.from_mapping(django_settings.DELIVERY_POLICY, file="x").hosts == {}


@pytest.mark.parametrize(
    ("url", "refusal"),
    [
        ("https://a.example/", None),
        ("https://A.example.:443/", None),
        ("http://a.example/", 'add "http" to schemes of [hosts."a.example"]'),
        ("https://a.example:8443/", 'add 8443 to ports of [hosts."a.example"]'),
        ("https://b.example:8443/", None),
        ("https://b.example/", 'no [hosts."b.example"]'),
        ("http://c.example/", None),
        ("https://c.example/", None),
        ("https://sub.a.example/", 'no [hosts."sub.a.example"]'),
        ("https://[2606:4700::1]:8443/", None),
    ],
)
def test_scheme_and_port_have_to_be_named_too(url: str, refusal: str | None) -> None:
    found = policy(
        {
            "a.example": {"unsigned": True},
            "B.Example.:8443": {"unsigned": True},
            "c.example": {"unsigned": True, "schemes": ["https", "http"]},
            "2606:4700::1": {"unsigned": True, "ports": [8443]},
        }
    ).refusal(parse_url(url))

    assert found is None if refusal is None else found is not None and refusal in found


def test_an_entry_with_a_port_comes_first() -> None:
    both = policy({"a.example": {"unsigned": True, "ports": [1, 2]}, "a.example:2": {"unsigned": True}})

    names = [both.of(parse_url(f"https://a.example:{port}/")) for port in (1, 2)]
    assert [host.breaker for host in names if host] == ["http:a.example", "http:a.example:2"]
    assert both.breakers == {"http:a.example", "http:a.example:2"}


def test_a_host_has_the_defaults_of_the_file_and_its_own_words() -> None:
    host = policy({"a.example": {"secrets": ["A"], "read_timeout_ms": 70}}, read_timeout_ms=50, connect_timeout_ms=60)
    a = host.hosts["a.example"]

    assert (a.read_timeout_ms, a.connect_timeout_ms, a.total_timeout_ms) == (70, 60, 20_000)
    assert (a.schemes, a.ports, a.secrets, a.allow_private) == (("https",), (), ("A",), False)


def test_the_breaker_may_be_shared() -> None:
    assert one("a.example", breaker="shop").breaker == "shop"
    assert one("::1").breaker == "http:::1"
    assert one("[::1]:8080").breaker == "http:::1:8080"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"host": {}}, "unknown table 'host'"),
        ({"hosts": []}, "hosts = []: must be a table"),
        ({"default": {"ports": [1]}}, "[default]: unknown key 'ports'"),
        ({"default": {"read_timeout_ms": 1}}, "read_timeout_ms = 1: must be a whole number from 50 to 600000"),
        ({"hosts": {"a": 1}}, "a = 1: must be a table"),
        ({"hosts": {"a": {}}}, "one of secrets (names of environment variables) and unsigned = true is required"),
        ({"hosts": {"a": {"secrets": ["A"], "unsigned": True}}}, "one of secrets"),
        ({"hosts": {"a": {"secrets": []}}}, "secrets (its value is not shown): must be a list of 1 to 3"),
        ({"hosts": {"a": {"secrets": ["A", "A"]}}}, "secrets (its value is not shown): must not have a value twice"),
        ({"hosts": {"a": {"secrets": ["A", "B", "C", "D"]}}}, "must be a list of 1 to 3 names"),
        ({"hosts": {"a": {"secrets": ["whsec_abc="]}}}, "names of environment variables"),
        ({"hosts": {"a": {"unsigned": 1}}}, "unsigned = 1: must be true or false"),
        ({"hosts": {"a": {"unsigned": True, "ports": [0]}}}, "ports = [0]"),
        ({"hosts": {"a": {"unsigned": True, "ports": [True]}}}, "ports = [True]"),
        ({"hosts": {"a:1": {"unsigned": True, "ports": [1]}}}, "must be left out, since the name holds the port"),
        ({"hosts": {"a": {"unsigned": True, "schemes": ["ftp"]}}}, "schemes = ['ftp']"),
        ({"hosts": {"a": {"unsigned": True, "breaker": "a b"}}}, "breaker = 'a b'"),
        ({"hosts": {"a": {"unsigned": True, "timeout": 5}}}, "unknown key 'timeout'; known are connect_timeout_ms"),
        ({"hosts": {"https://a": {"unsigned": True}}}, "it must be host or host:port"),
        ({"hosts": {"*.example": {"unsigned": True}}}, "it must be host or host:port"),
        ({"hosts": {"127.1": {"unsigned": True}}}, "oddly"),
        ({"hosts": {"": {"unsigned": True}}}, "it must be host or host:port"),
        ({"hosts": {"a": {"unsigned": True}, "A": {"unsigned": True}}}, "a is named twice"),
        ({"hosts": {"a" * 60 + ".b" * 40: {"unsigned": True}}}, "breaker is required"),
    ],
)
def test_mistakes_are_named_with_what_is_accepted(values: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        DeliveryPolicy.from_mapping(values, file="d.toml")

    assert str(caught.value).startswith("d.toml")
    assert said in str(caught.value)


def test_the_breaker_is_the_hosts_whatever_the_payload_says(settings: Settings) -> None:
    settings.DELIVERY_POLICY = {"hosts": {"a.example": {"unsigned": True}, "b.example": {"unsigned": True}}}

    assert breaker_of({"url": "https://A.example./x", "body": 1}) == "http:a.example"
    assert breaker_of({"url": "https://b.example:1/x"}) == "http:b.example"
    assert sorted(breaker_names()) == ["http:a.example", "http:b.example"]
    senseless: list[Any] = [{"url": "https://c.example/"}, {"url": "a.example"}, {"url": 1}, {}, [], None, "x"]
    for payload in senseless:
        assert breaker_of(payload) is None


def test_the_check_refuses_a_policy_that_cannot_be_followed(settings: Settings) -> None:
    settings.DELIVERY_POLICY = {"hosts": {"a.example": {"unsigned": 5}}}

    (found,) = checks.check_delivery_policy()
    assert found.id == "messages_app.E004"
    assert "unsigned = 5" in found.msg


def test_the_check_refuses_a_file_that_cannot_be_read(settings: Settings) -> None:
    settings.DELIVERY_POLICY_PROBLEM = "/etc/delivery.toml cannot be read: No such file"

    (found,) = checks.check_delivery_policy()
    assert (found.id, found.msg) == ("messages_app.E004", settings.DELIVERY_POLICY_PROBLEM)


def test_the_variable_names_another_file(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[hosts.a]\nunsigned = 5\n")
    for path, said in ((other, f'{other} [hosts."a"]: unsigned = 5'), (tmp_path / "missing.toml", "cannot be read")):
        done = subprocess.run(
            [sys.executable, "manage.py", "check"], cwd=django_settings.BASE_DIR, check=False, capture_output=True,
            env={**os.environ, "DELIVERY_POLICY": str(path)}, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1
        assert "(messages_app.E004)" in done.stderr
        assert said in done.stderr


def test_the_check_warns_of_secrets_without_showing_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DELIVERY_POLICY = {"hosts": {"a.example": {"secrets": ["A_NEW", "A_OLD", "A_BAD"]}}}
    monkeypatch.setenv("A_NEW", SECRET)
    monkeypatch.delenv("A_OLD", raising=False)
    monkeypatch.setenv("A_BAD", "hunter2-hunter2")

    found = checks.check_delivery_policy()

    assert [one.id for one in found] == ["messages_app.W002"] * 2
    assert "A_OLD, which signs deliveries, is not set" in found[0].msg
    assert "A_BAD" in found[1].msg
    assert "hunter2" not in f"{found[1].msg}{found[1].hint}"


def test_every_key_is_explained() -> None:
    page = (Path(django_settings.BASE_DIR) / "docs" / "policies.md").read_text(encoding="utf-8")
    chapter = page.partition("## Deliveries")[2].partition("\n## ")[0]

    assert [key for key in KEYS if f"`{key}`" not in chapter] == []
