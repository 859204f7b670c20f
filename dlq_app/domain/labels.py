"""What a tag, a source or an error type may be at the doors, and what a filter takes for one. Pure.

One rule, so that everything that is let in can be found: a filter takes every text that could ever be stored.
"""

from __future__ import annotations

import re

MAX_LABEL = 64
MAX_ERROR_TYPE = 100
#: Longer values are in no letter.
MAX_FILTER = 200

_NO_CONTROLS = "[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
#: A tag or a source, at intake and at import: no control characters, line or paragraph separators. Everything else is
#: kept as it comes: spaces at the ends, joiners, and characters that are not seen, which pages write out.
LABEL = re.compile(f"{_NO_CONTROLS}{{1,{MAX_LABEL}}}")
#: The same for the type of an error that is imported.
ERROR_TYPE = re.compile(f"{_NO_CONTROLS}{{1,{MAX_ERROR_TYPE}}}")
ACCEPTED = "without control characters"
