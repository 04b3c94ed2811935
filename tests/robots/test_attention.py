"""What a station needs and what a visit is worth, from what it says of itself."""

import pytest

from robots.attention import ADVICE, largest_rise, need_of, steps_without_progress

STILL = {"state_for_s": 5.0}


def attempt(p_success, trace, limit=2000, **fields):
    return need_of(
        state="practising",
        reason="",
        p_success=p_success,
        trace=trace,
        step=len(trace) - 1,
        limit=limit,
        **STILL | fields,
    )


@pytest.mark.parametrize(
    ("state", "reason", "kind", "severity", "act"),
    [
        ("needs_person", "the blue cube is off the table", "table", "error", "reset"),
        ("needs_person", "not shuffled for 5 minutes of practice", "shuffle", "warning", "reset"),
        ("needs_person", "a step failed: the motor is hot", "fault", "critical", "look"),
        ("stopped", "stopped by a person", "stopped", "error", "clear_stop"),
        ("offline", "the connection was lost", "offline", "error", "look"),
    ],
)
def test_a_station_that_stands_still_is_worth_a_visit(state, reason, kind, severity, act):
    need = need_of(state=state, reason=reason, **STILL)
    assert (need.kind, need.reason, need.severity, need.act) == (kind, reason, severity, act)
    assert need.p_failure == 1 and need.worth_it and need.help_by_s is None


def test_who_needs_nobody():
    assert need_of(state="practising", reason="", p_success=0.9, limit=100, step=10, **STILL) is None
    assert need_of(state="idle", reason="", **STILL) is None
    assert need_of(state="offline", reason="", assigned=False, **STILL) is None, "nobody misses it"
    assert need_of(state="overridden", reason="", state_for_s=100.0) is None, "somebody drives it"
    assert need_of(state="waiting", reason="no policy has come yet", state_for_s=10.0) is None


def test_waiting_and_undriven_stations_call_after_a_while():
    undriven = need_of(state="overridden", reason="it holds still", state_for_s=30.0)
    assert (undriven.kind, undriven.severity) == ("undriven", "warning")
    left = need_of(state="overridden", reason="ann is gone; it holds still: take over or hand back", state_for_s=0.0)
    assert (left.kind, left.severity) == ("undriven", "error"), "at once: nobody will come back to it"
    held_up = need_of(state="waiting", reason="no policy has come yet", state_for_s=180.0)
    assert held_up.reason == "no policy has come yet, for 3 min" and held_up.severity == "info"


def test_the_reason_of_a_doubtful_attempt_is_said_in_words():
    slipped = attempt(0.05, [30.0, 20, 12, 30, 30])
    assert (slipped.kind, slipped.reason) == ("slipped", "d rose by 18 at step 3: it slipped or was dropped")
    stuck = attempt(0.05, [30.0] + [20.0] * 71)
    assert (stuck.kind, stuck.reason) == ("no_progress", "no progress for 14 s")
    assert attempt(0.05, [30.0, 29, 27]).reason == "success before the time limit is unlikely (5%)"
    assert attempt(0.5, [30.0, 20, 12, 30, 30]) is None


def test_an_attempt_is_worth_a_visit_only_where_much_time_is_left():
    short, long = attempt(0.02, [30.0], limit=56), attempt(0.02, [30.0], limit=1000)
    assert not short.worth_it and long.worth_it
    # .98 of 56 steps of 0.2 s, in 5 s of a person
    assert short.rank == pytest.approx(0.98 * 56 * 0.2 / 5) and short.help_by_s == pytest.approx(11.2)
    table = need_of(state="needs_person", reason="the blue cube is off the table", **STILL)
    assert table.rank > long.rank, "what stands still loses more than an attempt can"


def test_the_largest_rise_and_the_steps_without_progress():
    trace = [30.0, 28, 26, 35, 36, 30, 20, 10, 25, None, 24, 20, 15, 10]
    assert largest_rise(trace) == (15.0, 8)
    assert steps_without_progress([30.0, 29.5, 28, 28.5, None, 27.8]) == 3, "less than a step is noise"
    assert largest_rise([]) == (0.0, 0) and steps_without_progress([]) == 0


@pytest.mark.parametrize(
    ("state", "reason", "says", "never"),
    [
        ("needs_person", "the blue cube is off the table", "Put right what the reason names", "repair"),
        ("needs_person", "not shuffled for 5 minutes of practice", "Mix up the objects", "repair"),
        ("needs_person", "a step failed: the motor is hot", "repair what failed", "object"),
        ("needs_person", "the policy gave no usable action", "repair what failed", "object"),
        ("stopped", "stopped by a person", "Clear stop", "Reset done"),
        ("offline", "the connection was lost", "network", "Reset done"),
    ],
)
def test_the_advice_fits_the_reason(state, reason, says, never):
    advice = ADVICE[need_of(state=state, reason=reason, **STILL).kind]
    assert says in advice and never not in advice


def test_every_kind_of_need_has_its_advice():
    """The reason of a doubtful attempt names its own kind, which the table above doesn't reach."""
    kinds = {attempt(0.05, trace).kind for trace in ([30.0, 20, 12, 30, 30], [30.0] + [20.0] * 71, [30.0, 29, 27])}
    assert kinds == {"slipped", "no_progress", "unlikely"} and kinds <= set(ADVICE)
    assert {"held_up", "undriven"} <= set(ADVICE)
