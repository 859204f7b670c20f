"""Signing in with OpenID Connect, at a provider on loopback."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import NoReverseMatch, reverse
from pytest_django import Settings

from audit_app.models import AuditLine
from dlqsite import checks
from dlqsite.roles import role_of
from dlqsite.sign_in import limits
from dlqsite.tests import urls_with_provider  # now, while the provider is off
from dlqsite.tests.people import member, signed_in
from dlqsite.tests.provider import CLIENT_ID, CLIENT_SECRET, Provider

pytestmark = [pytest.mark.django_db, pytest.mark.redis]


@pytest.fixture
def provider(settings: Settings, redis_client: Any) -> Iterator[Provider]:
    """A provider whose group ``ops`` is the role operator. Its user is in it."""
    with Provider().running() as found:
        found.claims["groups"] = ["ops", "everyone"]
        switch_on(settings, found)
        yield found


def switch_on(settings: Settings, provider: Provider) -> None:
    settings.ROOT_URLCONF = urls_with_provider.__name__
    settings.OIDC_ISSUER = provider.issuer
    settings.OIDC_CLIENT_ID, settings.OIDC_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
    settings.OIDC_NAME = "Example ID"
    settings.SIGN_IN_POLICY = {"roles": {"viewer": ["staff"], "operator": ["ops"], "administrator": ["admins"]}}


def left(client: Client, next_url: str = "/admin/") -> str:
    """The provider's URL to which the button of the login page leads."""
    page = client.post("/sign-in/provider/", {"next": next_url})
    assert page.status_code == 200, page.text
    found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', page.text)
    assert found
    return unescape(found[1])


def came_back(client: Client, url: str) -> Any:
    """The response to the browser that the provider sent back."""
    answer = requests.get(url, allow_redirects=False, timeout=10)
    assert answer.status_code == 302
    back = urlsplit(answer.headers["Location"])
    assert back.path == "/sign-in/provider/callback/"
    return client.get(f"{back.path}?{back.query}")


def sign_in(client: Client | None = None, next_url: str = "/admin/") -> Any:
    browser = client or Client()
    return came_back(browser, left(browser, next_url))


def is_in(browser: Client) -> bool:
    return browser.get("/admin/you/").status_code == 200


def lines(what: str) -> list[AuditLine]:
    return list(AuditLine.objects.filter(what=what).order_by("pk"))


def test_a_user_signs_in_and_gets_the_role_of_the_group(provider: Provider) -> None:
    browser = Client()

    answer = sign_in(browser, "/admin/dlq_app/lettergroup/")

    assert (answer.status_code, answer["Location"]) == (302, "/admin/dlq_app/lettergroup/")
    user = User.objects.get()
    assert (user.username, role_of(user), user.is_staff, user.is_superuser) == ("grace", "operator", True, False)
    assert not user.has_usable_password()
    assert "grace, operator" in browser.get("/admin/you/").text
    assert browser.session.get_expiry_age() <= 8 * 3600
    (made,), (came,) = lines("user made"), lines("signed in")
    assert (made.who, came.who) == ("user:grace", "user:grace")
    assert came.why.startswith("with Example ID, from ")


