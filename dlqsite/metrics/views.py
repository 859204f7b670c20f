"""``GET /metrics``, for Prometheus."""

from __future__ import annotations

from typing import Any, ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client.exposition import choose_encoder
from rest_framework.request import Request
from rest_framework.views import APIView

from dlqsite.metrics.collector import registry


class MetricsView(APIView):
    """All metrics in the format that the client accepts."""

    required_scopes: ClassVar = {"GET": "metrics"}
    # A scrape must not fail because other clients read much, nor wait for a Redis that is not responding.
    throttle_classes = ()

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        # The formats of Prometheus are not those of the API.
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return HttpResponse(encode(registry()), content_type=content_type, headers={"Cache-Control": "no-store"})
