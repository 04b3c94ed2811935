"""gpu: what a graphics card makes of what takes the time: learning, practising, stepping worlds.

    sft         updates a second of a vision-language network of more than 250 million parameters, all of them trained
                in bfloat16 on the pictures of two cameras: train() of methods/sft.py, its loader included
    practice    64 stations on one policy, stage 2 as local practice runs it: steps of all stations a second, how long
                a call of the policy takes, and what share of the time the learner has
    rollout     tables stepped together on all cores of the processor (BatchWorld)
    warp        tables stepped together on the card by mujoco_warp (extra `gpu`)

The model's weights are random and its folder is made on the spot, so nothing is fetched. MFU (model FLOPs utilisation)
is the floating-point operations that torch counts in one update, forward and backward (FlopCounterMode: matrix
products, convolutions, attention), times updates a second, over the peak of dense bfloat16: of a known card what its
maker says, else what large matrix products reach here. Without a card all sizes are small, and figures are of no worth.
One run, no seeds: there is nothing to average.
"""

import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from robots.atomic_files import link_to
from robots.embodiments import IMAGES, STATE, Embodiment, Observation, picture, vector
from robots.episodes import ACTORS, Episode, write_episodes
from robots.worlds.language_table.physics import PHYSICS_STEPS, REACH, BatchWorld
from training.benchmarks import Report, Row
from training.benchmarks.two_stage_pipeline import TASKS, demonstrations, folder
from training.checkpoints import Answer, Policy, RewardModel
from training.computing import compute_with
from training.datasets import read_demonstrations
from training.local_practice import LocalStations
from training.methods import sft as stage1
from training.methods.self_improvement import improve
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir
from training.vocabulary import Vocabulary

# Dense bfloat16, in TFLOP/s, as the makers' data sheets say; part of a card's name -> its peak. The first that fits.
PEAKS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
WORDS = "push the red blue green yellow moon cube star pentagon to next of and into left right"
MODEL = "model"  # the folder
# Of the table's SFT, whose success is not measured
FEW: dict[str, Any] = {"validate_every": 100, "evaluation_episodes": 0, "largest_threshold": 0.0}
CONTACTS = 64  # of a table, that mujoco_warp makes room for


@dataclass(frozen=True)
class Sizes:
    """Of everything."""

    side: int  # pixels of a picture
    episodes: int
    steps: int  # of each
    sees: dict[str, int]  # of the vision transformer
    reads: dict[str, int]  # of the language model
    batch: int
    updates: int
    warm_up: int  # of these updates, before the clock starts
    stations: int
    time_limit: int  # steps of an attempt; 0: the task's own
    practice: dict[str, Any]  # of the recipe
    tables: dict[str, int]  # stepped together
    ticks: int
    product: int  # numbers along a side of the matrices that the peak is measured with


