"""Who may move the body, and when: a station's states, its transition table, who holds it, the dead-man and the record
of commands.

Stands between the server's commands and the loop in station.py. Nothing here moves anything; it answers questions.
Times are monotonic seconds, so that a changed wall clock can neither revive an old command nor hold a drive longer.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robots.protocol import STATES, Command, CommandDone

_UNLATCHED = frozenset(STATES) - {"stopped"}
TRANSITIONS: dict[str, frozenset[str]] = {state: frozenset(STATES) - {state} for state in STATES}
# A cleared stop must not set the body moving by itself: it leads to paused, and a second act (resume) goes on.
TRANSITIONS["stopped"] = frozenset({"paused", "offline"})

# Where each act is allowed, and the sentence that a person gets elsewhere. `stop` is allowed everywhere.
ACTS: dict[str, tuple[frozenset[str], str]] = {
    "stop": (frozenset(STATES), ""),
    "speed": (frozenset(STATES), ""),
    "settings": (frozenset(STATES), ""),
    "pause": (_UNLATCHED - {"paused"}, "it is {state} already"),
    "resume": (frozenset({"paused"}), "it is not paused"),
    "clear_stop": (frozenset({"stopped"}), "it is not stopped"),
    "reset": (frozenset(STATES) - {"overridden"}, "a person is driving; hand back first"),
    "end_episode": (frozenset({"practising", "evaluating"}), "no episode is under way"),
    "move_keypoint": (frozenset({"practising", "evaluating"}), "no episode is under way"),
    "override": (_UNLATCHED - {"offline"}, "it is {state}; a stop must be cleared first"),
    "drive": (frozenset({"overridden"}), "nobody has taken control; override first"),
    "teleoperate": (frozenset({"overridden"}), "nobody has taken control; override first"),
    "hand_back": (frozenset({"overridden"}), "nobody has taken control"),
}

DRIVE_HELD_S = 0.3  # a drive command moves the body no longer than this
DEAD_MAN_S = 0.5  # without a drive command for this long the person has let go
QUIET_S = 1.0  # without any sign of life from the holder's browser for this long the station says so
GONE_S = 2.5  # and for this long the holder is gone: another person may take over or hand back
BY_EPOCH = ("override", "drive", "teleoperate", "hand_back")  # these speak for a lease, so they must name it
COMMANDS_REMEMBERED = 1000


class CommandRefused(Exception):
    """A command that is not executed; the text says why, in words for the person who gave it."""


class TransitionError(AssertionError):
    """The station's loop asked for a change of state that the table forbids: a mistake in the loop, not of a person."""


class Control:
    """State, reason and latches of one station. The loop asks it before anything moves."""

    def __init__(self, changed: Callable[[], None] = lambda: None):
        self.changed = changed  # called after each change of the state or its reason
        self.state = "idle"
        self.reason = ""
        self.code = ""  # what the reason means, for programs
        self.paused = False
        self.stop_latched = False
        self.stop = ""  # the id of the stop that latched it, as the server gave it

    @property
    def moved_by(self) -> str | None:
        """Who moves the body in this state, policy or human; None: nobody."""
        return STATES[self.state].moved_by

    def become(self, state: str, reason: str = "", code: str = "") -> bool:
        """Change the state or its reason; False when nothing changed."""
        if (state, reason, code) == (self.state, self.reason, self.code):
            return False
        if state != self.state and state not in TRANSITIONS[self.state]:
            raise TransitionError(f"A station cannot go from {self.state} to {state}.")
        self.state, self.reason, self.code = state, reason, code
        self.changed()
        return True

    def check(self, act: str) -> None:
        """Raise CommandRefused where the act is unknown or not allowed in the present state."""
        if act not in ACTS:
            raise CommandRefused(f"There is no command {act!r}; known are {', '.join(ACTS)}.")
        allowed, sentence = ACTS[act]
        if self.state not in allowed:
            raise CommandRefused(f"The station refused {act}: {sentence.format(state=self.state)}.")


