"""Replay dead letters, one or a hundred thousand, in one batch."""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any, TextIO, cast

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from dlq_app import conf
from dlq_app.domain.errors import BatchBeingPlanned, RequestInvalid, StoreUnavailable
from dlq_app.domain.masking import mask_text
from dlq_app.domain.replay_batch import (
    CANARY_FAILED,
    TOO_MANY_FAILURES,
    BatchOrder,
    DryRun,
    ReplayBatch,
    Stage,
)
from dlq_app.rest.batch_contract import BATCH, DRY_RUN
from dlq_app.services import batches
from dlq_app.services.batch_failures import failures
from management.filters import add_filter_arguments, criteria_from
from management.progress import LINE_EVERY_S, Progress, in_words, outcomes, stage_of
from management.terminal import StrictCommand, actor, can_ask, printable, says_yes
from messages_app.domain import errors as messages_errors
from messages_app.store import presence
from wire.errors import ServiceError
from wire.visible_text import json_text

#: Seconds between two looks at the batch.
_LOOK_EVERY_S = 0.5
_STARTS, _START_AGAIN_S = 5, 1.0
#: How much of an error's text is shown.
_EXCERPT = 300
_SOME_DID_NOT, _INTERRUPTED = 2, 130

#: Field of an order → the flag that gives it.
_FLAGS = {
    "ids": "ID",
    "limit": "--limit",
    "ratePerSecond": "--rate",
    "canary": "--canary",
    "canary.size": "--canary",
    "canary.minSuccess": "--min-success",
    "maxFailures": "--max-failures",
    "maxFailureRate": "--max-failure-rate",
    "scheduledAt": "--schedule",
    "name": "--name",
    "reason": "--reason",
}

_LEFT_OUT = {"poison": "with WORKER_LOST, which probably kill a worker; --poison includes them"}


