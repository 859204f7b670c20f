"""The difference of an edited payload: what it shows, and how much work it may take."""

from __future__ import annotations

import difflib
import json
import random

import pytest

from dlq_app.domain.difference import MAX_COMPARED, MAX_DIFF, diff


def unbounded(before: list[int], after: list[int]) -> str:
    one, other = (json.dumps(value, indent=2).splitlines() for value in (before, after))
    return "\n".join(difflib.unified_diff(one, other, "original", "edited", lineterm=""))


@pytest.mark.parametrize("at", [0, 1, 2, 5, 4000, 4997, 4999])
def test_an_edit_is_shown_in_its_place(at: int) -> None:
    before = list(range(5000))
    for after in (
        [*before[:at], -1, *before[at + 1 :]],
        before[:at] + before[at + 1 :],
        [*before[:at], -1, *before[at:]],
    ):
        assert diff(json.dumps(before), json.dumps(after)) == unbounded(before, after)


def test_nothing_differs() -> None:
    assert diff('{"a":1}', '{"a": 1}') == ""


def test_what_is_too_much_to_compare_is_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    original = difflib.unified_diff

    def counting(one: list[str], other: list[str], **options: object) -> object:
        compared.append(max(len(one), len(other)))
        return original(one, other, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(difflib, "unified_diff", counting)
    dice = random.Random(1)
    before = [dice.randrange(104) for _ in range(64_000)]
    after = before[:]
    dice.shuffle(after)

    shown = diff(json.dumps(before), json.dumps(after))

    assert compared == [MAX_COMPARED]
    assert shown.splitlines()[-1] == f"\\ Cut: the {64_002 - MAX_COMPARED} lines from line 1001 on are not compared."
    assert len(shown) <= MAX_DIFF


def test_a_long_difference_is_cut_at_a_line_and_said() -> None:
    shown = diff(json.dumps(["a" * 1000] * 100), json.dumps(["b" * 1000] * 100))

    assert len(shown) <= MAX_DIFF
    assert shown.splitlines()[-1].startswith("\\ Cut: the difference has ")
    assert shown.splitlines()[-2].endswith('",')


def test_a_single_huge_line_is_cut_too() -> None:
    shown = diff('"' + "a" * 200_000 + '"', '"b"')

    assert len(shown) <= MAX_DIFF
    assert "\\ Cut" in shown.splitlines()[-1]
