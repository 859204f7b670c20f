"""Show and control the circuit breakers."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit_app.lines import record
from breaker_app import contract, services
from breaker_app.services import Card
from console.times import took
from management.terminal import actor, printable
from wire.errors import ServiceError
from wire.instants import iso

ORDERS = {
    "force-open": "reject every call until it is reset",
    "disable": "allow every call without counting until it is reset",
    "reset": "close it with an empty window",
}


class Command(BaseCommand):
    help = "Show and control the circuit breakers."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        listed = verbs.add_parser("list", help="every breaker and its state")
        shown = verbs.add_parser("show", help="one breaker, its thresholds and its last transitions")
        shown.add_argument("name")
        shown.add_argument("--limit", type=int, default=20, metavar="N", help="transitions to show (20)")
        for verb, help_text in ORDERS.items():
            order = verbs.add_parser(verb, help=help_text)
            order.add_argument("name")
            order.add_argument(
                "--reason", required=True, help="reason; kept with the transition, at most 500 characters"
            )
            order.add_argument("--json", action="store_true", help="print JSON")
        for verb_parser in (listed, shown):
            verb_parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._run(options)
        except ServiceError as error:
            raise CommandError(error.detail) from error

    def _run(self, options: dict[str, Any]) -> None:
        verb = options["verb"]
        if verb == "list":
            cards = services.with_held(services.cards())
            self._print(
                options, [contract.BREAKER.write(card) for card in cards], "\n".join(table(cards)) or "No breakers."
            )
            return
        if verb == "show":
            card = services.card(options["name"], limit=options["limit"])
        else:
            name, why = options["name"], options["reason"]
            card = services.order(name, verb, actor=actor(), reason=why)
            record(actor(), verb, kind="breaker", object_id=name, name=name, why=why.strip())
        self._print(options, contract.DETAIL.write(card), "\n".join(page(card)))

    def _print(self, options: dict[str, Any], data: Any, text: str) -> None:
        self.stdout.write(json.dumps(data, indent=2) if options["json"] else text)


def table(cards: list[Card]) -> list[str]:
    """One line per breaker under a heading; nothing when there are none."""
    if not cards:
        return []
    rows = [("NAME", "STATE", "FAILED", "RATE", "RETRY AFTER", "HELD", "SINCE")]
    for card in cards:
        seen = card.seen
        rows.append(
            (
                card.name,
                seen.state,
                f"{seen.failures}/{seen.total}",
                f"{seen.failure_rate:.0%}",
                retry_after(card),
                "?" if card.held is None else f"{card.held.count}",
                iso(card.since) if card.since else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def page(card: Card) -> list[str]:
    """One breaker in full."""
    seen, policy = card.seen, card.policy
    lines = [
        f"{card.name}: {seen.state}" + (f" since {iso(card.since)}" if card.since else ""),
        f"  window    {seen.failures} of {seen.total} failed ({seen.failure_rate:.1%}), {seen.slow} slow, "
        f"in {policy.time_window_ms / 1000:g} s",
        f"  trips at  {policy.failure_threshold:.1%} of at least {policy.minimum_requests}; "
        f"open for {policy.open_timeout_ms / 1000:g} s; opened {seen.opens} times",
        f"  probes    {seen.probes_succeeded} good, {seen.probes_failed} bad, {seen.probes_lost} lost, "
        f"{seen.leases} under way of {policy.half_open_max_requests}; "
        f"closes at {policy.half_open_success_threshold:.1%}",
        f"  calls     {retry_after(card)}; intake {'holds' if policy.when_open == 'hold' else 'rejects'} while open",
        f"  held      {held(card)}",
    ]
    for one in map(contract.TRANSITION.write, card.transitions):
        lines.append(
            f"  {one['at']}  {one['from']} -> {one['to']}  {printable(one['actor'])}: {printable(one['reason'])}"
        )
    return lines


def held(card: Card) -> str:
    """The messages that it holds, in words."""
    if card.held is None:
        return "not known: Redis does not respond"
    if not card.held.count:
        return "no message"
    parts = [f"{number} {name}" for name in ("high", "normal", "low") if (number := getattr(card.held, name))]
    return f"{card.held.count} messages ({', '.join(parts)}), the oldest for {took(card.held.oldest_s or 0)}"


def retry_after(card: Card) -> str:
    """When calls are admitted, in words."""
    wait = card.seen.retry_after_ms
    if wait < 0:
        return "until reset"
    return f"in {wait / 1000:.1f} s" if wait else "now"
