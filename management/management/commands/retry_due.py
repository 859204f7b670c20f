"""Start the automatic replays that are due now, and exit."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dlq_app.services import dead_letters, figures
from management.terminal import StrictCommand
from messages_app.work.store_losses import mark_keeper
from wire.errors import ServiceError

_ROUND = 100


class Command(StrictCommand):
    help = (
        "Start the automatic replays that are due now and free stale claims, then exit: 0 when all was looked at, 1 "
        "when a store does not answer. For cron; safe to overlap with itself and with DLQ workers."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--limit", type=int, default=10_000, help="look at no more letters than this (10000)")
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        counts = {"due": 0, "replayed": 0, "postponed": 0, "left": 0, "released": 0}
        try:
            counts["released"] = dead_letters.release_stale(_ROUND)
            while counts["due"] < options["limit"]:
                limit = min(_ROUND, options["limit"] - counts["due"])
                done = dead_letters.replay_due(limit)
                dead_letters.record_round(done)
                for name in ("due", "replayed", "postponed", "left"):
                    counts[name] += getattr(done, name)
                if done.due < limit or not (done.replayed or done.postponed):
                    break
        except ServiceError as error:
            raise CommandError(f"{error} Started so far: {counts['replayed']}.", returncode=1) from error
        # Where this command stands in for the roles, nobody else keeps the ledger's mark.
        mark_keeper()()
        if options["json"]:
            self.stdout.write(json.dumps(counts))
        else:
            self.stdout.write(
                "{due} due: {replayed} replayed, {postponed} postponed, {left} taken by other processes; "
                "{released} stale claims freed".format(**counts)
            )
        try:
            # Where no DLQ worker runs, nothing else renews them.
            figures.renew()
        except ServiceError as error:
            raise CommandError(f"The figures were not renewed: {error}", returncode=1) from error
