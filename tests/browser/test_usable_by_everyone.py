"""axe-core finds no violation on any page: in light, in dark and as a phone shows it, the Dash frame included.

The pages are read off the URLconf: one that stands in neither table below fails the test.
"""

from importlib.resources import files

import pytest
from django.urls import URLResolver, get_resolver
from playwright.sync_api import expect

from tests.browser.conftest import api

LAB = "/labs/main"
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
RECIPES = {
    "sft": {
        "steps": 50,
        "batch": 64,
        "validate_every": 25,
        "grounding_steps": 20,
        "hidden": 32,
        "largest_threshold": 0,
    },
    "improve": {"max_episodes": 100_000, "patience": 0, "updates_per_round": 2, "batch": 32, "evaluate_every": 10},
}

# Route -> (who looks, the addresses that show it). {…} stands for what the fixture `furnished` made.
PAGES = {
    "login": (None, ["/login"]),
    "api/docs": ("manager", ["/api/docs"]),
    "password": ("supervisor", ["/password"]),
    "access-tokens": ("supervisor", ["/access-tokens"]),
    "time-zone": ("supervisor", ["/time-zone"]),
    "labs/<slug:lab_slug>/": ("supervisor", [f"{LAB}/"]),
    "labs/<slug:lab_slug>/stations/": ("manager", [f"{LAB}/stations/"]),
    "labs/<slug:lab_slug>/stations/new": ("manager", [f"{LAB}/stations/new"]),
    "labs/<slug:lab_slug>/stations/<slug:station_slug>": (
        "manager",
        [f"{LAB}/stations/station-1", f"{LAB}/stations/station-2?rewind=1"],
    ),
    "labs/<slug:lab_slug>/glossary": ("researcher", [f"{LAB}/glossary"]),
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/token": (
        "manager",
        ["{token}", f"{LAB}/stations/station-1/token"],
    ),
    "labs/<slug:lab_slug>/attention/": ("supervisor", [f"{LAB}/attention/"]),
    "labs/<slug:lab_slug>/effort/": ("manager", [f"{LAB}/effort/"]),
    "labs/<slug:lab_slug>/people": ("manager", [f"{LAB}/people"]),
    "labs/<slug:lab_slug>/audit": ("manager", [f"{LAB}/audit", f"{LAB}/audit?person=nobody"]),
    "invitations/<str:token>": (None, ["{invitation}"]),
    "labs/<slug:lab_slug>/episodes/": ("researcher", [f"{LAB}/episodes/", f"{LAB}/episodes/?query=nothing+such"]),
    "labs/<slug:lab_slug>/episodes/<uuid:episode_uuid>": ("researcher", ["{episode}"]),
    "labs/<slug:lab_slug>/tasks/": ("manager", [f"{LAB}/tasks/"]),
    "labs/<slug:lab_slug>/tasks/<slug:task_slug>/edit": ("manager", [f"{LAB}/tasks/block2block/edit"]),
    "labs/<slug:lab_slug>/tasks/assignments/<int:number>": ("manager", ["{assignment}"]),
    "labs/<slug:lab_slug>/charts/": ("researcher", [f"{LAB}/charts/"]),
    "labs/<slug:lab_slug>/runs/": ("researcher", [f"{LAB}/runs/"]),
    "labs/<slug:lab_slug>/runs/new": (
        "researcher",
        [f"{LAB}/runs/new", f"{LAB}/runs/new?kind=sft", f"{LAB}/runs/new?kind=improve"],
    ),
    "labs/<slug:lab_slug>/runs/<int:run_id>": ("researcher", ["{sft}", "{improve}"]),
    "labs/<slug:lab_slug>/runs/<int:run_id>/evaluate": ("manager", ["{improve}/evaluate"]),
    "labs/<slug:lab_slug>/runs/<int:run_id>/log": ("researcher", ["{sft}/log", "{sft}/log?q=nothing+such"]),
    "labs/<slug:lab_slug>/runs/compare": (
        "researcher",
        [f"{LAB}/runs/compare", f"{LAB}/runs/compare?run=1&run=2", f"{LAB}/runs/compare?run=1&run=2&recipe=all"],
    ),
    "labs/<slug:lab_slug>/machines": ("researcher", [f"{LAB}/machines"]),
    "labs/<slug:lab_slug>/models/": ("researcher", [f"{LAB}/models/"]),
    "labs/<slug:lab_slug>/sweeps/": ("researcher", [f"{LAB}/sweeps/"]),
    "labs/<slug:lab_slug>/sweeps/new": ("researcher", [f"{LAB}/sweeps/new?kind=sft"]),
    "labs/<slug:lab_slug>/sweeps/<int:sweep_id>": ("researcher", ["{sweep}"]),
    "labs/<slug:lab_slug>/datasets/": ("researcher", [f"{LAB}/datasets/"]),
    "labs/<slug:lab_slug>/checkpoints/": ("researcher", [f"{LAB}/checkpoints/", f"{LAB}/checkpoints/?only=promoted"]),
    "labs/<slug:lab_slug>/checkpoints/<uuid:checkpoint_uuid>": ("researcher", ["{policy}", "{reward_model}"]),
    "labs/<slug:lab_slug>/reward-models/<uuid:checkpoint_uuid>/studio": ("researcher", ["{studio}"]),
    "labs/<slug:lab_slug>/spot-checks/": ("supervisor", [f"{LAB}/spot-checks/"]),
    "labs/<slug:lab_slug>/playground": ("researcher", [f"{LAB}/playground", "{playground}"]),
    "labs/<slug:lab_slug>/datasets/from-episodes": ("researcher", [f"{LAB}/datasets/from-episodes"]),
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/": (
        "researcher",
        [f"{LAB}/datasets/1/", f"{LAB}/datasets/1/?view=grid"],
    ),
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/episodes/<int:position>": (
        "researcher",
        [f"{LAB}/datasets/1/episodes/0"],
    ),
}
# No pages: they take a form, answer data, or lead on.
OTHERS = {
    "",
    "healthz",
    "logout",
    "labs/<slug:lab_slug>/jump",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/settings",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/maintenance",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/archive",
    "labs/<slug:lab_slug>/attention/count",
    "access-tokens/make",
    "access-tokens/<int:number>/revoke",
    "time-zone/seen",
    "labs/<slug:lab_slug>/attention/<int:number>/acknowledge",
    "labs/<slug:lab_slug>/attention/<int:number>/close",
    "labs/<slug:lab_slug>/attention/<int:number>/release",
    "labs/<slug:lab_slug>/attention/<int:number>/take",
    "labs/<slug:lab_slug>/attention/contacts",
    "labs/<slug:lab_slug>/attention/contacts/<int:number>/remove",
    "labs/<slug:lab_slug>/attention/contacts/<int:number>/try",
    "labs/<slug:lab_slug>/people/<int:number>/password",
    "labs/<slug:lab_slug>/people/<int:number>/remove",
    "labs/<slug:lab_slug>/people/<int:number>/role",
    "labs/<slug:lab_slug>/people/invite",
    "labs/<slug:lab_slug>/people/invited/<int:number>/revoke",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/delete",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/maintenance/end",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/restore",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/token/noted",
    "labs/<slug:lab_slug>/stations/<slug:station_slug>/token/renew",
    "labs/<slug:lab_slug>/audit/export.<slug:kind>",
    "labs/<slug:lab_slug>/tasks/preview",
    "labs/<slug:lab_slug>/runs/<int:run_id>/evaluations",
    "labs/<slug:lab_slug>/runs/act",
    "labs/<slug:lab_slug>/runs/compare.csv",
    "labs/<slug:lab_slug>/runs/compare.json",
    "labs/<slug:lab_slug>/runs/estimate",
    "labs/<slug:lab_slug>/runs/views",
    "labs/<slug:lab_slug>/runs/views/<int:view_id>/rename",
    "labs/<slug:lab_slug>/runs/views/<int:view_id>/delete",
    "labs/<slug:lab_slug>/runs/<int:run_id>/log.txt",
    "labs/<slug:lab_slug>/runs/<int:run_id>/notes",
    "labs/<slug:lab_slug>/runs/<int:run_id>/resources",
    "labs/<slug:lab_slug>/sweeps/<int:sweep_id>/stop",
    "labs/<slug:lab_slug>/tasks/queue",
    "labs/<slug:lab_slug>/tasks/new",
    "labs/<slug:lab_slug>/tasks/<slug:task_slug>/archive",
    "labs/<slug:lab_slug>/tasks/<slug:task_slug>/restore",
    "labs/<slug:lab_slug>/tasks/assignments/new",
    "labs/<slug:lab_slug>/tasks/assignments/<int:number>/move",
    "labs/<slug:lab_slug>/tasks/assignments/<int:number>/cancel",
    "labs/<slug:lab_slug>/tasks/assignments/<int:number>/kill",
    "labs/<slug:lab_slug>/tasks/assignments/<int:number>/stop-repeating",
    "labs/<slug:lab_slug>/models/add",
    "labs/<slug:lab_slug>/models/imports",
    "labs/<slug:lab_slug>/models/<int:model_id>/archive",
    "labs/<slug:lab_slug>/models/<int:model_id>/restore",
    "labs/<slug:lab_slug>/models/<int:model_id>/delete",
    "labs/<slug:lab_slug>/datasets/generate",
    "labs/<slug:lab_slug>/datasets/upload",
    "labs/<slug:lab_slug>/datasets/import",
    "labs/<slug:lab_slug>/datasets/imports",
    "labs/<slug:lab_slug>/datasets/imports/<int:import_id>/answer",
    "labs/<slug:lab_slug>/datasets/imports/<int:import_id>/cancel",
    "labs/<slug:lab_slug>/datasets/from-episodes/count",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/edit",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/describe",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/back",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/current",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/split",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/merge",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/export",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/archive",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/restore",
    "labs/<slug:lab_slug>/datasets/<int:dataset_id>/delete",
    "labs/<slug:lab_slug>/attention/alarms/<int:number>/close",
    "labs/<slug:lab_slug>/checkpoints/<uuid:checkpoint_uuid>.safetensors",
    "labs/<slug:lab_slug>/checkpoints/<uuid:checkpoint_uuid>/promote",
    "labs/<slug:lab_slug>/checkpoints/<uuid:checkpoint_uuid>/compare",
    "labs/<slug:lab_slug>/checkpoints/<uuid:checkpoint_uuid>/comparisons",
    "labs/<slug:lab_slug>/checkpoints/promotions/<int:number>/undo",
    "labs/<slug:lab_slug>/checkpoints/comparisons/<int:number>/cancel",
    "labs/<slug:lab_slug>/reward-models/<uuid:checkpoint_uuid>/studio/figures",
    "labs/<slug:lab_slug>/reward-models/<uuid:checkpoint_uuid>/studio/publish",
    "labs/<slug:lab_slug>/spot-checks/<int:number>/answer",
    "labs/<slug:lab_slug>/spot-checks/undo",
    "labs/<slug:lab_slug>/playground/answer",
    "labs/<slug:lab_slug>/runs/<int:run_id>/archive",
    "labs/<slug:lab_slug>/runs/<int:run_id>/restore",
    "labs/<slug:lab_slug>/runs/<int:run_id>/delete",
    "labs/<slug:lab_slug>/runs/<int:run_id>/pause",
    "labs/<slug:lab_slug>/runs/<int:run_id>/resume",
    "labs/<slug:lab_slug>/runs/<int:run_id>/cancel",
}


