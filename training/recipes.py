"""Recipes: the frozen settings of a run, checked before anything starts.

A launch form, a script or a test makes one; it lies in the run directory as recipe.json, and the method that it is of
(methods/registry.py) reads nothing else. This module knows no torch, so that the web process may import it.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from robots.rules import RULES

OBSERVE = ("all", "state", "cameras")  # what of a body's observation is learned from
# Of a pretrained model: nothing but our heads on top of it, adapters beside its layers too, or all of it.
TRAINED = ("heads", "lora", "all")
ACTION_HEADS = ("tokens", "gaussian")
PROBED_BY = ("musel", "total", "progress", "var_f", "random")  # gaussian_process.py has them
GROUPINGS = ("embedding", "command")  # of trials into tasks
LABEL_SOURCES = ("any", "human", "sensor", "classifier")
PROPOSERS = ("known_positions", "words_and_colours", "http")  # of keypoints
DEVICES, PRECISIONS = ("cpu", "cuda", "mps"), ("fp32", "bf16")

# Settings that a stored recipe may call as older code did.
RENAMED = {"sight_steps": "perception_steps"}


class RecipeError(ValueError):
    """A recipe that can't be run: `problems` maps each bad field to a sentence that says what to write instead."""

    def __init__(self, problems: dict[str, str]):
        self.problems = problems
        super().__init__(" ".join(problems.values()))


@dataclass(frozen=True)
class Field:
    """What a launch form shows and checks for one setting."""

    name: str
    label: str
    help: str
    type: type
    default: Any
    minimum: float | None
    maximum: float | None


