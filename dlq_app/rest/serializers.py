"""What comes out over REST, described for the OpenAPI document. The answers themselves are made in ``wire.py``."""

# DRF takes fields off their class, so one called `source` or `data` overrides nothing.
# mypy: disable-error-code="assignment"

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

from dlq_app.domain.criteria import FIELD_NAMES, KINDS, MAX_VALUES, PRIORITIES
from dlq_app.domain.group_states import GroupState
from dlq_app.domain.limits import MAX_REASON
from dlq_app.domain.replay_batch import MAX_CANARY, MAX_IDS, MAX_LETTERS, MAX_NAME, MAX_RATE, Stage
from dlq_app.domain.states import Resolution, Status
from dlq_app.domain.strategies import Strategy

# ruff: noqa: N815  wire names


_FOREIGN = "An entry with `imported: true` came with an import: its names are those of the file."


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


class LetterImported(serializers.Serializer[Any]):
    by = serializers.CharField()
    at = serializers.DateTimeField()


class DeadLetterWhole(DeadLetterSummary):
    explanation = serializers.CharField(help_text="Why it is dead and what happens next, in one sentence.")
    errorStack = serializers.CharField()
    originalMessage = serializers.CharField(help_text="As received, byte for byte unless `masked`.")
    payload = AnyJson(help_text="The original message as JSON.")
    masked = serializers.BooleanField(help_text="Whether something in the original message is hidden.")
    metadata = serializers.DictField()
    attempts = serializers.ListField(child=serializers.DictField())
    replayAttempts = serializers.ListField(child=serializers.DictField(), help_text=_FOREIGN)
    versions = serializers.ListField(child=serializers.DictField(), help_text=_FOREIGN)
    formerMessages = serializers.ListField(child=serializers.DictField())
    notes = serializers.ListField(child=serializers.DictField(), help_text=_FOREIGN)
    history = serializers.ListField(child=serializers.DictField(), help_text=_FOREIGN)
    imported = LetterImported(allow_null=True, help_text="Who imported it here, and when; null: nobody.")
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


class UnreadableDocument(serializers.Serializer[Any]):
    _id = serializers.CharField()
    why = serializers.CharField()


class LetterList(serializers.Serializer[Any]):
    data = DeadLetterSummary(many=True)
    pagination = LettersPagination()
    unreadable = UnreadableDocument(
        many=True,
        help_text="Documents in the collection that are no letters, whatever was asked; at most 20. Lists, exports and "
        "batches leave them out.",
    )


class LetterOut(serializers.Serializer[Any]):
    data = DeadLetterWhole()


class ErrorTypeCount(serializers.Serializer[Any]):
    errorType = serializers.CharField()
    count = serializers.IntegerField()


class ReplayOutcomeCounts(serializers.Serializer[Any]):
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()


class HourCounts(serializers.Serializer[Any]):
    since = serializers.DateTimeField(help_text="Beginning of the first of 24 clock hours.")
    inflow = serializers.ListField(
        child=serializers.IntegerField(), help_text="Letters written in each; the last hour is still going on."
    )
    outflow = serializers.ListField(child=serializers.IntegerField(), help_text="Letters resolved in each.")


class LetterStats(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    open = serializers.IntegerField()
    byStatus = serializers.DictField(child=serializers.IntegerField())
    topErrorTypes = ErrorTypeCount(many=True)
    byType = serializers.DictField(child=serializers.IntegerField(), help_text="At most 50, most first.")
    bySource = serializers.DictField(child=serializers.IntegerField(), help_text="At most 50, most first.")
    oldestOpenSeconds = serializers.IntegerField(allow_null=True, help_text="As of `asOf`.")
    replaySuccessRate = serializers.FloatField(
        allow_null=True, help_text="0 to 1, of the letters whose last replay ended in these hours; null without any."
    )
    replays = ReplayOutcomeCounts(help_text="Letters whose last replay ended in these hours, and how.")
    hours = HourCounts()
    groups = serializers.IntegerField(help_text="How many groups there are.")
    asOf = serializers.DateTimeField(help_text="When these figures were right. With many letters up to minutes ago.")


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


class RevealReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=2000, help_text="Why the secrets are needed.")


