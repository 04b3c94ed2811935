"""The loop of methods that learn from every step again and again, whichever version of the policy acted it.

    offline     updates from demonstrations alone, where the method has them
    publish     version v; stations take it at their next attempt and never wait
    read        each file of episodes as it is handed in, in the order of the names
    remember    its episodes, as the method makes steps and rewards of them
    update      so many times as the new steps ask for
    save        version v + 1 after `publish_every` steps, with all that a restart needs
    evaluate    every few versions, on fixed seeds, apart from practice
    again

A method is a Learner: what it remembers, what an update is and what acts. The order of the files decides everything:
who starts the run again in the same directory goes on after the last version, to the same bits. True success is read
for the curve alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robots.embodiments import Embodiment
from robots.episodes import Episode, read_episodes
from training import steps_to_go, value_head
from training.checkpoints import CheckpointMetadata, Policy, RewardModel, load_state, save_checkpoint, save_state
from training.computing import compute_with
from training.handed_in import Labelled, fits, practice_in
from training.networks.network import Network
from training.recipes import OffPolicyRecipe
from training.run_dir import Countdown, RunDir, RunError, sha256_of
from training.success_curve import SuccessCurve
from training.versions import forget_old_checkpoints, next_metadata, policy_path

STATE = "state.safetensors"
PREDICTION_BATCH = 256  # steps in an update of the success prediction
SAVED_EVERY = 1000  # offline updates from one saved state to the next

Practise = Callable[[RunDir, Policy, RewardModel | None, int], None]
Figures = dict[str, float]


@dataclass
class Beginning:
    """What a run of such a method begins with."""

    run: RunDir
    recipe: OffPolicyRecipe
    policy: Policy | None  # its parent's; None where it has none
    reward_model: RewardModel | None
    demonstrations: list[Episode]  # failed ones among them

    @property
    def body(self) -> Embodiment:
        """Of the demonstrations; RunError where there are none."""
        body = next((each.body for each in self.demonstrations if each.body is not None), None)
        if body is None:
            raise RunError("There are no demonstrations to begin with; give the run a dataset that has some.")
        return body

    def described(self, network: str, sizes: dict[str, Any]) -> CheckpointMetadata:
        """What the versions of a policy say of themselves that begins with these demonstrations and no parent."""
        return CheckpointMetadata(
            role="policy",
            version=0,
            embodiment=self.body.to_json(),
            vocabulary=[],
            tasks=sorted({each.task for each in self.demonstrations}),
            sizes=sizes,
            bin_width=1.0,
            threshold=0.0,
            consecutive=1,
            recipe=self.recipe.to_json(),
            network=network,
        )

    @property
    def started_from(self) -> Policy:
        """The parent's policy; RunError where there is none."""
        if self.policy is None:
            raise RunError("This method goes on from a policy; start it from a run that trained one.")
        return self.policy


class Canceled(Exception):
    """A learner found in the middle of a long update that the run is cancelled."""


