"""What is not seen is written out, the same way in every place, and what is copied means what it shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata

import pytest

from wire.visible_text import json_text, one_line, shell_flag, shell_word, visible

SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
#: Blank or steering although Unicode calls them marks, letters or symbols.
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u2800\u3164\ufe0e\ufe0f\uffa0\U0001d159\U000e0100\U000e01ef"
HOSTILE = (
    "--all",
    "-h",
    "--",
    "it's",
    '"quoted"',
    "$(id)",
    "`id`",
    "a\nb",
    "\n--all",
    "--all\u202e",
    "-n\u200b",
    "!x !! !$",
    "100% \\n %s",
    "*",
    "~root",
    "; id",
    "a\u202eb\u200d\u00a0c",
    "\U000e0067\\'%",
    "\x1b[2J",
    " ends ",
    "#no",
    "日本",
    "",
)


def test_every_invisible_category_is_written_out() -> None:
    missed = [
        f"U+{code:04X}"
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs")
        and chr(code) not in " \t\n\r"
        and visible(chr(code)) == chr(code)
    ]

    assert missed == []
    assert all(visible(one) != one for one in BLANK)


@pytest.mark.parametrize("text", ["Grüße, 日本語, हिन्दी, עברית", "a\tb\nc\r\n", "🙂 é e\u0301", "x" * 100])
def test_what_is_seen_stays(text: str) -> None:
    assert visible(text) == text


def test_an_escape_names_its_character() -> None:
    assert visible("a\u202e\x85\U000e0067\ud800") == "a\\u202e\\u0085\\U000e0067\\ud800"
    assert one_line("a\r\n\tb\x1b[2J") == "a b\\u001b[2J"


@pytest.mark.parametrize("text", [*HOSTILE, *BLANK, "\x7f"])
def test_json_keeps_its_meaning(text: str) -> None:
    shown = json_text({text: [text]}, indent=2)

    assert json.loads(shown) == {text: [text]}
    assert visible(shown) == shown


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_hands_over_what_was_meant(shell: str) -> None:
    words = " ".join(shell_word(text) for text in HOSTILE)
    command = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]

    printed = subprocess.run(
        [*command, f"printf '%s\\0' {words}"], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"}
    ).stdout

    assert printed.decode().split("\0")[:-1] == list(HOSTILE)
    assert visible(words) == words
    assert "\n" not in words


def test_a_value_is_never_taken_for_a_flag() -> None:
    assert shell_flag("--tag", "eu") == "--tag eu"
    assert shell_flag("--tag", "--all") == "--tag=--all"
