"""Stage 1, supervised fine-tuning: demonstrations -> a policy and a reward model.

    read the demonstrations, hold some episodes out; begin with an earlier run's weights if they lie in start/
    sight       where observations are pictures: find in them what the body's features name; then frozen
    grounding   tie the words to the objects, alone, with labels in hindsight; then frozen
    training    each batch half behavioural cloning, half steps-to-go, on one network
    keep        the policy, the reward model and its detector, s and k
    evaluate    the policy's true success: the level that practice starts from

Read from top to bottom. A restart in the same directory goes on at the last state that was saved, in every phase: at a
validation, or SAVE_EVERY updates of sight or grounding.
"""

import dataclasses
import math
import time
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training import sight, steps_to_go
from training.checkpoints import (
    Description,
    Loaded,
    Policy,
    RewardModel,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from training.datasets import Demonstrations, look_back, read_demonstrations, split
from training.descent import descend, unlearnable
from training.evaluation import evaluate_for
from training.networks import Grounding, Network, random_frames, turned
from training.recipes import SFTRecipe, warm_up_and_anneal
from training.run_dir import Countdown, RunDir, RunError, sha256_of
from training.vocabulary import PADDING, UNKNOWN, Vocabulary

# A word is hidden from the grounding this often, and up to so many unknown ones stand before and behind a sentence, so
# that a verb or a wording that was never seen upsets it less. Without strangers 9 % of the held-out wordings were
# misunderstood, with them 5 %.
WORD_DROPOUT = 0.3
STRANGERS = 3

SAVE_EVERY = 50  # updates of grounding; sight.py has the same of its own


def sft(run: RunDir) -> dict:
    """Runs until done or cancelled; returns the summary (empty if cancelled)."""
    recipe: SFTRecipe = run.recipe("sft")
    if finished := run.summary():
        return finished
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)  # initial weights
    generator = torch.Generator().manual_seed(recipe.seed)  # everything drawn later

    # --- the data
    demonstrations = read_demonstrations(sorted(run.data.glob("*.safetensors")))
    training, validation = split(demonstrations, recipe.validation_fraction, generator)
    run.note(
        f"{demonstrations.episodes} demonstrations reached their goal, {len(demonstrations.instructions)} sentences; "
        f"{len(validation)} episodes held out."
    )
    vocabulary = Vocabulary.of(demonstrations.instructions, demonstrations.embodiment)
    words = vocabulary.encode(demonstrations.instructions)  # [I, length]
    sizes = {
        "hidden": recipe.hidden,
        "layers": recipe.layers,
        "action_bins": recipe.action_bins,
        "bins": recipe.bins,
    }
    network = Network(demonstrations.embodiment, vocabulary, **sizes)
    grounded = bool(demonstrations.embodiment.objects)
    sees = demonstrations.embodiment.picture is not None
    earlier = run.start / "reward_model.safetensors"
    if earlier.exists():
        begin_from(earlier, network, vocabulary)
    elif not grounded:
        network.features.scale_as(demonstrations.observations)
    frozen = ("sight.", "words.") if grounded else ("sight.",)
    trained = [parameter for name, parameter in network.named_parameters() if not name.startswith(frozen)]
    optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    state = run.path / "state.safetensors"
    progress = load_state(state, optimiser, generator, network=network)
    if progress is None and sees:
        # --- sight
        if not see(run, recipe, network, demonstrations, training, generator):
            return {}
    if sees:
        demonstrations = dataclasses.replace(demonstrations, observations=seen_by(network, demonstrations))
    if progress is None:
        # --- grounding
        if grounded:
            if not ground(run, recipe, network, demonstrations, training, validation, words, generator):
                return {}
        progress = {"step": 0}
    else:
        run.note(f"Going on at update {progress['step']}.")
    # Known before they are needed, so that a restart while they are kept or evaluated names the same checkpoints.
    progress.setdefault("ids", {role: str(uuid.uuid4()) for role in ("policy", "reward_model")})
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    with torch.no_grad():
        goals = network.goal(words)  # [I, goal size]; fixed from here on if grounded

    # --- training: -log p(a_t | o_t, g) on one half of a batch, -log p(t' - t | o_t, g) on the other
    bins = steps_to_go.bin_of_steps(demonstrations.steps_to_go, recipe.bins, recipe.bin_width)  # [F]

    def hidden_and_frame(frames: Tensor, from_any_side: bool) -> tuple[Tensor, Tensor | None]:
        rows = demonstrations.instruction[frames]
        goal = goals[rows] if grounded else network.goal(words[rows])
        # A table looks alike from every side, so that one demonstration stands for all its turned and mirrored copies.
        frame = random_frames(len(frames), generator) if grounded and from_any_side else None
        return network.hidden(demonstrations.observations[frames], goal, frame), frame

    def cloning_loss(frames: Tensor, from_any_side: bool = False) -> Tensor:
        hidden, frame = hidden_and_frame(frames, from_any_side)
        actions = demonstrations.actions[frames]
        if frame is not None:
            actions = turned(frame, actions)
        return -network.action_head.log_probability(hidden, network.action_head.tokens(actions)).mean()

    def steps_to_go_loss(frames: Tensor, from_any_side: bool = False) -> Tensor:
        hidden, _ = hidden_and_frame(frames, from_any_side)
        return F.cross_entropy(network.steps_to_go_head(hidden), bins[frames])

    @torch.no_grad()
    def validation_losses(frames: Tensor, imitable: Tensor) -> tuple[float, float]:
        return float(cloning_loss(imitable)), float(steps_to_go_loss(frames))

    def bad_episodes(frames: Tensor) -> Tensor:
        """Those that make the loss no number; each is named, and left out from here on."""
        episode_of = demonstrations.episodes_of(frames)
        groups = [(int(each), frames[episode_of == each]) for each in episode_of.unique()]
        bad = unlearnable(groups, lambda rows: cloning_loss(rows) + steps_to_go_loss(rows), optimiser, trained)
        return named(run, demonstrations, bad)

    def without(bad: Tensor, frames: Tensor) -> Tensor:
        return some_of(frames[~torch.isin(demonstrations.episodes_of(frames), bad)])

    frames, checked = demonstrations.frames_of(training), demonstrations.frames_of(validation)
    imitable, checked_imitable = frames[demonstrations.imitable[frames]], checked[demonstrations.imitable[checked]]
    half = recipe.batch // 2
    updates = min(recipe.steps, max(1, round(recipe.passes * len(demonstrations.frames_of(training)) / half)))
    if updates < recipe.steps:
        run.note(f"{updates} updates instead of {recipe.steps}: each recorded step is used {recipe.passes} times.")
    countdown = Countdown(run, "training", updates, progress["step"])
    for step in range(progress["step"] + 1, updates + 1):
        run.wait_while_paused()
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * warm_up_and_anneal(step, updates)
        cloned = draw(imitable, half, generator)
        bc = cloning_loss(cloned, from_any_side=True)
        counted = draw(frames, recipe.batch - half, generator)
        stg = steps_to_go_loss(counted, from_any_side=True)
        if not descend(bc + stg, optimiser, trained):
            bad = bad_episodes(torch.cat([cloned, counted]))
            frames, imitable = without(bad, frames), without(bad, imitable)
        countdown.tell(step)
        due = step % recipe.validate_every == 0 or step == updates
        if due:
            validation_bc, validation_stg = validation_losses(checked, checked_imitable)
            if not math.isfinite(validation_bc + validation_stg):
                bad = bad_episodes(checked)
                checked, checked_imitable = without(bad, checked), without(bad, checked_imitable)
                validation_bc, validation_stg = validation_losses(checked, checked_imitable)
            run.log_loss(
                step,
                bc=float(bc.detach()),
                steps_to_go=float(stg.detach()),
                validation_bc=validation_bc,
                validation_steps_to_go=validation_stg,
            )
        if due or run.cancelled:
            progress["step"] = step
            save_state(state, progress, optimiser, generator, network=network)
        if run.cancelled:
            run.note("canceled", level="warning")
            return {}

    # --- keep: both as they are after the last, fully annealed update, and not each at its best validation loss as in
    # the paper. With turned copies that loss falls to the end; and of few demonstrations the one that is held out says
    # little: on seeds 100 to 103 the policy at the best loss succeeded .60, .68 and .91 after 8, 16 and 40
    # demonstrations, the last one .77, .81 and .92. (300 attempts each.) Nor does a loss of many vague frames know
    # that reward and detector live on a d that is sharp at the goal.
    shared = {
        "version": 0,
        "embodiment": demonstrations.embodiment.to_json(),
        "vocabulary": vocabulary.words,
        "tasks": demonstrations.tasks,
        "sizes": sizes,
        "bin_width": recipe.bin_width,
        "recipe": recipe.to_json(),
    }
    network.eval().requires_grad_(False)
    judging = Description(
        role="reward_model", id=progress["ids"]["reward_model"], threshold=math.inf, consecutive=1, **shared
    )
    reward_model = RewardModel(network, judging)
    # Of all demonstrations: of the few that are held out of a few, one alone would decide. (Of 10, it chose s = 18.)
    sound = torch.cat([demonstrations.episodes_of(frames).unique(), demonstrations.episodes_of(checked).unique()])
    d = [d_of(reward_model, demonstrations, demonstrations.frames_of(episode[None])) for episode in sound]
    threshold, consecutive = steps_to_go.choose_detector(
        d, recipe.consecutive, recipe.threshold_margin, recipe.premature_share
    )
    if recipe.largest_threshold:
        refuse_blind_detector(d, demonstrations, threshold, consecutive, recipe)
    reward_model.description.threshold, reward_model.description.consecutive = threshold, consecutive
    acting = Description(
        role="policy", id=progress["ids"]["policy"], threshold=threshold, consecutive=consecutive, **shared
    )
    policy = Policy(network, acting)
    keep(run, reward_model)
    keep(run, policy)

    # --- evaluate
    summary = {
        "demonstrations": demonstrations.episodes,
        "threshold": threshold,
        "policy": policy.id,
        "reward_model": reward_model.id,
    }
    if recipe.evaluation_episodes:
        if not run.lines("evaluation"):
            countdown = Countdown(run, "evaluation", recipe.evaluation_episodes)
            result = evaluate_for(
                run,
                policy,
                demonstrations.tasks,
                recipe.evaluation_episodes,
                recipe.evaluation_seed,
                on_progress=countdown.tell,
            )
            if result is not None:
                run.log("evaluation", version=0, practice_episodes=0, sampled=True, **result.to_json())
        for evaluation in run.lines("evaluation"):
            summary["success"] = evaluation["successes"] / evaluation["n"]
    summary["wall_s"] = round(time.monotonic() - started, 1)
    run.log("done", **summary)
    return summary


