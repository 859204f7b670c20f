"""Health: is the process alive, can it serve, and how is every part."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlqsite.access import OPEN


class LiveView(APIView):
    """The process answers. Depends on nothing else."""

    required_scopes = {"GET": OPEN}  # noqa: RUF012
    authentication_classes = ()
    throttle_classes = ()

    def get(self, request: Request) -> Response:
        return Response({"data": {"status": "alive"}})


class ReadyView(LiveView):
    pass


class HealthView(LiveView):
    pass
