"""The loop of one station: instruction -> steps -> ending -> episode -> the next, from what is on the table.

A state machine stepped by a host, which brings the policy: many stations then share one batched network call.

    station.receive(message)                     assignment, hold, command, settings, as they come from the server
    if (due := station.observe()) is not None:   (observation, instruction); None: nothing to do now
        station.act(action, d, distribution, outlook)    the policy's action and outlook, the reward model's d

Practice is reset-free. An episode ends by the success detector, the time limit, the operator, an override, a stop or a
world that needs a reset, never by the simulator's true success, which is only written down. The ending is decided on an
observation that the reward model has judged and before the next instruction is drawn, so nothing of the next episode
enters the last.
"""

import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robots.actions import Actions
from robots.control import (
    DEAD_MAN_S,
    GONE_S,
    QUIET_S,
    CommandLog,
    CommandRefused,
    Control,
    DeadMan,
    Lease,
    refuse_expired,
)
from robots.driver import Driver, DriverError
from robots.episodes import ACTORS, CONFIRMED_FRAMES, FAILURES, Episode
from robots.rules import RuleError, Rules, Settings
from robots.tasks import TASKS, Instruction, TaskFamily, get_task
from robots.worlds import World

log = logging.getLogger(__name__)

SILENCE_S = 2.5  # a server gone for longer: hold still
TELEMETRY_EVERY_S = 0.1
HEARTBEAT_S = 1.0  # telemetry of a station where nothing happens
# d is a noisy estimate: less than this below the lowest so far is no progress, and one high frame is no regression.
NEW_LOW = 1.0
SPREADING = 3  # failures in a row after which another family is asked; then the task's own again, and so on
TRIED_OUT = 0.1  # the share of attempts that go on, however hopeless
# Rounds until a policy's outlook is acted upon: at first it speaks of demonstrations. After 8 rounds (300 episodes)
# P(failure) was off by .09 on average, before the first by .28.
UNTAUGHT = 8
RESET_FIRST = "a reset is due before each attempt of its task"
LET_GO = "no drive command came for half a second; it holds still"
STOP_CLEARED = "the stop was cleared; resume to go on"


@dataclass(frozen=True)
class LoadedPolicy:
    """What a host gives a station to act with: the objects, and the ids that every episode carries."""

    checkpoint: str
    version: int
    policy: Any  # what it does with observations and instructions is the host's business
    reward_model_checkpoint: str
    reward_model: Any
    threshold: float
    consecutive: int
    bin_width: float
    taught: int  # rounds of practice that the policy's outlook has learned from


