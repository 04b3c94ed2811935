"""AWAC from the SFT weights, with the sparse reward that a real station has: another way to practise as much as ours.

    reward  1 at a detected success, which ends the episode; 0 otherwise
    Q       <- r + gamma Q'(o', a'), a' ~ p(a | o', g); Q' the lesser of two slow copies; 0 instead of it at an end
    A       = Q(o, g, a) - V(o, g), V = the mean of Q over actions that the policy samples
    loss    = -exp(A / lambda) log p(a | o, g), over all practice so far and the demonstrations
                                                        (Nair et al., arXiv 2006.09359, equation 13)

A fall ends an episode, without reward. A time limit does not: what would have come after it is bootstrapped, as is what
would have come after a stop. A demonstration has reached its goal at its end. True success is read nowhere.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robots.episodes import Episode, read_episodes
from training.benchmarks.table_runs import STATIONS, Stage1
from training.checkpoints import Policy
from training.networks import Network, turned
from training.recipes import ImproveRecipe
from training.rehearsal import LocalStations
from training.run_dir import RunDir
from training.self_improvement import next_description


# Block2Block, seed 100, 200 practice episodes behind a fence of 10 mm: success and mean steps to it, of 200 attempts on
# the starts of table_runs.evaluation_seed. 100 updates after each of about 25 rounds.
#
#   lambda  rate  polyak   10 demonstrations, limit 160   50, limit 160   50, limit 60
#   (stage 1)              .77, 77 steps                  .98, 60         .585
#   .05     3e-4  .005     -                              .98, 47         -
#   .05     1e-4  .05      .97, 50                        -               -
#   .05     3e-4  .05      .99, 51                        .99, 42         .86, 35
#   .2      3e-4  .05      .935, 66                       -               -
#   .02     3e-4  .05      .985, 41                       .975, 35        .92, 32
#
# With polyak .005 the slow copies don't reach what a success is worth tens of steps before it: Q was .1 on average
# after 2,000 updates on 50 demonstrations and 204 practice episodes. Differences of Q are small: there 90 % of A lay
# in -.04 to .09. PPO by stage 2's own learner, with the same reward: .97 and 57 steps, .985 and 38, .87 and 33.
# More updates a round, other rates of Q and other discounts were not tried.
@dataclass(frozen=True)
class Settings:
    gamma: float = 0.98
    temperature: float = 0.02  # lambda
    largest_weight: float = 20.0  # of exp(A / lambda)
    updates: int = 100  # after each round, of Q and of the policy
    warm_up: int = 1000  # updates of Q alone, on the demonstrations, before practice
    batch: int = 256
    learning_rate: float = 3e-4  # of the policy, Adam
    critic_rate: float = 1e-3
    polyak: float = 0.05  # share by which the slow copies follow, each update
    samples: int = 4  # actions whose mean Q is V
    width: int = 128  # of Q's two layers


SETTINGS = Settings()


@dataclass
class Practised:
    episodes: int  # that made the policy
    policy: Policy
    practice: list[Episode]
    wall_s: float
    env_steps: int


class TwinQ(nn.Module):
    """Two Q networks over what the policy's trunk reads and one-hot action tokens; the lesser one is believed."""

    def __init__(self, features: int, tokens: int, bins: int, width: int):
        super().__init__()
        self.bins = bins
        self.both = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(features + tokens * bins, width), nn.LayerNorm(width), nn.GELU()),
                *(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()),
                nn.Linear(width, 1),
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """[n, features], [n, A] -> [2, n]"""
        seen = torch.cat([features, F.one_hot(tokens, self.bins).flatten(1).float()], 1)
        return torch.stack([each(seen)[:, 0] for each in self.both])

    def least(self, features: Tensor, tokens: Tensor) -> Tensor:
        """[n, features], [n, A] -> [n]"""
        return self(features, tokens).min(0).values


class Replay:
    """Every step so far, as seen from each of the body's sides (Network.frames). The features have no weights, so they
    are worked out once.
    """

    def __init__(self):
        self.parts: list[tuple[Tensor, ...]] = []

    def add(self, policy: Policy, episodes: Sequence[Episode]) -> None:
        self.parts += [steps_of(policy, episode) for episode in episodes if episode.steps]
        self.parts = [tuple(map(torch.cat, zip(*self.parts, strict=True)))] if self.parts else []

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """n random steps: the features of all sides before and after, the tokens of all sides, reward, going on."""
        rows = torch.randint(len(self.parts[0][0]), (n,), generator=generator)
        return tuple(part[rows] for part in self.parts[0])


@torch.no_grad()
def steps_of(policy: Policy, episode: Episode) -> tuple[Tensor, ...]:
    """Of T steps: features before [T, S, features] and after [T, S, features] from each of S sides, action tokens
    [T, S, A], reward [T], and going on [T], 0 where nothing comes after the step.
    """
    network, length = policy.network, episode.steps
    perceived = policy.perceive(episode.observations).clone()
    goals = policy.goals([episode.instruction]).clone().expand(length + 1, -1)
    features = torch.stack([network.features(perceived, goals, frame) for frame in network.frames(length + 1)], 1)
    actions = torch.from_numpy(episode.actions)
    seen = [actions if frame is None else turned(frame, actions) for frame in network.frames(length)]
    tokens = torch.stack([network.action_head.tokens(each) for each in seen], 1)
    succeeded = episode.detected_success or episode.purpose == "demonstration"
    reward, going_on = torch.zeros(length), torch.ones(length)
    reward[-1] = float(succeeded)
    going_on[-1] = float(not succeeded and episode.ending != "needs_reset")
    return features[:-1], features[1:], tokens, reward, going_on


