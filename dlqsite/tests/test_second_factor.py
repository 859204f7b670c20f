"""The second factor of users with a password: setting it up, using it, losing it, and no way around it."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import auth as totp
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from audit_app.models import AuditLine
from dlqsite.models import ApiKey
from dlqsite.sign_in import complete, limits, second_factor
from dlqsite.tests.people import Browser, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.redis]

PASSWORD = "right-password"
LOGIN, CODE, SET_UP = "/admin/login/", "/admin/login/code/", "/admin/login/set-up/"
OWN = "/admin/you/second-factor/"


class Clock:
    """The time of codes; a code is used once, so tests move on to the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(totp, "time", SimpleNamespace(time=lambda: self.now))

    def code(self, secret: str) -> str:
        self.now += 30
        return str(totp.format_hotp_value(totp.hotp_value(secret, int(self.now) // 30)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def ada(settings: Settings, redis_client: object) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return User.objects.create_superuser("ada", password=PASSWORD)


def password(browser: Client | None = None, next_url: str = "/admin/you/") -> tuple[Client, Any]:
    """A browser that has sent the right password, and the response."""
    browser = browser or Browser()
    return browser, browser.post(LOGIN, {"username": "ada", "password": PASSWORD, "next": next_url})


def shown_secret(page: Any) -> str:
    found = re.search(r"Key: <code[^>]*>([A-Z2-7 ]+)</code>", page.text)
    assert found, page.text
    return found[1].replace(" ", "")


def shown_codes(page: Any) -> list[str]:
    return re.findall(r"<li><code>(\d{8})</code></li>", page.text)


def turned_on(user: User, clock: Clock) -> tuple[str, list[str]]:
    secret = second_factor.new_secret()
    codes = second_factor.turn_on(user, secret, clock.code(secret), who="test")
    assert codes
    return secret, codes


def is_in(browser: Client) -> bool:
    return browser.get("/admin/you/").status_code == 200


def whats() -> list[str]:
    return [line.what for line in AuditLine.objects.filter(kind="user").order_by("pk")]


def test_by_default_a_password_is_enough(ada: User) -> None:
    browser, answer = password()

    assert (answer.status_code, answer["Location"]) == (302, "/admin/you/")
    assert is_in(browser)
    assert "Your password alone logs you in" in browser.get(OWN).text


def test_a_user_turns_it_on_and_then_needs_a_code(ada: User, clock: Clock) -> None:
    browser, _ = password()
    secret = shown_secret(browser.get(OWN))
    page = browser.post(OWN, {"code": clock.code(secret), "password": PASSWORD})
    assert len(shown_codes(page)) == 10
    assert "no-store" in page["Cache-Control"]
    assert is_in(browser)
    assert "Unused recovery codes: 10" in browser.get(OWN).text

    browser, answer = password(next_url="/admin/dlq_app/lettergroup/")
    assert answer["Location"] == CODE
    assert not is_in(browser)
    assert "authenticator app of ada" in browser.get(CODE).text
    answer = browser.post(CODE, {"code": clock.code(secret)})

    assert (answer.status_code, answer["Location"]) == (302, "/admin/dlq_app/lettergroup/")
    assert is_in(browser)
    assert whats() == ["signed in", "second factor turned on", "signed in"]


def test_the_secret_is_not_stored_as_it_is(ada: User, clock: Clock) -> None:
    secret, codes = turned_on(ada, clock)

    stored = " ".join(str(row.data) for row in Authenticator.objects.all())
    assert len(Authenticator.objects.all()) == 2
    assert not [text for text in (secret, *codes) if text in stored]


@pytest.mark.parametrize(
    ("sent", "said"),
    [({"password": "wrong"}, "Wrong password."), ({"code": "000000"}, "Wrong code"), ({"code": ""}, "Wrong code")],
)
def test_turning_it_on_needs_the_password_and_a_code(ada: User, clock: Clock, sent: dict[str, str], said: str) -> None:
    browser, _ = password()
    secret = shown_secret(browser.get(OWN))

    page = browser.post(OWN, {"code": clock.code(secret), "password": PASSWORD} | sent)

    assert said in page.text
    assert shown_secret(page) == secret
    assert not second_factor.is_on(ada)


def test_a_code_is_accepted_once(ada: User, clock: Clock) -> None:
    secret, _ = turned_on(ada, clock)
    code = clock.code(secret)
    statuses = []
    for _ in range(2):
        browser, _ = password()
        statuses.append(browser.post(CODE, {"code": code}).status_code)

    assert statuses == [302, 200]


def test_a_recovery_code_is_accepted_once(ada: User, clock: Clock) -> None:
    _, codes = turned_on(ada, clock)
    statuses = []
    for _ in range(2):
        browser, _ = password()
        statuses.append(browser.post(CODE, {"code": f" {codes[3][:4]}-{codes[3][4:]} "}).status_code)

    assert statuses == [302, 200]
    assert second_factor.recovery_codes_left(ada) == 9
    assert "recovery code used" in whats()


def test_codes_of_yesterday_and_tomorrow_are_wrong(ada: User, clock: Clock) -> None:
    secret, _ = turned_on(ada, clock)
    clock.now += 3600
    browser, _ = password()
    now = int(clock.now) // 30

    wrong = [totp.format_hotp_value(totp.hotp_value(secret, now + off)) for off in (-2880, -2, 2, 2880)]

    assert [browser.post(CODE, {"code": code}).status_code for code in wrong] == [200] * 4
    assert whats()[-4:] == [second_factor.FAILED] * 4


def test_after_ten_wrong_codes_no_code_is_checked_for_an_hour(
    ada: User, clock: Clock, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, codes = turned_on(ada, clock)
    browser, _ = password()
    for _ in range(second_factor.MAX_FAILURES):
        assert browser.post(CODE, {"code": "123456"}).status_code == 200

    other, _ = password()
    answers = [other.post(CODE, {"code": code}) for code in (clock.code(secret), codes[0])]

    assert [answer.status_code for answer in answers] == [429, 429]
    assert "checked in 60 minutes" in answers[0].text
    assert not is_in(other)

    later = SimpleNamespace(now=lambda: timezone.now() + second_factor.WINDOW)
    monkeypatch.setattr(second_factor, "timezone", later)
    assert other.post(CODE, {"code": clock.code(secret)}).status_code == 302


def test_requests_with_codes_are_limited_by_user(ada: User, clock: Clock) -> None:
    turned_on(ada, clock)
    browser, _ = password()

    answers = [browser.post(CODE, {"code": "1"}) for _ in range(limits.PER_MINUTE + 1)]

    assert answers[-1].status_code == 429
    assert "Too many codes of this user within a minute." in answers[-1].text
    assert "from your address" not in answers[-1].text
    assert [answer.status_code for answer in answers].count(200) == second_factor.MAX_FAILURES


@pytest.mark.parametrize("what", ["nothing", "late", "password", "deactivated", "another browser"])
def test_a_code_needs_the_password_just_before_it(
    ada: User, clock: Clock, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, _ = turned_on(ada, clock)
    browser, _ = (Browser(), None) if what == "nothing" else password()
    if what == "late":
        monkeypatch.setattr(complete, "PATIENCE_S", -1)
        browser, _ = password()
    elif what == "password":
        ada.set_password("another-password")
        ada.save()
    elif what == "deactivated":
        User.objects.update(is_active=False)
    elif what == "another browser":
        browser = Browser()

    answer = browser.post(CODE, {"code": clock.code(secret)})

    assert (answer.status_code, answer["Location"]) == (302, LOGIN)
    assert not is_in(browser)


def test_if_it_is_required_it_is_set_up_at_the_first_login(ada: User, clock: Clock, settings: Settings) -> None:
    settings.REQUIRE_SECOND_FACTOR = True
    browser, answer = password(next_url="/admin/dlq_app/lettergroup/")
    assert answer["Location"] == SET_UP
    assert not is_in(browser)
    secret = shown_secret(browser.get(SET_UP))
    assert "Wrong code" in browser.post(SET_UP, {"code": "1"}).text

    page = browser.post(SET_UP, {"code": clock.code(secret)})

    assert len(shown_codes(page)) == 10
    assert 'href="/admin/dlq_app/lettergroup/"' in page.text
    assert is_in(browser)
    assert browser.post(SET_UP, {"code": clock.code(secret)})["Location"] == LOGIN


def test_if_it_is_required_another_app_takes_the_place_of_the_first(
    ada: User, clock: Clock, settings: Settings
) -> None:
    settings.REQUIRE_SECOND_FACTOR = True
    secret, _ = turned_on(ada, clock)
    browser, _ = password()
    browser.post(CODE, {"code": clock.code(secret)})
    assert "Turn off" not in browser.get(OWN).text

    browser.post(OWN, {"code": clock.code(secret), "action": "turn_off"})

    assert password()[1]["Location"] == SET_UP
    page = browser.get(OWN)
    assert "required here: set it up now" in page.text
    other = shown_secret(page)
    assert other != secret
    assert shown_codes(browser.post(OWN, {"code": clock.code(other), "password": PASSWORD}))
    assert password()[1]["Location"] == CODE


@pytest.fixture(params=["turned on elsewhere", "required since"])
def half_signed_in(request: pytest.FixtureRequest, ada: User, clock: Clock, settings: Settings) -> Client:
    """A session of a password alone, from before the second factor was needed."""
    browser = signed_in(ada)
    assert is_in(browser)
    if request.param == "required since":
        settings.REQUIRE_SECOND_FACTOR = True
    else:
        turned_on(ada, clock)
    return browser


@pytest.mark.parametrize(
    "path",
    ["/admin/", "/admin/you/", OWN, "/admin/password_change/", "/admin/auth/user/", "/admin/django_rq/dashboard/"],
)
def test_a_session_of_a_password_alone_opens_no_page(half_signed_in: Client, path: str) -> None:
    answer = half_signed_in.get(path)

    assert answer.status_code == 302
    assert "/admin/login/" in answer["Location"]


@pytest.mark.parametrize("path", ["/api/system/overview", "/api/docs", "/api/schema", "/api/dlq"])
def test_a_session_of_a_password_alone_is_a_stranger_to_the_api(half_signed_in: Client, path: str) -> None:
    assert half_signed_in.get(path).status_code == 401


def test_a_session_of_a_password_alone_changes_nothing(half_signed_in: Client, clock: Clock) -> None:
    half_signed_in.post("/admin/dlqsite/apikey/add/", {"name": "x", "scopes": ["read"]})
    secret = second_factor.new_secret()
    half_signed_in.post(OWN, {"code": clock.code(secret), "password": PASSWORD, "action": "turn_off"})

    assert not ApiKey.objects.exists()


def test_new_recovery_codes_replace_the_old_ones(ada: User, clock: Clock) -> None:
    secret, old = turned_on(ada, clock)
    browser, _ = password()
    browser.post(CODE, {"code": clock.code(secret)})

    new = shown_codes(browser.post(OWN, {"code": clock.code(secret), "action": "new_codes"}))

    assert len(new) == 10
    assert second_factor.check(ada, old[0], who="test") is None
    assert second_factor.check(ada, new[0], who="test") is second_factor.Used.RECOVERY_CODE


@pytest.mark.parametrize("action", [{}, {"action": "turn-off"}])
def test_an_unknown_change_is_refused_and_uses_no_code(ada: User, clock: Clock, action: dict[str, str]) -> None:
    secret, _ = turned_on(ada, clock)
    browser, _ = password()
    browser.post(CODE, {"code": clock.code(secret)})
    code = clock.code(secret)

    answer = browser.post(OWN, {"code": code, **action})

    assert answer.status_code == 400
    assert second_factor.is_on(ada)
    assert second_factor.check(ada, code, who="test") is second_factor.Used.APP


def test_it_can_be_turned_off_with_a_code_only(ada: User, clock: Clock) -> None:
    secret, _ = turned_on(ada, clock)
    browser, _ = password()
    browser.post(CODE, {"code": clock.code(secret)})

    assert "Wrong code" in browser.post(OWN, {"code": "1", "action": "turn_off"}).text
    assert second_factor.is_on(ada)
    browser.post(OWN, {"code": clock.code(secret), "action": "turn_off"})

    assert not Authenticator.objects.exists()
    assert whats()[-1] == "second factor turned off"
    assert is_in(password()[0])


def test_a_lost_phone_is_reset_on_the_server(ada: User, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    secret, _ = turned_on(ada, clock)
    thief, _ = password()
    thief.post(CODE, {"code": clock.code(secret)})
    other = signed_in(User.objects.create_superuser("bob", password=PASSWORD))
    assert is_in(thief)

    call_command("reset_second_factor", "ada")

    assert "ada: second factor removed, sessions ended" in capsys.readouterr().out
    assert not is_in(thief)
    assert is_in(other)
    assert is_in(password()[0])
    line = AuditLine.objects.get(what="second factor reset")
    assert (line.name, line.who.partition(":")[0]) == ("ada", "cli")


def test_the_reset_names_what_is_wrong(ada: User) -> None:
    with pytest.raises(CommandError, match="There is no user 'eve'"):
        call_command("reset_second_factor", "eve")
    with pytest.raises(CommandError, match="at least one USER"):
        call_command("reset_second_factor")


def test_with_another_secret_key_no_code_is_accepted_and_the_page_names_the_fix(
    ada: User, clock: Clock, settings: Settings
) -> None:
    secret, _ = turned_on(ada, clock)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "another key" * 5
    assert [user.username for user in second_factor.unreadable()] == ["ada"]
    browser, _ = password()

    page = browser.post(CODE, {"code": clock.code(secret)})

    assert "manage.py reset_second_factor" in page.text
    assert not is_in(browser)
    settings.SECRET_KEY_FALLBACKS = [old]
    assert second_factor.unreadable() == []
    assert browser.post(CODE, {"code": clock.code(secret)}).status_code == 302
    settings.SECRET_KEY_FALLBACKS = []
    call_command("reset_second_factor", "--unreadable")
    assert is_in(password()[0])


def test_pages_of_the_library_have_no_address(ada: User) -> None:
    browser = signed_in(ada)

    for model in (
        "mfa/authenticator",
        "account/emailaddress",
        "socialaccount/socialapp",
        "socialaccount/socialaccount",
    ):
        assert browser.get(f"/admin/{model}/").status_code == 404
    for path in ("/accounts/login/", "/accounts/signup/", "/accounts/2fa/", "/mfa/"):
        assert browser.get(path).status_code == 404


def test_a_user_with_a_second_factor_can_be_deleted(ada: User, clock: Clock) -> None:
    turned_on(ada, clock)
    root = signed_in(User.objects.create_superuser("root"))

    assert root.post(f"/admin/auth/user/{ada.pk}/delete/", {"post": "yes"}).status_code == 302

    assert not Authenticator.objects.exists()
