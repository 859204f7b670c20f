from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.management.base import CommandError

from dlq_app.domain.criteria import FIELD_NAMES, LetterCriteria
from management import filters


def options(*line: str) -> dict[str, Any]:
    parser = ArgumentParser()
    filters.add_filter_arguments(parser)
    return vars(parser.parse_args(line))


def test_no_flag_means_every_letter() -> None:
    assert filters.criteria_from(options()).is_empty


def test_every_criterion_has_a_flag() -> None:
    assert list(options()) == [f"filter_{name}" for name in FIELD_NAMES]


def test_flags_become_criteria() -> None:
    line = (
        "--status dlq_failed --status dlq_manual --error-type TIMEOUT_ERROR --error-kind transient --type demo "
        "--source shop --priority high --tag eu --fingerprint 00ff00ff00ff00ff --from 2026-11-24T03:00:00Z "
        "--to 2026-11-24T04:00:00Z --search gateway"
    )

    assert filters.criteria_from(options(*line.split())) == LetterCriteria(
        statuses=("dlq_failed", "dlq_manual"),
        error_types=("TIMEOUT_ERROR",),
        error_kinds=("transient",),
        types=("demo",),
        sources=("shop",),
        priorities=("high",),
        tags=("eu",),
        fingerprints=("00ff00ff00ff00ff",),
        failed_from=datetime(2026, 11, 24, 3, tzinfo=UTC),
        failed_to=datetime(2026, 11, 24, 4, tzinfo=UTC),
        search="gateway",
    )


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_refused_rather_than_ignored(value: str) -> None:
    with pytest.raises(CommandError, match="--type is empty"):
        filters.criteria_from(options("--status", "dlq_failed", "--type", "demo", "--type", value))
    with pytest.raises(CommandError, match="--search is empty"):
        filters.criteria_from(options("--search", value))


def test_what_is_not_allowed_is_named_by_its_flag() -> None:
    with pytest.raises(CommandError, match=r"--status must be one of dlq_pending.*; --error-kind must be"):
        filters.criteria_from(options("--status", "dead", "--error-kind", "odd"))
