"""List what the stores have forgotten, and acknowledge it."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from dlq_app.domain.loss import Loss
from management.terminal import StrictCommand, actor, printable
from messages_app.rest.contract import LOSS
from messages_app.work import store_losses
from wire.errors import ServiceError


class Command(StrictCommand):
    help = (
        "Show and acknowledge losses: times at which Redis or MongoDB fell back to an earlier state or was emptied. "
        "Health is degraded until each loss is acknowledged. Exit 1 when a store does not answer."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listing = verbs.add_parser("list", help="show every loss, newest first")
        listing.add_argument("--open", action="store_true", help="only those that are not acknowledged")
        listing.add_argument("--json", action="store_true", help="one JSON object a line")
        known = verbs.add_parser("acknowledge", help="acknowledge losses")
        known.add_argument("ids", nargs="*", metavar="ID", help="as `list` shows them")
        known.add_argument("--all", action="store_true", help="all that are not acknowledged")
        known.add_argument("--reason", required=True, help="what happened; kept with the loss")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["verb"] == "list":
                self._list(only_open=options["open"], as_json=options["json"])
            else:
                self._acknowledge(options["ids"], options["reason"], every=options["all"])
        except ServiceError as error:
            raise CommandError(str(error)) from error

    def _list(self, *, only_open: bool, as_json: bool) -> None:
        found = [loss for loss in store_losses.all_losses() if not (only_open and loss.acknowledged_at)]
        for loss in found:
            self.stdout.write(json.dumps(LOSS.write(loss)) if as_json else _line(loss))
        if not found and not as_json:
            self.stdout.write("There are no losses.")

    def _acknowledge(self, ids: list[str], reason: str, *, every: bool) -> None:
        if every == bool(ids):
            raise CommandError("Name the losses to acknowledge, or use --all.")
        wanted = [loss.id for loss in store_losses.open_losses().losses] if every else ids
        new = store_losses.acknowledge(wanted, actor=actor(), reason=reason)
        for one in new:
            record(actor(), "acknowledge loss", kind="message", object_id=one, name=f"loss {one}", why=reason)
        self.stdout.write(f"{len(new)} acknowledged.")


def _line(loss: Loss) -> str:
    known = f"acknowledged by {loss.acknowledged_by}: {loss.reason}" if loss.acknowledged_at else "NOT ACKNOWLEDGED"
    return f"{loss.id}  {store_losses.sentence(loss)}  {printable(known)}"