def setting(default: Any, label: str, help: str, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field of a recipe, as launch forms show and check it."""
    return dataclasses.field(
        default=default, metadata={"label": label, "help": help, "minimum": minimum, "maximum": maximum}
    )


@functools.cache
def _fields_of(recipe: type) -> dict[str, Field]:
    return {
        field.name: Field(
            field.name,
            field.metadata["label"],
            field.metadata["help"],
            type(field.default),
            field.default,
            field.metadata["minimum"],
            field.metadata["maximum"],
        )
        for field in dataclasses.fields(recipe)
    }


class _Fields:
    """Of whichever recipe is asked: what its dataclass declares."""

    def __get__(self, recipe: object, kind: type) -> dict[str, Field]:
        return _fields_of(kind)


def device_setting() -> Any:
    """Where networks compute, of any method."""
    return setting("cpu", "Device", "Where networks compute: cpu, cuda (NVIDIA) or mps (Apple).")


def precision_setting() -> Any:
    """How exactly they do."""
    return setting(
        "fp32", "Precision", "In which numbers layers compute: fp32, or bf16, which is faster on graphics cards."
    )


class Recipe:
    """A method's own is a frozen dataclass of settings, with the method's name as KIND."""

    KIND: ClassVar[str]
    FIELDS = _Fields()

    @property
    def steps_per_round(self) -> int:
        """How many practice steps of one policy version make a round; 0: no number closes it."""
        return 0

    def __post_init__(self) -> None:
        problems = {}
        for field in self.FIELDS.values():
            value, problem = _checked(field, getattr(self, field.name))
            if problem:
                problems[field.name] = problem
            else:
                object.__setattr__(self, field.name, value)
        if problems:
            raise RecipeError(problems)

    def _choose(self, **choices: tuple[str, ...]) -> None:
        """Each of these settings is one of its choices; the first, where a form sends what was left empty."""
        for name, known in choices.items():
            if not getattr(self, name):
                object.__setattr__(self, name, known[0])
            if getattr(self, name) not in known:
                said = f"{name} is {getattr(self, name)!r}; write one of {', '.join(known)}."
                raise RecipeError({name: said})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Settings that are missing take their defaults; unknown ones are refused: most likely misspelt."""
        if not isinstance(data, dict):
            raise RecipeError({"recipe": 'A recipe is an object of settings, for example {"seed": 1}.'})
        settings = {RENAMED.get(name, name): value for name, value in data.items() if name != "kind"}
        if data.get("kind", cls.KIND) != cls.KIND:
            raise RecipeError({"kind": f"kind is {data['kind']!r}; this recipe needs kind {cls.KIND!r}."})
        unknown = {
            name: f"{name} is no setting of a {cls.KIND} recipe; remove it."
            for name in settings
            if name not in cls.FIELDS
        }
        try:
            recipe = cls(**{name: value for name, value in settings.items() if name in cls.FIELDS})
        except RecipeError as error:
            raise RecipeError(unknown | error.problems) from None
        if unknown:
            raise RecipeError(unknown)
        return recipe

    def to_json(self) -> dict[str, Any]:
        """The content of recipe.json."""
        return {"kind": self.KIND} | {name: getattr(self, name) for name in self.FIELDS}


def _checked(field: Field, value: Any) -> tuple[Any, str]:
    """The value in its field's type, or the sentence that says why not. Forms send text, JSON sends numbers."""
    if field.type is str:
        return (value, "") if isinstance(value, str) else (None, f"{field.name} must be text.")
    kind = "a whole number" if field.type is int else "a number"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None, f"{field.name} must be {kind}, not {value!r}."
    whole = math.isfinite(number) and number == int(number)
    if isinstance(value, bool) or not math.isfinite(number) or (field.type is int and not whole):
        return None, f"{field.name} must be {kind}, not {value!r}."
    if field.minimum is not None and number < field.minimum:
        return None, f"{field.name} is {value}; it must be at least {field.minimum}."
    if field.maximum is not None and number > field.maximum:
        return None, f"{field.name} is {value}; it must be at most {field.maximum}."
    return field.type(number), ""


@dataclass(frozen=True)
class SFTRecipe(Recipe):
    """Stage 1: demonstrations -> a policy and a reward model."""

    seed: int = setting(0, "Seed", "The same seed on the same data gives the same weights.", 0, 2**31 - 1)
    steps: int = setting(
        2000, "Updates", "How many updates of the networks, on actions and on steps to go.", 1, 10_000_000
    )
    # On 10 demonstrations (seeds 100 to 102) 2,000 updates use each step 360 times: d of other demonstrations was off
    # by 12.9 steps, and d <= 3 found .75 of their ends without being early; after 600 updates, 11.7 steps and .88.
    passes: int = setting(
        100,
        "Passes",
        "The most often that a recorded step is learned from: few demonstrations are learned by heart otherwise.",
        1,
        1_000_000,
    )
    batch: int = setting(
        256, "Batch size", "Recorded steps per update: half train the actions, half the steps to go.", 2, 65_536
    )
    learning_rate: float = setting(
        1e-3, "Learning rate", "How large the first updates are (AdamW); it falls to zero by the end.", 1e-6, 1.0
    )
    weight_decay: float = setting(
        1e-2, "Weight decay", "How strongly weights are pulled towards zero (AdamW).", 0.0, 1.0
    )
    perception_steps: int = setting(
        300,
        "Grounding updates, pictures",
        "For camera images: updates that teach which thing a word means, in each of 3 passes.",
        1,
        100_000,
    )
    grounding_steps: int = setting(
        300,
        "Grounding updates",
        "First updates, that teach which object a word means; too many generalize worse.",
        0,
        100_000,
    )
    observe: str = setting(
        "all",
        "Observes",
        "What the policy acts by: all that the body observes, its state alone, or its cameras alone (all, state, "
        "cameras).",
    )
    text_encoder: str = setting(
        "",
        "Text encoder",
        "A pretrained model that reads the words: the sha256 or the path of its folder. Empty: words are learned from "
        "the demonstrations alone.",
    )
    vision_encoder: str = setting(
        "",
        "Vision encoder",
        "A pretrained model that sees the cameras' pictures: the sha256 or the path of its folder. Empty: seeing is "
        "learned from the demonstrations alone.",
    )
    vision_language: str = setting(
        "",
        "Vision-language model",
        "A pretrained model that reads pictures and words together, in place of both encoders: the sha256 or the path "
        "of its folder.",
    )
    trained: str = setting(
        "heads",
        "Trained of the models",
        "What is trained of pretrained models: heads = nothing but our heads on top, lora = adapters beside their "
        "layers too, all = all of them.",
    )
    rank: int = setting(8, "Adapter rank", "Of the adapters, where those are trained (lora).", 1, 1024)
    pretrained_rate: float = setting(
        0.1,
        "Rate of the models",
        "Share of the learning rate with which pretrained models and their adapters are trained.",
        0.0,
        1.0,
    )
    checkpointing: int = setting(
        0,
        "Gradient checkpointing",
        "1 = the layers of pretrained models that are trained are computed again in the backward pass, which takes "
        "less memory and a third more time.",
        0,
        1,
    )
    device: str = device_setting()
    precision: str = precision_setting()
    hidden: int = setting(256, "Hidden units", "Width of each layer of the network.", 8, 8192)
    layers: int = setting(2, "Layers", "How many layers the network has.", 1, 32)
    chunk: int = setting(1, "Chunk", "How many actions that follow each other the policy answers at once.", 1, 50)
    executed: int = setting(
        1,
        "Executed of a chunk",
        "After so many actions of a chunk a station asks anew; at most the chunk. It looks at every step all the same.",
        1,
        50,
    )
    sampling_temperature: float = setting(
        1.0,
        "Sampling temperature",
        "How freely the policy acts and practises once it is trained: below 1 nearer to its likeliest action, which a "
        "body with many joints needs.",
        0.01,
        10.0,
    )
    action_head: str = setting(
        "tokens",
        "Action head",
        "tokens: choices of each number of an action, as in the paper. gaussian: continuous numbers, which the methods "
        "with an actor and a critic go on from.",
    )
    action_bins: int = setting(7, "Action bins", "Choices per dimension of an action; 5 to 7 work best.", 2, 256)
    bins: int = setting(
        50, "Steps-to-go bins", "Into how many bins the prediction of the steps to go is divided.", 2, 1000
    )
    bin_width: float = setting(
        2.0, "Bin width", "Steps per bin; what is farther away falls into the last bin.", 0.1, 1000.0
    )
    validation_fraction: float = setting(
        0.1,
        "Validation share",
        "Share of the episodes that are not learned from, to choose checkpoints and the threshold s.",
        0.01,
        0.5,
    )
    validate_every: int = setting(250, "Validate every", "Updates from one validation to the next.", 1, 1_000_000)
    threshold_margin: float = setting(
        2.0,
        "Threshold margin",
        "How many steps a demonstration goes on after success. What is detected earlier than that is too early.",
        0.0,
        100.0,
    )
    premature_share: float = setting(
        0.05,
        "Early detections",
        "The largest share of the demonstrations that may be called a success too early.",
        0.0,
        1.0,
    )
    consecutive: int = setting(
        2, "Detector frames", "The largest k to try: how many frames in a row must have d <= s.", 1, 100
    )
    largest_threshold: float = setting(
        0.2,
        "Largest threshold",
        "The largest s that is accepted, as a share of the median length of a demonstration. Above it the run ends. "
        "0 = accept any s.",
        0.0,
        1.0,
    )
    evaluation_episodes: int = setting(
        200, "Evaluation episodes", "Simulated attempts at the end, to measure success; 0 = none.", 0, 100_000
    )
    evaluation_seed: int = setting(
        1_000_000, "Evaluation seed", "Decides the start states of the evaluation.", 0, 2**31 - 1
    )
    threads: int = setting(
        1, "Threads", "CPU threads used for training; on a busy machine more is often slower.", 1, 256
    )
    # On two cores that others used too, an update of two processes took 15 ms in place of 8 with batch 256 and the
    # usual network, and 139 in place of 158 with batch 4,096 and 512 hidden units.
    processes: int = setting(
        1,
        "Processes",
        "So many processes of one machine share each batch (torchrun); the batch must be a multiple of twice their "
        "number. They pay for large batches and networks.",
        1,
        64,
    )

    KIND: ClassVar[str] = "sft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.processes > 1 and self.batch % (2 * self.processes):
            text = f"A batch of {self.batch} can't be shared by {self.processes} processes; write a multiple of "
            raise RecipeError({"batch": f"{text}{2 * self.processes}."})
        self._choose(observe=OBSERVE, trained=TRAINED, action_head=ACTION_HEADS, device=DEVICES, precision=PRECISIONS)
        if self.vision_language and (self.text_encoder or self.vision_encoder):
            raise RecipeError(
                {"vision_language": "A vision-language model takes the place of both encoders; name it or them."}
            )

    @property
    def models(self) -> dict[str, str]:
        """The pretrained models that it names, by what they stand for."""
        named = {"text": self.text_encoder, "vision": self.vision_encoder, "vision_language": self.vision_language}
        return {kind: name.strip() for kind, name in named.items() if name.strip()}


@dataclass(frozen=True)
class ImproveRecipe(Recipe):
    """Stage 2: practice episodes, labelled by the frozen reward model -> a better policy."""

    seed: int = setting(0, "Seed", "Decides the order of the recorded steps in the updates.", 0, 2**31 - 1)
    max_episodes: int = setting(
        200, "Practice episodes", "The run ends after this many episodes of practice.", 1, 10_000_000
    )
    max_rounds: int = setting(
        1000,
        "Rounds",
        "The run ends after this many rounds, each of which makes a version of the policy.",
        1,
        1_000_000,
    )
    updates_per_round: int = setting(
        3,
        "Updates per round",
        "A round waits until this number times the batch size of practice steps are there.",
        1,
        10_000,
    )
    batch: int = setting(64, "Batch size", "Practice steps per update.", 1, 65_536)
    replay: int = setting(
        1000,
        "Replay",
        "So many of the newest practice episodes are learned from again and again, weighted by their advantage. 0 = by "
        "policy gradient from each round alone, as in the paper.",
        0,
        1_000_000,
    )
    updates_per_step: float = setting(
        0.25, "Updates per step", "With a replay: updates for each new step of practice.", 0.001, 100.0
    )
    temperature: float = setting(
        0.02,
        "Temperature",
        "With a replay: how small an advantage makes a step count e times as much. Smaller is bolder.",
        1e-4,
        100.0,
    )
    shaping: float = setting(
        0.5,
        "Steps-to-go reward",
        "With a replay: weight of the progress in steps-to-go beside the 1 for a detected success.",
        0.0,
        1.0,
    )
    epochs: int = setting(
        8, "Epochs", "How often each step of a round is used; with 1, as in the paper, learning takes longer.", 1, 100
    )
    # Of the policy gradient, success within a short limit, a figure of speed (71 steps, seeds 100 to 103): from
    # .65 to .95 with 3e-4 that is annealed, .94 with 2e-4 that is, .92 with 2e-4 that isn't. 3e-4 that isn't fell back
    # by .1 to .3 on two of five seeds; 1e-3 failed.
    learning_rate: float = setting(3e-4, "Learning rate", "How large an update is (AdamW).", 1e-7, 1.0)
    anneal: float = setting(
        1.0, "Annealing", "Share of the learning rate that is gone when the run ends; it falls evenly.", 0.0, 1.0
    )
    weight_decay: float = setting(
        0.0, "Weight decay", "How strongly weights are pulled towards zero (AdamW).", 0.0, 1.0
    )
    gamma: float = setting(
        0.98, "Discount", "What a reward counts that comes a step later. The paper's policy gradient has 0.9.", 0.0, 1.0
    )
    baseline: float = setting(
        0.0,
        "Critic",
        "Share of the expected return that is subtracted from a return: an action is praised for what it adds. "
        "0 = none of it, as in the paper.",
        0.0,
        1.0,
    )
    # Speed again (78 steps): from .74 to .98 and .97 on seeds 100 and 102, without it .95 on 100.
    clip: float = setting(
        0.3,
        "Clip",
        "How far a round may move the policy from the one that acted, as a share of its probabilities.",
        0.01,
        100.0,
    )
    scale: float = setting(5e-2, "Loss scale", "A factor of the loss. With AdamW it matters little.", 1e-6, 100.0)
    evaluate_every: int = setting(4, "Evaluate every", "Rounds from one evaluation to the next.", 1, 100_000)
    evaluation_episodes: int = setting(
        200, "Evaluation episodes", "Simulated attempts per evaluation; 0 = none, and no success curve.", 0, 100_000
    )
    evaluation_seed: int = setting(
        1_000_000, "Evaluation seed", "Decides the start states of the evaluation.", 0, 2**31 - 1
    )
    patience: int = setting(
        3,
        "Patience",
        "The run ends after this many evaluations in a row that are clearly worse than the best one; 0 = never.",
        0,
        1000,
    )
    time_limit: int = setting(
        0,
        "Time limit",
        "The most steps of an evaluation attempt; 0 = the task's own limit.",
        0,
        RULES["time_limit_steps"].maximum,
    )
    edge_margin: float = setting(
        0.0,
        "Evaluated fence",
        "Evaluation attempts keep objects from the edge by so many metres, as practice does; 0 = there is no fence.",
        0.0,
        RULES["edge_margin"].maximum,
    )
    tasks: str = setting(
        "", "Evaluated tasks", "Families of instructions, with commas between; empty = those of the demonstrations."
    )
    threads: int = setting(
        1, "Threads", "CPU threads used for training; on a busy machine more is often slower.", 1, 256
    )

    device: str = device_setting()
    precision: str = precision_setting()

    KIND: ClassVar[str] = "improve"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose(device=DEVICES, precision=PRECISIONS)

    @property
    def steps_per_round(self) -> int:
        """N x B: how many practice steps of one policy version make a round."""
        return self.updates_per_round * self.batch


@dataclass(frozen=True)
class OffPolicyRecipe(Recipe):
    """What methods share that learn from every step of practice again and again, whichever version acted it: stations
    never wait for them.
    """

    seed: int = setting(0, "Seed", "Decides first weights and the order of the recorded steps.", 0, 2**31 - 1)
    max_steps: int = setting(
        10_000, "Practice steps", "The run ends after this many steps of practice, of all stations.", 1, 1_000_000_000
    )
    publish_every: int = setting(
        500, "Publish every", "Steps of practice from one version of the policy to the next.", 1, 1_000_000
    )
    evaluate_every: int = setting(4, "Evaluate every", "Versions from one evaluation to the next.", 1, 100_000)
    evaluation_episodes: int = setting(
        200, "Evaluation episodes", "Simulated attempts per evaluation; 0 = none, and no success curve.", 0, 100_000
    )
    evaluation_seed: int = setting(
        1_000_000, "Evaluation seed", "Decides the start states of the evaluation.", 0, 2**31 - 1
    )
    patience: int = setting(
        0,
        "Patience",
        "The run ends after this many evaluations in a row that are clearly worse than the best one; 0 = never.",
        0,
        1000,
    )
    time_limit: int = setting(
        0,
        "Time limit",
        "The most steps of an evaluation attempt; 0 = the task's own limit.",
        0,
        RULES["time_limit_steps"].maximum,
    )
    edge_margin: float = setting(
        0.0,
        "Evaluated fence",
        "Evaluation attempts keep objects from the edge by so many metres, as practice does; 0 = there is no fence.",
        0.0,
        RULES["edge_margin"].maximum,
    )
    tasks: str = setting(
        "", "Evaluated tasks", "Families of instructions, with commas between; empty = those of the demonstrations."
    )
    threads: int = setting(
        1, "Threads", "CPU threads used for training; on a busy machine more is often slower.", 1, 256
    )
    device: str = device_setting()
    precision: str = precision_setting()

    def updates_due(self, steps: int) -> int:
        """How many updates so many steps of practice ask for; none where each version brings its own."""
        return 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose(device=DEVICES, precision=PRECISIONS)


@dataclass(frozen=True)
class ActorCriticRecipe(OffPolicyRecipe):
    """What methods share that have an actor and critics, and demonstrations beside what they practised."""

    updates_per_step: float = setting(
        1.0, "Updates per step", "Updates for each new step of practice (the update-to-data ratio).", 0.0, 100.0
    )
    batch: int = setting(256, "Batch size", "Recorded steps per update.", 2, 65_536)
    gamma: float = setting(0.97, "Discount", "What a reward counts that comes a step later.", 0.0, 1.0)
    actor_rate: float = setting(3e-4, "Actor's learning rate", "How large its updates are (AdamW).", 1e-7, 1.0)
    critic_rate: float = setting(1e-3, "Critics' learning rate", "How large their updates are (AdamW).", 1e-7, 1.0)
    ensemble: int = setting(2, "Critics", "How many there are; two of them make each target.", 2, 20)
    polyak: float = setting(
        0.01, "Following", "Share by which the critics' slow copies follow them with each update.", 1e-5, 1.0
    )
    entropy: int = setting(
        0,
        "Entropy",
        "1 = the actor is also rewarded for acting at random, as much as its size asks for. 0 = not.",
        0,
        1,
    )
    actor_every: int = setting(2, "Actor every", "Of so many updates of the critics one is the actor's too.", 1, 100)
    demonstrated: float = setting(0.5, "Demonstrated share", "Of each batch, that was demonstrated.", 0.0, 1.0)
    replay: int = setting(10_000, "Replay", "The newest practice episodes that are learned from.", 1, 10_000_000)
    label_source: str = setting(
        "any",
        "Labels of",
        "Whose word on success is learned from: human, sensor or classifier (the success detector), or any of them.",
    )

    def updates_due(self, steps: int) -> int:
        """As of OffPolicyRecipe."""
        return math.floor(self.updates_per_step * steps)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose(label_source=LABEL_SOURCES)


@dataclass(frozen=True)
class DemonstratedRecipe(ActorCriticRecipe):
    """What methods share whose actor also imitates demonstrations."""

    cloning: float = setting(
        0.3,
        "Cloning",
        "What imitating demonstrations weighs beside the critics' word, once practice is under way.",
        0,
        1,
    )
    cloning_steps: int = setting(
        3000, "Cloning falls over", "Steps of practice over which that weight falls to it from 1.", 0, 1_000_000_000
    )
    warm_up: int = setting(
        500, "Warm-up", "Updates of the critics alone, on demonstrations, before practice.", 0, 1_000_000
    )


@dataclass(frozen=True)
class SACRecipe(DemonstratedRecipe):
    """Soft actor-critic with demonstrations, from a sparse reward: what the other methods are compared with."""

    KIND: ClassVar[str] = "sac"


@dataclass(frozen=True)
class KAGIRecipe(DemonstratedRecipe):
    """The sparse reward where success is told, elsewhere a dense one along keypoints."""

    proposer: str = setting(
        "known_positions",
        "Keypoints from",
        "known_positions: the words, and where objects are tracked. words_and_colours: the words, and colours in a "
        "picture from above. http: a vision-language model, by FLEETUI_KEYPOINTS_URL.",
    )
    dense: float = setting(
        0.5, "Dense reward", "What one half of a table's width nearer along the keypoints counts.", 0.0, 100.0
    )
    success: float = setting(1.0, "Success", "The reward of the step that reaches what was asked for.", 0.0, 100.0)
    cost: float = setting(0.01, "Cost of a step", "It is subtracted with each step that is no success.", 0.0, 1.0)

    KIND: ClassVar[str] = "kagi"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose(proposer=PROPOSERS)


@dataclass(frozen=True)
class SCVLARecipe(ActorCriticRecipe):
    """A frozen policy with heads that foresee, and a bounded correction that is rewarded for going where they say."""

    # Without the entropy term the correction went to its ends and success fell from .58 to .18 (seed 100).
    entropy: int = setting(
        1, "Entropy", "1 = the correction is also rewarded for being random, as much as its size asks for.", 0, 1
    )
    demonstrated: float = setting(0.25, "Demonstrated share", "Of each batch, that was demonstrated.", 0.0, 1.0)
    head_updates: int = setting(
        2000, "Heads' updates", "Updates of the two heads from demonstrations, before practice.", 1, 1_000_000
    )
    joint: int = setting(
        1,
        "Train the policy along",
        "1 = with the heads the policy learns on from demonstrations; 0 = heads alone.",
        0,
        1,
    )
    heads: float = setting(0.1, "Heads' weight", "What the heads' losses count beside imitation.", 0.0, 100.0)
    heads_rate: float = setting(1e-3, "Heads' learning rate", "How large those updates are (AdamW).", 1e-7, 1.0)
    correction: float = setting(
        0.5, "Correction", "Lambda: how far an action may be corrected, as a share of its reach.", 0.0, 1.0
    )
    ramp_steps: int = setting(
        2000, "Correction grows over", "Steps of practice over which it grows from 0.", 0, 1_000_000_000
    )
    guide: float = setting(
        0.02, "Guide", "What a step counts that goes exactly where the policy foresees the hand.", 0.0, 100.0
    )
    cost: float = setting(0.01, "Cost of a step", "It is subtracted with each step.", 0.0, 1.0)
    width: int = setting(128, "Width of the correction", "Of its layers.", 8, 8192)

    KIND: ClassVar[str] = "scvla"


@dataclass(frozen=True)
class MEDALRecipe(DemonstratedRecipe):
    """Two policies that take turns, rewarded by classifiers of a few demonstrations; nobody resets."""

    classifier_rate: float = setting(3e-4, "Classifiers' learning rate", "How large their updates are.", 1e-7, 1.0)
    forward_every: int = setting(
        1000, "Forward classifier every", "Steps of practice from one of its updates to the next.", 1, 1_000_000
    )
    backward_every: int = setting(
        100, "Backward classifier every", "Steps of practice from one of its updates to the next.", 1, 1_000_000
    )
    goal_frames: int = setting(
        10, "Goal frames", "So many of the last observations of a demonstration are what success looks like.", 1, 1000
    )
    backward: str = setting(
        "",
        "Bringing back",
        "The family of instructions that undoes the task; empty = the one of the demonstrations that is not evaluated.",
    )
    backward_cloning: float = setting(
        0.3, "Cloning, backward", "As of cloning, of the policy that brings things back.", 0.0, 1.0
    )

    KIND: ClassVar[str] = "medal"


@dataclass(frozen=True)
class RoboFuMERecipe(DemonstratedRecipe):
    """A success classifier and critics from what is recorded, then practice that switches its instruction."""

    warm_up: int = setting(
        2000, "Offline updates", "Updates of actor and critics from what is recorded, before practice.", 0, 1_000_000
    )
    cloning_steps: int = setting(
        0, "Cloning falls over", "Steps of practice over which that weight falls to it from 1.", 0, 1_000_000_000
    )
    # With 1 practice brought nothing (seed 100: .52 to .41, of labels by a sensor .52 to .46); with .1 .57 to .88.
    cql: float = setting(
        0.1, "Conservatism", "What the critics' pessimism about actions that nobody took weighs (CQL).", 0.0, 100.0
    )
    calibrated: int = setting(
        1,
        "Calibrated",
        "1 = no pessimism below the return that was seen (Cal-QL), so that practice needs not unlearn it; 0 = CQL.",
        0,
        1,
    )
    cql_actions: int = setting(2, "Actions compared", "So many of each kind that nobody took.", 1, 100)
    classifier_updates: int = setting(
        1500, "Classifier's updates", "Of what says whether an attempt has succeeded.", 1, 1_000_000
    )
    goal_frames: int = setting(
        3, "Goal frames", "So many of the last observations of a demonstration are successes.", 1, 1000
    )
    threshold: float = setting(
        0.5, "Doubt", "At most this probability of no success counts as success, in frames in a row.", 0.0, 1.0
    )
    consecutive: int = setting(2, "Frames in a row", "So many of them have to say so.", 1, 100)

    KIND: ClassVar[str] = "robofume"


@dataclass(frozen=True)
class MuselRecipe(OffPolicyRecipe):
    """MUSEL: pushes are chosen by what the model does not know of their effects, noise left aside."""

    max_steps: int = setting(220, "Pushes", "The run ends after this many pushes of practice.", 1, 2000)
    evaluation_episodes: int = setting(
        0, "Evaluation episodes", "Simulated attempts per evaluation; 0 = none: there is nothing to succeed in.", 0, 0
    )
    publish_every: int = setting(
        5, "Publish every", "Pushes from one fit of the model to the next; best as many as there are stations.", 1, 1000
    )
    pool: int = setting(300, "Pool", "Of so many random pushes the next is chosen.", 1, 10_000)
    apart: float = setting(
        0.5,
        "Apart",
        "How far the pushes of one batch keep from each other: 1 is half the range of an offset or a length.",
        0.01,
        10.0,
    )
    acquisition: str = setting(
        "musel",
        "Chosen by",
        "musel: total uncertainty less what is noise. Others to compare it with: total, progress (learning progress), "
        "var_f (the model's own uncertainty), random.",
    )

    KIND: ClassVar[str] = "musel"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose(acquisition=PROBED_BY)


@dataclass(frozen=True)
class MiliRecipe(OffPolicyRecipe):
    """Multi-task imitation with autonomous improvement: useful trials are demonstrations of tasks of their own."""

    max_steps: int = setting(
        36_000, "Practice steps", "The run ends after this many steps of practice, of all stations.", 1, 1_000_000_000
    )
    evaluate_every: int = setting(1, "Evaluate every", "Rounds from one evaluation to the next.", 1, 100_000)
    publish_every: int = setting(
        12_000, "Steps a round", "Steps of practice from one policy to the next, which is learned anew.", 1, 10_000_000
    )
    only_shown: str = setting(
        "",
        "Only shown",
        "Families of instructions, with commas between, whose demonstrations say what is asked for and are never "
        "imitated.",
    )
    label_source: str = setting(
        "any", "Labels of", "Whose word on what was useful is believed: human, sensor or classifier, or any of them."
    )
    grouping: str = setting(
        "embedding",
        "Grouped by",
        "embedding: trials that lie near each other are one task. command: each is of the task that it was asked for, "
        "to compare with.",
    )
    exploration: float = setting(
        0.5,
        "Exploration",
        "How far on the way from the code that is asked for to another task's a trial may go. 0 = it does what it is "
        "asked for.",
        0.0,
        1.0,
    )
    code: int = setting(16, "Code", "Numbers of a task's code.", 2, 256)
    code_noise: float = setting(
        0.05, "Noise of codes", "Of each number of a code that is imitated on, its deviation.", 0.0, 1.0
    )
    embedding_updates: int = setting(600, "Embedding updates", "Updates of the task embedding.", 1, 1_000_000)
    updates: int = setting(2000, "Updates", "Updates of the policy in each round, from the first weights on.", 1, 10**7)
    batch: int = setting(256, "Batch size", "Recorded steps per update.", 2, 65_536)
    demonstrated: float = setting(0.5, "Demonstrated share", "Of each batch, once there are trials.", 0.0, 1.0)
    learning_rate: float = setting(1e-3, "Learning rate", "How large the first updates are (AdamW).", 1e-6, 1.0)
    hidden: int = setting(256, "Hidden units", "Width of each layer of the network.", 8, 8192)
    layers: int = setting(2, "Layers", "How many layers the network has.", 1, 32)
    action_bins: int = setting(7, "Action bins", "Choices per dimension of an action.", 2, 256)
    KIND: ClassVar[str] = "mili"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose(label_source=LABEL_SOURCES, grouping=GROUPINGS)


@dataclass(frozen=True)
class AFMRecipe(OffPolicyRecipe):
    """Action flow matching: demonstrations with a sound drive -> a model, and a flow that corrects what it plans."""

    max_steps: int = setting(
        6000, "Practice steps", "The run ends after this many steps of practice, of all stations.", 1, 1_000_000_000
    )
    publish_every: int = setting(
        1000, "Publish every", "Steps of practice from one version to the next. What was learned stays.", 1, 1_000_000
    )
    evaluation_episodes: int = setting(
        20, "Evaluation episodes", "Simulated attempts per evaluation; 0 = none, and no success curve.", 0, 100_000
    )
    model_updates: int = setting(3000, "Updates of the model", "How often the model learns from a batch.", 1, 1_000_000)
    flow_updates: int = setting(
        6000, "Updates of the flow", "How often the flow learns from a batch that the model has made.", 1, 1_000_000
    )
    batch: int = setting(256, "Batch size", "Steps per update.", 1, 65_536)
    learning_rate: float = setting(
        2e-3, "Learning rate", "How large the first updates are (AdamW); it falls to zero by the end.", 1e-6, 1.0
    )
    members: int = setting(3, "Members", "Networks of the model; planning uses their mean.", 1, 100)
    width: int = setting(64, "Hidden units", "Width of each layer of the model.", 8, 8192)
    flow_width: int = setting(
        128,
        "Hidden units of the flow",
        "Width of its layers; with 64 its actions were off by .13, with 128 by .05.",
        8,
        8192,
    )
    candidates: int = setting(256, "Candidates", "Plans that are compared at each step.", 2, 100_000)
    horizon: int = setting(5, "Horizon", "Steps that are planned ahead.", 1, 100)
    threshold: float = setting(
        0.6,
        "Error threshold",
        "An error of the model above it calls for a probe of the drive; counted in deviations of what a step changes.",
        0.01,
        100.0,
    )
    least_gain: float = setting(
        0.5, "Least gain", "The weakest drive that the flow is prepared for; 1 = as demonstrated.", 0.01, 1.0
    )
    largest_gain: float = setting(2.0, "Largest gain", "The strongest one.", 1.0, 100.0)
    adaptation_steps: int = setting(
        0,
        "Adaptation",
        "Updates of a station's own model at each of its steps, on its newest 50; 0 = the model stays as it is.",
        0,
        1000,
    )

    KIND: ClassVar[str] = "afm"


@dataclass(frozen=True)
class ExploreRecipe(OffPolicyRecipe):
    """Active exploration: stations go where a model's members disagree -> a model for any task."""

    max_steps: int = setting(
        1600, "Practice steps", "The run ends after this many steps of practice, of all stations.", 1, 1_000_000_000
    )
    publish_every: int = setting(
        50, "Publish every", "So many steps of practice are collected before the model learns again.", 1, 1_000_000
    )
    evaluate_every: int = setting(16, "Evaluate every", "Versions from one evaluation to the next.", 1, 100_000)
    evaluation_episodes: int = setting(
        20, "Evaluation episodes", "Simulated attempts at its tasks by the model; 0 = none.", 0, 100_000
    )
    updates: int = setting(200, "Updates", "How many updates it makes then.", 1, 1_000_000)
    batch: int = setting(256, "Batch size", "Steps per update, drawn for each member by itself.", 1, 65_536)
    learning_rate: float = setting(1e-3, "Learning rate", "How large the updates are (AdamW).", 1e-6, 1.0)
    members: int = setting(5, "Members", "Networks of the model, whose disagreement is what is unknown.", 2, 100)
    width: int = setting(64, "Hidden units", "Width of each layer of the model.", 8, 8192)
    dropout: float = setting(
        0.0,
        "Dropout",
        "Share of the model's last layer that is left out at random; 0 = members alone disagree.",
        0,
        0.9,
    )
    candidates: int = setting(128, "Candidates", "Plans that are compared at each step.", 2, 100_000)
    horizon: int = setting(12, "Horizon", "Steps that are planned ahead.", 1, 100)
    floor: float = setting(
        0.5,
        "Noise floor",
        "What members may differ by without being uncertain, in deviations of what a step changes.",
        1e-4,
        100.0,
    )

    KIND: ClassVar[str] = "explore"
