"""Stage 2, self-improvement: practice episodes, labelled by the frozen reward model -> a better policy, and again.

    publish version v
    wait        until the stations have handed in a round of episodes
    label       d at each observation, and rewards
    update      advantage_weighted.py from all practice so far, or policy_gradient.py from this round alone
    value head  the policy's success prediction, from how the round's attempts ended
    save        version v + 1, with all that a restart needs
    evaluate    every few rounds, on fixed seeds, apart from practice; stop well past the peak
    again

What an older version acted is learned from where there is a replay; the policy gradient is strictly on-policy and drops
it. Both count it. A person's steps never enter the gradient, and neither does true success: in simulation it is
measured apart from practice, draws the curve, and decides when to stop and which version is kept. improve() is the
order of the phases; a restart in the same directory goes on after the last update.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from robots.episodes import CONFIRMED_FRAMES, FAILURES, Episode, EpisodeError, read_episodes, rows_of
from training import steps_to_go
from training.advantage_weighted import AdvantageWeighted
from training.checkpoints import (
    CheckpointMetadata,
    Policy,
    RewardModel,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from training.computing import compute_with
from training.descent import descend
from training.evaluation import Evaluation, evaluate_for
from training.policy_gradient import PolicyGradient
from training.recipes import ImproveRecipe
from training.run_dir import Countdown, RunDir, RunError, sha256_of

# The curve's best point is best partly by luck on the curve's own seeds, so the last word is spoken on others.
FRESH_SEEDS = 1_000_003

# Checkpoints that were never evaluated stay this many versions: enough for the slowest station to fetch its own.
NEWEST_KEPT = 5
STATE = "state.safetensors"

# Of the value head. After 2,400 practice episodes it tells failing attempts from others at half of their time
# limit with an area under the curve of .86 (the reward model: .59); a network of its own, trained on as many episodes
# at once, .90. Other values were not tried.
VALUE_RATE, VALUE_EPOCHS = 1e-3, 4

Practise = Callable[[RunDir, Policy, RewardModel, int], None]
# Rewards of an episode's first steps, or None to leave the episode out.
RewardsOf = Callable[[Episode, int, RewardModel, Policy], np.ndarray | None]


@dataclass
class Labelled:
    """What may be learned from an episode: the steps before anybody but the policy acted, and their rewards."""

    episode: Episode
    steps: int
    rewards: np.ndarray  # [steps]


def improve(run: RunDir, practise: Practise | None = None, rewards_of: RewardsOf | None = None) -> dict[str, Any]:
    """Runs until the budget is spent, the guard stops it or it is cancelled; returns the summary (empty if cancelled).

    Stations hand episodes in from outside. Where there are none, `practise(run, policy, reward_model, steps)` is called
    for each version instead and has to write at least that many steps into run.episodes and close the round. Other
    rewards than the method's are for comparisons.
    """
    recipe = run.recipe(ImproveRecipe)
    if finished := run.summary():
        return finished
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    compute_with(recipe.device, recipe.precision)
    learning = Learning(run, recipe, rewards_of)
    learning.begin()
    curve = SuccessCurve(run, recipe, learning.tasks)
    countdown = Countdown(run, "practice", recipe.max_episodes, learning.practised)

    while True:
        policy = learning.publish()
        over = learning.practised >= recipe.max_episodes or learning.version >= recipe.max_rounds
        curve.evaluate(policy, learning.practised, over)  # while the stations load the new version
        forget_old_checkpoints(run, learning.version, curve.points)
        if over or curve.is_past_the_peak():
            break
        if practise is not None:
            practise(run, policy, learning.reward_model, recipe.steps_per_round)
        handed_in = gather(run, policy, learning.progress["consumed"], stale_too=bool(recipe.replay))
        if run.cancelled:
            run.note("canceled", level="warning")
            return {}
        learning.learn(policy, *handed_in)
        countdown.tell(learning.practised)

    summary = {
        "version": learning.version,
        "practice_episodes": learning.practised,
        "stale": learning.progress["stale"],
        "wall_s": round(time.monotonic() - started, 1),
    }
    if curve.points:
        summary |= curve.conclude()
    run.log("done", **summary)
    return summary


class Learning:
    """All that practice changes: the policy's network, its optimiser and how far they are. A restart finds it again."""

    def __init__(self, run: RunDir, recipe: ImproveRecipe, rewards_of: RewardsOf | None):
        self.run, self.recipe = run, recipe
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.reward_model = RewardModel.load(run.start / "reward_model.safetensors")
        self.network, self.origin = load_checkpoint(run.start / "policy.safetensors")
        if self.origin.embodiment != self.reward_model.metadata.embodiment:
            raise RunError(
                "The policy and the reward model are of different embodiments; start from one SFT run's two "
                "checkpoints."
            )
        self.tasks = [name.strip() for name in recipe.tasks.split(",") if name.strip()] or self.origin.tasks
        # The words' part stays as stage 1 left it: practice tells how to push, not what a sentence means.
        network = self.network
        self.value_head = list(network.steps_to_go_head.parameters())
        for parameter in [*network.trained_in("practice"), *self.value_head]:
            parameter.requires_grad_(True)
        executed = self.origin.executed
        if executed > 1 and not recipe.replay:
            raise RunError(
                f"The policy's chunks are executed {executed} actions at a time, and the policy gradient judges each "
                "action by itself; set the replay above 0, or begin from a policy that executes 1."
            )
        self.learner = (
            AdvantageWeighted(network, recipe, executed) if recipe.replay else PolicyGradient(network, recipe)
        )
        self.rewards_of = rewards_of or self.learner.rewards
        acting, judging = self.learner.parameter_groups
        predicting = {"params": self.value_head, "lr": VALUE_RATE, "weight_decay": 0.0}
        # The critic last: a state from before there was one has the moments of the others at the same places.
        self.optimiser = torch.optim.AdamW([acting, predicting, judging], lr=recipe.learning_rate, fused=True)
        self.progress: dict[str, Any] = {}
        self.published = {line["id"] for line in run.lines("checkpoint")}

    @property
    def version(self) -> int:
        """The newest policy's."""
        return self.progress["version"]

    @property
    def practised(self) -> int:
        """Episodes so far."""
        return self.progress["episodes"]

    def save(self) -> None:
        """All that a restart needs."""
        modules = {"network": self.network, **self.learner.modules}
        save_state(self.run.path / STATE, self.progress, self.optimiser, self.generator, **modules)

    def begin(self) -> None:
        """At version 0, or where an earlier process stopped."""
        modules = {"network": self.network, **self.learner.modules}
        progress = load_state(self.run.path / STATE, self.optimiser, self.generator, **modules)
        beginning = Policy.load(self.run.start / "policy.safetensors")
        self.remember_demonstrations(beginning)
        if progress is None:
            self.progress = {
                "version": 0,
                "consumed": [],  # names of the files read
                "episodes": 0,
                "stale": 0,
                "value_updates": self.origin.value_updates,
            }
            first = next_metadata(self.origin, 0, self.recipe, self.origin.value_updates)
            self.learner.warm_up(self.optimiser, self.generator)
            save_checkpoint(policy_path(self.run, 0), self.network, first)
            self.save()
            return
        # An older state calls them taught, or is from before there was a value head.
        self.progress = {"value_updates": progress.get("taught", 0)} | progress
        for name in progress["consumed"] if self.recipe.replay else ():
            again = practice_in(self.run.episodes / name, beginning, lambda *message, **level: None)
            for each in labels(again, self.reward_model, beginning, self.rewards_of):
                self.learner.remember(each.episode, each.steps, each.rewards, beginning)
        self.run.note(f"Going on with version {self.version}, after {self.practised} practice episodes.")
        # A restart must not say twice what it has said, nor leave out what it had no time to say.
        last = progress.get("update")
        if last and last["version"] not in {line["version"] for line in self.run.lines("update")}:
            self.run.log("update", **last)

    def remember_demonstrations(self, policy: Policy) -> None:
        """A replay begins with them."""
        for path in sorted(self.run.data.glob("*.safetensors")) if self.recipe.replay else ():
            for episode in read_episodes(path, frames=False):
                if episode.purpose == "demonstration" and episode.true_success and fits(episode, policy, self.run.note):
                    rewards = self.rewards_of(episode, episode.steps, self.reward_model, policy)
                    if rewards is not None:
                        self.learner.remember(episode, episode.steps, rewards, policy)

    def publish(self) -> Policy:
        """The newest version, for the stations to act with."""
        path = policy_path(self.run, self.version)
        policy = Policy.load(path)
        if policy.id not in self.published:
            self.published.add(policy.id)
            self.run.log(
                "checkpoint",
                id=policy.id,
                role="policy",
                version=self.version,
                path=str(path.relative_to(self.run.path)),
                sha256=sha256_of(path),
                publish=True,
            )
        return policy

    def learn(self, policy: Policy, episodes: list[Episode], consumed: list[str], stale: int) -> None:
        """Label a round, update the policy and its value head, and save the next version: first its file, then the
        state that names it, so that a crash repeats just this update.
        """
        learned, left_out = self.label(policy, episodes)
        steps = sum(labelled.steps for labelled in learned)
        losses: list[float] = []
        if learned:
            losses = self.update_policy(steps)
            self.progress["value_updates"] += self.update_value_head(policy, learned)
        else:
            self.run.note(f"The round of version {self.version} held no step to learn from.", level="warning")
        version = self.version + 1
        successor = next_metadata(self.origin, version, self.recipe, self.progress["value_updates"], parent=policy.id)
        save_checkpoint(policy_path(self.run, version), self.network, successor)
        self.progress |= {
            "version": version,
            "consumed": [*self.progress["consumed"], *consumed],
            "episodes": self.practised + len(episodes) + (0 if self.recipe.replay else stale),
            "stale": self.progress["stale"] + stale,
        }
        self.progress["update"] = {
            "version": version,
            "episodes": self.practised,
            "steps": steps,
            "mean_return": float(np.mean([each.rewards.sum() for each in learned])) if learned else None,
            "detected_rate": sum(episode.detected_success for episode in episodes) / max(1, len(episodes)),
            "loss": float(np.mean(losses)) if losses else None,
            "stale": stale,
            "left_out": left_out,
        }
        self.save()
        self.run.log("update", **self.progress["update"])

    def label(self, policy: Policy, episodes: list[Episode]) -> tuple[list[Labelled], int]:
        """What the learner remembers of a round, and how many episodes it could not take."""
        learned, left_out = [], 0
        for labelled in labels(episodes, self.reward_model, policy, self.rewards_of):
            if self.learner.remember(labelled.episode, labelled.steps, labelled.rewards, policy):
                learned.append(labelled)
            else:
                left_out += 1
                uuid = labelled.episode.uuid
                self.run.note(f"Episode {uuid} is left out: what it teaches is no number.", level="warning")
        return learned, left_out

    def update_policy(self, steps: int) -> list[float]:
        """After a round of so many steps: the losses. The learning rate falls with the budget that is spent."""
        spent = min(1.0, self.practised / self.recipe.max_episodes)
        self.optimiser.param_groups[0]["lr"] = self.recipe.learning_rate * (1 - self.recipe.anneal * spent)
        return self.learner.learn(steps, self.optimiser, self.generator)

    def update_value_head(self, policy: Policy, learned: list[Labelled]) -> bool:
        """Only its head learns, so that what supervisors are told can't change what the policy does. False: nobody
        knows what would have come of any of these attempts.
        """
        network, prediction = self.network, self.value_head
        perceived = torch.cat(
            [policy.perceive(rows_of(each.episode.observations, slice(each.steps))) for each in learned]
        ).clone()
        goals = policy.goals([each.episode.instruction for each in learned for _ in range(each.steps)]).clone()
        bins = torch.from_numpy(
            np.concatenate([success_bins_of(each.episode, policy)[: each.steps] for each in learned])
        )
        known = (bins >= 0).nonzero()[:, 0]
        bins = bins.to(network.device)
        shuffler = torch.Generator().manual_seed(self.recipe.seed + self.version)
        for _ in range(VALUE_EPOCHS):
            for rows in known[torch.randperm(len(known), generator=shuffler)].split(self.recipe.batch):
                frame = network.random_symmetries(len(rows), shuffler)
                with torch.no_grad():
                    hidden = network.hidden(perceived[rows], goals[rows], frame)
                loss = F.cross_entropy(network.steps_to_go_head(hidden), bins[rows])
                descend(loss, self.optimiser, prediction, math.inf)
        self.optimiser.zero_grad()
        return bool(len(known))


