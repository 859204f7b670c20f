"""Losses of stores as health, the overview and the API show them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit_app.lines import record
from messages_app.rest.contract import LOSS, LOSS_OUT, LOSSES_OUT
from messages_app.store.recorded_outcomes import recorded_outcomes
from messages_app.work import store_losses
from wire.contract import Field, Shape, problems, text
from wire.instants import iso

#: Losses that health names one by one.
MAX_SHOWN = 5


def seen() -> tuple[str, Mapping[str, Any]]:
    """What is wrong, empty when nothing is, and the facts. Raises ``StoreUnavailable`` when Redis does not answer."""
    known = store_losses.open_losses()
    facts: dict[str, Any] = {
        "losses": [LOSS.write(loss) for loss in known.losses[-MAX_SHOWN:]],
        "unacknowledged": len(known.losses),
    }
    if known.incomplete:
        facts["incomplete"] = known.incomplete
    if not known.losses:
        return "", facts
    newest = known.losses[-1]
    more = f" And {len(known.losses) - 1} more." if len(known.losses) > 1 else ""
    return f"{store_losses.sentence(newest)}{more} {store_losses.advice(newest)}", facts


def lacking() -> tuple[str, Mapping[str, Any]]:
    """What the dead letters lack, as cron found it by comparing. Raises ``StoreUnavailable``."""
    number = recorded_outcomes().lacking_count()
    if not number:
        return "", {"lacking": 0}
    since = datetime.fromtimestamp(min(recorded_outcomes().lacking().values(), default=0) / 1000, UTC)
    outcomes = f"{number:,} outcome{'' if number == 1 else 's'}"
    detail = (
        f"At least {outcomes} in Redis are missing from the dead letters. "
        "MongoDB was restored, or letters were deleted. "
        f"Run manage.py bring_again --since {since:%Y-%m-%dT%H:%M:%SZ}."
    )
    return detail, {"lacking": number, "since": iso(since)}


def log_acknowledged(who: str, loss_id: str, why: str) -> None:
    """Add a line to the audit log."""
    record(who, "acknowledge loss", kind="message", object_id=loss_id, name=f"loss {loss_id}", why=why)


REASON_IN = Shape(
    "ReasonData", Field("reason", text(store_losses.MAX_REASON, blank=False), "What happened, and how you found out.")
)


class LossesView(APIView):
    """What the stores have forgotten."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listLosses",
        tags=["System"],
        summary="List losses of stores",
        description=(
            "Every time that Redis or MongoDB fell back to an earlier state or was emptied. The "
            "newest comes first. Health is `degraded` until each is acknowledged."
        ),
        responses={200: LOSSES_OUT},
    )
    def get(self, request: Request) -> Response:
        return Response(LOSSES_OUT.write({"data": store_losses.all_losses()}))


class AcknowledgeView(APIView):
    """A person knows of a loss."""

    required_scopes: ClassVar = {"POST": "admin"}

    @extend_schema(
        operation_id="acknowledgeLoss",
        tags=["System"],
        summary="Acknowledge a loss",
        description="Ends its alarm. The user, time and reason are kept. Acknowledging it again changes nothing.",
        request=REASON_IN,
        responses={200: LOSS_OUT, **problems(s404="`loss_not_found`")},
    )
    def post(self, request: Request, loss_id: str) -> Response:
        reason = REASON_IN.read(request.data)["reason"].strip()
        new = store_losses.acknowledge([loss_id], actor=getattr(request, "actor", ""), reason=reason)
        if new:
            log_acknowledged(getattr(request, "actor", ""), loss_id, reason)
        (loss,) = (loss for loss in store_losses.all_losses() if loss.id == loss_id)
        return Response(LOSS_OUT.write({"data": loss}))
