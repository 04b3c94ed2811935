"""Tasks in words: what is taken, what is refused with which sentence, and what a station draws from them."""

import numpy as np
import pytest

from robots.driver import Driver
from robots.orders import Orders
from robots.protocol import Assignment
from robots.station import Station
from robots.tasks import InstructionError
from robots.wordings import MOST_COMBINATIONS, Words, checked_words, family_told
from robots.worlds import make_world
from robots.worlds.language_table import LANGUAGE_TABLE

SLOTS = {"object": ["red cup", "Blue  cup"], "place": ["left tray", "bin"]}
WORDINGS = ["Put the {object} into the {place}.", "pick up the {object}"]
TOLD = {
    "title": "Tidy up",
    "embodiment": "language_table",
    "wordings": WORDINGS,
    "held_out_wordings": [],
    "slots": SLOTS,
}


def sentences_of(family, held_out=False):
    rng = np.random.default_rng(0)
    return {family.sample(rng, (), held_out).text for _ in range(200)}


def test_they_are_kept_as_instructions_are_written():
    words, problems = checked_words(WORDINGS, ["fetch the {object}"], SLOTS)
    assert not problems
    assert words.wordings == ("put the {object} into the {place}", "pick up the {object}")
    assert words.slots == {"object": ("red cup", "blue cup"), "place": ("left tray", "bin")}
    assert Words.from_json(words.to_json()) == words and words.count == 6


def many(slots, values):
    return {f"s{i}": [f"v{i} {j}" for j in range(values)] for i in range(slots)}


