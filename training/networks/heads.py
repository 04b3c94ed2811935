"""The action head: p(a | o, g) over action tokens, of one action or of a chunk of several that follow each other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import computing

LOG_DEVIATIONS = (-5.0, 1.0)  # of a Gaussian before it is squashed
FULLEST = 0.99  # share of the reach, beyond which tanh can't be undone
SHARPEST = 0.3  # of the way from a token to the next: the least spread of a relative number


class ActionHead(nn.Module):
    """Action tokens, each number's after those before it, of the first action of a chunk, then of the second, and so
    on. A token is one of `bins` values over its number's range.

    So the first m actions of a chunk have a probability of their own: whoever executes m of K needs no more.
    """

    middle: Tensor  # [A] of each range
    reach: Tensor  # [A] from it to each side
    temperature = 1.0  # by which what the tokens' logits say is divided; of a policy that acts below 1 (checkpoints.py)

    def __init__(self, width: int, ranges: Sequence[tuple[float, float]], bins: int, chunk: int):
        super().__init__()
        self.bins, self.chunk, self.size = bins, chunk, len(ranges)
        self.computing = computing.now()
        self.heads = nn.ModuleList(nn.Linear(width + i * bins, bins) for i in range(chunk * len(ranges)))
        self.encoding = bins  # numbers by which a critic is told a token
        low, high = torch.tensor(ranges, dtype=torch.float64).T
        self.register_buffer("middle", ((low + high) / 2).float(), persistent=False)
        self.register_buffer("reach", ((high - low) / 2).float(), persistent=False)

    def scale_as(self, told: Tensor, counts: Tensor) -> None:
        """Nothing of it is scaled."""

    def tokens(self, actions: Tensor) -> Tensor:
        """The nearest token of each number. [..., m, A] in the body's units -> [..., m, A]"""
        share = ((actions - self.middle) / self.reach).clamp(-1, 1)
        return ((share + 1) / 2 * (self.bins - 1)).round().long()

    def actions(self, tokens: Tensor) -> Tensor:
        """The number that each token stands for. [..., m, A] -> [..., m, A]"""
        return (tokens.float() / (self.bins - 1) * 2 - 1) * self.reach + self.middle

    def encoded(self, tokens: Tensor) -> Tensor:
        """As a critic is told them. [n, m, A] -> [n, m, A encoding]"""
        return F.one_hot(tokens, self.bins).flatten(2).float()

    def log_probability(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """log p(a | o, g) of the first m actions of a chunk, of which row i has counts[i] (all, if not given), as it
        acts. [n, width], [n, m, A], [n] -> [n]
        """
        return self._likely(hidden, tokens, counts, self.temperature)

    def imitated(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """What cloning raises: the same at a temperature of 1. What is imitated spreads as it does, and a policy that
        acts with less of that must not learn to spread more.
        """
        return self._likely(hidden, tokens, counts, 1.0)

    def _likely(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
        total = hidden.new_zeros(len(hidden))
        for i, (head, token) in enumerate(zip(self.heads, tokens.flatten(1).unbind(1), strict=False)):
            each = -F.cross_entropy(self._logits(head, hidden, temperature), token, reduction="none")
            # What comes after a row's own actions counts nothing; that it is told to the heads behind changes nothing.
            total = total + (each if counts is None else each * (counts > i // self.size))
            hidden = torch.cat([hidden, F.one_hot(token, self.bins).float()], 1)
        return total

    def sample(self, hidden: Tensor, generator: torch.Generator | None, greedy: bool, count: int) -> Tensor:
        """The first `count` actions of a chunk. [n, width] -> tokens [n, count, A]"""
        tokens, sound = [], hidden.new_ones((), dtype=torch.bool)
        for head in self.heads[: count * self.size]:
            logits = self._logits(head, hidden, self.temperature)
            token, sound = _drawn(logits, generator, greedy), sound & logits.isfinite().all()
            tokens.append(token)
            hidden = torch.cat([hidden, F.one_hot(token, self.bins).float()], 1)
        _refuse_nan(sound, greedy)
        return torch.stack(tokens, 1).unflatten(1, (count, self.size))

    def _logits(self, head: nn.Module, hidden: Tensor, temperature: float) -> Tensor:
        with self.computing.layers():
            logits = head(hidden)
        return logits.float() / temperature

    def first(self, hidden: Tensor) -> Tensor:
        """p of each token of the first action's numbers, each after the likeliest of those before it.
        [1, width] -> [A, bins]
        """
        shares = []
        for head in self.heads[: self.size]:
            p = self._logits(head, hidden, self.temperature).softmax(1)
            shares.append(p[0])
            hidden = torch.cat([hidden, F.one_hot(p.argmax(1), self.bins).float()], 1)
        return torch.stack(shares)


class JointHead(nn.Module):
    """The same of a body some of whose numbers are relative (Motion.relative): joints that are told how far to go.

    A relative number's range is that of one step's change, and its token says how far from what the token of the action
    before it came to; of the first action, from 0: whoever calls tells such numbers from where the body is. So what one
    token is off by the next makes good, and a chunk goes far by few bins.

    Its tokens lie in an order, and their probabilities are those of a logistic distribution at the tokens: a mean,
    which says where the number shall come to, and a spread. Seventy tokens of two arms are learned so from hundreds of
    demonstrations, where one logit for each token inserted nothing. The other numbers, such as a gripper's, have a
    logit for each token. Given what was reached so far no number hangs on another.
    """

    middle: Tensor  # [A] of each range
    reach: Tensor  # [A] from it to each side
    follows: Tensor  # [A] 1 where a number is relative, else 0
    relative: Tensor  # [R] which numbers are
    others: Tensor  # [A - R]
    mean: Tensor  # [K, R] of where relative numbers come to in demonstrations
    deviation: Tensor  # [K, R]
    temperature = 1.0

    def __init__(
        self, width: int, ranges: Sequence[tuple[float, float]], bins: int, chunk: int, relative: Sequence[bool]
    ):
        super().__init__()
        self.bins, self.chunk, self.size = bins, chunk, len(ranges)
        self.computing = computing.now()
        self.encoding = 1
        low, high = torch.tensor(ranges, dtype=torch.float64).T
        self.register_buffer("middle", ((low + high) / 2).float(), persistent=False)
        self.register_buffer("reach", ((high - low) / 2).float(), persistent=False)
        chosen = torch.tensor(relative)
        self.register_buffer("relative", chosen.nonzero()[:, 0], persistent=False)
        self.register_buffer("others", (~chosen).nonzero()[:, 0], persistent=False)
        self.register_buffer("follows", chosen.float(), persistent=False)
        count, rest = len(self.relative), len(self.others)
        self.register_buffer("mean", torch.zeros(chunk, count))
        self.register_buffer("deviation", self.reach[self.relative].expand(chunk, count).clone())
        self.told = nn.Linear(width, chunk * (2 * count + rest * bins))

    def scale_as(self, told: Tensor, counts: Tensor) -> None:
        """Where relative numbers come to is as in these chunks, of which row i has counts[i] actions. [F, K, A], [F]"""
        for place in range(self.chunk):
            there = told[counts > place, place][:, self.relative]
            if len(there) > 1:
                self.mean[place] = there.mean(0)
                self.deviation[place] = there.std(0).clamp(min=float(self._width.min()) / 2)

    @property
    def _width(self) -> Tensor:
        """From a token of each relative number to the next. [R]"""
        return 2 * self.reach[self.relative] / (self.bins - 1)

    def tokens(self, actions: Tensor) -> Tensor:
        """As of ActionHead."""
        tokens, reached = [], torch.zeros_like(actions[..., 0, :])
        for action in actions.unbind(-2):
            share = ((action - reached - self.middle) / self.reach).clamp(-1, 1)
            tokens.append(((share + 1) / 2 * (self.bins - 1)).round().long())
            reached = reached + self.follows * self._values(tokens[-1])
        return torch.stack(tokens, -2)

    def actions(self, tokens: Tensor) -> Tensor:
        """As of ActionHead."""
        values = self._values(tokens)
        return torch.where(self.follows > 0, values.cumsum(-2), values)

    def _values(self, tokens: Tensor) -> Tensor:
        return (tokens.float() / (self.bins - 1) * 2 - 1) * self.reach + self.middle

    def encoded(self, tokens: Tensor) -> Tensor:
        """As a critic is told them: where each number shall come to, scaled. [n, m, A] -> [n, m, A]"""
        actions, m = self.actions(tokens), tokens.shape[1]
        scaled = (actions - self.middle) / self.reach
        scaled[..., self.relative] = (actions[..., self.relative] - self.mean[:m]) / self.deviation[:m]
        return scaled

    def _parts(self, hidden: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the first m actions: means [n, m, R], spreads [n, m, R], the others' logits [n, m, A - R, bins]."""
        with self.computing.layers():
            told = self.told(hidden)
        parts = told.float().unflatten(1, (self.chunk, -1))[:, :m]
        mean, spread, others = parts.split([len(self.relative)] * 2 + [len(self.others) * self.bins], 2)
        spread = spread.clamp(-6, 4).exp() * self.deviation[:m] + SHARPEST * self._width
        return mean * self.deviation[:m] + self.mean[:m], spread, others.unflatten(2, (len(self.others), self.bins))

    def _logits(self, mean: Tensor, spread: Tensor, reached: Tensor) -> Tensor:
        """Of relative numbers' tokens: the logarithm of the logistic density at each. [..., R] -> [..., R, bins]"""
        reach, middle = self.reach[self.relative], self.middle[self.relative]
        change = torch.minimum(torch.maximum(mean - reached, middle - reach), middle + reach)
        steps = torch.linspace(-1, 1, self.bins, device=mean.device)
        values = steps * reach[:, None] + middle[:, None]  # [R, bins]
        away = ((values - change[..., None]) / (2 * spread[..., None])).abs()
        return -2 * (away + F.softplus(-2 * away))

    def _each(self, hidden: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """log p of relative numbers [n, m, R] and of the others [n, m, A - R], and the spreads [n, m, R]."""
        mean, spread, others = self._parts(hidden, tokens.shape[1])
        chosen = self._values(tokens)[..., self.relative]
        before = chosen.cumsum(1) - chosen
        logits = self._logits(mean, temperature * spread, before).log_softmax(-1)
        likely = logits.gather(-1, tokens[..., self.relative, None])[..., 0]
        others = (others / temperature).log_softmax(-1)
        return likely, others.gather(-1, tokens[..., self.others, None])[..., 0], spread

    def log_probability(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """As of ActionHead."""
        likely, others, _ = self._each(hidden, tokens, self.temperature)
        return self._summed(likely.sum(2) + others.sum(2), counts)

    def imitated(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """As of ActionHead, each relative number's part times its spread over its deviation, through which no gradient
        goes. Else the few numbers that are told most exactly are all that is learned: of 180 demonstrations 0 in place
        of 8 of 40 insertions. (Seitzer et al., arXiv 2203.09168, equation 5 with beta = 0.5.)
        """
        likely, others, spread = self._each(hidden, tokens)
        weighed = likely * (spread.detach() / self.deviation[: tokens.shape[1]])
        return self._summed(weighed.sum(2) + others.sum(2), counts)

    def _summed(self, each: Tensor, counts: Tensor | None) -> Tensor:
        """Over a row's own actions. [n, m], [n] -> [n]"""
        if counts is not None:
            each = each * (torch.arange(each.shape[1], device=each.device) < counts[:, None])
        return each.sum(1)

    def sample(self, hidden: Tensor, generator: torch.Generator | None, greedy: bool, count: int) -> Tensor:
        """As of ActionHead."""
        mean, spread, others = self._parts(hidden, count)
        _refuse_nan(mean.isfinite().all() & spread.isfinite().all() & others.isfinite().all(), greedy)
        tokens = torch.zeros(len(hidden), count, self.size, dtype=torch.long, device=hidden.device)
        tokens[..., self.others] = _drawn(others / self.temperature, generator, greedy)
        reached = torch.zeros_like(mean[:, 0])
        for place in range(count):
            logits = self._logits(mean[:, place], self.temperature * spread[:, place], reached)
            tokens[:, place, self.relative] = _drawn(logits, generator, greedy)
            reached = reached + self._values(tokens[:, place])[:, self.relative]
        return tokens

    def first(self, hidden: Tensor) -> Tensor:
        """As of ActionHead."""
        mean, spread, others = self._parts(hidden, 1)
        shares = torch.zeros(self.size, self.bins, device=hidden.device)
        shares[self.relative] = self._logits(
            mean[0, 0], self.temperature * spread[0, 0], torch.zeros_like(mean[0, 0])
        ).softmax(-1)
        shares[self.others] = (others[0, 0] / self.temperature).softmax(-1)
        return shares


class GaussianHead(nn.Module):
    """Continuous actions, as actor-critic methods have them: of each number a Gaussian, squashed by tanh into its range
    (Haarnoja et al., arXiv 1801.01290, appendix C). Of its own numbers a chunk's are independent.

    Where the other heads have tokens it has shares of the reach, from -1 to 1: they are what a critic is told.
    """

    middle: Tensor  # [A] of each range
    reach: Tensor  # [A] from it to each side
    temperature = 1.0

    def __init__(self, width: int, ranges: Sequence[tuple[float, float]], bins: int, chunk: int):
        super().__init__()
        self.bins, self.chunk, self.size = bins, chunk, len(ranges)
        self.computing = computing.now()
        self.encoding = 1
        low, high = torch.tensor(ranges, dtype=torch.float64).T
        self.register_buffer("middle", ((low + high) / 2).float(), persistent=False)
        self.register_buffer("reach", ((high - low) / 2).float(), persistent=False)
        self.told = nn.Linear(width, 2 * chunk * self.size)

    def scale_as(self, told: Tensor, counts: Tensor) -> None:
        """Nothing of it is scaled."""

    def tokens(self, actions: Tensor) -> Tensor:
        """Shares of the reach. [..., m, A] in the body's units -> [..., m, A]"""
        return ((actions - self.middle) / self.reach).clamp(-1, 1)

    def actions(self, tokens: Tensor) -> Tensor:
        """As of ActionHead."""
        return tokens * self.reach + self.middle

    def encoded(self, tokens: Tensor) -> Tensor:
        """As a critic is told them. [n, m, A] -> [n, m, A]"""
        return tokens

    def _parts(self, hidden: Tensor, m: int) -> tuple[Tensor, Tensor]:
        """Of the first m actions before they are squashed: means and logarithms of deviations. [n, m, A] each"""
        with self.computing.layers():
            told = self.told(hidden)
        mean, log_deviation = told.float().unflatten(1, (self.chunk, -1))[:, :m].chunk(2, 2)
        return mean, log_deviation.clamp(*LOG_DEVIATIONS)

    def log_probability(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """As of ActionHead: the logarithm of the density over shares of the reach."""
        return self._likely(hidden, tokens, counts, self.temperature)

    def imitated(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """As of ActionHead."""
        return self._likely(hidden, tokens, counts, 1.0)

    def _likely(self, hidden: Tensor, tokens: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
        mean, log_deviation = self._parts(hidden, tokens.shape[1])
        raw = tokens.clamp(-FULLEST, FULLEST).atanh()
        each = squashed(raw, mean, log_deviation + math.log(temperature))
        if counts is not None:
            each = each * (torch.arange(each.shape[1], device=each.device) < counts[:, None])
        return each.sum(1)

    def sample(self, hidden: Tensor, generator: torch.Generator | None, greedy: bool, count: int) -> Tensor:
        """As of ActionHead."""
        mean, log_deviation = self._parts(hidden, count)
        _refuse_nan(mean.isfinite().all() & log_deviation.isfinite().all(), greedy)
        if greedy:
            return mean.tanh()
        noise = computing.onto(mean.device, torch.randn(mean.shape, generator=generator))
        return (mean + self.temperature * log_deviation.exp() * noise).tanh()

    def explored(self, hidden: Tensor, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Shares that gradients go through, and their log density. [n, width] -> [n, count, A], [n]"""
        mean, log_deviation = self._parts(hidden, count)
        noise = computing.onto(mean.device, torch.randn(mean.shape, generator=generator))
        raw = mean + log_deviation.exp() * noise
        return raw.tanh(), squashed(raw, mean, log_deviation).sum(1)

    def first(self, hidden: Tensor) -> Tensor:
        """As of ActionHead, of `bins` values that lie evenly over each range."""
        mean, log_deviation = self._parts(hidden, 1)
        values = torch.linspace(-FULLEST, FULLEST, self.bins, device=hidden.device)
        away = (values.atanh() - mean[0, 0, :, None]) / (self.temperature * log_deviation[0, 0, :, None].exp())
        return (-(away**2) / 2 - (1 - values**2).log()).softmax(-1)


def squashed(raw: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """log density of tanh(raw), of each action. [n, m, A] each -> [n, m]"""
    gaussian = -(((raw - mean) / log_deviation.exp()) ** 2) / 2 - log_deviation - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(u)^2), without the loss of digits far out
    return (gaussian - 2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(2)


def _drawn(logits: Tensor, generator: torch.Generator | None, greedy: bool) -> Tensor:
    """A token of each row of logits, or the likeliest. [..., bins] -> [...]"""
    return logits.argmax(-1) if greedy else drawn(logits.softmax(-1), generator)


def drawn(shares: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of each row's choices, each as likely as its share. What chance says comes from the processor, and is what
    torch.multinomial would draw there with the same generator. [..., choices] -> [...]
    """
    chance = torch.empty(shares.shape).exponential_(generator=generator)
    return (shares / computing.onto(shares.device, chance)).argmax(-1)


def _refuse_nan(sound: Tensor, greedy: bool) -> None:
    """Nothing is drawn by probabilities that are none. Asked once for all tokens: a graphics card is waited for. []"""
    if not greedy and not sound:
        raise RuntimeError("The probabilities of actions are no numbers.")
