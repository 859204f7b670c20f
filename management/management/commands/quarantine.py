"""Look at outcomes that MongoDB could not take, and send them there again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit_app.lines import record
from management.terminal import actor, printable
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Quarantined
from messages_app.store.ledger import Ledger, ledger


class Command(BaseCommand):
    help = (
        "Outcomes that MongoDB refused to store wait in quarantine, their messages unharmed in Redis. `list` shows "
        "them with the reason; `release ID…` or `release --all` sends them to MongoDB again once the reason is gone."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="show what is set aside, oldest first")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        release = verbs.add_parser("release", help="put outcomes back on their way to MongoDB")
        release.add_argument("ids", nargs="*", metavar="ID", help="message ids")
        release.add_argument("--all", action="store_true", help="all of them")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["verb"] == "list":
                self._list(ledger().quarantined(), as_json=options["json"])
            else:
                self._release(ledger(), options["ids"], every=options["all"])
        except StoreUnavailable as error:
            raise CommandError(str(error)) from error

    def _list(self, found: list[Quarantined], *, as_json: bool) -> None:
        for entry in found:
            at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="seconds")
            if as_json:
                self.stdout.write(json.dumps({"messageId": entry.message_id, "at": at, "why": entry.why}))
            else:
                self.stdout.write(f"{at}  {printable(entry.message_id)}  {printable(entry.why)}")
        if not found and not as_json:
            self.stdout.write("The quarantine is empty.")

    def _release(self, book: Ledger, ids: list[str], *, every: bool) -> None:
        if every == bool(ids):
            raise CommandError("Name the message ids to release, or say --all.")
        wanted = [entry.message_id for entry in book.quarantined()] if every else ids
        unknown = [message_id for message_id in wanted if not book.release_quarantined(message_id)]
        released = [message_id for message_id in wanted if message_id not in unknown]
        if released:
            record(actor(), "quarantine release", kind="message", name=" ".join(released), count=len(released))
        self.stdout.write(f"{len(released)} released.")
        if unknown:
            raise CommandError(f"Not in quarantine: {', '.join(unknown)}.")
