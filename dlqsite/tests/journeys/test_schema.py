"""Every documented operation, called with generated requests: the answers are those in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from dlqsite.tests.journeys.rig import Rig

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]

#: Requests for each operation and kind of data.
EXAMPLES = 4
#: Operations that report errors elsewhere than in the status: for each item, for each line, or not for a dry run.
REPORT_INSIDE = {"POST /api/messages/batch", "POST /api/dlq/import", "POST /api/dlq/replay-batch"}


@schemathesis.serializer("application/x-ndjson")
def _lines(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")


@pytest.fixture
def known(rig: Rig) -> Iterator[dict[str, str]]:
    """Path parameters that exist: generated ones would only be answered with 404."""
    message_id = rig.submit({"simulateError": True, "errorType": "VALIDATION_ERROR"})
    rig.until(message_id, "dead")
    letter = rig.letter(message_id)
    order = {"ids": [message_id], "scheduledAt": "2099-01-01T00:00:00Z"}
    names = [breaker["name"] for breaker in rig.get("/api/breakers").data]
    yield {
        "message_id": message_id,
        "ref": letter["_id"],
        "fingerprint": letter["fingerprint"],
        "batch_id": rig.post("/api/dlq/replay-batch", order).data["batchId"],
        "name": names[0] if names else "none",
        "loss_id": "none",
    }
    for name in names:
        rig.post(f"/api/breakers/{name}/reset", {"reason": "after the test"})


@pytest.fixture
def document(rig: Rig) -> dict[str, Any]:
    """The OpenAPI document, so strict that an answer with an undocumented field is an error."""
    found: dict[str, Any] = rig.get("/api/schema").json
    for name, component in found["components"]["schemas"].items():
        if not name.endswith("Request") and component.get("type") == "object":
            component["additionalProperties"] = False
    return found


def call(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, rig: Rig, path: dict[str, str]
) -> list[str]:
    """Call the operation with a few generated requests; return what is wrong with the answers."""
    url, headers = rig.connection["url"], {"Authorization": f"Api-Key {rig.connection['apiKey']}"}
    excluded: list[Any] = [positive_data_acceptance]  # a request whose fields are valid may still contradict itself
    if operation.label in REPORT_INSIDE:
        excluded.append(negative_data_rejection)
    wrong: list[str] = []

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(mode, path_parameters=path or None))
    def answers_as_documented(case: Case[Any]) -> None:
        response = case.call(base_url=url, headers=headers)
        try:
            case.validate_response(response, excluded_checks=excluded)
        except* AssertionError as failures:
            wrong.extend(f"{operation.label}: {failure}\n{response.text[:500]}" for failure in failures.exceptions)

    answers_as_documented()
    return wrong


def test_every_operation_answers_as_documented(rig: Rig, known: dict[str, str], document: dict[str, Any]) -> None:
    schema: Any = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]
    wrong: list[str] = []
    for operation in operations:
        path = {parameter.name: known[parameter.name] for parameter in operation.path_parameters}
        wrong += call(operation, GenerationMode.POSITIVE, rig, path)
        if operation.body or len(operation.query):
            wrong += call(operation, GenerationMode.NEGATIVE, rig, path)

    assert not wrong, "\n\n".join(wrong)
    assert len(operations) == sum(len(methods) for methods in document["paths"].values())
