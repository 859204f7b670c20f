"""Following a child's output: warnings are picked out, the file stays small."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from management.child_log import SHOWN, WIDTH, ChildLog


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


HOSTILE = {
    "half a surrogate pair": (
        rb'{"level": "error", "event": "half \ud83e", "k\ud83e": "\udfff"}',
        "error: half \\ud83e",
    ),
    "NUL and controls": (
        rb'{"level": "error", "event": "a\u0000b\u001b[2Jc\u202ed"}',
        "error: a\\x00b\\x1b[2Jc\\u202ed",
    ),
    "raw controls": (b"ERROR \x1b[2J\x00\x9b", "ERROR \\x1b[2J\\x00\N{REPLACEMENT CHARACTER}"),
    "no UTF-8": (b"ERROR \xff\xfe\xed\xa0\x80", "ERROR \N{REPLACEMENT CHARACTER}"),
    "deep JSON": (b'{"level": "error", "event": ' + b"[" * 100_000, ""),
    "deep and whole": (b'{"level": "error", "event": "e", "x": ' + b"[" * 900 + b"]" * 900 + b"}", "error: e x=[[["),
    "number without end": (b'{"level": "error", "event": ' + b"9" * 5000 + b"}", ""),
    "level of another kind": (b'{"level": {"error": 1}, "event": "Error"}', ""),
    "several megabytes": (b"ERROR " + b"x" * 900_000, "ERROR xxx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_line_of_a_child_can_end_or_steer_who_shows_it(tmp_path: Path, name: str) -> None:
    line, shown = HOSTILE[name]
    log = ChildLog(tmp_path / "a.log")

    os.write(log.open(), line + b"\nERROR the next line\n")

    *found, last = log.follow()
    assert last == "ERROR the next line"
    assert [text[: len(shown)] for text in found] == ([shown] if shown else [])
    assert all(text.isprintable() and len(text) <= WIDTH for text in found)
    "".join(found).encode()


def test_a_log_that_cannot_be_copied_is_cut_all_the_same(tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "a.log", limit=1000)
    (tmp_path / "a.log.1").mkdir()  # as a full disk does: the copy fails

    append(log, "x" * 1001 + "\n")
    said = [log.follow(), log.follow()]
    append(log, "ERROR after the cut\n")

    assert (len(said[0]), said[1]) == (1, [])
    assert "cannot be followed" in said[0][0]
    assert log.path.stat().st_size < 1000
    assert log.follow() == ["ERROR after the cut"]
