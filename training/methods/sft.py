"""Stage 1, supervised fine-tuning: demonstrations -> a policy and a reward model.

    read the demonstrations, hold some episodes out; begin with an earlier run's weights if they lie in start/
    perception  where observations are pictures: find in them what the body's features name; then frozen
    grounding   tie the words to the objects, alone, with labels in hindsight; then frozen
    training    each batch half behavioural cloning, half steps-to-go, on one network
    detector    s and k, from what the network says of all demonstrations
    keep        the reward model with its detector, and the policy
    evaluate    the policy's true success: the level that practice starts from

sft() is the order of the phases; each has a function of its own, in that order. A restart in the same directory goes on
at the last state that was saved, in every phase: at a validation, or SAVE_EVERY updates of perception or grounding.

With several processes (training/processes.py) `training` is what they share; before it each does the same, and the
first alone goes on after it.
"""

import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.embodiments import Embodiment
from robots.protocol import SHA256
from robots.worlds.language_table import OBJECT_FEATURES, STATE_NAMES
from training import perception, steps_to_go
from training.checkpoints import (
    CheckpointMetadata,
    FrozenCheckpoint,
    Policy,
    RewardModel,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from training.computing import compute_with, onto, ready_for
from training.datasets import Demonstrations, look_back, read_demonstrations, split
from training.descent import anneal, descend, unlearnable
from training.evaluation import evaluate_for
from training.model_folders import ModelFolderError, add_to_store, find, stores_named
from training.networks.arm import ArmFeatures
from training.networks.backbones import Pretrained
from training.networks.network import Network
from training.networks.table import TableFeatures, random_frames, turned
from training.networks.vision import PretrainedVisionFeatures
from training.networks.vision_language import JointFeatures
from training.networks.words import Grounding
from training.processes import ALONE, Processes
from training.recipes import SFTRecipe
from training.run_dir import Countdown, RunDir, RunError, sha256_of
from training.stored_rows import ReadAhead, Rows, kept
from training.vocabulary import PADDING, UNKNOWN, Vocabulary

# A word is hidden from the grounding this often, and up to so many unknown ones stand before and behind a sentence, so
# that a verb or a wording that was never seen upsets it less. Without strangers 9 % of the held-out wordings were
# misunderstood, with them 5 %.
WORD_DROPOUT = 0.3
STRANGERS = 3
LATE = 4  # frames, within which a demonstration has let its object go
CLEARLY = 0.025  # metres
SAME_PLACE = 0.03  # metres between the places that two sentences mean alike
ASIDE = 0.2  # metres, as far as it is let go elsewhere

STATE = "state.safetensors"
READ_AT_ONCE = 64  # frames, by a vision-language model
LOOK_AT_ONCE, BYTES_AT_ONCE = 1024, 2**26  # frames that are perceived, and at most as many bytes of them
SAVE_EVERY = 50  # updates of grounding; perception.py has the same of its own
GROUNDING_RATE = 1e-2


def sft(run: RunDir) -> dict[str, Any]:
    """Runs until done or cancelled; returns the summary (empty if cancelled)."""
    recipe = run.recipe(SFTRecipe)
    if finished := run.summary():
        return finished
    compute_with(recipe.device, recipe.precision)
    processes = Processes.join(run, recipe.processes)
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)  # initial weights
    generator = torch.Generator().manual_seed(recipe.seed)  # everything drawn later

    # --- the data, and where the weights begin
    demonstrations = read_demonstrations(sorted(run.data.glob("*.safetensors")), recipe.observe)
    training, validation = split(demonstrations, recipe.validation_fraction, generator)
    note_data(run, recipe, demonstrations, len(validation))
    vocabulary = Vocabulary.of(demonstrations.instructions, demonstrations.embodiment)
    network = new_network(run, recipe, demonstrations, vocabulary)
    sees = demonstrations.embodiment.overhead is not None
    trained = network.trained_in("training")
    groups = by_rate(network, trained, recipe)
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    progress = load_state(run.path / STATE, optimiser, generator, network=network)

    # --- what comes before training, and is frozen then
    if progress is None and sees and not learn_perception(run, recipe, network, demonstrations, training, generator):
        return {}
    looks = network.learns_to_see  # in training, so that its vectors alone are known before
    perceived = demonstrations.vectors(network.vectors) if looks else see_all(run, network, demonstrations)  # [F, P]
    if progress is None:
        if network.grounded and not ground(
            run, recipe, network, demonstrations, perceived, training, validation, vocabulary, generator
        ):
            return {}
        progress = {"step": 0}
    else:
        run.note(f"Going on at update {progress['step']}.")
    # Known before they are needed, so that a restart while they are kept or evaluated names the same checkpoints.
    progress.setdefault("ids", {role: str(uuid.uuid4()) for role in ("policy", "reward_model")})
    let_learn(network, trained)

    # --- training
    words = network.encode(demonstrations.instructions)  # [I, ...]
    losses = Losses(network, demonstrations, perceived, words, recipe, generator)
    learned_from, checked = Frames.of(demonstrations, training), Frames.of(demonstrations, validation)
    if not train(run, losses, optimiser, progress, learned_from, checked, processes):
        return {}
    processes.leave()
    if run.quiet:
        return {}

    # --- keep, evaluate
    # Both as they are after the last, fully annealed update, and not each at its best validation loss as in the paper.
    # With turned copies that loss falls to the end; and of few demonstrations the one that is held out says little: on
    # seeds 100 to 103 the policy at the best loss succeeded .60, .68 and .91 after 8, 16 and 40 demonstrations, the
    # last one .77, .81 and .92. (300 attempts each.) Nor does a loss of many vague frames know that reward and detector
    # live on a d that is sharp at the goal.
    network.eval().requires_grad_(False)
    network.action_head.temperature = recipe.sampling_temperature
    if looks:
        perceived = see_all(run, network, demonstrations)  # as it is seen now
    reward_model = RewardModel(network, describe("reward_model", recipe, demonstrations, network, progress["ids"]))
    # Of all demonstrations: of the few that are held out of a few, one alone would decide. (Of 10, it chose s = 18.)
    sound = torch.cat([learned_from.episodes(), checked.episodes()])
    threshold, consecutive = choose_detector(reward_model, demonstrations, perceived, sound, recipe)
    policy = Policy(network, describe("policy", recipe, demonstrations, network, progress["ids"]))
    for each in (reward_model, policy):
        each.metadata.threshold, each.metadata.consecutive = threshold, consecutive
        keep(run, each)
    summary = {
        "demonstrations": demonstrations.episodes,
        "threshold": threshold,
        "policy": policy.id,
        "reward_model": reward_model.id,
    }
    if recipe.evaluation_episodes:
        summary |= judge_policy(run, recipe, policy)
    summary["wall_s"] = round(time.monotonic() - started, 1)
    run.log("done", **summary)
    return summary


