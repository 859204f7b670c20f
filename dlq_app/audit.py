"""Django's audit log, for what staff do over REST. What keys do stands in the letter's own history only."""

from __future__ import annotations

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from rest_framework.request import Request

from dlq_app import conf
from dlq_app.masking import mask_text
from dlq_app.models import DeadLetter, LetterGroup, ReplayBatch


def log_batch(request: Request, batch_id: str, name: str, what: str, why: str) -> None:
    """Add one line about a replay batch, however many letters it has, if staff sent the request."""
    _log(request, ReplayBatch, batch_id, name or batch_id, what, why)


def log_group(request: Request, fingerprint: str, title: str, what: str, why: str) -> None:
    """Add a line about the group if staff sent the request."""
    _log(request, LetterGroup, fingerprint, title, what, why)


def log_about(request: Request, model: type[Model], object_id: str, name: str, what: str, why: str) -> None:
    """Add a line about something else, which ``model`` says, if staff sent the request."""
    _log(request, model, object_id, name, what, why)


def log(request: Request, letter_id: str, message_id: str, what: str, why: str) -> None:
    """Add a line about the letter if a signed-in member of staff sent the request."""
    _log(request, DeadLetter, letter_id, message_id, what, why)


def _log(request: Request, model: type[Model], object_id: str, name: str, what: str, why: str) -> None:
    user = request.user
    if request.auth is not None or not getattr(user, "is_staff", False):
        return
    LogEntry.objects.create(
        user_id=user.pk,  # type: ignore[misc]
        content_type=ContentType.objects.get_for_model(model),
        object_id=object_id,
        object_repr=mask_text(name, conf.masking_policy())[:200],
        action_flag=CHANGE,
        change_message=mask_text(f"{what}: {why}" if why else what, conf.masking_policy()),
    )
