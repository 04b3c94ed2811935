"""A simulated shift: many stations practise, one person of limited attention looks after them, under several rules for
where to go next, and with what a task lets stations do by themselves. Nothing is learned meanwhile, and all rows have
the same policy, which practised by the first one's rules.

    python -m training supervision --stations 16 --hours 1 --json FILE [--policy F --reward-model F]

    ranked   the live queue's rule (robots/attention.py): the need with the most robot time saved for a second of the
             person's; nobody is called for what is not worth the walk. Stations go on with the blocks that are left,
             a fence keeps these on the table (robots/fence.py), a failed attempt is followed by what spreads blocks,
             and one that is as doubtful as what `fifo` calls the person for ends by itself
    fifo     the same stations, but for that end: every need is a call, in the order in which they came up
    paper    a reset at every fall and each 5 minutes, in turns, whoever is next; no such rules

Time is the shift's own: a control step is a period of the body, an act of the person takes its seconds, and both count.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robots import strict_json
from robots.attention import DOUBTFUL, Need, need_of
from robots.demonstrators import collect_demonstrations
from robots.episodes import Episode, write_episodes
from robots.protocol import Assignment, Code, Command, Welcome
from robots.station import Station
from robots.tasks import get_task
from robots.worlds import make_world
from training.checkpoints import Policy, RewardModel
from training.failure_prediction import judge_prediction
from training.local_practice import practise_locally, rules_for
from training.practice import bundle, step_together
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunError

ACT_S = 8.0  # of the person's time, the walk included
LOOK_EVERY_S = 1.0  # how often stations tell what they need
TASKS = ("block2block", "block_to_place")
DEMONSTRATIONS, PRACTICE = 1600, 2400  # where no policy is given
PREDICTION_H = 0.4  # of another shift that the figures of the failure prediction are taken from: about 3000 episodes
SPEEDS = {"1": 1.0, "4": 4.0, "max": math.inf}
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Supervision:
    """A rule for where to go next, and what stations are told to do by themselves."""

    name: str
    rules: dict[str, Any]  # of the task, as in an assignment
    shuffle_every_s: float
    doubtful: bool  # whether attempts that look lost are needs too
    choose: Callable[[dict[int, tuple[float, Need]], int], int | None]  # (since, need) by station, last one -> station


def most_worth(needs: dict[int, tuple[float, Need]], last: int) -> int | None:
    """The station whose need saves the most robot time for a second of the person's; None where none is worth it."""
    worth = {station: (need.rank, -since) for station, (since, need) in needs.items() if need.worth_it}
    return max(worth, key=lambda station: worth[station]) if worth else None


def first_come(needs: dict[int, tuple[float, Need]], last: int) -> int | None:
    """The station whose need has lasted longest."""
    return min(needs, key=lambda station: (needs[station][0], station)) if needs else None


def next_in_turn(needs: dict[int, tuple[float, Need]], last: int) -> int | None:
    """The next station with a need, in a round from the last one on."""
    return min(needs, key=lambda station: ((station - last - 1) % 1000, station)) if needs else None


# Four blocks are enough to go on with: a station needs a hand when fewer are left; and few fall behind a fence.
# What is asked after a failure spreads blocks that have come to lie together.
PRACTICE_RULES = {"edge_margin": 0.01, "after_failure": "block_to_place"}
SPARING = PRACTICE_RULES | {"fewest_objects": 4}
SUPERVISIONS = (
    Supervision("ranked", SPARING | {"low_success_probability": 1 - DOUBTFUL}, 86_400.0, True, most_worth),
    Supervision("paper", {}, 300.0, False, next_in_turn),
    Supervision("fifo", SPARING, 86_400.0, True, first_come),
)
# As `ranked`, but nobody ends a doubtful attempt: what comes of it is what the failure prediction is judged by.
WATCHED = Supervision("watched", SPARING, 86_400.0, False, most_worth)


