"""throughput: what the worlds and the practice loop leave of MuJoCo's own speed.

    env       one table: physics, observation and record, against bare mj_step of the same model on the same actions
              (the bare one keeps its velocities and warm start, ours begins each step without)
    batched   many tables stepped together, against bare mujoco.rollout
    camera    pictures of a table, against a bare mujoco.Renderer with the same settings
    loader    steps of demonstrations that are read from a file, checked and laid end to end, against those that SFT
              learns from in that time: below 1 a trainer that reads as it goes would wait; loader-cameras: with the
              pictures of two cameras
    pictures    how much memory SFT takes whose demonstrations hold many times as much in pictures: those are read from
                their files as they are learned from. In a process of its own

Each pair takes turns in one process, so that a busy machine slows both alike; the figure is the median of the turns.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import torch

from robots.attempts import Recording
from robots.embodiments import STATE
from robots.episodes import write_episodes
from robots.rules import Rules
from robots.tasks import get_task
from robots.worlds.language_table import LANGUAGE_TABLE
from robots.worlds.language_table.physics import PHYSICS_STEPS, REACH, BatchWorld, LanguageTable
from robots.worlds.rendering import renderer_name
from training.benchmarks import Report, Row, mean_of
from training.benchmarks.gpu import seen_by_two_cameras
from training.benchmarks.so101_pick import SFT
from training.benchmarks.two_stage_pipeline import demonstrations, folder
from training.datasets import read_demonstrations
from training.descent import descend
from training.methods.sft import Frames, Losses, perceive_all, sizes_of
from training.networks.network import Network
from training.recipes import SFTRecipe
from training.run_dir import RunDir
from training.vocabulary import Vocabulary

TURNS = 7
SLICES = 10
STEPS = 300  # in a slice
TABLES = 200
TICKS = 5
FRAMES = 5
LEARNED = {"loader": ("so101_pick", 30), "loader-cameras": ("camera_so101_pick", 6)}  # family, demonstrations
UPDATES = 2
# Two cameras: episodes, steps of each, pixels of a side; and what is learned from them
SHOWN: dict[str, int] = {"count": 300, "steps": 49, "side": 224}
OF_PICTURES: dict[str, Any] = {
    "steps": 40,
    "batch": 64,
    "hidden": 64,
    "evaluation_episodes": 0,
    "largest_threshold": 0.0,
}
# Says last the most memory that the process has had, in KiB, as Linux tells it.
PEAK = """
import re, sys
from training.__main__ import main
sys.argv = ["training", "sft", sys.argv[1]]
code = main()
print(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    for number, part in enumerate((env, batched, camera, loader, pictures)):
        report(number / 5, part.__name__)
        rows += part(seed)
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    return {
        "env_to_raw": mean_of(rows, "env", "share"),
        "batched_to_rollout": mean_of(rows, "batched", "share"),
        "camera_to_renderer": mean_of(rows, "camera", "share"),
        "loader_to_trainer": mean_of(rows, "loader", "share"),
        "loader_to_trainer_cameras": mean_of(rows, "loader-cameras", "share"),
        "pictures_peak_gib": mean_of(rows, "pictures", "peak_gib"),
    }


def take_turns(setting: str, ours: Callable[[], int], bare: Callable[[], int]) -> Row:
    """Both return how many things they did. A turn is many short slices of each, one after the other; the first turn is
    for warming up.
    """
    started = time.monotonic()
    speeds = []
    for _ in range(TURNS + 1):
        counts, seconds = [0, 0], [0.0, 0.0]
        for number in range(SLICES):
            for which in (0, 1) if number % 2 else (1, 0):
                begun = time.perf_counter()
                counts[which] += (ours, bare)[which]()
                seconds[which] += time.perf_counter() - begun
        speeds.append((counts[0] / seconds[0], counts[1] / seconds[1]))
    mine, theirs = np.array(speeds[1:]).T
    return {
        "setting": setting,
        "per_s": float(np.median(mine)),
        "bare_per_s": float(np.median(theirs)),
        "share": float(np.median(mine / theirs)),
        "wall_s": time.monotonic() - started,
    }


def wandering(rng: np.random.Generator, count: int) -> np.ndarray:
    """Deltas of a hand that changes its direction now and then, so that it meets blocks. float32 [count, 2]"""
    angle = np.cumsum(rng.normal(0, 0.4, count))
    return (0.02 * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)


def env(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    world = LanguageTable(seed)
    start = world.reset(rng)
    actions = wandering(rng, STEPS)
    task = get_task("block2block")
    instruction = task.sample(rng, world.objects_in_play())

    def ours() -> int:
        for first in range(0, STEPS, task.time_limit_steps):
            world.set_observation(start)
            limit = task.time_limit_steps
            recording = Recording(task, instruction, limit, "practice", "policy", start, None, Rules())
            for action in actions[first : first + task.time_limit_steps]:
                recording.observations.append(world.step(action))
                recording.actions.append(action)
            recording.finish(
                "time_limit", embodiment=LANGUAGE_TABLE, true_success=None, seed=seed, interventions=0, labels={}
            )
        return STEPS

    # Where the hand is sent: as a table's arm does, which stops at its reach and turns back from there at once.
    targets = np.empty((STEPS, 2))
    for number, action in enumerate(actions):
        before = targets[number - 1] if number % task.time_limit_steps else start[STATE][:2]
        targets[number] = np.clip(before + action, -REACH, REACH)

    data = mujoco.MjData(world.model)
    world.set_observation(start)
    qpos = world.positions.copy()

    def bare() -> int:
        for first in range(0, STEPS, task.time_limit_steps):
            mujoco.mj_resetData(world.model, data)
            data.qpos[:] = qpos
            for target in targets[first : first + task.time_limit_steps]:
                data.ctrl[:] = target
                mujoco.mj_step(world.model, data, PHYSICS_STEPS)
        return STEPS

    return [take_turns("env", ours, bare)]


def batched(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    world = BatchWorld(TABLES, seed)
    actions = np.stack([wandering(rng, TICKS) for _ in range(TABLES)], 1)  # [TICKS, n, 2]
    positions = world.positions.copy()

    def ours() -> int:
        world.positions[:], world._on_table[:] = positions, True
        for action in actions:
            world.step(action)
        return TICKS * TABLES

    rollout, data = mujoco.rollout.Rollout(nthread=0), mujoco.MjData(world.model)
    state = np.zeros((TABLES, 1 + world.model.nq + world.model.nv))

    def bare() -> int:
        state[:, 1 : 1 + world.model.nq] = positions
        state[:, 1 + world.model.nq :] = 0
        for action in actions:
            controls = np.clip(state[:, 1:3] + action, -REACH, REACH)[:, None]
            states, _ = rollout.rollout(world.model, [data], state, controls, nstep=PHYSICS_STEPS)
            state[:] = states[:, -1]
        return TICKS * TABLES

    row = take_turns("batched", ours, bare)
    rollout.close()
    world.close()
    return [row]


def camera(seed: int) -> list[Row]:
    """No row where the machine has no OpenGL: a drawn top view is no camera."""
    if renderer_name() == "drawn":
        return []
    view = LANGUAGE_TABLE.cameras[0]
    world = LanguageTable(seed)
    picture = world.render(view.name, view.width, view.height)
    # Without one of its own, a Renderer draws in the OpenGL context that is current: the world's.
    sys.modules[mujoco.Renderer.__module__].gl_context.GLContext = None
    data = mujoco.MjData(world.model)
    data.qpos[:] = world.positions
    mujoco.mj_forward(world.model, data)
    renderer = mujoco.Renderer(world.model, view.height, view.width)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
        renderer.scene.flags[flag] = 0

    def ours() -> int:
        for _ in range(FRAMES):
            world.render(view.name, view.width, view.height)
        return FRAMES

    def bare() -> int:
        for _ in range(FRAMES):
            renderer.update_scene(data, view.name)
            renderer.render()
        return FRAMES

    renderer.update_scene(data, view.name)
    if not np.array_equal(renderer.render()[::-1], picture):  # without a context of its own it doesn't turn rows
        raise RuntimeError(
            "The bare Renderer shows another picture than the world's camera; their speeds can't be compared."
        )
    row = take_turns("camera", ours, bare)
    renderer.close()
    return [row]


def loader(seed: int) -> list[Row]:
    return [reading(setting, family, count, seed) for setting, (family, count) in LEARNED.items()]


def reading(setting: str, family: str, count: int, seed: int) -> Row:
    recipe = SFTRecipe(seed=seed, **SFT)
    with folder() as path:
        file = path / "demonstrations.safetensors"
        write_episodes(file, demonstrations(seed, count, lambda *_: None, 0, [family]))
        data = read_demonstrations([file])
        generator = torch.Generator().manual_seed(seed)
        vocabulary = Vocabulary.of(data.instructions, data.embodiment)
        network = Network(data.embodiment, vocabulary, **sizes_of(recipe))
        seen = torch.cat([*perceive_all(network, data)])
        words = vocabulary.encode(data.instructions)
        losses = Losses(network, data, seen, words, recipe, generator)
        trained = list(network.parameters())
        optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, fused=True)
        frames = Frames.of(data, torch.arange(data.episodes)).all

        def ours() -> int:
            return len(read_demonstrations([file]).actions)

        def bare() -> int:
            learned = 0
            for _ in range(UPDATES):
                bc, steps, batch = losses.of_batch(frames, frames)
                descend(bc + steps, optimiser, trained)
                learned += len(batch)
            return learned

        return take_turns(setting, ours, bare)


def pictures(seed: int) -> list[Row]:
    with folder() as path:
        run = RunDir.create(path / "sft", SFTRecipe(seed=seed, **OF_PICTURES))
        for number, episode in enumerate(seen_by_two_cameras(**SHOWN, seed=seed)):
            write_episodes(run.data / f"{number:04d}.safetensors", [episode])
        size = sum(file.stat().st_size for file in run.data.iterdir())
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", PEAK, str(run.path)], capture_output=True, text=True, check=True)
        row: Row = {"setting": "pictures", "data_gib": size / 2**30, "peak_gib": int(done.stdout.split()[-1]) / 2**20}
        return [row | {"wall_s": time.monotonic() - begun}]
