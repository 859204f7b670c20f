"""Print one dead letter, whole."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dlq_app import conf
from dlq_app.rest import contract
from dlq_app.store import repository
from management.terminal import printable
from wire.errors import ServiceError
from wire.visible_text import json_text


class Command(BaseCommand):
    help = "Print a dead letter as JSON, by message id or _id, with secrets masked."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="message id or _id")
        parser.add_argument("--why", action="store_true", help="print only the sentence that explains the failure")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            letter = repository.letters().find(options["id"])
        except ServiceError as error:
            raise CommandError(str(error)) from error
        if letter is None:
            raise CommandError(f"There is no dead letter {printable(options['id'])}.")
        found = contract.LETTER.write(letter, conf.masking_policy())
        if options["why"]:
            self.stdout.write(printable(found["explanation"]))
        else:
            self.stdout.write(json_text(found, indent=2))