class Command(StrictCommand):
    help = (
        "Replay dead letters in one batch: those with these ids, or those that fit a filter. Shows how many they are "
        "and what is left out, and asks. DLQ workers do the work. Exit code: 0 started, or with --wait every letter "
        "succeeded; 2 some failed or were left out, or the batch was stopped; 1 error; 130 interrupted while waiting."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="*", metavar="ID", help="message id or _id of a letter, instead of a filter")
        add_filter_arguments(parser)
        parser.add_argument("--all", action="store_true", help="every letter: needed when there is no filter")
        parser.add_argument("--limit", type=int, metavar="N", help="at most N letters, longest dead first")
        parser.add_argument("--rate", type=float, metavar="N", help="letters per second")
        parser.add_argument(
            "--canary", type=int, metavar="N", help="send N letters first, and the others only if these succeed"
        )
        parser.add_argument(
            "--min-success", type=int, metavar="N", help="with --canary: go on if at least N of the first succeed (all)"
        )
        parser.add_argument("--max-failures", type=int, metavar="N", help="stop when more than N failed")
        parser.add_argument(
            "--max-failure-rate", type=float, metavar="0-1", help="stop when a larger share of the outcomes failed"
        )
        parser.add_argument(
            "--poison",
            action="store_true",
            help="also letters with WORKER_LOST, which probably kill a worker: each once, in a process of its own",
        )
        parser.add_argument("--schedule", metavar="INSTANT", help="start not before, such as 2026-11-24T03:12:00Z")
        parser.add_argument("--name", default="", metavar="TEXT", help="what to call the batch")
        parser.add_argument("--reason", default="", metavar="TEXT", help="why; kept with the batch and every letter")
        parser.add_argument("--dry-run", action="store_true", help="show what would be replayed and change nothing")
        parser.add_argument("--wait", action="store_true", help="wait for the outcome of every letter")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--json", action="store_true", help="print only JSON: one document, with --wait one a line as it goes on"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        order = _order(options)
        try:
            self._replay(order, options)
        except ServiceError as error:
            raise CommandError(str(error)) from error

    def _replay(self, order: BatchOrder, options: dict[str, Any]) -> None:
        found = batches.dry_run(order)
        nothing = found.count == 0
        if options["json"]:
            if options["dry_run"] or nothing:
                self._print_json(DRY_RUN.write(found, conf.masking_policy()), indent=2)
        else:
            self.stdout.write("\n".join(foreseen(found)))
        # Each id was meant; a filter may well fit letters that need no replay.
        left_out = bool(order.ids) and any(one.why != "limit" for one in found.left_out)
        if options["dry_run"]:
            return
        if not nothing:
            self._ask(found.count, options)
            batch = self._start(order)
            if not options["wait"]:
                self._tell(batch, options)
                return
            left_out |= not self._wait(batch, options)
        if left_out:
            raise SystemExit(_SOME_DID_NOT)

    def _ask(self, count: int, options: dict[str, Any]) -> None:
        if options["yes"]:
            return
        if not can_ask():
            raise CommandError("There is no terminal to ask at; say --yes.")
        try:
            # On stderr: stdout may be read by a program.
            answer = says_yes(f"Replay {letters(count)}?", cast("TextIO", self.stderr._out))
        except KeyboardInterrupt:
            answer = False
        if not answer:
            raise CommandError("Nothing was started.")

    def _start(self, order: BatchOrder) -> ReplayBatch:
        batch_id = batches.new_batch_id()
        left = _STARTS
        while True:
            # Started or not: the same id again starts nothing twice.
            try:
                batch = batches.start(order, actor=actor(), batch_id=batch_id)
            except BatchBeingPlanned:
                sleep(_START_AGAIN_S)  # by the start whose answer was lost; it ends within 90 s, one way or the other
            except StoreUnavailable:
                left -= 1
                if not left:
                    raise
                sleep(_START_AGAIN_S)
            else:
                what, name = f"replay of {letters(batch.total)} started", batch.name or batch.id
                total, why = batch.total, order.reason
                record(actor(), what, kind="replaybatch", object_id=batch.id, name=name, why=why, count=total)
                return batch

    def _tell(self, batch: ReplayBatch, options: dict[str, Any]) -> None:
        if options["json"]:
            self._print_json(BATCH.write(batch, conf.masking_policy()), indent=2)
        else:
            self.stdout.write(f"Batch {batch.id} with {letters(batch.total)} is {stage_of(batch)}. {watching(batch)}")
        self._warn_without_worker()

    def _warn_without_worker(self) -> None:
        try:
            alive = bool(presence.present("dlq_worker"))
        except messages_errors.StoreUnavailable:
            return  # nobody knows; the batch waits for that store anyhow, and says so
        if not alive:
            self.stderr.write("No DLQ worker reports; the batch waits for one: manage.py run_dlq_worker")

    def _wait(self, batch: ReplayBatch, options: dict[str, Any]) -> bool:
        """Show the batch until every letter has its outcome; whether all succeeded."""
        self._warn_without_worker()
        shown = _Shown(self, options)
        try:
            while not (batch.is_final and not batch.counts.remaining):
                shown.show(batch)
                batch = _look_again(batch, shown)
        except KeyboardInterrupt:
            shown.close()
            self.stderr.write(f"Batch {batch.id} goes on. {watching(batch)}")
            raise SystemExit(_INTERRUPTED) from None
        shown.end(batch)
        if not options["json"]:
            self.stdout.write("\n".join(ended_as(batch)))
        return batch.stage is Stage.FINISHED and not batch.counts.failed and not batch.counts.skipped

    def _print_json(self, data: Any, *, indent: int | None = None) -> None:
        self.stdout.write(json_text(data, indent=indent))


class _Shown:
    """The batch on its way, as JSON lines or as progress."""

    def __init__(self, command: Command, options: dict[str, Any]) -> None:
        self._command = command
        self._json = options["json"]
        # The stream below the wrapper, which would end every piece with a new line.
        stream = cast("TextIO", command.stdout._out)
        self._progress = Progress(stream, live=stream.isatty())
        self._told_at: float | None = None
        self._told_stage = ""
        self._said = ""

    def show(self, batch: ReplayBatch) -> None:
        self._said = ""
        if not self._json:
            self._progress.show(batch)
            return
        now = monotonic()
        if self._told_at is None or now - self._told_at >= LINE_EVERY_S or stage_of(batch) != self._told_stage:
            self._print(batch)
            self._told_at, self._told_stage = now, stage_of(batch)

    def say(self, text: str) -> None:
        """Say it once, beside what is shown."""
        if text != self._said:
            self.close()
            self._command.stderr.write(text)
            self._said = text

    def close(self) -> None:
        self._progress.close()

    def end(self, batch: ReplayBatch) -> None:
        if self._json:
            self._print(batch)
        else:
            self._progress.end(batch)

    def _print(self, batch: ReplayBatch) -> None:
        self._command._print_json(BATCH.write(batch, conf.masking_policy()))
        self._command.stdout.flush()


def _look_again(batch: ReplayBatch, shown: _Shown) -> ReplayBatch:
    """The batch a moment later, however long its store stays away meanwhile."""
    while True:
        sleep(_LOOK_EVERY_S)
        try:
            return batches.get(batch.id)
        except StoreUnavailable as error:
            shown.say(f"{error} Looking again.")


