"""Checkpoints: immutable weights on disk, and what acts and judges with them.

One safetensors file each; its metadata says everything needed to use it: the body, the words, the network's sizes,
where it came from. Of pretrained models it holds what was trained, and their sums: they lie in a store
(model_folders.py). A Policy acts on a station and says what it expects to come of it; a RewardModel, frozen, tells how
far the goal is and when it is reached.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robots.atomic_files import write_atomically
from robots.embodiments import Embodiment, Observation
from training import computing, steps_to_go
from training.model_folders import ModelFolderError, find, stores_near
from training.networks.acting import ExplorerNetwork, FlowCorrectedNetwork, ProbingNetwork
from training.networks.backbones import NONE, Pretrained
from training.networks.embedded import EmbeddedNetwork
from training.networks.guided import GuidedNetwork
from training.networks.network import Network
from training.networks.phased import PhasedNetwork
from training.networks.residual import ResidualNetwork
from training.vocabulary import Vocabulary

# By the names that checkpoints give: nothing that a file says is imported.
NETWORKS: dict[str, Callable[..., Any]] = {
    "network": Network,
    "guided": GuidedNetwork,
    "residual": ResidualNetwork,
    "phased": PhasedNetwork,
    "embedded": EmbeddedNetwork,
    "probing": ProbingNetwork,
    "flow_corrected": FlowCorrectedNetwork,
    "explorer": ExplorerNetwork,
}

LARGEST_HEADER = 10**6  # bytes of JSON; a checkpoint may have come over the network
FORMAT = "fleetui-checkpoint-1"
# What older files call by another name: facts of the metadata, and the beginnings of weights' names.
RENAMED_FACTS = {"taught": "value_updates"}
RENAMED_WEIGHTS = {
    "sight.tell.": "perception.object_detector.",
    "sight.": "perception.",
    "features.mean": "features.scaled.mean",
    "features.deviation": "features.scaled.deviation",
}


class CheckpointError(ValueError):
    """A checkpoint that can't be used, or an observation that doesn't fit it."""


@dataclass
class CheckpointMetadata:
    """What a checkpoint file says about itself."""

    role: str  # policy | reward_model
    version: int
    embodiment: dict[str, Any]
    vocabulary: list[str]
    tasks: list[str]  # the families in the demonstrations
    sizes: dict[str, Any]  # of the network: hidden, layers, action_bins, bins, chunk
    bin_width: float
    threshold: float  # s
    consecutive: int  # frames in a row with d <= s
    recipe: dict[str, Any]
    network: str = "network"  # which kind of network it is of, of NETWORKS
    parent: str = ""  # the checkpoint it was trained from
    executed: int = 1  # so many actions of a chunk a station executes before it asks again
    temperature: float = 1.0  # of the policy's action tokens: below 1 it acts nearer to its likeliest action
    value_updates: int = 0  # rounds of practice that a policy's success prediction has learned from
    # The pretrained models that it stands on, {} without any: {"models": {kind: sha256}, "trained", "rank"}.
    pretrained: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    kind: str = FORMAT

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "CheckpointMetadata":
        """Also of a file that calls the value updates by their older name."""
        return cls(**{RENAMED_FACTS.get(name, name): value for name, value in data.items()})

    def to_json(self) -> dict[str, Any]:
        """What from_json reads. Nothing is said of pretrained models or of a temperature where there is none, so that
        older software reads it.
        """
        plain = {"pretrained": {}, "temperature": 1.0, "network": "network"}
        return {name: value for name, value in asdict(self).items() if plain.get(name) != value}

    def new_network(self, stores: Sequence[Path] = ()) -> Any:
        """A network of these sizes, with random weights on top of what was pretrained; CheckpointError where that is in
        none of these stores.
        """
        pretrained = NONE
        try:
            if self.pretrained:
                models = {kind: find(sha256, list(stores)) for kind, sha256 in self.pretrained["models"].items()}
                pretrained = Pretrained(models, self.pretrained["trained"], self.pretrained["rank"])
            body, vocabulary = Embodiment.from_json(self.embodiment), Vocabulary(self.vocabulary)
            if self.network not in NETWORKS:
                raise CheckpointError(
                    f"The {self.role} of version {self.version} is of the kind {ascii(self.network)[:60]}, which this "
                    "software doesn't know; update it."
                )
            network = NETWORKS[self.network](body, vocabulary, **self.sizes, pretrained=pretrained)
        except ModelFolderError as error:
            raise CheckpointError(f"The {self.role} of version {self.version} can't be used: {error}") from None
        acting = network.base if isinstance(network, ResidualNetwork) else network
        if isinstance(acting, Network):
            acting.action_head.temperature = self.temperature
        return network


def present_name(weight: str) -> str:
    """Of a weight that a file may name as older code did."""
    for old, new in RENAMED_WEIGHTS.items():
        if weight.startswith(old):
            return new + weight.removeprefix(old)
    return weight


def save_checkpoint(path: Path, network: nn.Module, metadata: CheckpointMetadata) -> None:
    """CheckpointError, and no file, where a weight is no number: whoever loaded it could only stand still."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    refuse_nan(tensors, f"The {metadata.role} of version {metadata.version} is not kept")
    try:
        description = json.dumps(metadata.to_json(), allow_nan=False)
    except ValueError:
        raise CheckpointError(
            f"The {metadata.role} of version {metadata.version} is not kept: its threshold or recipe holds a "
            "number that is none."
        ) from None
    write_atomically(path, save(tensors, metadata={"description": description}))


