"""The roles of staff, and what each may open in the console."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.urls import NoReverseMatch, reverse

from dlqsite import roles
from dlqsite.tests.people import member, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]

EVERYBODY = {"viewer", "operator", "administrator", "superuser"}
ACTING = EVERYBODY - {"viewer"}
CONTROL = {"administrator", "superuser"}
SUPERUSER = {"superuser"}
#: Page → who may open it.
PAGES: dict[str, set[str]] = {
    "admin:index": EVERYBODY,
    "admin:account": EVERYBODY,
    "admin:password_change": EVERYBODY,
    "admin:dlq_app_deadletter_changelist": EVERYBODY,
    "admin:dlq_app_lettergroup_changelist": EVERYBODY,
    "admin:dlq_app_replaybatch_changelist": EVERYBODY,
    "admin:breaker_app_breaker_changelist": EVERYBODY,
    "admin:messages_app_message_changelist": EVERYBODY,
    "admin:django_rq_dashboard_changelist": EVERYBODY,
    "admin:notify_app_notification_changelist": EVERYBODY,
    "admin:audit_app_auditline_changelist": ACTING,
    "admin:dlqsite_apikey_changelist": CONTROL,
    "admin:dlqsite_apikey_add": CONTROL,
    "admin:axes_accessattempt_changelist": CONTROL,
    "admin:auth_user_changelist": CONTROL,
    "admin:auth_group_changelist": CONTROL,
    "admin:auth_user_add": SUPERUSER,
    "admin:auth_group_add": SUPERUSER,
}


@pytest.fixture(autouse=True)
def _stores(redis_client: Any, mongo_db: Any) -> None:
    """Pages count what is in the stores."""


def test_migrating_makes_the_roles_with_their_permissions() -> None:
    Group.objects.all().delete()

    # The registry of that migration: the present one would be left changed.
    apps = MigrationExecutor(connection).loader.project_state([("dlqsite", "0002_roles")]).apps
    import_module("dlqsite.migrations.0002_roles").make(apps, SimpleNamespace(connection=connection))

    for role, names in roles.PERMISSIONS.items():
        held = Group.objects.get(name=role).permissions.values_list("content_type__app_label", "codename")
        assert {f"{app}.{codename}" for app, codename in held} == set(names)


def test_making_the_roles_again_keeps_what_was_added_by_hand() -> None:
    roles.ensure(Group.objects, Permission.objects)
    viewer = Group.objects.get(name=roles.VIEWER)
    viewer.permissions.add(Permission.objects.get(codename="view_logentry"))
    viewer.permissions.remove(Permission.objects.get(codename="view_deadletter"))

    roles.ensure(Group.objects, Permission.objects)

    codenames = set(viewer.permissions.values_list("codename", flat=True))
    assert codenames >= {"view_logentry", "view_deadletter"}


def test_the_permissions_of_the_first_version_are_gone() -> None:
    assert not Permission.objects.filter(codename__in=["replay_deadletter", "resolve_deadletter", "reveal_deadletter"])


def test_no_role_can_make_itself_more() -> None:
    for names in roles.PERMISSIONS.values():
        assert not {"auth.change_user", "auth.add_user", "auth.change_group", "auth.add_group"} & set(names)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_for_those_who_may_and_for_nobody_else(page: str) -> None:
    try:
        url = reverse(page)
    except NoReverseMatch:
        pytest.skip("not there yet")

    answers = {role: signed_in(member(role)).get(url).status_code for role in EVERYBODY}

    assert {role for role, status in answers.items() if status == 200} == PAGES[page]
    assert {status for role, status in answers.items() if role not in PAGES[page]} <= {403}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "queues/0/empty/"),
        ("POST", "queues/0/empty/"),
        ("POST", "queues/actions/0/"),
        ("GET", "queues/0/x/delete/"),
    ],
)
def test_only_administrators_control_the_queues(method: str, path: str) -> None:
    url = reverse("admin:django_rq_dashboard_changelist") + path

    refused = {role: signed_in(member(role)).generic(method, url).status_code for role in ("viewer", "operator")}
    allowed = signed_in(member("administrator")).generic(method, url).status_code

    assert set(refused.values()) == {403}
    assert allowed != 403


def test_the_header_names_the_role_and_leaves_out_what_one_may_not_open() -> None:
    page = signed_in(member("operator", "mira")).get(reverse("admin:account")).content.decode()

    assert "mira, operator" in page
    assert reverse("admin:audit_app_auditline_changelist") in page
    assert reverse("admin:dlqsite_apikey_changelist") not in page
