"""From an accepted password to a session: the second factor comes between them.

A user is signed in only after the last step. Until then the session contains who gave a right password, and
``request.user`` is anonymous.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.middleware import get_user
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponseBase
from django.utils.crypto import constant_time_compare
from django.utils.functional import SimpleLazyObject

from dlqsite.sign_in import second_factor
from dlqsite.sign_in.backend import came_from_provider

#: Seconds from the password to the code. Setting up an app for the first time is included.
PATIENCE_S: Final = 900
_PENDING: Final = "pending_sign_in"
#: In a session: a second factor was used.
_USED: Final = "second_factor"
_LOCAL_BACKEND: Final = "django.contrib.auth.backends.ModelBackend"


class Step(StrEnum):
    """What is missing before a user with a password is signed in."""

    NOTHING = ""
    CODE = "code"
    SET_UP = "set_up"


@dataclass(frozen=True, slots=True)
class Pending:
    """A user who gave the right password."""

    user: User
    next_url: str


@dataclass(frozen=True, slots=True)
class _Stored:
    user: int
    #: Changes with the password.
    hash: str
    until: float
    next_url: str


def step_of(user: User) -> Step:
    """What this user must do after the password."""
    if second_factor.is_on(user):
        return Step.CODE
    return Step.SET_UP if settings.REQUIRE_SECOND_FACTOR else Step.NOTHING


def accept_password(request: HttpRequest, user: User, next_url: str) -> Step:
    """Sign the user in, or keep that the password was right and return the next step."""
    step = step_of(user)
    if step is Step.NOTHING:
        login(request, user, backend=_LOCAL_BACKEND)
        return step
    request.session.flush()  # of another user, or known to another user
    stored = _Stored(user.pk, user.get_session_auth_hash(), time.time() + PATIENCE_S, next_url)
    request.session[_PENDING] = asdict(stored)
    return step


def pending(request: HttpRequest) -> Pending | None:
    """Who gave the right password in this browser a moment ago; None after a change of password or a deactivation."""
    try:
        stored = _Stored(**request.session[_PENDING])
    except (KeyError, TypeError):
        return None
    user = User.objects.filter(pk=stored.user, is_active=True).first()
    if user is None or time.time() > stored.until:
        return None
    if not constant_time_compare(user.get_session_auth_hash(), stored.hash):
        return None
    return Pending(user, stored.next_url)


def accept_factor(request: HttpRequest, user: User) -> None:
    """Sign in the user, whose second factor was used."""
    del request.session[_PENDING]
    login(request, user, backend=_LOCAL_BACKEND)
    mark(request)


def mark(request: HttpRequest) -> None:
    """Record in the session of a user that the second factor was used."""
    request.session[_USED] = True


class CompleteSignIns:
    """Middleware: a session without the second factor that its user needs is anonymous everywhere.

    Such a session began before the user turned it on, or before ``REQUIRE_SECOND_FACTOR`` was set.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.user = SimpleLazyObject(lambda: _complete(request))  # type: ignore[assignment]
        return self.get_response(request)


def _complete(request: HttpRequest) -> User | AnonymousUser:
    user = get_user(request)
    if not isinstance(user, User) or request.session.get(_USED) or came_from_provider(request):
        return user
    return user if step_of(user) is Step.NOTHING else AnonymousUser()
