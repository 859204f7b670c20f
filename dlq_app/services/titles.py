"""Titles for people: of groups instead of fingerprints, of batches without a name instead of ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.filters import FILTERS
from dlq_app.domain.masking import mask_text
from dlq_app.domain.replay_batch import ReplayBatch
from dlq_app.services.groups import telling
from dlq_app.store.groups import groups

log = logging.getLogger(__name__)

_LONG = 120


def group_titles(fingerprints: Iterable[str]) -> dict[str, str]:
    """The masked title of each group; groups without a description, and all if MongoDB is unavailable, are absent."""
    wanted = set(fingerprints)
    if not wanted:
        return {}
    try:
        described = groups().described(wanted)
    except DeadLetterError as error:
        log.warning("group_titles_unknown", extra={"why": str(error)})
        return {}
    masking = conf.masking_policy()
    rules = conf.group_policy().names
    found = {
        name: rules.get(name) or telling(one.message, one.sample) or one.error_type for name, one in described.items()
    }
    return {name: mask_text(title, masking)[:_LONG] for name, title in found.items() if title}


def batch_titles(found: Iterable[ReplayBatch]) -> dict[str, str]:
    """The masked title of each batch, by its id: its name, the group that it replays, its reason, or its filter."""
    listed = list(found)
    unnamed = [one for one in listed if not one.name]
    titles = group_titles(name for one in unnamed if one.criteria for name in one.criteria.fingerprints[:1])
    masking = conf.masking_policy()
    return {one.id: mask_text(one.name or _described(one, titles), masking)[:_LONG] for one in listed}


def batch_title(batch: ReplayBatch) -> str:
    """As ``batch_titles``, for one batch."""
    return batch_titles([batch])[batch.id]


def _described(batch: ReplayBatch, titles: dict[str, str]) -> str:
    criteria = batch.criteria
    groups_of = criteria.fingerprints if criteria else ()
    if groups_of and titles.get(groups_of[0]):
        more = f" and {len(groups_of) - 1} more groups" if len(groups_of) > 1 else ""
        return f"{titles[groups_of[0]]}{more}"
    if batch.reason:
        return " ".join(batch.reason.split())
    letters = f"{batch.total:,} letter{'' if batch.total == 1 else 's'}"
    if criteria is None:
        return f"{letters}, selected individually"
    return f"{letters} with {_in_words(criteria)}" if not criteria.is_empty else f"All {letters}"


def _in_words(criteria: LetterCriteria) -> str:
    return ", ".join(f"{FILTERS[name].label.lower()} {value}" for name, value in criteria.as_params())