@dataclass
class SuccessCurve:
    """True success in simulation, on the same seeds for each version: what is drawn, what stops a run and what it
    keeps.
    """

    run: RunDir
    recipe: ImproveRecipe
    tasks: list[str]
    points: dict[int, dict[str, Any]] = field(default_factory=dict)  # version -> its evaluation

    def __post_init__(self) -> None:
        self.points = {line["version"]: line for line in self.run.lines("evaluation")}
        self.marked = {line["version"] for line in self.run.lines("kept")}
        self.simulated = self.recipe.evaluation_episodes > 0

    def judge(self, policy: Policy, seed: int) -> Evaluation | None:
        """Its true success; None where nothing can be simulated."""
        recipe = self.recipe
        return evaluate_for(
            self.run,
            policy,
            self.tasks,
            recipe.evaluation_episodes,
            seed,
            time_limit=recipe.time_limit,
            edge_margin=recipe.edge_margin,
        )

    def evaluate(self, policy: Policy, practised: int, finished: bool) -> None:
        """A new point of the curve, where one is due."""
        version = policy.version
        due = finished or version % self.recipe.evaluate_every == 0
        if self.simulated and due and version not in self.points:
            result = self.judge(policy, self.recipe.evaluation_seed)
            self.simulated = result is not None  # said once
            if result is not None:
                self.points[version] = {"practice_episodes": practised, **result.to_json()}
                self.run.log("evaluation", version=version, sampled=True, **self.points[version])
        # More practice past the peak lowers success, so the best one so far is marked for whoever wants to go back.
        if version in self.points and best_version(self.points) == version and version not in self.marked:
            judged = self.points[version]
            self.run.log("kept", version=version, id=policy.id, success=judged["successes"] / judged["n"])
            self.marked.add(version)

    def is_past_the_peak(self) -> bool:
        """Said, where it is."""
        if not self.points or not past_the_peak(self.points, self.recipe.patience):
            return False
        self.run.note(
            f"Stopped: success has stayed below its best, version {best_version(self.points)}, which is kept.",
            level="warning",
        )
        return True

    def conclude(self) -> dict[str, Any]:
        """The last word, on fresh seeds, on the policy that practice began with and on the one that is kept."""
        best, final = best_version(self.points), self.points[max(self.points)]
        summary = {"success": final["successes"] / final["n"], "kept_version": best}
        countdown = Countdown(self.run, "final evaluation", 2)
        for judged, (name, version) in enumerate((("start", 0), ("kept", best))):
            countdown.tell(judged)
            policy = Policy.load(policy_path(self.run, version))
            result = self.judge(policy, self.recipe.evaluation_seed + FRESH_SEEDS)
            if result is None:
                continue
            summary |= {
                f"{name}_success": result.rate,
                f"{name}_n": result.n,
                f"{name}_low": result.low,
                f"{name}_high": result.high,
                f"{name}_steps_to_success": result.steps_to_success,
                f"{name}_falls": result.falls,
            }
        return summary


