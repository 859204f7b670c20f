"""Lines that the console shows to be copied: a real shell hands the commands what was on the page, and nothing else."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, load_command_class
from django.http import QueryDict
from django.test import Client
from pytest_django import Settings

from console.commands import manage
from dlq_app.admin.batches.form import BatchForm, Which, equivalent_commands, limited
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.replay_batch import BatchOrder
from dlq_app.services import bulk
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.patience import eventually
from dlqsite.tests.people import member, signed_in
from management import elsewhere
from management.management.commands import replay_dlq
from management.tests.commands import run
from wire.visible_text import visible

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

#: What a user sets before a line that asks for the reason.
WHY = "it's \u202e 100% \\ $HOME; `id`"
SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]
#: Ids that intake accepts.
DASHED = ("--all", "-h", "--", "-1", "--yes", "--help", "-")
HOSTILE = ("$(touch owned) `id`", 'it\'s "so" !!', "a\n--all", "--all", "100% \\ * ~ ; # &", "-\u202eé")
LIST = "/admin/dlq_app/deadletter/"


@pytest.fixture
def rig(letters: Any, intake: MemoryIntake) -> Rig:
    return Rig(letters, intake)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory with a ``manage.py`` and a ``curl`` that print their arguments."""
    for name in ("manage.py", "curl"):
        tool = tmp_path / name
        tool.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n", encoding="utf-8")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return tmp_path


@pytest.fixture(autouse=True)
def _prefix(settings: Settings) -> None:
    settings.COMMAND_PREFIX = "manage.py"


def ran(tools: Path, line: str, shell: str, reason: str = WHY) -> list[list[str]]:
    """The arguments of each tool that a shell runs for ``line``."""
    found = subprocess.run(
        [shell, "-c", line],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "KEY": "abc.def", "REASON": reason},
        cwd=tools,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    assert sorted(path.name for path in tools.iterdir()) == ["curl", "manage.py"]
    return [json.loads(one) for one in found.stdout.splitlines()]


def lines(page: str) -> list[str]:
    """Commands on a page, as the button copies them."""
    texts = [html.unescape(text) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]
    return [text for text in texts if text.startswith(("manage.py", "curl"))]


def options(arguments: list[str]) -> dict[str, Any]:
    """What a command of ours makes of its arguments."""
    command = load_command_class("management", arguments[1])
    return vars(command.create_parser("manage.py", arguments[1]).parse_args(arguments[2:]))


def body_of(arguments: list[str]) -> Any:
    return json.loads(arguments[arguments.index("-d") + 1])