def routes(patterns, before=""):
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        elif not route.startswith("api/") or route == "api/docs":  # all else there is JSON
            yield route


def test_the_tables_name_every_address():
    assert set(routes(get_resolver().url_patterns)) == {*PAGES, *OTHERS}


@pytest.fixture(scope="module")
def people(opened):
    """A page a role, and one of nobody."""
    pages = {}

    def page_of(role):
        if role not in pages:
            pages[role] = opened(role)
        return pages[role]

    return page_of


def wait_for(page, found, seconds, said):
    for _ in range(seconds * 2):
        if (answer := found()) not in (None, False, []):
            return answer
        page.wait_for_timeout(500)
    raise AssertionError(said)


@pytest.fixture(scope="module")
def furnished(people):
    """Something of each kind to look at: a dataset, a trained policy, practice, an episode, an open help request."""
    page = people("manager")
    ready = lambda: [row for row in api(page, "GET", "datasets")["items"] if row["state"] == "ready"]  # noqa: E731
    dataset = wait_for(page, ready, 90, "No dataset was ready.")[-1]
    body = {"kind": "sft", "name": "to be looked at", "dataset": dataset["id"]}
    recipe = RECIPES["sft"] | {"evaluation_episodes": 10}
    sft = api(page, "POST", "runs", body | {"recipe": recipe})["id"]
    ended = lambda: api(page, "GET", f"runs/{sft}")["state"] == "completed"  # noqa: E731
    wait_for(page, ended, 120, "The training did not end.")
    body = {"kind": "improve", "name": "practice to be looked at", "parent": sft, "stations": ["station-1"]}
    recipe = RECIPES["improve"] | {"evaluation_episodes": 10}
    body |= {"task": "block2block", "recipe": recipe}
    improve = api(page, "POST", "runs", body)["id"]
    api(page, "POST", "stations/station-1/command", {"name": "speed", "args": {"value": 0}})
    episodes = lambda: api(page, "GET", f"episodes?run={improve}&limit=1")["items"]  # noqa: E731
    episode = wait_for(page, episodes, 120, "No practice episode came.")[0]
    # It goes on in front of whoever looks, but no quicker than it must.
    api(page, "POST", "stations/station-1/command", {"name": "speed", "args": {"value": 1}})
    api(page, "POST", "stations/station-2/command", {"name": "stop"})  # so that somebody is asked for
    body = {"task": "block2block", "stations": ["station-2"], "episodes": 5}
    assignment = api(page, "POST", "assignments", body)["id"]
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill("To be looked at")
    page.get_by_role("button", name="Add").click()
    page.wait_for_url("**/token")
    token = page.url
    page.goto(f"{LAB}/people")
    page.get_by_label("Role", exact=True).select_option("viewer")
    page.get_by_role("button", name="Make an invitation").click()
    invitation = page.locator("#link").inner_text()
    kept = {each["role"]: each["id"] for each in api(page, "GET", f"runs/{sft}")["checkpoints"]}
    page.goto(f"{LAB}/sweeps/new?kind=sft&like={sft}")
    page.get_by_label("Setting 1").select_option("batch")
    page.get_by_label("Its values").first.fill("32, 64")
    page.get_by_label("Runs", exact=True).fill("2")
    page.get_by_role("button", name="Launch the sweep").click()
    page.wait_for_url("**/sweeps/1")
    yield {
        "policy": f"{LAB}/checkpoints/{kept['policy']}",
        "reward_model": f"{LAB}/checkpoints/{kept['reward_model']}",
        "studio": f"{LAB}/reward-models/{kept['reward_model']}/studio",
        "playground": f"{LAB}/playground?episode={episode['uuid']}&step=1",
        "sweep": f"{LAB}/sweeps/1",
        "invitation": invitation,
        "token": token,
        "assignment": f"{LAB}/tasks/assignments/{assignment}",
        "episode": f"{LAB}/episodes/{episode['uuid']}",
        "sft": f"{LAB}/runs/{sft}",
        "improve": f"{LAB}/runs/{improve}",
    }
    page.goto(f"{LAB}/")
    api(page, "DELETE", f"assignments/{assignment}")
    api(page, "PATCH", "stations/to-be-looked-at", {"archived": True})
    api(page, "POST", f"runs/{improve}/cancel")
    api(page, "POST", "stations/station-2/command", {"name": "clear_stop", "args": {"reason": "looked at"}})
    api(page, "POST", "stations/station-2/command", {"name": "resume"})


