"""Compare ledger, letters, batches and accounts, and repair what is safe to repair."""

from __future__ import annotations

import json
import logging
import time
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from dlq_app.domain.differences import Report
from dlq_app.store import repository
from management.terminal import StrictCommand, actor, printable
from messages_app.work.reconcile import Scope, reconcile
from wire.errors import ServiceError
from wire.instants import parse_instant

from .purge_dlq import age_of

log = logging.getLogger(__name__)
_TELL_EVERY_S = 2.0


class Command(StrictCommand):
    help = (
        "Compare messages, dead letters, replay batches and accounts with each other, and report every difference. "
        "Changes nothing without --fix. What is under way is no difference, so it can run beside the roles. "
        "Exit 0: all agree, or all differences are repaired; 2: differences; 1: a store does not answer."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--fix", action="store_true", help="repair differences that have a safe repair")
        parser.add_argument(
            "--since",
            metavar="TIME",
            help="only outcomes, letters and batches changed since then, for example 2026-11-24T03:12:00Z or 24h",
        )
        parser.add_argument(
            "--quick", action="store_true", help="only what is open or under way, and a sample of the outcomes"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        self._told_at = time.monotonic()
        began = time.monotonic()
        try:
            scope = Scope(since=self._since(options["since"]), quick=options["quick"])
            report = reconcile(scope, fix=options["fix"], progress=self._progress)
        except ServiceError as error:
            raise CommandError(f"{error} The comparison is incomplete. Run it again.") from error
        repaired = {one.kind.name: one.repaired for one in report.differences if one.repaired}
        if repaired:
            why = ", ".join(f"{name} {number}" for name, number in repaired.items())
            log.warning("differences_repaired", extra={"by": actor(), "repaired": repaired})
            record(
                actor(), "reconcile", kind="message", name="repaired differences", why=why, count=sum(repaired.values())
            )
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(report, round(time.monotonic() - began, 3))))
        else:
            self._tell(report)
        if report.left or report.undecided:
            raise SystemExit(2)

    def _since(self, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return parse_instant(text)
        except ValueError as error:
            if not text[:1].isdigit() or "T" in text.upper():
                raise CommandError(f"--since: {error}, or an age such as 24h") from error
        return repository.now() - timedelta(seconds=age_of(text, "--since").total_seconds())

    def _tell(self, report: Report) -> None:
        for one in report.differences:
            done = f", {one.repaired:,} repaired" if one.repaired else ""
            self.stdout.write(f"{one.kind.name}: {one.count:,}{done}")
            self.stdout.write(f"  {one.kind.meaning}")
            if one.repaired < one.count:
                hint = " Use --fix." if one.kind.is_repairable and not report.fix else ""
                self.stdout.write(f"  {one.kind.fix}{hint}")
            self.stdout.write(f"  For example: {printable(', '.join(one.examples))}")
        for undecided in report.undecided:
            self.stdout.write(f"undecided: {printable(undecided)}")
        compared = ", ".join(f"{number:,} {_words(what)}" for what, number in report.compared.items())
        under_way = ", ".join(f"{number:,} {_words(what)}" for what, number in report.in_flight.items() if number)
        self.stdout.write(f"Compared: {compared}.")
        self.stdout.write(f"Under way: {under_way or 'nothing'}.")
        left = report.left
        self.stdout.write("No differences." if not left else f"{left:,} difference{'' if left == 1 else 's'} left.")

    def _progress(self, what: str, number: int) -> None:
        if time.monotonic() - self._told_at >= _TELL_EVERY_S and self.stderr.isatty():
            self._told_at = time.monotonic()
            self.stderr.write(f"{number:,} {_words(what)} …")


def _words(name: str) -> str:
    """``batchLetters`` as ``batch letters``."""
    return "".join(f" {char.lower()}" if char.isupper() else char for char in name)


def _as_json(report: Report, took_s: float) -> dict[str, Any]:
    return {
        "agree": not report.left and not report.undecided,
        "differences": [one.as_json() for one in report.differences],
        "left": report.left,
        "undecided": report.undecided,
        "inFlight": report.in_flight,
        "compared": report.compared,
        "fix": report.fix,
        "tookSeconds": took_s,
    }