class Recording:
    """The episode under way."""

    def __init__(
        self,
        task: TaskFamily,
        instruction,
        limit: int,
        purpose: str,
        actor: str,
        observation: np.ndarray,
        loaded: LoadedPolicy | None,
        rules: Rules,
    ):
        self.uuid = str(uuid.uuid4())
        self.task, self.instruction, self.limit = task, instruction, limit
        self.purpose, self.actor, self.loaded = purpose, actor, loaded
        self.observations = [observation]
        self.actions: list[np.ndarray] = []
        self.fenced: list[bool] = []  # whether the fence turned the action aside
        self.d: list[float] = []  # one shorter than observations until the newest one is judged
        self.below = 0  # frames in a row with d <= s
        self.lowest, self.lowest_at = math.inf, 0  # of d, and its step
        self.above = 0  # frames in a row in which d has risen too far
        self.p_success: float | None = None  # of the newest frame, by the policy's outlook
        self.forlorn = 0  # frames in a row in which that was too little
        self.rules = rules  # as they were when it began
        self.tried_out = False  # however hopeless: what comes of such attempts is what outlook is learned from
        self.need = ""  # what was out of play at the start, and tolerated
        self.started_at = time.time()

    @property
    def steps(self) -> int:
        return len(self.actions)

    def judge(self, d: float, outlook: np.ndarray | None) -> None:
        if len(self.d) < len(self.observations):
            self.d.append(d)
            self.p_success = None
            if outlook is not None and self.loaded is not None and np.isfinite(outlook).all():
                self.p_success = chance_of_success(outlook, self.limit - self.steps, self.loaded.bin_width)
            self.below = self.below + 1 if self.loaded and d <= self.loaded.threshold else 0
            if d <= self.lowest - NEW_LOW or self.lowest == math.inf:
                self.lowest, self.lowest_at = d, self.steps

    def given_up(self) -> str:
        """The ending, if this attempt leads nowhere by the task's rules."""
        rules = self.rules
        taught = rules.hopeless is not None and self.p_success is not None and self.loaded.taught >= UNTAUGHT
        doubted = taught and self.p_success < rules.hopeless
        self.forlorn = self.forlorn + 1 if doubted else 0
        if self.forlorn >= CONFIRMED_FRAMES and not self.tried_out:
            return "hopeless"
        risen = rules.regression is not None and self.d[-1] - self.lowest >= rules.regression
        self.above = self.above + 1 if risen else 0
        if self.above >= CONFIRMED_FRAMES:
            return "regression"
        if rules.stall_steps is not None and self.steps - self.lowest_at >= rules.stall_steps:
            return "stall"
        return ""

    @property
    def detected(self) -> bool:
        # The goal that a table fulfils before any step is not the policy's success.
        return self.loaded is not None and self.steps > 0 and self.below >= max(1, self.loaded.consecutive)

    def finish(self, ending: str, *, embodiment, true_success: bool | None, seed: int, interventions: int) -> Episode:
        d = self.d + [math.nan] * (len(self.observations) - len(self.d))
        loaded = self.loaded
        return Episode(
            uuid=self.uuid,
            embodiment=embodiment.name,
            task=self.task.name,
            instruction=self.instruction.text,
            observations=np.array(self.observations, embodiment.observation_type),
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
            control_hz=embodiment.control_hz,
            interventions=interventions,
        )


def _ignore(_) -> None:
    pass


