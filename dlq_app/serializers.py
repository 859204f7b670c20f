"""What comes out over REST, described for the OpenAPI document. The answers themselves are made in ``wire.py``."""

# DRF takes fields off their class, so one called `source` or `data` overrides nothing.
# mypy: disable-error-code="assignment"

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from dlq_app.criteria import KINDS, PRIORITIES
from dlq_app.states import Resolution, Status
from dlq_app.strategies import Strategy

# ruff: noqa: N815  wire names


@extend_schema_field({"description": "Any JSON value."})
class AnyJson(serializers.JSONField):
    pass


class DeadLetterSummary(serializers.Serializer[Any]):
    _id = serializers.CharField()
    messageId = serializers.CharField()
    type = serializers.CharField()
    status = serializers.ChoiceField([s.value for s in Status])
    resolution = serializers.ChoiceField([r.value for r in Resolution], allow_null=True)
    strategy = serializers.ChoiceField([s.value for s in Strategy])
    errorType = serializers.CharField()
    errorKind = serializers.ChoiceField(list(KINDS))
    errorReason = serializers.CharField(help_text="In lists its beginning.")
    fingerprint = serializers.CharField(help_text="The group: the same for failures of the same kind.")
    retryCount = serializers.IntegerField()
    dlqRetryCount = serializers.IntegerField(help_text="Automatic replays that failed.")
    nextRetryAt = serializers.DateTimeField(allow_null=True)
    source = serializers.CharField(allow_null=True)
    priority = serializers.ChoiceField(list(PRIORITIES))
    tags = serializers.ListField(child=serializers.CharField())
    createdAt = serializers.DateTimeField()
    firstFailedAt = serializers.DateTimeField()
    lastFailedAt = serializers.DateTimeField()
    updatedAt = serializers.DateTimeField()
    resolvedAt = serializers.DateTimeField(allow_null=True)
    links = serializers.DictField(child=serializers.CharField())


class DeadLetterWhole(DeadLetterSummary):
    explanation = serializers.CharField(help_text="Why it is dead and what happens next, in one sentence.")
    errorStack = serializers.CharField()
    originalMessage = serializers.CharField(help_text="As received, byte for byte unless `masked`.")
    payload = AnyJson(help_text="The original message as JSON.")
    masked = serializers.BooleanField(help_text="Whether something in the original message is hidden.")
    metadata = serializers.DictField()
    attempts = serializers.ListField(child=serializers.DictField())
    replayAttempts = serializers.ListField(child=serializers.DictField())
    versions = serializers.ListField(child=serializers.DictField())
    formerMessages = serializers.ListField(child=serializers.DictField())
    notes = serializers.ListField(child=serializers.DictField())
    history = serializers.ListField(child=serializers.DictField())
    queuedAt = serializers.DateTimeField(allow_null=True)
    fence = serializers.IntegerField()
    closedEpoch = serializers.IntegerField()
    replay = serializers.DictField(allow_null=True, help_text="The replay under way.")


class LettersPagination(serializers.Serializer[Any]):
    page = serializers.IntegerField(allow_null=True, help_text="Null when read by cursor.")
    limit = serializers.IntegerField()
    total = serializers.IntegerField(help_text="Exact up to 10 000.")
    totalIsCapped = serializers.BooleanField(help_text="True: there are more than `total`.")
    pages = serializers.IntegerField()
    nextCursor = serializers.CharField(allow_null=True, help_text="Null on the last page.")


class LetterList(serializers.Serializer[Any]):
    data = DeadLetterSummary(many=True)
    pagination = LettersPagination()


class LetterOut(serializers.Serializer[Any]):
    data = DeadLetterWhole()


class ErrorTypeCount(serializers.Serializer[Any]):
    errorType = serializers.CharField()
    count = serializers.IntegerField()


class LetterStats(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    open = serializers.IntegerField()
    byStatus = serializers.DictField(child=serializers.IntegerField())
    topErrorTypes = ErrorTypeCount(many=True)
    byType = serializers.DictField(child=serializers.IntegerField())
    bySource = serializers.DictField(child=serializers.IntegerField())
    oldestOpenSeconds = serializers.IntegerField(allow_null=True)


class LetterStatsOut(serializers.Serializer[Any]):
    data = LetterStats()


class ReplayIn(serializers.Serializer[Any]):
    reason = serializers.CharField(required=False, allow_blank=True, max_length=2000)
    force = serializers.BooleanField(required=False, help_text="Also when resolved or done already.")
    payload = AnyJson(required=False, help_text="Runs instead of the original, which stays as it is.")


class ReplayStarted(serializers.Serializer[Any]):
    replayId = serializers.CharField()
    messageId = serializers.CharField()
    status = serializers.ChoiceField([Status.PROCESSING.value])


class ReplayStartedOut(serializers.Serializer[Any]):
    data = ReplayStarted()


class LetterReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(required=False, allow_blank=True, max_length=2000)


class NoteIn(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=4000)
