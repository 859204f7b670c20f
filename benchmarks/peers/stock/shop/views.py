"""Intake: a serializer, a look at the breaker, one job."""

import uuid
from datetime import UTC, datetime

from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from .enqueueing import enqueue
from .outcomes import may_call


class MetadataSerializer(serializers.Serializer):
    source = serializers.CharField(max_length=100, default="api")
    priority = serializers.ChoiceField(["low", "normal", "high"], default="normal")
    tags = serializers.ListField(child=serializers.CharField(), max_length=20, default=list)


class MessageSerializer(serializers.Serializer):
    id = serializers.CharField(max_length=100, required=False)
    type = serializers.CharField(max_length=100, required=False)
    payload = serializers.DictField()
    metadata = MetadataSerializer(required=False, default=dict)


class MessageView(APIView):
    def post(self, request):
        serializer = MessageSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        if not may_call():
            return Response({"success": False, "error": "circuit open"}, status=503)
        message = dict(serializer.validated_data)
        message["messageId"] = message.pop("id", None) or str(uuid.uuid4())
        message["timestamp"] = datetime.now(UTC).isoformat()
        message["retryCount"] = 0
        enqueue(message)
        return Response({"success": True, "data": {"messageId": message["messageId"], "status": "queued"}}, status=202)