class NoteIn(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=4000)


class IgnoreIn(serializers.Serializer[Any]):
    reason = serializers.CharField(required=False, allow_blank=True, max_length=2000)
    until = serializers.DateTimeField(required=False, help_text="An instant to come.")
    untilPerHour = serializers.IntegerField(
        required=False, min_value=1, max_value=1_000_000, help_text="Ends when more arrive in one clock hour."
    )
    untilCount = serializers.IntegerField(
        required=False, min_value=1, max_value=1_000_000, help_text="Ends when so many more have died."
    )


class GroupTypeCount(serializers.Serializer[Any]):
    type = serializers.CharField()
    count = serializers.IntegerField()


class GroupTrend(serializers.Serializer[Any]):
    since = serializers.DateTimeField(help_text="Beginning of the first of 24 clock hours.")
    counts = serializers.ListField(child=serializers.IntegerField(), help_text="Letters that arrived in each.")


class GroupLastReplay(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    outcome = serializers.ChoiceField(["succeeded", "failed_same", "failed_new"])


class GroupSaid(serializers.Serializer[Any]):
    state = serializers.ChoiceField([GroupState.RESOLVED.value, GroupState.IGNORED.value])
    by = serializers.CharField()
    at = serializers.DateTimeField()
    reason = serializers.CharField()
    until = serializers.DateTimeField(allow_null=True)
    untilPerHour = serializers.IntegerField(allow_null=True)
    untilCount = serializers.IntegerField(allow_null=True)
    ended = serializers.ChoiceField(
        ["time", "rate", "count"], allow_null=True, help_text="Why ignoring is over; null while it is not."
    )


class GroupNote(serializers.Serializer[Any]):
    text = serializers.CharField()
    by = serializers.CharField()
    at = serializers.DateTimeField()


class LetterGroup(serializers.Serializer[Any]):
    fingerprint = serializers.CharField()
    state = serializers.ChoiceField([state.value for state in GroupState])
    errorType = serializers.CharField()
    errorKind = serializers.CharField()
    message = serializers.CharField(help_text="The error text with # for what varies.")
    sample = serializers.CharField(help_text="The error text of one letter.")
    frame = serializers.CharField(help_text="Application code in the stack of one letter; may be empty.")
    types = GroupTypeCount(many=True, help_text="At most five, most first.")
    count = serializers.IntegerField()
    open = serializers.IntegerField()
    firstSeen = serializers.DateTimeField()
    lastSeen = serializers.DateTimeField()
    trend = GroupTrend()
    lastReplay = GroupLastReplay(allow_null=True)
    replays = ReplayOutcomeCounts(help_text="Letters whose last replay ended in these 24 clock hours, and how.")
    said = GroupSaid(allow_null=True, help_text="What somebody said last about its state.")
    note = GroupNote(allow_null=True)
    asOf = serializers.DateTimeField()
    history = serializers.ListField(
        child=serializers.DictField(), required=False, help_text="What people did with it; not in lists."
    )
    links = serializers.DictField(child=serializers.CharField())


class GroupOut(serializers.Serializer[Any]):
    data = LetterGroup()


class GroupsPagination(serializers.Serializer[Any]):
    limit = serializers.IntegerField()
    total = serializers.IntegerField()
    totalIsCapped = serializers.BooleanField(help_text="True: there are more than the 2000 that are looked at.")
    nextCursor = serializers.CharField(allow_null=True, help_text="Null on the last page.")


class GroupList(serializers.Serializer[Any]):
    data = LetterGroup(many=True)
    pagination = GroupsPagination()
    states = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="How many fit the filters in each state, whatever `state` was asked.",
    )
    asOf = serializers.DateTimeField()


