"""The whole loop as people see it, in a real browser against a fleet that the product's own command started.

The story is told by fixtures: a fleet of its own that nobody has used, a policy that is trained, stations that
practise. A test asks for the chapter that it needs, so the tests have no order.
"""

import re
import time

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LAB, THEME, close_page, log_in, new_page, nothing_sticks_out, wait_until
from tests.conftest import new_fleet


@pytest.fixture(scope="module")
def running_fleet():
    with new_fleet(2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def story():
    """Addresses of pages: of the training, once it has ended, and of the practice that goes on."""
    return {}


@pytest.fixture(scope="module")
def pages(running_fleet, browser, at_first):
    """A logged-in page a role, each in a context of its own; a script error on any of them fails the test that asks."""
    opened = {}

    def page_of(role):
        if role not in opened:
            opened[role] = new_page(browser, running_fleet.url, running_fleet.logins[role])
        return opened[role]

    yield page_of
    for page in opened.values():
        close_page(page)


def pixels(page):
    """A fingerprint of what the feed shows; a still scene gives the same bytes, so a change is one of the picture."""
    return page.evaluate("() => document.querySelector('#feed canvas').toDataURL()")


def frames(page, selector="#feed"):
    return int(page.get_attribute(selector, "data-frames") or 0)


def fill_recipe(page, **values):
    page.locator("details.panel > summary").click()
    for name, value in values.items():
        page.locator(f"#id_{name}").fill(str(value))


@pytest.fixture(scope="module")
def at_first(running_fleet, browser, screenshots):
    """What the wall shows before anybody has done anything; the picture of it is taken once."""
    context = browser.new_context(base_url=running_fleet.url, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{LAB}/")
    assert "/login" in page.url
    page.get_by_label("User name").fill("supervisor")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("correct username and password")
    log_in(page, running_fleet.logins["supervisor"])
    expect(page.locator("article.card .feed.has-frame")).to_have_count(2)
    seen = {"title": page.title(), "steps": page.locator("ol.steps li").count()}
    seen["cards"] = page.locator("article.card").count()
    page.screenshot(path=screenshots / "wall_at_first.png")
    context.close()
    return seen


def test_log_in_shows_the_wall_and_the_first_steps(at_first):
    assert "Wall" in at_first["title"]
    assert (at_first["steps"], at_first["cards"]) == (3, 2)


def test_another_lab_is_not_found(pages, screenshots):
    page = pages("researcher")
    assert page.goto("/labs/other/").status == 404
    expect(page.locator("main")).to_contain_text("no lab 'other'")
    page.screenshot(path=screenshots / "not_found.png")


def test_reset_changes_the_picture(pages, at_rest, screenshots):
    page = pages("supervisor")
    page.goto(f"{LAB}/stations/station-1")
    expect(page.locator("#feed")).to_have_class(re.compile("has-frame"))
    before = pixels(page)
    page.get_by_role("button", name="Reset done").click()
    expect(page.locator("#toasts")).to_contain_text("the reset is recorded")
    wait_until(lambda: pixels(page) != before, "The table was scattered, but the picture is still the old one.")
    page.screenshot(path=screenshots / "station_reset.png")


def test_override_drives_the_arm_with_keys_and_mouse(pages, at_rest, screenshots):
    page = pages("supervisor")
    page.goto(f"{LAB}/stations/station-1")
    page.get_by_role("button", name="Override").click()
    expect(page.locator("body")).to_have_attribute("data-station-state", "overridden")
    still = pixels(page)
    page.keyboard.down("ArrowRight")
    wait_until(lambda: pixels(page) != still, "The arm did not move under the arrow key.")
    page.keyboard.up("ArrowRight")
    time.sleep(1.2)  # it comes to rest: the dead-man holds it
    still = pixels(page)
    box = page.locator("#feed").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 90, box["y"] + box["height"] / 2 + 60, steps=4)
    wait_until(lambda: pixels(page) != still, "The arm did not move under the mouse.")
    page.screenshot(path=screenshots / "station_override.png")
    page.mouse.up()
    page.get_by_role("button", name="Hand back").click()
    expect(page.locator("body")).not_to_have_attribute("data-station-state", "overridden")


def test_stop_is_at_once_and_a_viewer_of_the_wall_sees_it_first(pages, at_rest, screenshots):
    wall, station = pages("manager"), pages("supervisor")
    wall.goto(f"{LAB}/")
    station.goto(f"{LAB}/stations/station-2")
    station.get_by_role("button", name="Software stop").click()
    card = wall.locator("#attention article.card[data-station=station-2]")
    expect(card).to_contain_text("Stopped")
    expect(card.get_by_role("button", name="Clear stop")).to_be_visible()
    wall.screenshot(path=screenshots / "wall_attention.png")
    wall.set_viewport_size({"width": 390, "height": 844})
    nothing_sticks_out(wall, 390)
    wall.screenshot(path=screenshots / "wall_attention_390.png")
    wall.set_viewport_size({"width": 1440, "height": 900})
    card.get_by_role("button", name="Clear stop").click()
    expect(wall.locator("#ask")).to_contain_text("Say why it is safe")
    wall.locator("#ask [value=yes]").click()
    expect(wall.locator("#ask")).to_be_visible()  # not without a reason
    wall.get_by_label("Reason").fill("the table was empty all along")
    wall.screenshot(path=screenshots / "clear_stop.png")
    wall.locator("#ask [value=yes]").click()
    expect(station.locator("body")).to_have_attribute("data-station-state", "paused")
    wall.locator("#at-work article.card[data-station=station-2]").get_by_role("button", name="Resume").click()
    expect(station.locator("body")).to_have_attribute("data-station-state", "idle")


def test_a_bad_recipe_says_what_to_write_instead(pages, screenshots):
    page = pages("researcher")
    page.goto(f"{LAB}/datasets/")
    expect(page.locator("tbody")).to_contain_text("Ready")  # generated since the fleet's first start
    page.goto(f"{LAB}/runs/new?kind=sft")
    page.locator("#id_steps").fill("many")
    page.locator("#id_batch").fill("1")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator(".field.bad")).to_have_count(2)
    expect(page.locator(".field.bad").first).to_contain_text("must be a whole number, not 'many'")
    expect(page.locator("#id_steps")).to_have_value("many")
    page.screenshot(path=screenshots / "launch_refused.png")


