"""What goes in and comes out over REST."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil
from typing import Any

from rest_framework import serializers

from breaker_app.errors import InvalidRequest
from breaker_app.policy import BreakerPolicy, WhenOpen
from breaker_app.services import Card
from breaker_app.states import MAX_REASON, State, Transition, Why

_INSTANT = "ISO 8601 in UTC with milliseconds."


class ReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=MAX_REASON, help_text="Why; kept with the transition and in the audit.")


class CountsOut(serializers.Serializer[Any]):
    total = serializers.IntegerField(help_text="Outcomes in the window.")
    failures = serializers.IntegerField()
    slow = serializers.IntegerField()


class ProbesOut(serializers.Serializer[Any]):
    permitted = serializers.IntegerField(help_text="Probes that one half-open period admits.")
    underWay = serializers.IntegerField()  # noqa: N815
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    lost = serializers.IntegerField(help_text="Never answered; their permits were given to others.")


class ThresholdsOut(serializers.Serializer[Any]):
    failureThreshold = serializers.FloatField()  # noqa: N815
    timeWindowMs = serializers.IntegerField()  # noqa: N815
    minimumRequests = serializers.IntegerField()  # noqa: N815
    openTimeoutMs = serializers.IntegerField()  # noqa: N815
    halfOpenMaxRequests = serializers.IntegerField()  # noqa: N815
    halfOpenSuccessThreshold = serializers.FloatField()  # noqa: N815
    permitLeaseMs = serializers.IntegerField()  # noqa: N815
    slowCallMs = serializers.IntegerField(allow_null=True)  # noqa: N815
    slowCallThreshold = serializers.FloatField(allow_null=True)  # noqa: N815


class LinksOut(serializers.Serializer[Any]):
    self = serializers.CharField()


class BreakerOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    state = serializers.ChoiceField([state.value for state in State])
    due = serializers.BooleanField(help_text="OPEN and its time is up: the next call is a probe.")
    counts = CountsOut()
    failureRate = serializers.FloatField(help_text="0 to 1.")  # noqa: N815
    slowRate = serializers.FloatField(help_text="0 to 1.")  # noqa: N815
    probes = ProbesOut()
    opens = serializers.IntegerField(help_text="Times it opened so far; a reset does not forget them.")
    generation = serializers.IntegerField(help_text="Rises with every change of state.")
    retryAfter = serializers.IntegerField(  # noqa: N815
        allow_null=True, help_text="Seconds until a call may be admitted; 0 now; null: until a person decides."
    )
    whenOpen = serializers.ChoiceField([choice.value for choice in WhenOpen])  # noqa: N815
    thresholds = ThresholdsOut()
    links = LinksOut()


class TransitionOut(serializers.Serializer[Any]):
    at = serializers.DateTimeField(help_text=_INSTANT)
    from_ = serializers.ChoiceField([state.value for state in State])
    to = serializers.ChoiceField([state.value for state in State])
    generation = serializers.IntegerField()
    why = serializers.ChoiceField([why.value for why in Why])
    reason = serializers.CharField(help_text="What the person wrote, or the numbers that decided.")
    actor = serializers.CharField(help_text="`key:NAME`, `user:NAME`, `cli:NAME`; `system` for automatic changes.")
    total = serializers.IntegerField()
    failures = serializers.IntegerField()

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """``from`` is a word of the language, so no attribute can have that name."""
        return {name.rstrip("_"): field for name, field in super().get_fields().items()}


class BreakerDetailOut(BreakerOut):
    transitions = TransitionOut(many=True, help_text="The last 100, newest first.")


class OnePage(serializers.Serializer[Any]):
    page = serializers.IntegerField()
    limit = serializers.IntegerField()
    total = serializers.IntegerField()
    pages = serializers.IntegerField()


class BreakerListOut(serializers.Serializer[Any]):
    data = BreakerOut(many=True)  # type: ignore[assignment]
    pagination = OnePage()


class BreakerShownOut(serializers.Serializer[Any]):
    data = BreakerDetailOut()  # type: ignore[assignment]


def reason_in(body: object) -> str:
    """The reason in a request's body. Raises ``InvalidRequest``; how long it may be is the breaker's to say."""
    if not isinstance(body, dict):
        raise _invalid("", "A JSON object with a reason is required.")
    unknown = sorted(str(key) for key in body if key != "reason")
    if unknown:
        raise _invalid(unknown[0], "Unknown field; only reason is read.")
    reason = body.get("reason", "")
    if not isinstance(reason, str):
        raise _invalid("reason", "It has to be a string.")
    return reason


def _invalid(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {message}" if field else message, errors=[{"field": field, "message": message}])


def breaker_out(card: Card) -> dict[str, Any]:
    """One breaker as it stands."""
    seen = card.seen
    return {
        "name": card.name,
        "state": seen.state.value,
        "due": seen.due,
        "counts": {"total": seen.total, "failures": seen.failures, "slow": seen.slow},
        "failureRate": round(seen.failure_rate, 4),
        "slowRate": round(seen.slow_rate, 4),
        "probes": {
            "permitted": card.policy.half_open_max_requests,
            "underWay": seen.leases,
            "succeeded": seen.probes_succeeded,
            "failed": seen.probes_failed,
            "lost": seen.probes_lost,
        },
        "opens": seen.opens,
        "generation": seen.generation,
        "retryAfter": None if seen.retry_after_ms < 0 else ceil(seen.retry_after_ms / 1_000),
        "whenOpen": card.policy.when_open.value,
        "thresholds": _thresholds(card.policy),
        "links": {"self": f"/api/breakers/{card.name}"},
    }


def detail_out(card: Card) -> dict[str, Any]:
    """One breaker with its story."""
    return {**breaker_out(card), "transitions": [transition_out(one) for one in card.transitions]}


def transition_out(one: Transition) -> dict[str, Any]:
    """One change of state."""
    at = datetime.fromtimestamp(one.at_ms / 1_000, UTC)
    return {
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "from": one.source.value,
        "to": one.to.value,
        "generation": one.generation,
        "why": one.why.value,
        "reason": one.reason or reason_of(one),
        "actor": one.actor or "system",
        "total": one.total,
        "failures": one.failures,
    }


def reason_of(one: Transition) -> str:
    """An automatic change in words, with the numbers that decided."""
    total, failures = one.total, one.failures
    return {
        Why.FAILURE_RATE: f"{failures} of {total} calls failed",
        Why.SLOW_RATE: f"too many of {total} calls were slow",
        Why.OPEN_TIME_OVER: "the open time was over and a call came",
        Why.PROBES_SUCCEEDED: f"{total - failures} of {total} probes succeeded",
        Why.PROBES_FAILED: f"{failures} of {total} probes failed",
        Why.PROBES_LOST: "too many probes never answered",
        Why.MANUAL: "by hand",
    }[one.why]


def _thresholds(policy: BreakerPolicy) -> dict[str, Any]:
    return {
        "failureThreshold": policy.failure_threshold,
        "timeWindowMs": policy.time_window_ms,
        "minimumRequests": policy.minimum_requests,
        "openTimeoutMs": policy.open_timeout_ms,
        "halfOpenMaxRequests": policy.half_open_max_requests,
        "halfOpenSuccessThreshold": policy.half_open_success_threshold,
        "permitLeaseMs": policy.permit_lease_ms,
        "slowCallMs": policy.slow_call_ms,
        "slowCallThreshold": policy.slow_call_threshold,
    }