def test_the_request_to_the_provider_has_pkce_state_and_nonce(provider: Provider) -> None:
    first, second = (parse_qs(urlsplit(left(Client())).query) for _ in range(2))

    assert first["code_challenge_method"] == ["S256"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 16
        assert first[name] != second[name]


def test_the_login_page_has_a_button_only_if_there_is_a_provider(provider: Provider, settings: Settings) -> None:
    page = Client().get("/admin/login/").text
    assert 'value="Log in with Example ID"' in page
    assert 'name="password"' in page

    settings.OIDC_ISSUER, settings.ROOT_URLCONF = "", "dlqsite.urls"
    assert "Example ID" not in Client().get("/admin/login/").text
    with pytest.raises(NoReverseMatch):
        reverse("oidc_start")
    assert Client().post("/sign-in/provider/").status_code == 404


def test_going_to_the_provider_needs_a_form_of_this_site(provider: Provider) -> None:
    assert Client().get("/sign-in/provider/").status_code == 405
    assert Client(enforce_csrf_checks=True).post("/sign-in/provider/").status_code == 403
    assert provider.asked == []


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x"])
def test_the_way_back_never_leads_to_another_site(provider: Provider, elsewhere: str) -> None:
    assert sign_in(next_url=elsewhere)["Location"] == "/admin/"


def refused(answer: Any, said: str, status: int = 403) -> None:
    assert answer.status_code == status
    text = unescape(answer.text)
    assert said in text, text
    assert "Back to the login page" in text
    assert not User.objects.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"signed_with": "wrong"}, "identity token is not valid"),
        ({"algorithm": "HS256"}, "not signed with a key of the provider"),
        ({"algorithm": "none"}, "not signed with a key of the provider"),
        ({"forged": lambda claims: claims | {"nonce": "another"}}, "belongs to another sign-in"),
        ({"forged": lambda claims: {k: v for k, v in claims.items() if k != "nonce"}}, "identity token is not valid"),
        ({"forged": lambda claims: claims | {"exp": int(time.time()) - 3600}}, "has expired"),
        ({"forged": lambda claims: claims | {"aud": "another"}}, "identity token is not valid"),
        ({"forged": lambda claims: claims | {"aud": [CLIENT_ID, "another"]}}, "for another application"),
        ({"forged": lambda claims: claims | {"azp": "another"}}, "for another application"),
        ({"forged": lambda claims: claims | {"iss": "https://another.example"}}, "identity token is not valid"),
        ({"forged": lambda claims: claims | {"sub": "\0"}}, "no usable id of a user"),
        ({"forged": lambda claims: claims | {"sub": "x" * 192}}, "no usable id of a user"),
        ({"denied": "access_denied"}, "Example ID refused access, or you cancelled"),
        ({"denied": "<script>"}, "reports the error <script>"),
        ({"broken": {"/token": 400}}, "did not accept this sign-in"),
    ],
)  # fmt: skip
def test_what_the_provider_did_not_sign_for_this_sign_in_is_refused(
    provider: Provider, change: dict[str, Any], said: str
) -> None:
    for name, value in change.items():
        setattr(provider, name, value)

    refused(sign_in(), said)

    (line,) = lines("failed sign-in")
    assert line.who == "address:127.0.0.1"
    assert line.why.startswith("Example ID: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"broken": {"/keys": 500}}, "responded with status 500"),
        ({"broken": {"/keys": 302}}, "responded with status 302"),
        ({"user_info": []}, "not a JSON object"),
        ({"keys": ["x"]}, "does not follow OpenID Connect"),
        ({"keys": None}, "does not follow OpenID Connect"),
    ],
)
def test_a_provider_that_answers_nonsense_is_reported(provider: Provider, change: dict[str, Any], said: str) -> None:
    del provider.claims["groups"]
    for name, value in change.items():
        setattr(provider, name, value)

    refused(sign_in(), said, 502)


@pytest.mark.parametrize(
    ("discovery", "said"),
    [
        ({"issuer": "https://another.example"}, "of another issuer, https://another.example"),
        ({"authorization_endpoint": "http://provider.example/authorize"}, "authorization_endpoint of its discovery"),
        ({"token_endpoint": "ftp://127.0.0.1/"}, "token_endpoint of its discovery"),
        ({"jwks_uri": ""}, "jwks_uri of its discovery"),
    ],
)
def test_a_discovery_document_that_leads_astray_is_not_followed(
    provider: Provider, discovery: dict[str, str], said: str
) -> None:
    provider.discovery = discovery

    refused(Client().post("/sign-in/provider/"), said, 502)


def test_an_endpoint_may_have_a_query(provider: Provider) -> None:
    provider.discovery = {"authorization_endpoint": f"{provider.issuer}/authorize?p=staff"}

    assert "/authorize?p=staff&" in left(Client())
    assert sign_in().status_code == 302


def test_a_state_belongs_to_one_browser_and_is_used_once(provider: Provider) -> None:
    browser = Client()
    url = left(browser)
    refused(came_back(Client(), url), "has not started such a sign-in")

    answer = requests.get(url, allow_redirects=False, timeout=10)
    back = urlsplit(answer.headers["Location"])
    assert browser.get(f"{back.path}?{back.query}").status_code == 302
    again = Client().get(f"{back.path}?{back.query}")
    assert again.status_code == 403
    assert lines("failed sign-in") == []


def test_a_user_without_a_group_that_has_a_role_is_not_let_in(provider: Provider) -> None:
    provider.claims["groups"] = ["everyone"]

    refused(sign_in(), "None of your groups at Example ID has a role here")

    assert [line.name for line in lines("failed sign-in")] == ["grace"]


