"""The methods, as everybody may know them: what each needs, makes and draws. No torch here: the web process reads it.

A run is of one method. The launch form, the pages, the API, the charts and the job read its Method here and ask for no
name; the run's own process imports what the Method's `entry` names, and that alone knows how it learns.

A new method is a file in this folder and a line in BUILT_IN. One that lies elsewhere is a module with METHODS, named in
the environment variable FLEETUI_METHODS (several with commas between). Every process reads it, the web server too, so
such a module leaves torch and its learning to functions, or to another module that its `entry` names.
"""

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from training.recipes import (
    AFMRecipe,
    ExploreRecipe,
    ImproveRecipe,
    KAGIRecipe,
    MEDALRecipe,
    MiliRecipe,
    MuselRecipe,
    Recipe,
    RecipeError,
    RoboFuMERecipe,
    SACRecipe,
    SCVLARecipe,
    SFTRecipe,
)

NEEDS = ("dataset", "parent", "stations")
ROLES = ("policy", "reward_model")


class MethodError(ValueError):
    """A method that can't be registered, or can't be found; the text says why and what to do."""


@dataclass(frozen=True)
class Line:
    """One line of a curve: a figure of its metrics, by its key."""

    key: str
    name: str
    dash: str = "solid"  # | "dash" | "dot"
    soft: bool = False  # in the quieter ink
    width: float = 1.5  # pixels
    marks: bool = False  # a mark at each point
    second: bool = False  # of the axis on the right


@dataclass(frozen=True)
class Curve:
    """What a run's page draws of the lines that the run logs as `metric`."""

    title: str
    metric: str  # kind of the lines in metrics.jsonl
    x: str  # key of what it is drawn over
    x_title: str
    y_title: str  # with the unit
    lines: tuple[Line, ...]
    note: str = ""
    terms: tuple[str, ...] = ()  # of the glossary, by their slugs, that explain it
    share: bool = False  # y is a share, shown as 0 to 100 %
    whole: bool = False  # x are whole numbers, from 0 on
    second_title: str = ""  # of the axis on the right
    waiting: str = "appears with the first figures"
    empty: str = "it ended before the first figures"


@dataclass(frozen=True)
class Signal:
    """What a policy of a method says of itself at each step, live: a number on the station's page and on the wall."""

    key: str  # by which it stands in the policy's answer (training/checkpoints.py)
    name: str
    note: str = ""  # what it says, a sentence
    unit: str = ""  # "%": a share, shown as 0 to 100 %
    low: float | None = None  # with both it is also drawn as a bar between them
    high: float | None = None
    digits: int = 2
    words: tuple[str, ...] = ()  # for the whole numbers from 0 on, shown in their place


@dataclass(frozen=True)
class Question:
    """What a person is asked of each attempt that a method learns from, unless a sensor has said it already."""

    label: str  # of the episode: 1 yes, 0 no
    words: str  # a question that yes or no answers


@dataclass(frozen=True)
class Method:
    """What there is to know of a method without running it. Its recipe's KIND is its name."""

    recipe: type[Recipe]
    entry: str  # "package.module:function": takes the RunDir, returns the run's summary; imported by the run alone
    title: str  # the act: "Train from demonstrations"
    words: str  # what a run of it is: "fine-tuning"
    summary: str  # one sentence: what it does and makes
    needs: tuple[str, ...]  # what a run starts from: of NEEDS, a dataset or a parent at least
    roles: tuple[str, ...]  # of the checkpoints that it makes
    curves: tuple[Curve, ...] = ()
    question: Question | None = None
    signals: tuple[Signal, ...] = ()  # of its policies; the first two stand on the wall
    main_fields: tuple[str, ...] = ()  # settings that most launches change; the others stand under "further settings"
    phases: dict[str, str] = field(default_factory=dict)  # of its progress, those that want more words
    terms: tuple[str, ...] = ()  # of the glossary, by their slugs, that a newcomer reads first
    # The setting that says how many processes share a run of it: torchrun starts them; "": it is one process.
    processes: str = ""
    grows_with: str = ""  # the setting in proportion to which a run takes longer, for an estimate; "": none

    @property
    def kind(self) -> str:
        """Its name in recipes, addresses and the database."""
        return self.recipe.KIND

    @property
    def practises(self) -> bool:
        """Whether stations act with its policies while it runs, and hand it their episodes."""
        return "stations" in self.needs

    def start(self, run: Any) -> dict[str, Any]:
        """In the run's own process: the method itself, on a RunDir, until it is done or cancelled."""
        module, _, function = self.entry.partition(":")
        return getattr(import_module(module), function)(run)

    def shown(self) -> dict[str, Any]:
        """What a run's page needs to know to draw it (static/js/run.js)."""
        return {
            "practises": self.practises,
            "goes_on": "parent" in self.needs,
            "phases": self.phases,
            "curves": [_plain(each) for each in self.curves],
        }


