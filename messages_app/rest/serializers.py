"""What goes in and comes out over REST, described for the OpenAPI document.

Intake itself reads bytes (``parsing.py``, ``intake.py``): a serializer would neither keep a payload as it was received
nor be quick enough. The tests hold both to the same fields.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field, inline_serializer
from rest_framework import serializers

from messages_app.domain.records import State
from messages_app.envelope import Priority

_INSTANT = "ISO 8601 in UTC with milliseconds."


@extend_schema_field({"description": "Any JSON value."})
class AnyJson(serializers.JSONField):
    pass


class MessageIn(serializers.Serializer[Any]):
    payload = AnyJson(
        help_text="Any JSON value: at most 32 levels, integers of 64 bits, no NaN, no U+0000, no lone surrogates."
    )
    type = serializers.RegexField(
        r"^[a-z][a-z0-9_.-]{0,63}$", default="demo", required=False, help_text="Names the handler."
    )
    messageId = serializers.RegexField(  # noqa: N815
        r"^[A-Za-z0-9_-]{1,64}$",
        required=False,
        help_text="The idempotency key; also taken from the header `Idempotency-Key`. Made here if absent (UUIDv7).",
    )
    priority = serializers.ChoiceField([p.value for p in Priority], default="normal", required=False)
    source = serializers.CharField(  # type: ignore[assignment]  # a field, not the attribute of that name
        max_length=64, required=False, help_text="Default: the API key's name."
    )
    tags = serializers.ListField(
        child=serializers.CharField(max_length=64), max_length=20, required=False, help_text="Labels to search by."
    )
    notBefore = serializers.DateTimeField(  # noqa: N815
        required=False, help_text="First run not before this instant, at most 30 days ahead. The past means now."
    )


class BatchIn(serializers.Serializer[Any]):
    messages = serializers.ListField(child=MessageIn(), min_length=1, max_length=1000)


class SelfLink(serializers.Serializer[Any]):
    self = serializers.CharField()


_NOT_OF_OTHERS = "Absent for a duplicate that another client submitted, unless you have the scope `read`."


class AcceptedMessage(serializers.Serializer[Any]):
    messageId = serializers.CharField()  # noqa: N815
    status = serializers.ChoiceField([s.value for s in State], required=False, help_text=_NOT_OF_OTHERS)
    type = serializers.CharField()
    queuedAt = serializers.DateTimeField(required=False, help_text=f"{_INSTANT} {_NOT_OF_OTHERS}")  # noqa: N815
    duplicate = serializers.BooleanField(required=False, help_text="True when the message was accepted before.")
    links = SelfLink()


class BatchResult(serializers.Serializer[Any]):
    index = serializers.IntegerField(help_text="Position in the request, from 0.")
    status = serializers.ChoiceField(["accepted", "duplicate", "rejected"])
    messageId = serializers.CharField(allow_null=True)  # noqa: N815
    state = serializers.ChoiceField(
        [s.value for s in State], required=False, help_text=f"Unless rejected. {_NOT_OF_OTHERS}"
    )
    problem = serializers.DictField(required=False, help_text="Only when rejected: a problem as for a single message.")


class BatchCounts(serializers.Serializer[Any]):
    accepted = serializers.IntegerField()
    duplicate = serializers.IntegerField()
    rejected = serializers.IntegerField()


class BatchOutcome(serializers.Serializer[Any]):
    results = BatchResult(many=True)
    counts = BatchCounts()


class AttemptOut(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    startedAt = serializers.DateTimeField(allow_null=True)  # noqa: N815
    endedAt = serializers.DateTimeField(allow_null=True)  # noqa: N815
    outcome = serializers.ChoiceField(["succeeded", "failed", "lost", "deferred"])
    errorType = serializers.CharField(allow_null=True)  # noqa: N815
    errorReason = serializers.CharField(allow_null=True)  # noqa: N815
    retryDelayMs = serializers.IntegerField(allow_null=True)  # noqa: N815
    worker = serializers.CharField(allow_null=True)


class RevealIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=2000, help_text="Why the secrets are needed.")


class MessageLinks(serializers.Serializer[Any]):
    self = serializers.CharField()
    deadLetter = serializers.CharField(allow_null=True)  # noqa: N815


class MessageStatus(serializers.Serializer[Any]):
    messageId = serializers.CharField()  # noqa: N815
    type = serializers.CharField()
    status = serializers.ChoiceField([s.value for s in State])
    source = serializers.CharField()  # type: ignore[assignment]
    priority = serializers.ChoiceField([p.value for p in Priority])
    tags = serializers.ListField(child=serializers.CharField())
    queuedAt = serializers.DateTimeField()  # noqa: N815
    notBefore = serializers.DateTimeField(allow_null=True)  # noqa: N815
    finishedAt = serializers.DateTimeField(allow_null=True)  # noqa: N815
    retryCount = serializers.IntegerField(help_text="Retries used up so far.")  # noqa: N815
    nextAttemptAt = serializers.DateTimeField(  # noqa: N815
        allow_null=True, help_text="While it waits for its time."
    )
    attempts = AttemptOut(many=True)
    result = AnyJson(allow_null=True, help_text="What the handler returned.")
    payload = AnyJson(
        allow_null=True, help_text="As received, secrets hidden. Null once dropped, an hour after it was done."
    )
    deadLetterId = serializers.CharField(allow_null=True)  # noqa: N815
    links = MessageLinks()


def enveloped(name: str, content: serializers.Serializer[Any]) -> serializers.Serializer[Any]:
    """``{"data": content}``, the shape of every success."""
    return inline_serializer(name, {"data": content})


Accepted = enveloped("Accepted", AcceptedMessage())
BatchAccepted = enveloped("BatchAccepted", BatchOutcome())
MessageOut = enveloped("Message", MessageStatus())
