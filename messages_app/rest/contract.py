"""Requests and answers of intake, described for the OpenAPI document.

Intake reads and writes bytes (``intake.py``, ``status.py``): it keeps a payload as it was received and has no time for
more. Tests check that both have the fields declared here.
"""

from __future__ import annotations

from dlq_app.domain.labels import MAX_LABEL
from dlq_app.domain.limits import MAX_REASON
from messages_app.domain.records import State
from messages_app.envelope import DEFAULT_TYPE, Priority
from messages_app.work.store_losses import sentence
from wire.contract import (
    ANY,
    BOOLEAN,
    COUNT,
    INSTANT,
    OBJECT,
    TEXT,
    Field,
    Shape,
    choice,
    envelope,
    kind,
    many,
    nullable,
    optional,
    text,
)

MAX_BATCH = 1000
MAX_TAGS = 20

_LABEL = kind({"type": "string", "minLength": 1, "maxLength": MAX_LABEL})
MESSAGE_IN = Shape(
    "MessageIn",
    Field("payload", ANY, "Any JSON value: at most 32 levels, 64-bit integers, no NaN, no U+0000, no lone surrogates."),
    optional(
        "type",
        kind({"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"}),
        "Selects the handler.",
        extra={"default": DEFAULT_TYPE},
    ),
    optional(
        "messageId",
        kind({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}),
        "The idempotency key; also read from the header `Idempotency-Key`. Default: a new UUIDv7.",
    ),
    optional("priority", choice(Priority), extra={"default": "normal"}),
    optional("source", _LABEL, "Default: the API key's name."),
    optional("tags", many(_LABEL, maxItems=MAX_TAGS), "Labels to search by."),
    optional(
        "notBefore", INSTANT, "Do not run before this instant, at most 30 days ahead. An instant in the past means now."
    ),
)
BATCH_IN = Shape("BatchIn", Field("messages", many(MESSAGE_IN, minItems=1, maxItems=MAX_BATCH)))
REVEAL_IN = Shape("RevealIn", Field("reason", text(MAX_REASON, blank=False), "Why you need to see the secrets."))

_NOT_OF_OTHERS = "Absent for a duplicate that another client submitted, unless you have the scope `read`."
_SELF = Shape("SelfLink", Field("self", TEXT))
ACCEPTED_OUT = envelope(
    "Accepted",
    Shape(
        "AcceptedMessage",
        Field("messageId", TEXT),
        optional("status", choice(State), _NOT_OF_OTHERS),
        Field("type", TEXT),
        optional("queuedAt", INSTANT, f"ISO 8601 in UTC with milliseconds. {_NOT_OF_OTHERS}"),
        optional("duplicate", BOOLEAN, "True when the message was accepted before."),
        Field("links", _SELF),
    ),
)
BATCH_ACCEPTED_OUT = envelope(
    "BatchAccepted",
    Shape(
        "BatchOutcome",
        Field(
            "results",
            many(
                Shape(
                    "BatchResult",
                    Field("index", COUNT, "Position in the request, from 0."),
                    Field("status", choice(["accepted", "duplicate", "rejected"])),
                    Field("messageId", nullable(TEXT)),
                    optional("state", choice(State), f"Unless rejected. {_NOT_OF_OTHERS}"),
                    optional("problem", OBJECT, "Only when rejected: a problem as for a single message."),
                )
            ),
        ),
        Field(
            "counts",
            Shape("BatchCounts", Field("accepted", COUNT), Field("duplicate", COUNT), Field("rejected", COUNT)),
        ),
    ),
)

_ATTEMPT = Shape(
    "AttemptOut",
    Field("number", COUNT),
    Field("startedAt", nullable(INSTANT)),
    Field("endedAt", nullable(INSTANT)),
    Field("outcome", choice(["succeeded", "failed", "lost", "deferred"])),
    Field("errorType", nullable(TEXT)),
    Field("errorReason", nullable(TEXT)),
    Field("retryDelayMs", nullable(COUNT)),
    Field("worker", nullable(TEXT)),
)
MESSAGE_OUT = envelope(
    "Message",
    Shape(
        "MessageStatus",
        Field("messageId", TEXT),
        Field("type", TEXT),
        Field("status", choice(State)),
        Field("source", TEXT),
        Field("priority", choice(Priority)),
        Field("tags", many(TEXT)),
        Field("queuedAt", INSTANT),
        Field("notBefore", nullable(INSTANT)),
        Field("finishedAt", nullable(INSTANT)),
        Field("retryCount", COUNT, "Retries used so far."),
        Field("nextAttemptAt", nullable(INSTANT), "Of a message that is scheduled or waits for a retry."),
        Field("attempts", many(_ATTEMPT)),
        Field("result", nullable(ANY), "The handler's result."),
        Field("payload", nullable(ANY), "As received, secrets hidden. Null from an hour after the message is done."),
        Field("deadLetterId", nullable(TEXT)),
        Field("traceId", nullable(TEXT), "The trace of the message, 32 hexadecimal digits."),
        Field("links", Shape("MessageLinks", Field("self", TEXT), Field("deadLetter", nullable(TEXT)))),
    ),
)

LOSS = Shape(
    "LossData",
    Field("id", TEXT),
    Field("store", choice(["redis", "mongodb"])),
    Field(
        "from", nullable(INSTANT), "Time of the last state that the store still has; null if there is none.", "since"
    ),
    Field("to", INSTANT, "Time of the last state that is known to have existed.", "until"),
    Field("seenAt", INSTANT),
    Field("missing", COUNT, "Redis: messages accepted between `from` and `to`. MongoDB: recorded outcomes."),
    Field("moves", COUNT, "Claims and outcomes between `from` and `to`; Redis only."),
    Field("open", COUNT, "Messages that had not ended at `to`; Redis only."),
    Field("sentence", TEXT, "What happened, as a sentence.", lambda loss, _: sentence(loss)),
    Field(
        "acknowledged",
        nullable(
            Shape(
                "LossAcknowledged",
                Field("at", INSTANT, get="acknowledged_at"),
                Field("by", TEXT, get="acknowledged_by"),
                Field("reason", TEXT),
            )
        ),
        get=lambda loss, _: loss if loss.acknowledged_at else None,
    ),
)
LOSS_OUT = envelope("Loss", LOSS)
LOSSES_OUT = envelope("Losses", many(LOSS))