@dataclass
class Shift:
    """What came of it; times in seconds of the shift."""

    stations: int
    seconds: float = 0.0
    practised_s: float = 0.0  # summed over the stations
    touches: dict[str, int] = field(default_factory=dict)  # by act
    human_s: float = 0.0
    episodes: int = 0
    true_successes: int = 0
    detected_successes: int = 0

    def row(self, policy: str) -> dict[str, Any]:
        """The figures of the table, per hour and per robot-hour."""
        hours = self.seconds / 3600
        return {
            "policy": policy,
            "stations": self.stations,
            "hours": hours,
            "successes_per_hour": self.true_successes / hours,
            "detected_successes_per_hour": self.detected_successes / hours,
            "episodes": self.episodes,
            "touches": dict(self.touches),
            "touches_per_robot_hour": sum(self.touches.values()) / (hours * self.stations),
            "human_busy": self.human_s / self.seconds,
            "utilisation": self.practised_s / (self.seconds * self.stations),
        }


class Clock:
    """The shift's own time, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """What it says, as a station asks."""
        return self.now


def work_a_shift(
    supervision: Supervision,
    policy: Policy,
    reward_model: RewardModel,
    tasks: Sequence[str],
    stations: int,
    hours: float,
    seed: int,
    speed: float = math.inf,
    progress: Progress = lambda share, what: None,
    also_keep: Callable[[Episode], None] = lambda episode: None,
) -> Shift:
    """One person, so many stations, so many hours of the shift's own time."""
    clock, done = Clock(), Shift(stations)

    def keep(episode: Episode) -> None:
        done.episodes += 1
        done.true_successes += bool(episode.true_success)
        done.detected_successes += episode.detected_success
        also_keep(episode)

    fleet = [new_station(supervision, tasks, i, clock, seed * 1000 + i, keep) for i in range(stations)]
    loaded = bundle(policy, reward_model)
    for station in fleet:
        station.offer_policy(loaded)
    generator = torch.Generator().manual_seed(seed)
    period = fleet[0].attempts.period
    needs: dict[int, tuple[float, Need]] = {}  # since when, what
    errand: tuple[int, Need, str, float] | None = None  # station, need, its attempt, done at
    last, looked_at, commands, started = -1, -math.inf, 0, time.monotonic()
    for tick in range(round(hours * 3600 / period)):
        clock.now = tick * period
        step_together(fleet, generator)
        if any(station.workspace.code == Code.NO_ACTION for station in fleet):
            raise RunError("The policy gives no usable action; the log may say why.")
        done.practised_s += period * sum(station.control.state == "practising" for station in fleet)
        if errand and clock.now >= errand[3]:
            number, need, attempt, _ = errand
            station, errand, last = fleet[number], None, number
            # Whoever comes to an attempt that has ended meanwhile has walked in vain; the walk counts all the same.
            if need.act != "end_episode" or (station.recording is not None and station.recording.uuid == attempt):
                commands += 1
                station.receive(Command(id=str(commands), name=need.act))
            done.touches[need.act] = done.touches.get(need.act, 0) + 1
            needs.pop(number, None)
        if clock.now - looked_at >= LOOK_EVERY_S:
            looked_at = clock.now
            for number, station in enumerate(fleet):
                wanted = what_it_needs(station, supervision)
                if wanted is None:
                    needs.pop(number, None)
                else:
                    needs[number] = (needs[number][0] if number in needs else clock.now, wanted)
            progress(clock.now / (hours * 3600), supervision.name)
        if errand is None and (chosen := supervision.choose(needs, last)) is not None:
            recording = fleet[chosen].recording
            errand = (chosen, needs[chosen][1], recording.uuid if recording else "", clock.now + ACT_S)
        done.human_s += period * (errand is not None)
        if speed < math.inf:
            time.sleep(max(0.0, started + (clock.now + period) / speed - time.monotonic()))
    done.seconds = hours * 3600
    for station in fleet:
        station.close()
    return done


def new_station(
    supervision: Supervision,
    tasks: Sequence[str],
    number: int,
    clock: Clock,
    seed: int,
    keep: Callable[[Episode], None],
) -> Station:
    """A station that practises by the rules of this way to supervise."""
    task = get_task(tasks[number % len(tasks)])
    station = Station(make_world(task.world, seed), seed=seed, store=keep, clock=clock)
    # Each begins somewhere within its five minutes, as stations do that were not all shuffled at one time.
    settings = {"self_reset_after_s": None, "speed": 1, "shuffle_every_s": supervision.shuffle_every_s}
    station.receive(Welcome(settings=settings))
    station.workspace.practised_s = float(station.rng.uniform(0, min(supervision.shuffle_every_s, 300.0)))
    assigned = {"name": task.name, "time_limit_steps": task.time_limit_steps}
    assigned |= rules_for(task, supervision.rules, tasks)
    station.receive(Assignment(assignment=1, run=1, task=assigned))
    return station


