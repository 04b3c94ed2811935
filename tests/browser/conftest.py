"""What the browser tests share: pages opened by role, and pictures of them in light, in dark and on a phone."""

import os
import time

import pytest
from playwright.sync_api import Page

from tests.conftest import AT_LENGTH, WAIT_MS, new_fleet

LAB = "/labs/main"
# As the button does it: what is drawn on a canvas has to be told.
THEME = """theme => {
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("themechange"));
}"""


# What is promised in seconds must hold where it is measured, on a machine that does nothing else. `make test` shows
# that it happens at all.
MEASURED = AT_LENGTH or bool(os.environ.get("FLEETUI_FIGURES"))


def wait_until(check, said, seconds=WAIT_MS / 1000, every=0.05):
    """What `check` gives once that is true; else the test fails with what is said, a sentence or what makes one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(every)
    raise AssertionError(said() if callable(said) else said)


TOO_WIDE = """width => [...document.querySelectorAll("body *")]
  .filter((each) => each.getBoundingClientRect().right > width + 0.5)
  .map((each) => `${each.tagName}.${each.className} ${each.textContent.trim().slice(0, 60)}`).slice(0, 8)"""


def nothing_sticks_out(page, width, said="the page"):
    """Of a window so wide, in pixels, once what is drawn has its new size."""
    fits = lambda: page.evaluate("() => document.documentElement.scrollWidth") <= width  # noqa: E731
    wait_until(fits, lambda: f"{said} is wider than {width} px: {page.evaluate(TOO_WIDE, width)}")


def log_in(page, login):
    page.goto("/login")
    page.get_by_label("User name").fill(login["username"])
    page.get_by_label("Password").fill(login["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"**{LAB}/")


def new_page(browser, url, login=None):
    """A page in a context of its own, of nobody or logged in. close_page() ends it."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=url).new_page()
    page.set_default_timeout(WAIT_MS)
    page.script_errors = []
    page.on("pageerror", lambda error: page.script_errors.append(f"{page.url}: {error.stack}"))
    if login:
        log_in(page, login)
    return page


def close_page(page):
    """A script error on it fails the test."""
    page.context.close()
    assert page.script_errors == []


def api(page, method, path, body=None):
    """As a script of this user calls it, from a page of the site."""
    return page.evaluate(
        """async ([method, url, body]) => {
            const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
            const headers = { "Content-Type": "application/json", "X-CSRFToken": token };
            const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
            if (!answer.ok) throw new Error(await answer.text());
            return answer.json();
        }""",
        [method, f"/api{LAB}/{path}", body],
    )


@pytest.fixture(scope="module")
def fleet():
    """The module's own, for tests that can't leave it as they found it."""
    with new_fleet(1) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def page(fleet, browser):
    """Its manager's."""
    page = new_page(browser, fleet.url, fleet.logins["manager"])
    yield page
    close_page(page)


@pytest.fixture(scope="module")
def opened(running_fleet, browser):
    """A new page of nobody, or logged in by role."""
    pages = []

    def open_page(role=None):
        pages.append(new_page(browser, running_fleet.url, role and running_fleet.logins[role]))
        return pages[-1]

    yield open_page
    for page in pages:
        close_page(page)


@pytest.fixture(scope="session", autouse=True)
def only_wanted_pictures():
    """`make test PICTURES=1` leaves in tests/screenshots/ what the tests saw; else a fifth of the browser's work is
    saved.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("PICTURES"):
            patch.setattr(Page, "screenshot", lambda page, **how: None)
        yield


@pytest.fixture
def picture(screenshots):
    """Of the whole page in light, in dark and on a phone, where nothing may stick out."""

    def take(page, name):
        size = page.viewport_size
        for theme in ("light", "dark"):
            page.evaluate(THEME, theme)
            page.screenshot(path=screenshots / f"{name}_{theme}.png", full_page=True)
        page.evaluate(THEME, "light")
        page.set_viewport_size({"width": 390, "height": 844})
        nothing_sticks_out(page, 390, name)
        page.screenshot(path=screenshots / f"{name}_phone.png", full_page=True)
        page.set_viewport_size(size)

    return take
