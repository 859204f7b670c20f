"""Keys, sessions, addresses: who is let in, who is told to go, and how soon a revoked key is nobody's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from queue import Queue
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from dlqsite.access import KeyCache, KeyRefused, address_from, known_keys
from dlqsite.models import ApiKey, validate_scopes
from dlqsite.tests.people import a_key, member, signed_in, staff, with_key

pytestmark = [pytest.mark.django_db, pytest.mark.redis]


@pytest.fixture(autouse=True)
def _fresh(redis_client: Any) -> Iterator[None]:
    known_keys.clear()
    yield
    known_keys.clear()


def submit(client: Client, **more: Any) -> Any:
    return client.post("/api/messages", b'{"payload":1}', content_type="application/json", **more)


def test_without_a_key_the_answer_says_how_to_bring_one() -> None:
    answer = submit(Client())

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Api-Key realm="api"'
    assert answer["Content-Type"] == "application/problem+json"
    assert json.loads(answer.content)["code"] == "not_authenticated"


@pytest.mark.parametrize(
    "authorization",
    [
        "Api-Key",
        "Api-Key ",
        "Api-Key x",
        "Api-Key x.y",
        "Bearer abc",
        "Basic YTpi",
        "Api-Key \xff.\xff",
        "Api-Key " + "x" * 4000,
    ],
)
def test_a_key_that_is_none_is_401(authorization: str) -> None:
    assert submit(Client(headers={"Authorization": authorization})).status_code == 401


def test_a_prefix_with_another_secret_is_401() -> None:
    prefix = a_key("submit").partition(".")[0]

    assert submit(Client(headers={"Authorization": f"Api-Key {prefix}.{'x' * 32}"})).status_code == 401


def test_a_key_without_the_scope_is_403_and_told_which() -> None:
    answer = submit(with_key("read"))

    assert answer.status_code == 403
    assert "`submit`" in json.loads(answer.content)["detail"]


def test_the_scope_admin_implies_all() -> None:
    assert submit(with_key("admin")).status_code == 202


def test_an_expired_key_is_401() -> None:
    assert submit(with_key("submit", expiry_date=timezone.now() - timedelta(seconds=1))).status_code == 401


def test_a_revoked_key_is_nobodys_once_the_cache_has_forgotten_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_key("submit")
    assert submit(client).status_code == 202
    ApiKey.objects.update(revoked=True)
    assert submit(client).status_code == 202

    later = time.monotonic() + 5.01
    monkeypatch.setattr(time, "monotonic", lambda: later)

    assert submit(client).status_code == 401


def test_a_known_key_costs_no_query(django_assert_num_queries: Any) -> None:
    client = with_key("submit")
    submit(client)

    with django_assert_num_queries(0):
        submit(client)


def test_the_cache_never_keeps_a_key_beyond_its_expiry() -> None:
    cache = KeyCache()
    cache.put(b"x", ApiKey(name="n", prefix="p", scopes=["read"], expiry_date=timezone.now() - timedelta(seconds=1)))

    assert cache.get(b"x") is None


def test_the_cache_is_bounded() -> None:
    cache = KeyCache()
    for n in range(3000):
        cache.put(str(n).encode(), ApiKey(name="n", prefix="p", scopes=["read"]))

    assert len(cache._known) <= 1024


class Clock:
    """Takes the place of ``time.monotonic``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def at(self, seconds: float) -> None:
        self.now = self.began + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def verified() -> None:
    """Wait until nothing is verified in the background."""
    for thread in threading.enumerate():
        if thread.name == "key":
            thread.join(20)
            assert not thread.is_alive()


A_KEY = ApiKey(name="n", prefix="p", scopes=["read"])


def test_a_key_in_use_is_verified_once_before_it_expires_and_no_one_waits(clock: Clock) -> None:
    asked: Queue[bytes] = Queue()
    answer = threading.Event()

    def verify(header: bytes) -> ApiKey:
        asked.put(header)
        assert answer.wait(20)
        return A_KEY

    cache = KeyCache(verify)
    cache.put(b"x", A_KEY)
    clock.at(3.4)
    assert cache.get(b"x")
    assert asked.empty()
    clock.at(4)
    assert all(cache.get(b"x") for _ in range(20))
    assert asked.get(timeout=20) == b"x"
    clock.at(4.9)
    assert cache.get(b"x")
    answer.set()
    verified()

    clock.at(8.99)  # five seconds from the question, not from the answer
    assert cache.get(b"x")
    verified()
    assert asked.get(timeout=20) == b"x"
    clock.at(13.991)
    assert cache.get(b"x") is None
    assert asked.empty()