def _order(options: dict[str, Any]) -> BatchOrder:
    """What the flags ask for; raises ``CommandError`` naming each flag that does not fit."""
    criteria = criteria_from(options)
    if options["ids"] and not criteria.is_empty:
        raise CommandError("Give ids or a filter, not both.")
    if not options["ids"] and criteria.is_empty and not options["all"]:
        raise CommandError("Say which letters: ids, a filter, or --all for every letter there is.")
    body: dict[str, Any] = {
        "filter": None if options["ids"] else criteria.as_filter(),
        "ids": options["ids"] or None,
        "all": options["all"] or None,
        "name": options["name"],
        "reason": options["reason"],
        "ratePerSecond": options["rate"],
        "canary": _canary(options["canary"], options["min_success"]),
        "maxFailures": options["max_failures"],
        "maxFailureRate": options["max_failure_rate"],
        "limit": options["limit"],
        "scheduledAt": options["schedule"],
        "poison": options["poison"] or None,
    }
    try:
        return BatchOrder.parse(body)
    except RequestInvalid as error:
        wrong = [f"{_FLAGS.get(entry['field'], entry['field'])} {entry['message']}" for entry in error.errors]
        raise CommandError("; ".join(wrong) + ".") from error


def _canary(size: int | None, min_success: int | None) -> dict[str, int] | None:
    if size is None:
        if min_success is not None:
            raise CommandError("--min-success needs --canary.")
        return None
    return {"size": size} if min_success is None else {"size": size, "minSuccess": min_success}


def letters(count: int) -> str:
    return "1 letter" if count == 1 else f"{count} letters"


def watching(batch: ReplayBatch) -> str:
    """How to look at the batch and how to end it."""
    address = f"/api/dlq/replay-batches/{batch.id}"
    return (
        f"Look: GET {address}, or the console at /admin/dlq_app/replaybatch/{batch.id}/change/. "
        f"End it: POST {address}/cancel."
    )


def foreseen(found: DryRun) -> list[str]:
    """A dry run in words."""

    def counted(rows: list[tuple[str, int]]) -> str:
        return ", ".join(f"{printable(name)} {count}" for name, count in rows)

    lines = [f"{letters(found.count)} would be replayed."]
    if found.by_error_type:
        lines.append(f"  by error type: {counted(found.by_error_type)}")
    if found.by_type:
        lines.append(f"  by type: {counted(found.by_type)}")
    lines += [f"  left out: {one.count} {_LEFT_OUT.get(one.why, one.why)}" for one in found.left_out]
    if found.failures_at_most is not None:
        lines.append(f"  at most {found.failures_at_most} of them can fail before the batch stops by itself")
    lines += [
        f"  breaker {printable(one.name)} is {one.state}: the batch waits for it"
        for one in found.breakers
        if not one.passes
    ]
    return lines


def ended_as(batch: ReplayBatch) -> list[str]:
    """What became of a batch and its letters, in words."""
    took = ""
    if batch.started_at and batch.finished_at:
        took = f" in {in_words((batch.finished_at - batch.started_at).total_seconds())}"
    lines = [f"Batch {batch.id} {batch.stage}{took}: {outcomes(batch)}, of {letters(batch.total)}."]
    rows = batches.report(batch.id)
    lines += [
        f"  {count:>8}  {outcome or 'open'}  {printable(error_type)}".rstrip() for outcome, error_type, count in rows
    ]
    if batch.stage is Stage.CANCELLED and batch.stop_reason:
        lines.append(f"Cancelled: {printable(batch.stop_reason)}")
    if batch.stage is Stage.STOPPED:
        lines.append(f"Stopped: {_why_stopped(batch)}.")
        lines += [f"What came back: {text}" for text in [_what_came_back(batch.id)] if text]
    return lines


def _why_stopped(batch: ReplayBatch) -> str:
    counts = batch.counts
    if batch.stop_reason == CANARY_FAILED and batch.canary:
        return f"of the first {letters(batch.canary.size)} {batch.canary.min_success} had to succeed and did not"
    if batch.stop_reason == TOO_MANY_FAILURES:
        return f"{counts.failed} failures of {counts.succeeded + counts.failed} outcomes are more than allowed"
    return printable(batch.stop_reason) or "nobody said why"


def _what_came_back(batch_id: str) -> str:
    """The most frequent error of the batch's letters, with the words of one of them."""
    found = failures(batch_id, 1)
    if not found:
        return ""
    one = found[0]
    if not one.text:
        return printable(one.error_type)
    reason = printable(mask_text(one.text, conf.masking_policy()))[:_EXCERPT]
    return f"{printable(one.error_type)}: {reason} (message {printable(one.message_id)})"
