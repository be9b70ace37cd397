"""The demo as a person sees it: Chromium goes through every page and button."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from demo_process import running_demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

# Read before the fixture that keeps COGNITO_* settings out of the tests.
SCREENSHOTS = os.environ.get("COGNITO_ROTATE_SCREENSHOTS")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 10_000  # milliseconds for anything that a page has to show

Shoot = Callable[..., None]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium; without it the tests are skipped, or fail where all must run."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _do_without("playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        _do_without("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("COGNITO_ROTATE_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with running_demo(tmp_path) as demo:
        yield demo.url()
        print(demo.log())  # shown when a test fails


@pytest.fixture
def new_context(chromium: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Make browsers with no cookies; they fail on what a console would complain of."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def new(**options: Any) -> BrowserContext:
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda entry: _note(entry, complaints))
        contexts.append(context)
        return context

    yield new
    for context in contexts:
        context.close()
    assert complaints == []


def _note(entry: Any, complaints: list[str]) -> None:
    # An error status that a test provoked is not the page's mistake.
    if entry.type == "error" and not entry.text.startswith("Failed to load resource"):
        complaints.append(entry.text)


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    return new_context().new_page()


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path / "screenshots"

    def shoot(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return shoot


def test_signs_in_by_one_click_and_counts_down(
    page: Page, url: str, shoot: Shoot
) -> None:
    """From the start page over the pool's page to a token that runs out."""
    page.goto(url)
    assert page.title().startswith("Watch a refresh token rotate")
    shoot(page, "start")
    page.get_by_role("link", name="Sign in").click()
    page.get_by_role("button", name="Alice").wait_for()
    shoot(page, "pool")
    page.get_by_role("button", name="Alice").click()
    _see(page, "heading", "Alice")
    shoot(page, "signed-in")

    seconds = page.locator("[data-seconds]")
    before = _number(seconds.inner_text())
    assert 0 < before <= 30
    page.wait_for_function(
        "before => parseInt(document.querySelector('[data-seconds]').innerText)"
        " < before",
        arg=before,
    )


def test_signs_in_by_password_and_says_so_when_it_is_wrong(
    page: Page, url: str
) -> None:
    """A wrong password stays on the pool's page; the right one comes back."""
    page.goto(url)
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail address").fill("bob@example.com")
    page.get_by_label("Password", exact=True).fill("wrong")
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Password", exact=True).fill("password")
    page.get_by_role("button", name="Sign in", exact=True).click()
    _see(page, "heading", "Bob")


def test_refreshes_once_for_three_requests_at_once(
    page: Page, url: str, shoot: Shoot
) -> None:
    """Expired by the button, then three requests: each time one rotation."""
    _sign_in(page, url)
    page.get_by_role("button", name="Expire the token now").click()
    page.locator("tbody tr").wait_for()
    assert page.locator("tbody tr").count() == 1
    assert _calls(page) == 1

    page.get_by_role("button", name="Three requests at once").click()
    page.get_by_text("3 answers, 1 refresh, 1 access token").wait_for()
    page.locator("tbody tr").nth(1).wait_for()
    assert _calls(page) == 2
    shoot(page, "three-at-once")
    newest, oldest = (row.all() for row in _codes(page))
    assert newest[0].inner_text() == oldest[1].inner_text()


def test_stays_signed_in_while_the_provider_is_broken(
    page: Page, url: str, shoot: Shoot
) -> None:
    """Broken and expired, the page says what is wrong; mended, it goes on."""
    _sign_in(page, url)
    page.get_by_role("button", name="Break the provider").click()
    page.get_by_role("button", name="Mend the provider").wait_for()
    assert page.get_by_role("alert").count() == 0
    page.get_by_role("button", name="Expire the token now").click()
    message = page.get_by_role("alert")
    message.wait_for()
    assert "You stay signed in" in message.inner_text()
    assert re.search(r"next try is possible in \d+ s", message.inner_text())
    _see(page, "heading", "Alice")
    shoot(page, "broken")
    page.get_by_role("button", name="Three requests at once").click()
    page.get_by_text("3 of 3 requests refused for now (503)").wait_for()
    page.goto(f"{url}/whoami")
    page.get_by_role("link", name="Try again").wait_for()
    shoot(page, "unavailable")

    page.goto(url)
    page.get_by_role("button", name="Mend the provider").click()
    page.get_by_role("button", name="Break the provider").wait_for()
    # The extension's own pause runs out by the demo's clock.
    page.get_by_role("button", name="Expire the token now").click()
    page.locator("tbody tr").wait_for()
    assert page.get_by_role("alert").count() == 0