_TEXTS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": MAX_VALUES}]}


@extend_schema_field(
    {
        "type": "object",
        "description": "As the parameters of the list of dead letters: one value, or a list that means any of them.",
        "properties": dict.fromkeys(FIELD_NAMES, _TEXTS),
        "additionalProperties": False,
        "example": {"errorType": ["TIMEOUT_ERROR"], "status": "dlq_failed"},
    }
)
class FilterField(serializers.JSONField):
    pass


class CanaryIn(serializers.Serializer[Any]):
    size = serializers.IntegerField(min_value=1, max_value=MAX_CANARY, help_text="Letters that are sent first.")
    minSuccess = serializers.IntegerField(
        required=False, min_value=0, max_value=MAX_CANARY, help_text="How many must succeed; all of them unless given."
    )


class ReplayBatchIn(serializers.Serializer[Any]):
    filter = FilterField(required=False)
    ids = serializers.ListField(
        child=serializers.RegexField("^[A-Za-z0-9_-]{1,64}$"),
        required=False,
        min_length=1,
        max_length=MAX_IDS,
        help_text="`_id` or message id of each letter, instead of a filter.",
    )
    all = serializers.BooleanField(required=False, help_text="Needed for a filter that fits every letter.")
    dryRun = serializers.BooleanField(required=False, help_text="Only say what would be done.")
    name = serializers.CharField(required=False, allow_blank=True, max_length=MAX_NAME)
    reason = serializers.CharField(required=False, allow_blank=True, max_length=MAX_REASON)
    ratePerSecond = serializers.FloatField(
        required=False, min_value=0.01, max_value=MAX_RATE, help_text="As fast as they are handled unless given."
    )
    canary = CanaryIn(required=False)
    maxFailures = serializers.IntegerField(
        required=False, min_value=0, max_value=MAX_LETTERS, help_text="It stops by itself when more have failed."
    )
    maxFailureRate = serializers.FloatField(
        required=False, min_value=0, max_value=1, help_text="The same for the share of failures among the outcomes."
    )
    limit = serializers.IntegerField(
        required=False, min_value=1, max_value=MAX_LETTERS, help_text="At most so many, longest dead first."
    )
    scheduledAt = serializers.DateTimeField(required=False, help_text="Not before this instant.")


class Canary(serializers.Serializer[Any]):
    size = serializers.IntegerField()
    minSuccess = serializers.IntegerField()


class ReplayCounts(serializers.Serializer[Any]):
    sent = serializers.IntegerField(help_text="Handed to intake.")
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    skipped = serializers.IntegerField(help_text="Not replayed: something else had happened to the letter.")
    remaining = serializers.IntegerField(help_text="Without an outcome so far, sent or not.")


class ReplayErrorCount(serializers.Serializer[Any]):
    errorType = serializers.CharField()
    count = serializers.IntegerField()


class ReplayBatchFields(serializers.Serializer[Any]):
    batchId = serializers.CharField()
    name = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    stage = serializers.ChoiceField([s.value for s in Stage])
    stopReason = serializers.CharField(allow_null=True, help_text="Why it stopped or was cancelled.")
    stopErrors = ReplayErrorCount(
        many=True, help_text="Stopped by itself: what its letters had failed with by then, most first."
    )
    pausedBy = serializers.CharField(allow_null=True, help_text="`operator` or `breaker`.")
    waiting = serializers.CharField(allow_null=True, help_text="What it waits for at the moment.")
    total = serializers.IntegerField(help_text="Letters in its plan.")
    lateArrivals = serializers.IntegerField(help_text="Fit the filter and came after the plan: not replayed.")
    counts = ReplayCounts()
    filter = serializers.DictField(
        allow_null=True,
        child=serializers.ListField(child=serializers.CharField()),
        help_text="Null with ids.",
    )
    limit = serializers.IntegerField(allow_null=True)
    ratePerSecond = serializers.FloatField(allow_null=True)
    canary = Canary(allow_null=True)
    maxFailures = serializers.IntegerField(allow_null=True)
    maxFailureRate = serializers.FloatField(allow_null=True)
    requestedBy = serializers.CharField()
    createdAt = serializers.DateTimeField()
    scheduledAt = serializers.DateTimeField(allow_null=True)
    startedAt = serializers.DateTimeField(allow_null=True)
    finishedAt = serializers.DateTimeField(allow_null=True, help_text="When its last letter had its outcome.")
    updatedAt = serializers.DateTimeField()
    links = serializers.DictField(child=serializers.CharField())


