"""The pages keep up with the code: whatever has a name that others rely on is in them, and what they name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands

import breaker_app.errors
import dlq_app.domain.errors
import messages_app.domain.errors
from breaker_app.policy import BreakerPolicy
from breaker_app.states import State as BreakerState
from dlq_app.domain.labels import MAX_LABEL
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.objectives import LettersObjective
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.domain.states import Resolution, Status, Verb
from dlq_app.domain.strategies import Strategy
from dlqsite.api import problems
from dlqsite.health import report
from dlqsite.health.findings import Status as HealthStatus
from dlqsite.models import SCOPES
from dlqsite.sign_in.policy import SignInPolicy
from messages_app import failures
from messages_app.domain import parsing
from messages_app.domain.records import State
from messages_app.domain.retry_policy import RetryPolicy
from messages_app.rest import contract
from notify_app.domain import events as notify_events
from notify_app.domain import policy as notify_policy
from notify_app.models import State as NotificationState

ROOT = Path(settings.BASE_DIR)
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
APPS = ("wire", "processes", "messages_app", "dlq_app", "breaker_app", "notify_app", "dlqsite", "management")
#: Parts of an app that the page on architecture does not list one by one.
UNLISTED = {"migrations", "tests"}
#: Folders whose files the page on architecture does not list.
WHOLE = {"formats", "lua", "management", "policies", "postgres", "scripts", "templatetags"}

_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def named(*pages: str) -> set[str]:
    """Every word that stands in a code span of the pages."""
    spans = " ".join(span for page in pages for span in _SPAN.findall(_FENCE.sub("", DOCS[page])))
    return set(re.findall(r"[\w-]+", spans))


def with_code(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for child in base.__subclasses__():
        yield from with_code(child)


def our_commands() -> set[str]:
    return {path.stem for path in (ROOT / "management/management/commands").glob("[a-z]*.py")}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_is_in_the_reference() -> None:
    assert our_commands() - named("commands.md") == set()


def test_every_command_that_a_page_names_exists() -> None:
    shipped = [*(ROOT / "deploy").rglob("*.service"), *(ROOT / "deploy").rglob("*.crontab")]
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, *shipped]]
    told = {command for text in texts for command in re.findall(r"manage\.py ([a-z_]+)", text)}

    assert told - set(get_commands()) == set()


@pytest.mark.parametrize(
    "base",
    [messages_app.domain.errors.MessagesError, dlq_app.domain.errors.DeadLetterError, breaker_app.errors.BreakerError],
    ids=lambda base: base.__name__,
)
def test_every_error_code_of_an_app_is_explained(base: type[Exception]) -> None:
    codes = {str(vars(error)["code"]) for error in with_code(base) if "code" in vars(error)}

    assert codes - named("errors.md") == set()


def test_every_fault_of_a_message_is_explained() -> None:
    assert set(parsing._WORST_FIRST) - named("errors.md") == set()


def test_every_plain_problem_is_explained() -> None:
    assert {code for code, _, _ in problems._PLAIN.values()} - named("errors.md") == set()


def test_every_error_type_is_explained() -> None:
    assert set(failures.KINDS) - named("errors.md") == set()


@pytest.mark.parametrize(
    ("policy", "page"),
    [
        (RetryPolicy, "policies.md"),
        (ReplayPolicy, "policies.md"),
        (MaskingPolicy, "policies.md"),
        (LettersObjective, "policies.md"),
        (SignInPolicy, "policies.md"),
        (BreakerPolicy, "breaker.md"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_policy_key_is_explained(
    policy: type[RetryPolicy | ReplayPolicy | MaskingPolicy | LettersObjective | SignInPolicy | BreakerPolicy],
    page: str,
) -> None:
    assert {field.name for field in fields(policy)} - named(page) == set()


def test_every_policy_file_has_its_chapter() -> None:
    files = {path.name for path in (ROOT / "dlqsite/policies").glob("*.toml")}

    assert {name for name in files if f"`{name}`" not in DOCS["policies.md"]} == set()


@pytest.mark.parametrize("file", sorted((ROOT / "dlqsite/policies").glob("*.toml")), ids=lambda file: file.name)
def test_every_key_in_a_policy_file_is_explained(file: Path) -> None:
    # Also those that are comments: examples of what can be set.
    keys = set(re.findall(r"^(?:# )?([a-z_]+) = ", file.read_text(encoding="utf-8"), re.MULTILINE))

    assert keys
    assert keys - named("policies.md", "breaker.md", "notifications.md") == set()


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (Status, "lifecycle.md"),
        (Verb, "lifecycle.md"),
        (Resolution, "lifecycle.md"),
        (State, "lifecycle.md"),
        (Strategy, "replay.md"),
        (BreakerState, "breaker.md"),
        (SCOPES, "settings.md"),
        (report.CHECKS, "on-call.md"),
        (NotificationState, "notifications.md"),
        (notify_events.Kind, "notifications.md"),
        (notify_events.Severity, "notifications.md"),
        ([key for table in notify_policy.KEYS.values() for key in table], "notifications.md"),
        (HealthStatus, "operations.md"),
    ],
    ids=[
        "status",
        "verb",
        "resolution",
        "message",
        "strategy",
        "breaker",
        "scope",
        "check",
        "notification",
        "event",
        "severity",
        "notify.toml",
        "health",
    ],
)
def test_every_state_verb_and_name_is_explained(words: object, page: str) -> None:
    assert {str(word) for word in words} - named(page) == set()  # type: ignore[attr-defined]


def test_the_table_of_a_message_has_the_fields_of_the_contract() -> None:
    chapter = DOCS["integrate.md"].split("### Fields of a message")[1].split("\n###")[0]
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| (.+) \|$", chapter, re.MULTILINE)

    assert [(name, needed == "yes") for name, needed, _ in rows] == [
        (field.name, field.required) for field in contract.MESSAGE_IN.fields
    ]
    texts = {name: text for name, _, text in rows}
    for field in contract.MESSAGE_IN.fields:
        assert str((field.extra or {}).get("default", "")) in texts[field.name]
    assert f"up to {contract.MAX_TAGS} texts of 1 to {MAX_LABEL}" in texts["tags"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [name for name in DOCS if f"(docs/{name})" not in readme] == []


def test_every_page_has_a_place_in_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    places = re.findall(r"^ +- (\S+\.md)$", navigation, re.MULTILINE)

    assert sorted(places) == sorted([*DOCS, "changelog.md", "contributing.md"])


def test_every_path_that_the_contributors_guide_names_exists() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    answers = guide.partition("## Where do I change")[2].partition("\n## ")[0]
    rows = [row for row in answers.splitlines() if "`" in row]
    paths = {path for row in rows for path in _SPAN.findall(row) if "/" in path}

    assert len(rows) >= 10
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("app", APPS)
def test_the_page_on_architecture_lists_every_module_and_no_other(app: str) -> None:
    chapter = re.search(rf"^### `{app}`.*?^```\n(.*?)^```", DOCS["architecture.md"], re.MULTILINE | re.DOTALL)
    assert chapter, f"no chapter on {app}"
    folders: list[str] = []
    listed = set()
    for line in filter(str.strip, chapter[1].splitlines()):
        name = line.split()[0]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        listed.add("/".join([*folders, name.rstrip("/")]))
        folders = [*folders, name.rstrip("/")]

    root = ROOT / app
    modules = {path.relative_to(root) for path in root.rglob("*.py") if path.name != "__init__.py"}
    named = {str(path) for path in modules if not UNLISTED & set(path.parts)}
    named |= {str(parent) for name in named for parent in Path(name).parents if parent.name}
    # Folders that are listed as one entry.
    whole = {name for name in listed if name in WHOLE}
    assert listed - whole == {name for name in named if not any(Path(name).is_relative_to(one) for one in whole)}
