"""OpenAPI: what is said once for every operation."""

from __future__ import annotations

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

from dlqsite.access import OPEN


class ProblemError(serializers.Serializer[Any]):
    field = serializers.CharField(help_text="Dotted path of the field; empty for the body as a whole.")
    message = serializers.CharField(help_text="What is wrong, and what is allowed.")


class Problem(serializers.Serializer[Any]):
    """RFC 9457 problem details."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable, for programs.")
    errors = ProblemError(  # type: ignore[assignment]  # a field, not the attribute of that name
        many=True, required=False, help_text="Only for invalid input."
    )


_ALWAYS = {
    "401": "No usable API key or staff session.",
    "403": "The key or person lacks the scope.",
    "429": "The client's limit per minute is used up; see `Retry-After`.",
}


#: And those of every operation that has a body.
_WITH_BODY = {
    "400": "The body is not as it must be; `errors` names each field and what is allowed.",
    "415": "The body is not `application/json`.",
}


def close_requests(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """After everything: no request takes a field that is not named, so that a slip of the pen is never ignored."""
    for name, schema in result.get("components", {}).get("schemas", {}).items():
        if name.endswith("Request") and schema.get("type") == "object":
            schema["additionalProperties"] = False
    return result


class DocumentedView(AutoSchema):
    """Adds to every operation the problems that any operation may answer, and the scope it needs."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        operation = super().get_operation(*args, **kwargs)
        scope = self._scope()
        if operation and scope not in (None, OPEN):
            # Here and not in get_description, which a view's own text replaces.
            operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`.".lstrip()
        return operation

    def get_auth(self) -> list[dict[str, list[str]]]:
        if self._scope() == OPEN:
            return [{}]
        return [entry for entry in super().get_auth() if entry]

    def _scope(self) -> str | None:
        return getattr(self.view, "required_scopes", {}).get(self.method)

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        stock = {} if self._scope() == OPEN else dict(_ALWAYS)
        if self.method in ("POST", "PUT", "PATCH"):
            stock |= _WITH_BODY
        for status, text in stock.items():
            if status not in bodies:
                bodies[status] = self._get_response_for_code(  # type: ignore[no-untyped-call]
                    OpenApiResponse(Problem, description=text), status, media_types=["application/problem+json"]
                )
        return dict(sorted(bodies.items()))
