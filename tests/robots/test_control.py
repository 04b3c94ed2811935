import pytest

from robots.control import (
    ACTS,
    TRANSITIONS,
    CommandLog,
    CommandRefused,
    Control,
    DeadMan,
    TransitionError,
    refuse_expired,
)
from robots.protocol import STATES, Command, CommandDone


def test_every_state_has_a_row_and_leads_to_known_states_only():
    assert set(TRANSITIONS) == set(STATES)
    for state, following in TRANSITIONS.items():
        assert following <= set(STATES) and state not in following


def test_only_a_cleared_stop_leaves_stopped_and_it_leads_to_paused():
    control = Control()
    control.become("stopped", "stopped by a person")
    for state in set(STATES) - {"stopped", "paused", "offline"}:
        with pytest.raises(TransitionError):
            control.become(state)
    assert control.become("paused")


@pytest.mark.parametrize("state", STATES)
def test_a_stop_is_allowed_in_every_state(state):
    control = Control()
    control.state = state
    control.check("stop")


@pytest.mark.parametrize(
    ("state", "act"),
    [
        ("idle", "drive"),
        ("practising", "hand_back"),
        ("stopped", "override"),
        ("idle", "resume"),
        ("idle", "end_episode"),
        ("overridden", "reset"),
        ("idle", "clear_stop"),
        ("stopped", "pause"),
        ("stopped", "resume"),
    ],
)
def test_an_act_that_makes_no_sense_is_refused_in_words(state, act):
    control = Control()
    control.state = state
    with pytest.raises(CommandRefused, match=f"refused {act}: "):
        control.check(act)


def test_an_unknown_act_names_the_known_ones():
    with pytest.raises(CommandRefused, match=r"'dance'; known are stop, .*hand_back"):
        Control().check("dance")
    assert set(ACTS) >= {
        "pause",
        "resume",
        "stop",
        "clear_stop",
        "reset",
        "end_episode",
        "speed",
        "override",
        "drive",
        "hand_back",
        "settings",
    }


def test_the_body_is_moved_by_nobody_unless_a_state_says_so():
    control = Control()
    movers = {}
    for state in STATES:
        control.state = state
        movers[state] = control.moved_by
    assert {state for state, mover in movers.items() if mover == "policy"} == {"practising", "evaluating"}
    assert {state for state, mover in movers.items() if mover == "human"} == {"overridden"}


def test_a_drive_is_held_for_300_ms_and_the_hand_counts_as_gone_after_500():
    hand = DeadMan()
    hand.drive({"dx": 1, "dy": -0.5}, now=10.0)
    assert hand.direction(10.29) == (1.0, -0.5)
    assert hand.direction(10.31) is None
    assert not hand.lapsed(10.49)
    assert hand.lapsed(10.51)
    assert not hand.lapsed(10.6), "it fires once"
    hand.drive({"dx": 1}, now=11.0)
    assert hand.direction(11.1) == (1.0, 0.0), "and a new drive command moves the body again"


def test_a_release_is_no_dead_man():
    hand = DeadMan()
    hand.drive({"dx": 1}, now=10.0)
    hand.used()
    hand.drive({"dx": 0, "dy": 0}, now=10.1)
    assert hand.direction(10.1) is None
    assert not hand.lapsed(11.0)


def test_a_tap_shorter_than_a_control_period_moves_the_body_once():
    hand = DeadMan()
    hand.drive({"dx": 1}, now=10.0)
    hand.drive({"dx": 0}, now=10.05)
    assert hand.direction(10.2) == (1.0, 0.0)
    hand.used()
    assert hand.direction(10.21) is None


@pytest.mark.parametrize("args", [{"dx": "fast"}, {"dx": float("nan")}, {"dy": True}, {"dy": None}])
def test_a_drive_that_is_no_number_is_refused(args):
    with pytest.raises(CommandRefused, match="number from -1 to 1"):
        DeadMan().drive(args, now=0.0)


def test_a_drive_beyond_the_limit_is_clipped():
    hand = DeadMan()
    hand.drive({"dx": 7, "dy": -7}, now=0.0)
    assert hand.direction(0.1) == (1.0, -1.0)


def test_an_expired_command_is_refused_but_a_stop_never_is():
    refuse_expired(Command(id="a", name="override", ttl_ms=500), age_s=0.4)
    with pytest.raises(CommandRefused, match="600 ms old and was good for 500 ms"):
        refuse_expired(Command(id="a", name="override", ttl_ms=500), age_s=0.6)
    refuse_expired(Command(id="a", name="stop", ttl_ms=500), age_s=60)
    with pytest.raises(CommandRefused, match="ttl_ms"):
        refuse_expired(Command(id="a", name="pause", ttl_ms="soon"), age_s=0)


def test_the_command_log_remembers_answers_and_is_bounded():
    commands = CommandLog()
    first = commands.answer("a", "no")
    assert commands.answered("a") == first == CommandDone(id="a", ok=False, error="no")
    for number in range(1000):
        commands.answer(str(number))
    assert commands.answered("a") is None and commands.answered("999").ok
