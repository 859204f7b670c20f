"""The texts allowed as a tag, a source or an error type, at intake, at import and in filters. Pure.

A filter accepts every text that a letter can have, so that every accepted message can be found.
"""

from __future__ import annotations

import re

MAX_LABEL = 64
MAX_ERROR_TYPE = 100
#: No letter has a longer value.
MAX_FILTER = 200

_NO_CONTROLS = "[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
#: A tag or a source, at intake and at import: no control characters, line or paragraph separators. Everything else is
#: stored unchanged: spaces at the ends, joiners, and invisible characters, which pages show as escapes.
LABEL = re.compile(f"{_NO_CONTROLS}{{1,{MAX_LABEL}}}")
#: The same for the type of an imported error.
ERROR_TYPE = re.compile(f"{_NO_CONTROLS}{{1,{MAX_ERROR_TYPE}}}")
ACCEPTED = "without control characters"