def note_data(run: RunDir, recipe: SFTRecipe, demonstrations: Demonstrations, held_out: int) -> None:
    """What is learned from, and what of the recipe does not suit it; RunError where the recipe contradicts itself."""
    if recipe.executed > recipe.chunk:
        raise RunError(f"Of a chunk of {recipe.chunk} actions {recipe.executed} can't be executed; lower that.")
    run.note(
        f"{demonstrations.episodes} demonstrations reached their goal, {len(demonstrations.instructions)} sentences; "
        f"{held_out} episodes held out."
    )
    if (wanted := fewest_bins(demonstrations.embodiment)) > recipe.action_bins:
        run.note(
            f"Joints are told where to go by {recipe.action_bins} values over each range, which lie farther apart than "
            f"one step may go: the policy will hardly move them. Train with at least {wanted} action bins.",
            level="warning",
        )


def fewest_bins(body: Embodiment) -> int:
    """So many values for each number of an action that two neighbouring absolute positions are no farther apart than
    one step may go. What is told by its change needs no more than a few.
    """
    steps = [
        (high - low) / motion.largest_change
        for (low, high), motion in zip(body.action_range, body.motions, strict=False)  # () where not declared
        if motion.kind == "position" and motion.largest_change is not None and not motion.relative
    ]
    return math.ceil(max(steps, default=0.0)) + 1


def sizes_of(recipe: SFTRecipe) -> dict[str, Any]:
    """Of the network."""
    return {name: getattr(recipe, name) for name in ("hidden", "layers", "action_bins", "bins", "chunk", "action_head")}


def new_network(run: RunDir, recipe: SFTRecipe, demonstrations: Demonstrations, vocabulary: Vocabulary) -> Network:
    """With random weights, or those of an earlier run that lie in start/."""
    pretrained = pretrained_of(run, recipe)
    try:
        network = Network(demonstrations.embodiment, vocabulary, **sizes_of(recipe), pretrained=pretrained)
    except ModelFolderError as error:
        raise RunError(str(error)) from None
    earlier = run.start / "reward_model.safetensors"
    if earlier.exists():
        begin_from(earlier, network, vocabulary)
    elif not isinstance(network.features, TableFeatures):
        vectors = onto(network.device, demonstrations.vectors(network.vectors))  # what is seen is not scaled
        network.features.scale_as(vectors)
        following, counts = chunks_of(demonstrations, recipe.chunk)
        told = network.told(vectors, onto(network.device, demonstrations.actions[following]))
        network.action_head.scale_as(told, onto(network.device, counts))
    return network


def pretrained_of(run: RunDir, recipe: SFTRecipe) -> Pretrained:
    """The models that the recipe names, each by its sum in the run's store from here on. RunError where one is missing,
    or is of another kind.
    """
    models = {}
    for kind, name in recipe.models.items():
        try:
            stores = [run.models, *stores_named()]
            model = find(name, stores) if SHA256.fullmatch(name) else add_to_store(name, run.models)
        except ModelFolderError as error:
            raise RunError(str(error)) from None
        if kind not in model.serves:
            raise RunError(f"{model.name} is a {model.kind} model ({model.architecture}) and no {kind} model.")
        models[kind] = model
    return Pretrained(models, recipe.trained, recipe.rank, bool(recipe.checkpointing))