def test_the_role_follows_the_groups_at_each_sign_in(provider: Provider) -> None:
    browser = Client()
    for groups, role in ((["ops", "admins"], "administrator"), (["staff"], "viewer")):
        provider.claims["groups"] = groups
        assert sign_in(browser).status_code == 302
        assert role_of(User.objects.get()) == role

    provider.claims["groups"] = []
    assert sign_in(Client()).status_code == 403

    user = User.objects.get()
    assert (role_of(user), user.is_staff) == ("", False)
    assert not is_in(browser)  # the other session, too
    assert [line.what for line in AuditLine.objects.filter(what__startswith="role changed").order_by("pk")] == [
        "role changed from none to administrator",
        "role changed from administrator to viewer",
        "role changed from viewer to none",
    ]


def test_an_account_of_the_same_name_and_email_is_another_account(provider: Provider) -> None:
    local = User.objects.create_superuser("Grace", email="grace@example.org", password="a local password")
    provider.claims |= {"email": "grace@example.org", "email_verified": True, "groups": ["staff"]}

    assert sign_in().status_code == 302
    assert sign_in().status_code == 302

    other = User.objects.exclude(pk=local.pk).get()
    assert (other.username, other.is_superuser, role_of(other)) == ("grace-2", False, "viewer")
    local.refresh_from_db()
    assert local.check_password("a local password")


def test_the_same_id_at_another_provider_is_another_user(provider: Provider, settings: Settings) -> None:
    sign_in()
    with Provider(claims=provider.claims).running() as other:
        switch_on(settings, other)
        sign_in()

    assert sorted(User.objects.values_list("username", flat=True)) == ["grace", "grace-2"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Müller@example.org", "Muller@example.org"), ("\u0430dmin", "dmin"), ("\u0430\u0431", "user-"), ("", "user-"),
        ("a\0b\nc", "a-u0000b-c"), ("x" * 400, "x" * 120), (17, "user-"),
    ],
)  # fmt: skip
def test_names_look_like_what_they_are(provider: Provider, given: Any, name: str) -> None:
    provider.claims["preferred_username"] = given

    assert sign_in().status_code == 302

    assert User.objects.get().username.startswith(name)


def test_groups_may_be_in_the_user_information_or_nested(provider: Provider, settings: Settings) -> None:
    del provider.claims["groups"]
    provider.user_info = {"sub": "4711", "realm": {"roles": ["admins"]}, "preferred_username": "eve"}
    settings.OIDC_GROUPS_CLAIM = "realm.roles"

    assert sign_in().status_code == 302
    assert role_of(User.objects.get(username="grace")) == "administrator"

    provider.user_info["sub"] = "4712"
    assert "about another user" in sign_in().text


def test_a_deleted_role_is_made_again(provider: Provider) -> None:
    Group.objects.all().delete()

    assert sign_in().status_code == 302

    user = User.objects.get()
    assert role_of(user) == "operator"
    assert user.has_perm("dlqsite.replay")


def test_a_deactivated_user_is_not_let_in(provider: Provider) -> None:
    browser = Client()
    sign_in(browser)
    User.objects.update(is_active=False)

    assert not is_in(browser)
    assert "deactivated" in sign_in().text


def test_sessions_of_the_provider_end_when_it_is_switched_off(provider: Provider, settings: Settings) -> None:
    browser = Client()
    sign_in(browser)
    assert is_in(browser)

    settings.OIDC_ISSUER = ""

    assert not is_in(browser)


def test_without_the_provider_passwords_still_work(settings: Settings, redis_client: Any) -> None:
    with Provider().running() as gone:
        switch_on(settings, gone)
    User.objects.create_superuser("ada", password="right-password")

    page = Client().post("/sign-in/provider/")

    assert page.status_code == 502
    assert "Example ID is not available" in page.text
    assert "does not respond" in page.text
    right = {"username": "ada", "password": "right-password"}
    assert Client().post("/admin/login/", right).status_code == 302


def test_a_password_signs_in_only_superusers_if_local_sign_in_is_off(provider: Provider, settings: Settings) -> None:
    settings.LOCAL_SIGN_IN = False
    User.objects.create_superuser("root", password="right-password")
    local = member("viewer")
    local.set_password("right-password")
    local.save()

    assert "<details" in Client().get("/admin/login/").text
    root, viewer = (
        Client().post("/admin/login/", {"username": name, "password": "right-password"}) for name in ("root", "viewer")
    )

    assert root.status_code == 302
    assert (viewer.status_code, "viewer logs in with Example ID, not with a password" in viewer.text) == (200, True)
    assert [line.name for line in lines("failed sign-in")] == ["viewer"]