class ReplayBatchOut(serializers.Serializer[Any]):
    data = ReplayBatchFields()


class CursorPagination(serializers.Serializer[Any]):
    limit = serializers.IntegerField()
    nextCursor = serializers.CharField(allow_null=True, help_text="Null on the last page.")


class ReplayBatchList(serializers.Serializer[Any]):
    data = ReplayBatchFields(many=True)
    pagination = CursorPagination()


class LetterBreaker(serializers.Serializer[Any]):
    name = serializers.CharField()
    state = serializers.CharField()
    types = serializers.ListField(child=serializers.CharField(), help_text="Types of letters that it guards.")


class LettersLeftOut(serializers.Serializer[Any]):
    why = serializers.CharField(
        help_text="`resolved`, `in_flight` (a replay is under way), `in_batch` (an unfinished replay batch has it), "
        "`limit`, `not_found`."
    )
    count = serializers.IntegerField()


class DryRunFields(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="Letters that would be replayed.")
    sample = DeadLetterSummary(many=True, help_text="The first of them, at most 10.")
    byErrorType = serializers.DictField(child=serializers.IntegerField())
    byType = serializers.DictField(child=serializers.IntegerField())
    breakers = LetterBreaker(many=True, help_text="On their way. One that is not CLOSED makes the batch wait.")
    leftOut = LettersLeftOut(many=True, help_text="Letters that fit and would not be replayed.")
    failuresAtMost = serializers.IntegerField(
        allow_null=True,
        help_text="With `maxFailures` or `maxFailureRate`: how many may fail before the batch stops.",
    )


class DryRunOut(serializers.Serializer[Any]):
    data = DryRunFields()


DryRunOrBatchOut = PolymorphicProxySerializer(
    component_name="DryRunOrBatch", serializers=[DryRunOut, ReplayBatchOut], resource_type_field_name=None
)


class ReplayItem(serializers.Serializer[Any]):
    messageId = serializers.CharField()
    deadLetterId = serializers.CharField()
    outcome = serializers.CharField(
        allow_null=True, help_text="`succeeded`, `failed_same`, `failed_new`, `skipped:…`; null: not known yet."
    )
    errorType = serializers.CharField(allow_null=True)


class ReplayItemList(serializers.Serializer[Any]):
    data = ReplayItem(many=True)
    pagination = CursorPagination()


class ReplayOutcomeCount(serializers.Serializer[Any]):
    outcome = serializers.CharField(allow_null=True)
    errorType = serializers.CharField(allow_null=True)
    count = serializers.IntegerField()


class ReplayReportOut(serializers.Serializer[Any]):
    data = ReplayOutcomeCount(many=True)


class RejectedLine(serializers.Serializer[Any]):
    line = serializers.IntegerField(help_text="From 1.")
    error = serializers.CharField()


class ImportSummary(serializers.Serializer[Any]):
    lines = serializers.IntegerField()
    imported = serializers.IntegerField()
    unchanged = serializers.IntegerField(help_text="Their messages have letters already.")
    rejectedCount = serializers.IntegerField()
    rejected = RejectedLine(many=True, help_text="The first 1000.")
    complete = serializers.BooleanField(
        allow_null=True, help_text="Whether all came that the file's last line counts; null without such a line."
    )


class ImportOut(serializers.Serializer[Any]):
    data = ImportSummary()
