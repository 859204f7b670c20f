"""Remove the second factor of a user who lost it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import CommandError

from dlqsite.sign_in import second_factor
from management.terminal import StrictCommand, actor, printable


class Command(StrictCommand):
    help = (
        "Remove the second factor and the recovery codes of users who lost them, and end their sessions. They log in "
        "with their password and can set it up again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("users", nargs="*", metavar="USER", help="Name of the user")
        parser.add_argument(
            "--unreadable",
            action="store_true",
            help="All users whose second factor was stored with another SECRET_KEY",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        users = [self._user(name) for name in options["users"]]
        if options["unreadable"]:
            users += second_factor.unreadable()
        elif not users:
            raise CommandError("Name at least one USER, or use --unreadable.")
        for user in users:
            had_one = second_factor.reset(user, who=actor())
            what = "second factor removed" if had_one else "had no second factor"
            self.stdout.write(f"{printable(user.get_username())}: {what}, sessions ended")
        if users and settings.REQUIRE_SECOND_FACTOR:
            self.stderr.write("REQUIRE_SECOND_FACTOR is on: at the next login each of them sets up a new one.")

    def _user(self, name: str) -> User:
        user = User.objects.filter(username=name).first()
        if user is None:
            raise CommandError(f"There is no user {printable(name)!r}.")
        return user