def refuse_nan(tensors: dict[str, Tensor], message: str) -> None:
    """CheckpointError, with `message` before the reason, where a tensor holds a number that is none."""
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{message}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity, such as {bad[0]}. Its data or its "
            "learning rate is to blame; an earlier version is the one to go on with."
        )


def refuse_large_header(path: Path | str) -> None:
    """Before it is parsed: lists in lists take twenty times their own size."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > LARGEST_HEADER:
        raise ValueError(f"its header has {size} bytes, more than {LARGEST_HEADER}")


def load_checkpoint(path: Path | str) -> tuple[Any, CheckpointMetadata]:
    """The frozen network of a file, and what the file says of itself; CheckpointError where it can't be used."""
    try:
        refuse_large_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = CheckpointMetadata.from_json(json.loads(file.metadata()["description"]))
            names = file.keys()
            tensors = {present_name(name): file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no checkpoint {path}; was it removed, or did the run that makes it fail?"
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of this system, or it is truncated ({error}); fetch it again."
        ) from None
    if metadata.kind != FORMAT:
        raise CheckpointError(f"{path} has the format {metadata.kind!r}; this software reads {FORMAT!r}.")
    refuse_nan(tensors, f"{path} can't be used")
    network = metadata.new_network(stores_near(path))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}'s weights don't fit its own metadata: {error}") from None
    network.eval().requires_grad_(False)
    return network, metadata


class FrozenCheckpoint:
    """A frozen checkpoint with the goal of every instruction it has met: words are encoded once."""

    role: str

    def __init__(self, network: Any, metadata: CheckpointMetadata):
        if metadata.role != self.role:
            raise CheckpointError(f"Checkpoint {metadata.id} is a {metadata.role}; a {self.role} is needed here.")
        self.network, self.metadata = network, metadata
        self.embodiment = Embodiment.from_json(metadata.embodiment)
        self.vocabulary = Vocabulary(metadata.vocabulary)
        self._goals: dict[str, Tensor] = {}

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """From its file; CheckpointError where it can't be used, or is of another role."""
        return cls(*load_checkpoint(path))

    @property
    def id(self) -> str:
        """The checkpoint's own id, by which episodes name it."""
        return self.metadata.id

    @property
    def version(self) -> int:
        """How many rounds of practice made it."""
        return self.metadata.version

    @torch.inference_mode()
    def goals(self, instructions: Sequence[str]) -> Tensor:
        """[n] instructions -> [n, goal size]"""
        new = sorted({text for text in instructions if text not in self._goals})
        if new:
            if len(self._goals) > 100_000:  # years of typed-in sentences must not fill the memory
                self._goals.clear()
                new = sorted(set(instructions))
            self._goals.update(zip(new, self.network.goal(self.network.encode(new)), strict=True))
        return torch.stack([self._goals[text] for text in instructions])

    @torch.inference_mode()
    def perceive(self, observations: Observation) -> Tensor:
        """n observations as a station makes them -> what the network reads [n, P]"""
        for key, feature in self.embodiment.observation.items():
            shape = np.shape(observations.get(key, 0.0))
            if shape[1:] != feature.shape:
                raise CheckpointError(
                    f"Observations with {key} of shape {shape} don't fit checkpoint {self.id}: {self.embodiment.name} "
                    f"has {list(feature.shape)}; give the station a checkpoint of its own embodiment."
                )
        return self.network.perceive(
            {
                key: computing.onto(
                    self.network.device, torch.as_tensor(np.ascontiguousarray(observations[key], feature.dtype))
                )
                for key, feature in self.embodiment.observation.items()
            }
        )


@dataclass
class Answer:
    """What a policy says to n observations."""

    actions: np.ndarray  # [n, K, A], chunks in the units of the body's action space
    # [n, bins], p(steps to success | o, g) when it goes on; the last bin is "not before the time limit". None: it makes
    # no such prediction.
    prediction: np.ndarray | None
    signals: dict[str, np.ndarray]  # [n] each, by name: what a supervisor sees of it live (methods/registry.py)