def test_a_user_of_the_provider_cannot_use_a_password(provider: Provider) -> None:
    sign_in()
    user = User.objects.get()
    user.set_password("right-password")
    user.save()

    answer = Client().post("/admin/login/", {"username": "grace", "password": "right-password"})

    assert "grace logs in with Example ID, not with a password" in answer.text


def test_a_user_of_the_provider_needs_no_second_factor_here(provider: Provider, settings: Settings) -> None:
    settings.REQUIRE_SECOND_FACTOR = True
    browser = Client()

    sign_in(browser)

    assert "a matter of Example ID" in browser.get("/admin/you/second-factor/").text


def test_going_to_the_provider_is_limited_by_address(provider: Provider) -> None:
    answers = [Client().post("/sign-in/provider/", {"next": "/admin/you/"}) for _ in range(limits.PER_MINUTE + 1)]

    assert [answer.status_code for answer in answers] == [200] * limits.PER_MINUTE + [429]
    # The page has the password form, which must not lead to the provider.
    form = answers[-1].text.partition('id="login-form"')
    assert form[0].endswith('<form action="/admin/login/" method="post" ')
    assert 'name="next" value="/admin/you/"' in form[2]


def test_waits_for_the_provider_leave_threads_for_others(provider: Provider) -> None:
    browser = Client()
    url = left(browser)
    taken = [limits._places_at_provider.acquire(blocking=False) for _ in range(limits.MAX_AT_PROVIDER)]
    try:
        assert all(taken)
        assert came_back(browser, url).status_code == 503
    finally:
        for _ in taken:
            limits._places_at_provider.release()


def test_an_answer_of_the_provider_that_nests_too_deeply_is_reported(provider: Provider) -> None:
    for _ in range(950):
        provider.keys = [provider.keys]

    answer = sign_in()

    assert answer.status_code == 502
    assert "does not follow OpenID Connect" in answer.text


def test_deleting_a_user_deletes_the_identity(provider: Provider) -> None:
    sign_in()
    root = signed_in(member("superuser"))

    root.post(f"/admin/auth/user/{User.objects.get(username='grace').pk}/delete/", {"post": "yes"})

    assert not SocialAccount.objects.exists()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, set()),
        ({"OIDC_ISSUER": "http://provider.example"}, {"dlqsite.E012"}),
        ({"OIDC_ISSUER": "https://user:pw@provider.example"}, {"dlqsite.E012"}),
        ({"OIDC_ISSUER": "https://provider.example?x=1"}, {"dlqsite.E012"}),
        ({"OIDC_ISSUER": "https://provider.example/" + "x" * 200}, {"dlqsite.E012"}),
        ({"OIDC_ISSUER": "provider"}, {"dlqsite.E012"}),
        ({"OIDC_CLIENT_ID": "", "OIDC_CLIENT_SECRET": ""}, {"dlqsite.E013"}),
        ({"OIDC_SCOPES": "profile"}, {"dlqsite.E013"}),
        ({"SIGN_IN_POLICY": {}}, {"dlqsite.W001"}),
        ({"SIGN_IN_POLICY": {"roles": {"root": ["x"]}}}, {"dlqsite.E011"}),
        ({"SIGN_IN_POLICY": {"roles": {"viewer": "staff"}}}, {"dlqsite.E011"}),
        ({"SIGN_IN_POLICY": {"session_hours": 25}}, {"dlqsite.E011"}),
        ({"SIGN_IN_POLICY_PROBLEM": "x.toml cannot be read"}, {"dlqsite.E011"}),
        ({"OIDC_ISSUER": "", "LOCAL_SIGN_IN": False}, {"dlqsite.E014"}),
    ],
)
def test_what_cannot_work_is_found_by_the_system_checks(
    settings: Settings, changes: dict[str, Any], found: set[str]
) -> None:
    switch_on(settings, Provider(issuer="https://provider.example"))
    for name, value in changes.items():
        setattr(settings, name, value)

    messages = checks.check_sign_in(None)

    assert {message.id for message in messages} == found
    assert all(message.hint for message in messages)
