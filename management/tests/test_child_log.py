"""Following a child's output: warnings are picked out, the file stays small."""

from __future__ import annotations

import json
import os
from pathlib import Path

from management.child_log import SHOWN, ChildLog


def append(log: ChildLog, text: str) -> None:
    os.write(log.open(), text.encode())


def test_only_warnings_are_shown_and_only_once(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log")

    append(log, "starting\n2026-11-24 ERROR no route to host\n")

    assert log.follow() == ["2026-11-24 ERROR no route to host"]
    assert log.follow() == []


def test_structured_lines_are_told_by_their_level(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log")

    for level, event in (("info", "message failed with TIMEOUT_ERROR"), ("warning", "the breaker opened")):
        append(log, json.dumps({"level": level, "event": event, "breaker": "orders", "time": "x"}) + "\n")

    assert log.follow() == ["warning: the breaker opened breaker=orders"]


def test_half_a_line_waits_for_the_rest(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log")

    append(log, "ERROR half")
    first = log.follow()
    append(log, " and whole\n")

    assert first == []
    assert log.follow() == ["ERROR half and whole"]


def test_a_flood_is_counted(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log")

    append(log, "ERROR again\n" * (SHOWN + 7))

    assert log.follow() == ["ERROR again"] * SHOWN + [f"... 7 more in {log.path}"]


def test_the_file_is_cut_at_its_limit_and_one_older_file_kept(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log", limit=1000)

    append(log, "x" * 999 + "\n" + "y\n")
    log.follow()
    append(log, "ERROR after the cut\n")

    assert log.follow() == ["ERROR after the cut"]
    assert log.path.read_text() == "ERROR after the cut\n"
    assert (tmp_path / "a.log.1").read_text().startswith("xxx")


def test_last_words_are_those_of_the_present_child(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log")
    append(log, "words of an earlier child\n")

    log.open()
    before = log.last_words()
    append(log, "first\nKeyError: 'b'\n\n")

    assert before == ""
    assert log.last_words() == "KeyError: 'b'"
