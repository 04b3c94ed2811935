"""What the server wants of one station: the task and its rules, whose policies act, and whether to wait for the next.

Stands between the server's messages and the loop in station.py, which asks it what to do where no person drives.
Nothing here moves anything or speaks to anybody.
"""

from dataclasses import dataclass
from typing import Any

from robots.embodiments import Embodiment
from robots.episodes import refuse_long
from robots.protocol import Assignment, Hold
from robots.rules import Rules
from robots.tasks import TaskFamily, get_task
from robots.wordings import family_told

REMEMBERED = 20  # tasks in words that it was told of


@dataclass(frozen=True)
class PolicyBundle:
    """What a host gives a station to act with: the objects, and the ids that every episode carries."""

    checkpoint: str
    version: int
    policy: Any  # what it does with observations and instructions is the host's business
    reward_model_checkpoint: str  # "": nothing judges, of a method that has no reward model
    reward_model: Any
    threshold: float | None
    consecutive: int
    bin_width: float | None
    value_updates: int  # rounds of practice that the policy's success prediction has learned from
    executed: int = 1  # of the chunk of actions that the policy answers, before it is asked again


class Orders:
    """The newest assignment and the policy that it is practised with."""

    def __init__(self, embodiment: Embodiment):
        self.embodiment = embodiment
        self.assignment: Assignment | None = None
        self.task: TaskFamily | None = None  # None: nothing that can be practised here
        self.after_failure: TaskFamily | None = None  # asked when an attempt failed
        self.told: dict[str, TaskFamily] = {}  # by name, the newest last: tasks in words that this body was assigned
        self.rules = Rules()
        self.run: Any = None  # whose policies these are
        self.loaded: PolicyBundle | None = None
        self.next_policy: PolicyBundle | None = None
        self.hold_version: int | None = None  # wait for a policy newer than this one
        self.waiting_reason = ""  # why there is no policy, where more is known than that
        self.attempts_made = 0  # of the assignment `counted`: of an evaluation each station makes its share
        self.counted: Any = None
        self._policy_outdated = False  # to be dropped at the episode boundary

    @property
    def resets_each_attempt(self) -> bool:
        """Whether no attempt begins without a reset: the task says so, or its family."""
        return self.rules.reset_each_attempt or (self.task is not None and self.task.reset_each_attempt)

    @property
    def evaluates(self) -> bool:
        """Whether attempts count as evaluation, and teach nothing."""
        return self.assignment is not None and self.assignment.purpose == "evaluation"

    def take(self, message: Assignment) -> None:
        """From now on the last one's task is over; its rules hold until `read_task`."""
        assigned = message.assignment is not None and message.task
        self.assignment, self.task = (message if assigned else None), None
        if assigned:
            if message.assignment != self.counted:
                self.counted, self.attempts_made = message.assignment, 0
            # The server doesn't know yet what waits to be sent; a process that began anew doesn't know what was sent.
            self.attempts_made = max(self.attempts_made, message.made or 0)

    def count_attempt(self, assignment: Any) -> None:
        """One of this assignment was made; it may have been replaced by another meanwhile."""
        if assignment == self.counted:
            self.attempts_made += 1

    def follow_run(self, run: Any) -> bool:
        """Whether it is another run than before: its versions begin anew, and it must get no episode that the last
        run's policy acted.
        """
        if self.run == run:
            return False
        self.run, self.next_policy, self.hold_version, self._policy_outdated = run, None, None, True
        return True

    def read_task(self) -> None:
        """The assignment's rules and task, or why this station can't practise it."""
        told = (self.assignment.task if self.assignment else None) or {}
        self.after_failure = None
        try:
            self.rules = Rules.from_json(told)
            task = self._family(told.get("name"), told.get("words"), self.rules.time_limit_steps)
            other = self.rules.after_failure
            after_failure = self._family(other, told.get("after_failure_words"), None) if other else None
            for family in filter(None, (task, after_failure)):
                if family.embodiment != self.embodiment.name:
                    raise ValueError(
                        f"the task {family.name} is for {family.embodiment}, and this station is "
                        f"{self.embodiment.name}: assign another task"
                    )
                refuse_long(self.embodiment, self.rules.time_limit_steps or family.time_limit_steps)
        except ValueError as error:
            self.waiting_reason = str(error)
            return
        self.task, self.after_failure, self.waiting_reason = task, after_failure, ""
        if told.get("words"):
            self.told.pop(task.name, None)
            self.told[task.name] = task
            if len(self.told) > REMEMBERED:
                del self.told[next(iter(self.told))]

    @staticmethod
    def _family(name: Any, words: Any, time_limit_steps: int | None) -> TaskFamily:
        """The built-in family, or the one that words describe; ValueError where there is none."""
        name = name if isinstance(name, str) else ""
        return family_told(name, words, time_limit_steps) if isinstance(words, dict) else get_task(name)

    def hold(self, message: Hold) -> None:
        """`version` comes from the server's hold, `policies` from the answer to an upload of episodes of these."""
        version = message.version
        if message.policies is not None:
            # An answer that speaks of an older policy's episodes must not stop the station that has the next one
            # already.
            newest = self.next_policy or self.loaded
            if newest is None or newest.checkpoint not in message.policies:
                return
            version = newest.version
        if version is not None:
            self.hold_version = max(version, self.hold_version if self.hold_version is not None else version)

    def offer(self, loaded: PolicyBundle) -> bool:
        """False where it is the one that acts already: sent again, after a reconnection, and a hold on it stays."""
        if self.loaded is not None and loaded.checkpoint == self.loaded.checkpoint and not self._policy_outdated:
            self.next_policy = None
            return False
        self.next_policy = loaded
        if self.task is not None:  # otherwise a policy is not what it waits for
            self.waiting_reason = ""
        return True

    def take_next_policy(self) -> bool:
        """At an episode's boundary; whether another one acts from now on."""
        if self._policy_outdated:
            self.loaded, self._policy_outdated = None, False
        if self.next_policy is None:
            return False
        self.loaded, self.next_policy = self.next_policy, None
        return True

    def why_waiting(self) -> str:
        """Why no policy may act now; "" where one may."""
        if self.loaded is None:
            return self.waiting_reason or "no policy has come yet"
        if self.hold_version is not None and self.loaded.version <= self.hold_version:
            return f"holding for a policy newer than version {self.hold_version}"
        return "it has made its attempts of this evaluation" if self.share_made else ""

    @property
    def share_made(self) -> bool:
        """Whether no attempt of its evaluation is left for this station."""
        most = self.assignment.attempts if self.assignment else None
        return most is not None and self.attempts_made >= most
