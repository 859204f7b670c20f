"""The fields of an error are computed once for equal errors, never shared by different ones, and limited in number."""

from __future__ import annotations

from typing import Any

import pytest

from dlq_app.domain import fingerprint as fingerprints
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.store import documents
from dlq_app.store.documents import error_fields
from dlq_app.testing import a_death

POLICY = MaskingPolicy()


@pytest.mark.parametrize(
    "change",
    [
        {"error_type": "NETWORK_ERROR"},
        {"error_kind": "permanent"},
        {"error_reason": "another reason"},
        {"error_stack": 'Traceback (most recent call last):\n  File "/srv/shop/a.py", line 1, in b\nE: x\n'},
        # The same characters, divided in another way.
        {"error_type": "TIMEOUT_ERRORpayments-api", "error_reason": " did not answer within 10 s"},
    ],
)
def test_different_errors_have_different_fields(change: dict[str, Any]) -> None:
    before, changed = a_death(), a_death(**change)

    first, second = error_fields(before, POLICY), error_fields(changed, POLICY)

    assert first != second
    assert (first, second) == (error_fields(before, POLICY), error_fields(changed, POLICY))
    assert {name: second[name] for name in ("errorType", "errorKind", "errorReason", "errorStack")} == {
        "errorType": changed.error_type,
        "errorKind": changed.error_kind,
        "errorReason": changed.error_reason,
        "errorStack": changed.error_stack,
    }


def test_a_new_policy_hides_words_of_a_known_error() -> None:
    death = a_death(error_reason="sesame=hunter2 was rejected")

    assert "hunter2" in error_fields(death, POLICY)["searchWords"]
    assert "hunter2" not in error_fields(death, MaskingPolicy(contains=("sesame",)))["searchWords"]


@pytest.mark.parametrize("name", ["error_type", "error_kind", "error_reason", "error_stack"])
def test_long_texts_are_not_kept(name: str) -> None:
    documents._known_fields.cache_clear()

    change: dict[str, Any] = {name: "x" * documents._MAX_CACHED}
    fields = error_fields(a_death(**change), POLICY)

    assert fields["fingerprint"]
    assert documents._known_fields.cache_info().currsize == 0


def test_a_limited_number_of_errors_is_kept() -> None:
    for number in range(300):
        stack = f'  File "/srv/shop/a{number}.py", line 1, in b\n'
        error_fields(a_death(error_reason=f"order {number}", error_stack=stack), POLICY)

    assert documents._known_fields.cache_info().currsize == 128
    assert fingerprints._known_frame.cache_info().currsize == 128


def test_letters_do_not_share_what_one_of_them_may_change() -> None:
    first, second = error_fields(a_death(), POLICY), error_fields(a_death(), POLICY)
    first["errorReason"] = "changed"

    assert second["errorReason"] == a_death().error_reason