SMALL = Sizes(
    side=32,
    episodes=4,
    steps=6,
    sees={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    reads={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    batch=8,
    updates=6,
    warm_up=1,
    stations=64,
    time_limit=8,
    practice={"max_episodes": 64, "max_rounds": 1, "updates_per_round": 4, "batch": 64, "replay": 100},
    tables={"rollout": 16, "warp": 16},
    ticks=3,
    product=256,
)


def large(gib: float) -> Sizes:
    """For a card of so much memory: a frame with two pictures takes about .18 GiB of it, and a third may be used."""
    frames = min(256, 2 ** int(math.log2(max(4.0, 2 * gib))))
    return Sizes(
        side=224,
        episodes=40,
        steps=49,
        sees={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        reads={"hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16, "intermediate_size": 2816},
        batch=2 * frames,
        updates=60,
        warm_up=10,
        stations=64,
        time_limit=0,
        practice={"max_episodes": 600, "max_rounds": 4, "updates_per_round": 80, "batch": 64},
        tables={"rollout": 2048, "warp": 8192},
        ticks=20,
        product=8192,
    )


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(os.cpu_count() or 1)
    name, size = ("cuda", large(_gib())) if torch.cuda.is_available() else ("cpu", SMALL)
    try:
        with folder() as path:
            report(0.05, "a network is made")
            compute_with(name, "bf16")
            rows = [learning(path, name, size, seed, report)]
            report(0.6, "practice")
            compute_with(name, "fp32")
            rows.append(practising(path, name, size, seed))
            report(0.8, "tables")
            return [*rows, rolled_out(size, seed), stepped_by_warp(size, seed)]
    finally:
        compute_with("cpu", "fp32")


def summarise(rows: list[Row]) -> dict[str, Any]:
    one: dict[str, Row] = {row["setting"]: row for row in rows}
    sft, practice = one.get("sft", {}), one.get("practice", {})
    return {
        "device": sft.get("device"),
        "mfu": sft.get("mfu"),
        "sft_steps_per_s": sft.get("updates_per_s"),
        "env_steps_per_s": practice.get("env_steps_per_s"),
        "policy_p95_ms": practice.get("policy_p95_ms"),
    }


def _gib() -> float:
    return torch.cuda.get_device_properties(0).total_memory / 2**30


# Learning


def two_cameras(side: int) -> Embodiment:
    """An arm with seven joints and two square pictures."""
    joints = tuple(f"joint_{number}" for number in range(7))
    return Embodiment(
        name="two_cameras",
        fps=10.0,
        observation={
            STATE: vector(joints, (-1.0,) * 7, (1.0,) * 7),
            f"{IMAGES}front": picture(side, side),
            f"{IMAGES}wrist": picture(side, side),
        },
        action=vector(joints, (-1.0,) * 7, (1.0,) * 7),
    )


def seen_by_two_cameras(count: int, steps: int, side: int, seed: int) -> Iterator[Episode]:
    """Demonstrations of nothing: joints and pictures that are drawn at random."""
    rng, body = np.random.default_rng(seed), two_cameras(side)
    for number in range(count):
        observations: Observation = {
            key: rng.integers(0, 256, (steps + 1, *feature.shape), np.uint8)
            if feature.is_picture
            else rng.uniform(-1, 1, (steps + 1, feature.size)).astype(np.float32)
            for key, feature in body.observation.items()
        }
        yield Episode(
            uuid=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
            embodiment=body.name,
            task="nothing",
            instruction=f"push the {('red', 'blue')[number % 2]} cube to the {('left', 'right')[number // 2 % 2]}",
            observations=observations,
            actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
            actors=np.full(steps, ACTORS.index("script"), np.uint8),
            steps_to_go=np.full(steps + 1, np.nan, np.float32),
            ending="operator",
            detected_success=False,
            true_success=None,
            purpose="demonstration",
            fps=body.fps,
            body=body,
        )


def make_model(path: Path, size: Sizes) -> Path:
    """A vision-language model with random weights, in a folder as Hugging Face keeps them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "<image>", *WORDS.split()])}
    heads = size.reads["num_attention_heads"]
    reads = {"model_type": "llama", "pad_token_id": 0, "vocab_size": len(words), "num_key_value_heads": heads}
    config = SmolVLMConfig(
        vision_config={"image_size": size.side, "patch_size": 16, **size.sees},
        text_config=reads | size.reads,
        scale_factor=2,
        image_token_id=2,
    )
    SmolVLMForConditionalGeneration(config).save_pretrained(path)
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    return path


def learning(path: Path, device: str, size: Sizes, seed: int, report: Report) -> Row:
    recipe = SFTRecipe(
        seed=seed,
        steps=size.updates,
        passes=10**6,
        validate_every=size.updates,
        batch=size.batch,
        learning_rate=1e-4,
        vision_language=str(make_model(path / MODEL, size)),
        trained="all",
        device=device,
        precision="bf16",
    )
    run = RunDir.create(path / "sft", recipe)
    for number, episode in enumerate(seen_by_two_cameras(size.episodes, size.steps, size.side, seed)):
        write_episodes(run.data / f"{number:04d}.safetensors", [episode])
    torch.manual_seed(seed)
    data = read_demonstrations(sorted(run.data.glob("*")))
    network = stage1.new_network(run, recipe, data, Vocabulary.of(data.instructions, data.embodiment))
    trained = network.trained_in("training")
    stage1.let_learn(network, trained)
    optimiser = torch.optim.AdamW(stage1.by_rate(network, trained, recipe), lr=recipe.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    words, vectors = network.encode(data.instructions), data.vectors(network.vectors)
    losses = stage1.Losses(network, data, vectors, words, recipe, generator)
    learned_from, checked = (
        stage1.Frames.of(data, part) for part in torch.arange(data.episodes).split([data.episodes - 1, 1])
    )
    report(0.2, "one update is counted")
    with FlopCounterMode(display=False) as counter:
        bc, stg, _ = losses.of_batch(learned_from.imitable, learned_from.all)
        (bc + stg).backward()
    optimiser.zero_grad()
    report(0.25, "SFT")
    stage1.train(run, losses, optimiser, {"step": 0}, learned_from, checked)
    rate = updates_per_s(run, size.warm_up)
    done, (peak, source) = counter.get_total_flops(), peak_of(size.product, device)
    pretrained = sum(each.numel() for each in network.pretrained_parameters)
    return {
        "setting": "sft",
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "updates_per_s": rate,
        "mfu": done * rate / (peak * 1e12),
        "tflop_an_update": done / 1e12,
        "tflop_per_s": done * rate / 1e12,
        "peak_tflop_per_s": peak,
        "million_parameters": sum(each.numel() for each in network.parameters()) / 1e6,
        "million_pretrained": pretrained / 1e6,
        "frames_an_update": size.batch // 2,
        "gib_of_the_card": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0,
        "note": f"the peak is {source}",
    }


def updates_per_s(run: RunDir, warm_up: int) -> float:
    """By the run's own progress, which is told once a second, after an update that the device has done."""
    told = [(line["done"], line["t"]) for line in run.lines("progress") if line["phase"] == "training"]
    (first, begun), (last, ended) = next(each for each in told if each[0] >= warm_up), told[-1]
    return float((last - first) / (ended - begun))


def peak_of(product: int, device: str) -> tuple[float, str]:
    """TFLOP/s of dense bfloat16 at best, and who says so."""
    if device == "cuda":
        name = torch.cuda.get_device_name(0)
        for part, peak in PEAKS.items():
            if part in name:
                return peak, f"{peak:g} TFLOP/s, as the data sheet of {name} says"
    peak = measured_peak(product, device)
    return peak, f"{peak:.3g} TFLOP/s, measured here by products of {product} x {product} matrices"


def measured_peak(product: int, device: str) -> float:
    """TFLOP/s of the quickest of some matrix products."""
    a, b = (torch.randn(product, product, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        times.append(time.perf_counter() - begun)
    return 2 * product**3 / min(times) / 1e12


# Practising


class Timed(Policy):
    """A policy that notes how long each of its calls takes, its answer in memory included."""

    def __init__(self, policy: Policy, seconds: list[float]):
        super().__init__(policy.network, policy.metadata)
        self.seconds = seconds

    def answer(self, *arguments: Any, **settings: Any) -> Answer:
        """As of Policy."""
        begun = time.perf_counter()
        answer = super().answer(*arguments, **settings)
        self.seconds.append(time.perf_counter() - begun)
        return answer


def practising(path: Path, device: str, size: Sizes, seed: int) -> Row:
    """On tables, whose states are told: the worlds are as fast as ours get, so that policy and learner show."""
    first = RunDir.create(path / "table", SFTRecipe(seed=seed, steps=100, device=device, **FEW))
    write_episodes(first.data / "shown.safetensors", demonstrations(seed, 16, lambda *_: None, 0, TASKS))
    stage1.sft(first)
    recipe = ImproveRecipe(seed=seed, device=device, evaluation_episodes=0, tasks=",".join(TASKS), **size.practice)
    second = RunDir.create(path / "improve", recipe)
    for role in ("policy", "reward_model"):
        link_to(first.checkpoints / f"{role}.safetensors", second.start / f"{role}.safetensors")
    stations = LocalStations(list(TASKS), size.stations, seed, size.time_limit)
    calls: list[float] = []
    rounds: list[tuple[float, float]] = []  # when the stations began and ended each
    steps = 0

    def practise(run: RunDir, policy: Policy, reward_model: RewardModel, wanted: int) -> None:
        nonlocal steps
        begun = time.perf_counter()
        stations(run, Timed(policy, calls), reward_model, wanted)
        steps += sum(episode.steps for episode in stations.episodes)
        rounds.append((begun, time.perf_counter()))

    begun = time.perf_counter()
    try:
        improve(second, practise)
    finally:
        stations.close()
    ended = time.perf_counter()
    acting = sum(end - begin for begin, end in rounds)
    learner = ended - rounds[0][0] - acting  # what comes before the first round is no round's
    return {
        "setting": "practice",
        "stations": size.stations,
        "env_steps": steps,
        "env_steps_per_s": steps / acting,
        "policy_calls": len(calls),
        "policy_median_ms": 1000 * float(np.median(calls)),
        "policy_p95_ms": 1000 * float(np.quantile(calls, 0.95)),
        "learner_share": learner / (learner + acting),
        "wall_s": ended - begun,
    }


# Stepping worlds


def rolled_out(size: Sizes, seed: int) -> Row:
    n, cores = size.tables["rollout"], os.cpu_count() or 1
    world, rng = BatchWorld(n, seed, cores), np.random.default_rng(seed)
    actions = rng.uniform(-0.02, 0.02, (size.ticks, n, 2)).astype(np.float32)
    world.step(actions[0])
    begun = time.perf_counter()
    for action in actions:
        world.step(action)
    rate = size.ticks * n / (time.perf_counter() - begun)
    world.close()
    return {"setting": "rollout", "tables": n, "cores": cores, "env_steps_per_s": rate}


def stepped_by_warp(size: Sizes, seed: int) -> Row:
    """Without figures, and with the reason, where this can't be done."""
    try:
        import mujoco_warp
        import warp
    except ImportError:
        return {"setting": "warp", "note": "mujoco_warp is not installed; run: pip install 'fleetui[gpu]'"}
    if not torch.cuda.is_available():
        return {"setting": "warp", "note": "not measured: torch finds no cuda device on this machine"}
    n = size.tables["warp"]
    step, positions = warp_tables(mujoco_warp, warp, n, seed, "cuda")
    generator = torch.Generator("cuda").manual_seed(seed)
    actions = 0.04 * torch.rand(size.ticks, n, 2, device="cuda", generator=generator) - 0.02
    step(actions[0])
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for action in actions:
        step(action)
    torch.cuda.synchronize()
    rate = size.ticks * n / (time.perf_counter() - begun)
    if not positions().isfinite().all():
        return {"setting": "warp", "note": "not measured: mujoco_warp's positions are no numbers"}
    return {"setting": "warp", "tables": n, "env_steps_per_s": rate}


def warp_tables(
    mujoco_warp: Any, warp: Any, n: int, seed: int, device: str
) -> tuple[Callable[[Tensor], None], Callable[[], Tensor]]:
    """n tables on a device: what moves all hands by [n, 2] metres in one control step, as BatchWorld.step does, and
    what reads all joints' positions [n, nq].
    """
    tables = BatchWorld(n, seed)
    model, one = tables.model, mujoco.MjData(tables.model)
    one.qpos[:] = tables.positions[0]  # apart from each other
    mujoco.mj_forward(model, one)
    with warp.ScopedDevice(device):
        there = mujoco_warp.put_model(model)
        data = mujoco_warp.put_data(model, one, nworld=n, nconmax=CONTACTS, njmax=4 * CONTACTS)
        data.qpos.assign(tables.positions.astype(np.float32))
        places, speeds, controls, warmstart = (
            warp.to_torch(each) for each in (data.qpos, data.qvel, data.ctrl, data.qacc_warmstart)
        )
        tables.close()

        def physics() -> None:
            for _ in range(PHYSICS_STEPS):
                mujoco_warp.step(there, data)

        launch = physics
        if device == "cuda":  # one launch for all of a control step's kernels
            physics()  # compiles them
            with warp.ScopedCapture() as captured:
                physics()
            launch = partial(warp.capture_launch, captured.graph)
            data.qpos.assign(tables.positions.astype(np.float32))
    reach = torch.tensor(REACH, dtype=torch.float32, device=places.device)

    def step(moves: Tensor) -> None:
        controls.copy_((places[:, :2] + moves).clamp(-reach, reach))
        speeds.zero_()
        warmstart.zero_()
        launch()

    return step, lambda: places