def test_a_revoked_key_is_forgotten_as_soon_as_the_background_knows(clock: Clock) -> None:
    def verify(_: bytes) -> ApiKey:
        raise KeyRefused("revoked")

    cache = KeyCache(verify)
    cache.put(b"x", A_KEY)
    clock.at(4)
    cache.get(b"x")
    verified()

    assert cache.get(b"x") is None
    assert cache.get_while_away(b"x") is None


@pytest.mark.parametrize(("error", "fresh_s"), [(OperationalError("away"), 5.5), (RuntimeError("a bug"), 5.0)])
def test_a_failed_question_never_ends_a_key_early(clock: Clock, error: Exception, fresh_s: float) -> None:
    def verify(_: bytes) -> ApiKey:
        raise error

    cache = KeyCache(verify)
    cache.put(b"x", A_KEY)
    clock.at(4.5)
    assert cache.get(b"x")
    verified()

    clock.at(fresh_s - 0.01)
    assert cache.get(b"x")
    verified()
    clock.at(599.9)
    assert cache.get_while_away(b"x")
    clock.at(600.1)
    assert cache.get_while_away(b"x") is None


def test_few_keys_are_verified_in_the_background_at_the_same_time(clock: Clock) -> None:
    asked: Queue[bytes] = Queue()
    answer = threading.Event()

    def verify(header: bytes) -> ApiKey:
        asked.put(header)
        assert answer.wait(20)
        return A_KEY

    cache = KeyCache(verify)
    names = [str(number).encode() for number in range(50)]
    for name in names:
        cache.put(name, A_KEY)
    clock.at(4)
    assert all(cache.get(name) for name in names)
    answer.set()
    verified()

    assert asked.qsize() == 2
    assert cache.get(b"7")  # its turn comes, too
    verified()
    assert asked.qsize() == 3


def test_a_key_that_expires_soon_is_not_asked_for_again_and_again(clock: Clock) -> None:
    cache = KeyCache(lambda _: pytest.fail("asked"))
    cache.put(b"x", ApiKey(name="n", prefix="p", scopes=["read"], expiry_date=timezone.now() + timedelta(seconds=3)))

    clock.at(2.9)

    assert cache.get(b"x")
    verified()


@pytest.mark.django_db(transaction=True)
def test_requests_of_a_busy_client_do_not_wait_and_its_revoked_key_ends_in_time(
    clock: Clock, django_assert_num_queries: Any
) -> None:
    client = with_key("submit")
    submit(client)
    clock.at(4)
    with django_assert_num_queries(0):
        assert submit(client).status_code == 202
    verified()
    clock.at(5.5)
    with django_assert_num_queries(0):
        assert submit(client).status_code == 202
    ApiKey.objects.update(revoked=True)
    clock.at(8)
    assert submit(client).status_code == 202
    verified()

    assert submit(client).status_code == 401


def test_strangers_are_counted_by_address(settings: Settings) -> None:
    settings.RATE_LIMIT_PER_MINUTE = 3
    client = Client(headers={"Authorization": "Api-Key wrong.wrong"})

    statuses = [submit(client).status_code for _ in range(4)]

    assert statuses == [401, 401, 401, 429]
    assert submit(Client()).status_code == 429
    assert submit(Client(), REMOTE_ADDR="192.0.2.9").status_code == 401
    assert submit(with_key("submit")).status_code == 202


