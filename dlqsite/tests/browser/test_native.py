"""Signing in, the header, and Django's own pages: at home in the console, readable by everybody, on every screen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, expect

from audit_app.models import AuditLine
from dlqsite.models import ApiKey
from dlqsite.tests.browser.conftest import SCREENS, Role, Scheme, SignIn, Watch
from dlqsite.tests.people import member
from notify_app.models import Notification
from notify_app.models import State as NotificationState

pytestmark = [
    pytest.mark.browser,
    pytest.mark.redis,
    pytest.mark.mongo,
    pytest.mark.django_db(transaction=True),
]

Check = Callable[[Page], None]


def test_signing_in_leads_to_the_overview_and_out_again(sign_in: SignIn) -> None:
    mira = member("viewer", "mira")
    mira.set_password("correct horse 1")
    mira.save()
    page = sign_in()
    page.goto("/admin/")

    page.get_by_label("Username").fill("mira")
    page.get_by_label("Password").fill("correct horse 1")
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_title("Overview | Dead letters")

    page.locator("details.menu > summary").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Logged out")


def test_a_refused_login_says_why_and_keeps_the_name(sign_in: SignIn, assert_accessible: Check) -> None:
    page = sign_in()
    page.goto("/admin/login/")

    page.get_by_label("Username").fill("mallory")
    page.get_by_label("Password").fill("guess")
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("alert")).to_contain_text("Wrong username or password")
    expect(page.get_by_label("Username")).to_have_value("mallory")
    assert_accessible(page)


def test_the_theme_is_switched_and_kept(administrator: Page) -> None:
    administrator.goto("/admin/you/")
    html = administrator.locator("html")
    background = "() => getComputedStyle(document.body).backgroundColor"
    light = administrator.evaluate(background)

    toggle = administrator.locator("#user-tools .theme-toggle")
    for _ in range(3):
        toggle.click()
        if html.get_attribute("data-theme") == "dark":
            break
    assert administrator.evaluate(background) != light

    administrator.reload()
    expect(html).to_have_attribute("data-theme", "dark")


def test_the_tabs_are_within_reach_on_a_phone(sign_in: SignIn, assert_fits: Check) -> None:
    page = sign_in("viewer", phone=True)
    page.goto("/admin/you/")

    tabs = page.get_by_role("navigation", name="Console").get_by_role("link")
    for tab in tabs.all():
        if tab.is_visible():
            box = tab.bounding_box()
            assert box
            assert box["height"] >= 44
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
    tabs.first.click()
    expect(page).to_have_title("Overview | Dead letters")
    assert_fits(page)


def test_the_menu_opens_by_keyboard_and_closes_with_escape(operator: Page) -> None:
    operator.goto("/admin/you/")
    summary = operator.locator("details.menu > summary")

    summary.focus()
    operator.keyboard.press("Enter")
    expect(operator.get_by_role("link", name="Audit log")).to_be_visible()
    operator.keyboard.press("Escape")

    expect(operator.get_by_role("link", name="Audit log")).to_be_hidden()
    expect(summary).to_be_focused()


PAGES: list[tuple[Role | None, str, str]] = [
    (None, "login", "/admin/login/"),
    ("operator", "account", "/admin/you/"),
    ("administrator", "password", "/admin/password_change/"),
    ("superuser", "overview", "/admin/"),
    ("superuser", "app", "/admin/dlqsite/"),
    ("administrator", "keys", "/admin/dlqsite/apikey/"),
    ("administrator", "key-new", "/admin/dlqsite/apikey/add/"),
    ("superuser", "users", "/admin/auth/user/"),
    ("superuser", "user", "/admin/auth/user/1/change/"),
    ("superuser", "user-new", "/admin/auth/user/add/"),
    ("superuser", "user-delete", "/admin/auth/user/1/delete/"),
    ("superuser", "user-history", "/admin/auth/user/1/history/"),
    ("superuser", "group", "/admin/auth/group/1/change/"),
    ("operator", "audit", "/admin/audit_app/auditline/"),
    ("administrator", "notifications", "/admin/notify_app/notification/"),
    ("administrator", "notification", "/admin/notify_app/notification/1/change/"),
    ("administrator", "notification-retry", "/admin/notify_app/notification/act/retry/?ids=1"),
    ("administrator", "logins", "/admin/axes/accessattempt/"),
    ("viewer", "queues", "/admin/django_rq/dashboard/"),
    ("administrator", "queue", "/admin/django_rq/dashboard/queues/0/"),
]


@pytest.mark.parametrize(("phone", "scheme"), SCREENS)
def test_every_native_page_is_at_home(
    sign_in: SignIn,
    phone: bool,
    scheme: Scheme,
    assert_accessible: Check,
    assert_fits: Check,
    shoot: Callable[..., None],
) -> None:
    who = User.objects.create_user("anna", password="correct horse 1", is_staff=True, first_name="Anna")
    for number in range(3):
        ApiKey.objects.create_key(name=f"shop-{number}", scopes=["submit", "read"], revoked=number == 2)
    for said in ("replay: the gateway is back", '[{"changed": {"fields": ["Name"]}}]'):
        AuditLine.objects.create(who="user:anna", what=said, kind="user", object_id=str(who.pk), name="anna")
    for number, state in enumerate(NotificationState):
        Notification.objects.create(
            pk=number + 1, recipient="team", key=str(number), subject="", event="group_new", severity="warning",
            title="New: payments-api did not answer within # s", text="TIMEOUT_ERROR, 3 open letters", state=state,
            give_up_at=timezone.now(), attempts=1, error="The service refused it. error=500.",
        )  # fmt: skip
    Notification.objects.filter(pk=1).update(state=NotificationState.FAILED)
    pages = {role: sign_in(role, phone=phone, scheme=scheme) for role, _, _ in PAGES}

    wrong = []
    for role, name, path in PAGES:
        page = pages[role]
        page.goto(path.replace("user/1/", f"user/{who.pk}/"))
        shoot(page, f"{name}-{'phone' if phone else 'desktop'}-{scheme}")
        for check in (assert_accessible, assert_fits):
            try:
                check(page)
            except AssertionError as error:  # told of all pages together: a rule of the style often fails on several
                wrong.append(str(error))
    assert wrong == []


def test_a_long_word_in_a_notification_hides_no_column_and_its_close_button_is_whole(administrator: Page) -> None:
    Notification.objects.create(
        pk=1, recipient="team", key="1", subject="", event="group_new", severity="warning", title=f"New: {'A' * 145}",
        text="", state=NotificationState.UNCERTAIN, give_up_at=timezone.now(), error="B" * 300,
    )  # fmt: skip
    administrator.goto("/admin/notify_app/notification/")
    results = administrator.locator("#changelist-form .results")
    assert results.evaluate("list => list.scrollWidth <= list.clientWidth")

    administrator.goto("/admin/notify_app/notification/1/change/")
    close = administrator.locator(".submit-row .closelink")
    assert close.evaluate("button => button.scrollHeight <= button.clientHeight")


def test_a_new_key_is_shown_once(administrator: Page, assert_accessible: Check) -> None:
    administrator.goto("/admin/dlqsite/apikey/add/")
    administrator.get_by_label("Name").fill("shop")
    administrator.get_by_label("submit", exact=True).check()
    administrator.get_by_role("button", name="Save", exact=True).click()

    key = administrator.get_by_role("status").locator("code")
    expect(key).to_contain_text(ApiKey.objects.get(name="shop").prefix + ".")
    assert_accessible(administrator)
    administrator.reload()
    expect(key).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [("/admin/nowhere/", 404, "Not found"), ("/admin/auth/user/add/", 403, "not allowed")],
)
def test_an_error_page_says_what_it_is_and_leads_back(
    operator: Page, watch: Watch, path: str, status: int, says: str, assert_accessible: Check
) -> None:
    watch.expect(str(status))

    answer = operator.goto(path)

    assert answer is not None
    assert answer.status == status
    expect(operator.get_by_role("heading", level=1)).to_contain_text(says)
    assert_accessible(operator)
    operator.get_by_role("link", name="Overview").last.click()
    expect(operator).to_have_title("Overview | Dead letters")