def begin_from(path: Path, network: Network, vocabulary: Vocabulary) -> None:
    """An earlier run's weights as the initial ones; the objects may be others, and words that are new keep their own.

    Of a run's two checkpoints the reward model is the one with the last weights of both heads.
    """
    older, description = load_checkpoint(path)
    weights, mine = older.state_dict(), network.state_dict()
    name = "words.sentence.embedding.weight"
    embedding, old_vocabulary = mine[name].clone(), Vocabulary(description.vocabulary)
    known = [word for word in vocabulary.words if word in set(old_vocabulary.words)]
    if known:
        embedding[vocabulary.encode(known)[:, 0]] = weights[name][old_vocabulary.encode(known)[:, 0]]
    try:
        network.load_state_dict(weights | {name: embedding})
    except RuntimeError as error:
        raise RunError(f"{path} can't be the beginning of this run: {error}") from None


def ground(
    run: RunDir,
    recipe: SFTRecipe,
    network: Network,
    demonstrations: Demonstrations,
    training: Tensor,
    validation: Tensor,
    words: Tensor,
    generator: torch.Generator,
) -> bool:
    """Train the words' part alone on which object moved and where it came to rest. False: cancelled."""
    seen = look_back(demonstrations)
    if seen.clear[training].any():
        training, validation = training[seen.clear[training]], validation[seen.clear[validation]]
    else:
        run.note("In no demonstration all objects can be made out; more of them would help.", level="warning")
    sentence = demonstrations.instruction[demonstrations.first]  # [E]
    mentioned = network.words.named(words)[sentence]  # [E, K]

    def loss(episodes: Tensor, noisy: bool) -> Tensor:
        text, names = words[sentence[episodes]], None
        if noisy:
            text, names = network.words.renamed(text, generator)
            text = among_strangers(text, generator)
        return Grounding.loss(
            network.words(text, names),
            seen.moved[episodes],
            seen.resting[episodes],
            seen.others[episodes],
            seen.present[episodes],
            mentioned[episodes],
        )

    parameters = list(network.words.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=1e-2)
    state = run.path / "state-grounding.safetensors"
    progress = load_state(state, optimiser, generator, words=network.words) or {"step": 0}
    countdown = Countdown(run, "grounding", recipe.grounding_steps, progress["step"])
    for step in range(progress["step"] + 1, recipe.grounding_steps + 1):
        run.wait_while_paused()
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * warm_up_and_anneal(step, recipe.grounding_steps)
        learnt_from = draw(training, 128, generator)
        value = loss(learnt_from, noisy=True)
        if not descend(value, optimiser, parameters):
            groups = [(int(each), each[None]) for each in learnt_from.unique()]
            bad = unlearnable(groups, lambda episode: loss(episode, noisy=False), optimiser, parameters)
            training = some_of(training[~torch.isin(training, named(run, demonstrations, bad))])
        countdown.tell(step)
        due = step % SAVE_EVERY == 0 or step == recipe.grounding_steps
        if due:
            with torch.no_grad():
                losses = {"grounding": float(value.detach())}
                if len(validation):
                    losses["validation_grounding"] = float(loss(validation, noisy=False))
                run.log_loss(step, **losses)
        if due or run.cancelled:
            save_state(state, {"step": step}, optimiser, generator, words=network.words)
        if run.cancelled:
            run.note("canceled", level="warning")
            return False
    return True