def test_reads_have_a_limit_of_their_own(settings: Settings) -> None:
    settings.READ_RATE_LIMIT_PER_MINUTE = 2
    client = with_key("read", "submit")

    answers = [client.get("/api/messages/none") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert answers[2]["RateLimit-Policy"] == '"read";q=2;w=60'
    assert int(answers[2]["Retry-After"]) >= 1
    assert submit(client).status_code == 202


# -- people


def test_staff_may_read_but_submit_only_with_the_permission() -> None:
    assert signed_in(member("viewer")).get("/api/messages/none").status_code == 404
    assert submit(staff("mo")).status_code == 403
    assert submit(staff("olga", "submit")).status_code == 202
    assert submit(staff("ada", "admin")).status_code == 202
    assert submit(staff("root", is_superuser=True)).status_code == 202


def test_people_who_are_no_staff_are_strangers() -> None:
    client = staff("eve")
    User.objects.filter(username="eve").update(is_staff=False)

    assert client.get("/api/messages/none").status_code == 401


def test_a_session_needs_the_csrf_token() -> None:
    client = staff("olga", "submit", csrf=True)

    answer = submit(client)

    assert answer.status_code == 403
    assert "CSRF" in json.loads(answer.content)["detail"]
    assert answer["Content-Type"] == "application/problem+json"


def test_a_session_with_the_token_may_submit() -> None:
    client = staff("olga", "submit", csrf=True)
    client.get("/admin/login/")
    token = "a" * 32
    client.cookies["csrftoken"] = token

    assert submit(client, headers={"X-CSRFToken": token}).status_code == 202


# -- addresses


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ([], "203.0.113.5", "198.51.100.1", "203.0.113.5"),
        (["10.0.0.0/8"], "203.0.113.5", "198.51.100.1", "203.0.113.5"),
        (["10.0.0.0/8"], "10.1.2.3", "198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
        (["10.0.0.0/8"], "10.1.2.3", "", "10.1.2.3"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, <script>", "10.1.2.3"),
        (["10.0.0.0/8"], "10.1.2.3", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        (["unix"], "", "198.51.100.1", "198.51.100.1"),
        (["10.0.0.0/8"], "", "198.51.100.1", "unknown"),
        (["2001:db8::/32"], "2001:db8::1", "2001:db8:ffff::1, 2a00::7", "2a00::7"),
        (["10.0.0.0/8"], "10.1.2.3", "198.51.100.1:49152", "198.51.100.1"),
        (["10.0.0.0/8"], "10.1.2.3", "198.51.100.1:49152, 10.9.9.9:443", "198.51.100.1"),
        (["10.0.0.0/8"], "10.1.2.3", "[2a00::7]:443", "2a00::7"),
        (["10.0.0.0/8"], "10.1.2.3", "[2a00::7]", "2a00::7"),
        (["10.0.0.0/8"], "10.1.2.3", "2a00::7", "2a00::7"),
        (["10.0.0.0/8"], "10.1.2.3", "[::ffff:10.9.9.9]:80", "::ffff:10.9.9.9"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, 198.51.100.1:", "10.1.2.3"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, 198.51.100.1:80:90", "10.1.2.3"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, [198.51.100.1", "10.1.2.3"),
        (["10.0.0.0/8"], "10.1.2.3", "1.1.1.1, proxy:80", "10.1.2.3"),
    ],
)
def test_forwarded_addresses_are_believed_as_far_as_the_proxies(
    settings: Settings, trusted: list[str], peer: str, forwarded: str, address: str
) -> None:
    settings.TRUSTED_PROXIES = trusted

    assert address_from({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}) == address


@pytest.mark.parametrize("peer", ["", "fe80::1%eth0", "192.0.2.9"])
def test_people_can_sign_in_whatever_their_address_looks_like(settings: Settings, peer: str) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a quick one
    user = member("viewer")
    user.set_password("a long password")
    user.save()

    sent = {"username": "viewer", "password": "a long password"}
    wrong = Client(REMOTE_ADDR=peer).post("/admin/login/", sent | {"password": "wrong"})
    right = Client(REMOTE_ADDR=peer).post("/admin/login/", sent)

    assert (wrong.status_code, right.status_code) == (200, 302)


def test_an_invented_forwarded_address_does_not_evade_the_limit(settings: Settings) -> None:
    settings.RATE_LIMIT_PER_MINUTE = 3

    statuses = [submit(Client(), headers={"X-Forwarded-For": f"198.51.100.{n}"}).status_code for n in range(5)]

    assert statuses == [401, 401, 401, 429, 429]


# -- keys


@pytest.mark.parametrize("scopes", [[], None, "read", ["read", "read"], ["root"], [["read"]]])
def test_scopes_are_a_list_of_known_names(scopes: Any) -> None:
    with pytest.raises(ValidationError):
        validate_scopes(scopes)


def test_only_a_hash_of_the_key_is_stored() -> None:
    key = a_key("read")
    row = ApiKey.objects.values().get()

    assert key.partition(".")[2] not in json.dumps(row, default=str)
