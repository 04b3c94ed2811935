"""When does a station want a person, why, and how much is it worth to go there first?

Stands between what a station says of itself (its state, its reason, P(success), d over the attempt) and the queue that
a supervisor works through. A need is ranked by the robot time that help saves for a second of the person's time:

    rank = P(no success before the time limit) * robot seconds saved / expected human seconds

A station that stands still loses its time for certain (P = 1) until somebody comes; an attempt under way can lose no
more than what is left of its time limit. So a fallen block comes before most doubtful attempts, and an attempt of
seconds is never worth a walk. Pure: the same rule serves the live queue and the simulated shift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from robots.protocol import IN_EPISODE, Code

SEVERITIES = ("info", "warning", "error", "critical")

# What a station that stands still goes on losing if the person does something else first.
STANDSTILL_S = 600.0
# A person's seconds for an act, walk included, until the lab's own record says better.
HUMAN_S = {"reset": 8.0, "clear_stop": 10.0, "hand_back": 5.0, "end_episode": 5.0, "look": 60.0}
DOUBTFUL = 0.8  # P(no success) from which an attempt under way is talked about
SLIPPED = 8.0  # d rose by so many steps ...
WITHIN = 3  # ... within so many
NO_PROGRESS_S = 12.0
# One person looks after many stations, so a second of theirs has to save many robot seconds to be worth a call. A
# station that stands still always is; an attempt under way only where minutes of it are left.
WORTH = 10.0
UNDRIVEN_S = 20.0  # an override that nobody uses
HELD_UP_S = 120.0  # waiting for a policy


# What a person does about a need, by its kind; pages say it after the reason.
ADVICE = {
    "stopped": "Check that the workspace is clear, then press Clear stop and say why it is safe. It stays paused until "
    "you press Resume.",
    "table": "Put right what the reason names, then press Reset done.",
    "shuffle": "Mix up the objects on the table, then press Reset done.",
    "fault": "Look at the robot, its sensors and the program that drives it, and repair what failed. Then press Reset "
    "done: if the reset succeeds, practice goes on.",
    "undriven": "Nobody drives it now, and it holds still. Take over, or hand it back to the policy.",
    "offline": "Its program is not connected. Check its machine and the network, and start the program again if it "
    "has ended.",
    "held_up": "Look at its run: it has to publish a policy before this station can go on.",
    "slipped": "End the attempt, or override it and drive.",
    "no_progress": "End the attempt, or override it and drive.",
    "unlikely": "End the attempt, or override it and drive.",
}


@dataclass(frozen=True)
class Need:
    """Why a station wants a person, and what help would be worth."""

    kind: str
    reason: str  # in words
    severity: str
    act: str  # the command that helps; "look": none does by itself
    p_failure: float
    robot_s: float  # what help saves
    human_s: float
    help_by_s: float | None = None  # from now; afterwards the attempt is over

    @property
    def rank(self) -> float:
        """Robot seconds that a second of the person's saves."""
        return self.p_failure * self.robot_s / self.human_s

    @property
    def worth_it(self) -> bool:
        """Whether that is enough to call somebody."""
        return self.rank >= WORTH


def need_of(
    *,
    state: str,
    reason: str,
    state_for_s: float,
    code: str = "",
    stop_latched: bool = False,
    assigned: bool = True,
    p_success: float | None = None,
    trace: Sequence[float | None] = (),
    step: int = 0,
    limit: int = 0,
    step_s: float = 0.2,
) -> Need | None:
    """What the station needs, or None. `code` is what its reason means (a station of before says none, and it is read
    from the sentence), `trace` is d at each step of the attempt (None: not told), `step_s` the seconds
    that a step takes at its speed, `state_for_s` how long it has been in its state.
    """
    if stop_latched or state == "stopped":
        return _standing("stopped", reason or "stopped by a person", "error", "clear_stop")
    if state == "offline":
        return _standing("offline", reason or "the connection was lost", "error", "look") if assigned else None
    code = code if code in tuple(Code) else _code_in(state, reason)
    if state == "needs_person":
        if code == Code.NOT_SHUFFLED:
            return _standing("shuffle", reason, "warning", "reset")
        if code in (Code.FAULT, Code.NO_ACTION):
            return _standing("fault", reason, "critical", "look")
        return _standing("table", reason, "error", "reset")
    if state == "overridden" and code == Code.UNHELD:
        return _standing("undriven", reason, "error", "hand_back")  # its holder is gone, and it waits for a person
    if state == "overridden" and reason and state_for_s >= UNDRIVEN_S:
        return _standing("undriven", reason, "warning", "hand_back")
    if state == "waiting" and state_for_s >= HELD_UP_S and code != Code.SHARE_MADE:
        return _standing("held_up", f"{reason or 'waiting'}, for {state_for_s / 60:.0f} min", "info", "look")
    if state in IN_EPISODE and p_success is not None and limit > step:
        return _doubtful(1 - p_success, trace, step, (limit - step) * step_s, step_s)
    return None


def _code_in(state: str, reason: str) -> str:
    """The code of a sentence, where a station of before gives none with it, and a newer one an unknown one."""
    if state == "needs_person" and reason.startswith("not shuffled"):
        return Code.NOT_SHUFFLED
    if state == "needs_person" and "failed" in reason:
        return Code.FAULT
    if state == "needs_person" and "no usable action" in reason:
        return Code.NO_ACTION
    if state == "overridden" and reason.endswith("take over or hand back"):
        return Code.UNHELD
    return ""


def _standing(kind: str, reason: str, severity: str, act: str) -> Need:
    return Need(kind, reason, severity, act, 1.0, STANDSTILL_S, HUMAN_S[act])


def _doubtful(p_failure: float, trace: Sequence[float | None], step: int, left_s: float, step_s: float) -> Need | None:
    if p_failure < DOUBTFUL:
        return None
    rise, at = largest_rise(trace)
    still = steps_without_progress(trace)
    if rise >= SLIPPED and step - at <= NO_PROGRESS_S / step_s:
        kind, reason = "slipped", f"d rose by {rise:.0f} at step {at}: it slipped or was dropped"
    elif still * step_s >= NO_PROGRESS_S:
        kind, reason = "no_progress", f"no progress for {still * step_s:.0f} s"
    else:
        kind, reason = "unlikely", f"success before the time limit is unlikely ({1 - p_failure:.0%})"
    severity = "info" if kind == "unlikely" else "warning"
    return Need(kind, reason, severity, "end_episode", p_failure, left_s, HUMAN_S["end_episode"], left_s)


def largest_rise(trace: Sequence[float | None], within: int = WITHIN) -> tuple[float, int]:
    """(by how much d rose most within so many steps, the step at which it had)"""
    return max(_rises(trace, within), key=lambda rise: rise[0], default=(0.0, 0))


def _rises(trace: Sequence[float | None], within: int) -> list[tuple[float, int]]:
    """How far d stands at each step above its lowest of the few before."""
    rises = []
    for step, now in enumerate(trace):
        before = [d for d in trace[max(0, step - within) : step] if d is not None]
        if now is not None and before and now > min(before):
            rises.append((now - min(before), step))
    return rises


def steps_without_progress(trace: Sequence[float | None], new_low: float = 1.0) -> int:
    """Steps since d last came clearly below what it had been."""
    lowest, at, last = None, 0, 0
    for step, d in enumerate(trace):
        if d is None:
            continue
        last = step
        if lowest is None or d <= lowest - new_low:
            lowest, at = d, step
    return last - at
