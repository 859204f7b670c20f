"""Every URL with every method in every role: nothing is reachable that was not meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from pytest_django import Settings

from dlqsite.access import OPEN
from dlqsite.models import SCOPES, ApiKey
from dlqsite.tests.people import a_key, member, signed_in, staff, with_key

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: What a member of staff may do without any permission, and with each.
STAFF: dict[str, tuple[str, ...]] = {
    "": (),
    "submit": ("read", "submit"),
    "replay": ("read", "replay"),
    "admin": SCOPES,
}
#: People of the console, from whom may least.
STAFFS = ("staff", "viewer", "operator", "administrator")
#: Allowed to none of them; a page that is not meant to be one, and leads elsewhere or nowhere; no such method.
NOBODY, SHUT, NONE = "nobody", "shut", "none"
#: Address of our own console → the least of ``STAFFS`` who may look, and who may send something there. Add a row for
#: every new one; what Django gives to every model (``add``, ``delete`` …) has its own below.
CONSOLE_ROLES: dict[str, tuple[str, str]] = {
    "index": ("viewer", "viewer"),
    "overview_fragment": ("viewer", NONE),
    "account": ("staff", "staff"),
    "second_factor": ("staff", "staff"),
    # Only for a browser that has just sent the right password; others are led to the login page.
    "second_factor_code": ("staff", "staff"),
    "second_factor_set_up": ("staff", "staff"),
    "docs": ("viewer", NONE),
    "dlq_app_deadletter_changelist": ("viewer", "viewer"),
    "dlq_app_deadletter_count": ("viewer", NONE),
    "dlq_app_deadletter_newer": ("viewer", NONE),
    "dlq_app_deadletter_grouped": ("viewer", NONE),
    "dlq_app_deadletter_parts": ("viewer", NONE),
    "dlq_app_deadletter_export": ("viewer", NONE),
    "dlq_app_deadletter_bulk": ("operator", "operator"),
    "dlq_app_deadletter_state": ("viewer", NONE),
    "dlq_app_deadletter_edit": ("operator", "operator"),
    "dlq_app_deadletter_note": (NONE, "operator"),
    "dlq_app_deadletter_reveal": ("administrator", "administrator"),
    "dlq_app_deadletter_payload": ("viewer", NONE),
    "dlq_app_deadletter_replay": ("operator", "operator"),
    "dlq_app_deadletter_resolve": ("operator", "operator"),
    "dlq_app_deadletter_discard": ("operator", "operator"),
    "dlq_app_deadletter_set_aside": ("operator", "operator"),
    "dlq_app_deadletter_resume": ("operator", "operator"),
    "dlq_app_deadletter_reopen": ("operator", "operator"),
    "dlq_app_deadletter_change": ("viewer", NOBODY),
    "dlq_app_deadletter_history": ("viewer", "viewer"),
    "dlq_app_lettergroup_changelist": ("viewer", NONE),
    "dlq_app_lettergroup_live": ("viewer", NONE),
    "dlq_app_lettergroup_note": (NONE, "operator"),
    "dlq_app_lettergroup_owner": (NONE, "operator"),
    "dlq_app_lettergroup_resolve": ("operator", "operator"),
    "dlq_app_lettergroup_ignore": ("operator", "operator"),
    "dlq_app_lettergroup_reopen": ("operator", "operator"),
    "dlq_app_lettergroup_change": ("viewer", NONE),
    "dlq_app_lettergroup_history": ("viewer", "viewer"),
    "dlq_app_replaybatch_changelist": ("viewer", NONE),
    "dlq_app_replaybatch_live": ("viewer", NONE),
    "dlq_app_replaybatch_parts": ("viewer", NONE),
    "dlq_app_replaybatch_ask_cancel": ("operator", NONE),
    "dlq_app_replaybatch_pause": (NONE, "operator"),
    "dlq_app_replaybatch_resume": (NONE, "operator"),
    "dlq_app_replaybatch_cancel": (NONE, "operator"),
    # A viewer may see the dry run; starting is refused once there is an order (test_admin_batches).
    "dlq_app_replaybatch_add": ("viewer", "viewer"),
    "dlq_app_replaybatch_change": ("viewer", NONE),
    "dlq_app_replaybatch_history": (SHUT, SHUT),
    "breaker_app_breaker_changelist": ("viewer", "viewer"),
    "breaker_app_breaker_live": ("viewer", "viewer"),
    "breaker_app_breaker_order": (SHUT, "administrator"),
    "breaker_app_breaker_change": (SHUT, SHUT),
    "breaker_app_breaker_history": (SHUT, SHUT),
    "messages_app_message_changelist": ("viewer", "viewer"),
    "messages_app_message_live": ("viewer", "viewer"),
    "messages_app_message_acknowledge": (SHUT, "administrator"),
    "messages_app_message_change": (SHUT, SHUT),
    "messages_app_message_history": ("viewer", "viewer"),
    "notify_app_notification_changelist": ("viewer", "viewer"),
    "notify_app_notification_act": ("administrator", "administrator"),
    "notify_app_notification_change": ("viewer", SHUT),
    "notify_app_notification_history": (SHUT, SHUT),
    "dlqsite_apikey_changelist": ("administrator", "administrator"),
    "dlqsite_apikey_add": ("administrator", "administrator"),
    "dlqsite_apikey_change": ("administrator", "administrator"),
    "dlqsite_apikey_history": (SHUT, SHUT),
    "audit_app_auditline_changelist": ("operator", "operator"),
    "audit_app_auditline_change": ("operator", SHUT),
    "audit_app_auditline_history": (SHUT, SHUT),
}
#: Nothing of ours is added or deleted through Django's own forms, but keys.
CONSOLE_ROLES |= {
    f"{model}_{what}": (NOBODY, NOBODY)
    for model in (
        "dlq_app_deadletter", "dlq_app_lettergroup", "dlq_app_replaybatch", "breaker_app_breaker",
        "messages_app_message", "notify_app_notification", "dlqsite_apikey", "audit_app_auditline",
    )
    for what in ("add", "delete")
    if f"{model}_{what}" not in CONSOLE_ROLES
}  # fmt: skip
#: Django's own and RQ's, which are looked at in other tests (test_roles.py).
NOT_OURS = re.compile(
    r"(auth|axes|django_rq)_|(login|logout|password_change|password_change_done|app_list|autocomplete|jsi18n|view_on_site)\Z"
)
#: Open to everybody by intent. Anything else that is open is a mistake.
OPEN_PATHS = {"/api/system/live", "/api/system/ready", "/api/system/health"}


def walk(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from walk(entry.url_patterns, path)
        elif isinstance(entry, URLPattern):
            yield path, entry.callback


def named(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The name and the route of every address that has one."""
    for entry in patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from named(entry.url_patterns, path)
        elif entry.name:
            yield entry.name, path