@pytest.fixture
def trained(pages, story, screenshots):
    """The page of a training that was launched by its form, whose losses grew, and which has ended."""
    if "sft" not in story:
        story["sft"] = train(pages("researcher"), screenshots)
    return story["sft"]


def train(page, screenshots):
    page.goto(f"{LAB}/datasets/")
    expect(page.locator("tbody")).to_contain_text("Ready")  # generated since the fleet's first start
    page.goto(f"{LAB}/runs/new?kind=sft")
    fill_recipe(
        page,
        name="first policy",
        steps=300,
        batch=128,
        validate_every=50,
        grounding_steps=60,
        hidden=64,
        evaluation_episodes=20,
        largest_threshold=0,  # so few updates make no detector
    )
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"/runs/\d+$"))
    address = page.url
    points = lambda: int(page.get_attribute("#curve-0", "data-points") or 0)  # noqa: E731
    state = page.locator("h1 + [data-f=state]")
    wait_until(lambda: points() > 0, lambda: f"No loss appeared; the run says: {page.inner_text('main')}")
    first = points()
    wait_until(lambda: points() > first, "The curve of losses did not grow.")
    expect(state).to_contain_text("Completed")
    expect(page.locator("#use")).to_be_visible()  # the page has come anew, with what can be done now
    expect(page.locator("#result-panel")).to_contain_text("of 20 evaluation episodes")
    page.screenshot(path=screenshots / "run_sft.png", full_page=True)
    return address


def test_launch_sft_and_see_the_losses_grow(pages, trained):
    page = pages("researcher")
    page.goto(trained)
    expect(page.locator("h1 + [data-f=state]")).to_contain_text("Completed")
    expect(page.locator("#result-panel")).to_contain_text("of 20 evaluation episodes")


@pytest.fixture
def practising(pages, story, trained, screenshots):
    """The page of a practice that was launched by its form, whose success curve grew, and which goes on."""
    if "improve" not in story:
        practise(pages("researcher"), pages("supervisor"), story)
    if story.get("grown") != story["improve"]:
        see_the_curve_grow(pages("researcher"), story["improve"], screenshots)
        story["grown"] = story["improve"]
        at_real_speed(pages("supervisor"))  # the tests that look at it have the machine to themselves
    return story["improve"]


