"""The id of a request: the client's, if it is safe."""

from __future__ import annotations

import re
from os import urandom

from dlq_app import conf
from dlq_app.domain.masking import MaskingPolicy, mask_text
from wire.errors import PolicyError

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def request_id_of(given: str) -> str:
    """``given``, the client's ``X-Request-Id``, or a new one if it could forge a log line or looks like a secret."""
    if not _REQUEST_ID.fullmatch(given):
        return urandom(16).hex()
    try:
        policy = conf.masking_policy()
    except PolicyError:
        policy = MaskingPolicy()  # a system check reports it
    # Most ids differ: the quick check keeps them out of the cache of mask_text.
    is_secret = policy.may_show(given) and mask_text(given, policy) != given
    return urandom(16).hex() if is_secret else given