def gather(
    run: RunDir, policy: Policy, consumed: list[str], stale_too: bool = False, poll_s: float = 0.1
) -> tuple[list[Episode], list[str], int]:
    """Wait until the round is closed; its episodes in the order of their files, the files, and how many episodes were
    of an older version: these are among them only if `stale_too`.
    """
    files: dict[str, list[Episode]] = {}
    while True:
        run.wait_while_paused()
        closed = run.closed(policy.version)  # asked before looking, so that no file slips in between
        for path in run.episode_files({*consumed, *files}):
            files[path.name] = practice_in(path, policy, run.note)
        if closed or run.cancelled:
            break
        time.sleep(poll_s)
    practised = [episode for name in sorted(files) for episode in files[name]]
    current = [episode for episode in practised if episode.policy == policy.id]
    return practised if stale_too else current, sorted(files), len(practised) - len(current)


def practice_in(path: Path, policy: Policy, note: Callable[..., None]) -> list[Episode]:
    """A file's practice episodes that this body can have acted; what is wrong is named in a note."""
    try:
        episodes = read_episodes(path, frames=False)
    except EpisodeError as error:
        note(f"{path.name} is left out: {error}", level="warning")
        return []
    return [each for each in episodes if fits(each, policy, note) and each.purpose == "practice"]


