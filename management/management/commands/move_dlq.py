"""Resolve, discard, set aside, resume or reopen dead letters."""

from __future__ import annotations

import json
from typing import Any, TextIO, cast

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from dlq_app.domain.errors import RequestInvalid
from dlq_app.domain.operator_moves import MOVES, MoveOrder, counted
from dlq_app.services import bulk
from dlq_app.store import repository
from dlq_app.store.repository import Selection
from management import terminal
from management.filters import add_filter_arguments, criteria_from
from wire.errors import ServiceError

_SOME_DID_NOT = 2
_FLAGS = {"ids": "ID", "filter": "filter", "all": "--all", "reason": "--reason"}


class Command(terminal.StrictCommand):
    help = (
        "Resolve, discard, set aside, resume (undoes set-aside) or reopen (undoes resolve and discard) dead letters: "
        "those with these ids, or all that match the filter. Shows their number and asks, unless --yes. Exit code: 0 "
        "done, or nothing to do; 2 some changed in the meantime and were skipped; 1 error. After an error run it again "
        "to move the rest."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        moves = parser.add_subparsers(dest="move", required=True, metavar="MOVE", title="moves")
        for name, (_, done) in MOVES.items():
            move = moves.add_parser(name, help=f"letters are {done}")
            move.add_argument("ids", nargs="*", metavar="ID", help="message id or _id of a letter, instead of a filter")
            add_filter_arguments(move)
            move.add_argument("--all", action="store_true", help="every letter: required without a filter")
            move.add_argument("--reason", default="", metavar="TEXT", help="why; kept in every letter; required")
            move.add_argument("--dry-run", action="store_true", help="only show the number")
            move.add_argument("--yes", action="store_true", help="do not ask")
            move.add_argument("--json", action="store_true", help="print the numbers as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        order = _order(options)
        try:
            which = Selection(criteria=order.criteria, ids=order.ids, with_message_ids=True, as_of=repository.now())
            shown = bulk.preview(which, order.verb)
            if shown.is_too_many:
                raise CommandError(f"More than {counted(bulk.MAX_LETTERS)} match. Narrow the filter, such as by --to.")
            question = f"{counted(shown.count)} would be {order.done}."
            goes_on = not order.dry_run and shown.count > 0
            if goes_on and not options["yes"]:
                if not terminal.can_ask():
                    raise CommandError(f"{question} No terminal to ask: use --yes, or --dry-run.")
                goes_on = terminal.says_yes(f"{question} Continue?", cast("TextIO", self.stderr._out))
            done = self._moved(order, which, shown.count) if goes_on else None
        except ServiceError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            figures = {"move": order.move, "count": done.count if done else 0, "asked": shown.count}
            self.stdout.write(json.dumps({**figures, "leftOut": shown.left_out, "dryRun": order.dry_run}))
        elif done is None:
            self.stdout.write(question if order.dry_run or not shown.count else "Nothing was changed.")
        else:
            self.stdout.write(f"{counted(done.count)} {order.done}.")
        if done and done.count < shown.count:
            raise SystemExit(_SOME_DID_NOT)

    def _moved(self, order: MoveOrder, which: Selection, count: int) -> bulk.Moved:
        """Move them and record it. Raises ``CommandError`` if a part is left."""
        who = terminal.actor()
        done = bulk.move_many(which, order.verb, count=count, actor=who, reason=order.reason)
        name, what = f"{counted(count)}: {order.selection}", order.outcome(done.count, count)
        record(who, what, kind="deadletter", name=name, why=order.reason, count=done.count)
        if done.stopped:
            raise CommandError(f"{counted(done.count)} of {count:,} {order.done}. {done.stopped} Run it again.")
        return done


def _order(options: dict[str, Any]) -> MoveOrder:
    criteria = criteria_from(options)
    if not (options["ids"] or options["all"]) and criteria.is_empty:
        raise CommandError("Say which letters: ids, a filter, or --all for every letter there is.")
    body: dict[str, Any] = {"move": options["move"], "dryRun": options["dry_run"]}
    body |= {"ids": options["ids"]} if options["ids"] else {}
    body |= {} if criteria.is_empty else {"filter": criteria.as_filter()}
    body |= {"all": True} if options["all"] else {}
    if not options["dry_run"]:
        # The token binds a dry run to its move; here both are one process.
        body |= {"token": "-", "reason": options["reason"]}
    try:
        return MoveOrder.parse(body)
    except RequestInvalid as error:
        wrong = [f"{_FLAGS.get(entry['field'], entry['field'])}: {entry['message']}" for entry in error.errors]
        raise CommandError("; ".join(wrong) + ".") from error
