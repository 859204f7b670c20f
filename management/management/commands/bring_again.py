"""Record again what the dead letters lack and Redis still knows."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from management.terminal import StrictCommand, actor, can_ask, says_yes
from messages_app.store.ledger import ledger
from messages_app.store.recorded_outcomes import recorded_outcomes
from messages_app.work import reconciliation
from wire.errors import ServiceError
from wire.instants import iso, parse_instant

from .purge_dlq import age_of

log = logging.getLogger(__name__)
#: Message ids that are shown.
SHOWN = 10


class Command(StrictCommand):
    help = (
        "After MongoDB was restored from a backup: compare the outcomes in Redis with the dead "
        "letters, and record the missing ones again. Failures become letters; letters with a successful replay are "
        "resolved. Safe to repeat and to interrupt. Exit 0: nothing is missing, 2: outcomes are missing, 1: a store "
        "does not answer."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since", required=True, metavar="TIME", help="time of the backup, for example 2026-11-24T03:12:00Z or 24h"
        )
        parser.add_argument("--dry-run", action="store_true", help="only count what is missing")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--json", action="store_true", help="one JSON object at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        looked = brought = 0
        missing: list[str] = []
        count = 0
        try:
            since_ms = self._since(options["since"])
            size = recorded_outcomes().count(since_ms)
            asks = not (options["yes"] or options["dry_run"] or options["json"])
            if (
                asks
                and can_ask()
                and not says_yes(f"Compare {size:,} outcomes and record what is missing?", self.stderr)
            ):
                return
            for step in reconciliation.bring_again(since_ms, dry_run=options["dry_run"]):
                looked, brought, count = looked + step.looked_at, brought + step.brought, count + len(step.missing)
                missing += [one.message_id for one in step.missing[: SHOWN - len(missing)]]
                if not options["json"] and step.missing:
                    self.stdout.write(f"{looked:,} of {size:,} compared, {count:,} missing, {brought:,} recorded again")
            left = recorded_outcomes().lacking_count()
        except ServiceError as error:
            raise CommandError(f"{error} Recorded again so far: {brought}. Run it again.") from error
        if brought:
            log.warning("letters_brought_again", extra={"by": actor(), "outcomes": brought, "since": options["since"]})
            record(actor(), "bring_again", kind="message", name=f"since {options['since']}", count=brought)
        left = count if options["dry_run"] else left
        figures = {"compared": looked, "missing": count, "broughtAgain": brought, "stillMissing": left}
        if options["json"]:
            self.stdout.write(json.dumps({**figures, "dryRun": options["dry_run"], "examples": missing}))
        elif options["dry_run"]:
            named = f", such as {', '.join(missing)}" if missing else ""
            self.stdout.write(f"{count:,} of {looked:,} outcomes are missing from the dead letters{named}.")
        else:
            self.stdout.write(f"{looked:,} outcomes compared, {brought:,} recorded again, {left:,} still missing.")
        if left:
            raise SystemExit(2)

    def _since(self, text: str) -> int:
        """Milliseconds; an age is counted back from Redis' clock."""
        now_ms = ledger().now_ms()
        try:
            wanted_ms = int(parse_instant(text).timestamp() * 1000)
        except ValueError as error:
            if not text[:1].isdigit() or "T" in text.upper():
                raise CommandError(f"--since: {error}, or an age such as 24h") from error
            wanted_ms = now_ms - int(age_of(text, "--since") / timedelta(milliseconds=1))
        oldest_ms = reconciliation.oldest_ms()
        if wanted_ms < oldest_ms:
            oldest = iso(datetime.fromtimestamp(oldest_ms / 1000, UTC))
            self.stderr.write(f"Redis has outcomes since {oldest}. Older ones cannot be recorded again.")
        return wanted_ms