def practise(page, supervisor, story):
    page.goto(f"{LAB}/runs/new?kind=improve")
    fill_recipe(
        page,
        name="first practice",
        max_episodes=1_000_000,  # nothing ends it before it is cancelled: no budget and no guard
        patience=0,
        updates_per_round=2,
        batch=32,
        epochs=1,
        evaluate_every=1,
        evaluation_episodes=20,
    )
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"/runs/\d+$"))
    story["improve"] = page.url  # whatever comes of it, it has the stations
    for station in ("station-1", "station-2"):
        supervisor.goto(f"{LAB}/stations/{station}")
        supervisor.get_by_label("Reset itself after").fill("0.5")
        supervisor.get_by_role("button", name="Save settings").click()
        expect(supervisor.locator("#toasts")).to_contain_text("settings saved")
        supervisor.wait_for_load_state()  # before that no button acts
        supervisor.get_by_role("button", name="max", exact=True).click()
        expect(supervisor.get_by_role("button", name="max", exact=True)).to_have_attribute("aria-pressed", "true")


def see_the_curve_grow(page, address, screenshots):
    if page.url != address:
        page.goto(address)
    points = lambda: int(page.get_attribute("#success", "data-points") or 0)  # noqa: E731
    said = lambda: f"No evaluation came; the run says: {page.inner_text('main')}"  # noqa: E731
    wait_until(lambda: points() > 0, said, seconds=150)
    first = points()
    wait_until(lambda: points() > first, said, seconds=90)
    page.screenshot(path=screenshots / "run_improve.png", full_page=True)


@pytest.fixture
def at_rest(pages, story):
    """Nobody practises; stations go at the speed of a real one."""
    page = pages("supervisor")
    if "improve" in story:
        call(pages("researcher"), f"runs/{story.pop('improve').rsplit('/', 1)[1]}/cancel")
    at_real_speed(page)
    for slug in ("station-1", "station-2"):
        if page.request.get(f"/api{LAB}/stations/{slug}").json()["paused"]:
            call(page, f"stations/{slug}/command", {"name": "resume"})
        address = f"/api{LAB}/stations/{slug}"
        idle = lambda at=address: page.request.get(at).json()["state"] == "idle"  # noqa: E731
        wait_until(idle, f"{slug} does not come to rest")


def at_real_speed(page):
    for slug in ("station-1", "station-2"):
        call(page, f"stations/{slug}/command", {"name": "speed", "args": {"value": 1}})


def call(page, path, body=None):
    """As a script of this user calls the API."""
    page.goto(f"{LAB}/")
    token = page.evaluate("() => document.cookie.match(/csrftoken=([^;]+)/)[1]")
    answer = page.request.post(f"/api{LAB}/{path}", data=body or {}, headers={"X-CSRFToken": token})
    assert answer.ok, answer.text()


def test_launch_improve_and_see_the_success_curve_grow(pages, practising):
    page = pages("researcher")
    page.goto(practising)
    points = lambda: int(page.get_attribute("#success", "data-points") or 0)  # noqa: E731
    wait_until(lambda: points() > 1, "The success curve is not there when the page is opened anew.")


def test_the_wall_shows_practice_moving(pages, practising, screenshots):
    page = pages("supervisor")
    page.goto(f"{LAB}/")
    feed = "article.card[data-station=station-1] .feed"
    wait_until(lambda: frames(page, feed) > 0, "No frame reached the wall.")
    canvas = f"{feed} canvas"
    shot = lambda: page.evaluate("selector => document.querySelector(selector).toDataURL()", canvas)  # noqa: E731
    before, seen = shot(), frames(page, feed)
    wait_until(lambda: frames(page, feed) > seen + 3, "Frames ceased.")
    wait_until(lambda: shot() != before, "Frames came, but the picture never changed.")
    page.screenshot(path=screenshots / "wall_practice.png")


