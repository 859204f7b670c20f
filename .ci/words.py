"""Find words that CONTRIBUTING.md ("Words") asks to avoid, in docs, docstrings, comments, templates and texts.

    python .ci/words.py            exit 1 if a file has more of them than words.json allows
    python .ci/words.py --update   lower the allowed numbers to the present ones; never raises a number
    python .ci/words.py FILE...    list every occurrence in these files

``words.json`` lists the files that had such words before the check. Their numbers only decrease, and a file that is not
listed must have none.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = Path(__file__).with_name("words.json")
#: Pattern → what to write instead.
WORDS = {
    r"who(so)?ever": "anyone, a user, a client",
    r"whosoever": "anyone",
    r"anew": "again",
    r"so many": "this number of, up to",
    r"the house": "the system",
    r"told": "reported, recorded, shown",
    r"tells": "reports, shows, contains",
    r"(is|are|was|were|be|goes|went) away": "unavailable",
    r"by (itself|themselves)": "automatically",
    r"nobody": "no one, nothing",
    r"(some|any|every)body": "a user, anyone, everyone",
    r"mend(s|ed|ing)?": "fix",
    r"stands? (in|at|for|beside|behind|here|there|still)": "is in, is listed in",
    r"hears?|hearing": "receives, notices",
    r"hand(s|ed|ing)? back": "requeue, return",
    r"shall": "must, will",
    r"whereof|thereof|wherefore": "of which",
    r"lets? go on": "continue",
    r"says? so": "reports it",
    r"as (it|they) must be": "valid",
    r"knows? (nobody|nothing) of": "is independent of",
    r"at most so": "up to",
    r"it be": "it is",
    r"what was (accepted|sent|typed|asked)": "the accepted, sent, typed, requested ...",
    r"of those who": "of users who",
}
PATTERN = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
SUFFIXES = {".md", ".py", ".html", ".js", ".txt", ".toml", ".lua", ".sh", ".ps1", ".example", ".crontab", ".yml"}
#: Not checked: exact descriptions that change only with the protocol, the past, tests, this list, other people's code.
UNCHECKED = re.compile(
    r"^(docs/(lifecycle|protocol)\.md|model/|CONTRIBUTING\.md|\.ci/words\.|requirements)|/tests/|/vendor/|/migrations/"
)
_STRINGS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}


def files() -> Iterator[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if Path(name).suffix in SUFFIXES and not UNCHECKED.search(name) and (ROOT / name).exists():
            yield name


def lines(name: str) -> Iterator[tuple[int, str]]:
    """Lines to check, with their numbers: of Python comments and strings, of the changelog the newest part."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".py"):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in _STRINGS:
                yield from enumerate(token.string.splitlines(), token.start[0])
        return
    if name == "CHANGELOG.md":
        text = text.partition("\n## v")[0]
    yield from enumerate(text.splitlines(), 1)


def found(name: str) -> list[str]:
    return [
        f"{name}:{number}: {match[0]!r}: write {instead(match[0])}"
        for number, line in lines(name)
        for match in PATTERN.finditer(line)
    ]


def instead(word: str) -> str:
    return next(advice for pattern, advice in WORDS.items() if re.fullmatch(pattern, word, re.IGNORECASE))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--update", action="store_true")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    allowed: dict[str, int] = json.loads(ALLOWED.read_text(encoding="utf-8")) if ALLOWED.exists() else {}
    present = {name: hits for name in options.files or files() if (hits := found(name))}
    if options.update:
        lower = {name: min(len(present.get(name, ())), most) for name, most in allowed.items()}
        kept = {name: number for name, number in sorted(lower.items()) if number}
        ALLOWED.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    limits = {} if options.files else allowed
    failed = [hit for name, hits in present.items() if len(hits) > limits.get(name, 0) for hit in hits]
    for hit in failed:
        sys.stdout.write(f"{hit}\n")
    if failed and not options.files:
        sys.stderr.write('Words to avoid: CONTRIBUTING.md, "Words". Rewrite at least as many as are new.\n')
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