def by_rate(network: Network, trained: list[nn.Parameter], recipe: SFTRecipe) -> list[dict[str, Any]]:
    """For an optimiser: what is ours, then what was pretrained, at its own share of the learning rate."""
    theirs = network.pretrained_parameters
    groups: list[dict[str, Any]] = [{"params": [each for each in trained if each not in theirs]}]
    if adapted := [each for each in trained if each in theirs]:
        groups.append({"params": adapted, "lr": recipe.learning_rate * recipe.pretrained_rate})
    return groups


def let_learn(network: Network, trained: list[nn.Parameter]) -> None:
    """These, and nothing else of it."""
    network.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def begin_from(path: Path, network: Network, vocabulary: Vocabulary) -> None:
    """An earlier run's weights as the initial ones; the objects may be others, and words that are new keep their own.

    Of a run's two checkpoints the reward model is the one with the last weights of both heads.
    """
    older, metadata = load_checkpoint(path)
    weights, mine = older.state_dict(), network.state_dict()
    name, own = "words.sentence.embedding.weight", {}
    if name in mine and name in weights:
        own, old_vocabulary = {name: mine[name].clone()}, Vocabulary(metadata.vocabulary)
        known = [word for word in vocabulary.words if word in set(old_vocabulary.words)]
        if known:
            own[name][vocabulary.encode(known)[:, 0]] = weights[name][old_vocabulary.encode(known)[:, 0]]
    try:
        network.load_state_dict(weights | own)
    except RuntimeError as error:
        raise RunError(f"{path} can't be the beginning of this run: {error}") from None


def learn_perception(
    run: RunDir,
    recipe: SFTRecipe,
    network: Network,
    demonstrations: Demonstrations,
    training: Tensor,
    generator: torch.Generator,
) -> bool:
    """Train the network's perception alone. False: cancelled."""
    if not isinstance(network.perception, perception.Perception):
        raise TypeError("Only what is seen from straight above is learned before all else.")
    countdown = Countdown(run, "perception", perception.ROUNDS * recipe.perception_steps)
    learnt_from = dataclasses.replace(
        demonstrations, first=demonstrations.first[training], last=demonstrations.last[training]
    )

    def step_done(step: int, losses: dict[str, Any]) -> bool:
        run.wait_while_paused()
        countdown.tell(step)
        if step % perception.SAVE_EVERY == 0:
            run.log_loss(step, **losses)
        if run.cancelled:
            run.note("canceled", level="warning")
        return not run.cancelled

    state = run.path / "state-perception.safetensors"
    return perception.train_perception(
        network.perception,
        learnt_from,
        recipe.perception_steps,
        generator,
        step_done,
        load=partial(load_state, state),
        save=(lambda *_, **networks: None) if run.quiet else partial(save_state, state),
    )


def see_all(run: RunDir, network: Network, demonstrations: Demonstrations) -> Rows:
    """What the network's frozen part makes of all frames, in memory or in a file of the run. [F, P] Where words are
    grounded a row is a few numbers of objects, which are looked back on as a whole.
    """
    if network.grounded:
        return torch.cat([*perceive_all(network, demonstrations)])
    return kept(perceive_all(network, demonstrations), len(demonstrations.steps_to_go), run.path)