def _plain(curve: Curve) -> dict[str, Any]:
    return vars(curve) | {"lines": [vars(line) for line in curve.lines]}


# Of methods that learn off-policy

PRACTICE = Curve(
    title="Practice",
    metric="update",
    x="steps",
    x_title="steps of practice",
    y_title="detected",
    lines=(
        Line("detected_rate", "detected success", width=1.8, marks=True),
        Line("staleness", "versions between acting and learning", "dot", soft=True, second=True),
    ),
    note="what it learns from; not true success",
    terms=("detected-success",),
    share=True,
    second_title="versions",
    waiting="the first steps are being collected",
    empty="no version was completed",
)
CRITICS = Curve(
    title="Critics",
    metric="update",
    x="steps",
    x_title="steps of practice",
    y_title="Q, discounted return",
    lines=(
        Line("q", "mean Q", width=1.8, marks=True),
        Line("td_error", "squared error of Q", "dot", soft=True, second=True),
    ),
    second_title="squared error",
    waiting="the first steps are being collected",
    empty="no version was completed",
)
MODEL_ERROR = Signal(
    "model_error", "Model's error", "By how much the model missed the last step, in deviations of a step's change."
)
OF_VERSIONS = ("max_steps", "publish_every", "evaluate_every", "evaluation_episodes", "seed")
OFF_POLICY_FIELDS = ("max_steps", "updates_per_step", "publish_every", "evaluate_every", "evaluation_episodes", "seed")

