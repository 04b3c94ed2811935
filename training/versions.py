"""The versions of a practising run's policy: where each lies, what each says of itself, how long it is kept."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.checkpoints import CheckpointMetadata
from training.recipes import Recipe
from training.run_dir import RunDir

# Checkpoints that were never evaluated stay this many versions: enough for the slowest station to fetch its own.
NEWEST_KEPT = 5


def policy_path(run: RunDir, version: int) -> Path:
    """Where a version's file is."""
    return run.checkpoints / f"policy-{version:06d}.safetensors"


def next_metadata(
    origin: CheckpointMetadata, version: int, recipe: Recipe, value_updates: int, parent: str = ""
) -> CheckpointMetadata:
    """A new version, under a new id, otherwise as the SFT policy it descends from."""
    return replace(
        origin,
        role="policy",
        version=version,
        recipe=recipe.to_json(),
        parent=parent or origin.id,
        value_updates=value_updates,
        id=str(uuid.uuid4()),
    )


def forget_old_checkpoints(run: RunDir, version: int, evaluations: dict[int, dict[str, Any]]) -> None:
    """Evaluated versions stay for good, the others until a few newer are out: thousands of rounds must fit a disk."""
    old = version - NEWEST_KEPT
    if old > 0 and old not in evaluations:
        policy_path(run, old).unlink(missing_ok=True)
