"""True success of a practising run's versions, in simulation: what is drawn, what stops a run, which version it keeps.

Stands beside every method that practises: the loop asks for a point after a version is published, and nothing of it
reaches a gradient.
"""

from dataclasses import dataclass, field
from typing import Any

from training.checkpoints import Policy
from training.evaluation import Evaluation, evaluate_for
from training.recipes import ImproveRecipe, OffPolicyRecipe
from training.run_dir import Countdown, RunDir
from training.versions import policy_path

# The curve's best point is best partly by luck on the curve's own seeds, so the last word is spoken on others.
FRESH_SEEDS = 1_000_003


@dataclass
class SuccessCurve:
    """True success in simulation, on the same seeds for each version: what is drawn, what stops a run and what it
    keeps.
    """

    run: RunDir
    recipe: ImproveRecipe | OffPolicyRecipe
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


def best_version(evaluations: dict[int, dict[str, Any]]) -> int:
    """The version with the best evaluation, the later one of equals."""
    return max(evaluations, key=lambda version: (evaluations[version]["successes"], version))
