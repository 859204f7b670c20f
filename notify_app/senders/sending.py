"""Send a notification to its recipient, by the channel that the policy names."""

from __future__ import annotations

from messages_app.domain.signing import SecretRefused
from notify_app import conf
from notify_app.domain.policy import WEBHOOK, Recipient
from notify_app.domain.wording import Content
from notify_app.models import Notification
from notify_app.senders import by_apprise, by_webhook
from notify_app.store.outbox import Result, refused
from wire.instants import iso


def content_of(notification: Notification) -> Content:
    """What is sent."""
    return Content(
        id=f"ntf_{notification.uid.hex}",
        kind=notification.event,
        severity=notification.severity,
        title=notification.title,
        text=notification.text,
        link=conf.link(notification.page),
        count=notification.count,
        facts=notification.facts,
        at=iso(notification.created_at),
    )


def send(recipient: Recipient, content: Content) -> Result:
    """Send once and return the result. Raises nothing that depends on the receiver."""
    url = conf.address(recipient)
    if not url:
        return refused(f"The environment variable {recipient.url_env} is not set.")
    if recipient.channel != WEBHOOK:
        return by_apprise.send(url, content)
    try:
        keys = conf.signing_keys(recipient)
    except SecretRefused as error:
        return refused(f"A signing secret {error}.")
    return by_webhook.send(url, keys, content)


def is_repeatable(recipient: Recipient) -> bool:
    """Whether the receiver recognises a repetition."""
    return recipient.channel == WEBHOOK
