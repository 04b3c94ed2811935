"""What people order of one station, and the person who holds it: commands, the stop's latch, the override.

Stands between the server's messages and the loop in station.py; what may be ordered when, and by whom, is in
control.py. A command is executed at most once. The person in control must give signs of life: drives, and heartbeats
of the browser between them; else the lease lapses, and the body holds still until a person says otherwise.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from robots.attempts import Attempts
from robots.control import (
    DEAD_MAN_S,
    GONE_S,
    QUIET_S,
    CommandLog,
    CommandRefused,
    Control,
    DeadMan,
    Lease,
    drive_axes,
    refuse_expired,
)
from robots.driver import DriverError
from robots.protocol import Code, Command, CommandDone, ControlHeartbeat, Lapse
from robots.rules import RuleError, Settings
from robots.teleoperation import Device

log = logging.getLogger(__name__)

STOP_CLEARED = "the stop was cleared; resume to go on"


class Commands:
    """`rest` gives the station the state that circumstances ask for."""

    def __init__(
        self,
        control: Control,
        attempts: Attempts,
        settings: Settings,
        device: Device,
        clock: Callable[[], float],
        rest: Callable[[], None],
    ):
        self.control, self.attempts, self.settings, self.clock, self.rest = control, attempts, settings, clock, rest
        self.device = device
        self.workspace = attempts.workspace
        self.log, self.dead_man, self.lease = CommandLog(), DeadMan(), Lease()
        self.open_reason = ""  # why an override waits for a person, once its holder is gone

    def answer(self, command: Command, received_at: float) -> CommandDone:
        """Execute it, or refuse it with a sentence; what was answered already is only answered again."""
        answer = self.log.answered(command.id)
        if answer is not None and command.name == "stop" and not self.control.stop_latched:
            return replace(answer, ok=False, error="This stop was cleared since.")  # nobody takes it for a new one
        if answer is not None:
            return answer
        name, epoch, by = command.name, command.epoch, command.by
        self.lease.note(epoch)
        try:
            refuse_expired(command, max(self.clock() - received_at, command.age_s))
            self.lease.check(name, epoch, by)
            self.execute(command.id, name, command.args, epoch, by)
            return self.log.answer(command.id)
        except (CommandRefused, RuleError) as error:
            return self.log.answer(command.id, str(error))
        except DriverError as error:
            self.fault(error)
            return self.log.answer(command.id, f"The station refused {name}: {error}.")

    def execute(self, command_id: str, name: str, args: dict[str, Any], epoch: Any, by: str) -> None:
        """The act itself, once the command's age and its lease were found right; CommandRefused if not now."""
        self.control.check(name)
        match name:
            case "stop":
                self.stop(command_id)
            case "clear_stop":
                if args.get("stop") and self.control.stop not in ("", args["stop"]):
                    raise CommandRefused("It was stopped again meanwhile; look at it, then clear that stop.")
                self.clear_stop()
            case "pause":
                self.pause(True)
            case "resume":
                self.pause(False)
            case "reset":
                self.attempts.cut("operator")
                self.workspace.reset()
                if self.workspace.reset_failed:
                    raise CommandRefused(f"The station is not reset: {self.workspace.need}.")
            case "end_episode":
                self.attempts.cut("operator")
            case "move_keypoint":
                self.attempts.move_mark(args.get("number"), args.get("x"), args.get("y"))
            case "speed":
                self.settings.update({"speed": args.get("value")})
                self.attempts.step_due = 0.0
            case "settings":
                self.settings.update(args)
            case "override":
                self._take_over(epoch, by)
            case "drive":
                if self.device.drives:
                    raise CommandRefused(f"The station is driven by its own device ({self.device.name}) now.")
                self.dead_man.drive(drive_axes(args, self.attempts.actions.axes), self.clock())
                self.lease.sign(epoch, self.clock())
                self.control.become("overridden")
            case "teleoperate":
                self._choose_device(args.get("on") is True)
                self.lease.sign(epoch, self.clock())
                if not self.control.become("overridden"):
                    self.control.changed()  # who drives is said at once
            case "hand_back":
                self._end_override("operator")

    # The stop and the pause

    def hear_latch(self, stop: Any) -> None:
        """A heartbeat says which stop latches this station, "" if none. It never clears one: that is a person's act."""
        if not isinstance(stop, str) or not stop:
            return
        if self.control.stop_latched:
            self.control.stop = stop  # a newer one, whose own command was lost
        else:
            self.stop(stop)

    def stop(self, stop: str) -> None:
        """Latch the stop of this id: the body is not moved until a person clears it."""
        # The latch first: whatever goes wrong with keeping what was under way, the body is not moved again.
        self.control.stop_latched, self.control.stop = True, stop
        self.control.become("stopped", "stopped by a person")
        self._end_override("stop")
        self.attempts.cut("stop")

    def clear_stop(self) -> None:
        """A person says that it is safe; the station stays paused until it is resumed."""
        self.control.stop_latched = False
        self.control.paused = True
        self.control.become("paused", STOP_CLEARED)

    def pause(self, paused: bool) -> None:
        """Pause, which ends what is under way, or resume."""
        if paused:
            self._end_override("operator")
            if not self.control.paused:
                self.attempts.cut("operator")
        self.control.paused = paused

    # The override

    def _take_over(self, epoch: int, by: str) -> None:
        if self.attempts.actions.undriven:
            raise CommandRefused(f"The station refused override: {self.attempts.actions.undriven}.")
        if self.workspace.observation is None:
            need = self.workspace.need
            raise CommandRefused(f"The station refused override: {need}. Mend that and reset it first.")
        self.attempts.begin_correction()
        self._let_go()
        self.lease.take(epoch, by, self.clock())
        self.control.become("overridden")

    def _let_go(self) -> None:
        """Nobody pushes from now on, neither in the browser nor at the station."""
        self.dead_man.release()
        self.device.drives = False

    def _choose_device(self, chosen: bool) -> None:
        """Whether the station's own device drives from now on, or the browser."""
        if chosen and not self.device.name:
            raise CommandRefused("The station has no device of its own to be driven by; drive it from the page.")
        self._let_go()
        self.device.drives = chosen

    def device_may_act(self, now: float) -> bool:
        """The hand on the device is not enough: the browser that holds the station must be heard too."""
        return self.device.drives and self.lease.live and self.lease.quiet_for(now) <= QUIET_S

    def _end_override(self, ending: str) -> None:
        """By a person's word; nothing else lets the policy move the body again."""
        if self.lease.open:
            self._let_go()
            self.lease.close()
            self.attempts.cut(ending)

    def hear_control_heartbeat(self, message: ControlHeartbeat, received_at: float) -> None:
        """The holder's browser is there; one that comes too late says nothing."""
        late = max(self.clock() - received_at, message.age_s) > DEAD_MAN_S  # of a life long ago
        quiet = self.control.state == "overridden" and self.control.code == Code.QUIET
        if not late and self.lease.sign(message.epoch, self.clock()) and quiet:
            self.control.become("overridden")

    def hear_lapse(self, lapse: Lapse) -> None:
        """The server knows sooner than the clock here: the browser closed, or its user may no longer command."""
        self.lease.note(lapse.epoch)
        if self.lease.live and self.lease.taken == lapse.epoch:
            self.lapse(f"{self.lease.holder} is gone")

    def watch(self, now: float) -> None:
        """Whether the person in control is still there."""
        if self.dead_man.lapsed(now):
            self.control.become("overridden", "no drive command came for half a second; it holds still", Code.LET_GO)
        if (quiet := self.lease.quiet_for(now)) > GONE_S:
            self.lapse(f"{self.lease.holder} is gone")
        elif quiet > QUIET_S and self.attempts.recording is not None:
            reason = f"no sign of life from the browser of {self.lease.holder}; it holds still"
            self.control.become("overridden", reason, Code.QUIET)

    def lapse(self, reason: str) -> None:
        """Nobody holds it any more. What was driven is kept, and the body holds still until a person says otherwise."""
        self._let_go()
        self.lease.lapse()
        self.await_hand_back(reason)

    def await_hand_back(self, reason: str) -> None:
        """The override stays open, and `reason` is why a person must come."""
        self.lease.open = True
        self.open_reason = f"{reason}; it holds still: take over or hand back"
        self.attempts.cut("fault")
        self.rest()

    def fault(self, reason: DriverError | str) -> None:
        """The driver failed, or the policy gave nothing to do: the attempt ends, and a person's hold with it."""
        self._let_go()
        self.attempts.cut("fault")
        if isinstance(reason, DriverError):
            self.workspace.blame(reason)
        else:
            log.warning("Fault: %s", reason)
            self.workspace.ask(Code.NO_ACTION, reason)
        if self.lease.live:
            self.lapse(str(reason))
        self.rest()
