"""Pages of the second factor: before a user is signed in, and of a signed-in user."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Any, Final

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from audit_app.lines import record
from dlqsite.access import client_address
from dlqsite.sign_in import complete, limits, second_factor
from dlqsite.sign_in.backend import came_from_provider
from dlqsite.sign_in.complete import Pending, Step
from dlqsite.sign_in.library import UnreadableSecret

WRONG_CODE: Final = "Wrong code, or it was used before. Wait for the next one."
NO_CHANGE: Final = "Choose one of the two buttons: new recovery codes, or turn it off."
_CHANGES: Final = frozenset({"new_codes", "turn_off"})
UNREADABLE: Final = (
    "Your second factor cannot be checked: it was stored with another SECRET_KEY. Ask for the command "
    "manage.py reset_second_factor on the server."
)
#: In a session: the secret shown as a QR code, until a code of the app confirms it.
_APP_KEY: Final = "new_second_factor"
_MAX_CODE: Final = 40


def after_password(request: HttpRequest, user: User, next_url: str) -> HttpResponseBase:
    """Sign in the user, or ask for the second factor."""
    step = complete.accept_password(request, user, next_url)
    if step is Step.NOTHING:
        return HttpResponseRedirect(next_url)
    return HttpResponseRedirect(
        reverse("admin:second_factor_code" if step is Step.CODE else "admin:second_factor_set_up")
    )


# --- the second factor, before the user is signed in ---


@never_cache
@sensitive_post_parameters("code")
def code(request: HttpRequest) -> HttpResponseBase:
    """Ask for a code after the password."""
    pending = complete.pending(request)
    if pending is None or complete.step_of(pending.user) is not Step.CODE:
        return _to_login()
    if request.method != "POST":
        return _code_page(request, pending)

    def check() -> HttpResponseBase:
        who = f"address:{client_address(request)}"
        try:
            used = second_factor.check(pending.user, _given(request), who=who)
        except second_factor.Locked as error:
            return _code_page(request, pending, _locked(error), HTTPStatus.TOO_MANY_REQUESTS)
        except UnreadableSecret:
            return _code_page(request, pending, UNREADABLE)
        if used is None:
            return _code_page(request, pending, WRONG_CODE)
        complete.accept_factor(request, pending.user)
        if used is second_factor.Used.RECOVERY_CODE:
            name = pending.user.get_username()
            record(f"user:{name}", "recovery code used", kind="user", object_id=str(pending.user.pk), name=name)
        return HttpResponseRedirect(pending.next_url)

    return limits.guarded(request, check, who=f"code:{pending.user.pk}")


@never_cache
@sensitive_post_parameters("code")
def set_up(request: HttpRequest) -> HttpResponseBase:
    """Set up the second factor at the first sign-in after it became required."""
    pending = complete.pending(request)
    if pending is None or complete.step_of(pending.user) is not Step.SET_UP:
        return _to_login()
    if request.method != "POST":
        return _set_up_page(request, pending)

    def turn_on() -> HttpResponseBase:
        codes = _turned_on(request, pending.user)
        if codes is None:
            return _set_up_page(request, pending, WRONG_CODE)
        complete.accept_factor(request, pending.user)
        return _codes_page(request, codes, pending.next_url)

    return limits.guarded(request, turn_on, who=f"code:{pending.user.pk}")


def _code_page(
    request: HttpRequest, pending: Pending, wrong: str = "", status: int = HTTPStatus.OK
) -> HttpResponseBase:
    context = {**admin.site.each_context(request), "name": pending.user.get_username(), "wrong": wrong}
    return TemplateResponse(request, "admin/sign_in_code.html", context, status=status)


def _set_up_page(request: HttpRequest, pending: Pending, wrong: str = "") -> HttpResponseBase:
    context = {**admin.site.each_context(request), **_app(request, pending.user), "wrong": wrong}
    return TemplateResponse(request, "admin/sign_in_set_up.html", context)


def _to_login() -> HttpResponseBase:
    return HttpResponseRedirect(reverse("admin:login"))


# --- the second factor of a signed-in user ---


@sensitive_post_parameters("code", "password")
def account(request: HttpRequest) -> HttpResponseBase:
    """Turn the second factor on or off, or make new recovery codes."""
    user = request.user
    assert isinstance(user, User)  # noqa: S101  # only staff gets here
    if came_from_provider(request) or not user.has_usable_password():
        return _account_page(request, user, {"is_elsewhere": True, "provider": settings.OIDC_NAME})
    if request.method != "POST":
        return _own_factor_page(request, user)
    change = _change if second_factor.is_on(user) else _begin
    return limits.guarded(request, lambda: change(request, user), who=f"code:{user.pk}")


def _begin(request: HttpRequest, user: User) -> HttpResponseBase:
    """The password is asked for again: a session left open must not lock its user out."""
    if authenticate(request, username=user.get_username(), password=request.POST.get("password", "")) is None:
        return _own_factor_page(request, user, "Wrong password.")
    codes = _turned_on(request, user)
    if codes is None:
        return _own_factor_page(request, user, WRONG_CODE)
    complete.mark(request)
    return _codes_page(request, codes, reverse("admin:second_factor"))


def _change(request: HttpRequest, user: User) -> HttpResponseBase:
    action = request.POST.get("action")
    if action not in _CHANGES:  # before a code is used up
        return _own_factor_page(request, user, NO_CHANGE, HTTPStatus.BAD_REQUEST)
    who = f"user:{user.get_username()}"
    try:
        used = second_factor.check(user, _given(request), who=who)
    except second_factor.Locked as error:
        return _own_factor_page(request, user, _locked(error), HTTPStatus.TOO_MANY_REQUESTS)
    except UnreadableSecret:
        return _own_factor_page(request, user, UNREADABLE)
    if used is None:
        return _own_factor_page(request, user, WRONG_CODE)
    if action == "new_codes":
        return _codes_page(request, second_factor.new_recovery_codes(user, who=who), reverse("admin:second_factor"))
    # If it is required, this user sets up another app now, or at the next login.
    second_factor.turn_off(user, who=who)
    return HttpResponseRedirect(reverse("admin:second_factor"))


def _own_factor_page(
    request: HttpRequest, user: User, wrong: str = "", status: int = HTTPStatus.OK
) -> HttpResponseBase:
    context: dict[str, Any] = {
        "wrong": wrong,
        "is_on": second_factor.is_on(user),
        "is_required": settings.REQUIRE_SECOND_FACTOR,
    }
    if not context["is_on"]:
        context |= _app(request, user)
    else:
        try:
            context["codes_left"] = second_factor.recovery_codes_left(user)
        except UnreadableSecret:
            context |= {"wrong": wrong or UNREADABLE, "codes_left": 0}
    return _account_page(request, user, context, status)


def _account_page(
    request: HttpRequest, user: User, context: dict[str, Any], status: int = HTTPStatus.OK
) -> HttpResponseBase:
    frame = {**admin.site.each_context(request), "title": "Second factor", "name": user.get_username()}
    return TemplateResponse(request, "dlqsite/second_factor.html", {**frame, **context}, status=status)


# --- shared ---


def _given(request: HttpRequest) -> str:
    return request.POST.get("code", "")[:_MAX_CODE]


def _app(request: HttpRequest, user: User) -> dict[str, str]:
    """QR code and secret for the app, the same until a code confirms it."""
    secret = request.session.get(_APP_KEY)
    if secret is None:
        secret = request.session[_APP_KEY] = second_factor.new_secret()
    picture = base64.b64encode(second_factor.picture(user, secret).encode()).decode()
    spaced = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return {"picture": f"data:image/svg+xml;base64,{picture}", "secret": spaced}


def _turned_on(request: HttpRequest, user: User) -> list[str] | None:
    """Recovery codes, once a code of the app has confirmed the secret; else None."""
    secret = request.session.get(_APP_KEY, "")
    codes = second_factor.turn_on(user, secret, _given(request), who=f"user:{user.get_username()}") if secret else None
    if codes is not None:
        request.session.pop(_APP_KEY, None)
    return codes


def _codes_page(request: HttpRequest, codes: list[str], next_url: str) -> HttpResponse:
    context = {"title": "Recovery codes", "codes": codes, "next": next_url}
    return TemplateResponse(request, "dlqsite/recovery_codes.html", {**admin.site.each_context(request), **context})


def _locked(error: second_factor.Locked) -> str:
    minutes = -(-error.seconds // 60)
    return (
        f"Too many wrong codes. The next one is checked in {minutes} {'minute' if minutes == 1 else 'minutes'}. "
        "If it was not you, your password is known to others: change it."
    )
