"""The attempts of one station: the next instruction from what is on the table, each step, the end, the episode.

Stands between the loop in station.py, which says when and who, and the workspace, in which things move. An attempt
under way is a Recording; when it is cut it becomes an Episode, which goes to `store`.
"""

import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robots.actions import Actions
from robots.control import CommandRefused
from robots.driver import DriverError
from robots.embodiments import EMBODIMENTS, Camera, Embodiment, Observation, is_number
from robots.episodes import ACTORS, FAILURES, Episode, label, most_steps, stacked
from robots.orders import Orders, PolicyBundle
from robots.protocol import Code
from robots.rules import Rules, Settings
from robots.tasks import TASKS, Instruction, TaskFamily
from robots.termination import Termination
from robots.wordings import BY_HAND
from robots.workspace import Workspace

log = logging.getLogger(__name__)

SPREADING = 3  # failures in a row after which another family is asked; then the task's own again, and so on
MOST_PASSED_OVER = 10  # instructions in a row that look fulfilled before anything was done
FARTHEST_MARK = 10.0  # metres
OLD_S = 1.0  # what was seen longer before it is acted upon is seen anew
PROBE_SHARE = 0.1  # the share of attempts that go on, however low their probability of success


class Recording:
    """The episode under way."""

    def __init__(
        self,
        task: TaskFamily,
        instruction: Instruction,
        limit: int,
        purpose: str,
        actor: str,
        observation: Observation,
        loaded: PolicyBundle | None,
        rules: Rules,
    ):
        self.uuid = str(uuid.uuid4())
        self.task, self.instruction, self.limit = task, instruction, limit
        self.purpose, self.actor, self.loaded = purpose, actor, loaded
        self.observations = [observation]  # T+1
        self.actions: list[np.ndarray] = []  # T of [A]
        self.fenced: list[bool] = []  # whether the fence turned the action aside
        self.frames: dict[str, list[bytes]] = {}  # a JPEG for each observation, by camera (cameras.py)
        self.assignment: object = None  # the id of the one that it is of
        self.rules = rules  # as they were when it began
        self.termination = Termination(rules, limit, loaded)
        self.started_at = time.time()

    @property
    def steps(self) -> int:
        """How often somebody acted."""
        return len(self.actions)

    @property
    def d(self) -> list[float]:
        """One shorter than the observations until the newest one is judged."""
        return self.termination.d

    def finish(
        self,
        ending: str,
        *,
        embodiment: Embodiment,
        true_success: bool | None,
        seed: int,
        interventions: int,
        labels: dict[str, dict[str, Any]],
    ) -> Episode:
        """What was recorded, as the episode that ended so."""
        d = self.d + [math.nan] * (len(self.observations) - len(self.d))
        loaded = self.loaded
        return Episode(
            uuid=self.uuid,
            embodiment=embodiment.name,
            body=embodiment,
            task=self.task.name,
            instruction=self.instruction.text,
            observations=stacked(self.observations),
            actions=np.array(self.actions, np.float32),
            actors=np.full(self.steps, ACTORS.index(self.actor), np.uint8),
            steps_to_go=np.asarray(d, np.float32),
            fenced=np.array(self.fenced, np.uint8),
            ending=ending,
            detected_success=ending == "detected_success",
            true_success=true_success,
            purpose=self.purpose,
            policy=loaded.checkpoint if loaded else "",
            reward_model=loaded.reward_model_checkpoint if loaded else "",
            threshold=loaded.threshold if loaded else None,
            seed=seed,
            started_at=self.started_at,
            fps=embodiment.fps,
            interventions=interventions,
            labels=labels,
            frames={name: kept for name, kept in self.frames.items() if len(kept) == len(self.observations)},
        )


def _film_nothing(recording: Recording) -> None:
    pass


