"""The account of a user of the identity provider, found by issuer and subject only."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from audit_app.lines import record
from dlqsite import roles
from dlqsite.roles import ROLES
from dlqsite.sign_in.policy import issuer, sign_in_policy
from dlqsite.sign_in.provider import Identity, Refused

#: Tries to create an account while others create one with the same name or for the same user.
_TRIES = 5


def account_of(identity: Identity, *, who: str) -> User:
    """The user's account, with the role of the user's groups; it is created at the first sign-in.

    ``who`` is the client in the audit log. Raises ``Refused`` without a role, or if the account is deactivated. A user
    without a role loses the one of the last sign-in, also in other sessions. Concurrent calls are safe.
    """
    role = sign_in_policy().role_of(identity.groups)
    with transaction.atomic():
        user = _known(identity)
        if user is not None and user.is_active:
            _update(user, identity, role)
    if user is None and role:
        user = _created(identity, role)
    if user is None or not role:
        _refused(who, user, identity, "no group with a role")
        raise Refused(
            f"None of your groups at {settings.OIDC_NAME} has a role here. Ask its administrators to add you to one."
        )
    if not user.is_active:
        _refused(who, user, identity, "deactivated")
        raise Refused("Your account in this system is deactivated. A superuser can activate it.")
    return user


def belongs_to_provider(user: User) -> bool:
    """Whether the user signs in at the configured provider, and so not with a password."""
    return bool(SocialAccount.objects.filter(user_id=user.pk, provider=issuer()).exists())


def _known(identity: Identity) -> User | None:
    found = SocialAccount.objects.filter(provider=identity.issuer, uid=identity.subject).first()
    return User.objects.select_for_update().get(pk=found.user_id) if found else None


def _created(identity: Identity, role: str) -> User:
    for attempt in range(_TRIES):
        try:
            with transaction.atomic():
                if user := _known(identity):
                    return user
                user = User(username=_free_name(identity), is_staff=True)
                user.set_unusable_password()
                user.save()
                SocialAccount.objects.create(user=user, provider=identity.issuer, uid=identity.subject)
                why = f"first sign-in with {settings.OIDC_NAME}"
                _audit(f"user:{user.username}", "user made", user, why)
                _update(user, identity, role)
                return user
        except IntegrityError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError


def _update(user: User, identity: Identity, role: str) -> None:
    """Set role and details as at the provider. Groups that are not roles, and superuser status, stay."""
    user.is_staff = bool(role)
    user.email = identity.email if _is_email(identity.email) else ""
    user.first_name, user.last_name = identity.first_name, identity.last_name
    user.save(update_fields=["is_staff", "email", "first_name", "last_name"])
    held = set(user.groups.filter(name__in=ROLES).values_list("name", flat=True))
    if held == {role} - {""}:
        return
    user.groups.remove(*Group.objects.filter(name__in=held - {role}))
    if role:
        if not Group.objects.filter(name=role).exists():  # a superuser has deleted it
            roles.ensure(Group.objects, Permission.objects)
        user.groups.add(Group.objects.get(name=role))
    before, after = ", ".join(sorted(held)) or "none", role or "none"
    why = f"groups at {settings.OIDC_NAME}"
    _audit(f"user:{user.username}", f"role changed from {before} to {after}", user, why)


def _free_name(identity: Identity) -> str:
    """A name of ASCII characters that no account has, in any case of letters.

    Others would allow a name that looks like another user's in the audit log.
    """
    plain = unicodedata.normalize("NFKD", identity.username).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9.@+_-]+", "-", plain).strip("-")[:120]
    if not re.search("[A-Za-z0-9]", name):
        name = f"user-{hashlib.sha256(f'{identity.issuer} {identity.subject}'.encode()).hexdigest()[:12]}"
    taken = {
        found.lower() for found in User.objects.filter(username__istartswith=name).values_list("username", flat=True)
    }
    number = 1
    while (free := name if number == 1 else f"{name}-{number}").lower() in taken:
        number += 1
    return free


def _is_email(text: str) -> bool:
    try:
        validate_email(text)
    except ValidationError:
        return False
    return True


def _refused(who: str, user: User | None, identity: Identity, why: str) -> None:
    name = user.username if user else identity.username
    object_id = str(user.pk) if user else ""
    record(who, "failed sign-in", kind="user", object_id=object_id, name=name, why=f"{settings.OIDC_NAME}: {why}")


def _audit(who: str, what: str, user: User, why: str) -> None:
    record(who, what, kind="user", object_id=str(user.pk), name=user.username, why=why)
