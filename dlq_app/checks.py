"""System checks: a policy file that is not valid stops every command before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from dlq_app import conf
from wire.errors import PolicyError


@register
def policies(**_: Any) -> Iterable[CheckMessage]:
    """``dlq_app.E001`` to ``E006``: the files replay, masking, objectives, facets, owners, groups."""
    replay = list(_built(conf.replay_policy, "dlq_app.E001", "replay"))
    yield from replay
    masking = list(_built(conf.masking_policy, "dlq_app.E002", "masking"))
    yield from masking
    if not masking:
        yield from _built(conf.checked_facets, "dlq_app.E004", "facets")
    yield from _built(conf.owner_policy, "dlq_app.E005", "owners")
    yield from _built(conf.group_policy, "dlq_app.E006", "groups")
    if not replay:  # else its mistake would be reported a second time
        yield from _built(conf.letters_objective, "dlq_app.E003", "objectives")


def _built(build: Callable[[], object], check_id: str, name: str) -> Iterable[CheckMessage]:
    try:
        build()
    except PolicyError as error:
        yield Error(
            error.detail,
            hint=f"Correct {settings.POLICIES.file(name)}: its comments say what each key means.",
            id=check_id,
        )
