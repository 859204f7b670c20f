"""Search words: those of a letter's error when it is stored, and those of a search. Pure.

Case and Unicode form make no difference. A search finds whole words, the parts of ``camelCase``, ``snake_case`` and
letters beside digits, and any two neighbouring characters of scripts without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from dlq_app.domain.masking import MaskingPolicy, mask_text

#: Maximum words of one letter; most errors have fewer than thirty. Each is an entry of an index.
MAX_WORDS = 200
MAX_WORD = 40
#: Maximum words of one search; more would not narrow it.
MAX_WANTED = 40
_SCANNED = 8192
_WORD = re.compile(r"\w{2,}")
#: Han, Kana and Hangul.
_DENSE = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff"
_SEGMENT = re.compile(f"[{_DENSE}]+|[^{_DENSE}]+")
_IS_DENSE = re.compile(f"[{_DENSE}]")


def words(text: str) -> list[str]:
    """The words that a letter must have to match the search ``text``: unique, in lower case and in order.

    >>> words("Gateway did not answer: gateway order-17")
    ['gateway', 'did', 'not', 'answer', 'order', '17']
    >>> words("接続エラー")
    ['接続', '続エ', 'エラ', 'ラー']
    """
    found: dict[str, None] = {}
    for word in _WORD.findall(_normal(text)):
        parts: list[str] = []
        for segment in _SEGMENT.findall(word) if _IS_DENSE.search(word) else ():
            parts += _pairs(segment) if _IS_DENSE.match(segment) else [_kept(segment)]
        found |= dict.fromkeys([part for part in parts if len(part) > 1] or [_kept(word)])
    return list(found)[:MAX_WANTED]


def whole_words(text: str) -> list[str]:
    """The same for letters of earlier versions, until ``refresh_search`` has updated their words."""
    return list(dict.fromkeys(word[:MAX_WORD] for word in _WORD.findall(text[:2000].casefold())))


def error_words(error_type: str, reason: str, masking: MaskingPolicy) -> list[str]:
    """The words of a letter: its error type, whole and in parts, and the first words of its masked error text.

    Words of hidden parts are left out: a search that finds them would confirm a secret.
    """
    found = {_kept(unicodedata.normalize("NFKC", error_type)): None}
    for text in (error_type, mask_text(reason, masking)[:_SCANNED]):
        for word in _WORD.findall(_normal(text)):
            found.update(dict.fromkeys(_known_forms(word) if len(word) <= MAX_WORD else _forms(word)))
            if len(found) >= MAX_WORDS:
                break
    return list(found)[:MAX_WORDS]


def _forms(word: str) -> list[str]:
    """The word and all searchable parts of it."""
    if word.isascii() and word.isalpha() and word[1:].islower():
        return [word.lower()[:MAX_WORD]]  # most words
    return [part for part in (_kept(word), *_all_parts(word)) if len(part) > 1]


#: Errors share their words, and splitting a word is the most expensive step.
_known_forms = lru_cache(maxsize=4096)(_forms)


def _all_parts(word: str) -> Iterator[str]:
    for segment in _SEGMENT.findall(word):
        if _IS_DENSE.match(segment):
            yield from _pairs(segment)
        else:
            yield _kept(segment)
            yield from map(_kept, _parts(segment))


def _parts(word: str) -> Iterator[str]:
    """Splits ``HTTPServer2_error`` into ``HTTP``, ``Server``, ``2``, ``error``."""
    begin = 0
    for at in range(1, len(word)):
        before, here, after = word[at - 1], word[at], word[at + 1 : at + 2]
        if (
            "_" in (before, here)
            or before.isdecimal() != here.isdecimal()
            or (here.isupper() and (before.islower() or after.islower()))
        ):
            yield word[begin:at].strip("_")
            begin = at
    yield word[begin:].strip("_")


def _pairs(text: str) -> Iterator[str]:
    return (text[at : at + 2] for at in range(len(text) - 1))


def _normal(text: str) -> str:
    """One form for equivalent characters; keeps the case, which separates parts."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _kept(word: str) -> str:
    return unicodedata.normalize("NFKC", word.casefold())[:MAX_WORD]
