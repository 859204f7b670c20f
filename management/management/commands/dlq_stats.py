"""Print figures about all dead letters."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dlq_app import conf
from dlq_app.domain.masking import mask_text
from dlq_app.services import dead_letters, groups
from management.progress import in_words
from management.terminal import printable
from wire.errors import ServiceError
from wire.visible_text import json_text

_GROUPS = 10
_BARS = " .:-=+*#%@"


class Command(BaseCommand):
    help = "Print statistics of dead letters: counts, arrivals per hour, replay outcomes, the largest groups."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            stats = dead_letters.stats()
            largest = [] if options["json"] else groups.top(_GROUPS)
        except ServiceError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json_text(stats, indent=2))
            return
        age, rate, hours = stats["oldestOpenSeconds"], stats["replaySuccessRate"], stats["hours"]
        self.stdout.write(f"{stats['total']} dead letters, {stats['open']} open, as of {stats['asOf']}")
        if age is not None:
            self.stdout.write(f"oldest open: {in_words(age)}")
        self.stdout.write(f"24 hours: {sum(hours['inflow'])} in  |{_bars(hours['inflow'])}|")
        self.stdout.write(f"          {sum(hours['outflow'])} out |{_bars(hours['outflow'])}|")
        if rate is not None:
            succeeded, failed = stats["replays"]["succeeded"], stats["replays"]["failed"]
            self.stdout.write(f"replays: {succeeded} succeeded, {failed} failed, {rate:.1%}")
        top = {row["errorType"]: row["count"] for row in stats["topErrorTypes"]}
        sections = {"status": "byStatus", "type": "byType", "source": "bySource"}
        for title, counts in {**{t: stats[key] for t, key in sections.items()}, "error type": top}.items():
            self._section(f"by {title}", [(count, name) for name, count in counts.items()])
        masking = conf.masking_policy()
        self._section(
            f"open by group, {stats['groups']} in all",
            [
                (group.open, f"{group.state:<9}  {group.fingerprint}  {mask_text(group.telling_title, masking)[:80]}")
                for group in largest
            ],
        )

    def _section(self, title: str, rows: list[tuple[int, str]]) -> None:
        self.stdout.write(f"\n{title}")
        for count, text in rows:
            self.stdout.write(f"{count:>9}  {printable(text)}")


def _bars(counts: list[int]) -> str:
    """One character per hour; darker means more."""
    most = max(counts, default=0) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)
