"""Values for the templates of replay batches; text from outside is masked and bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from console import permissions
from console.actions import Action
from console.commands import curl, path
from dlq_app import conf
from dlq_app.admin.batches import progress as batch_progress
from dlq_app.admin.letters.selection import back_to_list, in_words
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.masking import mask_text
from dlq_app.domain.replay_batch import (
    BY_BREAKER,
    CANARY_FAILED,
    FAILED,
    FAILED_NEW,
    FAILED_SAME,
    FINAL,
    MIN_JUDGED,
    SENDING,
    SUCCEEDED,
    TOO_MANY_FAILURES,
    BatchCounts,
    BatchItem,
    BatchOrder,
    BreakerSeen,
    ReplayBatch,
    Stage,
)
from dlq_app.domain.standing import person
from dlq_app.services import batches
from dlq_app.services.batch_failures import Failure, failures
from dlq_app.services.titles import batch_titles
from wire.cached import Cached

ITEMS = 20
#: Seconds between reloads while the batch sends, and otherwise.
QUICK_S, SLOW_S = 1, 5
_CHEAP_S = 0.05
_KEPT_REPORTS = 100
_FAILURES_S = 5.0
_EXCERPT = 300

_SKIPPED = {
    "already_done": "a newer run of the message succeeded",
    "cancelled": "the batch ended before it was sent",
    "gone": "the letter was deleted",
    "in_flight": "another replay was in progress",
    "not_replayable": "its message cannot be replayed",
    "poison": "its message was lost with its worker; the batch leaves such letters out",
    "resolved": "it was resolved before it was sent",
    "superseded": "a newer message with this id exists",
}
_STOPPED = {CANARY_FAILED: "the canary failed", TOO_MANY_FAILURES: "too many failures"}
_WORDS = {
    "planned": "Plan frozen",
    "canary": "Canary sent first",
    "running": "Sending",
    "paused": "Paused",
    "finished": "Finished",
    "cancelled": "Cancelled",
    "stopped": "Stopped automatically",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One letter's outcome."""

    item: BatchItem
    url: str
    status: str
    text: str


def live(request: HttpRequest, batch: ReplayBatch, now: datetime) -> dict[str, Any]:
    """The live part of a batch's page."""
    came_back = _report(batch.id)
    failed = _failures(batch.id) if batch.counts.failed else []
    texts = {one.error_type: one for one in failed}
    outcomes = _by_outcome(came_back)
    batch = replace(batch, counts=_counts(batch, outcomes))
    counts = batch.counts
    in_flight = max(0, counts.sent - counts.succeeded - counts.failed)
    waiting = max(0, counts.remaining - in_flight)
    decided = batch.total - counts.remaining
    # If a batch ended early, skipped letters have an outcome too, but they are not progress.
    ended_early, replayed = batch.stage in (Stage.STOPPED, Stage.CANCELLED), counts.succeeded + counts.failed
    speed = batch_progress.speed(batch, now)
    left = batch_progress.time_left(batch, waiting, speed)
    return {
        "batch": batch,
        "as_of": now,
        "at_ms": int(now.timestamp() * 1000),
        "every": QUICK_S if batch.stage in SENDING else SLOW_S,
        "is_over": batch.stage in FINAL and not counts.remaining,
        "reloads_lists": batch.stage not in SENDING,
        "steps": batch_progress.steps(batch, now, left),
        "percent": batch_progress.share(replayed if ended_early else decided + in_flight, batch.total),
        "decided": replayed if ended_early else decided,
        "decided_words": "were replayed" if ended_early else "have their outcome",
        "in_flight": in_flight,
        "waiting_count": waiting,
        "speed": speed,
        "left": left,
        "parts": batch_progress.parts(batch.total, outcomes, in_flight),
        "tallies": batch_progress.tallies(outcomes, counts.skipped, in_flight, waiting),
        "came_back": [
            {
                "outcome": outcome.partition(":")[0],
                "text": _what(outcome, error_type),
                "count": count,
                "example": _example(texts.get(error_type)) if outcome in FAILED else None,
            }
            for outcome, error_type, count in came_back
            if outcome and outcome != SUCCEEDED
        ][:10],
        "trouble": _trouble(batch, came_back, failed),
        "budget": batch_progress.budget(batch),
        "late_url": _late_url(batch),
        "acts": _acts(request, batch, waiting),
        "again_url": _again_url(batch),
        "say": _say(batch, waiting),
        "requested_by": person(batch.requested_by),
    }