def concrete(route: str) -> str:
    """A path that the route matches; what it names does not exist."""
    path = re.sub(r"<int:[^>]+>", "1", route)
    path = re.sub(r"<uuid:[^>]+>", "01890a5d-ac96-774b-bcce-b302099a8057", path)
    path = re.sub(r"<[^>]+>", "none", path)
    path = re.sub(r"\(\?P<[^>]+>[^)]*\)\??", "none", path)
    return "/" + path.replace("^", "").replace("$", "").replace("/?", "").replace("\\", "").replace("?", "").lstrip("/")


ALL = [(concrete(route), callback) for route, callback in walk(get_resolver().url_patterns)]
API = [(path, callback) for path, callback in ALL if path.startswith(("/api", "/metrics"))]
CONSOLE = [path for path, _ in ALL if path.startswith("/admin")]
OURS = {
    name: concrete(route.replace("<slug:what>", "resolve"))
    for name, route in named(get_resolver().url_patterns)
    if route.startswith("admin/") and not name.startswith("rq_") and not NOT_OURS.match(name)
}


def scopes_of(callback: Any) -> dict[str, str]:
    view = getattr(callback, "view_class", None) or getattr(callback, "cls", None)
    assert view is not None, f"{callback} is no class-based view, so nothing guards it"
    scopes: dict[str, str] = getattr(view, "required_scopes", {})
    return scopes