class Learner:
    """What a method brings to the loop. It overrides what it needs."""

    network: nn.Module  # what acts, as it is saved
    origin: CheckpointMetadata  # what a version's file says of itself, beside its number
    offline_updates = 0  # before practice
    predicts = True  # whether its Network also predicts success, from how attempts end
    reward_model: RewardModel | None = None  # what judges while its policies act, where it makes one itself

    def prepare(self) -> bool:
        """What comes before everything else and is kept in files, so that a restart finds it again. False: it was
        cancelled.
        """
        return True

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the loop's optimiser, each with a learning rate of its own."""
        return [{"params": []}]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Beside what acts: what a restart must find as it was."""
        return {}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Of its own, beside the loop's: likewise."""
        return {}

    def remember(self, episode: Episode, steps: int) -> bool:
        """An episode's first `steps` steps, which the policy acted, or a whole demonstration. False, and nothing is
        kept, where what it teaches is no number.
        """
        raise NotImplementedError

    def update_offline(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The update of this number before practice, from 0 on."""
        raise NotImplementedError

    def update(self, number: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """The update of this number in practice, from 0 on."""
        raise NotImplementedError

    def before_version(self, steps: int, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> Figures:
        """What is done once for each version, after `steps` steps of practice; figures for its line."""
        return {}


def practise_off_policy(
    run: RunDir, make_learner: Callable[[Beginning], Learner], practise: Practise | None = None
) -> dict[str, Any]:
    """Runs until the budget is spent, the guard stops it or it is cancelled; returns the summary (empty if cancelled).

    Stations hand episodes in from outside. Where there are none, `practise(run, policy, reward_model, steps)` is called
    for each version instead and has to write at least that many steps into run.episodes.
    """
    recipe = run.recipe(OffPolicyRecipe)
    if finished := run.summary():
        return finished
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    compute_with(recipe.device, recipe.precision)
    loop = Loop(run, recipe, make_learner)
    if not loop.begin():
        run.note("canceled", level="warning")
        return {}
    curve = SuccessCurve(run, recipe, loop.tasks)
    countdown = Countdown(run, "practice", recipe.max_steps, loop.steps)

    while True:
        policy = loop.publish()
        over = loop.steps >= recipe.max_steps
        curve.evaluate(policy, loop.progress["episodes"], over)
        forget_old_checkpoints(run, loop.version, curve.points)
        if over or curve.is_past_the_peak():
            break
        if not loop.learn(policy, practise):
            run.note("canceled", level="warning")
            return {}
        countdown.tell(loop.steps)

    summary = {name: loop.progress[name] for name in ("version", "steps", "updates", "stale")}
    summary |= {"practice_episodes": loop.progress["episodes"], "wall_s": round(time.monotonic() - started, 1)}
    if curve.points:
        summary |= curve.conclude()
    run.log("done", **summary)
    return summary


class Loop:
    """How far a run is, and its learner. A restart finds it again."""

    def __init__(self, run: RunDir, recipe: OffPolicyRecipe, make_learner: Callable[[Beginning], Learner]):
        self.run, self.recipe = run, recipe
        self.generator = torch.Generator().manual_seed(recipe.seed)
        judge, parent = (run.start / f"{role}.safetensors" for role in ("reward_model", "policy"))
        self.beginning = Beginning(
            run,
            recipe,
            Policy.load(parent) if parent.exists() else None,
            RewardModel.load(judge) if judge.exists() else None,
            list(_demonstrations(run)),
        )
        self.learner = make_learner(self.beginning)
        self.tasks = [name.strip() for name in recipe.tasks.split(",") if name.strip()] or self.learner.origin.tasks
        groups = self.learner.parameter_groups
        if isinstance(self.learner.network, Network) and self.learner.predicts:
            for parameter in self.learner.network.steps_to_go_head.parameters():
                parameter.requires_grad_(True)
            groups = [*groups, value_head.parameter_group(self.learner.network)]
        self.optimiser = torch.optim.AdamW(groups, fused=True)
        self.progress: dict[str, Any] = {}
        self.published = {line["id"]: line["version"] for line in run.lines("checkpoint")}

    @property
    def version(self) -> int:
        """The newest policy's."""
        return self.progress["version"]

    @property
    def steps(self) -> int:
        """Of practice so far."""
        return self.progress["steps"]

    def save(self) -> None:
        """All that a restart needs."""
        modules = {"network": self.learner.network, **self.learner.modules}
        more = self.learner.optimisers
        save_state(self.run.path / STATE, self.progress, self.optimiser, self.generator, more, **modules)

    def begin(self) -> bool:
        """At version 0 after the offline updates, or where an earlier process stopped. False: it was cancelled."""
        if not self.learner.prepare():
            return False
        modules = {"network": self.learner.network, **self.learner.modules}
        more = self.learner.optimisers
        progress = load_state(self.run.path / STATE, self.optimiser, self.generator, more, **modules)
        parent = self.beginning.policy
        for episode in self.beginning.demonstrations:
            if parent is None or fits(episode, parent, self.run.note):
                self.remember(episode, episode.steps)
        self.progress = progress or {
            "version": -1,  # none yet
            "consumed": [],  # names of the files read
            "offline": 0,
            "episodes": 0,
            "steps": 0,
            "updates": 0,
            "stale": 0,
            "value_updates": self.learner.origin.value_updates,
        }
        if self.version < 0:
            if not self._learn_offline():
                return False
            self.progress["version"] = 0
            self._save_version()
            self.save()
            return True
        policy = Policy.load(policy_path(self.run, self.version))
        for name in self.progress["consumed"]:
            for episode in practice_in(self.run.episodes / name, policy, lambda *message, **level: None):
                self.remember(episode, steps_to_go.policy_steps(episode.actors))
        self.run.note(f"Going on with version {self.version}, after {self.steps} steps of practice.")
        # A restart must not say twice what it has said, nor leave out what it had no time to say.
        last = self.progress.get("update")
        if last and last["version"] not in {line["version"] for line in self.run.lines("update")}:
            self.run.log("update", **last)
        return True

    def _learn_offline(self) -> bool:
        total = self.learner.offline_updates
        countdown = Countdown(self.run, "offline", total, self.progress["offline"])
        figures = Means()
        while self.progress["offline"] < total:
            self.run.wait_while_paused()
            if self.run.cancelled:
                self.save()
                return False
            try:
                figures.add(self.learner.update_offline(self.progress["offline"], self.optimiser, self.generator))
            except Canceled:
                return False
            self.progress["offline"] += 1
            done = self.progress["offline"]
            countdown.tell(done)
            if done % SAVED_EVERY == 0 or done == total:
                self.run.log_loss(done, **figures.taken())
                self.save()
        return True

    def remember(self, episode: Episode, steps: int) -> bool:
        """Whether the learner could take it; a note names the one that it could not."""
        if steps and self.learner.remember(episode, steps):
            return True
        if steps:
            self.run.note(f"Episode {episode.uuid} is left out: what it teaches is no number.", level="warning")
        return False

    def publish(self) -> Policy:
        """The newest version, for the stations to act with."""
        path = policy_path(self.run, self.version)
        policy = Policy.load(path)
        if policy.id not in self.published:
            self.published[policy.id] = self.version
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

    def learn(self, policy: Policy, practise: Practise | None) -> bool:
        """From files as they come, or as `practise` makes them, until a new version is due and saved. False: it was
        cancelled, and whoever goes on repeats what was learned since the last version.
        """
        judge = self.learner.reward_model or self.beginning.reward_model
        begun, progress = self.steps, self.progress
        figures, learned, left_out, staleness = Means(), list[Labelled](), 0, list[int]()
        episodes = list[Episode]()
        while (missing := begun + self.recipe.publish_every - self.steps) > 0:
            if practise is not None and next(self.run.episode_files(set(progress["consumed"])), None) is None:
                practise(self.run, policy, judge, missing)
            path = self._next_file()
            if path is None:
                return False
            for episode in practice_in(path, policy, self.run.note):
                steps = steps_to_go.policy_steps(episode.actors)
                if not self.remember(episode, steps):
                    left_out += bool(steps)
                    continue
                episodes.append(episode)
                learned.append(Labelled(episode, steps, np.zeros(0)))
                staleness.append(self.version - self.published.get(episode.policy, self.version))
                progress["episodes"] += 1
                progress["steps"] += steps
            progress["consumed"].append(path.name)
            if not self._update(figures):
                return False
        try:
            figures.add(self.learner.before_version(self.steps, self.optimiser, self.generator))
        except Canceled:
            return False
        network = self.learner.network
        if isinstance(network, Network) and self.learner.predicts and learned:
            shuffler = torch.Generator().manual_seed(self.recipe.seed + self.version)
            progress["value_updates"] += value_head.update(
                network, policy, learned, self.optimiser, PREDICTION_BATCH, shuffler
            )
        progress["version"] += 1
        progress["stale"] += sum(each > 0 for each in staleness)
        self._save_version(policy.id)
        progress["update"] = {
            "version": self.version,
            "episodes": progress["episodes"],
            "steps": self.steps,
            "updates": progress["updates"],
            "detected_rate": sum(each.detected_success for each in episodes) / max(1, len(episodes)),
            "staleness": sum(staleness) / max(1, len(staleness)),
            "left_out": left_out,
            **figures.taken(),
        }
        self.save()
        self.run.log("update", **progress["update"])
        return True

    def _next_file(self) -> Path | None:
        """The next that is handed in, once it is there; None: the run is cancelled."""
        while True:
            self.run.wait_while_paused()
            if self.run.cancelled:
                return None
            if (path := next(self.run.episode_files(set(self.progress["consumed"])), None)) is not None:
                return path
            time.sleep(0.1)

    def _update(self, figures: "Means") -> bool:
        """As often as the steps so far ask for. False: it was cancelled."""
        due = self.recipe.updates_due(self.steps)
        while self.progress["updates"] < due:
            if self.run.cancelled:
                return False
            figures.add(self.learner.update(self.progress["updates"], self.optimiser, self.generator))
            self.progress["updates"] += 1
        return True

    def _save_version(self, parent: str = "") -> None:
        metadata = next_metadata(
            self.learner.origin, self.version, self.recipe, self.progress["value_updates"], parent=parent
        )
        save_checkpoint(policy_path(self.run, self.version), self.learner.network, metadata)


class Means:
    """Figures of many updates, as their means."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        """Of one update."""
        for name, value in figures.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1

    def taken(self) -> Figures:
        """The means, and begin anew."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def _demonstrations(run: RunDir) -> Iterator[Episode]:
    for path in sorted(run.data.glob("*.safetensors")):
        yield from (each for each in read_episodes(path, frames=False) if each.purpose == "demonstration")
