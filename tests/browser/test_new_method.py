"""A method is one file: what a newcomer writes, and nothing else, is launched, practises and draws its own curve."""

import os
from textwrap import dedent

import pytest
from playwright.sync_api import expect

from tests.browser.test_usable_by_everyone import RECIPES, api, wait_for
from tests.conftest import new_fleet
from training.methods.registry import BUILT_IN

LAB = "/labs/main"
# It trains nothing: the stations practise with the policy that it began with, and it draws how long they took.
FILE = """
    import time, uuid
    from dataclasses import dataclass, replace
    from robots.episodes import read_episodes
    from training.methods.registry import Curve, Line, Method
    from training.recipes import Recipe, setting
    from training.run_dir import sha256_of

    @dataclass(frozen=True)
    class ConstantRecipe(Recipe):
        KIND = "constant"
        steps_per_round: int = setting(100, "Steps", "It ends after so many steps of practice.", 1, 10_000)

    def practise(run):
        from training.checkpoints import load_checkpoint, save_checkpoint
        network, parent = load_checkpoint(run.start / "policy.safetensors")
        mine, path = replace(parent, id=str(uuid.uuid4()), parent=parent.id), run.checkpoints / "policy.safetensors"
        save_checkpoint(path, network, mine)
        said = {"id": mine.id, "version": mine.version, "path": "checkpoints/policy.safetensors"}
        run.log("checkpoint", role="policy", sha256=sha256_of(path), publish=True, **said)
        seen, closed = set(), False
        while not closed and not run.cancelled:
            closed = run.closed(mine.version)
            for file in run.episode_files(seen):
                seen.add(file.name)
                run.log("attempt", number=len(seen), steps=read_episodes(file)[0].steps)
            time.sleep(0.1)
        run.log("done", attempts=len(seen))
        return {"attempts": len(seen)}

    METHODS = (Method(ConstantRecipe, f"{__name__}:practise", title="Only practise", words="constant policy",
        summary="Trains nothing.", needs=("parent", "stations"), roles=("policy",), main_fields=("steps_per_round",),
        curves=(Curve("Attempts", "attempt", "number", "attempt", "steps", (Line("steps", "steps taken"),)),)),)
    """


@pytest.fixture(scope="module")
def running_fleet(tmp_path_factory):
    """One of its own, that is told where the method is."""
    folder = tmp_path_factory.mktemp("method")
    (folder / "constant_policy.py").write_text(dedent(FILE))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with new_fleet(1, FLEETUI_METHODS="constant_policy", PYTHONPATH=path) as fleet:
        yield fleet


def test_it_is_launched_from_its_page_practises_and_draws_its_curve(opened, screenshots):
    assert len(dedent(FILE).strip().splitlines()) <= 36, "about 30 lines, apart from empty ones"
    page = opened("manager")
    ready = lambda: [row for row in api(page, "GET", "datasets")["items"] if row["state"] == "ready"]  # noqa: E731
    dataset = wait_for(page, ready, 120, "No dataset was ready.")[-1]
    recipe = RECIPES["sft"] | {"evaluation_episodes": 0}
    parent = api(page, "POST", "runs", {"kind": "sft", "dataset": dataset["id"], "recipe": recipe})["id"]
    ended = lambda: api(page, "GET", f"runs/{parent}")["state"] == "completed"  # noqa: E731
    wait_for(page, ended, 180, "The training did not end.")
    api(page, "POST", "stations/station-1/command", {"name": "speed", "args": {"value": 0}})

    page.goto(f"{LAB}/runs/")
    page.get_by_role("link", name="New run").click()
    expect(page.locator(".methods li")).to_have_count(len(BUILT_IN) + 1)
    expect(page.locator(".methods li").last).to_contain_text("Trains nothing.")
    page.screenshot(path=screenshots / "new_method_runs.png", full_page=True)
    page.get_by_role("link", name="Only practise").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Only practise")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("100")
    page.get_by_label("Steps", exact=True).fill("0")
    page.get_by_role("button", name="Launch").click()
    expect(page.locator(".field.bad")).to_contain_text("at least 1")  # by its own recipe
    page.get_by_label("Steps", exact=True).fill("60")
    page.screenshot(path=screenshots / "new_method_form.png", full_page=True)
    page.get_by_role("button", name="Launch").click()

    page.wait_for_url("**/runs/2")
    expect(page.locator(".page-head .sub")).to_contain_text("constant policy from")
    expect(page.get_by_role("heading", name="Attempts")).to_be_visible()
    expect(page.locator("#stations")).to_contain_text("Station 1")
    expect(page.locator("h1 + [data-f=state]")).to_contain_text("Completed", timeout=120_000)
    expect(page.locator("#use")).to_be_visible()  # the page has come anew
    run = api(page, "GET", "runs/2")
    assert run["round_target"] == 60 <= run["round_steps"] and run["practice_episodes"] >= 1
    assert [row["role"] for row in run["checkpoints"]] == ["policy"] and run["checkpoints"][0]["published_at"]
    episodes = api(page, "GET", "episodes?run=2")["items"]
    assert {row["station"] for row in episodes} == {"station-1"}
    attempts = len(api(page, "GET", "runs/2/metrics?after=0&kind=attempt")["items"])
    assert 1 <= attempts <= run["practice_episodes"]  # one that was under way at the end came too late for the run
    expect(page.locator("#curve-0")).to_have_attribute("data-points", str(attempts))
    expect(page.locator("#curve-0")).to_contain_text("steps taken")
    page.screenshot(path=screenshots / "new_method_run.png", full_page=True)
    # What comes of it can be practised with again: the policy it published, and the reward model it goes back to.
    page.get_by_role("link", name="Improve further").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New run")  # two methods start from a run
    page.get_by_role("link", name="Improve on stations").click()
    expect(page.get_by_label("Start from")).to_have_value("2")
