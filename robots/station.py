"""The loop of one station: instruction -> steps -> ending -> episode -> the next, from what is on the table.

A state machine stepped by a host, which brings the policy: many stations then share one batched network call.

    station.receive(message)                     assignment, hold, command, settings, as they come from the server
    if (due := station.observe()) is not None:   (observation, instruction); None: nothing to do now
        station.act(action, d, distribution, prediction)    the policy's action and prediction, the reward model's d

Practice is reset-free. An episode ends by the success detector, the time limit, the operator, an override, a stop or a
world that needs a reset, never by the simulator's true success, which is only written down. The ending is decided on an
observation that the reward model has judged and before the next instruction is drawn, so nothing of the next episode
enters the last.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from robots.attempts import Attempts, Recording
from robots.commands import Commands
from robots.control import Control
from robots.driver import Driver, DriverError
from robots.embodiments import Observation
from robots.episodes import Episode
from robots.orders import Orders, PolicyBundle
from robots.protocol import (
    Assignment,
    Code,
    Command,
    ControlHeartbeat,
    Hold,
    Lapse,
    Message,
    PolicyLoaded,
    ServerHeartbeat,
    Telemetry,
    Touch,
    Welcome,
)
from robots.rules import RuleError, Settings
from robots.teleoperation import Device, Teleoperator
from robots.workspace import Workspace
from robots.worlds import World

log = logging.getLogger(__name__)

SILENCE_S = 2.5  # a server gone for longer: hold still
TELEMETRY_EVERY_S = 0.1
HEARTBEAT_S = 1.0  # telemetry of a station where nothing happens


def _ignore(_: object) -> None:
    pass


class Station:
    """`emit` takes messages that must arrive, `show` telemetry of which only the newest counts, `store` finished
    episodes. A person may drive it by a `teleoperator` too, where it has one; the link's hello says its name.
    """

    def __init__(
        self,
        world: World | Driver,
        *,
        teleoperator: Teleoperator | None = None,
        seed: int = 0,
        emit: Callable[[Message], None] = _ignore,
        show: Callable[[Telemetry], None] = _ignore,
        store: Callable[[Episode], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.driver = world if isinstance(world, Driver) else Driver(world)
        self.embodiment = self.driver.embodiment
        self.emit, self.show, self.clock = emit, show, clock
        self.rng = np.random.default_rng(seed)
        self.settings, self.orders = Settings(), Orders(self.embodiment)
        self.workspace = Workspace(self.driver, self.orders, self.settings, self.rng, clock)
        self.attempts = Attempts(self.workspace, self.orders, self.settings, seed=seed, store=store)
        self.control = Control(self._say_state)
        self.device = Device(teleoperator, self.embodiment)
        self.commands = Commands(self.control, self.attempts, self.settings, self.device, clock, self._rest)
        self._wanted: np.ndarray | None = None  # what that device wants to be done next
        self.camera_error = ""  # why no picture can be shown; the host's to say
        self._shown_at = -math.inf
        self._server_gone = False
        self._rest()

    @property
    def recording(self) -> Recording | None:
        """The episode under way."""
        return self.attempts.recording

    # What the server says

    def receive(self, message: Message, received_at: float | None = None) -> None:
        """One message of the server. A policy comes as offer_policy, once its host has loaded it."""
        received_at = self.clock() if received_at is None else received_at
        match message:
            case Command():
                self.emit(self.commands.answer(message, received_at))
            case ControlHeartbeat():
                self.commands.hear_control_heartbeat(message, received_at)
            case Lapse():
                self.commands.hear_lapse(message)
            case ServerHeartbeat():
                self.commands.hear_latch(message.stop)
            case Welcome():
                self.commands.lease.note(message.epoch)
                self._welcome(message.settings)
            case Assignment():
                self._assign(message)
            case Hold():
                self.orders.hold(message)
        self._rest()

    def _welcome(self, settings: dict[str, Any]) -> None:
        self._update_settings(settings)
        if self.commands.lease.live:  # with the link the server took the operator's lease away
            self.commands.lapse(f"the link broke while {self.commands.lease.holder} was in control")
        elif settings.get("overridden") is True and not self.commands.lease.open and not self.control.stop_latched:
            self.commands.await_hand_back("a person took control before this process began")
        # What people ordered while the link was down, or before this host was started.
        stop = str(settings.get("stop") or "")
        if settings.get("stop_latched") is True:
            self.commands.hear_latch(stop or "a stop")
        elif settings.get("stop_latched") is False and self.control.stop_latched and self.control.stop in ("", stop):
            # The stop that it had is on record, and was cleared. One that is not was told before the server could
            # write it down: it stays until a person clears it.
            self.commands.clear_stop()
        if isinstance(settings.get("paused"), bool):
            self.commands.pause(settings["paused"])
        self._say_loaded()
        self.emit(self.telemetry())

    def _update_settings(self, told: dict[str, Any]) -> None:
        try:
            self.settings.update(told)
        except RuleError as error:
            log.warning("The server's settings were refused: %s", error)

    def _assign(self, message: Assignment) -> None:
        orders, workspace = self.orders, self.workspace
        orders.take(message)
        self._update_settings(message.settings)
        if message.at_once and self.recording is not None and self.recording.actor == "policy":
            self.attempts.cut("operator")
        if orders.assignment is None:
            return
        if orders.follow_run(message.run):
            workspace.failures = 0
            self.attempts.memory.clear()
            self.attempts.signals = {}
        orders.read_task()
        if workspace.code == Code.RESET_FIRST and orders.task is not None and not orders.resets_each_attempt:
            workspace.forget_need()

    def offer_policy(self, loaded: PolicyBundle) -> None:
        """Taken at the next episode boundary; at once where no episode is under way."""
        if self.orders.offer(loaded):
            self._rest()
        else:
            self._say_loaded()

    def _say_loaded(self) -> None:
        if self.orders.loaded:
            self.emit(PolicyLoaded(checkpoint=self.orders.loaded.checkpoint))

    def policy_failed(self, reason: str) -> None:
        """The host could not load the policy; pages say why the station waits."""
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
                    self.control.become("evaluating" if self.recording.purpose == "evaluation" else "practising")
                self._rest()
        elif not self._server_gone:
            if self.commands.lease.live:
                self.commands.lapse(f"the server fell silent while {self.commands.lease.holder} was in control")
            self._server_gone = True
            self.control.become("offline", "no word from the server; the station holds still")

    # The state that circumstances ask for, wherever no person drives and no episode is under way

    def _rest(self) -> None:
        if self._server_gone or self.recording is not None:
            return
        orders, workspace = self.orders, self.workspace
        if orders.take_next_policy():
            self._say_loaded()
        if self.control.stop_latched:
            self.control.become("stopped", self.control.reason or "stopped by a person")
        elif self.commands.lease.open:
            self.control.become("overridden", self.commands.open_reason, Code.UNHELD)
        elif self.control.paused:
            kept = self.control.reason if self.control.state == "paused" else ""
            self.control.become("paused", kept or "paused by a person")
        elif workspace.faulty:
            self.control.become("needs_person", workspace.need, workspace.code)
        elif orders.assignment is None:
            self.control.become("idle")
        elif orders.task is None:
            self.control.become("idle", orders.waiting_reason)
        elif workspace.need:
            self.control.become("needs_person", workspace.need, workspace.code)
        elif why := orders.why_waiting():
            self.control.become("waiting", why, Code.SHARE_MADE if orders.share_made else "")
        else:
            self.control.become("evaluating" if orders.evaluates else "practising")

    # The loop

    def observe(self) -> tuple[Observation, str] | None:
        """What the networks shall see now, or None: not due yet, or nobody moves the body."""
        now = self.clock()
        self.commands.watch(now)
        self._reset_by_itself(now)
        if now - self._shown_at >= HEARTBEAT_S:
            self._show(now)
        if self.control.moved_by is None or now < self.attempts.step_due:
            return None
        if self.control.moved_by == "human":
            if not self.commands.dead_man.axes(now) and not self._ask_device(now):
                return None
        elif self.recording is None and not self._begin():
            return None
        try:
            self.attempts.look_again(now)
        except DriverError as error:
            self.commands.fault(error)
            return None
        return self.workspace.seen, self.attempts.under_way.instruction.text

    def next_step_at(self) -> float:
        """When observe() will next have something to do, as far as known; a message may change that."""
        moved_by, due = self.control.moved_by, self.attempts.step_due
        if moved_by == "policy":
            return due
        now = self.clock()
        pushed = moved_by == "human" and (bool(self.commands.dead_man.axes(now)) or self.commands.device_may_act(now))
        return due if pushed else math.inf

    def _ask_device(self, now: float) -> bool:
        """Whether the station's own device wants something to be done; asked once a control period."""
        self._wanted = None
        if not self.commands.device_may_act(now):
            return False
        try:
            self._wanted = self.device.action(self.workspace.seen)
        except DriverError as error:
            self.commands.fault(error)
            return False
        if self._wanted is None:
            self.attempts.step_due = now + self.attempts.period
        return self._wanted is not None

    def _reset_by_itself(self, now: float) -> None:
        workspace, after = self.workspace, self.settings.self_reset_after_s
        # What a reset did not mend is not tried again and again: it takes a person.
        if after is None or workspace.reset_failed:
            return
        waited = now - workspace.need_since
        if self.control.state == "needs_person" and waited >= after:
            touch = Touch(kind="self_reset", reason=workspace.need, seconds=round(waited, 3))
            workspace.reset()
            if not workspace.reset_failed:
                self.emit(touch)
            self._rest()

    def _begin(self) -> bool:
        begun = self.attempts.begin("evaluation" if self.control.state == "evaluating" else "practice")
        if not begun:
            self._rest()
        return begun

    @property
    def memory(self) -> dict[str, Any]:
        """As of Attempts.remembered()."""
        return self.attempts.remembered()

    @property
    def asks(self) -> bool:
        """Whether the policy has to be asked for what observe() returned; else an earlier chunk of its goes on."""
        return not self.attempts.planned

    def forget_plan(self) -> None:
        """What is left of a chunk is not executed."""
        self.attempts.planned.clear()

    def act(
        self,
        actions: np.ndarray | None,
        d: float,
        distribution: np.ndarray | None,
        prediction: np.ndarray | None = None,
        signals: Mapping[str, float] | None = None,
    ) -> None:
        """The policy's chunk of actions [K, A] (or one, [A]) for what observe() returned, the reward model's judgement
        of it, p(steps to success) under this policy [bins] (NaN, None: there is none), and what else the policy says of
        itself. Where the policy was not asked, the actions of its last chunk go on, and what it said last stands.
        """
        now = self.clock()
        self.attempts.judge(float(d), distribution, prediction)
        if actions is not None and signals is not None:
            self.attempts.signals = dict(signals)
        if now - self._shown_at >= TELEMETRY_EVERY_S:
            self._show(now)
        try:
            if self.attempts.under_way.actor == "human":
                self._follow_person(now)
            else:
                self._follow_policy(actions, now)
        except DriverError as error:  # any driver may fail in any way, and the other stations of the host must go on
            self.commands.fault(error)

    def _follow_person(self, now: float) -> None:
        axes = self.commands.dead_man.axes(now)
        if axes:
            self.attempts.push(axes, now)
            self.commands.dead_man.used()
        elif self._wanted is not None and self.commands.device_may_act(now):
            self.attempts.follow(self._wanted, now)

    def _follow_policy(self, actions: np.ndarray | None, now: float) -> None:
        attempts = self.attempts
        if attempts.looks_done():
            attempts.pass_over()
            self._rest()
        elif ending := attempts.ending():
            attempts.cut(ending)
            self._rest()
        elif attempts.planned or attempts.plan(actions):
            attempts.step(attempts.planned.popleft(), now)
        else:
            self.commands.fault("the policy gave no usable action")

    def close(self) -> None:
        """The host ends: what is under way is kept, as a stop would keep it."""
        self.attempts.cut("stop")
        self.driver.close()

    # What the server sees

    def _say_state(self) -> None:
        self.emit(self.telemetry())
        self._shown_at = self.clock()

    def _show(self, now: float) -> None:
        self._shown_at = now
        self.show(self.telemetry())

    def telemetry(self) -> Telemetry:
        """How the station is now."""
        attempts, loaded, control = self.attempts, self.orders.loaded, self.control
        recording = attempts.recording
        d_start = recording.d[0] if recording and recording.d else math.nan
        d = attempts.d if recording else math.nan
        distribution = attempts.distribution if recording and loaded and math.isfinite(d) else None  # NaN is not JSON
        p_success = recording.termination.p_success if recording else None
        return Telemetry(
            state=control.state,
            reason=control.reason,
            code=control.code,
            instruction=attempts.instruction.text if attempts.instruction else "",
            step=max(0, len(recording.d) - 1) if recording else 0,  # the one that d speaks of
            limit=recording.limit if recording else 0,
            d=_rounded(d),
            d_start=_rounded(d_start),
            progress=_rounded(min(1.0, max(0.0, 1 - d / d_start)) if d_start > 0 else math.nan),
            p_success=_rounded(p_success) if p_success is not None else None,
            distribution=[round(float(p), 4) for p in distribution] if distribution is not None else [],
            signals={name: round(told, 4) for name, told in attempts.signals.items() if math.isfinite(told)},
            marks=marks["points"] if (marks := attempts.memory.get("marks")) and recording else [],
            marks_by=marks["source"] if marks and recording else "",
            bin_width=loaded.bin_width if loaded else None,
            threshold=loaded.threshold if loaded else None,
            policy=loaded.checkpoint if loaded else "",
            version=loaded.version if loaded else None,
            episode=attempts.number,
            uuid=recording.uuid if recording else "",
            speed=self.settings.speed,
            camera_error=self.camera_error,
            human=control.moved_by == "human",
            device=self.device.drives,
            stop=control.stop if control.stop_latched else "",
            sent_at=time.time(),
        )


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None  # NaN is not JSON
