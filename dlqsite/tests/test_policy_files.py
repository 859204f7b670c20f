"""``POLICY_DIR``: its files replace the shipped ones by name, and no file in it is ignored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings

from dlqsite.policy_files import PolicyFileError, PolicyFiles
from management import doctor
from messages_app import conf


def start(program: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        cwd=django_settings.BASE_DIR,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_without_a_directory_every_file_is_the_shipped_one() -> None:
    files = PolicyFiles("")

    assert files.file("retry") == "dlqsite/policies/retry.toml"
    assert {"breaker", "delivery", "masking", "notify", "replay", "retry", "sign_in"} <= set(files.names)


def test_a_file_of_the_directory_replaces_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "retry.toml").write_text("[default]\nmax_retries = 7\n")

    files = PolicyFiles(str(tmp_path))

    assert files.read("retry") == {"default": {"max_retries": 7}}
    assert files.file("retry") == str(tmp_path / "retry.toml")
    assert files.read("breaker") == PolicyFiles("").read("breaker") != {}


def test_a_relative_directory_starts_at_the_project(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/masking.toml").write_text('contains = ["pin"]\n')

    assert PolicyFiles("own", base=tmp_path).read("masking") == {"contains": ["pin"]}


def test_an_unknown_file_is_refused_with_the_name_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "retries.toml").touch()
    (tmp_path / "..data").mkdir()  # of Kubernetes

    with pytest.raises(PolicyFileError, match=r"retries.toml is not .*Did you mean retry.toml\? .*breaker.toml"):
        PolicyFiles(str(tmp_path))


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=f"POLICY_DIR: {tmp_path / 'none'} cannot be read: No such file"):
        PolicyFiles(str(tmp_path / "none"))


def test_a_file_that_cannot_be_read_is_not_replaced_by_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "retry.toml").write_text("[default\n")
    (tmp_path / "breaker.toml").symlink_to(tmp_path / "gone.toml")
    files = PolicyFiles(str(tmp_path))

    for name in ("retry", "breaker"):
        with pytest.raises(PolicyFileError, match=f"{tmp_path / name}.toml cannot be read: "):
            files.read(name)


def test_errors_name_the_file_that_was_read(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "retry.toml").write_text("[default]\njitter = 2\n")
    settings.POLICIES = PolicyFiles(str(tmp_path))
    settings.RETRY_POLICY = settings.POLICIES.read("retry")

    with pytest.raises(ValueError, match=str(tmp_path / "retry.toml")):
        conf.retry_policies()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("retri.toml", "", "retri.toml is not a policy file"),
        ("retry.toml", "[default]\nmax_retries = 99\n", "max_retries = 99"),
        ("masking.toml", "[default", "masking.toml cannot be read"),
    ],
)
def test_neither_a_command_nor_the_web_server_starts_with_a_wrong_policy(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)

    for program in (["manage.py", "run_worker", "--burst"], ["-c", "import dlqsite.wsgi"]):
        done = start(program, POLICY_DIR=str(tmp_path))

        assert done.returncode == 1, program
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_doctor_says_which_files_are_used(settings: Settings, tmp_path: Path) -> None:
    def said() -> str:
        (found,) = (finding for finding in doctor.check_settings() if finding.name == "policy files")
        return found.detail

    assert said() == "as shipped"
    (tmp_path / "retry.toml").touch()
    settings.POLICIES = PolicyFiles(str(tmp_path))
    settings.DELIVERY_POLICY_FILE = "/etc/dlq/delivery.toml"

    assert said() == f"/etc/dlq/delivery.toml, {tmp_path / 'retry.toml'}; the others as shipped"
