"""Limits on signing in, beside the one for each name: per address, and on how many passwords are checked at once.

Checking a password takes a core for a third of a second. Without these limits whoever posts passwords occupies the web
server, and tries one password on every name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from django.conf import settings
from django.core.signing import BadSignature, SignatureExpired
from django.http import HttpRequest, HttpResponseBase

from dlqsite import pages
from dlqsite.access import client_address
from messages_app.domain.records import RateLimit
from messages_app.store.throttles import count, retry_after_s

#: Sign-ins tried in any 60 s from one address by browsers in which nobody has signed in before; and from one user's
#: browsers, which an attacker at the same address does not slow down.
PER_MINUTE: Final = 20
#: Requests of one process that may be signing in. One of them checks a password, the other waits for it.
AT_ONCE: Final = 2
_COOKIE: Final = "signed_in_before"
_SALT: Final = "dlqsite.sign_in"
_REMEMBERED_S: Final = 180 * 24 * 3600

_places = threading.BoundedSemaphore(AT_ONCE)
_checks = threading.Lock()


def guarded(request: HttpRequest, sign_in: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    """The answer of ``sign_in``, or the login page with 429 or 503 before any password was checked.

    Lets everybody pass when Redis, which counts, does not answer: the limit for each name is in the database.
    """
    counted = count(RateLimit(client=f"sign-in:{_who(request)}", limit=PER_MINUTE))
    if counted is not None and not counted[0]:
        return pages.sign_in_later(
            request,
            HTTPStatus.TOO_MANY_REQUESTS,
            retry_after_s(counted[1]),
            "Too many sign-ins were tried from your address. Browsers in which somebody has signed in before are not "
            "affected.",
        )
    if not _places.acquire(blocking=False):
        return pages.sign_in_later(
            request, HTTPStatus.SERVICE_UNAVAILABLE, 2, "Too many people are signing in at this moment."
        )
    try:
        with _checks:
            answer = sign_in()
    finally:
        _places.release()
    if request.user.is_authenticated:
        _remember(request, answer)
    return answer


def _who(request: HttpRequest) -> str:
    try:
        return f"user:{request.get_signed_cookie(_COOKIE, salt=_SALT, max_age=_REMEMBERED_S)}"
    except (KeyError, BadSignature, SignatureExpired):
        return f"address:{client_address(request)}"


def _remember(request: HttpRequest, answer: HttpResponseBase) -> None:
    answer.set_signed_cookie(
        _COOKIE,
        str(request.user.pk),
        salt=_SALT,
        max_age=_REMEMBERED_S,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