BUILT_IN = (
    Method(
        recipe=SFTRecipe,
        entry="training.methods.sft:sft",
        title="Train from demonstrations",
        words="fine-tuning",
        summary="Supervised fine-tuning: makes a policy and a reward model.",
        needs=("dataset",),
        roles=("policy", "reward_model"),
        curves=(
            Curve(
                title="Losses, in nats",
                metric="loss",
                x="step",
                x_title="update",
                y_title="loss (nats)",
                lines=(
                    Line("bc", "actions"),
                    Line("validation_bc", "actions, validation", "dash", width=2, marks=True),
                    Line("steps_to_go", "steps-to-go", soft=True),
                    Line("validation_steps_to_go", "steps-to-go, validation", "dash", soft=True, width=2, marks=True),
                    Line("grounding", "grounding", "dot", soft=True),
                ),
                terms=("nats",),
                waiting="appear with the first updates",
                empty="it ended before the first updates",
            ),
        ),
        main_fields=("steps", "batch", "learning_rate", "evaluation_episodes", "seed"),
        phases={"grounding": "Grounding: learning which object a word means"},
        terms=("fine-tuning", "policy", "reward-model"),
        processes="processes",
        grows_with="steps",
    ),
    Method(
        recipe=ImproveRecipe,
        entry="training.methods.self_improvement:improve",
        title="Improve on stations",
        words="self-improvement",
        summary="Self-improvement: practice, judged by the frozen reward model.",
        needs=("parent", "stations"),
        roles=("policy",),
        curves=(
            Curve(
                title="Practice",
                metric="update",
                x="version",
                x_title="policy version",
                y_title="detected",
                lines=(
                    Line("detected_rate", "detected success", width=1.8, marks=True),
                    Line("mean_return", "mean return", "dot", soft=True, width=1.8, second=True),
                ),
                note="what it learns from in each round; not true success",
                terms=("detected-success", "return", "round"),
                share=True,
                whole=True,
                second_title="return",
                waiting="the first round is being collected",
                empty="no round was completed",
            ),
        ),
        main_fields=("max_episodes", "updates_per_round", "batch", "evaluate_every", "evaluation_episodes", "seed"),
        terms=("self-improvement", "reward-model"),
        grows_with="max_episodes",
    ),
    Method(
        recipe=SACRecipe,
        entry="training.methods.sac:sac",
        title="SAC with demonstrations",
        words="actor-critic",
        summary="Actor and critics from demonstrations and practice, rewarded for success alone.",
        needs=("parent", "stations"),
        roles=("policy",),
        curves=(PRACTICE, CRITICS),
        main_fields=OFF_POLICY_FIELDS,
        grows_with="max_steps",
    ),
    Method(
        recipe=SCVLARecipe,
        entry="training.methods.scvla:scvla",
        title="Correct where it goes (SC-VLA)",
        words="correction by foresight",
        summary="Freezes a policy that foresees where its hand will be, and learns a small correction of its actions.",
        needs=("parent", "stations"),
        roles=("policy",),
        curves=(
            PRACTICE,
            CRITICS,
            Curve(
                title="Heads",
                metric="loss",
                x="step",
                x_title="update",
                y_title="squared error",
                lines=(Line("progress", "progress"), Line("displacement", "displacement", "dash")),
                waiting="appear with the first updates",
                empty="it ended before the first updates",
            ),
        ),
        signals=(
            Signal("imagined_progress", "Foreseen progress", "How much of the attempt it takes to be over.", "%", 0, 1),
            Signal("correction", "Correction", "How large it is beside the policy's own action.", "", 0.0, 2.0),
            Signal("agreement", "Agreement", "Cosine between the last step and the way that was foreseen.", "", -1, 1),
            Signal("correction_scale", "Lambda", "How large a correction may be now, as a share of the reach."),
        ),
        main_fields=("correction", "guide", *OFF_POLICY_FIELDS),
        grows_with="max_steps",
    ),
    Method(
        recipe=RoboFuMERecipe,
        entry="training.methods.robofume:robofume",
        title="Hands-free fine-tuning (RoboFuME)",
        words="hands-free fine-tuning",
        summary="Learns a success classifier and calibrated critics from what is recorded, then practises.",
        needs=("parent", "stations"),
        roles=("policy", "reward_model"),
        curves=(
            PRACTICE,
            CRITICS,
            Curve(
                title="Critics, offline",
                metric="loss",
                x="step",
                x_title="update",
                y_title="Q, discounted return",
                lines=(
                    Line("q", "mean Q", width=1.8),
                    Line("td_error", "squared error of Q", "dot", soft=True, second=True),
                ),
                second_title="squared error",
                waiting="appears with the first updates",
                empty="it ended before the first updates",
            ),
        ),
        main_fields=("warm_up", "cql", *OFF_POLICY_FIELDS),
        phases={
            "classifier": "Learning what success looks like",
            "offline": "Learning from what is recorded",
        },
        grows_with="max_steps",
    ),
    Method(
        recipe=MEDALRecipe,
        entry="training.methods.medal:medal",
        title="Forward and back (MEDAL++)",
        words="practice without resets",
        summary="Two policies take turns, one does the task and one undoes it, rewarded by a few demonstrations.",
        needs=("parent", "stations"),
        roles=("policy",),
        curves=(
            PRACTICE,
            Curve(
                title="Critics",
                metric="update",
                x="steps",
                x_title="steps of practice",
                y_title="Q, discounted return",
                lines=(
                    Line("q_forward", "forward", width=1.8, marks=True),
                    Line("q_backward", "backward", "dash", marks=True),
                ),
                waiting="the first steps are being collected",
                empty="no version was completed",
            ),
            Curve(
                title="Classifiers",
                metric="update",
                x="steps",
                x_title="steps of practice",
                y_title="cross-entropy (nats)",
                lines=(
                    Line("classifier_forward", "ends of demonstrations", width=1.8, marks=True),
                    Line("classifier_backward", "states of demonstrations", "dash", marks=True),
                ),
                terms=("nats",),
                waiting="the first steps are being collected",
                empty="no version was completed",
            ),
        ),
        signals=(
            Signal("backward", "Phase", "Which of the two policies acts.", words=("forward", "bringing back")),
            Signal(
                "likeness",
                "Like the demonstrations",
                "How much it sees what ends demonstrations, or, bringing back, any of their states.",
                "%",
                0.0,
                1.0,
            ),
        ),
        main_fields=("backward", *OFF_POLICY_FIELDS),
        grows_with="max_steps",
    ),
    Method(
        recipe=AFMRecipe,
        entry="training.methods.afm:afm",
        title="Correct a changed drive (AFM)",
        words="correction of a changed drive",
        summary="Learns a model and a flow that carries each plan to what a changed drive needs; stations use it.",
        needs=("dataset", "stations"),
        roles=("policy",),
        curves=(
            Curve(
                title="Way points",
                metric="update",
                x="steps",
                x_title="steps of practice",
                y_title="reached",
                lines=(Line("reached", "of a course's way points", width=1.8, marks=True),),
                share=True,
                waiting="the first courses are being driven",
                empty="no version was completed",
            ),
            Curve(
                title="Model and flow",
                metric="loss",
                x="step",
                x_title="250 updates",
                y_title="loss",
                lines=(
                    Line("model_loss", "model (negative log likelihood)", width=1.8),
                    Line("flow_loss", "flow (squared error)", "dash", second=True),
                ),
                second_title="squared error",
                waiting="appear with the first updates",
                empty="it ended before the first updates",
            ),
        ),
        signals=(
            MODEL_ERROR,
            Signal("model_error_threshold", "Its threshold", "Above it the drive counts as changed."),
            Signal("regime", "Drive", "What the station takes its drive for.", words=("sound", "probed", "corrected")),
            Signal("regime_steps", "Drive since", "For how many steps it has been the same.", "steps", digits=0),
            Signal("planned_forward", "Planned speed", "What was planned for a sound drive.", "m/s"),
            Signal("executed_forward", "Executed speed", "What was done instead.", "m/s"),
            Signal("planned_turn", "Planned turn", "What was planned for a sound drive.", "rad/s"),
            Signal("executed_turn", "Executed turn", "What was done instead.", "rad/s"),
        ),
        main_fields=("model_updates", "flow_updates", "threshold", *OF_VERSIONS),
        phases={"offline": "Learning the model and the flow"},
        grows_with="max_steps",
    ),
    Method(
        recipe=MuselRecipe,
        entry="training.methods.musel:musel",
        title="Probe effects (MUSEL)",
        words="probing of effects",
        summary="Asks for the push that teaches most about what pushes do, and leaves noise alone.",
        needs=("dataset", "stations"),
        roles=("policy",),
        curves=(
            Curve(
                title="What it knows of pushes",
                metric="update",
                x="steps",
                x_title="pushes of practice",
                y_title="cm",
                lines=(
                    Line("surprise", "error on the newest pushes", width=1.8, marks=True),
                    Line("uncertainty", "what the model doesn't know", "dash", marks=True),
                    Line("noise", "noise", "dot", soft=True),
                ),
                waiting="the first pushes are being made",
                empty="no version was completed",
            ),
            Curve(
                title="Pushes where it is noisy",
                metric="update",
                x="steps",
                x_title="pushes of practice",
                y_title="of the newest 50",
                lines=(Line("noisy_share", "in noisy places", width=1.8, marks=True),),
                share=True,
                waiting="the first pushes are being made",
                empty="no version was completed",
            ),
        ),
        signals=(
            Signal("uncertainty", "Unknown", "What the model doesn't know of the push that it asks for.", "cm", 0, 2),
            Signal("expected_gain", "Expected gain", "How much less it will not know of all pushes after it.", "cm"),
        ),
        main_fields=("acquisition", "max_steps", "publish_every", "seed"),
        phases={"offline": "Learning from the demonstrated pushes"},
        grows_with="max_steps",
    ),
    Method(
        recipe=ExploreRecipe,
        entry="training.methods.explore:explore",
        title="Explore without a task",
        words="active exploration",
        summary="Stations go where the members of a model disagree; the same model then does any task.",
        needs=("dataset", "stations"),
        roles=("policy",),
        curves=(
            Curve(
                title="Model",
                metric="update",
                x="steps",
                x_title="steps of practice",
                y_title="error (deviations of a step's change)",
                lines=(
                    Line("surprise", "on the newest steps, before they were learned from", width=1.8, marks=True),
                    Line("model_loss", "loss", "dot", soft=True, second=True),
                ),
                second_title="negative log likelihood",
                waiting="the first steps are being collected",
                empty="no version was completed",
            ),
        ),
        signals=(
            Signal("disagreement", "Disagreement", "How much the model's members disagree on the step.", "", 0, 10),
            MODEL_ERROR,
        ),
        main_fields=OF_VERSIONS,
        phases={"offline": "Learning from what was demonstrated"},
        grows_with="max_steps",
    ),
    Method(
        recipe=MiliRecipe,
        entry="training.methods.mili:mili",
        title="Imitate useful trials (MILI)",
        words="imitation of useful trials",
        summary="Groups trials that did something useful into tasks of their own, and imitates them.",
        needs=("dataset", "stations"),
        roles=("policy",),
        curves=(
            Curve(
                title="Trials",
                metric="update",
                x="version",
                x_title="round",
                y_title="useful",
                lines=(
                    Line("useful_share", "of all trials", width=1.8, marks=True),
                    Line("paired", "useful ones with a partner", "dash", second=True),
                    Line("groups", "groups", "dot", soft=True, second=True),
                ),
                share=True,
                whole=True,
                second_title="trials, groups",
                waiting="the first trials are being made",
                empty="no round was completed",
            ),
        ),
        signals=(
            Signal("off_code", "Off the code", "How far what is tried lies from what was asked for.", "", 0.0, 1.0),
        ),
        question=Question("useful", "Did it do anything useful?"),
        main_fields=("only_shown", "max_steps", "publish_every", "evaluation_episodes", "seed"),
        phases={"offline": "Learning the task embedding"},
        grows_with="max_steps",
    ),
    Method(
        recipe=KAGIRecipe,
        entry="training.methods.kagi:kagi",
        title="Along keypoints (KAGI)",
        words="keypoint-guided practice",
        summary="Actor and critics, rewarded along keypoints that are proposed when an attempt begins.",
        needs=("parent", "stations"),
        roles=("policy",),
        curves=(PRACTICE, CRITICS),
        signals=(
            Signal("way_left", "Way left", "How far it is along the keypoints to the target.", "m", 0.0, 1.5),
            Signal("way_gained", "Dense reward", "How much nearer the last step came, in half table widths."),
        ),
        main_fields=("proposer", *OFF_POLICY_FIELDS),
        grows_with="max_steps",
    ),
)


