"""Operations on notifications for the console, commands, health and metrics."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from notify_app import conf
from notify_app.domain.events import Kind, Severity
from notify_app.domain.policy import Recipient
from notify_app.domain.wording import Content
from notify_app.models import Notification
from notify_app.senders import sending
from notify_app.store import outbox
from notify_app.store.outbox import OutboxFigures, Result
from wire.instants import iso


def figures() -> OutboxFigures:
    """Counts of notifications. Costs a few indexed queries. Raises Django's ``DatabaseError``."""
    return outbox.figures(datetime.now(UTC))


def newest(limit: int) -> list[Notification]:
    """The newest notifications, newest first."""
    return list(Notification.objects.order_by("-created_at", "-pk")[:limit])


def retry(ids: Sequence[int]) -> int:
    """Send failed and uncertain notifications again; return their number. An uncertain one may then arrive twice."""
    return outbox.retry(ids, conf.policy().limits, datetime.now(UTC))


def dismiss(ids: Sequence[int]) -> int:
    """End failed and uncertain notifications without sending them; return their number."""
    return outbox.dismiss(ids)


def send_sample(recipient: Recipient) -> Result:
    """Send a sample to the recipient now, whatever its filters and quiet hours are. It is not recorded."""
    content = Content(
        id=f"ntf_{uuid.uuid4().hex}",
        kind=Kind.TEST.value,
        severity=Severity.INFO.value,
        title="Sample notification of the dead-letter queue",
        text="If you can read this, notifications arrive here. No action is needed.",
        link=conf.link(""),
        at=iso(datetime.now(UTC)),
    )
    return sending.send(recipient, content)
