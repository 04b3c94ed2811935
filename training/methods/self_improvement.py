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

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from robots.episodes import Episode, read_episodes
from training import value_head
from training.advantage_weighted import AdvantageWeighted
from training.checkpoints import Policy, RewardModel, load_checkpoint, load_state, save_checkpoint, save_state
from training.computing import compute_with
from training.handed_in import Labelled, RewardsOf, fits, gather, labels, practice_in
from training.policy_gradient import PolicyGradient
from training.recipes import ImproveRecipe
from training.run_dir import Countdown, RunDir, RunError, sha256_of
from training.success_curve import SuccessCurve
from training.versions import forget_old_checkpoints, next_metadata, policy_path

STATE = "state.safetensors"

Practise = Callable[[RunDir, Policy, RewardModel, int], None]


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
        for parameter in [*network.trained_in("practice"), *network.steps_to_go_head.parameters()]:
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
        predicting = value_head.parameter_group(network)
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
            shuffler = torch.Generator().manual_seed(self.recipe.seed + self.version)
            self.progress["value_updates"] += value_head.update(
                self.network, policy, learned, self.optimiser, self.recipe.batch, shuffler
            )
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