class Attempts:
    """One station's attempts, one after the other."""

    def __init__(
        self, workspace: Workspace, orders: Orders, settings: Settings, *, seed: int, store: Callable[[Episode], None]
    ):
        self.workspace, self.orders, self.settings = workspace, orders, settings
        self.driver, self.rng = workspace.driver, workspace.rng
        self.seed, self.store = seed, store
        self.film: Callable[[Recording], None] = _film_nothing  # called after each observation that is recorded
        self.embodiment = self.driver.embodiment
        self.actions = Actions(self.embodiment)
        self.period = 1.0 / self.embodiment.fps
        self.most_steps = most_steps(self.embodiment)
        self.recording: Recording | None = None
        self.instruction: Instruction | None = None
        self.d = math.nan
        self.distribution: np.ndarray | None = None  # p(steps to go) [bins], by the reward model
        self.planned: deque[np.ndarray] = deque()  # what is left of the policy's last chunk, [A] each
        self.passed_over = 0  # instructions in a row
        self.asked = ""  # the family of the last one
        self.memory: dict[str, Any] = {}  # what this run's policies keep of this station; theirs alone
        self.signals: dict[str, float] = {}  # what the policy said of itself when it was last asked, by name
        self.number = 0
        self.steps_taken = 0
        self.step_due = 0.0

    @property
    def under_way(self) -> Recording:
        """The episode under way; to ask for it where there is none is the loop's mistake."""
        if self.recording is None:
            raise RuntimeError("No attempt is under way.")
        return self.recording

    # The beginning

    def begin(self, purpose: str) -> bool:
        """The policy's next attempt; False where the table allows none, and then the workspace says why."""
        orders, workspace = self.orders, self.workspace
        if orders.task is None:
            return False
        if workspace.reset_due:
            if self.driver.resets_itself:
                workspace.reset()  # no touch: it is part of the task, and nobody was asked
            else:
                workspace.ask(Code.RESET_FIRST, "a reset is due before each attempt of its task")
        families = [orders.task]
        other = orders.after_failure
        if other is not None and purpose == "practice" and orders.rules.alternates:
            families = [other, orders.task] if self.asked == orders.task.name else [orders.task, other]
        elif other is not None and purpose == "practice":
            # Without a reset a table stays as a failure left it, and the same would fail again and again.
            # Nor is it the other one's alone: a policy may never have learned that.
            families = [other, orders.task] if workspace.failures % (SPREADING + 1) else [orders.task, other]
        workspace.check()
        if not workspace.need:
            try:
                workspace.look()
                task, instruction = self._first_of(families)
                self._refuse_without_sensor(instruction)
                tolerated = self.driver.needs_reset()
            except CommandRefused as error:
                workspace.ask(Code.NO_INSTRUCTION, str(error))
            except DriverError as error:
                workspace.blame(error)
        if workspace.need:
            return False
        self.asked = task.name
        limit = orders.rules.time_limit_steps or task.time_limit_steps
        termination = self._record(task, instruction, limit, purpose, "policy").termination
        termination.tolerated = tolerated
        if orders.rules.low_success_probability is not None:
            termination.probe = purpose == "evaluation" or self.rng.random() < PROBE_SHARE
        return True

    def _refuse_without_sensor(self, instruction: Instruction) -> None:
        if self.orders.rules.success_by == "sensor" and "success" not in self.driver.sensed(instruction):
            raise CommandRefused(
                "its task goes by a sensor of success, and this station has none; let the success detector tell it, in "
                "the task's rules"
            )

    def move_mark(self, number: Any, *place: Any) -> None:
        """A person moves one of the marks of the attempt under way, from 0 on, to x, y in metres."""
        marks = self.memory.get("marks")
        if marks is None or type(number) is not int or not 0 <= number < len(marks["points"]):
            raise CommandRefused("The station has no such keypoint now; look at the picture again.")
        if not all(is_number(each) and abs(each) <= FARTHEST_MARK for each in place):
            raise CommandRefused(f"A keypoint lies at x, y in metres, at most {FARTHEST_MARK:g} away.")
        points = [list(point) for point in marks["points"]]
        points[number] = [float(each) for each in place]
        self.memory["marks"] = {"points": points, "source": "human"}

    def begin_correction(self) -> None:
        """The attempt ends here and keeps the policy's steps; the person's go into an episode of their own."""
        attempt = self.recording
        self.cut("override")
        self.workspace.look()
        if attempt is not None:
            self._record(attempt.task, attempt.instruction, attempt.limit, "correction", "human")
            return
        # Nothing was being tried: the person is given words to drive by, or the steps would have no goal to learn from.
        built_in = (family for family in TASKS.values() if family.embodiment == self.embodiment.name)
        known = [*reversed(self.orders.told.values()), *built_in]
        task, instruction = self._first_of([self.orders.task, *known] if self.orders.task else known or [BY_HAND])
        self._record(task, instruction, task.time_limit_steps, "correction", "human")

    def _first_of(self, families: Sequence[TaskFamily]) -> tuple[TaskFamily, Instruction]:
        """Of the first family that has an instruction for this table; CommandRefused with the first one's reason."""
        reasons, objects, words = [], self.driver.objects_in_play(), self.driver.instruction()
        for family in families:
            try:
                return family, family.sample(self.rng, objects, words=words)
            except ValueError as error:
                reasons.append(str(error))
        raise CommandRefused(reasons[0])

    def remembered(self) -> dict[str, Any]:
        """What the policies of its run keep of this station from one question to the next. Theirs alone, but for these:

        step          of the attempt, 0 at its first frame
        purpose       of the attempt, "practice" or "evaluation"
        instruction   its words
        look          () -> (picture [H, W, 3], the view that took it), or (None, None) where nothing can be seen
        marks         {points: [[x, y], ...] in metres, source}, theirs to set: pages draw them, a person may move them
        """
        attempt = self.under_way
        told = {"step": attempt.steps, "purpose": attempt.purpose, "instruction": attempt.instruction.text}
        self.memory |= told | {"look": self._look}
        return self.memory

    def _look(self) -> tuple[np.ndarray | None, Camera | None]:
        view = next((view for view in self.embodiment.views if view.plane), None)
        try:
            return (self.driver.render(view.name, view.width, view.height), view) if view else (None, None)
        except DriverError as error:
            log.warning("%s", error)
            return None, None

    def _record(self, task: TaskFamily, instruction: Instruction, limit: int, purpose: str, actor: str) -> Recording:
        self.instruction = instruction
        self.d, self.distribution = math.nan, None
        self.planned.clear()
        self.number += 1
        observation, orders = self.workspace.seen, self.orders
        recording = Recording(task, instruction, limit, purpose, actor, observation, orders.loaded, orders.rules)
        recording.assignment = orders.assignment.assignment if orders.assignment else None
        self.recording = recording
        self.film(recording)
        return recording

    # Each step

    def look_again(self, now: float) -> None:
        """In the middle of an episode the server may have been silent, or the person at the controls waited: then what
        was seen after the last step is not what the next one is an answer to.
        """
        if now - max(self.workspace.seen_at, self.step_due) < OLD_S:
            return
        self.workspace.look()
        recording = self.under_way
        recording.observations[-1] = self.workspace.seen
        if not recording.steps:
            recording.frames.clear()
            self.film(recording)

    def judge(self, d: float, distribution: np.ndarray | None, prediction: np.ndarray | None) -> None:
        """What the networks say of the newest frame: d, and p(steps to go) and p(steps to success) [bins]."""
        self.d, self.distribution = d, distribution
        self.under_way.termination.judge(d, prediction, self.under_way.steps)

    def ending(self) -> str:
        """Why the policy's attempt is over by itself; "": it goes on."""
        attempt = self.under_way
        return attempt.termination.ending(attempt.steps, self.driver.needs_reset(), self._sensed(attempt))

    def _sensed(self, attempt: Recording) -> bool:
        """Whether a sensor, where the task goes by one, says that what was asked for is done."""
        by_sensor = attempt.rules.success_by == "sensor"
        return by_sensor and self.driver.sensed(attempt.instruction).get("success", 0.0) > 0

    def looks_done(self) -> bool:
        """Whether the reward model takes what is asked for fulfilled before anything was done. Where it has said so of
        many in a row it is not to be believed, and the next one is tried all the same.
        """
        attempt = self.under_way
        if attempt.loaded is None or attempt.steps or self.passed_over >= MOST_PASSED_OVER:
            return False
        if attempt.rules.success_by == "sensor":
            return self._sensed(attempt)
        return attempt.loaded.threshold is not None and self.d <= attempt.loaded.threshold

    def pass_over(self) -> None:
        """Ask for something else: to try this would be a success of nobody's, asked again and again. Where the world
        itself can't tell what is fulfilled, as with tasks in words, the reward model alone can.
        """
        self.recording = self.instruction = None
        self.passed_over += 1
        self.workspace.fresh = False  # where each attempt begins with a reset, the next one begins with another

    def plan(self, actions: np.ndarray | None) -> bool:
        """What the policy answered, [K, A] or [A]: as many as the recipe says are executed before it is asked again.
        False, and nothing is planned, where these are no actions of this body.
        """
        chunk = np.atleast_2d(np.asarray(actions if actions is not None else (), np.float32))
        if chunk.ndim != 2 or chunk.shape[1:] != self.actions.low.shape or not len(chunk):
            return False
        loaded = self.under_way.loaded
        chunk = chunk[: loaded.executed if loaded else 1]
        if not np.isfinite(chunk).all():
            return False
        self.planned.extend(chunk)
        return True

    def step(self, action: np.ndarray, now: float) -> None:
        """The policy's action [A]."""
        self._step(np.asarray(action, np.float32), self._present(), now)
        self.workspace.practised_s += self.period

    def push(self, axes: Mapping[str, float], now: float) -> None:
        """What a person pushes, each drive axis from -1 to 1."""
        actions = self.under_way.actions
        before = actions[-1] if actions else None
        present = self._present()
        solved = self.driver.driven(axes) if self.actions.by_driver.intersection(axes) else None
        self._step(self.actions.pushed(axes, present, before, solved), present, now)

    def follow(self, action: np.ndarray, now: float) -> None:
        """What the station's own device wants, the action [A]."""
        self._step(action, self._present(), now)

    def _present(self) -> Observation:
        """Where the body is. Since the last step somebody may have moved it, or it may have sunk, and an absolute
        target that is near to where it was may be far from where it is.
        """
        return self.driver.observation() if self.actions.need_a_look else self.workspace.seen

    def _step(self, action: np.ndarray, present: Observation, now: float) -> None:
        recording = self.under_way
        action = self.actions.bounded(action, present)
        # The episode keeps what was asked for: the fence is part of the world that it was asked of.
        done = action
        if recording.rules.edge_margin is not None and recording.actor == "policy":
            done = self.actions.bounded(self.driver.fenced(action, recording.rules.edge_margin), present)
        fenced = not np.allclose(done, action, rtol=0, atol=1e-6)
        observation = self.driver.step(done)
        self.workspace.moved(observation)
        recording.observations.append(observation)
        recording.actions.append(action)
        recording.fenced.append(fenced)
        self.film(recording)
        if recording.actor == "human" and recording.steps >= self.most_steps:
            self.begin_correction()  # what a person drives has no limit, an episode has
        self.steps_taken += 1
        self.passed_over = 0
        # Real time counts from when the step was due, so that a late tick does not slow the rate down, but never
        # catches up.
        speed = 1 if recording.actor == "human" else self.settings.speed
        period = self.period / speed if speed else 0.0
        self.step_due = max(self.step_due + period, now + period / 2) if self.step_due > now - period else now + period

    # The end

    def cut(self, ending: str) -> None:
        """End the episode under way, if any, here and now. An episode without a step is nobody's attempt and is
        dropped.
        """
        recording, self.recording = self.recording, None
        self.instruction = None
        if recording is None or not recording.steps:
            return
        if recording.actor == "policy" and ending in FAILURES:
            self.workspace.failures += 1
        elif recording.actor == "policy" and ending == "detected_success":
            self.workspace.failures = 0
        true_success, labels = None, dict[str, dict[str, Any]]()
        try:
            labels = self._labels(recording, ending)
            # A built-in world judges its own families alone; a lab's robot may tell more, by a sensor. Reported only.
            if recording.task.name in TASKS or self.embodiment.name not in EMBODIMENTS:
                true_success = self.driver.true_success(recording.instruction)
        except DriverError as error:
            self.workspace.blame(error)
        by_person = ending in ("operator", "override", "stop") and recording.actor == "policy"
        episode = recording.finish(
            ending,
            embodiment=self.embodiment,
            seed=self.seed,
            interventions=int(by_person),
            true_success=true_success,
            labels=labels,
        )
        if recording.purpose == "evaluation":
            self.orders.count_attempt(recording.assignment)
        self.store(episode)
        self.workspace.check()

    def _labels(self, recording: Recording, ending: str) -> dict[str, dict[str, Any]]:
        """What became of the attempt as sensors tell it; and its success as told by what the task goes by."""
        told = self.driver.sensed(recording.instruction)
        told.pop("success", None)
        labels = {name: label(value, "sensor", recording.steps) for name, value in told.items()}
        if recording.actor == "policy" and (marks := self.memory.get("marks")):
            labels["keypoints"] = label(marks["points"], marks["source"], 0)
        if ending == "detected_success":
            labels["success"] = label(1.0, recording.rules.success_by or "classifier", recording.steps)
        return labels
