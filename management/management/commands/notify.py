"""List recipients and notifications, or try a recipient."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from management.terminal import StrictCommand, printable
from messages_app.store import presence
from notify_app import conf, services
from notify_app.domain.policy import NotifyPolicy, Recipient
from notify_app.models import Notification, State
from notify_app.senders.addresses import problems
from wire.errors import PolicyError, StoreUnavailable
from wire.instants import iso

#: Notifications that the list shows.
SHOWN = 20


class Command(StrictCommand):
    help = (
        "Show the recipients and the newest notifications, or send a sample to a recipient. Exit 1 if the sample did "
        "not arrive, or the policy or an address cannot be used."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; this command says it better

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--list", action="store_true", help="show recipients and notifications")
        what.add_argument("--test", metavar="RECIPIENT", help="send a sample to this recipient now")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            policy = conf.policy()
            if options["list"]:
                self._list(policy)
            else:
                self._test(policy, options["test"])
        except PolicyError as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError("The database does not answer. Start it, or set DATABASE_URL.") from error

    def _test(self, policy: NotifyPolicy, name: str) -> None:
        recipient = policy.recipients.get(name)
        if recipient is None:
            known = ", ".join(policy.recipients) or "none"
            raise CommandError(f"{policy.file} has no recipient {printable(name)}; known are {known}.")
        if wrong := problems(recipient):
            raise CommandError(" ".join(wrong))
        result = services.send_sample(recipient)
        if result.state is State.SENT:
            self.stdout.write(f"{name} accepted the sample. Check that it arrived.")
            return
        outcome = "may not have arrived" if result.state is State.UNCERTAIN else "was not accepted"
        raise CommandError(f"The sample {outcome}. {printable(result.error)}")

    def _list(self, policy: NotifyPolicy) -> None:
        if not policy.recipients:
            self.stdout.write(f"{policy.file} has no recipients: nothing is sent.")
        for recipient in policy.recipients.values():
            self.stdout.write(_line(recipient, policy))
            for wrong in problems(recipient):
                self.stdout.write(f"  {wrong}")
        try:
            self.stdout.write(f"{len(presence.present('notifier'))} notifier(s) alive.")
        except StoreUnavailable:
            self.stdout.write("Redis does not answer: notifiers are not known.")
        found = services.figures()
        self.stdout.write(f"{found.waiting} waiting, {found.failed} failed, {found.uncertain} uncertain.")
        for notification in services.newest(SHOWN):
            self.stdout.write(_shown(notification))


def _line(recipient: Recipient, policy: NotifyPolicy) -> str:
    quiet = recipient.quiet
    hours = f"; quiet {quiet.begin:%H:%M} to {quiet.end:%H:%M} {quiet.zone}" if quiet else ""
    digest = "; digest" if recipient.name in policy.digest.recipients else ""
    return f"{recipient.name}: {recipient.channel} by {recipient.url_env}; {', '.join(recipient.events)}{hours}{digest}"


def _shown(one: Notification) -> str:
    error = f"  {printable(one.error)}" if one.error and one.state != State.SENT else ""
    return f"{iso(one.created_at)}  {one.state:<9}  {one.recipient}  {printable(one.title)}{error}"