def whole(request: HttpRequest, batch: ReplayBatch, now: datetime) -> dict[str, Any]:
    """Everything on a batch's page except its items."""
    which = None if batch.criteria is None else in_words(batch.criteria)
    site = request.build_absolute_uri("/").rstrip("/")
    here = f"{site}/api/dlq/replay-batches/{path(batch.id)}"
    verb = "resume" if batch.stage is Stage.PAUSED else "pause"
    look = ("curl", curl(here))
    report = ("curl, report", curl(f"{here}/report"))
    steer = (f"curl, {verb}", curl(f"{here}/{verb}", method="POST"))
    return {
        **live(request, batch, now),
        "which": which and [(name, mask_text(value, conf.masking_policy())) for name, value in which],
        "list_url": back_to_list(batch.criteria) if batch.criteria and not _hides(batch.criteria) else "",
        "history": [_moment(entry) for entry in batch.history],
        "commands": [look, report if batch.is_final else steer],
    }


def line(item: BatchItem) -> Line:
    """One row of the outcomes."""
    status, _, why = item.outcome.partition(":")
    if not item.outcome:
        status, text = ("open", "sent, waiting for its outcome") if item.sent else ("queued", "not sent yet")
    else:
        text = _SKIPPED.get(why, why) if status == "skipped" else item.error_type
    url = reverse("admin:dlq_app_deadletter_change", args=[item.letter_id]) if item.letter_id else ""
    return Line(item=item, url=url, status=status, text=text)


def row(batch: ReplayBatch, title: str, now: datetime) -> dict[str, Any]:
    """One row of the list of batches."""
    counts = batch.counts
    in_flight = max(0, counts.sent - counts.succeeded - counts.failed)
    # Failures in total; only the batch's own page separates new errors.
    outcomes = {SUCCEEDED: counts.succeeded, FAILED_SAME: counts.failed, "skipped": counts.skipped}
    return {
        "batch": batch,
        "url": reverse("admin:dlq_app_replaybatch_change", args=[batch.id]),
        "title": title,
        "requested_by": person(batch.requested_by),
        "percent": batch_progress.share(batch.total - counts.remaining, batch.total),
        "parts": batch_progress.parts(batch.total, outcomes, in_flight),
        "why": _why(batch),
        "is_open": batch.stage not in FINAL,
        "took": (batch.finished_at or now) - batch.started_at if batch.started_at else None,
    }


# --- before the start ---


def what_will_happen(order: BatchOrder, count: int, breakers: Sequence[BreakerSeen], now: datetime) -> dict[str, Any]:
    """The plan in words and times."""
    rate = order.rate_per_second
    takes = timedelta(seconds=count / rate) if rate else None
    begins = order.scheduled_at or now
    try:
        done_near = begins + takes if takes else None
    except OverflowError:
        done_near = None  # ordered for the end of the calendar
    return {
        "canary": order.canary,
        "first": min(order.canary.size, count) if order.canary else 0,
        "has_rest": order.canary is None or order.canary.size < count,
        "rate": rate,
        "takes": takes,
        "done_near": done_near,
        "begins": order.scheduled_at,
        "breakers": ", ".join(one.name for one in breakers),
        "budget": None if order.max_failure_rate is None else order.max_failure_rate * 100,
        "least_judged": MIN_JUDGED,
    }


def earlier(found: Sequence[ReplayBatch]) -> list[dict[str, Any]]:
    """What the last batches of the same letters did, for the confirmation of the next one."""
    titles = batch_titles(found)
    return [
        {
            "batch": one,
            "title": titles[one.id],
            "url": reverse("admin:dlq_app_replaybatch_change", args=[one.id]),
            "at": one.finished_at or one.started_at or one.created_at,
            "what": _ended(one),
            "is_bad": one.stage is Stage.STOPPED or one.counts.failed > one.counts.succeeded,
            "errors": errors_in_words(_failures(one.id)) if one.counts.failed else "",
        }
        for one in found
    ]


