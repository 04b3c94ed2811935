import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from robots.embodiments import ENVIRONMENT_STATE, IMAGES, STATE
from robots.episodes import rows_of, write_episodes
from robots.worlds.language_table import CAMERA_TABLE, OBJECT_FEATURES
from training.datasets import DatasetError, demonstrations_of, look_back, read_demonstrations, split


def test_frames_actions_and_steps_to_go_line_up(demonstrations):
    data = demonstrations_of(demonstrations)
    assert data.episodes == 24 and data.tasks == ["block2block", "block_to_place"]
    second = demonstrations[1]
    frames = data.frames_of(torch.tensor([1]))
    assert list(data.observations) == list(second.observations) == [STATE, ENVIRONMENT_STATE]
    for key, array in second.observations.items():
        np.testing.assert_array_equal(data.observations[key][frames].numpy(), array)
    np.testing.assert_array_equal(data.actions[frames[:-1]].numpy(), second.actions)
    assert data.steps_to_go[frames].tolist() == list(range(second.steps, -1, -1))
    assert {data.instructions[i] for i in data.instruction[frames].tolist()} == {second.instruction}
    # There is no action to imitate at a last frame.
    assert data.imitable[frames].tolist() == [True] * second.steps + [False]


def test_a_correction_is_imitated_only_where_the_person_acted(demonstrations):
    correction = dataclasses.replace(
        demonstrations[0], purpose="correction", ending="operator", actors=demonstrations[0].actors * 0
    )
    correction.actors[-5:] = 1
    data = demonstrations_of([correction, demonstrations[1]])
    assert int(data.imitable[data.frames_of(torch.tensor([0]))].sum()) == 5


def test_practice_that_somebody_chose_is_imitated_wholly(demonstrations):
    chosen = dataclasses.replace(
        demonstrations[0], purpose="practice", ending="detected_success", actors=demonstrations[0].actors * 0
    )
    data = demonstrations_of([chosen, demonstrations[1]])
    assert data.imitable[data.frames_of(torch.tensor([0]))].tolist() == [True] * chosen.steps + [False]


def test_weights_are_of_the_mean_frame_and_none_where_all_are_one(demonstrations):
    assert demonstrations_of(demonstrations[:3]).weights is None
    data = demonstrations_of([dataclasses.replace(demonstrations[0], weight=3.0), demonstrations[1]])
    first, second = (data.weights[data.frames_of(torch.tensor([i]))] for i in (0, 1))
    assert float(first[0] / second[0]) == pytest.approx(3) and float(data.weights.mean()) == pytest.approx(1)


def test_a_policy_may_act_by_a_part_of_what_the_body_observes(demonstrations):
    data = demonstrations_of(demonstrations[:2], "state")
    assert list(data.observations) == list(data.embodiment.observation) == [STATE, ENVIRONMENT_STATE]
    with pytest.raises(DatasetError, match="observes no cameras"):
        demonstrations_of(demonstrations[:2], "cameras")


def test_demonstrations_that_did_not_arrive_are_not_learned_from(demonstrations):
    lost = dataclasses.replace(demonstrations[0], ending="time_limit")
    assert demonstrations_of([lost, *demonstrations[1:4]]).episodes == 3
    with pytest.raises(DatasetError, match="Of 1 demonstrations 0 reached"):
        demonstrations_of([lost])


@pytest.mark.parametrize(
    ("field", "change", "sentence"),
    [
        (STATE, lambda e: {"observations": e.observations | {STATE: e.observations[STATE] * np.float32("nan")}}, "NaN"),
        ("actions", lambda e: {"actions": e.actions[:, :1].copy()}, "has 2"),
        (STATE, lambda e: {"observations": rows_of(e.observations, slice(e.steps))}, "rows"),
        ("observations", lambda e: {"observations": {STATE: e.observations[STATE]}}, "language_table observes"),
        ("instruction", lambda e: {"instruction": "  "}, "empty"),
        ("embodiment", lambda e: {"embodiment": "another"}, "one embodiment a run"),
        ("purpose", lambda e: {"purpose": "evaluation", "ending": "time_limit"}, "no demonstrations"),
    ],
)
def test_a_bad_episode_is_named_with_its_field(demonstrations, field, change, sentence):
    good, other = demonstrations[:2]
    bad = dataclasses.replace(other, **change(other))
    with pytest.raises(DatasetError) as error:
        demonstrations_of([good, bad])
    assert bad.uuid in str(error.value) and f"field {field}" in str(error.value) and sentence in str(error.value)


def test_pictures_of_another_size_and_words_left_out_of_a_file_are_refused(demonstrations, tmp_path):
    key, seen = f"{IMAGES}top", np.zeros((demonstrations[0].steps + 1, *CAMERA_TABLE.pictures["top"].shape), np.uint8)
    made = dataclasses.replace(
        demonstrations[0], embodiment=CAMERA_TABLE.name, body=CAMERA_TABLE, observations={key: seen}
    )
    demonstrations_of([made, dataclasses.replace(made, uuid=demonstrations[1].uuid)])
    with pytest.raises(DatasetError, match=f"{made.uuid}, field {key}"):
        demonstrations_of([dataclasses.replace(made, observations={key: seen[:, 3:].copy()}), made])
    path = tmp_path / "wordless.safetensors"
    write_episodes(path, demonstrations[:2])
    tensors, metadata = load_file(path), safe_open(path, "numpy").metadata()
    key, fields = next((key, json.loads(text)) for key, text in metadata.items() if "instruction" in text)
    del fields[1]["instruction"]
    save_file(tensors, path, metadata | {key: json.dumps(fields)})
    with pytest.raises(DatasetError, match=r"wordless.safetensors.*instruction"):
        read_demonstrations([path])


def test_no_files_and_a_truncated_file_are_refused_with_a_sentence(tmp_path, demonstrations):
    with pytest.raises(DatasetError, match="no demonstrations"):
        read_demonstrations([])
    path = tmp_path / "cut.safetensors"
    write_episodes(path, demonstrations)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"cut.safetensors.*truncated"):
        read_demonstrations([path])


def test_whole_episodes_are_held_out(demonstrations):
    data = demonstrations_of(demonstrations)
    training, validation = split(data, 0.25, torch.Generator().manual_seed(1))
    assert len(validation) == 6 and sorted([*training.tolist(), *validation.tolist()]) == list(range(24))


def test_hindsight_finds_the_block_that_was_pushed_and_where_it_rests(demonstrations):
    data = demonstrations_of(demonstrations)
    tracked = data.observations[ENVIRONMENT_STATE].unflatten(1, (8, 5))
    seen = look_back(data, tracked, OBJECT_FEATURES, guessed=False)
    moved = [data.embodiment.objects[i].name for i in seen.moved.tolist()]
    assert np.mean([name in episode.instruction for name, episode in zip(moved, demonstrations, strict=True)]) > 0.9
    np.testing.assert_array_equal(seen.resting[3], seen.others[3, seen.moved[3]])