def test_the_last_half_minute_is_played_back_beside_the_live_picture(pages, practising, screenshots):
    page = pages("supervisor")
    page.goto(f"{LAB}/")
    page.locator("article.card[data-station=station-1]").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("b")  # from the wall, of the selected station
    page.wait_for_url(re.compile(r"/stations/station-1\?rewind=1$"))
    past = page.locator("#past")
    expect(past.locator(".when")).to_have_text(re.compile(r"Not live: \d+\.\d s ago"))
    expect(past).to_have_class(re.compile("has-frame"))
    shot = lambda: page.evaluate("() => document.querySelector('#past canvas').toDataURL()")  # noqa: E731
    scrub = page.locator("#rewind-at")
    first, column = shot(), int(past.get_attribute("data-column"))
    page.get_by_role("button", name="Play").click()
    wait_until(lambda: int(past.get_attribute("data-column")) > column + 5, "It doesn't play.")
    page.get_by_role("button", name="Pause", exact=True).first.click()
    scrub.focus()
    page.keyboard.press("End")
    expect(past).to_have_attribute("data-column", "149")
    expect(page.locator('#rewind [data-f="past-state"]')).to_have_text(re.compile("Practising|Waiting|Needs a person"))
    wait_until(lambda: shot() != first, "Half a minute of practice looks the same at its end as at its beginning.")
    live = frames(page)
    wait_until(lambda: frames(page) > live + 2, "The live picture stands still meanwhile.")
    for theme in ("dark", "light"):
        page.evaluate(THEME, theme)
        page.screenshot(path=screenshots / f"station_rewind_{theme}.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=screenshots / "station_rewind_phone.png", full_page=True)
    nothing_sticks_out(page, 390)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.keyboard.press("Escape")
    expect(past).to_be_hidden()
    expect(page).to_have_url(re.compile(r"/stations/station-1$"))


def test_a_rise_of_d_is_a_moment_to_jump_to(pages):
    """A station's word is replaced by one whose d leaps at a known time, and by the start of another episode."""
    page = pages("researcher")

    def sample(at, uuid, d):
        return {
            "at": at,
            "uuid": uuid,
            "d": d,
            "step": 3,
            "state": "practising",
            "instruction": "push it",
            "p_success": 0.5,
        }

    said = [sample(-29 + i / 5, "one", 20 - i / 5) for i in range(60)]  # until -17.2
    said += [sample(-17 + i / 5, "one", 30 - i / 5) for i in range(40)]  # from 8.2 to 30: it slipped
    said += [sample(-9 + i / 5, "two", 45 - i / 5) for i in range(46)]  # another attempt begins farther away
    told = {"seconds": 30, "ended_s_ago": 1, "samples": said, "frames": []}
    page.route("**/stations/station-1/rewind", lambda route: route.fulfill(json=told))
    page.goto(f"{LAB}/stations/station-1")
    page.get_by_role("button", name="Rewind 30 s").click()
    events = page.locator("#rewind-events button")
    expect(events).to_have_count(1)
    expect(events).to_have_text(re.compile(r"^-1[67]\.\d s: d rose by 2\d\.\d$"))
    events.click()
    expect(page.locator('#rewind [data-f="past-numbers"]')).to_contain_text(re.compile(r"d (29|30)\.\d"))
    page.unroute("**/stations/station-1/rewind")


def test_replay_an_episode(pages, practising, screenshots):
    page = pages("researcher")
    page.goto(f"{LAB}/episodes/?purpose=practice")
    page.locator("tbody a").first.wait_for(timeout=60_000)
    page.screenshot(path=screenshots / "episodes.png")
    page.locator("tbody a").first.click()
    expect(page.locator("#feed")).to_have_attribute("data-step", "0")  # the pictures are rendered by a job
    first = pixels(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#where")).to_contain_text("step 1 of")
    expect(page).to_have_url(re.compile(r"\?step=1$"))
    page.keyboard.press("End")
    last = page.get_attribute("body", "data-steps")
    expect(page.locator("#feed")).to_have_attribute("data-step", last)
    assert pixels(page) != first
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    wait_until(lambda: int(page.input_value("#scrub")) >= min(3, int(last)), "The replay does not play.")
    page.keyboard.press("Home")
    expect(page.locator("[data-f=actor]")).to_have_text("policy")
    page.goto(f"{page.url.partition('?')[0]}?step={last}")
    expect(page.locator("#where")).to_have_text(f"step {last} of {last}")
    expect(page.locator("[data-f=d]")).not_to_have_text("–")
    page.screenshot(path=screenshots / "replay.png")


def test_charts_are_drawn_inside_the_session(pages, practising, browser, running_fleet, screenshots):
    page = pages("researcher")
    page.goto(f"{LAB}/charts/")
    frame = page.frame_locator("iframe")
    expect(frame.locator("#success .scatterlayer .trace").first).to_be_attached(timeout=30_000)
    page.screenshot(path=screenshots / "charts.png")
    stranger = browser.new_context(base_url=running_fleet.url)
    assert stranger.request.post("/charts/app/_dash-update-component", data={}).status == 401
    assert "/login" in stranger.request.get("/charts/app/?lab=main").url
    stranger.close()


def test_curves_come_once_compressed_for_runs_and_charts(pages, practising):
    """Bytes over the wire, as Chromium counts them."""
    page = pages("researcher")
    network = page.context.new_cdp_session(page)
    names, sizes = {}, {}
    network.on("Network.responseReceived", lambda event: names.update({event["requestId"]: event["response"]["url"]}))
    network.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    network.send("Network.enable")
    network.send("Network.clearBrowserCache")
    page.goto(practising)
    expect(page.locator("#success .scatterlayer .trace").first).to_be_attached(timeout=30_000)
    assert sum(sizes.values()) < 700_000
    sizes.clear()
    page.goto(f"{LAB}/charts/")
    expect(page.frame_locator("iframe").locator("#success .scatterlayer .trace").first).to_be_attached(timeout=30_000)
    assert sum(sizes.values()) < 700_000
    assert sum(size for request, size in sizes.items() if "plotly" in names[request]) == 0  # the run's page fetched it
    network.detach()


def test_a_run_says_that_people_keep_it_waiting(pages, practising, screenshots):
    page, supervisor = pages("researcher"), pages("supervisor")
    supervisor.goto(f"{LAB}/stations/station-1")
    supervisor.get_by_role("button", name="Pause").click()
    page.goto(practising)
    expect(page.locator("#waiting")).to_contain_text("of 2 stations")
    expect(page.locator("#log")).to_contain_text("evaluated:")
    page.screenshot(path=screenshots / "run_waiting.png")
    page.get_by_role("link", name="See the wall").click()
    page.locator("article.card[data-station=station-1]").get_by_role("button", name="Resume").wait_for(state="hidden")
    supervisor.get_by_role("button", name="Resume").click()
    expect(supervisor.locator("body")).not_to_have_attribute("data-station-state", "paused")


def test_cancel_asks_once_with_the_name(pages, story, practising, screenshots):
    page = pages("researcher")
    page.goto(practising)
    state = page.locator("h1 + [data-f=state]")
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("#confirm")).to_contain_text("Cancel first practice?")
    page.get_by_role("button", name="Go back").click()
    expect(state).to_contain_text("Running")
    page.get_by_role("button", name="Cancel run").click()
    page.screenshot(path=screenshots / "confirm.png")
    page.get_by_role("button", name="Cancel first practice").click()
    story["ended"] = story.pop("improve")
    expect(state).to_contain_text("Canceled")


@pytest.fixture
def ended(pages, story, request):
    """The page of a practice that has ended."""
    if "ended" not in story:
        request.getfixturevalue("practising")
        story["ended"] = story.pop("improve")
        call(pages("researcher"), f"runs/{story['ended'].rsplit('/', 1)[1]}/cancel")
    return story["ended"]


def test_a_policy_is_evaluated_on_a_station_and_labels_move_its_series(pages, ended, at_rest, picture):
    page = pages("manager")
    call(pages("supervisor"), "stations/station-1/command", {"name": "speed", "args": {"value": 0}})
    page.goto(ended)
    expect(page.locator("#evaluations")).to_contain_text("None yet")
    page.get_by_role("link", name="Evaluate on stations").first.click()
    page.get_by_label("Attempts").fill("3")
    page.get_by_label("Station 2").uncheck()
    picture(page, "evaluate_form")
    page.get_by_role("button", name="Evaluate").click()
    expect(page.locator("#toasts")).to_contain_text("An evaluation of first practice")
    row = page.locator("#evaluations tbody tr")
    expect(row).to_contain_text("3 of 3 attempts", timeout=90_000)
    expect(row).to_contain_text("Completed")
    expect(page.locator("#success")).to_have_attribute("data-stations", "1")
    expect(page.locator("#success .legend")).to_contain_text("on stations")
    expect(row).to_contain_text(re.compile(r"\(\d of 3\)"))
    attempts = page.request.get(f"/api{LAB}/episodes?purpose=evaluation").json()
    assert attempts["count"] == 3 and {each["station"] for each in attempts["items"]} == {"station-1"}
    call(pages("supervisor"), f"episodes/{attempts['items'][0]['uuid']}/label", {"true_success": None})
    expect(row).to_contain_text("1 attempt wants a label")
    expect(row).to_contain_text(re.compile(r"\(\d of 2\)"))
    picture(page, "run_evaluated")
    page.get_by_role("link", name="1 attempt wants a label").click()
    expect(page.locator("main")).to_contain_text("1 episode found")


def test_jump_palette_keys_and_theme(pages, screenshots):
    page = pages("manager")
    page.goto(f"{LAB}/")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#theme").click()
    theme = page.get_attribute("html", "data-theme")
    page.reload()
    assert page.get_attribute("html", "data-theme") == theme == "dark"
    page.screenshot(path=screenshots / "wall_dark.png")
    page.keyboard.press("Control+k")
    page.locator("#palette input").fill("station 2")
    expect(page.locator("#palette li").first).to_contain_text("Station 2")
    page.screenshot(path=screenshots / "jump.png")
    page.keyboard.press("Enter")
    page.wait_for_url("**/stations/station-2")