def fits(episode: Episode, policy: Policy, note: Callable[..., None]) -> bool:
    """Whether the policy's body can have acted it; a note says why not."""
    try:
        episode.check_against(policy.embodiment)
    except EpisodeError as error:
        note(f"An episode is left out: {error}", level="warning")
        return False
    return True


def labels(episodes: list[Episode], reward_model: RewardModel, policy: Policy, rewards_of: RewardsOf) -> list[Labelled]:
    """Of those of which something may be learned."""
    found = []
    for episode in episodes:
        steps = steps_to_go.policy_steps(episode.actors)
        rewards = rewards_of(episode, steps, reward_model, policy) if steps else None
        if rewards is not None:
            found.append(Labelled(episode, steps, rewards))
    return found


def success_bins_of(episode: Episode, policy: Policy) -> np.ndarray:
    """[T + 1] int64, -1 throughout where nobody knows what would have come of the attempt."""
    if not episode.detected_success and episode.ending not in FAILURES:
        return np.full(episode.steps + 1, -1)
    sizes, width = policy.metadata.sizes, policy.metadata.bin_width
    bins = steps_to_go.success_bins(episode.steps, episode.detected_success, sizes["bins"], width).numpy()
    if episode.ending == "low_success_probability":
        # The frames that ended it were the prediction's own word: there only probe episodes may speak.
        bins[-CONFIRMED_FRAMES:] = -1
    return bins


