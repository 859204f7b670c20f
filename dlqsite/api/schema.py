"""Parts of the OpenAPI document that all operations share."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction, OpenApiResponse

from dlqsite.access import OPEN
from wire.contract import COUNT, TEXT, Field, Problem, Shape, many, optional

PROBLEM = Shape(
    "Problem",
    Field("type", TEXT),
    Field("title", TEXT),
    Field("status", COUNT),
    Field("detail", TEXT),
    Field("code", TEXT, "Stable, for programs."),
    optional(
        "errors",
        many(
            Shape(
                "ProblemError",
                Field("field", TEXT, "Dotted path of the field; empty for the body as a whole."),
                Field("message", TEXT, "What is wrong, and what is allowed."),
            )
        ),
        "Only for invalid input.",
    ),
)
_ALWAYS = {
    "401": "No usable API key or staff session.",
    "403": "The key or user does not have the scope.",
    "429": "The client exceeded its limit per minute; see `Retry-After`.",
}


#: Problems of every operation with a body.
_WITH_BODY = {
    "400": "The body is invalid; `errors` names each field and what is allowed.",
    "415": "The body is not `application/json`.",
}


class ShapeComponent(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """A ``Shape`` as a component of the document."""

    target_class = Shape

    def get_name(self, auto_schema: AutoSchema, direction: Direction) -> str:
        return str(self.target.name)

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        component: dict[str, Any] = self.target.component(
            lambda shape: auto_schema.resolve_serializer(shape, direction).ref
        )
        # Readers reject unknown fields, so that a typing error is never ignored.
        return {**component, "additionalProperties": False} if direction == "request" else component


class DocumentedView(AutoSchema):
    """Adds the common problems and the required scope to every operation."""

    def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        operation = super().get_operation(*args, **kwargs)
        scope = self._scope()
        if operation and scope not in (None, OPEN):
            # Not in get_description, which the text of a view replaces.
            operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`.".lstrip()
        return operation

    def get_auth(self) -> list[dict[str, list[str]]]:
        if self._scope() == OPEN:
            return [{}]
        return [entry for entry in super().get_auth() if entry]

    def _scope(self) -> str | None:
        return getattr(self.view, "required_scopes", {}).get(self.method)

    def _get_response_for_code(
        self,
        serializer: Any,
        status_code: str,
        media_types: list[str] | None = None,
        direction: Direction = "response",
    ) -> Any:
        if isinstance(serializer, Problem):
            serializer = OpenApiResponse(PROBLEM, description=serializer.description)
            media_types = ["application/problem+json"]
        return super()._get_response_for_code(  # type: ignore[no-untyped-call]
            serializer, status_code, media_types, direction
        )

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        stock = {} if self._scope() == OPEN else dict(_ALWAYS)
        if self.method in ("POST", "PUT", "PATCH"):
            stock |= _WITH_BODY
        for status, text in stock.items():
            if status not in bodies:
                bodies[status] = self._get_response_for_code(Problem(text), status)
        return dict(sorted(bodies.items()))
