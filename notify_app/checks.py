"""System checks of notifications."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register

from notify_app import conf
from wire.errors import PolicyError


@register("notify_app")
def check_notify_policy(**_: Any) -> Iterable[CheckMessage]:
    """E001: the policy is invalid. W001: a variable that it names is missing or malformed.

    W002: without CONSOLE_URL notifications have no link. E002: CONSOLE_URL is malformed.
    """
    if wrong := conf.console_url_problem():
        yield Error(
            wrong, hint="Set it to the console's address, such as https://dlq.example.org.", id="notify_app.E002"
        )
    from notify_app.senders.addresses import problems  # most processes do not run this check

    try:
        policy = conf.policy()
    except PolicyError as error:
        yield Error(
            str(error), hint="Correct the file; its keys are explained in docs/notifications.md.", id="notify_app.E001"
        )
        return
    # Warnings: only the notifier needs the addresses, and it does not start without them.
    for recipient in policy.recipients.values():
        for wrong in problems(recipient):
            yield Warning(
                wrong, hint="Set it where the notifier runs: it does not start without it.", id="notify_app.W001"
            )
    if policy.recipients and not conf.console_url():
        yield Warning(
            "CONSOLE_URL is not set: notifications have no link.",
            hint="Set it to the console's address, such as https://dlq.example.org.",
            id="notify_app.W002",
        )