@functools.cache
def methods() -> dict[str, Method]:
    """All of them by kind, the built-in ones first. MethodError where one that is named can't be had."""
    found: dict[str, Method] = {}
    for method in BUILT_IN:
        register(method, found)
    for name in filter(None, map(str.strip, os.environ.get("FLEETUI_METHODS", "").split(","))):
        try:
            further = import_module(name).METHODS
        except (ImportError, AttributeError) as error:
            raise MethodError(f"FLEETUI_METHODS names {name}, which is no module with METHODS ({error}).") from error
        for method in further:
            register(method, found)
    return found


def register(method: Method, known: dict[str, Method] | None = None) -> None:
    """From here on runs of it can be launched. MethodError, and nothing is changed, if that can't be."""
    known = methods() if known is None else known
    kind, fields = method.kind, method.recipe.FIELDS
    problem = ""
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", kind):
        problem = "its kind must be a word of at most 40 small letters, digits and _"
    elif kind in known:
        problem = "there is one of that kind already; kinds must differ"
    elif not set(method.needs) <= set(NEEDS) or not {"dataset", "parent"} & set(method.needs):
        problem = f"it needs something of {', '.join(NEEDS)}, a dataset or a parent at least"
    elif not set(method.roles) <= set(ROLES):
        problem = f"its checkpoints can only be of {', '.join(ROLES)}"
    elif strange := [
        name for name in (*method.main_fields, method.processes, method.grows_with) if name and name not in fields
    ]:
        problem = f"{strange[0]} is no setting of its recipe"
    elif twice := [each.key for each in method.signals if signals_of(known.values()).get(each.key, each) != each]:
        problem = f"another method has a signal {twice[0]!r} that says something else; name one of them otherwise"
    if problem:
        raise MethodError(f"The method {kind!r} can't be used: {problem}.")
    known[kind] = method


def questions() -> dict[str, str]:
    """What people are asked of attempts, by the label that their answer makes."""
    return {each.question.label: each.question.words for each in methods().values() if each.question}


def signals_of(some: Iterable[Method]) -> dict[str, Signal]:
    """All that these methods' policies may say, by key."""
    return {signal.key: signal for method in some for signal in method.signals}


def method_of(kind: str) -> Method:
    """The method of a run. One that is no longer there leaves its runs to be looked at, by their kind alone."""
    return methods().get(kind) or _unknown(kind)


@functools.cache
def _unknown(kind: str) -> Method:
    recipe = type("UnknownRecipe", (Recipe,), {"KIND": kind, "FIELDS": {}})
    return Method(recipe, entry="", title=kind, words=kind, summary="", needs=(), roles=())


def methods_that_need(*needs: str) -> list[Method]:
    """Those that start from all of these, in the order of their registration."""
    return [method for method in methods().values() if set(needs) <= set(method.needs)]


def recipe_from_json(data: dict[str, Any]) -> Recipe:
    """The recipe of recipe.json, by its kind."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in methods():
        raise RecipeError({"kind": f"kind is {kind!r}; write one of {', '.join(map(repr, methods()))}."})
    return methods()[kind].recipe.from_json(data)