@pytest.fixture(autouse=True)
def _unlimited(settings: Settings, redis_client: Any, mongo_db: Any) -> None:
    settings.RATE_LIMIT_PER_MINUTE = 0
    settings.READ_RATE_LIMIT_PER_MINUTE = 0


def ask(client: Client, method: str, path: str) -> int:
    status: int = client.generic(method, path, b"{}", content_type="application/json").status_code
    return status


def test_there_is_something_to_walk() -> None:
    assert {path for path, _ in API} >= {"/api/messages", "/api/messages/batch", "/api/messages/none", "/api/schema"}


@pytest.mark.parametrize(("path", "callback"), API, ids=[path for path, _ in API])
def test_the_api_lets_in_whom_it_names_and_nobody_else(path: str, callback: Any) -> None:
    scopes = scopes_of(callback)
    clients: list[tuple[str, tuple[str, ...], Client]] = [("", (), Client())]
    clients += [(f"key:{scope}", SCOPES if scope == "admin" else (scope,), with_key(scope)) for scope in SCOPES]
    clients += [
        (f"staff:{permission}", held, staff(f"s-{permission}", *filter(None, [permission])))
        for permission, held in STAFF.items()
    ]

    wrong = []
    for who, held, client in clients:
        for method in METHODS:
            status = ask(client, method, path)
            scope = scopes.get(method)
            if scope == OPEN:
                fits = status not in (401, 403)
            elif not who:
                fits = status == 401 or (path in OPEN_PATHS and status == 405)
            elif scope is None:
                fits = status == 405
            elif scope in held:
                fits = status not in (401, 403, 405, 500)
            else:
                fits = status == 403
            if not fits:
                wrong.append((who or "nobody", method, scope, status))

    assert wrong == []


def test_only_the_probes_are_open() -> None:
    assert {path for path, callback in API if OPEN in scopes_of(callback).values()} == OPEN_PATHS


def test_writing_never_needs_only_reading() -> None:
    lax = [
        (path, method)
        for path, callback in API
        for method, scope in scopes_of(callback).items()
        if method != "GET" and scope not in ("submit", "replay", "admin")
    ]

    assert lax == []


@pytest.mark.parametrize("path", CONSOLE)
def test_the_console_is_closed_to_strangers_and_to_people_who_are_no_staff(path: str) -> None:
    if path.rstrip("/") in ("/admin/login", "/admin/logout"):
        pytest.skip("these are for people who are not signed in")
    from django.contrib.auth.models import User

    eve = Client()
    eve.force_login(User.objects.create_user("eve"), backend="django.contrib.auth.backends.ModelBackend")
    for client in (Client(), eve):
        answer = client.get(path)
        sent_away = answer.status_code in (301, 302) and (
            "/login/" in answer["Location"] or answer["Location"].rstrip("/") == path.rstrip("/")
        )
        assert sent_away or answer.status_code in (401, 403, 404, 405)


def test_every_address_of_the_console_has_its_row() -> None:
    assert set(OURS) == set(CONSOLE_ROLES)


@pytest.mark.parametrize("name", OURS)
def test_the_console_lets_in_whom_the_row_names_and_nobody_else(name: str) -> None:
    people = {
        role: staff("nobody-yet") if role == "staff" else signed_in(member(role)) for role in STAFFS
    }  # fmt: skip
    wrong = []
    for method, least in zip(("GET", "POST"), CONSOLE_ROLES[name], strict=True):
        for role, client in people.items():
            status = client.generic(method, OURS[name], content_type="application/x-www-form-urlencoded").status_code
            if least == NONE:
                fits = status == 405
            elif least == NOBODY:
                fits = status == 403
            elif least == SHUT:
                fits = status in (302, 403, 404, 405)
            elif STAFFS.index(role) < STAFFS.index(least):
                fits = status == 403
            else:
                fits = status in (200, 302, 303, 400, 404)
            if not fits:
                wrong.append((role, method, least, status))

    assert wrong == []