@pytest.mark.parametrize("shell", SHELLS)
def test_the_page_of_a_letter_replays_that_letter_whatever_its_id(
    rig: Rig, operator: Client, tools: Path, shell: str
) -> None:
    rig.die(*DASHED)
    for message_id in DASHED:
        letter = rig.letters.find(message_id)
        assert letter
        page = operator.get(f"{LIST}{letter.id}/change/").content.decode()

        (manage,), (curl,) = (ran(tools, line, shell) for line in lines(page))

        found = options(manage)
        assert found["ids"] == [message_id]
        assert not found["all"]
        assert not found["yes"]
        assert replay_dlq._order(found) == BatchOrder.parse({"ids": [message_id], "reason": WHY})
        assert curl[-1].endswith(f"/api/dlq/{letter.id}/replay")
        (curl,) = ran(tools, lines(page)[1], shell, "the bank is back")
        assert body_of(curl) == {"reason": "the bank is back"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_batch_is_copied_with_every_choice(rig: Rig, operator: Client, tools: Path, shell: str) -> None:
    rig.die("m-1", "m-2", tags=HOSTILE)
    query = QueryDict(mutable=True)
    query.setlist("tag", [one for one in HOSTILE if one.isprintable()])
    choices = {"rate": "12.5", "canary": "2", "share": "50", "budget": "7", "when": "at", "at": "2099-01-31T08:30"}
    for text in HOSTILE:
        form = {**choices, "reason": f"{text} because", "name": f"{text}x", "step": "look"}
        page = operator.post(f"/admin/dlq_app/replaybatch/add/?{query.urlencode()}", form).content.decode()

        (manage,), (curl,) = (ran(tools, line, shell) for line in lines(page))

        expected = BatchOrder.parse(
            {
                "filter": {"tag": query.getlist("tag")},
                "reason": f"{text} because".strip(),
                "name": f"{text}x",
                "ratePerSecond": 12.5,
                "canary": {"size": 2, "minSuccess": 1},
                "maxFailureRate": 0.07,
                "limit": 2,
                "scheduledAt": "2099-01-31T08:30:00Z",
            }
        )
        assert replay_dlq._order(options(manage)) == expected
        assert BatchOrder.parse(body_of(curl)) == expected
        assert options(manage)["wait"]


@pytest.mark.parametrize("shell", SHELLS)
def test_chosen_letters_are_copied_as_ids(tools: Path, shell: str) -> None:
    query = QueryDict(mutable=True)
    query.setlist("id", list(DASHED))
    which = Which.of(query)
    order = limited(BatchForm(which=which, reason="--all").shown(), 3)

    for _, line in equivalent_commands(order, which, "http://[::1]:8000"):
        ((_, *arguments),) = ran(tools, line, shell)
        if line.startswith("curl"):
            assert arguments[-1] == "http://[::1]:8000/api/dlq/replay-batch"
            assert body_of(arguments)["ids"] == list(DASHED)
        else:
            found = replay_dlq._order(options(["manage.py", *arguments]))
            assert (found.ids, found.reason, found.everything) == (DASHED, "--all", False)


@pytest.mark.parametrize("shell", SHELLS)
def test_other_pages_show_lines_that_run(rig: Rig, tools: Path, shell: str) -> None:
    rig.die("m-1")
    batch = rig.start()
    browser = signed_in(member("administrator"))
    pages = [
        f"/admin/dlq_app/lettergroup/{rig.letter('m-1').fingerprint}/change/",
        f"/admin/dlq_app/replaybatch/{batch.id}/change/",
        "/admin/messages_app/message/",
        "/admin/breaker_app/breaker/",
    ]
    for page in pages:
        answer = browser.get(page)
        assert answer.status_code == 200, page
        for line in lines(answer.content.decode()):
            assert visible(line) == line
            for name, *arguments in ran(tools, line, shell):
                if name.endswith("curl"):
                    assert arguments[-1].startswith("http://testserver/") or arguments[-2] == "-d"
                else:
                    options(["manage.py", *arguments])


@pytest.mark.parametrize("message_id", DASHED)
def test_commands_take_an_id_behind_two_dashes(rig: Rig, message_id: str) -> None:
    rig.die(message_id)

    assert json.loads(run("show_dead_letter", "--", message_id))["messageId"] == message_id
    assert "1 letter would be replayed" in run("replay_dlq", "--dry-run", "--", message_id)
    for line in (["quarantine", "release", "--", message_id], ["breaker", "show", "--", message_id]):
        found = options(["manage.py", *line])
        assert message_id in (found.get("ids") or [found.get("name")])
        assert not found.get("all")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_line_without_its_reason_does_not_run(rig: Rig, operator: Client, tools: Path, shell: str) -> None:
    rig.die("m-1", "m-2")
    pages = [
        f"{LIST}{rig.letter('m-1').id}/change/",
        f"/admin/dlq_app/lettergroup/{rig.letter('m-1').fingerprint}/change/",
        "/admin/dlq_app/replaybatch/add/?all=1",
    ]
    asking = [line for page in pages for line in lines(operator.get(page).content.decode()) if "REASON" in line]

    assert len(asking) >= 8
    for line in asking:
        done = subprocess.run(
            [shell, "-c", line],
            env={"PATH": f"{tools}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert done.stdout == ""
        assert "REASON: set it to the reason" in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_default_line_runs_in_any_folder(tmp_path: Path, settings: Settings, shell: str) -> None:
    """With the prefix that the settings choose, for a data directory whose name needs quotes."""
    data = tmp_path / "it's here"
    data.mkdir()
    python = [sys.executable, str(settings.BASE_DIR / "manage.py"), "shell", "-c"]
    ask = "from django.conf import settings; print(settings.COMMAND_PREFIX)"
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(data), "SECRET_KEY": "k" * 60}
    prefix = subprocess.run([*python, ask], env=environment, capture_output=True, text=True, check=True).stdout
    settings.COMMAND_PREFIX = prefix.splitlines()[-1]

    done = subprocess.run(
        [shell, "-c", manage("diffsettings --output unified")],
        env={"PATH": os.environ["PATH"], "SECRET_KEY": "k" * 60},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert prefix.splitlines()[-1].startswith("DATA_DIR=")
    assert repr(data) in done.stdout


def test_an_unreachable_store_names_the_data_directory_that_runs(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "var", tmp_path / "other one"
    there.mkdir()
    (there / "connection.json").write_text("{}")
    settings.DATA_DIR = here
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("MONGODB_URL", raising=False)

    def away(*args: Any, **options: Any) -> Any:
        raise StoreUnavailable("MongoDB is not responding.")

    monkeypatch.setattr(bulk, "preview", away)

    def said() -> str:
        with pytest.raises(CommandError) as caught:
            run("move_dlq", "discard", "--all", "--dry-run")
        return str(caught.value)

    monkeypatch.setattr(elsewhere, "running_directories", list)
    assert said() == (
        f"MongoDB is not responding. No stack runs on DATA_DIR {here}: start it with `make up`, or set DATA_DIR to the "
        "directory of the stack that runs."
    )
    monkeypatch.setattr(elsewhere, "running_directories", lambda: [there])
    assert f"one runs on '{there}': put DATA_DIR='{there}' before the command." in said()
    (here / "connection.json").parent.mkdir()
    (here / "connection.json").write_text("{}")
    assert said() == "MongoDB is not responding."


def test_a_running_stack_is_found_by_the_environment_of_its_processes(tmp_path: Path) -> None:
    script = tmp_path / "manage.py"
    script.write_text("input()\n")
    (tmp_path / "connection.json").write_text("{}")
    with subprocess.Popen(
        [sys.executable, "manage.py"], cwd=tmp_path, env={"DATA_DIR": str(tmp_path)}, stdin=subprocess.PIPE
    ) as stack:
        eventually(lambda: tmp_path in elsewhere.running_directories())
        stack.communicate(b"\n")

    assert tmp_path not in elsewhere.running_directories()


def test_no_template_writes_an_unquoted_value_into_a_command() -> None:
    wrong = []
    for template in (Path(settings.BASE_DIR) / "templates").rglob("*.html"):
        page = template.read_text(encoding="utf-8")
        for text in re.findall(r"<(?:pre|code)[^>]*>(.*?)</(?:pre|code)>", page, re.DOTALL):
            if re.search(r"manage\.py|curl", text):
                values = re.findall(r"\{\{(.*?)\}\}", text)
                wrong += [(template.name, value) for value in values if "|shell" not in value]

    assert wrong == []
