"""The browser rig: Chromium, a live server over real stores, and people signed in.

Every page is watched: a message on the console's error channel, an uncaught error, a breach of the content security
policy, or a request that fails or is answered with an error fails the test, unless it said that it expects that.

Variables of the environment: ``CHROMIUM`` is the browser's path, else it is looked for; ``BROWSER_REQUIRED`` turns the
skip without one into a failure; ``SCREENSHOTS`` is a folder into which ``shoot`` writes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, ViewportSize, sync_playwright
from pytest_django.live_server_helper import LiveServer

from dlq_app.store import indexes
from dlq_app.store.mongo import database
from dlqsite import tabs
from dlqsite.tests.people import member, signed_in

DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
#: How long a page may take for one step, in milliseconds. Generous: machines are shared.
PATIENCE_MS = 15_000

Role = Literal["viewer", "operator", "administrator", "superuser"]
Scheme = Literal["light", "dark"]

#: Colours depend on the scheme and room on the width, so two of the four see everything; pictures are taken of all.
SCREENS = [pytest.param(False, "light", id="desktop-light"), pytest.param(True, "dark", id="phone-dark")]
if os.environ.get("SCREENSHOTS"):
    SCREENS += [pytest.param(False, "dark", id="desktop-dark"), pytest.param(True, "light", id="phone-light")]

_AXE = (Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8")
_REPORT_CSP = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`security policy: ${event.violatedDirective} blocked ${event.blockedURI} in ${event.sourceFile}`));
"""


def chromium() -> str | None:
    """Where the browser is; None without one."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@pytest.fixture
def indexed(mongo_db: Any) -> None:
    """Letters have their indexes, which the cleaning between tests keeps."""
    store = database()
    if indexes.missing(store):
        indexes.ensure(store, keep_resolved_days=90)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. It ends with the tests of this package: later tests must not find its event loop in their thread."""
    path = chromium()
    if path is None:
        reason = "no Chromium here: install it (Debian: apt install chromium) or set CHROMIUM to its path"
        if os.environ.get("BROWSER_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)
    # The driver runs an event loop in this thread, at which Django would refuse to use the database from it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--font-render-hinting=none"],
        )
        yield found
        found.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


class Watch:
    """What went wrong in a test's pages, and what of it was foreseen."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._foreseen: list[re.Pattern[str]] = []

    def expect(self, pattern: str) -> None:
        """Trouble in whose description the pattern is found does not fail this test; ``"503"`` is an answer 503."""
        self._foreseen.append(re.compile(pattern))

    def on(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._note(f"uncaught: {error} at {page.url}"))
        page.on("requestfailed", lambda request: self._note(f"failed: {request.url} {request.failure}"))
        page.on("response", self._answered)

    def _said(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self._note(f"console: {said.text} at {said.page.url if said.page else said.location['url']}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._note(f"answer: {response.status} {response.url}")

    def _note(self, what: str) -> None:
        if "net::ERR_ABORTED" not in what:  # the page was left meanwhile
            self.found.append(what)

    @property
    def unforeseen(self) -> list[str]:
        return [what for what in self.found if not any(pattern.search(what) for pattern in self._foreseen)]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watching = Watch()
    yield watching
    assert watching.unforeseen == []


class SignIn(Protocol):
    def __call__(
        self, role: Role | None = None, *, name: str = "", phone: bool = False, scheme: Scheme = "light", **more: Any
    ) -> Page: ...


@pytest.fixture
def sign_in(
    browser: Browser, live_server: LiveServer, watch: Watch, redis_client: Any, mongo_db: Any
) -> Iterator[SignIn]:
    """Open a blank page in which a new member of staff with the role is signed in (None: nobody).

    Addresses are relative: ``page.goto("/admin/")``. ``phone`` is 390 px wide with touch; ``scheme`` what the system
    prefers; ``more`` goes to the browser's context. The stores are empty.
    """
    tabs.counts.forget()
    contexts: list[BrowserContext] = []
    people: dict[str, User] = {}

    def new_page(
        role: Role | None = None, *, name: str = "", phone: bool = False, scheme: Scheme = "light", **more: Any
    ) -> Page:
        context = browser.new_context(
            base_url=live_server.url,
            viewport=PHONE if phone else DESKTOP,
            has_touch=phone,
            is_mobile=phone,
            color_scheme=scheme,
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="UTC",
            **more,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(_REPORT_CSP)
        if role is not None:
            known = name or role
            if known not in people:
                people[known] = member(role, name)
            session = signed_in(people[known]).cookies[settings.SESSION_COOKIE_NAME].value
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": live_server.url}])
        page = context.new_page()
        watch.on(page)
        return page

    yield new_page
    for context in contexts:
        context.close()


def _page_of(role: Role) -> Any:
    def page(sign_in: SignIn) -> Page:
        return sign_in(role)

    return pytest.fixture(page, name=role)


viewer, operator, administrator = _page_of("viewer"), _page_of("operator"), _page_of("administrator")


@pytest.fixture
def assert_accessible(watch: Watch) -> Callable[[Page], None]:
    """Nothing serious or critical is found by axe-core on the page as it stands, WCAG 2.2 A and AA."""

    def check(page: Page) -> None:
        before = len(watch.found)
        page.evaluate(_AXE)
        found = page.evaluate(
            """() => axe.run(document, {
                 runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
                 resultTypes: ["violations"] })"""
        )
        # To try things it writes styles into the page, which the policy forbids and which says nothing about the page.
        watch.found[before:] = [what for what in watch.found[before:] if "style" not in what]
        grave = [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
        assert grave == [], page.url

    return check


@pytest.fixture
def assert_fits() -> Callable[[Page], None]:
    """The page does not scroll sideways."""

    def check(page: Page) -> None:
        wide = page.evaluate(
            """() => {
                 const room = document.documentElement.clientWidth;
                 if (document.documentElement.scrollWidth <= room) return [];
                 return [...document.querySelectorAll("body *")]
                   .filter((e) => e.getBoundingClientRect().right > room + 1)
                   .slice(-3).map((e) => e.outerHTML.slice(0, 160));
               }"""
        )
        assert wide == [], page.url

    return check


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write a picture of the whole page into the folder ``SCREENSHOTS``; does nothing when that is not set."""
    folder = os.environ.get("SCREENSHOTS")

    def write(page: Page, name: str = "") -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = str(Path(folder) / f"{name or request.node.name}.png")
            # As it stands: to hide the caret the driver would write a style into the page, which the policy forbids.
            page.screenshot(path=path, full_page=True, caret="initial", animations="allow")

    return write
