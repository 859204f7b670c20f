"""Login limits besides the one per name: per address, and on concurrent password checks.

Checking a password uses a core for a third of a second. Without these limits an attacker could occupy the web server
and try one password on every name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from http import HTTPStatus
from typing import Final

from django.conf import settings
from django.core.signing import BadSignature, SignatureExpired
from django.http import HttpRequest, HttpResponseBase

from dlqsite import pages
from dlqsite.access import client_address
from messages_app.domain.records import RateLimit
from messages_app.store.throttles import count, retry_after_s

#: Maximum sign-in attempts in 60 s from one address by browsers without an earlier sign-in; and from one user's
#: browsers, which an attacker at the same address cannot block.
PER_MINUTE: Final = 20
#: Maximum concurrent sign-in requests of one process: one checks a password, the other waits.
MAX_CONCURRENT: Final = 2
#: Maximum threads of one process that wait for the identity provider. The others serve while it does not respond.
MAX_AT_PROVIDER: Final = 2
_COOKIE: Final = "signed_in_before"
_SALT: Final = "dlqsite.sign_in"
_REMEMBERED_S: Final = 180 * 24 * 3600

_places = threading.BoundedSemaphore(MAX_CONCURRENT)
_checks = threading.Lock()
_places_at_provider = threading.BoundedSemaphore(MAX_AT_PROVIDER)


def guarded(request: HttpRequest, sign_in: Callable[[], HttpResponseBase], *, who: str = "") -> HttpResponseBase:
    """The response of ``sign_in``, or the login page with 429 or 503 before a password is checked.

    ``who`` is a user whose password was accepted; without it, attempts count for the browser or its address. If Redis,
    which counts, does not respond, all attempts pass: the limit per name is in the database.
    """
    return _slowed_down(request, who) or _remembered(request, _in_a_place(request, _places, _checks, sign_in))


def guarded_at_provider(
    request: HttpRequest, sign_in: Callable[[], HttpResponseBase], *, counts: bool
) -> HttpResponseBase:
    """The same for ``sign_in`` that asks the identity provider. ``counts``: as an attempt of this address."""
    too_many = _slowed_down(request) if counts else None
    return too_many or _remembered(request, _in_a_place(request, _places_at_provider, nullcontext(), sign_in))


def _slowed_down(request: HttpRequest, who: str = "") -> HttpResponseBase | None:
    counted = count(RateLimit(client=f"sign-in:{who or _who(request)}", limit=PER_MINUTE))
    if counted is None or counted[0]:
        return None
    why = "Too many sign-in attempts from your address. Browsers that have signed in before are not affected."
    if who:
        why = "Too many codes of this user within a minute."
    return pages.sign_in_later(request, HTTPStatus.TOO_MANY_REQUESTS, retry_after_s(counted[1]), why)


def _in_a_place(
    request: HttpRequest,
    places: threading.BoundedSemaphore,
    checks: threading.Lock | nullcontext[None],
    sign_in: Callable[[], HttpResponseBase],
) -> HttpResponseBase:
    if not places.acquire(blocking=False):
        return pages.sign_in_later(
            request, HTTPStatus.SERVICE_UNAVAILABLE, 2, "Too many users are signing in right now."
        )
    try:
        with checks:
            return sign_in()
    finally:
        places.release()


def _who(request: HttpRequest) -> str:
    try:
        return f"user:{request.get_signed_cookie(_COOKIE, salt=_SALT, max_age=_REMEMBERED_S)}"
    except (KeyError, BadSignature, SignatureExpired):
        return f"address:{client_address(request)}"


def _remembered(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
    if not request.user.is_authenticated:
        return answer
    answer.set_signed_cookie(
        _COOKIE,
        str(request.user.pk),
        salt=_SALT,
        max_age=_REMEMBERED_S,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return answer