class Policy(FrozenCheckpoint):
    """p(a | o, g), ready to act. Sampled actions beat greedy ones after stage 1, and practice needs them anyway."""

    role = "policy"

    @property
    def executed(self) -> int:
        """So many actions of a chunk are executed before it is asked again."""
        return self.metadata.executed

    @torch.inference_mode()
    def act(
        self,
        observations: Observation,
        instructions: Sequence[str],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> np.ndarray:
        """n observations -> chunks [n, K, A] in the units of the body's action space"""
        return self.answer(observations, instructions, generator, greedy).actions

    @torch.inference_mode()
    def answer(
        self,
        observations: Observation,
        instructions: Sequence[str],
        generator: torch.Generator | None = None,
        greedy: bool = False,
        memories: Sequence[dict[str, Any]] | None = None,
    ) -> Answer:
        """n observations -> what it says to them. `memories`: of each asker a dictionary that lives as long as it asks
        this run's policies, for those that go by more than one observation; empty ones, if not given.
        """
        memories = [{} for _ in instructions] if memories is None else memories
        perceived, goals = self.perceive(observations), self.goals(instructions)
        actions, prediction, signals = self.network.answer(perceived, goals, generator, greedy, memories)
        return Answer(
            actions.cpu().numpy(),
            None if prediction is None else prediction.cpu().numpy(),
            {name: told.cpu().numpy() for name, told in signals.items()},
        )


class RewardModel(FrozenCheckpoint):
    """d(o, g) and the success detector. Frozen for a whole run, or the reward would drift with the policy."""

    role = "reward_model"

    @torch.inference_mode()
    def steps_to_go(self, observations: Observation, instructions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """n observations -> d [n], distribution [n, bins]"""
        return self.judge(self.perceive(observations), instructions)

    @torch.inference_mode()
    def judge(self, perceived: Tensor, instructions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The same for what perceive() made of observations."""
        distribution = self.network.steps_to_go(perceived, self.goals(instructions))
        return steps_to_go.expected_steps(distribution, self.bin_width).cpu().numpy(), distribution.cpu().numpy()

    @property
    def farthest(self) -> float:
        """Steps to go of the last bin, beyond which d tells nothing."""
        return self.metadata.sizes["bins"] * self.bin_width

    @property
    def threshold(self) -> float:
        """s: d at or below it is a success."""
        return self.metadata.threshold

    @property
    def consecutive(self) -> int:
        """How many frames in a row have to say so."""
        return self.metadata.consecutive

    @property
    def bin_width(self) -> float:
        """Steps of each bin."""
        return self.metadata.bin_width


Optimisers = Mapping[str, torch.optim.Optimizer]  # by names of their own, beside the one that has none
NO_MORE: Optimisers = MappingProxyType({})


def save_state(
    path: Path,
    progress: dict[str, Any],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    further: Optimisers = NO_MORE,
    **networks: Any,
) -> None:
    """All that a restart needs, in one file, so that a crash leaves the old state or the new one."""
    tensors = {"generator": generator.get_state()}
    for name, network in networks.items():
        tensors |= {f"{name}.{key}": tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    for prefix, each in _prefixed(optimiser, further):
        for index, moments in each.state_dict()["state"].items():
            tensors |= {f"{prefix}.{index}.{key}": torch.as_tensor(value).cpu() for key, value in moments.items()}
    # Cloned, since safetensors refuses tensors that share memory.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata={"progress": json.dumps(progress)}))


def _prefixed(optimiser: torch.optim.Optimizer, further: Optimisers) -> list[tuple[str, torch.optim.Optimizer]]:
    """Each with the beginning of its tensors' names."""
    return [("optimiser", optimiser), *((f"optimiser_{name}", each) for name, each in further.items())]


def load_state(
    path: Path,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    further: Optimisers = NO_MORE,
    **networks: Any,
) -> dict[str, Any] | None:
    """Put everything back as it was; returns the progress, or None where nothing was saved yet."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, no dict)
    generator.set_state(tensors.pop("generator"))
    for prefix, each in _prefixed(optimiser, further):
        moments: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in tensors if name.startswith(f"{prefix}.")]:
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensors.pop(name)
        each.load_state_dict({"state": moments, "param_groups": each.state_dict()["param_groups"]})
    for name, network in networks.items():
        prefix = f"{name}."
        own = {present_name(key[len(prefix) :]): value for key, value in tensors.items() if key.startswith(prefix)}
        if own:  # a state from before there was such a part begins it anew
            network.load_state_dict(own)
    return progress