def what_it_needs(station: Station, supervision: Supervision) -> Need | None:
    """As the live queue would say it."""
    told = station.telemetry()
    attempt = station.recording if supervision.doubtful else None
    return need_of(
        state=told.state,
        reason=told.reason,
        code=told.code,
        state_for_s=0.0,
        p_success=told.p_success if attempt else None,
        trace=attempt.d if attempt else (),
        step=int(told.step or 0),
        limit=int(told.limit or 0),
        step_s=station.attempts.period,
    )


def trained(folder: Path, tasks: Sequence[str], seed: int, say: Progress) -> tuple[Policy, RewardModel]:
    """A policy as a lab has it after a night's practice, and its reward model, in three minutes."""
    say(0.0, "demonstrations")
    demonstrations = folder / "demonstrations.safetensors"
    write_episodes(demonstrations, collect_demonstrations(tasks, DEMONSTRATIONS, seed))
    say(0.3, "training and practice")
    improved = ImproveRecipe(seed=seed, max_episodes=PRACTICE, evaluation_episodes=0, tasks=",".join(tasks))
    practise_locally(
        folder, [demonstrations], SFTRecipe(seed=seed, evaluation_episodes=0), improved, rules=PRACTICE_RULES
    )
    newest = max((folder / "improve" / "checkpoints").glob("policy-*.safetensors"))
    return Policy.load(newest), RewardModel.load(folder / "sft" / "checkpoints" / "reward_model.safetensors")


def main(arguments: argparse.Namespace) -> int:
    """Work the shift by each way to supervise, and write the table."""
    torch.set_num_threads(1)
    started, told = time.monotonic(), 0.0

    def say(share: float, what: str) -> None:
        """A line of JSON on stdout, at most one each two seconds."""
        nonlocal told
        now = time.monotonic()
        if now - told > 2:
            told = now
            left = (now - started) * (1 - share) / share if share > 0.01 else None
            print(strict_json.dumps({"done": round(share, 4), "what": what, "eta_s": left and round(left)}), flush=True)

    tasks = [name.strip() for name in arguments.task.split(",") if name.strip()]
    with tempfile.TemporaryDirectory(prefix="fleetui-shift-") as folder:
        if arguments.policy and arguments.reward_model:
            policy, reward_model = Policy.load(arguments.policy), RewardModel.load(arguments.reward_model)
            tasks = tasks or policy.metadata.tasks
        else:
            tasks = tasks or list(TASKS)
            policy, reward_model = trained(
                Path(folder), tasks, arguments.seed, lambda share, what: say(0.2 * share, what)
            )
    rows: list[dict[str, Any]] = []
    kept: list[Episode] = []
    shifts = [(each, arguments.hours) for each in SUPERVISIONS] + [(WATCHED, min(arguments.hours, PREDICTION_H))]
    for number, (supervision, hours) in enumerate(shifts):
        began = time.monotonic()

        def tell(share: float, what: str, number: int = number) -> None:
            say(0.2 + 0.8 * (number + share) / len(shifts), what)

        done = work_a_shift(
            supervision,
            policy,
            reward_model,
            tasks,
            arguments.stations,
            hours,
            arguments.seed,
            speed=SPEEDS[arguments.speed],
            progress=tell,
            also_keep=kept.append if supervision is WATCHED else lambda episode: None,
        )
        if supervision is not WATCHED:
            rows.append(done.row(supervision.name) | {"wall_s": round(time.monotonic() - began, 1)})
    by_limit: dict[int, list[Episode]] = {}
    for episode in kept:
        by_limit.setdefault(get_task(episode.task).time_limit_steps, []).append(episode)
    limit, episodes = max(by_limit.items(), key=lambda item: len(item[1]))
    result = {
        "stations": arguments.stations,
        "hours": arguments.hours,
        "seed": arguments.seed,
        "rows": rows,
        "failure_prediction": {"time_limit_steps": limit} | judge_prediction(episodes, policy, limit),
    }
    Path(arguments.json).write_text(strict_json.dumps(result, indent=1))
    return 0
