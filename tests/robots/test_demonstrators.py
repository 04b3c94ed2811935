import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from robots.__main__ import main
from robots.demonstrators import DemonstrationError, collect_demonstrations
from robots.embodiments import EMBODIMENTS, get_embodiment
from robots.episodes import read_episodes, rows_of
from robots.orders import PolicyBundle
from robots.station import Station
from robots.tasks import TASKS, get_task
from robots.worlds import WORLDS, make_world
from robots.worlds.language_table import block_positions, distance_left
from robots.worlds.language_table.demonstrator import TIME_LIMIT_STEPS, demonstrate
from robots.worlds.language_table.physics import LanguageTable
from tests.robots.station_fakes import told

FAMILIES = ("block2block", "block_to_place")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_demonstrator_succeeds_above_90_percent_though_not_by_the_shortest_way(family):
    rng, world, attempts = np.random.default_rng(11), LanguageTable(11), []
    for i in range(120):
        if i % 5 == 0 or world.needs_reset():
            world.reset(rng)
        instruction = get_task(family).sample(rng, world.objects_in_play())
        attempts.append(demonstrate(world, instruction, rng))
    succeeded = [episode for episode in attempts if episode.true_success]
    assert len(succeeded) / len(attempts) > 0.9
    steps = np.array([episode.steps for episode in succeeded])
    assert np.mean(steps < 100) > 0.8  # the horizon of steps-to-go
    assert 30 < np.median(steps) < 70


def test_demonstrations_are_valid_episodes_whose_end_fulfils_the_instruction():
    episodes = collect_demonstrations(FAMILIES, 12, seed=4)
    assert [episode.task for episode in episodes] == list(FAMILIES) * 6
    assert len({episode.uuid for episode in episodes}) == 12
    for episode in episodes:
        episode.validate()
        episode.check_against(get_embodiment(episode.embodiment))  # as an upload of them would be
        assert (episode.purpose, episode.ending, episode.true_success) == ("demonstration", "true_success", True)
        assert not episode.detected_success and (episode.actors == 2).all() and np.isnan(episode.steps_to_go).all()
        assert 1 <= episode.steps <= TIME_LIMIT_STEPS
        assert (np.abs(episode.actions) <= 0.03 + 1e-6).all()
        target = get_task(episode.task).parse(episode.instruction).target
        assert distance_left(target, block_positions(rows_of(episode.observations, -1))) <= 0
        assert distance_left(target, block_positions(rows_of(episode.observations, 0))) > 0


def test_replaying_the_actions_gives_the_recorded_observations():
    """What is stored as the action is what moved the world."""
    episode = collect_demonstrations(("block2block",), 1, seed=5)[0]
    world = LanguageTable(0)
    for step in range(episode.steps):
        world.set_observation(rows_of(episode.observations, step))
        after, recorded = world.step(episode.actions[step]), rows_of(episode.observations, step + 1)
        assert after.keys() == recorded.keys()
        for key, array in after.items():
            # A world begins anew from what was rounded to float32, and a contact makes more of that: 1.1e-3 on MuJoCo
            # 3.8.1, less than 1e-3 on 4.0.
            np.testing.assert_allclose(array, recorded[key], atol=2e-3)


def test_same_seed_same_demonstrations():
    first, again = (collect_demonstrations(FAMILIES, 6, seed=7) for _ in range(2))
    other = collect_demonstrations(FAMILIES, 6, seed=8)
    for a, b, c in zip(first, again, other, strict=True):
        assert (a.uuid, a.instruction) == (b.uuid, b.instruction)
        np.testing.assert_equal(a.observations, b.observations)
        np.testing.assert_array_equal(a.actions, b.actions)
        assert a.uuid != c.uuid


def test_progress_counts_to_the_total():
    seen = []
    collect_demonstrations(("block_to_place",), 3, seed=0, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_wrong_requests_are_refused_in_words():
    with pytest.raises(DemonstrationError, match="1 or more"):
        collect_demonstrations(("block2block",), 0, seed=0)
    with pytest.raises(DemonstrationError, match="at least one task"):
        collect_demonstrations((), 1, seed=0)
    with pytest.raises(ValueError, match="no task 'juggle'"):
        collect_demonstrations(("juggle",), 1, seed=0)


def test_command_line_demonstrates_and_renders(tmp_path, capsys):
    out = tmp_path / "d.safetensors"
    assert (
        main(
            [
                "demonstrate",
                "--task",
                "block2block,block_to_place",
                "--episodes",
                "4",
                "--seed",
                "3",
                "--out",
                str(out),
                "--progress",
            ]
        )
        == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"done": 4, "total": 4}
    episodes = read_episodes(out)
    assert [episode.task for episode in episodes] == ["block2block", "block_to_place"] * 2
    assert (
        main(
            [
                "render",
                "--episode",
                str(out),
                "--uuid",
                episodes[1].uuid,
                "--out",
                str(tmp_path / "frames"),
                "--width",
                "160",
                "--height",
                "120",
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "frames" / "cameras.json").read_text()) == [{"name": "front", "missing": ""}]
    frames = sorted(path.name for path in (tmp_path / "frames" / "0").iterdir())
    assert frames == [f"{i:05d}.jpg" for i in range(episodes[1].steps + 1)]
    first, last = (
        np.array(Image.open(tmp_path / "frames" / "0" / name)).astype(int) for name in (frames[0], frames[-1])
    )
    assert first.shape == (120, 160, 3) and first.std() > 20 and np.abs(first - last).max() > 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demonstrate", "--task", "juggle", "--episodes", "1", "--seed", "0", "--out", "x.safetensors"], "juggle"),
        (
            ["demonstrate", "--task", "block2block", "--episodes", "1", "--seed", "0", "--out", "no/where/x"],
            "does not exist",
        ),
        (["render", "--episode", "broken.safetensors", "--out", "frames"], "not a file of episodes"),
        (["render", "--episode", "nothing.safetensors", "--out", "frames"], "nothing.safetensors"),
    ],
)
def test_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"no episodes at all")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_module_can_be_started(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "robots",
            "demonstrate",
            "--task",
            "block2block",
            "--episodes",
            "1",
            "--seed",
            "1",
            "--out",
            str(tmp_path / "d.safetensors"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0 and run.stdout == run.stderr == ""
    assert len(read_episodes(tmp_path / "d.safetensors")) == 1


@pytest.mark.parametrize("family", [task.name for task in TASKS.values() if task.world in WORLDS])
def test_what_a_station_records_is_what_its_body_declares(family):
    """The wildest policy, on every body: what its own server would refuse would never leave its disk."""
    task, episodes, rng = get_task(family), [], np.random.default_rng(3)
    station = Station(make_world(task.world, 5), seed=5, store=episodes.append)
    station.receive(told({"type": "welcome", "settings": {"self_reset_after_s": 0, "speed": 0}}))
    order = {"type": "assignment", "assignment": 1, "run": 1, "purpose": "practice"}
    station.receive(told(order | {"task": {"name": family, "time_limit_steps": 40}}))
    station.offer_policy(PolicyBundle("p", 0, None, "r", None, 2.5, 2, 2.0, value_updates=0))
    for _ in range(2000):
        if station.observe() is not None:
            station.act(rng.normal(0, 9, station.embodiment.action_size), 20.0, None)
        if len(episodes) == 4:
            break
    station.close()
    assert len(episodes) >= 4
    for episode in episodes:
        episode.validate()
        episode.check_against(EMBODIMENTS[episode.embodiment])
