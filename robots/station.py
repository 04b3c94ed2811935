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
from dataclasses import replace
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
from robots.embodiments import Embodiment
from robots.episodes import ACTORS, FAILURES, Episode
from robots.orders import LoadedPolicy, Orders
from robots.protocol import (
    Assignment,
    Beat,
    Code,
    Command,
    Hold,
    Lapse,
    Message,
    PolicyLoaded,
    ServerHeartbeat,
    Telemetry,
    Touch,
    Welcome,
)
from robots.rules import RuleError, Rules, Settings
from robots.tasks import TASKS, Instruction, TaskFamily, get_task
from robots.termination import Termination
from robots.workspace import Workspace
from robots.worlds import World

log = logging.getLogger(__name__)

SILENCE_S = 2.5  # a server gone for longer: hold still
TELEMETRY_EVERY_S = 0.1
HEARTBEAT_S = 1.0  # telemetry of a station where nothing happens
SPREADING = 3  # failures in a row after which another family is asked; then the task's own again, and so on
TRIED_OUT = 0.1  # the share of attempts that go on, however hopeless
STOP_CLEARED = "the stop was cleared; resume to go on"


class Recording:
    """The episode under way."""

    def __init__(
        self,
        task: TaskFamily,
        instruction: Instruction,
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
        self.observations = [observation]  # T+1 of [D]
        self.actions: list[np.ndarray] = []  # T of [A]
        self.fenced: list[bool] = []  # whether the fence turned the action aside
        self.rules = rules  # as they were when it began
        self.termination = Termination(rules, limit, loaded)
        self.started_at = time.time()

    @property
    def steps(self) -> int:
        return len(self.actions)

    @property
    def d(self) -> list[float]:
        """One shorter than the observations until the newest one is judged."""
        return self.termination.d

    def finish(
        self, ending: str, *, embodiment: Embodiment, true_success: bool | None, seed: int, interventions: int
    ) -> Episode:
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
        emit: Callable[[Message], None] = _ignore,
        show: Callable[[Telemetry], None] = _ignore,
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
        self.orders = Orders(self.embodiment)
        self.camera_error = ""  # why no picture can be shown; the host's to say
        self.open_reason = ""  # why an override waits for a person, once its holder is gone
        self.recording: Recording | None = None
        self.instruction: Instruction | None = None
        self.d = math.nan
        self.distribution: np.ndarray | None = None
        self.episode_number = 0
        self.steps_taken = 0
        self.step_due = 0.0
        self._shown_at = -math.inf
        self._server_gone = False
        self.workspace = Workspace(self.driver, self.orders, self.settings, self.rng, clock)
        self._rest()

    # What the server says

    def receive(self, message: Message, received_at: float | None = None) -> None:
        """One message of the server. A policy comes as offer_policy, once its host has loaded it."""
        received_at = self.clock() if received_at is None else received_at
        match message:
            case Command():
                self._command(message, received_at)
            case Beat():
                self._beat(message, received_at)
            case Lapse():
                self._hear_of_lapse(message)
            case ServerHeartbeat():
                self._hear_latch(message.stop)
            case Welcome():
                self.lease.note(message.epoch)
                self._welcome(message.settings)
            case Assignment():
                self._assign(message)
            case Hold():
                self.orders.hold(message)
        self._rest()

    def _welcome(self, settings: dict) -> None:
        self._update_settings(settings)
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
        if self.orders.loaded:
            self._say_loaded()
        self.emit(self.telemetry())

    def _update_settings(self, told: dict) -> None:
        try:
            self.settings.update(told)
        except RuleError as error:
            log.warning("The server's settings were refused: %s", error)

    def _assign(self, message: Assignment) -> None:
        orders, workspace = self.orders, self.workspace
        orders.take(message)
        self._update_settings(message.settings)
        if message.at_once and self.recording is not None and self.recording.actor == "policy":
            self._cut("operator")
        if orders.assignment is None:
            return
        if orders.follow_run(message.run):
            workspace.failures = 0
        orders.read_task()
        if workspace.code == Code.RESET_FIRST and orders.task is not None and not orders.resets_each_attempt:
            workspace.forget_need()

    def offer_policy(self, loaded: LoadedPolicy) -> None:
        """Taken at the next episode boundary; at once where no episode is under way."""
        if self.orders.offer(loaded):
            self._rest()
        else:
            self._say_loaded()

    def _say_loaded(self) -> None:
        self.emit(PolicyLoaded(checkpoint=self.orders.loaded.checkpoint))

    def policy_failed(self, reason: str) -> None:
        self.orders.waiting_reason = reason
        self._rest()

    def server_gone(self, gone_for_s: float) -> None:
        """The host says how long the server has been silent. The body holds still; an episode under way goes on
        afterwards.
        """
        if gone_for_s <= SILENCE_S:
            if self._server_gone:
                self._server_gone = False
                if self.control.state == "offline" and self.recording is not None:
                    self._become("evaluating" if self.recording.purpose == "evaluation" else "practising")
                self._rest()
        elif not self._server_gone:
            if self.lease.live:
                self._lapse(f"the server fell silent while {self.lease.holder} was in control")
            self._server_gone = True
            self._become("offline", "no word from the server; the station holds still")

    # Commands of a person

    def _command(self, command: Command, received_at: float) -> None:
        answer = self.commands.answered(command.id)
        if answer is not None and command.name == "stop" and not self.control.stop_latched:
            answer = replace(answer, ok=False, error="This stop was cleared since.")  # nobody takes it for a new one
        if answer is None:
            name, epoch, by = command.name, command.epoch, command.by
            self.lease.note(epoch)
            try:
                refuse_expired(command, max(self.clock() - received_at, command.age_s))
                self.lease.check(name, epoch, by)
                self._execute(command.id, name, command.args, epoch, by)
                answer = self.commands.answer(command.id)
            except (CommandRefused, RuleError) as error:
                answer = self.commands.answer(command.id, str(error))
            except DriverError as error:
                self._fault(error)
                answer = self.commands.answer(command.id, f"The station refused {name}: {error}.")
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
                self.workspace.reset()
                if self.workspace.reset_failed:
                    raise CommandRefused(f"The station is not reset: {self.workspace.need}.")
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
                self._become("overridden")
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
        if self.workspace.observation is None:
            need = self.workspace.need
            raise CommandRefused(f"The station refused override: {need}. Mend that and reset it first.")
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
            task, instruction = self._first_of([self.orders.task, *families] if self.orders.task else families)
            self._record(task, instruction, task.time_limit_steps, "correction", "human")
        self.dead_man.release()
        self.lease.take(epoch, by, self.clock())
        self._become("overridden")

    def _end_override(self, ending: str) -> None:
        """By a person's word; nothing else lets the policy move the body again."""
        if self.lease.open:
            self.dead_man.release()
            self.lease.close()
            self._cut(ending)

    # The person in control must give signs of life: drives, and beats of the browser between them

    def _beat(self, beat: Beat, received_at: float) -> None:
        late = max(self.clock() - received_at, beat.age_s) > DEAD_MAN_S  # of a life long ago
        quiet = self.control.state == "overridden" and self.control.code == Code.QUIET
        if not late and self.lease.sign(beat.epoch, self.clock()) and quiet:
            self._become("overridden")

    def _hear_of_lapse(self, lapse: Lapse) -> None:
        """The server knows sooner than the clock here: the browser closed, or its user may no longer command."""
        self.lease.note(lapse.epoch)
        if self.lease.live and self.lease.taken == lapse.epoch:
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
        observation, orders = self.workspace.observation, self.orders
        self.recording = Recording(task, instruction, limit, purpose, actor, observation, orders.loaded, orders.rules)

    def _cut(self, ending: str) -> None:
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
        true_success = None
        try:
            true_success = self.driver.true_success(recording.instruction)  # reported only
        except DriverError as error:
            self.workspace.blame(error)
        by_person = ending in ("operator", "override", "stop") and recording.actor == "policy"
        episode = recording.finish(
            ending,
            embodiment=self.embodiment,
            seed=self.seed,
            interventions=int(by_person),
            true_success=true_success,
        )
        self.store(episode)
        self.workspace.check()

    # The state that circumstances ask for, wherever no person drives and no episode is under way

    def _rest(self) -> None:
        if self._server_gone or self.recording is not None:
            return
        orders, workspace = self.orders, self.workspace
        if orders.take_next_policy():
            self._say_loaded()
        if self.control.stop_latched:
            self._become("stopped", self.control.reason or "stopped by a person")
        elif self.lease.open:
            self._become("overridden", self.open_reason, Code.UNHELD)
        elif self.control.paused:
            kept = self.control.reason if self.control.state == "paused" else ""
            self._become("paused", kept or "paused by a person")
        elif workspace.faulty:
            self._become("needs_person", workspace.need, workspace.code)
        elif orders.assignment is None:
            self._become("idle")
        elif orders.task is None:
            self._become("idle", orders.waiting_reason)
        elif workspace.need:
            self._become("needs_person", workspace.need, workspace.code)
        elif why := orders.why_waiting():
            self._become("waiting", why)
        else:
            self._become("evaluating" if orders.evaluates else "practising")

    def _become(self, state: str, reason: str = "", code: str = "") -> None:
        if self.control.become(state, reason, code):
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
            if self.dead_man.direction(now) is None:
                return None
        elif self.recording is None and not self._begin():
            return None
        return self.workspace.observation, self.instruction.text

    def next_step_at(self) -> float:
        """When observe() will next have something to do, as far as known; a message may change that."""
        if self.control.moved_by == "policy":
            return self.step_due
        pushed = self.control.moved_by == "human" and self.dead_man.direction(self.clock()) is not None
        return self.step_due if pushed else math.inf

    def _watch_the_clock(self, now: float) -> None:
        if self.dead_man.lapsed(now):
            self._become("overridden", "no drive command came for half a second; it holds still", Code.LET_GO)
        if (quiet := self.lease.quiet_for(now)) > GONE_S:
            self._lapse(f"{self.lease.holder} is gone")
        elif quiet > QUIET_S and self.recording is not None:
            said = f"no sign of life from the browser of {self.lease.holder}; it holds still"
            self._become("overridden", said, Code.QUIET)
        self._reset_by_itself(now)
        if now - self._shown_at >= HEARTBEAT_S:
            self._show(now)

    def _reset_by_itself(self, now: float) -> None:
        workspace, after = self.workspace, self.settings.self_reset_after_s
        waited = now - workspace.need_since
        # What a reset did not mend is not tried again and again: it takes a person.
        may = after is not None and not workspace.reset_failed
        if self.control.state == "needs_person" and may and waited >= after:
            touch = Touch(kind="self_reset", reason=workspace.need, seconds=round(waited, 3))
            workspace.reset()
            if not workspace.reset_failed:
                self.emit(touch)
            self._rest()

    def _begin(self) -> bool:
        """The next instruction, from what is on the table."""
        orders, workspace = self.orders, self.workspace
        purpose = "evaluation" if self.control.state == "evaluating" else "practice"
        if workspace.reset_due:
            if self.driver.resets_itself:
                workspace.reset()  # no touch: it is part of the task, and nobody was asked
            else:
                workspace.ask(Code.RESET_FIRST, "a reset is due before each attempt of its task")
        families = [orders.task]
        if orders.rules.after_failure and purpose == "practice":
            other = get_task(orders.rules.after_failure)
            # Without a reset a table stays as a failure left it, and the same would fail again and again.
            # Nor is it the other one's alone: a policy may never have learned that.
            families = [other, orders.task] if workspace.failures % (SPREADING + 1) else [orders.task, other]
        workspace.check()
        if not workspace.need:
            try:
                task, instruction = self._first_of(families)
                tolerated = self.driver.needs_reset()
            except CommandRefused as error:
                workspace.ask(Code.NO_INSTRUCTION, str(error))
            except DriverError as error:
                workspace.blame(error)
        if workspace.need:
            self._rest()
            return False
        limit = orders.rules.time_limit_steps or task.time_limit_steps
        self._record(task, instruction, limit, purpose, "policy")
        self.recording.termination.tolerated = tolerated
        if orders.rules.hopeless is not None:
            self.recording.termination.tried_out = purpose == "evaluation" or self.rng.random() < TRIED_OUT
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
        recording.termination.judge(self.d, outlook, recording.steps)
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
        elif ending := recording.termination.ending(recording.steps, self.driver.needs_reset()):
            self._cut(ending)
            self._rest()
        elif np.shape(action) != self.actions.low.shape or not np.isfinite(action).all():
            self._fault("the policy gave no usable action")
        else:
            self._step(recording, np.asarray(action, np.float32), self._present(), now)
            self.workspace.practised_s += self.period

    def _present(self) -> np.ndarray:
        """Where the body is. Since the last step somebody may have moved it, or it may have sunk, and an absolute
        target that is near to where it was may be far from where it is.
        """
        return self.driver.observation() if self.actions.need_a_look else self.workspace.observation

    def _step(self, recording: Recording, action: np.ndarray, present: np.ndarray, now: float) -> None:
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
        self.steps_taken += 1
        # Real time counts from when the step was due, so that a late tick does not slow the rate down, but never
        # catches up.
        speed = 1 if recording.actor == "human" else self.settings.speed
        period = self.period / speed if speed else 0.0
        self.step_due = max(self.step_due + period, now + period / 2) if self.step_due > now - period else now + period

    def _fault(self, reason: DriverError | str) -> None:
        self.dead_man.release()
        self._cut("fault")
        if isinstance(reason, DriverError):
            self.workspace.blame(reason)
        else:
            log.warning("Fault: %s", reason)
            self.workspace.ask(Code.NO_ACTION, reason)
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

    def telemetry(self) -> Telemetry:
        recording, loaded, control = self.recording, self.orders.loaded, self.control
        d_start = recording.d[0] if recording and recording.d else math.nan
        d = self.d if recording else math.nan
        distribution = self.distribution if recording and loaded and math.isfinite(d) else None  # NaN is not JSON
        p_success = recording.termination.p_success if recording else None
        return Telemetry(
            state=control.state,
            reason=control.reason,
            code=control.code,
            instruction=self.instruction.text if self.instruction else "",
            step=max(0, len(recording.d) - 1) if recording else 0,  # the one that d speaks of
            limit=recording.limit if recording else 0,
            d=_rounded(d),
            d_start=_rounded(d_start),
            progress=_rounded(min(1.0, max(0.0, 1 - d / d_start)) if d_start > 0 else math.nan),
            p_success=_rounded(p_success) if p_success is not None else None,
            distribution=[round(float(p), 4) for p in distribution] if distribution is not None else [],
            bin_width=loaded.bin_width if loaded else None,
            threshold=loaded.threshold if loaded else None,
            policy=loaded.checkpoint if loaded else "",
            version=loaded.version if loaded else None,
            episode=self.episode_number,
            uuid=recording.uuid if recording else "",
            speed=self.settings.speed,
            camera_error=self.camera_error,
            human=control.moved_by == "human",
            stop=control.stop if control.stop_latched else "",
            sent_at=time.time(),
        )


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None  # NaN is not JSON