def named(run: RunDir, demonstrations: Demonstrations, bad: list[int]) -> Tensor:
    """Say which episodes made a loss no number, and are left out from here on."""
    for each in bad:
        run.note(f"Episode {demonstrations.uuids[each]} is left out: what it teaches is no number.", level="warning")
    if not bad:
        raise RunError("The loss is no number, though each episode's alone is one; lower the learning rate.")
    return torch.tensor(bad)


def some_of(left: Tensor) -> Tensor:
    if not len(left):
        raise RunError("What every demonstration teaches is no number; look at the dataset's observations and actions.")
    return left


def see(
    run: RunDir,
    recipe: SFTRecipe,
    network: Network,
    demonstrations: Demonstrations,
    training: Tensor,
    generator: torch.Generator,
) -> bool:
    """Train the network's sight alone. False: cancelled."""
    countdown = Countdown(run, "sight", sight.ROUNDS * recipe.sight_steps)
    learnt_from = dataclasses.replace(
        demonstrations, first=demonstrations.first[training], last=demonstrations.last[training]
    )

    def step_done(step: int, losses: dict) -> bool:
        run.wait_while_paused()
        countdown.tell(step)
        if step % sight.SAVE_EVERY == 0:
            run.log_loss(step, **losses)
        if run.cancelled:
            run.note("canceled", level="warning")
        return not run.cancelled

    state = run.path / "state-sight.safetensors"
    return sight.learn_to_see(
        network.sight,
        learnt_from,
        recipe.sight_steps,
        generator,
        step_done,
        load=partial(load_state, state),
        save=partial(save_state, state),
    )


@torch.no_grad()
def seen_by(network: Network, demonstrations: Demonstrations) -> Tensor:
    return torch.cat([network.perceive(part) for part in demonstrations.observations.split(1024)])


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


def draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (count,), generator=generator)]


def d_of(reward_model: RewardModel, demonstrations: Demonstrations, frames: Tensor):
    texts = [demonstrations.instructions[i] for i in demonstrations.instruction[frames].tolist()]
    return reward_model.judge(demonstrations.observations[frames], texts)[0]


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


def keep(run: RunDir, loaded: Loaded) -> None:
    description = loaded.description
    path = run.checkpoints / f"{description.role}.safetensors"
    if path.exists() and description.id in [line["id"] for line in run.lines("checkpoint")]:
        return  # an earlier process kept it
    save_checkpoint(path, loaded.network, description)
    run.log(
        "checkpoint",
        id=description.id,
        role=description.role,
        version=0,
        path=str(path.relative_to(run.path)),
        sha256=sha256_of(path),
        threshold=description.threshold,
        consecutive=description.consecutive,
        publish=False,
    )
