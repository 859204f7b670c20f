"""A shape writes, reads and describes the same fields."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from wire.contract import (
    BOOLEAN,
    COUNT,
    INSTANT,
    TEXT,
    Field,
    Invalid,
    Shape,
    choice,
    integer,
    many,
    nullable,
    optional,
    text,
)


@dataclass
class Pet:
    id: str
    born_at: datetime | None
    legs: int = 4


PET = Shape(
    "Pet",
    Field("_id", TEXT, "Its id.", "id"),
    Field("bornAt", nullable(INSTANT)),
    Field("legs", COUNT),
    Field("owner", TEXT, get=lambda pet, context: f"{context} of {pet.id}"),
)
INNER = Shape("Inner", Field("kind", choice(["a", "b"])), optional("size", COUNT), null_is_absent=True)
BODY = Shape(
    "Body",
    Field("name", text(5, blank=False)),
    optional("maxLegs", integer(0, 8), extra={"default": 4}),
    optional("isWild", BOOLEAN, get="wild"),
    optional("inner", INNER),
)


def ref(shape: Shape) -> dict[str, Any]:
    return {"$ref": shape.name}


def refusal(shape: Shape, body: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        shape.read(body)
    return [(one["field"], one["message"]) for one in caught.value.errors]


def test_values_come_from_attributes_from_functions_and_from_dicts() -> None:
    born = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)

    assert PET.write(Pet("p-1", born), "owner") == {
        "_id": "p-1",
        "bornAt": "2026-01-31T08:30:00.000Z",
        "legs": 4,
        "owner": "owner of p-1",
    }
    box = Shape("Box", Field("data", many(PET)), Field("pageCount", COUNT))
    assert box.write({"data": [Pet("p-2", None)], "pageCount": 1}, "x")["data"][0]["bornAt"] is None


def test_the_schema_has_every_field() -> None:
    assert PET.component(ref) == {
        "type": "object",
        "properties": {
            "_id": {"type": "string", "description": "Its id."},
            "bornAt": {"type": "string", "format": "date-time", "nullable": True},
            "legs": {"type": "integer"},
            "owner": {"type": "string"},
        },
        "required": ["_id", "bornAt", "legs", "owner"],
    }
    assert Shape("Box", Field("pet", nullable(PET), "One.")).component(ref)["properties"]["pet"] == {
        "allOf": [{"$ref": "Pet"}],
        "nullable": True,
        "description": "One.",
    }
    assert INNER.component(ref)["properties"] == {
        "kind": {"type": "string", "enum": ["a", "b"]},
        "size": {"type": "integer", "nullable": True},
    }


def test_a_body_is_read_by_attribute() -> None:
    assert BODY.read({"name": "rex", "maxLegs": 4, "isWild": False}) == {"name": "rex", "max_legs": 4, "wild": False}
    assert BODY.read({"name": "rex", "inner": {"kind": "a", "size": None}})["inner"] == {"kind": "a"}


def test_every_problem_names_its_field() -> None:
    assert refusal(BODY, []) == [("", "must be a JSON object")]
    assert refusal(BODY, {"nmae": 1, "maxLegs": 9, "inner": {"kind": "c"}}) == [
        ("nmae", "unknown field; known are name, maxLegs, isWild, inner"),
        ("name", "is required"),
        ("maxLegs", "must be a whole number from 0 to 8"),
        ("inner.kind", "must be one of a, b"),
    ]
    assert refusal(BODY, {"name": " "}) == [("name", "must not be empty")]
    assert refusal(BODY, {"name": None}) == [("name", "must be a text of at most 5 characters")]
    assert len(refusal(BODY, {"name": "rex"} | {f"x{number}": 1 for number in range(99)})) == 50
