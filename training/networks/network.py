"""The networks: words to a goal, goal and observation to action tokens and to steps-to-go.

    instruction --Grounding or TextCode--> goal --+
                                                  +--> features -> trunk -> action head      p(a_1 .. a_K | o, g)
    observation --perceive--> what is made out ---+                      -> steps-to-go head p(t' - t | o, g)

What a body observes chooses the parts, and here is the one place where: a table from above (perception.py first, where
it is seen and not told), an arm among tracked objects (arm.py), cameras (vision.py), numbers (state.py). Where a
pretrained model is given (backbones.py), it stands for the part that it can stand for.

What each part has to do, whatever it is:

    words       encode(texts) -> what is read of them, once for each text; forward(that) -> goal
    perception  forward(observations) -> perceived, beside the vectors; once for each frame unless it learns to see
    features    forward(perceived, goal, frame) -> what the trunk reads; scale_as(perceived) before training
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robots.embodiments import STATE, Embodiment
from robots.worlds.language_table import OBJECT_FEATURES
from training import computing, steps_to_go
from training.model_folders import ModelFolderError
from training.networks.arm import ArmFeatures
from training.networks.arm import fits as arm_fits
from training.networks.backbones import NONE, Backbone, PicturesAndWords, Pretrained, TextEncoder
from training.networks.heads import ActionHead, GaussianHead, JointHead
from training.networks.state import FlatFeatures, differences_of
from training.networks.table import SYMMETRIES, TableFeatures, turned
from training.networks.vision import (
    PretrainedVision,
    PretrainedVisionFeatures,
    VisionEncoder,
    VisionFeatures,
    random_shifts,
)
from training.networks.vision_language import JointFeatures, Pictures, Prompt
from training.networks.words import CodeTable, Grounding, PretrainedCode, PretrainedGrounding, TextCode
from training.perception import Perception
from training.vocabulary import Vocabulary


class Trunk(nn.Sequential):
    """Layers that read the features. [n, features] -> float32 [n, hidden]"""

    def __init__(self, widths: Sequence[int]):
        super().__init__(
            *(nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.GELU()) for a, b in itertools.pairwise(widths))
        )
        self.computing = computing.now()

    def forward(self, features: Tensor) -> Tensor:
        """As of the class."""
        with self.computing.layers():
            return super().forward(features).float()


class Network(nn.Module):
    """One network with both heads. Stage 2 trains a copy's trunk and action head; perception and the words' part stay.

    It is made, and computes, where the process does (computing.py), and whatever it is given has to lie there; what it
    answers does.

    A table looks alike from every side, and what acts and judges on one is exactly equivariant under its SYMMETRIES:
    the policy is the even mixture of what the heads say of the eight turned and mirrored tables, p(a | o, g) = 1/8
    sum_f p_net(f a | f o, g), and d the mean of theirs. So a step in practice stands for its eight copies by itself,
    and the ratio of probabilities in the update is that of the very policy that acted.
    """

    words: Grounding | TextCode | CodeTable | PretrainedCode | Prompt
    perception: Perception | VisionEncoder | PretrainedVision | Pictures | None
    features: TableFeatures | ArmFeatures | VisionFeatures | FlatFeatures | JointFeatures
    action_head: ActionHead | JointHead | GaussianHead
    symmetries: Tensor  # [8, 2, 2]

    def __init__(
        self,
        embodiment: Embodiment,
        vocabulary: Vocabulary,
        hidden: int,
        layers: int,
        action_bins: int,
        bins: int,
        chunk: int = 1,
        pretrained: Pretrained = NONE,
        action_head: str = "tokens",
    ):
        """`chunk`: how many actions that follow each other it answers at once, K. ModelFolderError where a pretrained
        model can't be read, or this body has no part that it could stand for.
        """
        super().__init__()
        self.vocabulary, self.pretrained = vocabulary, pretrained
        self.vectors = [key for key, feature in embodiment.observation.items() if not feature.is_picture]
        self.perception = None
        self._choose_parts(embodiment, vocabulary, pretrained)
        self.trunk = Trunk([self.features.size, *[hidden] * layers])
        sizes = hidden, embodiment.token_range, action_bins, chunk
        relative = embodiment.relative
        if action_head == "gaussian":
            self.action_head = GaussianHead(*sizes)
        else:
            self.action_head = JointHead(*sizes, relative) if any(relative) else ActionHead(*sizes)
        self.steps_to_go_head = nn.Linear(hidden, bins)
        # Of a relative number, and where among what is perceived stands where its joint is
        self.relative = [number for number, relative in enumerate(embodiment.relative) if relative]
        earlier = self.vectors[: self.vectors.index(STATE)] if self.relative else []
        before = sum(embodiment.observation[key].size for key in earlier)
        senses = [embodiment.motions[number].sensed_by for number in self.relative]
        self.sensed_at = [before + embodiment.state_names.index(name) for name in senses]
        self.register_buffer("symmetries", SYMMETRIES.clone(), persistent=False)
        self.device = computing.now().device
        self.to(self.device)

    def told(self, perceived: Tensor, actions: Tensor) -> Tensor:
        """Actions as the action head tells them: relative numbers from where the joints are. [n, P], [n, m, A] -> the
        same
        """
        return actions - self._present(perceived, actions) if self.relative else actions

    def meant(self, perceived: Tensor, told: Tensor) -> Tensor:
        """The actions that the action head told so. [n, P], [n, m, A] -> the same"""
        return told + self._present(perceived, told) if self.relative else told

    def _present(self, perceived: Tensor, actions: Tensor) -> Tensor:
        """Where the joints of relative numbers are, and 0 for the others. [n, P], [n, m, A] -> [n, 1, A]"""
        present = torch.zeros_like(actions[:, 0])
        present[:, self.relative] = perceived[:, self.sensed_at]
        return present[:, None]

    def _choose_parts(self, embodiment: Embodiment, vocabulary: Vocabulary, pretrained: Pretrained) -> None:
        models, cameras = pretrained.models, len(embodiment.pictures)
        sizes = [embodiment.observation[key].size for key in self.vectors]
        encoder = TextEncoder(pretrained) if "text" in models else None
        table = bool(embodiment.overhead) or embodiment.object_features == OBJECT_FEATURES
        if not embodiment.suits_vision_models:
            for kind in sorted({"vision", "vision_language"} & set(models)):
                raise ModelFolderError(
                    f"{embodiment.name} has no camera of its own for {models[kind].name} to see by; leave that model "
                    "out."
                )
        if "vision_language" in models:
            joint = PicturesAndWords(pretrained)
            self.perception, self.words = Pictures(embodiment, joint), Prompt(joint)
            self.features = JointFeatures(sizes, cameras, joint)
        elif table or arm_fits(embodiment):
            if embodiment.overhead:
                self.perception = Perception(embodiment)
            self.words = (
                PretrainedGrounding(vocabulary, embodiment, encoder) if encoder else Grounding(vocabulary, embodiment)
            )
            self.features = TableFeatures(embodiment) if table else ArmFeatures(embodiment)
        elif "vision" in models:
            self.perception = PretrainedVision(embodiment, pretrained)
            self.words = PretrainedCode(encoder) if encoder else TextCode(vocabulary)
            self.features = PretrainedVisionFeatures(sizes, cameras, self.words.size, self.perception.encoder)
        elif cameras:
            self.perception = VisionEncoder(embodiment)
            self.words = PretrainedCode(encoder) if encoder else TextCode(vocabulary)
            self.features = VisionFeatures(sizes, cameras, self.words.size)
        else:
            self.words = PretrainedCode(encoder) if encoder else TextCode(vocabulary)
            self.features = FlatFeatures(sum(sizes), self.words.size, differences_of(embodiment, self.vectors))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Sentences as `goal` reads them, one row each: whatever is frozen has been done."""
        return self.words.encode(texts).to(self.device)

    def goal(self, words: Tensor) -> Tensor:
        """Sentences as what acts and judges is told them. What encode() made of n -> [n, goal size]"""
        goal = self.words(words)
        return self.words.decided(goal) if isinstance(self.words, Grounding) else goal

    def trained_in(self, phase: str) -> list[nn.Parameter]:
        """What learns in a phase. `grounding`: the words alone; `training`: all that was not taught before it; then
        `practice`: trunk and action head. The value head learns by itself there. A pretrained model is no parameter of
        ours unless it is trained.
        """
        if phase == "grounding":
            return list(self.words.parameters())
        if phase == "practice":
            return [*self.trunk.parameters(), *self.action_head.parameters()]
        before = [part for part in (self.perception, self.words) if isinstance(part, (Perception, Grounding))]
        taught = {each for part in before for each in part.parameters()}
        return [each for each in self.parameters() if each not in taught]

    @property
    def pretrained_parameters(self) -> set[nn.Parameter]:
        """Those that a pretrained model brings along or that adapt it: they take smaller steps."""
        return {each for part in self.modules() if isinstance(part, Backbone) for each in part.parameters()}

    @property
    def grounded(self) -> bool:
        """Whether its words are bound to objects: before all else, and frozen then."""
        return isinstance(self.words, Grounding)

    @property
    def learns_to_see(self) -> bool:
        """Whether its perception is learned together with the policy, and neither before it nor elsewhere."""
        match self.perception:
            case VisionEncoder():
                return True
            case PretrainedVision():
                return self.perception.encoder.learns
            case Pictures():
                return self.perception.learns
        return False

    @property
    def reads(self) -> frozenset[str]:
        """The features of an observation that it makes anything of, by key."""
        if isinstance(self.perception, Perception):
            return frozenset([self.perception.key])
        return frozenset([*self.vectors, *(self.perception.keys if self.perception is not None else [])])

    def random_shifts(self, n: int, generator: torch.Generator) -> list[Tensor] | None:
        """By which n frames' pictures are moved where that is learned from: of each camera [2, n, 1] pixels."""
        if self.learns_to_see and isinstance(self.perception, (VisionEncoder, PretrainedVision)):
            return [random_shifts(n, generator) for _ in self.perception.keys]
        return None

    def perceive(self, observations: Mapping[str, Tensor], shifts: Sequence[Tensor] | None = None) -> Tensor:
        """Observations as recorded -> what the rest reads [n, P]: their vectors, and what was made out in pictures,
        moved by these shifts if given.
        """
        if isinstance(self.perception, Perception):
            return self.perception(observations[self.perception.key])
        if isinstance(self.perception, (VisionEncoder, PretrainedVision)):
            return self.perception(observations, shifts)
        if self.perception is not None:
            return self.perception(observations)
        return torch.cat([observations[key] for key in self.vectors], 1)

    def hidden(self, perceived: Tensor, goal: Tensor, frame: Tensor | None = None) -> Tensor:
        """[n, P], [n, goal size] -> [n, hidden]"""
        return self.trunk(self.features(perceived, goal, frame))

    @property
    def symmetric(self) -> bool:
        """Whether what it sees can be turned and mirrored."""
        return isinstance(self.features, TableFeatures)

    def frames(self, n: int) -> list[Tensor | None]:
        """Each symmetry, for n rows; only None where the body has no such symmetries."""
        return [frame.expand(n, 2, 2) for frame in self.symmetries] if self.symmetric else [None]

    def random_symmetries(self, n: int, generator: torch.Generator | None) -> Tensor | None:
        """One drawn for each row. [n, 2, 2]"""
        if not self.symmetric:
            return None
        return self.symmetries[torch.randint(len(SYMMETRIES), (n,), generator=generator).to(self.device)]

    def _from_all_sides(self, perceived: Tensor, goal: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """hidden, of all frames at once. [n, ...] -> [F n, hidden], the F frames"""
        frames = self.frames(len(perceived))
        sides = [frame for frame in frames if frame is not None]
        if not sides:
            return self.hidden(perceived, goal), frames
        times = len(sides)
        return self.hidden(perceived.repeat(times, 1), goal.repeat(times, 1), torch.cat(sides)), frames

    def act(
        self, perceived: Tensor, goal: Tensor, generator: torch.Generator | None, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        """Chunks of actions [n, K, A] sampled from p(a | o, g), and the hidden layer that they came from. A greedy one
        is the likeliest as seen from one side.
        """
        frame = None if greedy else self.random_symmetries(len(perceived), generator)
        hidden, head = self.hidden(perceived, goal, frame), self.action_head
        actions = self.meant(perceived, head.actions(head.sample(hidden, generator, greedy, head.chunk)))
        return (actions if frame is None else turned(frame.transpose(1, 2), actions)), hidden

    def answer(
        self,
        perceived: Tensor,
        goal: Tensor,
        generator: torch.Generator | None,
        greedy: bool,
        memories: Sequence[dict[str, Any]],
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Chunks of actions [n, K, A], the success prediction [n, bins], and no signals: what a policy asks of any
        network (checkpoints.py). It keeps nothing in the memories.
        """
        actions, hidden = self.act(perceived, goal, generator, greedy)
        return actions, steps_to_go.distribution(self.steps_to_go_head(hidden)), {}

    def log_probability(self, perceived: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
        """log p(a | o, g) of the mixture, of a chunk's first m actions. [n, P], [n, goal size], [n, m, A] -> [n]"""
        hidden, frames = self._from_all_sides(perceived, goal)
        actions = self.told(perceived, actions)
        seen = torch.cat([actions if frame is None else turned(frame, actions) for frame in frames])
        each = self.action_head.log_probability(hidden, self.action_head.tokens(seen)).unflatten(0, (len(frames), -1))
        return each.logsumexp(0) - math.log(len(frames))

    def steps_to_go(self, perceived: Tensor, goal: Tensor) -> Tensor:
        """p(steps-to-go | o, g), the mean over the symmetries. [n, P], [n, goal size] -> [n, bins]"""
        hidden, frames = self._from_all_sides(perceived, goal)
        return self.steps_to_go_head(hidden).softmax(-1).unflatten(0, (len(frames), -1)).mean(0)
