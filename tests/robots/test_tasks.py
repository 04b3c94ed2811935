import subprocess
import sys

import numpy as np
import pytest

from robots.embodiments import ENVIRONMENT_STATE, STATE, Observation
from robots.tasks import MARGIN, TASKS, InstructionError, get_task
from robots.worlds.language_table import BLOCKS, LANGUAGE_TABLE, block_positions, distance_left

NAMES = tuple(kind.name for kind in BLOCKS)
TABLE_FAMILIES = ("block2block", "block_to_place")


def observation_with(positions: dict[str, tuple[float, float]]) -> Observation:
    tracked = np.zeros(LANGUAGE_TABLE.observation[ENVIRONMENT_STATE].size, np.float32)
    for name, (x, y) in positions.items():
        tracked[LANGUAGE_TABLE.object_slice(name)] = x, y, 1, 0, 1
    return {STATE: np.zeros(4, np.float32), ENVIRONMENT_STATE: tracked}


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("family", TABLE_FAMILIES)
def test_parse_inverts_every_wording(family, held_out):
    task, rng = get_task(family), np.random.default_rng(0)
    drawn = [task.sample(rng, NAMES, held_out) for _ in range(500)]
    assert all(task.parse(instruction.text) == instruction for instruction in drawn)
    assert len({instruction.text for instruction in drawn}) > 400


@pytest.mark.parametrize("family", TABLE_FAMILIES)
def test_held_out_wordings_never_appear_in_training(family):
    task, rng = get_task(family), np.random.default_rng(1)

    def wordings(held_out):
        texts = set()
        for _ in range(2000):
            instruction = task.sample(rng, NAMES, held_out)
            text = instruction.text
            for word in sorted(instruction.target.values(), key=len, reverse=True):
                text = text.replace(word, "_", 1)
            texts.add(text)
        return texts

    seen, unseen = wordings(False), wordings(True)
    assert len(seen) >= 80 and len(unseen) >= 40
    assert not seen & unseen


def test_parse_forgives_case_spaces_and_full_stop():
    instruction = get_task("block_to_place").parse("  Push the Yellow Star to the top  left of the table. ")
    assert instruction.target == {"block": "yellow star", "place": "top left"}


@pytest.mark.parametrize(
    "text", ["", "push the blue cube to the blue cube", "push the blue banana to the red moon", "hello"]
)
def test_parse_refuses_with_an_example(text):
    with pytest.raises(InstructionError, match="write for example"):
        get_task("block2block").parse(text)


@pytest.mark.parametrize("family", TABLE_FAMILIES)
def test_only_blocks_on_the_table_are_asked_for(family):
    task, rng = get_task(family), np.random.default_rng(2)
    for _ in range(100):
        target = task.sample(rng, ("red moon", "blue cube")).target
        assert {target["block"], target.get("to_block", "red moon")} <= {"red moon", "blue cube"}


def test_a_table_too_empty_asks_for_a_reset():
    with pytest.raises(InstructionError, match="reset"):
        get_task("block2block").sample(np.random.default_rng(0), ("red moon",))


def test_fulfilled_instructions_are_not_drawn():
    positions = {"red moon": (0.0, 0.0), "blue cube": (0.04, 0.0), "green star": (0.25, 0.15)}
    rng = np.random.default_rng(3)
    for family in TABLE_FAMILIES:
        for _ in range(200):
            instruction = get_task(family).sample(rng, positions)
            assert distance_left(instruction.target, positions) >= MARGIN


def test_a_table_on_which_all_is_fulfilled_asks_nothing():
    """Two blocks that touch would succeed for ever, and practice would learn from it."""
    touching = {"blue cube": (0.0, 0.0), "red moon": (0.04, 0.0)}
    with pytest.raises(InstructionError, match="fulfilled already"):
        TASKS["block2block"].sample(np.random.default_rng(0), touching)
    assert TASKS["block_to_place"].sample(np.random.default_rng(0), touching)
    almost = touching | {"red moon": (0.06, 0.0)}
    assert TASKS["block2block"].sample(np.random.default_rng(0), almost), "not clearly open, but open"


def test_block_off_the_table_is_infinitely_far():
    observation = observation_with({"red moon": (0.0, 0.0)})
    assert block_positions(observation) == {"red moon": (0.0, 0.0)}
    assert distance_left({"block": "blue cube", "place": "left"}, block_positions(observation)) == float("inf")


def test_tasks_are_listed_without_a_simulator():
    code = "import sys, robots.tasks, robots.embodiments; print({'mujoco', 'gymnasium', 'torch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
    assert set(TABLE_FAMILIES) <= set(TASKS)