class Station:
    """`emit` takes messages that must arrive, `show` telemetry of which only the newest counts, `store` finished
    episodes.
    """

    def __init__(
        self,
        world: World | Driver,
        *,
        seed: int = 0,
        emit: Callable[[dict], None] = _ignore,
        show: Callable[[dict], None] = _ignore,
        store: Callable[[Episode], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.driver = world if isinstance(world, Driver) else Driver(world)
        self.embodiment, self.seed = self.driver.embodiment, seed
        self.actions = Actions(self.embodiment)
        self.emit, self.show, self.store, self.clock = emit, show, store, clock
        self.rng = np.random.default_rng(seed)
        self.control, self.commands, self.dead_man, self.lease = Control(), CommandLog(), DeadMan(), Lease()
        self.settings = Settings()
        self.period = 1.0 / self.embodiment.control_hz
        self.assignment: dict | None = None
        self.task: TaskFamily | None = None
        self.rules = Rules()
        self.run = None  # whose policies these are
        self.loaded: LoadedPolicy | None = None
        self.next_policy: LoadedPolicy | None = None
        self.hold_version: int | None = None  # wait for a policy newer than this one
        self.waiting_reason = ""  # why there is no policy, where more is known than that
        self.need = ""  # why a person must come; "" when nobody must
        self.need_since = 0.0
        self.faulty = False  # the need is the driver's failure: a person is asked for whatever is assigned
        self.reset_failed = False
        self.camera_error = ""  # why no picture can be shown; the host's to say
        self.open_reason = ""  # why an override waits for a person, once its holder is gone
        self.practised_s = 0.0  # robot time since the table was last shuffled
        self.fresh = True  # nothing has moved since the last reset
        self.failures = 0  # of the policy in a row
        self.recording: Recording | None = None
        self.instruction = None
        self.d = math.nan
        self.distribution: np.ndarray | None = None
        self.episode_number = 0
        self.steps_taken = 0
        self.scene = 0  # counts changes of what a camera sees
        self.step_due = 0.0
        self._policy_outdated = False  # to be dropped at the episode boundary
        self._shown_at = -math.inf
        self._server_gone = False
        self.observation: np.ndarray | None = None  # None: the driver could not tell
        if self.driver.missing:
            self._blame(self.driver.missing)
            self.reset_failed = True
        else:
            self._reset()
        self._rest()

    # What the server says

    def receive(self, message: dict, received_at: float | None = None) -> None:
        """One message of the link protocol (docs/architecture.md). A policy comes as offer_policy, once its host has
        loaded it.
        """
        kind = message.get("type")
        if kind == "command":
            self._command(message, self.clock() if received_at is None else received_at)
        elif kind == "beat":
            self._beat(message, self.clock() if received_at is None else received_at)
        elif kind == "lapse":
            self._hear_of_lapse(message)
        elif kind == "heartbeat":
            self._hear_latch(message.get("stop"))
        elif kind == "welcome":
            self.lease.note(message.get("epoch"))
            self._welcome(message.get("settings") or {})
        elif kind == "assignment":
            self._assign(message)
        elif kind == "hold":
            self._hold(message)
        self._rest()

    def _welcome(self, settings: dict) -> None:
        try:
            self.settings.update(settings)
        except RuleError as error:
            log.warning("The server's settings were refused: %s", error)
        if self.lease.live:  # with the link the server took the operator's lease away
            self._lapse(f"the link broke while {self.lease.holder} was in control")
        elif settings.get("overridden") is True and not self.lease.open and not self.control.stop_latched:
            self._await_hand_back("a person took control before this process began")
        # What people ordered while the link was down, or before this host was started.
        stop = str(settings.get("stop") or "")
        if settings.get("stop_latched") is True:
            self._hear_latch(stop or "a stop")
        elif settings.get("stop_latched") is False and self.control.stop_latched and self.control.stop in ("", stop):
            # The stop that it had is on record, and was cleared. One that is not was told before the server could
            # write it down: it stays until a person clears it.
            self._clear_stop()
        if isinstance(settings.get("paused"), bool):
            self._pause(settings["paused"])
        if self.loaded:
            self.emit({"type": "policy_loaded", "checkpoint": self.loaded.checkpoint})
        self.emit(self.telemetry())

    def _assign(self, message: dict) -> None:
        task = message.get("task") or {}
        self.assignment, self.task = (message if message.get("assignment") is not None and task else None), None
        try:
            self.settings.update(message.get("settings") or {})
        except RuleError as error:
            log.warning("The settings of an assignment were refused: %s", error)
        if message.get("at_once") is True and self.recording is not None and self.recording.actor == "policy":
            self._cut("operator")
        if self.assignment is None:
            return
        if self.run != message.get("run"):
            # Another run: its versions begin anew, and it must get no episode that the last run's policy acted.
            self.run, self.next_policy, self.hold_version, self._policy_outdated = message.get("run"), None, None, True
            self.failures = 0
        try:
            self.rules = Rules.from_json(task)
            self.task = get_task(task.get("name", ""))
            families = [self.task, *([get_task(self.rules.after_failure)] if self.rules.after_failure else [])]
        except ValueError as error:
            self.waiting_reason = str(error)
            self.task = None
        else:
            self.waiting_reason = ""
            if self.need == RESET_FIRST and not self._resets_each_attempt:
                self.need = ""
            for family in families:
                if family.embodiment != self.embodiment.name:
                    self.waiting_reason = (
                        f"the task {family.name} is for {family.embodiment}, and this station is "
                        f"{self.embodiment.name}: assign another task"
                    )
                    self.task = None
                    break

    def _hold(self, message: dict) -> None:
        """`version` comes from the server's hold, `policies` from the answer to an upload of episodes of these
        policies.
        """
        if "policies" in message:
            # An answer that speaks of an older policy's episodes must not stop the station that has the next one
            # already.
            newest = self.next_policy or self.loaded
            if newest is None or newest.checkpoint not in message["policies"]:
                return
            version = newest.version
        else:
            version = message.get("version")
        if isinstance(version, int):
            self.hold_version = max(version, self.hold_version if self.hold_version is not None else version)

    def offer_policy(self, loaded: LoadedPolicy) -> None:
        """Taken at the next episode boundary; at once where no episode is under way."""
        if self.loaded is not None and loaded.checkpoint == self.loaded.checkpoint and not self._policy_outdated:
            self.next_policy = None  # sent again, after a reconnection: a hold on it stays
            self.emit({"type": "policy_loaded", "checkpoint": loaded.checkpoint})
            return
        self.next_policy = loaded
        if self.task is not None:  # otherwise a policy is not what it waits for
            self.waiting_reason = ""
        self._rest()

    def policy_failed(self, reason: str) -> None:
        self.waiting_reason = reason
        self._rest()

    def server_gone(self, gone_for_s: float) -> None:
        """The host says how long the server has been silent. The body holds still; an episode under way goes on
        afterwards.
        """
        if gone_for_s <= SILENCE_S:
            if self._server_gone:
                self._server_gone = False
                if self.control.state == "offline" and self.recording is not None:
                    self._become("evaluating" if self.recording.purpose == "evaluation" else "practising", "")
                self._rest()
        elif not self._server_gone:
            if self.lease.live:
                self._lapse(f"the server fell silent while {self.lease.holder} was in control")
            self._server_gone = True
            self._become("offline", "no word from the server; the station holds still")

    # Commands of a person

    def _command(self, message: dict, received_at: float) -> None:
        command_id = str(message.get("id"))
        answer = self.commands.answered(command_id)
        if answer is not None and message.get("name") == "stop" and not self.control.stop_latched:
            answer = {**answer, "ok": False, "error": "This stop was cleared since."}  # nobody takes it for a new one
        if answer is None:
            name, epoch, by = message.get("name"), message.get("epoch"), str(message.get("by") or "")
            self.lease.note(epoch)
            try:
                refuse_expired(message, max(self.clock() - received_at, message.get("age_s", 0.0)))
                self.lease.check(name, epoch, by)
                self._execute(command_id, name, message.get("args") or {}, epoch, by)
                answer = self.commands.answer(command_id)
            except (CommandRefused, RuleError) as error:
                answer = self.commands.answer(command_id, str(error))
            except DriverError as error:
                self._fault(error)
                answer = self.commands.answer(command_id, f"The station refused {name}: {error}.")
        self.emit(answer)

    def _execute(self, command_id: str, name: str, args: dict, epoch: int | None, by: str) -> None:
        self.control.check(name)
        match name:
            case "stop":
                self._stop(command_id)
            case "clear_stop":
                if args.get("stop") and self.control.stop not in ("", args["stop"]):
                    raise CommandRefused("It was stopped again meanwhile; look at it, then clear that stop.")
                self._clear_stop()
            case "pause":
                self._pause(True)
            case "resume":
                self._pause(False)
            case "reset":
                self._cut("operator")
                self._reset()
                if self.reset_failed:
                    raise CommandRefused(f"The station is not reset: {self.need}.")
            case "end_episode":
                self._cut("operator")
            case "speed":
                self.settings.update({"speed": args.get("value")})
                self.step_due = 0.0
            case "settings":
                self.settings.update(args)
            case "override":
                self._override(epoch, by)
            case "drive":
                self.dead_man.drive(args, self.clock())
                self.lease.sign(epoch, self.clock())
                self._become("overridden", "")
            case "hand_back":
                self._end_override("operator")

    def _hear_latch(self, stop: Any) -> None:
        """A heartbeat says which stop latches this station, "" if none. It never clears one: that is a person's act."""
        if not isinstance(stop, str) or not stop:
            return
        if self.control.stop_latched:
            self.control.stop = stop  # a newer one, whose own command was lost
        else:
            self._stop(stop)

    def _stop(self, stop: str) -> None:
        # The latch first: whatever goes wrong with keeping what was under way, the body is not moved again.
        self.control.stop_latched, self.control.stop = True, stop
        self._become("stopped", "stopped by a person")
        self._end_override("stop")
        self._cut("stop")

    def _clear_stop(self) -> None:
        self.control.stop_latched = False
        self.control.paused = True
        self._become("paused", STOP_CLEARED)

    def _pause(self, paused: bool) -> None:
        if paused:
            self._end_override("operator")
            if not self.control.paused:
                self._cut("operator")
        self.control.paused = paused

    def _override(self, epoch: int, by: str) -> None:
        """The attempt ends here and keeps the policy's steps; the person's go into an episode of their own."""
        if self.actions.undriven:
            raise CommandRefused(f"The station refused override: {self.actions.undriven}.")
        if self.observation is None:
            raise CommandRefused(f"The station refused override: {self.need}. Mend that and reset it first.")
        attempt = self.recording
        self._cut("override")
        if attempt is not None:
            self._record(attempt.task, attempt.instruction, attempt.limit, "correction", "human")
        else:
            # Nothing was being tried: the person is given words to drive by, or the steps would have no goal to
            # learn from.
            families = [family for family in TASKS.values() if family.embodiment == self.embodiment.name]
            if not families:
                raise CommandRefused(
                    f"No task is known for {self.embodiment.name}, so there is nothing to show by driving."
                )
            task, instruction = self._first_of([self.task, *families] if self.task else families)
            self._record(task, instruction, task.time_limit_steps, "correction", "human")
        self.dead_man.release()
        self.lease.take(epoch, by, self.clock())
        self._become("overridden", "")

    def _end_override(self, ending: str) -> None:
        """By a person's word; nothing else lets the policy move the body again."""
        if self.lease.open:
            self.dead_man.release()
            self.lease.close()
            self._cut(ending)

    # The person in control must give signs of life: drives, and beats of the browser between them

    def _beat(self, message: dict, received_at: float) -> None:
        late = max(self.clock() - received_at, message.get("age_s", 0.0)) > DEAD_MAN_S  # of a life long ago
        if not late and self.lease.sign(message.get("epoch"), self.clock()) and self._said_quiet():
            self._become("overridden", "")

    def _said_quiet(self) -> bool:
        return self.control.state == "overridden" and self.control.reason == self._quiet_reason()

    def _quiet_reason(self) -> str:
        return f"no sign of life from the browser of {self.lease.holder}; it holds still"

    def _hear_of_lapse(self, message: dict) -> None:
        """The server knows sooner than the clock here: the browser closed, or its user may no longer command."""
        self.lease.note(message.get("epoch"))
        if self.lease.live and self.lease.taken == message.get("epoch"):
            self._lapse(f"{self.lease.holder} is gone")

    def _lapse(self, said: str) -> None:
        """Nobody holds it any more. What was driven is kept, and the body holds still until a person says otherwise."""
        self.dead_man.release()
        self.lease.lapse()
        self._await_hand_back(said)

    def _await_hand_back(self, said: str) -> None:
        self.lease.open = True
        self.open_reason = f"{said}; it holds still: take over or hand back"
        self._cut("fault")
        self._rest()

    # Episodes

    def _first_of(self, families: Sequence[TaskFamily]) -> tuple[TaskFamily, Instruction]:
        """Of the first family that has an instruction for this table; CommandRefused with the first one's reason."""
        reasons, objects = [], self.driver.objects_in_play()
        for family in families:
            try:
                return family, family.sample(self.rng, objects)
            except ValueError as error:
                reasons.append(str(error))
        raise CommandRefused(reasons[0])

    def _record(self, task, instruction, limit, purpose, actor) -> None:
        self.instruction = instruction
        self.d, self.distribution = math.nan, None
        self.episode_number += 1
        self.recording = Recording(task, instruction, limit, purpose, actor, self.observation, self.loaded, self.rules)

    def _cut(self, ending: str) -> None:
        """End the episode under way, if any, here and now. An episode without a step is nobody's attempt and is
        dropped.
        """
        recording, self.recording = self.recording, None
        self.instruction = None
        if recording is None or not recording.steps:
            return
        if recording.actor == "policy" and ending in FAILURES:
            self.failures += 1
        elif recording.actor == "policy" and ending == "detected_success":
            self.failures = 0
        true_success = None
        try:
            true_success = self.driver.true_success(recording.instruction)  # reported only
        except DriverError as error:
            self._blame(error)
        by_person = ending in ("operator", "override", "stop") and recording.actor == "policy"
        episode = recording.finish(
            ending,
            embodiment=self.embodiment,
            seed=self.seed,
            interventions=int(by_person),
            true_success=true_success,
        )
        self.store(episode)
        self._check_table()

    def _check_table(self) -> None:
        """A person's two duties in reset-free practice: put back what fell, and mix what was not mixed for long."""
        if self.need or (self._resets_each_attempt and not self.fresh):  # else a reset comes before all that
            return
        try:
            reason = self.driver.needs_reset(self.rules.fewest_objects)
        except DriverError as error:
            self._blame(error)
            return
        if reason:
            self._ask(reason)
        elif self.practised_s >= self.settings.shuffle_every_s:
            self._ask(f"not shuffled for {_minutes(self.settings.shuffle_every_s)} of practice")

    @property
    def _resets_each_attempt(self) -> bool:
        return self.rules.reset_each_attempt or (self.task is not None and self.task.reset_each_attempt)

    def _ask(self, reason: str) -> None:
        self.need, self.need_since = reason, self.clock()

    def _blame(self, reason: DriverError | str) -> None:
        """The driver failed, so that nothing is to be expected of it until a reset succeeds."""
        log.warning("Fault: %s", reason, exc_info=reason if isinstance(reason, DriverError) else None)
        self._ask(str(reason))
        self.faulty = True

    def _reset(self) -> None:
        try:
            self.observation = self.driver.reset(self.rng)
        except DriverError as error:
            self.observation = None
            self._blame(error)
        else:
            self.scene += 1
            self.practised_s, self.failures, self.fresh = 0.0, 0, True
            self.need, self.faulty = "", False
            self._check_table()
        self.reset_failed = self.faulty

    # The state that circumstances ask for, wherever no person drives and no episode is under way

    def _rest(self) -> None:
        if self._server_gone or self.recording is not None:
            return
        self._take_next_policy()
        if self.control.stop_latched:
            self._become("stopped", self.control.reason or "stopped by a person")
        elif self.lease.open:
            self._become("overridden", self.open_reason)
        elif self.control.paused:
            kept = self.control.reason if self.control.state == "paused" else ""
            self._become("paused", kept or "paused by a person")
        elif self.faulty:
            self._become("needs_person", self.need)
        elif self.assignment is None:
            self._become("idle", "")
        elif self.task is None:
            self._become("idle", self.waiting_reason)
        elif self.need:
            self._become("needs_person", self.need)
        elif self.loaded is None:
            self._become("waiting", self.waiting_reason or "no policy has come yet")
        elif self.hold_version is not None and self.loaded.version <= self.hold_version:
            self._become("waiting", f"holding for a policy newer than version {self.hold_version}")
        else:
            evaluating = self.assignment.get("purpose") == "evaluation"
            self._become("evaluating" if evaluating else "practising", "")

    def _take_next_policy(self) -> None:
        if self._policy_outdated:
            self.loaded, self._policy_outdated = None, False
        if self.next_policy is not None:
            self.loaded, self.next_policy = self.next_policy, None
            self.emit({"type": "policy_loaded", "checkpoint": self.loaded.checkpoint})

    def _become(self, state: str, reason: str) -> None:
        if self.control.become(state, reason):
            self.emit(self.telemetry())
            self._shown_at = self.clock()

    # The loop

    def observe(self) -> tuple[np.ndarray, str] | None:
        """What the networks shall see now, or None: not due yet, or nobody moves the body."""
        now = self.clock()
        self._watch_the_clock(now)
        if self.control.moved_by is None or now < self.step_due:
            return None
        if self.control.moved_by == "human":
            return (self.observation, self.instruction.text) if self.dead_man.direction(now) is not None else None
        if self.recording is None and not self._begin():
            return None
        return self.observation, self.instruction.text

    def next_step_at(self) -> float:
        """When observe() will next have something to do, as far as known; a message may change that."""
        if self.control.moved_by == "policy":
            return self.step_due
        pushed = self.control.moved_by == "human" and self.dead_man.direction(self.clock()) is not None
        return self.step_due if pushed else math.inf

    def _watch_the_clock(self, now: float) -> None:
        if self.dead_man.lapsed(now):
            self._become("overridden", LET_GO)
        if (quiet := self.lease.quiet_for(now)) > GONE_S:
            self._lapse(f"{self.lease.holder} is gone")
        elif quiet > QUIET_S and self.recording is not None:
            self._become("overridden", self._quiet_reason())
        waited = now - self.need_since
        after = self.settings.self_reset_after_s
        # What a reset did not mend is not tried again and again: it takes a person.
        by_itself = after is not None and not self.reset_failed
        if self.control.state == "needs_person" and by_itself and waited >= after:
            touch = {"type": "touch", "kind": "self_reset", "reason": self.need, "seconds": round(waited, 3)}
            self._reset()
            if not self.reset_failed:
                self.emit(touch)
            self._rest()
        if now - self._shown_at >= HEARTBEAT_S:
            self._show(now)

    def _begin(self) -> bool:
        """The next instruction, from what is on the table."""
        purpose = "evaluation" if self.control.state == "evaluating" else "practice"
        if self._resets_each_attempt and not self.fresh:
            if self.driver.resets_itself:
                self._reset()  # no touch: it is part of the task, and nobody was asked
            else:
                self._ask(RESET_FIRST)
        families = [self.task]
        if self.rules.after_failure and purpose == "practice":
            other = get_task(self.rules.after_failure)
            # Without a reset a table stays as a failure left it, and the same would fail again and again.
            # Nor is it the other one's alone: a policy may never have learned that.
            families = [other, self.task] if self.failures % (SPREADING + 1) else [self.task, other]
        self._check_table()
        if not self.need:
            try:
                task, instruction = self._first_of(families)
                tolerated = self.driver.needs_reset()
            except CommandRefused as error:
                self._ask(str(error))
            except DriverError as error:
                self._blame(error)
        if self.need:
            self._rest()
            return False
        limit = self.rules.time_limit_steps or task.time_limit_steps
        self._record(task, instruction, limit, purpose, "policy")
        self.recording.need = tolerated
        if self.rules.hopeless is not None:
            self.recording.tried_out = purpose == "evaluation" or self.rng.random() < TRIED_OUT
        return True

    def act(
        self,
        action: np.ndarray | None,
        d: float,
        distribution: np.ndarray | None,
        outlook: np.ndarray | None = None,
    ) -> None:
        """The policy's action for what observe() returned, the reward model's judgement of it, and p(steps to success)
        under this policy [bins] (NaN, None: there is none).
        """
        now, recording = self.clock(), self.recording
        self.d, self.distribution = float(d), distribution
        recording.judge(self.d, outlook)
        if now - self._shown_at >= TELEMETRY_EVERY_S:
            self._show(now)
        try:
            self._go_on(recording, action, now)
        except DriverError as error:  # any driver may fail in any way, and the other stations of the host must go on
            self._fault(error)

    def _go_on(self, recording: Recording, action: np.ndarray | None, now: float) -> None:
        if recording.actor == "human":
            direction = self.dead_man.direction(now)
            if direction is not None:
                before = recording.actions[-1] if recording.actions else None
                present = self._present()
                self._step(recording, self.actions.pushed(direction, present, before), present, now)
                self.dead_man.used()
        elif ending := self._ending(recording):
            self._cut(ending)
            self._rest()
        elif np.shape(action) != self.actions.low.shape or not np.isfinite(action).all():
            self._fault("the policy gave no usable action")
        else:
            self._step(recording, np.asarray(action, np.float32), self._present(), now)
            self.practised_s += self.period

    def _ending(self, recording: Recording) -> str:
        need = self.driver.needs_reset()
        if need and need != recording.need:
            return "needs_reset"  # first: the detector is not to be believed about tables that no demonstration shows
        if recording.detected:
            return "detected_success"
        if recording.steps >= recording.limit:
            return "time_limit"
        return recording.given_up()

    def _present(self) -> np.ndarray:
        """Where the body is. Since the last step somebody may have moved it, or it may have sunk, and an absolute
        target that is near to where it was may be far from where it is.
        """
        return self.driver.observation() if self.actions.need_a_look else self.observation

    def _step(self, recording: Recording, action: np.ndarray, present: np.ndarray, now: float) -> None:
        action = self.actions.bounded(action, present)
        # The episode keeps what was asked for: the fence is part of the world that it was asked of.
        done = action
        if recording.rules.edge_margin is not None and recording.actor == "policy":
            done = self.actions.bounded(self.driver.fenced(action, recording.rules.edge_margin), present)
        fenced = not np.allclose(done, action, rtol=0, atol=1e-6)
        observation = self.driver.step(done)
        self.observation = observation
        recording.observations.append(observation)
        recording.actions.append(action)
        recording.fenced.append(fenced)
        self.steps_taken += 1
        self.fresh = False
        self.scene += 1
        # Real time counts from when the step was due, so that a late tick does not slow the rate down, but never
        # catches up.
        speed = 1 if recording.actor == "human" else self.settings.speed
        period = self.period / speed if speed else 0.0
        self.step_due = max(self.step_due + period, now + period / 2) if self.step_due > now - period else now + period

    def _fault(self, reason: DriverError | str) -> None:
        self.dead_man.release()
        self._cut("fault")
        if isinstance(reason, DriverError):
            self._blame(reason)
        else:
            log.warning("Fault: %s", reason)
            self._ask(reason)
        if self.lease.live:
            self._lapse(str(reason))
        self._rest()

    def close(self) -> None:
        """The host ends: what is under way is kept, as a stop would keep it."""
        self._cut("stop")
        self.driver.close()

    # What the server sees

    def _show(self, now: float) -> None:
        self._shown_at = now
        self.show(self.telemetry())

    def telemetry(self) -> dict:
        recording, loaded = self.recording, self.loaded
        d_start = recording.d[0] if recording and recording.d else math.nan
        d = self.d if recording else math.nan
        distribution = self.distribution if recording and loaded and math.isfinite(d) else None  # NaN is not JSON
        step = max(0, len(recording.d) - 1) if recording else 0  # the one that d speaks of
        return {
            "type": "telemetry",
            "state": self.control.state,
            "reason": self.control.reason,
            "instruction": self.instruction.text if self.instruction else "",
            "step": step,
            "limit": recording.limit if recording else 0,
            "d": _rounded(d),
            "d_start": _rounded(d_start),
            "progress": _rounded(min(1.0, max(0.0, 1 - d / d_start)) if d_start > 0 else math.nan),
            "p_success": _rounded(recording.p_success) if recording and recording.p_success is not None else None,
            "distribution": [round(float(p), 4) for p in distribution] if distribution is not None else [],
            "bin_width": loaded.bin_width if loaded else None,
            "threshold": loaded.threshold if loaded else None,
            "policy": loaded.checkpoint if loaded else "",
            "version": loaded.version if loaded else None,
            "episode": self.episode_number,
            "uuid": recording.uuid if recording else "",
            "speed": self.settings.speed,
            "camera_error": self.camera_error,
            "human": self.control.moved_by == "human",
            "stop": self.control.stop if self.control.stop_latched else "",
            "sent_at": time.time(),
        }


def chance_of_success(distribution: np.ndarray, steps_left: int, bin_width: float) -> float:
    """P(success): the mass on "done within the steps that are left". The last bin holds all that is farther, so it
    never counts; the first one always does, for it is the goal itself.
    """
    within = int((steps_left + 1) // bin_width)
    return float(np.sum(distribution[: min(max(within, 1), len(distribution) - 1)]))


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None  # NaN is not JSON


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} minute{'s' if round(minutes) != 1 else ''}"
