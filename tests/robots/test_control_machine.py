"""Random interleavings of what people, the server and a bad network do to one station, and what must always hold: never
two in control, no command of an older epoch accepted, none executed late or twice, a stopped body never moves. `make
faults` plays 10,000.

The station is the real one (robots/station.py). The server's rule, which lives in PostgreSQL, is written here once more
in its simplest form: one live lease, each with a higher epoch, two seconds from its newest sign of life.
"""

from collections import Counter

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from robots.control import COMMANDS_REMEMBERED, DRIVE_HELD_S
from robots.protocol import to_json
from robots.station import SILENCE_S, Station
from tests.conftest import AT_LENGTH
from tests.robots.station_fakes import ASSIGNMENT, Clock, FakeWorld, loaded_policy, told

INTERLEAVINGS = 10_000 if AT_LENGTH else 300
LEASE_S = 2.0
PEOPLE = ("ada", "grace", "alan")


class Server:
    """Who has the lease, as PostgreSQL would say."""

    def __init__(self, clock):
        self.clock = clock
        self.epoch, self.holder, self.until = 1, "", 0.0
        self.taken_over = self.stopped = self.paused = False
        self.stop = ""  # the id of the newest one

    def live(self):
        return self.holder if self.clock() < self.until else ""

    def give(self, who, name):
        """The epoch that the command gets, or None: refused."""
        if name != "stop" and self.live() not in ("", who):
            return None
        if name == "override":
            if self.stopped:
                return None
            self.epoch += 1
            self.holder, self.until, self.taken_over = who, self.clock() + LEASE_S, True
        elif name in ("drive", "control_heartbeat"):
            if self.live() != who:
                return None
            self.until = self.clock() + LEASE_S
        epoch = self.epoch
        if name in ("hand_back", "stop", "pause"):
            self.end()
            self.taken_over = False
            self.epoch += 1  # the run's own lease
        self.stopped = (self.stopped or name == "stop") and name != "clear_stop"
        self.paused = (self.paused or name in ("pause", "clear_stop")) and name != "resume"
        return epoch

    def end(self):
        self.holder, self.until = "", 0.0

    def welcome(self):
        said = {"overridden": self.taken_over, "stop_latched": self.stopped, "paused": self.paused}
        said["stop"] = self.stop
        return {"type": "welcome", "settings": said, "epoch": self.epoch}