class Learner:
    """The policy's trunk and action head, and its critics.

    A step is seen from one random side each time it is used (network.random_symmetries, by index). For the policy that
    is an eighth of the cost of network.log_probability. It is right since the log of the even mixture over the sides is
    at least the mean of the sides' logs (Jensen): the loss is an upper bound of the exact one, and the one by which
    stage 1 imitates. And the even mixture is what acts: a random side, then an action as seen from there.
    """

    def __init__(self, network: Network, seed: int, settings: Settings):
        self.network, self.settings = network, settings
        self.generator = torch.Generator().manual_seed(seed)
        head = network.action_head
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # Q's initial weights
            self.q = TwinQ(network.features.size, len(head.heads), head.bins, settings.width)
        self.slow = copy.deepcopy(self.q).requires_grad_(False)
        self.acting = [*network.trunk.parameters(), *head.parameters()]
        for parameter in self.acting:
            parameter.requires_grad_(True)
        self.actor = torch.optim.Adam(self.acting, settings.learning_rate)
        self.critic = torch.optim.Adam(self.q.parameters(), settings.critic_rate)

    def update(self, replay: Replay, acting: bool = True) -> None:
        """One of Q, then, if `acting`, one of the policy on the same steps."""
        settings = self.settings
        before, after, tokens, reward, going_on = replay.sample(settings.batch, self.generator)
        each = torch.arange(settings.batch)
        side = self.sides(before, settings.batch)
        seen, token = before[each, side], tokens[each, side]
        with torch.no_grad():
            following = after[each, side]
            # A return is a discounted success: 0 to 1.
            later = self.slow.least(following, self.sampled(following)).clamp(0, 1)
            target = reward + settings.gamma * going_on * later
        descend(F.mse_loss(self.q(seen, token), target.expand(2, -1)), self.critic)
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.q.parameters(), strict=True):
                slow.lerp_(fast, settings.polyak)
        if not acting:
            return
        with torch.no_grad():
            # V is of the mixture, so each sampled action is of a side of its own.
            many = each.repeat(settings.samples)
            others = before[many, self.sides(before, len(many))]
            value = self.q.least(others, self.sampled(others)).unflatten(0, (settings.samples, -1)).mean(0)
            advantage = self.q.least(seen, token) - value
            weight = (advantage / settings.temperature).exp().clamp(max=settings.largest_weight)
        log_probability = self.network.action_head.log_probability(self.network.trunk(seen), token)
        descend(-(weight * log_probability).mean(), self.actor)

    def sides(self, features: Tensor, n: int) -> Tensor:
        """[..., S, features] -> [n], random ones"""
        return torch.randint(features.shape[-2], (n,), generator=self.generator)

    def sampled(self, features: Tensor) -> Tensor:
        """Actions of the policy, as seen from the features' side. [n, features] -> tokens [n, A]"""
        return self.network.action_head.sample(self.network.trunk(features), self.generator, greedy=False)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def awac(
    path: Path,
    begin: Stage1,
    seed: int,
    episodes: int,
    time_limit: int,
    tasks: Sequence[str],
    rules: dict | None = None,
    settings: Settings = SETTINGS,
) -> Practised:
    """Just so many practice episodes, on the stations and in the rounds of stage 2 (table_runs.stage2). Nothing is
    chosen by success: the last policy counts. `rules`: of the tasks, as LocalStations takes them.
    """
    started = time.monotonic()
    recipe = ImproveRecipe(seed=seed, max_episodes=episodes, tasks=",".join(tasks), time_limit=time_limit)
    run = RunDir.create(path, recipe)
    origin = begin.policy.description
    learner = Learner(copy.deepcopy(begin.policy.network), seed, settings)
    replay, practice, env_steps = Replay(), [], 0
    for file in sorted(begin.run.data.glob("*.safetensors")):
        replay.add(begin.policy, read_episodes(file))
    for _ in range(settings.warm_up):
        learner.update(replay, acting=False)

    def published(version: int, parent: str) -> Policy:
        network = copy.deepcopy(learner.network).eval().requires_grad_(False)
        return Policy(network, next_description(origin, version, recipe, origin.taught, parent))

    policy = published(0, origin.id)
    stations = LocalStations(list(tasks), STATIONS, seed, time_limit, rules)
    try:
        while len(practice) < episodes and not run.cancelled:
            stations(run, policy, begin.reward_model, recipe.steps_per_round)
            env_steps += sum(episode.steps for episode in stations.episodes)
            new = stations.episodes[: episodes - len(practice)]
            practice += new
            replay.add(policy, new)
            for _ in range(settings.updates):
                learner.update(replay)
            policy = published(policy.version + 1, policy.id)
    finally:
        stations.close()
    return Practised(len(practice), policy, practice, time.monotonic() - started, env_steps)
