"""Drafts of edited payloads: what a person typed is kept until it was replayed, discarded or has expired.

A draft is shown to its author only. It has the hidden values of the payload as ``•••``, but may have secrets that the
author typed, so it is encrypted with a key derived from ``SECRET_KEY``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from dlq_app.domain.import_readers import MAX_PAYLOAD
from dlq_app.domain.limits import MAX_REASON
from dlq_app.models import DRAFT_DAYS, EditDraft

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

log = logging.getLogger(__name__)

#: Maximum characters of a draft. Indented, a payload of the maximum size is longer than ``MAX_PAYLOAD``.
MAX_DRAFT = 4 * MAX_PAYLOAD
#: Drafts of one person; the oldest ones are deleted.
MAX_DRAFTS = 20


@dataclass(frozen=True, slots=True)
class Draft:
    """What a person typed into the form of one letter."""

    # Never in a text that a log may contain.
    payload: str = field(repr=False)
    reason: str = field(repr=False)
    saved_at: datetime


def save(request: HttpRequest, letter_id: str, payload: str, reason: str) -> bool:
    """Keep what the user typed; False if it is too long or the database does not store it.

    A later save of the same user and letter replaces it, also one from another tab.
    """
    if len(payload) > MAX_DRAFT:
        return False
    text = json.dumps({"payload": payload, "reason": reason[:MAX_REASON]})
    values = {"sealed": _ciphers().encrypt(text.encode()).decode(), "saved_at": timezone.now()}
    try:
        with transaction.atomic():
            EditDraft.objects.update_or_create(user_id=_user_id(request), letter_id=letter_id, defaults=values)
            mine = EditDraft.objects.filter(user_id=_user_id(request)).order_by("-saved_at", "-pk")
            EditDraft.objects.filter(pk__in=list(mine.values_list("pk", flat=True)[MAX_DRAFTS:])).delete()
    except DatabaseError as error:
        # Without its text, which may contain the draft.
        log.warning("draft_not_saved", extra={"letter_id": letter_id, "why": type(error).__name__})
        return False
    return True


def get(request: HttpRequest, letter_id: str) -> Draft | None:
    """The user's draft of this letter; None if there is none, it has expired, or ``SECRET_KEY`` has changed."""
    try:
        found = _mine(request, letter_id).filter(saved_at__gt=timezone.now() - DRAFT_DAYS).first()
    except DatabaseError as error:
        log.warning("draft_not_read", extra={"letter_id": letter_id, "why": type(error).__name__})
        return None
    if found is None:
        return None
    from cryptography.fernet import InvalidToken

    try:
        kept = json.loads(_ciphers().decrypt(found.sealed.encode()))
    except InvalidToken:
        return None
    return Draft(kept["payload"], kept["reason"], found.saved_at)


def discard(request: HttpRequest, letter_id: str) -> None:
    """Delete the user's draft of this letter, if any."""
    try:
        with transaction.atomic():
            _mine(request, letter_id).delete()
    except DatabaseError as error:
        log.warning("draft_not_deleted", extra={"letter_id": letter_id, "why": type(error).__name__})


def _mine(request: HttpRequest, letter_id: str) -> QuerySet[EditDraft]:
    return EditDraft.objects.filter(user_id=_user_id(request), letter_id=letter_id)


def _user_id(request: HttpRequest) -> int:
    return int(request.user.pk or 0)


def _ciphers() -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet  # 9 MB, for which most processes have no use

    keys: list[str] = [str(settings.SECRET_KEY), *map(str, settings.SECRET_KEY_FALLBACKS)]
    digests = (hashlib.sha256(f"dlq_app.admin.letters.drafts {key}".encode()).digest() for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])