@pytest.mark.parametrize(
    "wordings, slots, part, sentence",
    [
        ([], {}, "wordings", "Give at least one wording"),
        (["  ", ""], {}, "wordings", "Give at least one wording"),
        (["go to {place}"], {}, "wordings", "has the slot {place}, which has no values"),
        (["go home"], {"place": ["left"]}, "slots", "No wording has the slot {place}"),
        (["go to {place}"], {"place": []}, "slots", "The slot {place} has no values"),
        (["go to {place}"], {"place": [" ", ""]}, "slots", "The slot {place} has no values"),
        (["go to {place}"], {"place": ["left", "LEFT "]}, "slots", "has “left” twice"),
        (["go to {place}"], {"place": ["left"], "PLACE": ["right"]}, "slots", "{place} is there twice"),
        (["go to {place}"], {"place": ["a {b}"]}, "slots", "has a brace"),
        (["go to {place}"], {"pl-ace": ["left"]}, "slots", "can't name a slot"),
        (["go to {place}"], {"place": "left"}, "slots", "as a list"),
        (["go to {place}"], {"place": [3]}, "slots", "3 is none"),
        (["go to {place}"], ["place"], "slots", "Give the slots by name"),
        (["go", "Go."], {}, "wordings", "“go” is there twice"),
        (["go {place"], {}, "wordings", "a brace stands alone"),
        (["go place}"], {}, "wordings", "a brace stands alone"),
        (["go {{place}}"], {"place": ["left"]}, "wordings", "a brace stands alone"),
        (["go {}"], {}, "wordings", "a brace stands alone"),
        (["go {place.__class__}"], {"place": ["left"]}, "wordings", "a brace stands alone"),
        (["go {place!r}"], {"place": ["left"]}, "wordings", "a brace stands alone"),
        (["go {place:9}"], {"place": ["left"]}, "wordings", "a brace stands alone"),
        (["go\x07"], {}, "wordings", "a character that can't be read"),
        (["go\nhome"], {}, "wordings", "a character that can't be read"),
        (["go {place}"], {"place": ["le\x00ft"]}, "slots", "a character that can't be read"),
        (["..."], {}, "wordings", "says nothing"),
        (["x" * 301], {}, "wordings", "has 301 characters"),
        (["x" * 250 + " {place}"], {"place": ["y" * 60]}, "wordings", "with its slots filled has 311 characters"),
        (["a {s0} {s1} {s2}"], many(3, 9), "wordings", f"in 729 ways; at most {MOST_COMBINATIONS}"),
        (["a {s0} {s1} {s2} {s3} {s4} {s5} {s6} {s7}"], many(8, 100), "wordings", "in 10000000000000000 ways"),
        (["{s0}"], many(9, 1), "slots", "There are 9 slots"),
        (["{s0}"], many(1, 101), "slots", "There are 101 values of {s0}"),
        ([f"go {i}" for i in range(51)], {}, "wordings", "There are 51 wordings"),
        (["from {a} to {b}"], {"a": ["here"], "b": ["here"]}, "wordings", "have only the same value"),
        (["{a} {b}"], {"a": ["here"], "b": ["there"]}, "wordings", "has nothing but slots"),
        ([f"{'x' * 290} {i:03}" for i in range(50)], {}, "", ""),
        ([f"go {{s{i}}}" for i in range(8)], {f"s{i}": ["z" * 90 + str(j) for j in range(99)] for i in range(8)},
         "wordings", "at most 20000 are taken"),
        ("go home", {}, "wordings", "as a list"),
        ([None], {}, "wordings", "None is none"),
        (7, {}, "wordings", "as a list"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_a_sentence(wordings, slots, part, sentence):
    _, problems = checked_words(wordings, [], slots)
    assert list(problems) == [part] * bool(part) and sentence in problems.get(part, "")
    told = {"wordings": wordings, "slots": slots}
    if part:
        with pytest.raises(InstructionError, match="The task's words can't be used"):
            Words.from_json(told)


def test_held_out_wordings_are_looked_at_as_the_others_are():
    assert "no values" in checked_words(["go"], ["go to {place}"], {})[1]["held_out_wordings"]
    assert "among the wordings too" in checked_words(["go"], ["Go."], {})[1]["held_out_wordings"]


def test_each_of_its_sentences_is_drawn_and_read_again():
    family = family_told("tidy-1", TOLD, 40)
    drawn = sentences_of(family)
    assert drawn == {
        f"put the {thing} into the {place}" for thing in ("red cup", "blue cup") for place in ("left tray", "bin")
    } | {"pick up the red cup", "pick up the blue cup"}
    assert drawn == set(Words.from_json(TOLD).some(100)) and len(Words.from_json(TOLD).some(4)) == 4
    found = family.parse("Pick up the RED cup.")
    assert (found.text, found.family, found.target) == ("pick up the red cup", "tidy-1", {"object": "red cup"})
    with pytest.raises(InstructionError, match="no instruction of Tidy up"):
        family.parse("pick up the bin")


def test_nothing_is_named_twice_in_one_sentence():
    told = TOLD | {"wordings": ["from {a} to {b}"], "slots": {"a": ["here", "there"], "b": ["here", "there"]}}
    assert sentences_of(family_told("move", told, 10)) == {"from here to there", "from there to here"}


def test_held_out_wordings_are_drawn_only_where_they_are_asked_for():
    family = family_told("tidy-1", TOLD | {"held_out_wordings": ["fetch the {object}"]}, 40)
    assert sentences_of(family, held_out=True) == {"fetch the red cup", "fetch the blue cup"}
    assert not any(text.startswith("fetch") for text in sentences_of(family))


# At a station


def assignment(**task):
    return Assignment(assignment=1, run=1, task={"name": "tidy-1", "time_limit_steps": 40, "words": TOLD} | task)


def read(message):
    orders = Orders(LANGUAGE_TABLE)
    orders.take(message)
    orders.read_task()
    return orders


def test_a_station_needs_no_code_for_a_task_in_words():
    orders = read(assignment())
    assert orders.task is not None and not orders.waiting_reason
    assert (orders.task.name, orders.task.title, orders.task.time_limit_steps) == ("tidy-1", "Tidy up", 40)
    assert "pick up the red cup" in sentences_of(orders.task)


@pytest.mark.parametrize(
    "task, reason",
    [
        ({"words": TOLD | {"embodiment": "arm"}}, "the task tidy-1 is for arm, and this station is language_table"),
        ({"words": TOLD | {"slots": {}}}, "has the slot {object}, which has no values"),
        ({"words": {}}, "Give at least one wording"),
        ({"words": TOLD, "name": ""}, "has no name"),
        ({"words": TOLD, "name": 7}, "has no name"),
        ({"words": None}, "There is no task 'tidy-1'"),
        ({"after_failure": "other"}, "There is no task 'other'"),
        ({"after_failure": "other", "after_failure_words": TOLD | {"embodiment": "arm"}}, "the task other is for arm"),
    ],
)
def test_words_that_it_can_not_use_are_why_it_waits(task, reason):
    orders = read(assignment(**task))
    assert orders.task is None and reason in orders.waiting_reason


def test_after_a_failure_it_may_draw_from_other_words():
    other = TOLD | {"wordings": ["go home"], "slots": {}}
    orders = read(assignment(after_failure="home-1", after_failure_words=other))
    assert sentences_of(orders.after_failure) == {"go home"}
    assert read(assignment(after_failure="block2block")).after_failure.name == "block2block"
    assert read(assignment()).after_failure is None


class Bench:
    """A station on the simulated table, and the episodes that it stored."""

    def __init__(self, world=None):
        self.stored = []
        self.station = Station(world or make_world("language_table", 1), store=self.stored.append)

    def drive_once(self):
        attempts = self.station.attempts
        attempts.begin_correction()
        attempts.step(np.zeros(attempts.embodiment.action_size, np.float32), 0.0)
        attempts.cut("hand_back")
        return self.stored[-1]


def test_a_person_drives_by_the_words_that_the_station_was_told():
    bench = Bench()
    assert bench.drive_once().task == "block2block"
    bench.station.receive(assignment())
    assert bench.drive_once().task == "tidy-1"
    bench.station.receive(Assignment())
    assert bench.drive_once().task == "tidy-1", "it still knows what it was told of"


def test_no_simulator_judges_words_that_it_does_not_know():
    bench = Bench()
    assert bench.drive_once().true_success is False
    # Words whose slots are named as the world's own: it would find a distance for them.
    slots = {"block": ["blue cube"], "to_block": ["red moon"]}
    for words in (TOLD, TOLD | {"wordings": ["keep the {block} away from the {to_block}"], "slots": slots}):
        bench.station.receive(assignment(words=words))
        assert bench.drive_once().true_success is None
        assert not bench.station.attempts.workspace.need, "nor is it at fault"


class Arm:
    """A lab's own body, of which no code here knows."""

    from dataclasses import replace

    embodiment = replace(LANGUAGE_TABLE, name="lab_arm")
    renderer = "camera"
    resets_itself = True

    def __init__(self):
        self.table = make_world("language_table", 1)

    def __getattr__(self, name):
        return getattr(self.table, name)

    def true_success(self, instruction):
        return instruction.text == "pick up the red cup"  # by a sensor


def test_a_body_of_which_no_task_is_known_can_be_driven():
    bench = Bench(Driver(Arm()))
    driven = bench.drive_once()
    assert (driven.task, driven.embodiment) == ("driven_by_hand", "lab_arm")
    assert driven.instruction == "what the person at the controls shows" and driven.true_success is False
    words = {"embodiment": "lab_arm", "wordings": ["pick up the red cup"]}
    bench.station.receive(assignment(words=words))
    driven = bench.drive_once()
    assert (driven.instruction, driven.true_success) == ("pick up the red cup", True)


def test_new_words_are_taken_with_the_next_attempt():
    bench = Bench()
    bench.station.receive(assignment())
    attempts = bench.station.attempts
    attempts.begin_correction()
    under_way = attempts.recording
    bench.station.receive(assignment(words=TOLD | {"wordings": ["go home"], "slots": {}}))
    assert attempts.recording is under_way and under_way.instruction.text != "go home"
    attempts.cut("hand_back")
    attempts.begin_correction()
    assert attempts.recording.instruction.text == "go home"
