"""Stage 2, self-improvement: practice episodes, labelled by the frozen reward model -> a better policy, and again.

    publish version v
    wait        until the stations have handed in a round of episodes
    label       d at each observation, and rewards
    update      advantage_weighted.py from all practice so far, or policy_gradient.py from this round alone
    foresee     the policy's outlook, from how the round's attempts ended
    save        version v + 1, with all that a restart needs
    evaluate    every few rounds, on fixed seeds, apart from practice; stop well past the peak
    again

What an older version acted is learned from where there is a replay; the policy gradient is strictly on-policy and drops
it. Both count it. A person's steps never enter the gradient, and neither does true success: in simulation it is
measured apart from practice, draws the curve, and decides when to stop and which version is kept. Read from top to
bottom; a restart in the same directory goes on after the last update.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from robots.episodes import CONFIRMED_FRAMES, FAILURES, Episode, EpisodeError, read_episodes
from training import steps_to_go
from training.advantage_weighted import AdvantageWeighted
from training.checkpoints import (
    Description,
    Policy,
    RewardModel,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from training.descent import descend
from training.evaluation import evaluate_for
from training.policy_gradient import PolicyGradient
from training.recipes import ImproveRecipe
from training.run_dir import Countdown, RunDir, RunError, sha256_of

# The curve's best point is best partly by luck on the curve's own seeds, so the last word is spoken on others.
FRESH_SEEDS = 1_000_003

# Checkpoints that were never evaluated stay this many versions: enough for the slowest station to fetch its own.
NEWEST_KEPT = 5

# Of the head that foresees. After 2,400 practice episodes it tells failing attempts from others at half of their time
# limit with an area under the curve of .86 (the reward model: .59); a network of its own, trained on as many episodes
# at once, .90. Other values were not tried.
OUTLOOK_RATE, OUTLOOK_EPOCHS = 1e-3, 4

Practise = Callable[[RunDir, Policy, RewardModel, int], None]
# Rewards of an episode's first steps, or None to leave the episode out.
RewardsOf = Callable[[Episode, int, RewardModel, Policy], np.ndarray | None]


@dataclass
class Labelled:
    """What may be learned from an episode: the steps before anybody but the policy acted, and their rewards."""

    episode: Episode
    steps: int
    rewards: np.ndarray  # [steps]


def improve(run: RunDir, practise: Practise | None = None, rewards_of: RewardsOf | None = None) -> dict:
    """Runs until the budget is spent, the guard stops it or it is cancelled; returns the summary (empty if cancelled).

    Stations hand episodes in from outside. Where there are none, `practise(run, policy, reward_model, steps)` is called
    for each version instead and has to write at least that many steps into run.episodes and close the round. Other
    rewards than the method's are for comparisons.
    """
    recipe: ImproveRecipe = run.recipe("improve")
    if finished := run.summary():
        return finished
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    generator = torch.Generator().manual_seed(recipe.seed)

    # --- where practice starts from, or where it stopped
    reward_model = RewardModel.load(run.start / "reward_model.safetensors")
    network, origin = load_checkpoint(run.start / "policy.safetensors")
    if origin.embodiment != reward_model.description.embodiment:
        raise RunError(
            "The policy and the reward model are of different embodiments; start from one SFT run's two checkpoints."
        )
    tasks = [name.strip() for name in recipe.tasks.split(",") if name.strip()] or origin.tasks
    # The words' part stays as stage 1 left it: practice tells how to push, not what a sentence means.
    outlook = list(network.steps_to_go_head.parameters())
    for parameter in [*network.trunk.parameters(), *network.action_head.parameters(), *outlook]:
        parameter.requires_grad_(True)
    learner = AdvantageWeighted(network, recipe) if recipe.replay else PolicyGradient(network, recipe)
    rewards_of = rewards_of or learner.rewards
    acting, judging = learner.parameter_groups
    foreseeing = {"params": outlook, "lr": OUTLOOK_RATE, "weight_decay": 0.0}
    # The critic last: a state from before there was one has the moments of the others at the same places.
    optimiser = torch.optim.AdamW([acting, foreseeing, judging], lr=recipe.learning_rate, fused=True)
    state = run.path / "state.safetensors"
    modules = {"network": network, **learner.modules}
    progress = load_state(state, optimiser, generator, **modules)
    beginning = Policy.load(run.start / "policy.safetensors")
    for path in sorted(run.data.glob("*.safetensors")) if recipe.replay else ():
        for episode in read_episodes(path):
            if episode.purpose == "demonstration" and episode.true_success and fits(episode, beginning, run.note):
                rewards = rewards_of(episode, episode.steps, reward_model, beginning)
                learner.remember(episode, episode.steps, rewards, beginning)
    if progress is None:
        first = next_description(origin, 0, recipe, origin.taught)
        progress = {
            "version": 0,
            "consumed": [],  # names of the files read
            "episodes": 0,
            "stale": 0,
            "taught": origin.taught,
        }
        learner.warm_up(optimiser, generator)
        save_checkpoint(policy_path(run, 0), network, first)
        save_state(state, progress, optimiser, generator, **modules)
    else:
        for name in progress["consumed"] if recipe.replay else ():
            again = practice_in(run.episodes / name, beginning, lambda *said, **level: None)
            for each in labels(again, reward_model, beginning, rewards_of):
                learner.remember(each.episode, each.steps, each.rewards, beginning)
        progress.setdefault("taught", 0)  # of a state from before there was an outlook
        run.note(f"Going on with version {progress['version']}, after {progress['episodes']} practice episodes.")
    # A restart must not say twice what it has said, nor leave out what it had no time to say.
    published = {line["id"] for line in run.lines("checkpoint")}
    evaluations = {line["version"]: line for line in run.lines("evaluation")}
    marked = {line["version"] for line in run.lines("kept")}
    last = progress.get("update")
    if last and last["version"] not in {line["version"] for line in run.lines("update")}:
        run.log("update", **last)
    countdown = Countdown(run, "practice", recipe.max_episodes, progress["episodes"])
    simulated = recipe.evaluation_episodes > 0
    as_practised = {"time_limit": recipe.time_limit, "edge_margin": recipe.edge_margin}

    while True:
        # --- publish
        version = progress["version"]
        policy = Policy.load(policy_path(run, version))
        if policy.id not in published:
            run.log(
                "checkpoint",
                id=policy.id,
                role="policy",
                version=version,
                path=str(policy_path(run, version).relative_to(run.path)),
                sha256=sha256_of(policy_path(run, version)),
                publish=True,
            )

        # --- evaluate, while the stations load the new version
        finished = progress["episodes"] >= recipe.max_episodes or version >= recipe.max_rounds
        due = finished or version % recipe.evaluate_every == 0
        if simulated and due and version not in evaluations:
            result = evaluate_for(
                run, policy, tasks, recipe.evaluation_episodes, recipe.evaluation_seed, **as_practised
            )
            simulated = result is not None  # said once
            if simulated:
                evaluations[version] = {"practice_episodes": progress["episodes"], **result.to_json()}
                run.log("evaluation", version=version, sampled=True, **evaluations[version])
        # More practice past the peak lowers success, so the best one so far is marked for whoever wants to go back.
        if version in evaluations and best_version(evaluations) == version and version not in marked:
            judged = evaluations[version]
            run.log("kept", version=version, id=policy.id, success=judged["successes"] / judged["n"])
            marked.add(version)
        forget_old_checkpoints(run, version, evaluations)
        if finished:
            break
        if evaluations and past_the_peak(evaluations, recipe.patience):
            run.note(
                f"Stopped: success has stayed below its best, version {best_version(evaluations)}, which is kept.",
                level="warning",
            )
            break

        # --- practise, and label what comes in
        if practise is not None:
            practise(run, policy, reward_model, recipe.steps_per_round)
        episodes, consumed, stale = gather(run, policy, progress["consumed"], stale_too=bool(recipe.replay))
        if run.cancelled:
            run.note("canceled", level="warning")
            return {}
        learned, left_out, losses = [], [], []
        for labelled in labels(episodes, reward_model, policy, rewards_of):
            if learner.remember(labelled.episode, labelled.steps, labelled.rewards, policy):
                learned.append(labelled)
            else:
                left_out.append(labelled.episode.uuid)
                run.note(f"Episode {left_out[-1]} is left out: what it teaches is no number.", level="warning")
        steps = sum(labelled.steps for labelled in learned)
        handed_in = len(episodes) + (0 if recipe.replay else stale)
        if learned:
            # --- update
            spent = min(1.0, progress["episodes"] / recipe.max_episodes)
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - recipe.anneal * spent)
            losses = learner.learn(steps, optimiser, generator)
            # --- foresee: only its head learns, so that what supervisors are told can't change what the policy does
            perceived = torch.cat(
                [policy.perceive(each.episode.observations[: each.steps]) for each in learned]
            ).clone()
            goals = policy.goals([each.episode.instruction for each in learned for _ in range(each.steps)]).clone()
            bins = torch.from_numpy(
                np.concatenate([outlook_of(each.episode, policy)[: each.steps] for each in learned])
            )
            known = (bins >= 0).nonzero()[:, 0]
            shuffler = torch.Generator().manual_seed(recipe.seed + version)
            for _ in range(OUTLOOK_EPOCHS):
                for rows in known[torch.randperm(len(known), generator=shuffler)].split(recipe.batch):
                    frame = network.random_symmetries(len(rows), shuffler)
                    with torch.no_grad():
                        hidden = network.hidden(perceived[rows], goals[rows], frame)
                    descend(F.cross_entropy(network.steps_to_go_head(hidden), bins[rows]), optimiser, outlook, math.inf)
            optimiser.zero_grad()
            progress["taught"] += bool(len(known))
        else:
            run.note(f"The round of version {version} held no step to learn from.", level="warning")

        # --- save version + 1: first its file, then the state that names it, so that a crash repeats just this update
        successor = next_description(origin, version + 1, recipe, progress["taught"], parent=policy.id)
        save_checkpoint(policy_path(run, version + 1), network, successor)
        progress |= {
            "version": version + 1,
            "consumed": [*progress["consumed"], *consumed],
            "episodes": progress["episodes"] + handed_in,
            "stale": progress["stale"] + stale,
        }
        progress["update"] = {
            "version": version + 1,
            "episodes": progress["episodes"],
            "steps": steps,
            "mean_return": float(np.mean([each.rewards.sum() for each in learned])) if learned else None,
            "detected_rate": sum(episode.detected_success for episode in episodes) / max(1, len(episodes)),
            "loss": float(np.mean(losses)) if losses else None,
            "stale": stale,
            "left_out": len(left_out),
        }
        save_state(state, progress, optimiser, generator, **modules)
        run.log("update", **progress["update"])
        countdown.tell(progress["episodes"])

    summary = {
        "version": progress["version"],
        "practice_episodes": progress["episodes"],
        "stale": progress["stale"],
        "wall_s": round(time.monotonic() - started, 1),
    }
    if evaluations:
        best = best_version(evaluations)
        final = evaluations[max(evaluations)]
        summary |= {"success": final["successes"] / final["n"], "kept_version": best}
        countdown = Countdown(run, "final evaluation", 2)
        for judged, (name, version) in enumerate((("start", 0), ("kept", best))):
            countdown.tell(judged)
            policy = Policy.load(policy_path(run, version))
            result = evaluate_for(
                run,
                policy,
                tasks,
                recipe.evaluation_episodes,
                recipe.evaluation_seed + FRESH_SEEDS,
                **as_practised,
            )
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
    run.log("done", **summary)
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
        episodes = read_episodes(path)
    except EpisodeError as error:
        note(f"{path.name} is left out: {error}", level="warning")
        return []
    return [each for each in episodes if fits(each, policy, note) and each.purpose == "practice"]


def fits(episode: Episode, policy: Policy, note: Callable[..., None]) -> bool:
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


def outlook_of(episode: Episode, policy: Policy) -> np.ndarray:
    """[T + 1] int64, -1 throughout where nobody knows what would have come of the attempt."""
    if not episode.detected_success and episode.ending not in FAILURES:
        return np.full(episode.steps + 1, -1)
    sizes, width = policy.description.sizes, policy.description.bin_width
    bins = steps_to_go.outlook_bins(episode.steps, episode.detected_success, sizes["bins"], width).numpy()
    if episode.ending == "hopeless":
        # The frames that ended it were the outlook's own word: there only attempts that were tried out may speak.
        bins[-CONFIRMED_FRAMES:] = -1
    return bins


def past_the_peak(evaluations: dict[int, dict], patience: int) -> bool:
    """The guard: whether the last `patience` evaluations all lie below the lower bound of the best one's interval.

    The shaped return goes on rising while true success falls, and so does the detector's rate; only attempts that are
    judged independently show it. One bad evaluation is luck, several in a row are not.
    """
    best = best_version(evaluations)
    later = [evaluations[version] for version in sorted(evaluations) if version > best]
    return len(later) >= patience > 0 and all(
        each["successes"] / each["n"] < evaluations[best]["low"] for each in later[-patience:]
    )


def next_description(
    origin: Description, version: int, recipe: ImproveRecipe, taught: int, parent: str = ""
) -> Description:
    """A new version, under a new id, otherwise as the SFT policy it descends from."""
    return Description(
        role="policy",
        version=version,
        embodiment=origin.embodiment,
        vocabulary=origin.vocabulary,
        tasks=origin.tasks,
        sizes=origin.sizes,
        bin_width=origin.bin_width,
        threshold=origin.threshold,
        consecutive=origin.consecutive,
        recipe=recipe.to_json(),
        parent=parent or origin.id,
        taught=taught,
    )


def best_version(evaluations: dict[int, dict]) -> int:
    """The version with the best evaluation, the later one of equals."""
    return max(evaluations, key=lambda version: (evaluations[version]["successes"], version))


def policy_path(run: RunDir, version: int):
    return run.checkpoints / f"policy-{version:06d}.safetensors"


def forget_old_checkpoints(run: RunDir, version: int, evaluations: dict) -> None:
    """Evaluated versions stay for good, the others until a few newer are out: thousands of rounds must fit a disk."""
    old = version - NEWEST_KEPT
    if old > 0 and old not in evaluations:
        policy_path(run, old).unlink(missing_ok=True)