def _ended(batch: ReplayBatch) -> str:
    counts = batch.counts
    if batch.stop_reason == CANARY_FAILED and batch.stage is Stage.STOPPED:
        return f"The canary failed: {counts.failed:,} of {counts.ended:,} failed"
    outcome = f"{counts.succeeded:,} succeeded, {counts.failed:,} failed"
    if batch.stage is Stage.STOPPED:
        return f"Stopped after too many failures: {outcome}"
    return f"{_WORDS.get(batch.stage.value, batch.stage.value)}: {outcome}"


# --- parts ---

#: Letters by outcome. A costly count of a large batch is kept for twenty times as long as it took.
_report = Cached(
    batches.report, lambda found, took_s: 20 * took_s if took_s > _CHEAP_S else 0, max_answers=_KEPT_REPORTS
)


#: The errors of failed letters; examples of a batch that has ended do not change.
_failures = Cached(failures, lambda found, took_s: max(_FAILURES_S, 20 * took_s), max_answers=_KEPT_REPORTS)


def _by_outcome(came_back: Sequence[tuple[str, str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for outcome, _, count in came_back:
        name = outcome.partition(":")[0]
        found[name] = found.get(name, 0) + count
    return found


def _counts(batch: ReplayBatch, outcomes: Mapping[str, int]) -> BatchCounts:
    """The counts of the batch by the outcomes of its letters, so that all numbers of the page are of one instant.

    The counts that the batch stores are some seconds older, or newer where ``outcomes`` were counted earlier.
    """
    succeeded = outcomes.get(SUCCEEDED, 0)
    failed = outcomes.get(FAILED_SAME, 0) + outcomes.get(FAILED_NEW, 0)
    skipped = outcomes.get("skipped", 0)
    if sum(outcomes.values()) != batch.total:
        return batch.counts  # its letters are being planned, or are deleted
    return BatchCounts(
        sent=max(batch.counts.sent, succeeded + failed),
        succeeded=succeeded,
        failed=failed,
        skipped=skipped,
        remaining=batch.total - succeeded - failed - skipped,
    )


def _what(outcome: str, error_type: str) -> str:
    status, _, why = outcome.partition(":")
    return _SKIPPED.get(why, why) if status == "skipped" else error_type


def _why(batch: ReplayBatch) -> str:
    """Short reason for the batch's stage; may be empty."""
    if batch.stage is Stage.STOPPED:
        return _STOPPED.get(batch.stop_reason, batch.stop_reason)
    if batch.stage is Stage.PAUSED:
        return "until the circuit breaker is closed" if batch.paused_by == BY_BREAKER else "by a user"
    return batch.waiting


def _example(failure: Failure | None) -> dict[str, str] | None:
    """The text of one letter's error, and its page."""
    if failure is None or not failure.text:
        return None
    url = reverse("admin:dlq_app_deadletter_change", args=[failure.letter_id])
    text = mask_text(failure.text, conf.masking_policy())[:_EXCERPT]
    return {"text": text, "message_id": failure.message_id, "url": url}


def errors_in_words(failed: Sequence[Failure]) -> str:
    """The most frequent errors of a batch with their counts, and the text of the first."""
    first = next((one for one in failed if one.text), None)
    text = mask_text(first.text, conf.masking_policy())[:_EXCERPT] if first else ""
    counted = ", ".join(f"{one.error_type} ({one.count:,})" for one in failed)
    if first is None:
        return counted
    return f"{counted}: {text}" if len(failed) == 1 else f"{counted}. {first.error_type}: {text}"


def _trouble(
    batch: ReplayBatch, came_back: Sequence[tuple[str, str, int]], failures: Sequence[Failure]
) -> dict[str, str] | None:
    """A banner: tone, icon, headline, text."""
    failed = [(error, count) for outcome, error, count in came_back if outcome in (FAILED_SAME, FAILED_NEW)]
    errors = errors_in_words(failures) or ", ".join(f"{error} ({count:,})" for error, count in failed[:3])
    if batch.stage is Stage.STOPPED and batch.stop_reason == CANARY_FAILED:
        rest = f"Nothing after the canary was sent. Errors: {errors}" if errors else ""
        return {"tone": "bad", "icon": "octx", "head": "The canary failed, so the batch stopped.", "rest": rest}
    if batch.stage is Stage.STOPPED:
        head = "Too many failures, so the batch stopped."
        return {"tone": "bad", "icon": "octx", "head": head, "rest": f"Errors: {errors}" if errors else ""}
    if batch.stage is Stage.PAUSED and batch.paused_by == BY_BREAKER:
        head = "Paused by a circuit breaker."
        rest = f"{batch.waiting}. It continues automatically when the breaker closes." if batch.waiting else ""
        return {"tone": "warn", "icon": "pause", "head": head, "rest": rest or "It continues automatically."}
    if batch.stage is Stage.PAUSED:
        return {"tone": "warn", "icon": "pause", "head": "Paused by a user.", "rest": "It continues when resumed."}
    if batch.waiting:
        return {"tone": "warn", "icon": "clock", "head": "Waiting.", "rest": f"{batch.waiting}."}
    return None


def _hides(criteria: LetterCriteria) -> bool:
    """Whether a filter value looks like a secret, which a link to the list would reveal."""
    return any(mask_text(value, conf.masking_policy()) != value for _, value in criteria.as_params())


def _late_url(batch: ReplayBatch) -> str:
    if not batch.late_arrivals or batch.criteria is None or _hides(batch.criteria):
        return ""
    return back_to_list(_since(batch.criteria, batch.created_at))


def _since(criteria: LetterCriteria, at: datetime) -> LetterCriteria:
    query = dict(criteria.as_filter())
    if criteria.failed_to is None or criteria.failed_to > at:
        query["from"] = [at.isoformat(timespec="milliseconds").replace("+00:00", "Z")]
    return LetterCriteria.parse(query)


def _acts(request: HttpRequest, batch: ReplayBatch, waiting: int) -> list[Action]:
    locked = permissions.denial_reason(request, permissions.REPLAY)
    if batch.stage in FINAL:
        return []
    paused = batch.stage is Stage.PAUSED
    by_breaker = paused and batch.paused_by == BY_BREAKER
    if by_breaker:
        resume = "A circuit breaker paused it; it continues automatically."
    else:
        resume = "" if paused else "The batch is not paused."
    pause = "The batch is already paused." if paused and not by_breaker else ""
    nothing = "" if waiting else "Every letter has been sent: nothing is left to cancel."
    return [
        Action(name="resume", label="Resume", icon="replay", locked=locked or resume),
        Action(name="pause", label="Pause", icon="pause", locked=locked or pause),
        Action(name="cancel", label="Cancel the rest", icon="x", locked=locked or nothing, is_danger=True),
    ]


def _again_url(batch: ReplayBatch) -> str:
    """URL to start another batch with the same filter; empty while this one runs, or without a filter."""
    if batch.stage not in FINAL or batch.criteria is None or _hides(batch.criteria):
        return ""
    return f"{reverse('admin:dlq_app_replaybatch_add')}?{batch.criteria.as_query() or 'all=1'}"


def _say(batch: ReplayBatch, waiting: int) -> str:
    if batch.stage in FINAL:
        return _WORDS[batch.stage.value] + "."
    if not waiting:
        return f"Every letter has been sent. The {batch.counts.sent:,} sent cannot be recalled."
    return (
        f"Cancel skips letters not yet sent ({waiting:,}). The {batch.counts.sent:,} already sent cannot be recalled."
    )


def _moment(entry: Mapping[str, Any]) -> dict[str, Any]:
    what = str(entry.get("what", ""))
    return {
        "at": entry.get("at"),
        "what": _WORDS.get(what, what),
        "who": person(str(entry["who"])) if entry.get("who") else "",
        "why": _STOPPED.get(str(entry.get("why", "")), str(entry.get("why", ""))),
    }


def items_url(batch: ReplayBatch, **query: str) -> str:
    """URL of the batch's page with a filter on its letters."""
    here = reverse("admin:dlq_app_replaybatch_change", args=[batch.id])
    return f"{here}?{urlencode(query)}#outcomes" if query else f"{here}#outcomes"