def violations(page, **options):
    for frame in page.frames:
        if not frame.evaluate("() => 'axe' in window"):
            frame.evaluate(AXE)
    found = page.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **options})
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def violations_in_all_sizes(page):
    """Everything in light on a wide screen; in dark the colours and on a phone the rest, which can differ there."""
    size = page.viewport_size
    found = violations(page)
    page.emulate_media(color_scheme="dark")
    found += [f"in dark: {each}" for each in violations(page, runOnly=["color-contrast"])]
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 844})
    found += [f"on a phone: {each}" for each in violations(page, rules={"color-contrast": {"enabled": False}})]
    page.set_viewport_size(size)
    return found


@pytest.mark.parametrize("route", PAGES)
def test_axe_finds_no_violation_on(route, furnished, people):
    role, addresses = PAGES[route]
    page = people(role)
    for address in addresses:
        assert page.goto(address.format(**furnished)).status == 200
        page.wait_for_load_state("load")
        if "charts" in route:
            frame = page.frame_locator("iframe")
            expect(frame.locator("#success .plot-container")).to_be_attached(timeout=30_000)
        # The API's page is Swagger's, with 200 operations, over each of which axe takes its time: once will do.
        found = violations(page) if route == "api/docs" else violations_in_all_sizes(page)
        assert not found, "\n".join([address, *found])


def test_axe_finds_no_violation_in_what_opens_and_in_refusals(furnished, people):
    page = people("researcher")

    def look(what):
        found = violations(page)
        assert not found, "\n".join([what, *found])

    page.goto(f"{LAB}/")
    page.keyboard.press("?")
    look("the keys of a page")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.locator("#palette li").first.wait_for()
    look("the jump palette")
    page.goto(furnished["improve"])
    page.locator("details > summary").click()
    page.get_by_role("button", name="Cancel run").click()
    look("a question before an act")
    page.goto(f"{LAB}/runs/new?kind=sft")
    page.locator("details.panel > summary").click()
    page.locator("#id_steps").fill("many")
    page.get_by_role("button", name="Launch").click()
    page.locator(".field.bad").wait_for()
    look("a form with an error")
    page.goto(f"{LAB}/datasets/")
    page.get_by_role("button", name="Generate").click()
    look("a dataset without a name")
    assert page.goto(f"{LAB}/runs/999999").status == 404
    look("a page that is not there")
    assert page.goto(f"{LAB}/people").status == 403
    look("a page for others")