class ControlOfAStation(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.clock, self.world = Clock(), FakeWorld()
        self.server = Server(self.clock)
        self.wire = []  # messages on their way, with the time at which they were sent
        self.executed = Counter()
        self.numbers = 0
        self.answers = []
        self.restart()

    def restart(self):
        """A host that begins anew knows nothing but what the server says."""
        self.station = Station(
            self.world, seed=1, emit=lambda message: self.answers.append(to_json(message)), clock=self.clock
        )
        self.executed_before = Counter(self.executed)
        execute = self.station.commands.execute

        def note(command_id, name, args, epoch, by):
            execute(command_id, name, args, epoch, by)
            self.executed[self.delivering["id"]] += 1
            self.accepted.append((name, epoch, by))

        self.station.commands.execute = note
        self.station.receive(told(self.server.welcome()))
        self.station.receive(told(ASSIGNMENT))
        self.station.offer_policy(loaded_policy())
        self.newest = max(self.server.epoch, 1)  # that the station was told

    def say(self, who, name, ttl_s, **args):
        epoch = self.server.give(who, name)
        if epoch is None:
            return
        self.numbers += 1
        if name == "stop":
            self.server.stop = f"c{self.numbers}"
        message = {"type": "command", "id": f"c{self.numbers}", "name": name, "args": args, "ttl_ms": 1000 * ttl_s}
        if name == "control_heartbeat":
            message = {"type": "control_heartbeat"}
        self.wire.append((self.clock(), {**message, "epoch": epoch, "by": who}))

    def deliver(self, index, keep):
        sent_at, message = self.wire[index] if keep else self.wire.pop(index)
        before, self.accepted, self.delivering = self.station.commands.lease.taken, [], message
        age = self.clock() - sent_at
        self.station.receive(told({**message, "age_s": age}))
        for name, epoch, by in self.accepted:
            assert name == "stop" or age * 1000 <= message["ttl_ms"] + 1e-6, "executed too late"
            assert name == "stop" or epoch >= self.newest, "an older epoch was accepted"
            if name == "override":
                assert epoch > before, "one grant took control twice"
            elif name == "drive":
                assert (epoch, by) == (self.station.commands.lease.taken, self.station.commands.lease.by), (
                    "driven by who doesn't hold it"
                )
        if "epoch" in message:
            self.newest = max(self.newest, message["epoch"])

    # What people do

    @rule(who=st.sampled_from(PEOPLE))
    def take(self, who):
        self.say(who, "override", 3.0)

    @rule(who=st.sampled_from(PEOPLE), x=st.sampled_from((-1.0, 0.0, 1.0)))
    def drive(self, who, x):
        self.say(who, "drive", 0.3, axes={"x": x, "y": 0.0})

    @rule(who=st.sampled_from(PEOPLE), x=st.sampled_from((-1.0, 0.0, 1.0)))
    def take_and_drive(self, who, x):
        """What people do most, and what chance would seldom put together: all of it arrives at once and in order."""
        self.say(who, "override", 3.0)
        self.say(who, "drive", 0.3, axes={"x": x, "y": 0.0})
        self.arrive_in_order()

    @rule(who=st.sampled_from(PEOPLE))
    def heartbeat(self, who):
        self.say(who, "control_heartbeat", 0.5)

    @rule(who=st.sampled_from(PEOPLE), name=st.sampled_from(("hand_back", "pause", "resume", "clear_stop", "reset")))
    def act(self, who, name):
        self.say(who, name, 3.0)

    @rule(who=st.sampled_from(PEOPLE))
    def stop(self, who):
        self.say(who, "stop", 3.0)

    # What the network does: any message at any time, twice, in any order, or never

    @rule(data=st.data(), twice=st.booleans())
    def arrive(self, data, twice):
        if self.wire:
            self.deliver(data.draw(st.integers(0, len(self.wire) - 1)), keep=twice)

    @rule()
    def arrive_in_order(self):
        while self.wire:
            self.deliver(0, keep=False)

    @rule(data=st.data())
    def lose(self, data):
        if self.wire:
            self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))

    # What time does

    @rule(seconds=st.sampled_from((0.1, 0.2, 0.4, 0.7, 1.2, 3.0)))
    def wait(self, seconds):
        """The host steps the station as it would in that time."""
        for _ in range(max(1, round(seconds / 0.2))):
            self.clock.pass_(min(seconds, 0.2))
            lease, driven_at = self.station.commands.lease, self.station.commands.dead_man._since
            seen = self.station.observe()
            if seen is None:
                continue
            state = self.station.control.state
            assert not self.station.control.stop_latched, "a stopped body moved"
            if state == "overridden":  # also where it was paused before: a pause holds the policy, not a person
                assert lease.live and self.clock() - driven_at <= DRIVE_HELD_S, "nobody holds it, and it moves"
                assert self.station.recording.actor == "human"
            else:
                assert not self.station.control.paused, "a paused body moved"
                assert state in ("practising", "evaluating") and not lease.open, "the policy went on by itself"
                assert self.station.recording.actor == "policy"
            self.station.act(np.array([0.01, 0.0], np.float32), 9.0, None)

    @rule()
    def expire(self):
        self.clock.pass_(LEASE_S + 0.6)
        self.station.observe()
        assert not self.station.commands.lease.live

    @rule()
    def reconnect(self):
        self.server.end()  # with the link the lease ends
        self.station.receive(told(self.server.welcome()))
        self.newest = max(self.newest, self.server.epoch)
        assert not self.station.commands.lease.live

    @rule()
    def the_server_falls_silent(self):
        self.server.end()
        self.station.server_gone(SILENCE_S + 0.1)
        assert self.station.observe() is None and self.station.control.state in ("offline",)
        self.station.server_gone(0.0)

    @rule()
    def the_host_begins_anew(self):
        self.server.end()
        self.restart()
        assert self.station.commands.lease.open is self.server.taken_over or self.server.stopped or self.server.paused

    # What must hold at every moment

    @invariant()
    def each_command_at_most_once(self):
        if hasattr(self, "executed"):
            assert self.numbers < COMMANDS_REMEMBERED
            assert all(self.executed[each] - self.executed_before[each] <= 1 for each in self.executed)

    @invariant()
    def the_states_agree(self):
        if not hasattr(self, "station"):
            return
        control, lease = self.station.control, self.station.commands.lease
        assert lease.taken <= lease.newest and (lease.open or not lease.live)
        if control.stop_latched:
            assert control.state in ("stopped", "offline") and not lease.open
        if lease.live:
            assert control.state == "overridden" and self.station.recording.actor == "human"
        if lease.open:
            assert control.state in ("overridden", "offline"), "an override that nobody ended lets nothing else move"


def test_random_interleavings():
    run_state_machine_as_test(
        ControlOfAStation,
        settings=settings(
            max_examples=INTERLEAVINGS,
            stateful_step_count=50,  # in twelve, hardly any command of a lease arrives too late
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