def past_the_peak(evaluations: dict[int, dict[str, Any]], patience: int) -> bool:
    """The guard: whether the last `patience` evaluations all lie below the lower bound of the best one's interval.

    The shaped return goes on rising while true success falls, and so does the detector's rate; only attempts that are
    judged independently show it. One bad evaluation is luck, several in a row are not.
    """
    best = best_version(evaluations)
    later = [evaluations[version] for version in sorted(evaluations) if version > best]
    return len(later) >= patience > 0 and all(
        each["successes"] / each["n"] < evaluations[best]["low"] for each in later[-patience:]
    )


def next_metadata(
    origin: CheckpointMetadata, version: int, recipe: ImproveRecipe, value_updates: int, parent: str = ""
) -> CheckpointMetadata:
    """A new version, under a new id, otherwise as the SFT policy it descends from."""
    return CheckpointMetadata(
        role="policy",
        version=version,
        embodiment=origin.embodiment,
        vocabulary=origin.vocabulary,
        tasks=origin.tasks,
        sizes=origin.sizes,
        bin_width=origin.bin_width,
        threshold=origin.threshold,
        consecutive=origin.consecutive,
        executed=origin.executed,
        temperature=origin.temperature,
        pretrained=origin.pretrained,
        recipe=recipe.to_json(),
        parent=parent or origin.id,
        value_updates=value_updates,
    )


def best_version(evaluations: dict[int, dict[str, Any]]) -> int:
    """The version with the best evaluation, the later one of equals."""
    return max(evaluations, key=lambda version: (evaluations[version]["successes"], version))


def policy_path(run: RunDir, version: int) -> Path:
    """Where a version's file is."""
    return run.checkpoints / f"policy-{version:06d}.safetensors"


def forget_old_checkpoints(run: RunDir, version: int, evaluations: dict[int, dict[str, Any]]) -> None:
    """Evaluated versions stay for good, the others until a few newer are out: thousands of rounds must fit a disk."""
    old = version - NEWEST_KEPT
    if old > 0 and old not in evaluations:
        policy_path(run, old).unlink(missing_ok=True)