#: Address below RQ's pages → the least of ``STAFFS`` who may look, and who may send something there.
RQ = {
    "": ("viewer", "administrator"),
    "stats.json": ("administrator", "administrator"),
    "queues/0/": ("viewer", "administrator"),
    "queues/0/details/": ("administrator", "administrator"),
    "queues/0/failed/": ("viewer", "administrator"),
    "queues/0/empty/": ("administrator", "administrator"),
    "queues/confirm-action/0/": ("administrator", "administrator"),
    "workers/0/": ("viewer", "administrator"),
}


@pytest.mark.parametrize("address", RQ)
def test_pages_of_rq_let_in_whom_the_row_names_and_nobody_else(address: str) -> None:
    people = {role: staff("nobody-yet") if role == "staff" else signed_in(member(role)) for role in STAFFS}
    url = f"/admin/django_rq/dashboard/{address}"
    wrong = []
    for method, least in zip(("GET", "POST"), RQ[address], strict=True):
        for role, client in people.items():
            status = client.generic(method, url, content_type="application/x-www-form-urlencoded").status_code
            if (status == 403) != (STAFFS.index(role) < STAFFS.index(least)) or status >= 500:
                wrong.append((role, method, least, status))
    assert wrong == []


@pytest.mark.parametrize(
    "address",
    [
        "r/1/1/", "r/99/x/", "django_rq/dashboard/1/change/", "django_rq/dashboard/1/history/",
        "django_rq/dashboard/1/delete/", "django_rq/dashboard/add/", "django_rq/dashboard/schedulers/0/",
        "django_rq/dashboard/cron-schedulers/0/x/", "django_rq/dashboard/cron-schedulers/9/x/jobs/y/",
        "django_rq/dashboard/workers/0/x/", "django_rq/dashboard/workers/0/rq:worker:x/",
        "django_rq/dashboard/workers/99/", "django_rq/dashboard/queues/99/", "django_rq/dashboard/queues/99/details/",
        "django_rq/dashboard/queues/0/os.system/", "django_rq/dashboard/queues/0/os.system/enqueue/",
        "django_rq/dashboard/queues/0/none/results/x/", "django_rq/dashboard/queues/0/a b/stop/",
    ],
)  # fmt: skip
def test_odd_addresses_are_not_there(address: str) -> None:
    client = signed_in(member("superuser"))
    found = {method: client.generic(method, f"/admin/{address}").status_code for method in ("GET", "POST")}
    assert found == {"GET": 404, "POST": 404}


@pytest.mark.parametrize("what", ["delete", "requeue", "stop"])
def test_odd_jobs_in_forms_of_rq_are_not_there(what: str) -> None:
    client = signed_in(member("administrator"))
    for address, field in (("actions/0/", "job_ids"), ("confirm-action/0/", "_selected_action")):
        url = f"/admin/django_rq/dashboard/queues/{address}"
        assert client.post(url, {"action": what, field: "../../y"}).status_code == 404


def test_nobody_finds_keys_by_their_hash() -> None:
    client, key = signed_in(member("superuser")), a_key("read")
    hashed = ApiKey.objects.get(prefix=key.partition(".")[0]).hashed_key
    url = "/admin/dlqsite/apikey/"

    for lookup in ("hashed_key__startswith", "id__contains", "pk__contains", "prefix__gt", "hashed_key__regex"):
        assert client.get(url, {lookup: hashed[:3]}).status_code == 400
    assert client.get(url, {"revoked__exact": "0"}).status_code == 200
    page = client.get(url).content.decode()
    assert f"{key.partition('.')[0]}/change/" in page
    assert hashed not in page
    assert client.get(f"{url}{key.partition('.')[0]}/change/").status_code == 200
