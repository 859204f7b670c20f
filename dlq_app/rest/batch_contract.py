"""Answers about replay batches, each declared once. What starts a batch is declared in ``domain.replay_batch``."""

from __future__ import annotations

from typing import Any

from dlq_app.domain.masking import mask
from dlq_app.domain.replay_batch import Stage
from dlq_app.rest.contract import LETTER_SUMMARY, LINKS, Masking
from wire.contract import (
    BOOLEAN,
    COUNT,
    INSTANT,
    NUMBER,
    TEXT,
    Field,
    Shape,
    Type,
    choice,
    envelope,
    many,
    mapping,
    nullable,
)

#: Empty texts are shown as null.
_TEXT_OR_NULL = Type(nullable(TEXT).schema, lambda value, _: value or None)
_PAGINATION = Shape(
    "CursorPagination", Field("limit", COUNT), Field("nextCursor", nullable(TEXT), "Null on the last page.")
)


def _filter(batch: Any, masking: Masking) -> Any:
    if batch.ids_given or batch.criteria is None:
        return None
    found = batch.criteria.as_filter()
    return found if masking is None else mask(found, masking)


_BATCH = Shape(
    "ReplayBatchFields",
    Field("batchId", TEXT, get="id"),
    Field("name", TEXT),
    Field("reason", TEXT),
    Field("stage", choice(Stage)),
    Field("stopReason", _TEXT_OR_NULL, "Why it stopped or was cancelled."),
    Field(
        "stopErrors",
        many(Shape("ReplayErrorCount", Field("errorType", TEXT), Field("count", COUNT))),
        "Of a batch that stopped automatically: the errors of its failed letters by then, most frequent first.",
        lambda batch, _: [{"errorType": error_type, "count": count} for error_type, count in batch.stop_errors],
    ),
    Field("pausedBy", _TEXT_OR_NULL, "`operator` or `breaker`."),
    Field("waiting", _TEXT_OR_NULL, "What it is waiting for."),
    Field("total", COUNT, "Letters in its plan."),
    Field("lateArrivals", COUNT, "Letters that match the filter and came after the plan: not replayed."),
    Field(
        "counts",
        Shape(
            "ReplayCounts",
            Field("sent", COUNT, "Submitted to intake."),
            Field("succeeded", COUNT),
            Field("failed", COUNT),
            Field("skipped", COUNT, "Not replayed, because the letter had changed."),
            Field("remaining", COUNT, "Without an outcome, sent or not."),
        ),
    ),
    Field("filter", nullable(mapping(many(TEXT))), "Null with ids.", _filter),
    Field("limit", nullable(COUNT)),
    Field("ratePerSecond", nullable(NUMBER)),
    Field("canary", nullable(Shape("Canary", Field("size", COUNT), Field("minSuccess", COUNT)))),
    Field("maxFailures", nullable(COUNT)),
    Field("maxFailureRate", nullable(NUMBER)),
    Field("poison", BOOLEAN, "Whether it replays letters with `WORKER_LOST`."),
    Field("requestedBy", TEXT),
    Field("createdAt", INSTANT),
    Field("scheduledAt", nullable(INSTANT)),
    Field("startedAt", nullable(INSTANT)),
    Field("finishedAt", nullable(INSTANT), "When its last letter got its outcome."),
    Field("updatedAt", INSTANT),
    Field(
        "links",
        LINKS,
        get=lambda batch, _: {
            "self": f"/api/dlq/replay-batches/{batch.id}",
            "items": f"/api/dlq/replay-batches/{batch.id}/items",
        },
    ),
)
#: A batch with the secrets hidden in every text that users wrote.
BATCH = Type(_BATCH.schema, lambda batch, masking: _BATCH.write(batch.masked(masking), masking))
BATCH_OUT = envelope("ReplayBatchOut", BATCH)
BATCH_LIST = Shape("ReplayBatchList", Field("data", many(BATCH)), Field("pagination", _PAGINATION))

DRY_RUN = Shape(
    "DryRunFields",
    Field("count", COUNT, "Letters that would be replayed."),
    Field("sample", many(LETTER_SUMMARY), "The first of them, at most 10."),
    Field("byErrorType", mapping(COUNT)),
    Field("byType", mapping(COUNT)),
    Field(
        "breakers",
        many(
            Shape(
                "LetterBreaker",
                Field("name", TEXT),
                Field("state", TEXT),
                Field("types", many(TEXT), "Types of letters that it protects."),
            )
        ),
        "Circuit breakers of these letters. The batch waits for one that is not CLOSED.",
    ),
    Field(
        "leftOut",
        many(
            Shape(
                "LettersLeftOut",
                Field(
                    "why",
                    TEXT,
                    "`resolved`, `in_flight` (a replay is in progress), `in_batch` (part of an unfinished batch), "
                    "`poison` (`WORKER_LOST`, without `poison`), `limit`, `not_found`, `unreadable`.",
                ),
                Field("count", COUNT),
            )
        ),
        "Letters that match and would not be replayed.",
    ),
    Field(
        "failuresAtMost",
        nullable(COUNT),
        "With `maxFailures` or `maxFailureRate`: how many may fail before the batch stops.",
    ),
)
DRY_RUN_OUT = envelope("DryRunOut", DRY_RUN)

ITEM_LIST = Shape(
    "ReplayItemList",
    Field(
        "data",
        many(
            Shape(
                "ReplayItem",
                Field("messageId", TEXT),
                Field("deadLetterId", TEXT, get="letter_id"),
                Field(
                    "outcome",
                    _TEXT_OR_NULL,
                    "`succeeded`, `failed_same`, `failed_new`, `skipped:…`; null: not known yet.",
                ),
                Field("errorType", _TEXT_OR_NULL),
            )
        ),
    ),
    Field("pagination", _PAGINATION),
)
REPORT_OUT = envelope(
    "ReplayReportOut",
    many(
        Shape(
            "ReplayOutcomeCount",
            Field("outcome", _TEXT_OR_NULL, get=lambda row, _: row[0]),
            Field("errorType", _TEXT_OR_NULL, get=lambda row, _: row[1]),
            Field("count", COUNT, get=lambda row, _: row[2]),
        )
    ),
)
