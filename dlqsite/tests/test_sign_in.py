"""Limits on signing in: an address that tries many names, and many passwords at once."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from dlqsite.sign_in import limits

pytestmark = [pytest.mark.django_db, pytest.mark.redis]

HOST = "198.51.100.7"


@pytest.fixture(autouse=True)
def _cheap_passwords(settings: Settings, redis_client: object) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    User.objects.create_superuser("ada", password="right-password")


def tried(client: Client, name: str, password: str, address: str = HOST) -> int:
    answer = client.post("/admin/login/", {"username": name, "password": password}, REMOTE_ADDR=address)
    assert answer.status_code == 302 or "Log" in answer.text
    return answer.status_code


def test_an_address_that_tries_many_names_is_slowed_down() -> None:
    statuses = [tried(Client(), f"name{n}", "guess") for n in range(limits.PER_MINUTE + 2)]

    assert statuses == [200] * limits.PER_MINUTE + [429, 429]
    assert tried(Client(), "ada", "right-password") == 429
    assert tried(Client(), "ada", "right-password", "198.51.100.8") == 302


def test_a_browser_that_signed_in_before_is_let_in_from_a_slowed_address() -> None:
    colleague = Client()
    assert tried(colleague, "ada", "right-password") == 302
    colleague.cookies.pop("sessionid")
    for n in range(limits.PER_MINUTE):
        tried(Client(), f"name{n}", "guess")
    assert tried(Client(), "ada", "right-password") == 429

    assert tried(colleague, "ada", "right-password") == 302


def test_a_made_up_cookie_opens_nothing() -> None:
    for n in range(limits.PER_MINUTE):
        tried(Client(), f"name{n}", "guess")
    liar = Client()
    liar.cookies[limits._COOKIE] = "1:abc:def"

    assert tried(liar, "ada", "right-password") == 429


def test_who_signs_in_while_others_do_waits_for_no_thread() -> None:
    taken = [limits._places.acquire(blocking=False) for _ in range(limits.MAX_CONCURRENT)]
    try:
        assert all(taken)
        assert tried(Client(), "ada", "right-password") == 503
    finally:
        for _ in taken:
            limits._places.release()

    assert tried(Client(), "ada", "right-password") == 302


def test_one_password_is_checked_at_a_time_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    check = User.check_password

    def watched(user: User, password: str) -> bool:
        seen.append(limits._checks.locked())
        return check(user, password)

    monkeypatch.setattr(User, "check_password", watched)

    assert tried(Client(), "ada", "right-password") == 302
    assert seen == [True]
    assert not limits._checks.locked()
