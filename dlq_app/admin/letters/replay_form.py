"""Fields of the forms that replay one letter."""

from __future__ import annotations

import re

from django.http import HttpRequest

from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.states import Status
from dlq_app.services.replaying import new_replay_id

_REPLAY_ID = re.compile(r"r-[0-9a-f]{32}\Z")


def replay_id(request: HttpRequest) -> str:
    """The id in the form, so that submitting it twice starts one replay; a new one if there is none."""
    given = request.POST.get("replay_id", "")
    return given if _REPLAY_ID.match(given) else new_replay_id()


def ticked(request: HttpRequest) -> dict[str, bool]:
    """The boxes that confirm an unusual replay."""
    return {name: request.POST.get(name) == "on" for name in ("force", "poison")}


def unconfirmed(request: HttpRequest, letter: DeadLetter) -> dict[str, str]:
    """The boxes that this letter needs and that are not checked, each with its message."""
    given, missing = ticked(request), {}
    if letter.status is Status.RESOLVED and not given["force"]:
        missing["force"] = "The letter is resolved. Check this box to replay it anyway."
    if letter.is_poison and not given["poison"]:
        missing["poison"] = "The message probably kills its worker. Check this box to replay it anyway."
    return missing
