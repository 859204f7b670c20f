"""JSON objects of the REST API, each declared once.

The fields of a ``Shape`` give its writer, its reader and its OpenAPI schema, so the three cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import Any, Final, NoReturn

from wire import fields
from wire.errors import ServiceError
from wire.fields import FieldError, field_error
from wire.instants import iso

Schema = dict[str, Any]
#: The schema that refers to a shape: ``{"$ref": …}``.
Ref = Callable[["Shape"], Schema]
#: From a value and the writer's context (such as a masking policy) to JSON.
Write = Callable[[Any, Any], Any]
#: From JSON to a value; raises ``ValueError`` with what is allowed.
Read = Callable[[Any], Any]

#: Errors that one answer lists.
MAX_ERRORS: Final = 50
_CAPITAL = re.compile("[A-Z]")


class Invalid(ServiceError, ValueError):
    """A JSON value that a shape does not allow; ``errors`` has the field and message of each problem."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(fields.summary(errors), errors=errors)


def _unchanged(value: Any, context: Any) -> Any:
    return value


def _no_reader(value: Any) -> NoReturn:
    raise NotImplementedError("this type is only written")


@dataclass(frozen=True, slots=True)
class Type:
    """A kind of JSON value."""

    schema: Callable[[Ref], Schema]
    write: Write = _unchanged
    read: Read = _no_reader


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a shape.

    ``get`` is the attribute that holds its value, by default ``name`` in snake case, or a function of the object and
    the writer's context.
    """

    name: str
    type: Type | Shape
    doc: str = ""
    get: str | Callable[[Any, Any], Any] | None = None
    required: bool = True
    #: Additions to the schema, such as ``default``.
    extra: Mapping[str, Any] | None = None

    @property
    def attribute(self) -> str:
        return self.get if isinstance(self.get, str) else _CAPITAL.sub(lambda found: f"_{found[0].lower()}", self.name)

    def schema(self, ref: Ref) -> Schema:
        found = self.type.schema(ref)
        added: Schema = {"description": self.doc} if self.doc else {}
        added |= self.extra or {}
        # Beside $ref OpenAPI 3.0 ignores everything else.
        return {"allOf": [found], **added} if added and "$ref" in found else {**found, **added}

    def getter(self) -> Callable[[Any, Any], Any]:
        if callable(self.get):
            return self.get
        name, attribute = self.name, attrgetter(self.attribute)
        return lambda source, context: source[name] if type(source) is dict else attribute(source)


optional = partial(Field, required=False)


class Shape:
    """A JSON object with named fields, and a component of the OpenAPI document."""

    def __init__(self, name: str, *members: Field | Iterable[Field], null_is_absent: bool = False) -> None:
        self.name = name
        self.fields = tuple(one for entry in members for one in ([entry] if isinstance(entry, Field) else entry))
        self.names = tuple(field.name for field in self.fields)
        #: Read ``null`` as a field that is left out.
        self.null_is_absent = null_is_absent
        self._writers = [(field.name, field.getter(), field.type.write) for field in self.fields]

    def schema(self, ref: Ref) -> Schema:
        return ref(self)

    def component(self, ref: Ref) -> Schema:
        """The schema of the object."""
        properties = {field.name: field.schema(ref) for field in self.fields}
        if self.null_is_absent:
            properties |= {one.name: nullable_schema(properties[one.name]) for one in self.fields if not one.required}
        required = sorted(field.name for field in self.fields if field.required)
        return {"type": "object", "properties": properties, **({"required": required} if required else {})}

    def write(self, source: Any, context: Any = None) -> dict[str, Any]:
        """The object as JSON. ``source`` is an object with attributes, or a dict by wire name."""
        return {name: write(get(source, context), context) for name, get, write in self._writers}

    def read(self, body: Any) -> dict[str, Any]:
        """The fields of a JSON object, by attribute; raises ``Invalid`` with every problem."""
        if not isinstance(body, Mapping):
            raise Invalid([field_error("", "must be a JSON object")])
        errors = [fields.unknown_field(name, self.names) for name in body if name not in self.names]
        del errors[MAX_ERRORS:]
        found: dict[str, Any] = {}
        for field in self.fields:
            if field.name not in body or (self.null_is_absent and body[field.name] is None):
                if field.required:
                    errors.append(field_error(field.name, "is required"))
                continue
            try:
                found[field.attribute] = field.type.read(body[field.name])
            except Invalid as problem:
                errors += [
                    field_error(f"{field.name}.{one['field']}".rstrip("."), one["message"]) for one in problem.errors
                ]
            except (ValueError, OverflowError) as problem:
                errors.append(field_error(field.name, str(problem)))
        if errors:
            raise Invalid(errors[:MAX_ERRORS])
        return found


# --- types ---


def kind(schema: Schema, write: Write = _unchanged, read: Read = _no_reader) -> Type:
    """A type with a fixed schema."""
    return Type(lambda ref: dict(schema), write, read)


def nullable_schema(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"allOf": [schema], "nullable": True}
    return {**schema, "nullable": True} | ({"enum": [*schema["enum"], None]} if "enum" in schema else {})


def nullable(inner: Type | Shape) -> Type:
    """``inner`` or null."""
    return Type(
        lambda ref: nullable_schema(inner.schema(ref)),
        lambda value, context: None if value is None else inner.write(value, context),
    )


def many(inner: Type | Shape, **limits: Any) -> Type:
    """A list of ``inner``."""
    return Type(
        lambda ref: {"type": "array", "items": inner.schema(ref), **limits},
        lambda values, context: [inner.write(value, context) for value in values],
    )


def mapping(inner: Type | Shape) -> Type:
    """An object with any names, each with an ``inner``."""
    return Type(
        lambda ref: {"type": "object", "additionalProperties": inner.schema(ref)},
        lambda values, context: {name: inner.write(value, context) for name, value in dict(values).items()},
    )


def choice(allowed: Iterable[str]) -> Type:
    """One of these texts, or of the values of an enum."""
    values = tuple(one.value if isinstance(one, Enum) else one for one in allowed)
    return kind(
        {"type": "string", "enum": list(values)},
        lambda value, _: getattr(value, "value", value),
        fields.one_of(values),
    )


def text(maximum: int, *, blank: bool = True) -> Type:
    """A text of at most ``maximum`` characters."""
    schema: Schema = {"type": "string", "maxLength": maximum}
    read_any = fields.text(maximum)

    def read(value: Any) -> str:
        found = read_any(value)
        if not blank and not found.strip():
            raise ValueError("must not be empty")
        return found

    return kind(schema if blank else {**schema, "minLength": 1}, read=read)


def integer(minimum: int, maximum: int) -> Type:
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return kind(schema, read=fields.integer(minimum, maximum))


def number(minimum: float, maximum: float) -> Type:
    schema = {"type": "number", "format": "double", "minimum": minimum, "maximum": maximum}
    return kind(schema, read=fields.number(minimum, maximum))


TEXT: Final = kind({"type": "string"})
COUNT: Final = kind({"type": "integer"})
NUMBER: Final = kind({"type": "number", "format": "double"})
BOOLEAN: Final = kind({"type": "boolean"}, read=fields.boolean)
ANY: Final = kind({})
OBJECT: Final = kind({"type": "object", "additionalProperties": {}})
INSTANT: Final = kind({"type": "string", "format": "date-time"}, lambda moment, _: iso(moment), fields.instant)


def envelope(name: str, content: Type | Shape) -> Shape:
    """``{"data": content}``: the body of a successful answer."""
    return Shape(name, Field("data", content))


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that an operation can answer with, for the OpenAPI document."""

    description: str


def problems(**descriptions: str) -> dict[Any, Any]:
    """The problems of an operation: ``s404="…"`` describes the one with status 404."""
    return {int(status[1:]): Problem(description) for status, description in descriptions.items()}
