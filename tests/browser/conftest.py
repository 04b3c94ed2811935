"""What the browser tests share: pages opened by role, and pictures in light, in dark and as a phone shows them."""

import pytest

LAB = "/labs/main"
WAIT_MS = 20_000
# As the button does it: what is drawn on a canvas has to be told.
THEME = """theme => {
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("themechange"));
}"""


@pytest.fixture(scope="module")
def opened(running_fleet, browser):
    """A new page of nobody, or logged in by role; a script error on any of them fails the module."""
    pages = []

    def open_page(role=None):
        context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=running_fleet.url)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.script_errors = []
        page.on("pageerror", lambda error: page.script_errors.append(f"{page.url}: {error.stack}"))
        pages.append(page)
        if role:
            login = running_fleet.logins[role]
            page.goto("/login")
            page.get_by_label("User name").fill(login["username"])
            page.get_by_label("Password").fill(login["password"])
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url(f"**{LAB}/")
        return page

    yield open_page
    for page in pages:
        assert page.script_errors == []
        page.context.close()


@pytest.fixture
def picture(screenshots):
    def take(page, name):
        size = page.viewport_size
        for theme in ("light", "dark"):
            page.evaluate(THEME, theme)
            page.screenshot(path=screenshots / f"{name}_{theme}.png", full_page=True)
        page.evaluate(THEME, "light")
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(path=screenshots / f"{name}_phone.png", full_page=True)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        page.set_viewport_size(size)
        assert wide <= 390, f"{name} is {wide} px wide on a phone of 390"

    return take