class Lease:
    """Who holds the station, by the epochs that the server grants: each grant's is higher than all before it.

    What names an older epoch than the newest one seen is refused, however late, doubled or out of order it comes. A
    lease that nobody keeps alive lapses, but the override stays open: the policy goes on only once a person hands back.
    """

    def __init__(self) -> None:
        self.newest = 0  # the highest epoch that any message named
        self.taken = 0  # the one of the newest override that was executed
        self.by = ""
        self.open = False  # a person took control and nobody has handed back
        self.sign_at: float | None = None  # when the holder was last heard; None: nobody holds it now

    @property
    def live(self) -> bool:
        """Whether somebody holds the station now."""
        return self.sign_at is not None

    @property
    def holder(self) -> str:
        """Whoever took control last, as sentences name them."""
        return self.by or "the person in control"

    def note(self, epoch: Any) -> None:
        """What a message says of the newest grant."""
        if isinstance(epoch, int) and not isinstance(epoch, bool):
            self.newest = max(self.newest, epoch)

    def check(self, name: str, epoch: Any, by: str) -> None:
        """Raise CommandRefused where the command doesn't come from whoever may give it now. A stop is anyone's."""
        if name == "stop":
            return
        if epoch is None and name in BY_EPOCH:
            raise CommandRefused(f"The station refused {name}: it names no epoch of a lease.")
        if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1):
            raise CommandRefused(f"The station refused {name}: an epoch is a whole number from 1, not {epoch!r}.")
        if epoch is not None and epoch < self.newest:
            raise CommandRefused(
                f"The station refused {name}: it comes from epoch {epoch}, and control has passed to epoch "
                f"{self.newest} since."
            )
        if name == "override":
            if epoch is not None and epoch <= self.taken:
                raise CommandRefused(f"The station refused override: epoch {epoch} has taken control once already.")
        elif self.live and by != self.by:
            raise CommandRefused(f"The station refused {name}: {self.holder} is in control; ask for a hand-back first.")
        elif name in ("drive", "teleoperate") and (not self.live or epoch != self.taken):
            raise CommandRefused(f"The station refused {name}: nobody holds it with this epoch; take over first.")

    def take(self, epoch: int, by: str, now: float) -> None:
        """The override is executed: `by` holds the station from now on."""
        self.taken, self.by, self.open, self.sign_at = epoch, by, True, now

    def sign(self, epoch: Any, now: float) -> bool:
        """The holder's browser is there; False where the sign is somebody else's, or of a hold that has ended."""
        if not self.live or epoch != self.taken or epoch < self.newest:
            return False
        self.sign_at = now
        return True

    def quiet_for(self, now: float) -> float:
        """Seconds since the holder was last heard; 0 where nobody holds it."""
        return 0.0 if self.sign_at is None else now - self.sign_at

    def lapse(self) -> None:
        """Nobody holds it any more; the override stays open."""
        self.sign_at = None

    def close(self) -> None:
        """Handed back, stopped or paused: by a person's word."""
        self.open, self.sign_at, self.by = False, None, ""


class CommandLog:
    """Command ids are executed at most once: a repeated id gets the first answer again, without the act."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, CommandDone] = OrderedDict()

    def answered(self, command_id: str) -> CommandDone | None:
        """The answer that the command got already, if any."""
        return self._answers.get(command_id)

    def answer(self, command_id: str, error: str = "") -> CommandDone:
        """The command's answer, kept for when it is repeated."""
        message = CommandDone(id=command_id, ok=not error, error=error)
        self._answers[command_id] = message
        if len(self._answers) > COMMANDS_REMEMBERED:
            self._answers.popitem(last=False)
        return message


def refuse_expired(command: Command, age_s: float) -> None:
    """A late command is dangerous (a drive) or surprising (an override): refused. Only a stop is never too late."""
    ttl_ms = command.ttl_ms
    if command.name == "stop" or ttl_ms is None:
        return
    if not isinstance(ttl_ms, (int, float)) or isinstance(ttl_ms, bool) or not ttl_ms >= 0:
        raise CommandRefused(f"ttl_ms must be a number of milliseconds, not {ttl_ms!r}.")
    if age_s * 1000 > ttl_ms:
        raise CommandRefused(
            f"The command came {age_s * 1000:.0f} ms old and was good for {ttl_ms:.0f} ms; give it again."
        )


class DeadMan:
    """The hand on the stick: how a person's newest drive command moves the body, and when it counts as let go."""

    def __init__(self) -> None:
        self._axes: dict[str, float] = {}
        self._since: float | None = None  # None: nobody pushes
        self._used, self._let_go = True, False

    def drive(self, axes: Mapping[str, float], now: float) -> None:
        """Take a drive, each axis from -1 to 1; all 0: the hand lets go."""
        pushed = {axis: value for axis, value in axes.items() if value}
        if pushed:
            self._axes, self._since, self._used, self._let_go = pushed, now, False, False
        elif self._used:
            self.release()
        else:
            self._let_go = True  # a tap shorter than a control period still moves the body once

    def axes(self, now: float) -> dict[str, float]:
        """What the person pushes now, each from -1 to 1; empty: hold still."""
        if self._since is None or now - self._since > DRIVE_HELD_S:
            return {}
        return self._axes

    def used(self) -> None:
        """The body was moved once by the newest drive."""
        self._used = True
        if self._let_go:
            self.release()

    def lapsed(self, now: float) -> bool:
        """True once when the drive commands ended without a release: a lost link, a closed lid, a hand fallen off."""
        if self._since is None or now - self._since <= DEAD_MAN_S:
            return False
        self.release()
        return True

    def release(self) -> None:
        """Nobody pushes from now on."""
        self._axes, self._since = {}, None
        self._used, self._let_go = True, False


def drive_axes(args: Mapping[str, Any], known: Sequence[str]) -> dict[str, float]:
    """A drive's {axes: {NAME: from -1 to 1}}, each cut to that; CommandRefused where the body has no such axis."""
    told = args.get("axes")
    if not isinstance(told, Mapping):
        raise CommandRefused('drive needs axes, an object of numbers from -1 to 1 by name, as in {"x": 0.5}.')
    axes = {}
    for axis, value in told.items():
        if axis not in known:
            raise CommandRefused(f"drive names the axis {str(axis)[:40]!r}; this body's are {', '.join(known)}.")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise CommandRefused(f"drive needs a number from -1 to 1 for {axis}, not {value!r}.")
        axes[axis] = min(1.0, max(-1.0, float(value)))
    return axes
