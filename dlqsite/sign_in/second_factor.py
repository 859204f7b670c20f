"""The second factor of a user with a password: an authenticator app (TOTP), and recovery codes.

django-allauth stores and computes them. Wrong and used codes are counted here, because the library counts them in the
cache of one process.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from allauth.core.internal.cryptokit import compare_user_code
from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal import auth as totp
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from audit_app.lines import record
from audit_app.models import AuditLine
from dlqsite.sign_in.library import UnreadableSecret

#: In the audit log. These lines are counted.
FAILED: Final = "wrong code of the second factor"
#: After this many wrong codes within ``WINDOW`` no code of the user is checked. One guess of six digits succeeds with a
#: probability of 3 in 1 000 000, and only a user who knows the password can guess.
MAX_FAILURES: Final = 10
WINDOW: Final = timedelta(hours=1)


class Used(StrEnum):
    """What was used to sign in."""

    APP = "authenticator app"
    RECOVERY_CODE = "recovery code"


class Locked(Exception):
    """Too many wrong codes. ``seconds``: until the next code is checked."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def is_on(user: User) -> bool:
    """Whether the user has a second factor."""
    return _stored(user).filter(type=Authenticator.Type.TOTP).exists()


def new_secret() -> str:
    """A secret for an authenticator app. Nothing is stored until a code of the app is shown to ``turn_on``."""
    return str(totp.generate_totp_secret())


def picture(user: User, secret: str) -> str:
    """The QR code for an authenticator app, as SVG."""
    adapter = get_adapter()
    return str(adapter.build_totp_svg(adapter.build_totp_url(user, secret)))


def turn_on(user: User, secret: str, code: str, *, who: str) -> list[str] | None:
    """Store the app's secret if ``code`` is one of its current codes; return the recovery codes, else None.

    Also None if the user has turned it on meanwhile.
    """
    step = _step_of(secret, code)
    if step is None:
        return None
    try:
        with transaction.atomic():
            app = totp.TOTP.activate(user, secret).instance
            _remember_step(app, step)
            _stored(user).filter(type=Authenticator.Type.RECOVERY_CODES).delete()
            codes = _list(RecoveryCodes.activate(user))
    except IntegrityError:
        return None
    _audit(who, "second factor turned on", user)
    return codes


def check(user: User, code: str, *, who: str) -> Used | None:
    """Use up ``code`` and return what it was; None for a wrong or used one, which is recorded as from ``who``.

    Raises ``Locked`` after too many wrong ones, and ``UnreadableSecret``. Concurrent checks of one user wait for each
    other, so a code is accepted once and every wrong one counts.
    """
    with transaction.atomic():
        rows = {row.type: row for row in _stored(user).select_for_update()}
        app = rows.get(Authenticator.Type.TOTP)
        if app is None:
            return None
        if seconds := _locked_for_s(user, rows.values()):
            raise Locked(seconds)
        step = _step_of(get_adapter().decrypt(app.data["secret"]), code)
        if step is not None and step > app.data.get("last_step", 0):
            _remember_step(app, step)
            return Used.APP
        codes = rows.get(Authenticator.Type.RECOVERY_CODES)
        if codes is not None and (checked := RecoveryCodes(codes)).validate_code(code):
            checked.instance.record_usage()
            return Used.RECOVERY_CODE
        record(who, FAILED, kind="user", object_id=str(user.pk), name=user.get_username(), must=True)
        return None


def recovery_codes_left(user: User) -> int:
    """Number of unused recovery codes. Raises ``UnreadableSecret``."""
    found = _stored(user).filter(type=Authenticator.Type.RECOVERY_CODES).first()
    return len(RecoveryCodes(found).get_unused_codes()) if found else 0


def new_recovery_codes(user: User, *, who: str) -> list[str]:
    """Replace all recovery codes."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        _stored(user).filter(type=Authenticator.Type.RECOVERY_CODES).delete()
        codes = _list(RecoveryCodes.activate(user))
    _audit(who, "new recovery codes made", user)
    return codes


def turn_off(user: User, *, who: str, what: str = "second factor turned off") -> bool:
    """Delete the user's second factor and recovery codes. Return whether there was one."""
    deleted, _ = _stored(user).delete()
    if deleted:
        _audit(who, what, user)
    return bool(deleted)


def reset(user: User, *, who: str) -> bool:
    """Turn it off and end the user's sessions: a lost phone or computer may be signed in."""
    was_on = turn_off(user, who=who, what="second factor reset")
    for session in Session.objects.filter(expire_date__gte=timezone.now()).iterator():
        if session.get_decoded().get("_auth_user_id") == str(user.pk):
            session.delete()
    return was_on


def unreadable() -> list[User]:
    """Users whose secret was encrypted with another ``SECRET_KEY``: none of their codes is accepted."""
    rows = Authenticator.objects.filter(type=Authenticator.Type.TOTP).select_related("user").order_by("user__username")
    return [row.user for row in rows if not _is_readable(row)]


def _is_readable(row: Authenticator) -> bool:
    try:
        get_adapter().decrypt(row.data["secret"])
    except UnreadableSecret:
        return False
    return True


def _stored(user: User) -> QuerySet[Any]:
    found: QuerySet[Any] = Authenticator.objects.filter(user_id=user.pk)
    return found


def _list(codes: RecoveryCodes) -> list[str]:
    return [str(code) for code in codes.get_unused_codes()]


def _step_of(secret: str, code: str) -> int | None:
    """The 30 s step of the current time to which the code belongs."""
    for step in totp.yield_hotp_counters_from_time():
        if compare_user_code(actual=code, expected=totp.format_hotp_value(totp.hotp_value(secret, step))):
            return int(step)
    return None


def _remember_step(app: Authenticator, step: int) -> None:
    app.data["last_step"] = step
    app.last_used_at = timezone.now()
    app.save(update_fields=["data", "last_used_at"])


def _locked_for_s(user: User, rows: Any) -> int:
    """Seconds until a code is checked again. Wrong codes before the last right one do not count."""
    now = timezone.now()
    since: datetime = max([now - WINDOW, *(moment for row in rows if (moment := row.last_used_at))])
    wrong = AuditLine.objects.filter(kind="user", object_id=str(user.pk), what=FAILED, at__gt=since)
    last = wrong.order_by("-at").values_list("at", flat=True)[MAX_FAILURES - 1 : MAX_FAILURES].first()
    return 0 if last is None else max(1, math.ceil((last + WINDOW - now).total_seconds()))


def _audit(who: str, what: str, user: User) -> None:
    record(who, what, kind="user", object_id=str(user.pk), name=user.get_username())
