"""backbone: what pretrained encoders bring at equal demonstrations, in SFT and in what practice adds.

words     the table of language-table; words are read by all-MiniLM-L6-v2, or learned from the demonstrations alone.
          Success and understanding on sentences as in the demonstrations; with wordings that no demonstration and no
          held-out grammar has; with names of objects that none has; with both
pictures  an arm touches the one cube on its table (touching.py); the picture is seen by a DINOv2, or by an encoder that
          learns with the policy

FLEETUI_VISION_MODEL names a model folder that sees in the DINOv2's place; words, for which it changes nothing, are left
out then. All pretrained models stay as they are (heads). The synonyms and wordings are below; nothing is trained on
them. How near a word counts as to a name was chosen while looking at these synonyms (of four ways that differed by .1),
so that the figure for names is a little too good.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robots.tasks import get_task
from robots.worlds.language_table import BLOCKS, TIME_LIMIT_STEPS
from training.benchmarks import Report, Row, difference, touching
from training.benchmarks.two_stage_pipeline import (
    TASKS,
    Stage1,
    demonstrations,
    folder,
    picked,
    stage1,
    stage2,
    success,
)
from training.checkpoints import Policy
from training.packaged_models import PACKAGES, write_model

DEMONSTRATIONS = {"words": (40,), "pictures": (40, 80)}  # SFT on so many each
PRACTICE = 200
ATTEMPTS = {"words": 200, "pictures": 100}  # a figure
SENTENCES = 400  # of which is asked whether they are understood
PICTURE_SFT: dict[str, Any] = {"action_bins": 21, "chunk": 4, "executed": 4}
SYNONYMS = {
    "red": ("crimson", "scarlet"),
    "blue": ("navy", "azure"),
    "green": ("emerald", "lime"),
    "yellow": ("golden", "amber"),
    "moon": ("crescent", "lunar"),
    "cube": ("box", "dice"),
    "star": ("asterisk", "starlet"),
    "pentagon": ("polygon", "pentagonal"),
}
WORDINGS = {
    "block2block": (
        "transport the {block} until it is right beside the {to_block}",
        "get the {block} over by the {to_block}",
        "i want the {block} touching the {to_block}",
        "make the {block} meet up with the {to_block}",
        "leave the {block} where the {to_block} is",
    ),
    "block_to_place": (
        "transport the {block} into the {place} area",
        "get the {block} over by the {place} of the table",
        "i want the {block} at the {place}",
        "leave the {block} at the {place} side",
        "the {place} is where the {block} has to be",
    ),
}
KINDS = ("as_shown", "new_wordings", "new_names", "new_both")


def reworded(text: str, kind: str) -> str:
    """The same request in other words; always the same ones for one text."""
    name = next(name for name in TASKS if name == _family(text))
    target = dict(get_task(name).parse(text).target)
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    wording = WORDINGS[name][rng.integers(len(WORDINGS[name]))]
    if kind in ("new_names", "new_both"):
        for slot in sorted(target.keys() & {"block", "to_block"}):
            renamed = " ".join(SYNONYMS[word][rng.integers(2)] for word in target[slot].split())
            text, target[slot] = text.replace(target[slot], renamed), renamed
    return wording.format(**target) if kind in ("new_wordings", "new_both") else text


def _family(text: str) -> str:
    return TASKS[0] if sum(kind.name in text for kind in BLOCKS) == 2 else TASKS[1]


class Reworded(Policy):
    """A policy to which every instruction is said in other words."""

    kind = KINDS[0]

    def goals(self, instructions: Sequence[str]) -> Tensor:
        """As of Policy."""
        return super().goals([reworded(text, self.kind) for text in instructions])

    @classmethod
    def of(cls, policy: Policy, kind: str) -> "Reworded":
        """The same policy, spoken to in one kind of words."""
        made = cls(policy.network, policy.metadata)
        made.kind = kind
        return made


def run(seed: int, report: Report) -> list[Row]:
    torch.set_num_threads(1)
    vision = os.environ.get("FLEETUI_VISION_MODEL")
    with folder() as path:
        if vision:
            return by_pictures(path, seed, vision, report)
        models = {package.folder: str(write_model(package, path / "packaged").path) for package in PACKAGES}
        rows = by_words(path, seed, models["all-MiniLM-L6-v2"], report)
        return rows + by_pictures(path, seed, models["dinov2-small-focus"], report)


def by_words(path: Path, seed: int, model: str, report: Report) -> list[Row]:
    """The rows of both ways to read words."""
    report(0.02, "demonstrations")
    (count,) = DEMONSTRATIONS["words"]
    data = demonstrations(seed, count, lambda *_: None, 0)
    rows = []
    arms: dict[str, dict[str, Any]] = {"own": {}, "pretrained": {"text_encoder": model}}
    for number, (arm, settings) in enumerate(arms.items()):
        report(0.05 + 0.3 * number, f"words, {arm}")
        begin = stage1(path / f"words-{arm}", data, seed, **settings)
        rows.append(words_row(f"words-{arm}-sft", begin.policy, seed, begin, begin.wall_s))
        report(0.2 + 0.3 * number, f"words, {arm}: practice")
        rows.append(practised(arm, path, begin, seed))
    return rows


def by_pictures(path: Path, seed: int, model: str, report: Report) -> list[Row]:
    """The rows of both ways to see, after SFT on the first of the same demonstrations."""
    report(0.65, "demonstrations with pictures")
    tasks = (touching.ready(),)
    data = demonstrations(seed, max(DEMONSTRATIONS["pictures"]), lambda *_: None, 0, tasks)
    rows = []
    arms: dict[str, dict[str, Any]] = {"own": {}, "pretrained": {"vision_encoder": model}}
    for number, (arm, settings) in enumerate(arms.items()):
        for count in DEMONSTRATIONS["pictures"]:
            setting = f"pictures-{arm}-{count}"
            report(0.7 + 0.15 * number, f"pictures, {arm}, {count} demonstrations")
            begin = stage1(path / setting, data[:count], seed, **PICTURE_SFT | settings)
            result = success(begin.policy, seed, touching.LIMIT, tasks, ATTEMPTS["pictures"])
            rows.append(
                {
                    "setting": setting,
                    "demonstrations": count,
                    "success": result.rate,
                    "steps_to_success": result.steps_to_success,
                    "wall_s": round(begin.wall_s, 1),
                }
            )
    return rows


def practised(arm: str, path: Path, begin: Stage1, seed: int) -> Row:
    """The row of the last version that practice made."""
    after = stage2(path / f"words-{arm}-practice", begin, seed, PRACTICE, TIME_LIMIT_STEPS, TASKS)
    episodes, policy = after.within(PRACTICE)
    row = words_row(f"words-{arm}-practice", policy, seed, begin, begin.wall_s + after.wall_s)
    return row | {"practice_episodes": episodes}


def words_row(setting: str, policy: Policy, seed: int, begin: Stage1, wall_s: float) -> Row:
    """Success and understanding in each kind of words."""
    row: Row = {"setting": setting, "demonstrations": begin.count}
    for kind in KINDS:
        spoken_to = Reworded.of(policy, kind)
        row[f"success_{kind}"] = success(spoken_to, seed, TIME_LIMIT_STEPS, TASKS, ATTEMPTS["words"]).rate
        row[f"understood_{kind}"] = understood(spoken_to, seed)
    return row | {"wall_s": round(wall_s, 1)}


def understood(policy: Policy, seed: int) -> float:
    """Share of sentences of which the right object and the right aim are picked."""
    rng = np.random.default_rng([seed, 77])
    names = tuple(kind.name for kind in BLOCKS)
    texts = [get_task(TASKS[number % 2]).sample(rng, names).text for number in range(SENTENCES)]
    goals, wanted = policy.goals(texts).cpu().numpy(), np.stack([picked(text) for text in texts])
    count = len(names)
    source = goals[:, :count].argmax(1) == wanted[:, :count].argmax(1)
    aim = goals[:, count : 2 * count + 1].argmax(1)
    right = aim == wanted[:, count : 2 * count + 1].argmax(1)
    near = np.linalg.norm(goals[:, -2:] - wanted[:, -2:], axis=1) < 0.055  # half the way between two places
    return float(np.mean(source & right & ((aim < count) | near)))


def summarise(rows: list[Row]) -> dict[str, Any]:
    def mean(setting: str, other: str, figure: str) -> float | None:
        found = difference(rows, setting, other, figure)
        return None if found is None else found["mean"]

    seen = {
        count: difference(rows, f"pictures-pretrained-{count}", f"pictures-own-{count}", "success")
        for count in DEMONSTRATIONS["pictures"]
    }
    gains = [found["mean"] for found in seen.values() if found is not None]
    return {
        "held_out_wordings_gain": mean("words-pretrained-sft", "words-own-sft", "success_new_both"),
        "vision_gain": sum(gains) / len(gains) if gains else None,
        "practice_gain_pretrained": mean("words-pretrained-practice", "words-pretrained-sft", "success_as_shown"),
        "practice_gain_scratch": mean("words-own-practice", "words-own-sft", "success_as_shown"),
        **{
            f"words, {kind}: pretrained minus own": difference(
                rows, "words-pretrained-sft", "words-own-sft", f"success_{kind}"
            )
            for kind in KINDS
        },
        **{f"pictures, {count} demonstrations: pretrained minus own": found for count, found in seen.items()},
    }
