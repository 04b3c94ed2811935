"""Stage 2, self-improvement: practice episodes, labelled by the frozen reward model -> a better policy, and again.

    publish version v
    wait        until the stations have handed in a round of episodes, all acted by version v
    label       d at each observation, rewards, returns R_t
    criticise   the advantage: R_t less what the critic expected; then the critic learns from the newest rounds
    update      -c A_t log p(a_t | o_t, g), clipped, over the round's steps; anchored at the policy of stage 1
    foresee     the policy's outlook, from how the round's attempts ended
    save        version v + 1, with all that a restart needs
    evaluate    every few rounds, on fixed seeds, apart from practice; stop well past the peak
    again

Strictly on-policy: episodes of an older version are dropped and counted. A person's steps never enter the gradient, and
neither does true success: in simulation it is measured apart from practice, draws the curve, and decides when to stop
and which version is kept. Read from top to bottom; a restart in the same directory goes on after the last update.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robots.episodes import CONFIRMED_FRAMES, FAILURES, Episode, EpisodeError, read_episodes
from training import steps_to_go
from training.checkpoints import (
    Description,
    Policy,
    RewardModel,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from training.critics import LEARNING_RATE as CRITIC_RATE
from training.critics import WEIGHT_DECAY as CRITIC_DECAY
from training.critics import Critic, Memory
from training.descent import descend, unlearnable
from training.evaluation import evaluate_for
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
class Round:
    """The practice steps of one policy version, ready for the gradient."""

    observations: np.ndarray  # [S, D]
    actions: np.ndarray  # [S, A]
    instructions: list[str]  # [S]
    returns: np.ndarray  # [S]
    outlook: np.ndarray  # [S] int64, steps_to_go.outlook_bins; -1 where a person ended the attempt
    episode: np.ndarray  # [S] int64, whose step it is: an index into uuids
    uuids: list[str]
    left_out: list[str] = field(default_factory=list)  # uuids of episodes whose rewards are no numbers


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
    trained = [*network.trunk.parameters(), *network.action_head.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    imitator, _ = load_checkpoint(run.start / "policy.safetensors")
    outlook = list(network.steps_to_go_head.parameters())
    for parameter in outlook:
        parameter.requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # its initial weights
        critic, memory = Critic(network.features.size), Memory()
    critic_weights = list(critic.parameters())
    optimiser = torch.optim.AdamW(
        [
            {"params": trained, "weight_decay": recipe.weight_decay},
            {"params": outlook, "lr": OUTLOOK_RATE, "weight_decay": 0.0},
            {"params": critic_weights, "lr": CRITIC_RATE, "weight_decay": CRITIC_DECAY},
        ],
        lr=recipe.learning_rate,
    )
    state = run.path / "state.safetensors"
    learners = {"network": network, "critic": critic, "memory": memory}
    progress = load_state(state, optimiser, generator, **learners)
    if progress is None:
        first = next_description(origin, 0, recipe, origin.taught)
        progress = {
            "version": 0,
            "consumed": [],  # names of the files read
            "episodes": 0,
            "stale": 0,
            "taught": origin.taught,
            "deviation": [0, 0.0, 0.0],
        }
        save_checkpoint(policy_path(run, 0), network, first)
        save_state(state, progress, optimiser, generator, **learners)
    else:
        progress.setdefault("taught", 0)  # of a state from before there was an outlook
        run.note(f"Going on with version {progress['version']}, after {progress['episodes']} practice episodes.")
    deviation = steps_to_go.RunningDeviation(*progress["deviation"])
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

    def policy_loss(perceived, actions, goals, advantages, when_acted, rows: Tensor) -> Tensor:
        seen, goal = perceived[rows], goals[rows]
        log_probability = network.log_probability(seen, goal, actions[rows])
        loss = steps_to_go.reinforce_loss(
            log_probability, when_acted[rows], advantages[rows], recipe.scale, recipe.clip
        )
        if recipe.anchor:
            frame = network.random_symmetries(len(rows), generator)
            with torch.no_grad():
                # What is no number is found out by the loss, and here it must not stop the sampling.
                hidden = imitator.hidden(seen, goal, frame).nan_to_num()
                imitated = imitator.action_head.sample(hidden, generator, greedy=False)
            agreement = network.action_head.log_probability(network.hidden(seen, goal, frame), imitated)
            loss = loss + steps_to_go.anchor_loss(agreement, recipe.scale * recipe.anchor)
        return loss

    def teach_critic(loss: Tensor) -> None:
        descend(loss, optimiser, critic_weights, math.inf)

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
        episodes, consumed, stale = gather(run, policy, progress["consumed"])
        if run.cancelled:
            run.note("canceled", level="warning")
            return {}
        steps = label(episodes, reward_model, policy, recipe.gamma, recipe.fence_cost, rewards_of or progress_rewards)
        losses, left_out = [], list(steps.left_out)
        if len(steps.returns):
            # --- criticise: the critic speaks of the round before it learns from it
            deviation.add(steps.returns)
            perceived = policy.perceive(steps.observations).clone()
            actions = torch.from_numpy(steps.actions)
            goals = policy.goals(steps.instructions).clone()
            returns = torch.from_numpy(deviation.divide(steps.returns)).float()
            expected = recipe.baseline * critic.values(network, perceived, goals)
            advantages = steps_to_go.advantages(returns, expected)
            if recipe.baseline:
                memory.add(perceived, goals, returns)
                critic.learn(network, memory, torch.Generator().manual_seed(recipe.seed + version), teach_critic)
            # --- update: steps_to_go.reinforce_loss, each step once an epoch, in random order
            with torch.no_grad():
                when_acted = network.log_probability(perceived, goals, actions)  # as yet it is the policy that acted
            spent = min(1.0, progress["episodes"] / recipe.max_episodes)
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - recipe.anneal * spent)
            episode_of = torch.from_numpy(steps.episode)
            sound = torch.ones(len(returns), dtype=torch.bool)

            loss_of = partial(policy_loss, perceived, actions, goals, advantages, when_acted)
            for _ in range(recipe.epochs):
                for rows in torch.randperm(len(returns), generator=generator).split(recipe.batch):
                    rows = rows[sound[rows]]
                    if not len(rows):
                        continue
                    loss = loss_of(rows)
                    if descend(loss, optimiser, trained):
                        losses.append(float(loss.detach()))
                        continue
                    groups = [(int(each), rows[episode_of[rows] == each]) for each in episode_of[rows].unique()]
                    bad = unlearnable(groups, loss_of, optimiser, trained)
                    sound &= ~torch.isin(episode_of, torch.tensor(bad, dtype=torch.int64))
                    left_out += [steps.uuids[each] for each in bad]
            # --- foresee: only its head learns, so that what supervisors are told can't change what the policy does
            known = torch.from_numpy(np.flatnonzero((steps.outlook >= 0) & sound.numpy()))
            bins = torch.from_numpy(steps.outlook)
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
        for name in left_out:
            run.note(f"Episode {name} is left out: what it teaches is no number.", level="warning")

        # --- save version + 1: first its file, then the state that names it, so that a crash repeats just this update
        successor = next_description(origin, version + 1, recipe, progress["taught"], parent=policy.id)
        save_checkpoint(policy_path(run, version + 1), network, successor)
        progress |= {
            "version": version + 1,
            "consumed": [*progress["consumed"], *consumed],
            "episodes": progress["episodes"] + len(episodes) + stale,
            "stale": progress["stale"] + stale,
            "deviation": [deviation.count, deviation.mean, deviation.squares],
        }
        progress["update"] = {
            "version": version + 1,
            "episodes": progress["episodes"],
            "steps": len(steps.returns),
            "mean_return": float(steps.returns.mean()) if len(steps.returns) else None,
            "detected_rate": sum(episode.detected_success for episode in episodes) / max(1, len(episodes)),
            "loss": float(np.mean(losses)) if losses else None,
            "stale": stale,
            "left_out": len(left_out),
        }
        save_state(state, progress, optimiser, generator, **learners)
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
    run: RunDir, policy: Policy, consumed: list[str], poll_s: float = 0.1
) -> tuple[list[Episode], list[str], int]:
    """Wait until the round is closed; its episodes in the order of their files, the files, and how many were stale."""
    files: dict[str, list[Episode]] = {}
    while True:
        run.wait_while_paused()
        closed = run.closed(policy.version)  # asked before looking, so that no file slips in between
        for path in run.episode_files({*consumed, *files}):
            try:
                files[path.name] = read_episodes(path)
            except EpisodeError as error:
                files[path.name] = []
                run.note(f"{path.name} is left out: {error}", level="warning")
            files[path.name] = [episode for episode in files[path.name] if _fits(run, episode, policy)]
        if closed or run.cancelled:
            break
        time.sleep(poll_s)
    practised = [episode for name in sorted(files) for episode in files[name] if episode.purpose == "practice"]
    current = [episode for episode in practised if episode.policy == policy.id]
    return current, sorted(files), len(practised) - len(current)


def _fits(run: RunDir, episode: Episode, policy: Policy) -> bool:
    try:
        episode.check_against(policy.embodiment)
    except EpisodeError as error:
        run.note(f"An episode is left out: {error}", level="warning")
        return False
    return True


def progress_rewards(episode: Episode, steps: int, reward_model: RewardModel, policy: Policy) -> np.ndarray | None:
    """r_t of the first `steps` steps: what each of them took off d, by the frozen reward model."""
    d, _ = reward_model.steps_to_go(episode.observations[: steps + 1], [episode.instruction] * (steps + 1))
    if episode.ending == "needs_reset" and steps == episode.steps:
        # A table that has to be put right is as far from the goal as can be; no demonstration shows one, so the reward
        # model can't know. Without this, practice never learned to keep blocks on the table.
        d[-1] = steps_to_go.bin_values(reward_model.description.sizes["bins"], reward_model.bin_width)[-1]
    return steps_to_go.rewards(d)


def label(
    episodes: list[Episode],
    reward_model: RewardModel,
    policy: Policy,
    gamma: float,
    fence_cost: float = 0.0,
    rewards_of: RewardsOf = progress_rewards,
) -> Round:
    """Rewards and returns of the steps before anybody but the policy acted. An action that the fence had to turn aside
    costs `fence_cost` steps: it would have pushed something off, and is to be unlearned without anything falling.
    """
    parts, left_out = [], []
    for episode in episodes:
        steps = steps_to_go.policy_steps(episode.actors)
        rewards = rewards_of(episode, steps, reward_model, policy) if steps else None
        if rewards is not None and not np.isfinite(rewards).all():
            left_out.append(episode.uuid)  # its returns would spoil the deviation of all that follow
        elif rewards is not None:
            rewards = rewards - fence_cost * episode.fenced[:steps]
            parts.append(
                Round(
                    episode.observations[:steps],
                    episode.actions[:steps],
                    [episode.instruction] * steps,
                    steps_to_go.returns(rewards, gamma),
                    outlook_of(episode, policy)[:steps],
                    np.full(steps, len(parts)),
                    [episode.uuid],
                )
            )
    if not parts:
        none = np.zeros(0, np.int64)
        return Round(np.zeros((0, 0)), np.zeros((0, 0)), [], np.zeros(0), none, none, [], left_out)
    return Round(
        np.concatenate([part.observations for part in parts]),
        np.concatenate([part.actions for part in parts]),
        [text for part in parts for text in part.instructions],
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.outlook for part in parts]),
        np.concatenate([part.episode for part in parts]),
        [part.uuids[0] for part in parts],
        left_out,
    )


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