@torch.no_grad()
def perceive_all(network: Network, demonstrations: Demonstrations) -> Iterator[Tensor]:
    """The same, part by part, on the processor. [n, P] each"""
    size = sum(feature.size for feature in demonstrations.embodiment.observation.values())  # a byte each, or 4
    at_once = max(1, min(LOOK_AT_ONCE, BYTES_AT_ONCE // size))
    for rows in torch.arange(len(demonstrations.steps_to_go)).split(at_once):
        yield network.perceive(frames_on(network.device, demonstrations, rows)).cpu()


def frames_on(device: torch.device, demonstrations: Demonstrations, frames: Tensor) -> dict[str, Tensor]:
    """What was observed in some frames. [n] -> [n, ...] by key"""
    return {key: onto(device, each[frames]) for key, each in demonstrations.observations.items()}


def ground(
    run: RunDir,
    recipe: SFTRecipe,
    network: Network,
    demonstrations: Demonstrations,
    perceived: Rows,
    training: Tensor,
    validation: Tensor,
    vocabulary: Vocabulary,
    generator: torch.Generator,
) -> bool:
    """Train the words' part alone on which object moved and where it came to rest. False: cancelled."""
    grounding = network.words
    if not isinstance(grounding, Grounding):
        raise TypeError("Words are grounded in objects, and this body has none.")
    body = demonstrations.embodiment
    # Perceived as they are told of a body whose objects are tracked: its own numbers, then each object's.
    own, features = (body.state_names, body.object_features) if body.tracked else (STATE_NAMES, OBJECT_FEATURES)
    assert isinstance(perceived, Tensor)  # a row is a few numbers, where objects are told or found
    tracked = perceived[:, len(own) :].unflatten(1, (len(body.objects), -1))
    seen = look_back(demonstrations, tracked, features, guessed=not body.tracked)
    if seen.clear[training].any():
        training, validation = training[seen.clear[training]], validation[seen.clear[validation]]
    else:
        run.note("In no demonstration all objects can be made out; more of them would help.", level="warning")
    sentence = demonstrations.instruction[demonstrations.first]  # [E]
    words = vocabulary.encode(demonstrations.instructions)  # [I, length]
    mentioned = grounding.named(words)[sentence]  # [E, K]

    def loss(episodes: Tensor, noisy: bool) -> Tensor:
        text, names = words[sentence[episodes]], None
        if noisy:
            text, names = grounding.renamed(text, generator)
            text, names = grounding.among(among_strangers(text, generator), generator), onto(network.device, names)
        happened = (seen.moved, seen.resting, seen.others, seen.present, mentioned)
        return Grounding.loss(
            grounding(onto(network.device, text), names), *(onto(network.device, each[episodes]) for each in happened)
        )

    parameters = network.trained_in("grounding")
    optimiser = torch.optim.AdamW(by_rate(network, parameters, recipe), lr=GROUNDING_RATE, weight_decay=1e-2)
    state = run.path / "state-grounding.safetensors"
    progress = load_state(state, optimiser, generator, words=grounding) or {"step": 0}
    schedule = anneal(optimiser, recipe.grounding_steps, progress["step"])
    countdown = Countdown(run, "grounding", recipe.grounding_steps, progress["step"])
    for step in range(progress["step"] + 1, recipe.grounding_steps + 1):
        run.wait_while_paused()
        learnt_from = sample(training, 128, generator)
        value = loss(learnt_from, noisy=True)
        if not descend(value, optimiser, parameters):
            groups = [(int(each), each[None]) for each in learnt_from.unique()]
            bad = unlearnable(groups, lambda episode: loss(episode, noisy=False), optimiser, parameters)
            training = some_of(training[~torch.isin(training, named(run, demonstrations, bad))])
        schedule.step()
        countdown.tell(step)
        due = step % SAVE_EVERY == 0 or step == recipe.grounding_steps
        if due:
            with torch.no_grad():
                losses = {"grounding": float(value.detach())}
                if len(validation):
                    losses["validation_grounding"] = float(loss(validation, noisy=False))
                run.log_loss(step, **losses)
        if (due or run.cancelled) and not run.quiet:
            save_state(state, {"step": step}, optimiser, generator, words=grounding)
        if run.cancelled:
            run.note("canceled", level="warning")
            return False
    return True


def among_strangers(words: Tensor, generator: torch.Generator) -> Tensor:
    """Sentences with words hidden, and unknown words before and behind. [n, length] -> [n, length + 2 STRANGERS]"""
    n, length = words.shape
    hidden = (torch.rand(words.shape, generator=generator) < WORD_DROPOUT) & (words > UNKNOWN)
    before, behind = torch.randint(STRANGERS + 1, (2, n, 1), generator=generator)
    end = before + (words != PADDING).sum(1, keepdim=True)
    at = torch.arange(length + 2 * STRANGERS)[None] - before  # [n, length + 2 STRANGERS] place in the old sentence
    moved = words.masked_fill(hidden, UNKNOWN).gather(1, at.clamp(0, length - 1))
    moved = moved.masked_fill((at < 0) | (at + before >= end), UNKNOWN)
    return moved.masked_fill(at + before >= end + behind, PADDING)


def chunks_of(demonstrations: Demonstrations, size: int) -> tuple[Tensor, Tensor]:
    """The frames whose actions follow each other from each frame on, and how many of them are worth copying: to the end
    of the episode at most, and not beyond an action of the policy. [F, size], [F]
    """
    frames = len(demonstrations.imitable)
    following = (torch.arange(frames)[:, None] + torch.arange(size)).clamp(max=frames - 1)
    # At an episode's last frame nobody acts, so none goes on into the next episode.
    return following, demonstrations.imitable[following].long().cumprod(1).sum(1)


@dataclass
class Drawn:
    """What an update of a network that learns to see looks at."""

    frames: Tensor  # [n]
    shifts: list[Tensor] | None  # by which its pictures are moved, as of Network.random_shifts


class Losses:
    """Of both heads, over recorded frames: -log p(a_t | o_t, g) for the actions, -log p(t' - t | o_t, g) for the steps
    to go, t' being the end of the demonstration.
    """

    def __init__(
        self,
        network: Network,
        demonstrations: Demonstrations,
        perceived: Rows,
        words: Tensor,
        recipe: SFTRecipe,
        generator: torch.Generator,
    ):
        self.network, self.demonstrations, self.words = network, demonstrations, words  # [I, ...] by network.encode
        self.perceived = perceived  # [F, P]; of a network that learns to see, its vectors alone
        self.recipe, self.generator = recipe, generator
        with torch.no_grad():
            self.goals = network.goal(words)  # [I, goal size]; fixed from here on if grounded
        self.chunks, self.counts = chunks_of(demonstrations, network.action_head.chunk)
        self.bins = steps_to_go.bin_of_steps(demonstrations.steps_to_go, recipe.bins, recipe.bin_width)  # [F]
        self.beginning = self.bins[demonstrations.first].median()
        if isinstance(network.features, ArmFeatures):
            self.left_within = self._left_within(network.features)
        self.read: Tensor | None = None  # [F, width] of a vision-language model that stays as it is
        if isinstance(network.features, JointFeatures) and not network.features.model.learns:
            self.read = self._read_all(network.features)

    @torch.no_grad()
    def _read_all(self, features: JointFeatures) -> Tensor:
        rows = torch.arange(len(self.perceived)).split(READ_AT_ONCE)
        goals = self.demonstrations.instruction
        return torch.cat([features.read(self._of(self.perceived, part), self.goals[goals[part]]) for part in rows])

    def _of(self, rows: Rows, frames: Tensor) -> Tensor:
        """Some of these rows, where the network computes. [F, ...], [n] -> [n, ...]"""
        return onto(self.network.device, rows[frames])

    def _seen(
        self, frames: Tensor, from_any_side: bool, perceived: Tensor | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The hidden layer of these frames, from a side drawn for each if so wanted, and how their actions look from
        there. [n], and what is perceived there, if that is known -> [n, hidden]
        """
        network, features = self.network, self.network.features
        rows = self._of(self.demonstrations.instruction, frames)
        if perceived is None:
            perceived = (
                network.perceive(frames_on(network.device, self.demonstrations, frames))
                if network.learns_to_see
                else self._of(self.perceived, frames)
            )
        goal = self.goals[rows] if network.grounded else network.goal(self.words[rows])
        if isinstance(features, PretrainedVisionFeatures) and not network.learns_to_see and from_any_side:
            perceived = features.moved(perceived, self.generator)
        if self.read is not None and isinstance(features, JointFeatures):
            read = self.read[frames.to(network.device)]
            return network.trunk(features.beside(perceived, read)), lambda actions: actions
        # A table looks alike from every side, so that one demonstration stands for all its turned and mirrored copies.
        if isinstance(features, TableFeatures) and from_any_side:
            frame = onto(network.device, random_frames(len(frames), self.generator))
            return network.hidden(perceived, goal, frame), partial(turned, frame)
        if isinstance(features, ArmFeatures) and from_any_side:
            angle = features.random_turns(len(frames), self.generator)
            if angle is not None:
                angle = onto(network.device, angle)
                hidden = network.hidden(*features.turn(perceived, goal, angle))
                return hidden, partial(features.turn_actions, angle=angle)
        return network.hidden(perceived, goal), lambda actions: actions

    def _actions(self, frames: Tensor) -> Tensor:
        """The chunks from these frames on, as the action head tells them. [n] -> [n, K, A]"""
        actions = self._of(self.demonstrations.actions, self.chunks[frames])
        # What relative numbers are told from is read for them alone: a row may be a map of features.
        return self.network.told(self._of(self.perceived, frames), actions) if self.network.relative else actions

    def cloning(self, frames: Tensor, from_any_side: bool = False) -> Tensor:
        """-log p of the recorded actions, the mean over some frames. [n] -> []"""
        hidden, as_seen = self._seen(frames, from_any_side)
        actions = as_seen(self._actions(frames))
        head = self.network.action_head
        likely = head.imitated if from_any_side else head.log_probability
        values = likely(hidden, head.tokens(actions), self._of(self.counts, frames))
        return -(self._weighed(values, frames) if from_any_side else values).mean()

    def _weighed(self, values: Tensor, frames: Tensor) -> Tensor:
        """Of some frames, each as much as its episode counts: what people corrected may count for more. Where all count
        the same these are the values themselves, to the bit. [n] -> [n]
        """
        weights = self.demonstrations.weights
        return values if weights is None else values * self._of(weights, frames)

    def draw(self, every: Tensor, shared_by: int = 1) -> Drawn:
        """What a network that learns to see looks at in an update, of these frames. Known without looking. [F2]"""
        frames = sample(every, self.recipe.batch // 2 // shared_by, self.generator)
        return Drawn(frames, self.network.random_shifts(len(frames), self.generator))

    def observed(self, drawn: Drawn) -> dict[str, Tensor]:
        """What was observed there, ready to be brought to the device. Any thread may ask. [n, ...] by key"""
        recorded = self.demonstrations.observations
        return {key: ready_for(self.network.device, each[drawn.frames]) for key, each in recorded.items()}

    def both(self, drawn: Drawn, observed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The two of the same frames, which are looked at once: pictures are what takes the time. -> [], []"""
        device, frames = self.network.device, drawn.frames
        shifts = None if drawn.shifts is None else [onto(device, each) for each in drawn.shifts]
        perceived = self.network.perceive({key: onto(device, each) for key, each in observed.items()}, shifts)
        hidden, _ = self._seen(frames, from_any_side=True, perceived=perceived)
        head, counts = self.network.action_head, self._of(self.counts, frames)
        likely = head.imitated(hidden, head.tokens(self._actions(frames)), counts)
        likely = self._weighed(likely, frames)
        return -likely.sum() / (counts > 0).sum().clamp(min=1), self._steps_loss(hidden, frames)

    def _steps_loss(self, hidden: Tensor, frames: Tensor) -> Tensor:
        predicted, bins = self.network.steps_to_go_head(hidden), self._of(self.bins, frames)
        if self.demonstrations.weights is None:
            return F.cross_entropy(predicted, bins)
        return self._weighed(F.cross_entropy(predicted, bins, reduction="none"), frames).mean()

    def steps_to_go(self, frames: Tensor, from_any_side: bool = False) -> Tensor:
        """-log p of the steps that were left, the mean over some frames. [n] -> []"""
        hidden, _ = self._seen(frames, from_any_side)
        if from_any_side:
            loss = self._steps_loss(hidden, frames)
        else:
            loss = F.cross_entropy(self.network.steps_to_go_head(hidden), self._of(self.bins, frames))
        if from_any_side and isinstance(self.network.features, ArmFeatures):
            loss = loss + self._unbrought(frames, self.network.features)
        return loss

    def _left_within(self, features: ArmFeatures) -> Tensor:
        """How far from where an object shall go demonstrations leave it at most, and CLEARLY more, by the sentence: a
        bin takes it within its walls, out of one it may lie anywhere. Metres [I]
        """
        ends, rows = self.demonstrations.last, self.demonstrations.instruction[self.demonstrations.last]
        rows = rows.to(self.network.device)
        off = features.off(self._of(self.perceived, ends), self.goals[rows])  # [E]
        alike = torch.cdist(self.goals[:, -2:], self.goals[rows, -2:]) < SAME_PLACE  # [I, E]
        return torch.where(alike, off, 0).max(1).values + CLEARLY

    def _unbrought(self, frames: Tensor, features: ArmFeatures) -> Tensor:
        """The same for scenes in which what is meant clearly lies elsewhere than where it shall go, whatever the hand
        does: they are as far from their goal as a demonstration is at its beginning. Demonstrations all go well, so
        without this a hand above a bin is near the goal to the reward model, whether or not it brought anything there.

        A third are recorded scenes under another sentence; a third are scenes in which the object lies where it was, or
        on the way, while the hand has gone on: left behind, or lost; a third are ends at which the hand let it go
        somewhere else. [n] -> []
        """
        others, left, let_go = frames.tensor_split(3)
        episodes = self.demonstrations.episodes_of(torch.cat([left, let_go]))
        begun = self.demonstrations.first[episodes]
        share = torch.rand(len(left), generator=self.generator)
        earlier = begun[: len(left)] + (share * (left - begun[: len(left)])).long()
        late = (LATE * torch.rand(len(let_go), generator=self.generator)).long()
        let_go = torch.maximum(self.demonstrations.last[episodes[len(left) :]] - late, begun[len(left) :])
        rows = torch.cat(
            [
                torch.randint(len(self.goals), (len(others),), generator=self.generator),
                self.demonstrations.instruction[torch.cat([left, let_go])],
            ]
        )
        device = self.network.device
        rows = onto(device, rows)
        goals = self.goals[rows]
        of_left, of_let_go = goals[len(others) :].split([len(left), len(let_go)])
        of_begun = self._of(self.perceived, begun).split([len(left), len(let_go)])
        ways = onto(device, ASIDE * (2 * torch.rand(len(let_go), 2, generator=self.generator) - 1))
        of_others, now_left, then_left, now_let_go = (
            self._of(self.perceived, part) for part in (others, left, earlier, let_go)
        )
        perceived = torch.cat(
            [
                of_others,
                features.left_behind(now_left, then_left, of_begun[0], of_left),
                features.let_go_elsewhere(now_let_go, of_begun[1], of_let_go, ways),
            ]
        )
        still_open = features.off(perceived, goals) > self.left_within[rows]
        if not still_open.any():
            return torch.zeros((), device=device)
        perceived, goals = perceived[still_open], goals[still_open]
        angle = features.random_turns(len(goals), self.generator)
        if angle is not None:
            perceived, goals = features.turn(perceived, goals, onto(device, angle))
        hidden = self.network.hidden(perceived, goals)
        return F.cross_entropy(self.network.steps_to_go_head(hidden), onto(device, self.beginning).expand(len(hidden)))

    def of_batch(self, imitable: Tensor, every: Tensor, shared_by: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Of a batch drawn from these frames: cloning on one half, steps-to-go on the other, and which frames they are.
        [F1], [F2] -> [], [], [batch]; where pictures are learned from [batch / 2]. Of several processes that share the
        batch it is one's part.
        """
        half = self.recipe.batch // 2
        if self.network.learns_to_see:
            drawn = self.draw(every, shared_by)
            return *self.both(drawn, self.observed(drawn)), drawn.frames
        cloned = sample(imitable, half // shared_by, self.generator)
        bc = self.cloning(cloned, from_any_side=True)
        counted = sample(every, (self.recipe.batch - half) // shared_by, self.generator)
        return bc, self.steps_to_go(counted, from_any_side=True), torch.cat([cloned, counted])

    @torch.no_grad()
    def validation(self, checked: "Frames") -> tuple[float, float]:
        """Both losses, over frames that nothing is learned from. Pictures are looked at a few at a time."""
        return self._mean(self.cloning, checked.imitable), self._mean(self.steps_to_go, checked.all)

    def _mean(self, loss: Callable[[Tensor], Tensor], frames: Tensor) -> float:
        if not self.network.learns_to_see or len(frames) <= READ_AT_ONCE:
            return float(loss(frames))
        return sum(float(loss(part)) * len(part) for part in frames.split(READ_AT_ONCE)) / len(frames)


@dataclass
class Frames:
    """Recorded frames, and those of them whose action may be imitated."""

    demonstrations: Demonstrations
    all: Tensor  # [n]
    imitable: Tensor  # [m]

    @classmethod
    def of(cls, demonstrations: Demonstrations, episodes: Tensor) -> "Frames":
        """All frames of some episodes."""
        frames = demonstrations.frames_of(episodes)
        return cls(demonstrations, frames, frames[demonstrations.imitable[frames]])

    def episodes(self) -> Tensor:
        """Whose frames these are."""
        return self.demonstrations.episodes_of(self.all).unique()

    def leave_out(self, bad: Tensor) -> None:
        """Some episodes."""
        self.all, self.imitable = (
            some_of(frames[~torch.isin(self.demonstrations.episodes_of(frames), bad)])
            for frames in (self.all, self.imitable)
        )


class Batches:
    """The batches of the updates from `first` to `last`. Where pictures are learned from, those of the next ones are
    read while one is learned from.
    """

    def __init__(self, losses: Losses, learned_from: Frames, processes: Processes, first: int, last: int):
        self.losses, self.learned_from, self.processes = losses, learned_from, processes
        looks = losses.network.learns_to_see
        self.ahead = ReadAhead(losses.generator, self._draw, losses.observed, first, last) if looks else None

    def _draw(self, step: int) -> Drawn:
        self.processes.draw_apart(self.losses.generator, self.losses.recipe.seed, step)
        return self.losses.draw(self.learned_from.all, self.processes.size)

    def of(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the next update, as of Losses.of_batch."""
        if self.ahead is not None:
            drawn, observed = self.ahead.next()
            return *self.losses.both(drawn, observed), drawn.frames
        self.processes.draw_apart(self.losses.generator, self.losses.recipe.seed, step)
        return self.losses.of_batch(self.learned_from.imitable, self.learned_from.all, self.processes.size)

    def leave_out(self, bad: Tensor) -> None:
        """Some episodes, from here on."""
        self.learned_from.leave_out(bad)
        if self.ahead is not None:
            self.ahead.forget()

    def close(self) -> None:
        """End what reads."""
        if self.ahead is not None:
            self.ahead.close()


def train(
    run: RunDir,
    losses: Losses,
    optimiser: torch.optim.Optimizer,
    progress: dict[str, Any],
    learned_from: Frames,
    checked: Frames,
    processes: Processes = ALONE,
) -> bool:
    """Cloning on one half of a batch, steps-to-go on the other, of each process' share. False: cancelled. Episodes that
    teach what is no number are left out of both sets of frames.
    """
    recipe, generator, network = losses.recipe, losses.generator, losses.network
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    half = recipe.batch // 2
    updates = min(recipe.steps, max(1, round(recipe.passes * len(learned_from.all) / half)))
    if updates < recipe.steps:
        run.note(f"{updates} updates instead of {recipe.steps}: each recorded step is used {recipe.passes} times.")

    def bad_episodes(frames: Tensor) -> Tensor:
        """Those that make the loss no number; each is named, and left out from here on."""
        episode_of = losses.demonstrations.episodes_of(frames)
        groups = [(int(each), frames[episode_of == each]) for each in episode_of.unique()]
        bad = unlearnable(groups, lambda rows: losses.cloning(rows) + losses.steps_to_go(rows), optimiser, trained)
        bad = processes.union(bad, len(losses.demonstrations.first))
        return named(run, losses.demonstrations, bad)

    schedule = anneal(optimiser, updates, progress["step"])
    countdown = Countdown(run, "training", updates, progress["step"])
    batches = Batches(losses, learned_from, processes, progress["step"] + 1, updates)
    with closing(batches):
        for step in range(progress["step"] + 1, updates + 1):
            run.wait_while_paused()
            bc, stg, frames = batches.of(step)
            if not descend(bc + stg, optimiser, trained, processes=processes):
                batches.leave_out(bad_episodes(frames))
            schedule.step()
            countdown.tell(step)
            due, cancelled = step % recipe.validate_every == 0 or step == updates, processes.any(run.cancelled)
            if due:
                bc, stg = processes.mean(torch.stack([bc.detach(), stg.detach()]))
                validation_bc, validation_stg = losses.validation(checked)
                if not math.isfinite(validation_bc + validation_stg):
                    checked.leave_out(bad_episodes(checked.all))
                    validation_bc, validation_stg = losses.validation(checked)
                run.log_loss(
                    step,
                    bc=float(bc),
                    steps_to_go=float(stg),
                    validation_bc=validation_bc,
                    validation_steps_to_go=validation_stg,
                )
            if due or cancelled:
                progress["step"] = step
                processes.check_same(network)
                if not run.quiet:
                    save_state(run.path / STATE, progress, optimiser, generator, network=network)
            if cancelled:
                run.note("canceled", level="warning")
                return False
    return True


def sample(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of them at random, each as likely as any other, and perhaps twice. [n] -> [count]"""
    return rows[torch.randint(len(rows), (count,), generator=generator)]


def named(run: RunDir, demonstrations: Demonstrations, bad: list[int]) -> Tensor:
    """Say which episodes made a loss no number, and are left out from here on."""
    for each in bad:
        run.note(f"Episode {demonstrations.uuids[each]} is left out: what it teaches is no number.", level="warning")
    if not bad:
        raise RunError("The loss is no number, though each episode's alone is one; lower the learning rate.")
    return torch.tensor(bad)


def some_of(left: Tensor) -> Tensor:
    """The same; RunError where nothing is left."""
    if not len(left):
        raise RunError("What every demonstration teaches is no number; look at the dataset's observations and actions.")
    return left


def describe(
    role: str, recipe: SFTRecipe, demonstrations: Demonstrations, network: Network, ids: dict[str, str]
) -> CheckpointMetadata:
    """One of the two checkpoints, with a detector that finds everything: the true one is chosen by it."""
    return CheckpointMetadata(
        role=role,
        version=0,
        embodiment=demonstrations.embodiment.to_json(),
        vocabulary=network.vocabulary.words,
        tasks=demonstrations.tasks,
        sizes=sizes_of(recipe),
        bin_width=recipe.bin_width,
        threshold=math.inf,
        consecutive=1,
        executed=recipe.executed,
        temperature=recipe.sampling_temperature,
        recipe=recipe.to_json(),
        pretrained=network.pretrained.to_json(),
        id=ids[role],
    )


def choose_detector(
    reward_model: RewardModel, demonstrations: Demonstrations, perceived: Rows, episodes: Tensor, recipe: SFTRecipe
) -> tuple[float, int]:
    """s and k of the success detector. RunError where it could not tell success."""
    frames = [demonstrations.frames_of(episode[None]) for episode in episodes]
    d = [d_of(reward_model, demonstrations, perceived, each) for each in frames]
    threshold, consecutive = steps_to_go.choose_detector(
        d, recipe.consecutive, recipe.threshold_margin, recipe.premature_share
    )
    if recipe.largest_threshold:
        refuse_blind_detector(d, demonstrations, threshold, consecutive, recipe)
    return threshold, consecutive


def d_of(reward_model: RewardModel, demonstrations: Demonstrations, perceived: Rows, frames: Tensor) -> np.ndarray:
    """d at some frames. [n] -> [n]"""
    texts = [demonstrations.instructions[i] for i in demonstrations.instruction[frames].tolist()]
    return reward_model.judge(onto(reward_model.network.device, perceived[frames]), texts)[0]


def refuse_blind_detector(
    d: list[np.ndarray], demonstrations: Demonstrations, threshold: float, consecutive: int, recipe: SFTRecipe
) -> None:
    """RunError where the detector would find success far from the goal: practice with it teaches nothing, and its
    stations would call one step after another a success.
    """
    median = float((demonstrations.last - demonstrations.first).float().median())
    mend = (
        "The predicted steps-to-go are too vague. Train for more updates or on more demonstrations, and let bins x "
        f"bin width ({recipe.bins * recipe.bin_width:g} steps) reach over a demonstration (median {median:g} steps)."
    )
    if threshold > recipe.largest_threshold * median:
        raise RunError(
            f"The success detector can't tell success: its threshold came out as {threshold:.1f} steps, more than "
            f"{recipe.largest_threshold:.0%} of the median demonstration. {mend}"
        )
    # Those that are so short that their goal is near at once tell nothing.
    first = max(2, consecutive)
    long = [each for each in d if len(each) - 1 - first > recipe.threshold_margin]
    fired = [steps_to_go.first_detection(each, threshold, consecutive) for each in long]
    at_once = sum(frame is not None and frame <= first for frame in fired)
    if at_once > recipe.premature_share * len(long):
        raise RunError(
            f"The success detector can't tell success: in {at_once} of {len(long)} demonstrations it fires "
            f"within the first {first} steps (threshold {threshold:.1f}). {mend}"
        )


def keep(run: RunDir, loaded: FrozenCheckpoint) -> None:
    """Write the checkpoint's file and say so in the metrics."""
    metadata = loaded.metadata
    path = run.checkpoints / f"{metadata.role}.safetensors"
    if path.exists() and metadata.id in [line["id"] for line in run.lines("checkpoint")]:
        return  # an earlier process kept it
    save_checkpoint(path, loaded.network, metadata)
    run.log(
        "checkpoint",
        id=metadata.id,
        role=metadata.role,
        version=0,
        path=str(path.relative_to(run.path)),
        sha256=sha256_of(path),
        threshold=metadata.threshold,
        consecutive=metadata.consecutive,
        publish=False,
    )


def judge_policy(run: RunDir, recipe: SFTRecipe, policy: Policy) -> dict[str, Any]:
    """True success in simulation, once: what the summary says of it."""
    if not run.lines("evaluation"):
        countdown = Countdown(run, "evaluation", recipe.evaluation_episodes)
        result = evaluate_for(
            run,
            policy,
            policy.metadata.tasks,
            recipe.evaluation_episodes,
            recipe.evaluation_seed,
            on_progress=countdown.tell,
        )
        if result is not None:
            run.log("evaluation", version=0, practice_episodes=0, sampled=True, **result.to_json())
    judged = run.lines("evaluation")
    return {"success": judged[-1]["successes"] / judged[-1]["n"]} if judged else {}
