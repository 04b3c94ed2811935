"""Worlds and demonstrators that other Python packages bring: what a fresh process finds beside what is built in."""

import os
import subprocess
import sys
from textwrap import dedent

import pytest

MODULE = """
    from robots.embodiments import STATE, Camera, Embodiment, vector
    from robots.tasks import Grammar, TaskFamily
    from robots.worlds import WorldSpec, on_demand

    def spec(name):
        body = Embodiment(
            name=name,
            fps=10.0,
            observation={STATE: vector(("x",))},
            action=vector(("push",), (-1.0,), (1.0,)),
            views=(Camera("front", 32, 24),),
        )
        family = TaskFamily(name, name, name, name, 20, "", Grammar(("go",), ("{verb} to the end",)))
        return WorldSpec(body, (family,), make=on_demand("lab_physics:Rail", body))

    ONE = spec("lab_one")

    def several():
        return spec("lab_two"), spec("lab_three")

    def broken():
        raise RuntimeError("no licence")

    WRONG = 3
    TAKEN = spec("language_table")
    """
PHYSICS = """
    import numpy as np

    class Rail:
        renderer, resets_itself = "drawn", True

        def __init__(self, embodiment, seed):
            self.embodiment = embodiment
            self.reset(np.random.default_rng(seed))

        def reset(self, rng):
            self.x = rng.uniform(-0.5, 0.5)
            return self.observation()

        def step(self, action):
            self.x += 0.1 * float(action[0])
            return self.observation()

        def observation(self):
            return {"observation.state": np.full(1, self.x, np.float32)}

        def true_success(self, instruction):
            return self.x >= 1

        def needs_reset(self, fewest_objects=None):
            return ""

        def objects_in_play(self):
            return {}

        def close(self):
            pass

    def forwards(world, observation):
        assert observation["observation.state"][0] == np.float32(world.x)
        return [1.0]
    """
BROKEN = """
[fleetui.worlds]
b = lab_worlds:broken
w = lab_worlds:WRONG
m = nowhere:ONE
t = lab_worlds:TAKEN
"""


@pytest.fixture
def process(tmp_path):
    """Runs code where packages with these entry points are installed."""

    def run(code, **packages):
        (tmp_path / "lab_worlds.py").write_text(dedent(MODULE))
        (tmp_path / "lab_physics.py").write_text(dedent(PHYSICS))
        for name, points in packages.items():
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(points)
        ran = subprocess.run(
            [sys.executable, "-c", dedent(code)],
            capture_output=True,
            text=True,
            timeout=180,
            env={key: value for key, value in os.environ.items() if key != "FLEETUI_WORLDS"}
            | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines(), ran.stderr.splitlines()

    return run


def test_worlds_of_packages_are_found_and_one_that_fails_breaks_no_other(process):
    out, err = process(
        """
        import sys
        from robots.embodiments import EMBODIMENTS
        from robots.tasks import TASKS
        from robots.worlds import WORLDS
        print(*(name for name in WORLDS if name.startswith("lab")))
        print({"lab_one", "lab_two", "lab_three"} <= set(EMBODIMENTS) & set(TASKS), "lab_physics" in sys.modules)
        print(WORLDS["language_table"].embodiment.action_size)
        """,
        abroken=BROKEN,
        blab="[fleetui.worlds]\none = lab_worlds:ONE\nseveral = lab_worlds:several\n",
    )
    assert out == ["lab_one lab_two lab_three", "True False", "2"]
    assert len(err) == 4 and all(line.startswith("The package abroken brings the world ") for line in err), err
    for words in ("no licence", "neither a WorldSpec", "No module named 'nowhere'", "a world 'language_table' already"):
        assert sum(words in line for line in err) == 1, words


DEMONSTRATE = """
    from robots.demonstrators import collect_demonstrations
    try:
        episodes = collect_demonstrations(["lab_one"], 2, 1)
        print([episode.true_success for episode in episodes], episodes[0].instruction)
    except ValueError as error:
        print(error)
    """
ONE = "[fleetui.worlds]\none = lab_worlds:ONE\n"


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ("", "There is no scripted demonstrator for lab_one"),
        ("[fleetui.demonstrators]\nlab_one = lab_physics:forwards\n", "[True, True] go to the end"),
        ("[fleetui.demonstrators]\nnobodys_world = lab_physics:forwards\n", "There is no scripted demonstrator"),
        ("[fleetui.demonstrators]\nlab_one = nowhere:forwards\n", "The demonstrator nowhere:forwards of the package "),
    ],
)
def test_a_package_may_bring_a_demonstrator(process, points, words):
    out, err = process(DEMONSTRATE, worlds=ONE, scripts=points)
    assert not err and len(out) == 1 and out[0].startswith(words), out


def test_a_built_in_demonstrator_stays(process):
    out, _ = process(
        """
        from robots.worlds import WORLDS
        from robots.worlds.point_mass import WORLDS as BUILT_IN
        print(WORLDS["point_mass"] is BUILT_IN[0])
        """,
        scripts="[fleetui.demonstrators]\npoint_mass = lab_physics:forwards\n",
    )
    assert out == ["True"]