def test_rotates_once_for_three_tabs(page: Page, url: str) -> None:
    """Three tabs that are reloaded with an expired token stay signed in."""
    _sign_in(page, url)
    tabs = [page, page.context.new_page(), page.context.new_page()]
    for tab in tabs[1:]:
        tab.goto(url)
    page.evaluate(
        "async () => {"
        "  await fetch('/demo/expire', {method: 'POST', redirect: 'manual'})"
        "}"
    )
    for tab in tabs:
        # Returns at once, so that the three requests go out together.
        tab.evaluate("() => { setTimeout(() => location.reload(), 50) }")
    for tab in tabs:
        tab.wait_for_function(
            "() => document.querySelector('[data-calls]')?.innerText == 1"
        )
        _see(tab, "heading", "Alice")
    page.reload()
    assert page.locator("tbody tr").count() == 1


def test_shows_nothing_private_after_signing_out(page: Page, url: str) -> None:
    """Signed out, here and at the pool; the back button does not bring it back."""
    _sign_in(page, url)
    page.get_by_role("button", name="Sign out").click()
    _see(page, "link", "Sign in")
    assert page.url == f"{url}/"
    page.go_back()
    _see(page, "link", "Sign in")
    assert "Alice" not in page.locator("body").inner_text()
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail address").wait_for()


def test_fits_a_small_dark_screen(
    new_context: Callable[..., BrowserContext], url: str, shoot: Shoot
) -> None:
    """At 320 pixels no page has to be scrolled sideways."""
    small = {"width": 320, "height": 640}
    page = new_context(viewport=small, color_scheme="dark").new_page()
    page.goto(url)
    _fits(page)
    shoot(page, "start-small")
    page.get_by_role("link", name="Sign in").click()
    _fits(page)
    shoot(page, "pool-small")
    page.get_by_role("button", name="Alice").click()
    page.get_by_role("button", name="Three requests at once").click()
    page.get_by_text("3 answers, 1 refresh").wait_for()
    page.locator("tbody tr").wait_for()
    _fits(page)
    shoot(page, "signed-in-small")
    page.get_by_role("button", name="Break the provider").click()
    page.get_by_role("button", name="Expire the token now").click()
    page.get_by_role("alert").wait_for()
    _fits(page)
    shoot(page, "broken-small")


def test_works_without_javascript(
    new_context: Callable[..., BrowserContext], url: str, shoot: Shoot
) -> None:
    """Only the countdown and the three requests need a script."""
    page = new_context(java_script_enabled=False).new_page()
    _sign_in(page, url)
    assert not page.get_by_role("button", name="Three requests at once").is_visible()
    assert page.get_by_text("open this page in more tabs").is_visible()
    page.get_by_role("button", name="Expire the token now").click()
    page.locator("tbody tr").wait_for()
    shoot(page, "no-script")
    page.get_by_role("button", name="Sign out").click()
    _see(page, "link", "Sign in")


def test_the_extensions_own_pages_are_fit_to_be_seen(
    new_context: Callable[..., BrowserContext], url: str, shoot: Shoot
) -> None:
    """The page before signing out, and the one after a sign-in that failed."""
    for scheme, width in (("light", 900), ("dark", 320)):
        size = {"width": width, "height": 640}
        page = new_context(viewport=size, color_scheme=scheme).new_page()
        page.goto(f"{url}/auth/callback?state=x&code=y")
        _see(page, "link", "Sign in again")
        _fits(page)
        shoot(page, f"error-{scheme}")
        page.goto(f"{url}/auth/logout")
        shoot(page, f"logout-nobody-{scheme}")
        _sign_in(page, url)
        page.goto(f"{url}/auth/logout")
        assert "alice@example.com" in page.locator("main").inner_text()
        _fits(page)
        shoot(page, f"logout-{scheme}")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{url}/")


def _sign_in(page: Page, url: str) -> None:
    page.goto(f"{url}/auth/login")
    page.get_by_role("button", name="Alice").click()
    _see(page, "heading", "Alice")


def _see(page: Page, role: Any, name: str) -> None:
    page.get_by_role(role, name=name).wait_for()


def _number(text: str) -> int:
    found = re.search(r"\d+", text)
    assert found, text
    return int(found[0])


def _calls(page: Page) -> int:
    return int(page.locator("[data-calls]").inner_text())


def _codes(page: Page) -> list[Any]:
    """Return the fingerprints of each rotation, the newest first."""
    return [row.locator("code") for row in page.locator("tbody tr").all()]


def _fits(page: Page) -> None:
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), page.url
