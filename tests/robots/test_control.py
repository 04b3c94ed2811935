import pytest

from robots.control import (
    ACTS,
    TRANSITIONS,
    CommandLog,
    CommandRefused,
    Control,
    DeadMan,
    TransitionError,
    drive_axes,
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
    hand.drive({"x": 1, "y": -0.5}, now=10.0)
    assert hand.axes(10.29) == {"x": 1.0, "y": -0.5}
    assert hand.axes(10.31) == {}
    assert not hand.lapsed(10.49)
    assert hand.lapsed(10.51)
    assert not hand.lapsed(10.6), "it fires once"
    hand.drive({"x": 1, "y": 0}, now=11.0)
    assert hand.axes(11.1) == {"x": 1.0}, "and a new drive command moves the body again"


def test_a_release_is_no_dead_man():
    hand = DeadMan()
    hand.drive({"x": 1}, now=10.0)
    hand.used()
    hand.drive({"x": 0, "y": 0}, now=10.1)
    assert hand.axes(10.1) == {}
    assert not hand.lapsed(11.0)


def test_a_tap_shorter_than_a_control_period_moves_the_body_once():
    hand = DeadMan()
    hand.drive({"x": 1}, now=10.0)
    hand.drive({"x": 0}, now=10.05)
    assert hand.axes(10.2) == {"x": 1.0}
    hand.used()
    assert hand.axes(10.21) == {}


def test_letting_go_is_an_empty_drive_too():
    hand = DeadMan()
    hand.drive({"gripper": 1}, now=10.0)
    hand.used()
    hand.drive({}, now=10.1)
    assert hand.axes(10.1) == {} and not hand.lapsed(11.0)


@pytest.mark.parametrize("axes", [{"x": "fast"}, {"x": float("nan")}, {"y": True}, {"y": None}, {"x": [1]}])
def test_a_drive_that_is_no_number_is_refused(axes):
    (axis,) = axes
    with pytest.raises(CommandRefused, match=f"number from -1 to 1 for {axis}"):
        drive_axes({"axes": axes}, ("x", "y"))


def test_a_drive_beyond_the_limit_is_clipped():
    assert drive_axes({"axes": {"x": 7, "y": -7}}, ("x", "y")) == {"x": 1.0, "y": -1.0}


def test_a_drive_of_an_axis_that_the_body_does_not_have_is_refused_with_those_that_it_has():
    with pytest.raises(CommandRefused, match=r"drive names the axis 'z'; this body's are x, yaw, gripper\.$"):
        drive_axes({"axes": {"x": 1, "z": 1}}, ("x", "yaw", "gripper"))
    with pytest.raises(CommandRefused) as refused:
        drive_axes({"axes": {"z" * 10_000: 1}}, ("x",))
    assert len(str(refused.value)) < 100, "it is said to a person"


@pytest.mark.parametrize("args", [{}, {"axes": None}, {"axes": [1, 0]}, {"axes": 1.0}, {"dx": 1.0, "dy": 0.0}])
def test_a_drive_without_axes_is_refused_with_an_example(args):
    with pytest.raises(CommandRefused, match=r'drive needs axes, .* as in \{"x": 0\.5\}'):
        drive_axes(args, ("x", "y"))


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
