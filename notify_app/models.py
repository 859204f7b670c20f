"""Notifications and what the notifier has already seen, in Django's database.

Not in Redis or MongoDB: users must be notified when one of them fails. A notification and the mark that it came from
change in one transaction.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.utils import timezone

from notify_app.domain.events import WORDS


class State(models.TextChoices):
    """State of a notification. ``docs/notifications.md`` has the changes."""

    WAITING = "waiting", "Waiting"
    #: Quiet hours hold it back.
    HELD = "held", "Held"
    #: Claimed by a notifier.
    SENDING = "sending", "Sending"
    SENT = "sent", "Sent"
    #: Given up.
    FAILED = "failed", "Failed"
    #: The notifier was killed, or lost the connection, before it knew the result. It is not sent again automatically.
    UNCERTAIN = "uncertain", "Uncertain"
    #: Part of the summary after quiet hours.
    MERGED = "merged", "In a summary"
    #: A user decided not to send it again.
    DISMISSED = "dismissed", "Dismissed"


class Notification(models.Model):
    """One notification to one recipient."""

    #: The id that receivers of webhooks see: the same for every attempt.
    uid = models.UUIDField("id", default=uuid.uuid4, unique=True, editable=False)
    recipient = models.CharField(max_length=40)
    key = models.CharField(max_length=200)
    subject = models.CharField(max_length=200)
    event = models.CharField(max_length=32, choices=[(kind.value, words) for kind, words in WORDS.items()])
    severity = models.CharField(max_length=16)
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    page = models.CharField(max_length=300, blank=True)
    facts = models.JSONField(default=dict)
    count = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=12, choices=State.choices, default=State.WAITING)
    created_at = models.DateTimeField(default=timezone.now)
    #: Not sent before.
    due_at = models.DateTimeField(default=timezone.now)
    #: Tried until then.
    give_up_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    #: Who sends it, and until when.
    token = models.CharField(max_length=40, blank=True)
    lease_until = models.DateTimeField(null=True)
    error = models.TextField(blank=True)

    class Meta:
        default_permissions = ()
        verbose_name = "notification"
        verbose_name_plural = "notifications"
        constraints = [  # noqa: RUF012
            models.UniqueConstraint(fields=["recipient", "key"], name="notification_once"),
        ]
        indexes = [  # noqa: RUF012
            models.Index(fields=["recipient", "state", "due_at"], name="notification_due"),
            models.Index(fields=["recipient", "subject", "due_at"], name="notification_subject"),
            models.Index(fields=["created_at"], name="notification_created"),
        ]

    def __str__(self) -> str:
        return self.title


class Mark(models.Model):
    """What the notifier has seen of one source of events."""

    source = models.CharField(max_length=40, primary_key=True)
    value = models.JSONField(default=dict)
    #: Grows with each change: of several notifiers that saw the same events, one records them.
    version = models.PositiveBigIntegerField(default=0)

    class Meta:
        default_permissions = ()


class Total(models.Model):
    """How many notifications have reached a state since the installation; for counters."""

    state = models.CharField(max_length=12, primary_key=True)
    number = models.PositiveBigIntegerField(default=0)

    class Meta:
        default_permissions = ()
