"""The words by which a letter is found: from its error when it is stored, from a search when it is asked. Pure."""

from __future__ import annotations

import re

from dlq_app.masking import MaskingPolicy, mask_text

#: Words kept for one letter. The first words of an error tell most.
MAX_WORDS = 24
MAX_WORD = 40
_SCANNED = 2000
_WORD = re.compile(r"\w{2,}")


def words(text: str) -> list[str]:
    """Different words of two or more letters or digits, in lower case and in order, each cut to ``MAX_WORD``.

    >>> words("Gateway did not answer: gateway order-17")
    ['gateway', 'did', 'not', 'answer', 'order', '17']
    """
    return list(dict.fromkeys(word[:MAX_WORD] for word in _WORD.findall(text[:_SCANNED].casefold())))


def error_words(error_type: str, reason: str, masking: MaskingPolicy) -> list[str]:
    """What a letter is found by: its error type as one word, and the first words of the error as it is shown.

    Words of masked parts are left out: a search that finds them would confirm what is hidden.
    """
    shown = words(mask_text(reason, masking))
    return list(dict.fromkeys([error_type.casefold()[:MAX_WORD], *shown]))[:MAX_WORDS]
