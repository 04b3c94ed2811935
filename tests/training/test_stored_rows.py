"""Rows that are too many for memory, and batches that are read ahead: the same numbers as all at once in memory."""

import numpy as np
import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.embodiments import IMAGES, STATE
from robots.episodes import read_episodes, write_episodes
from robots.worlds.language_table.physics import LanguageTable
from tests.training.test_backbones import BODY, FEW, FRONT, KINDS, content, folders, looking  # noqa: F401
from training import stored_rows
from training.__main__ import carry_out
from training.datasets import read_demonstrations
from training.methods import sft as sft_module
from training.methods.sft import sft
from training.recipes import SFTRecipe
from training.run_dir import RunDir
from training.stored_rows import ReadAhead, StoredRows, kept

# Seen by an encoder of ours, and by pretrained models whose maps are kept or that learn themselves
SEEN_BY = {
    "own": {},
    "map": {"vision_encoder": "siglip", "trained": "heads"},
    "encoder": {"vision_encoder": "siglip", "trained": "lora"},
    "tokens": {"vision_language": "paligemma", "trained": "lora"},
    "all": {"vision_language": "smolvlm", "trained": "all"},
}


@pytest.fixture
def new_run(tmp_path, folders):  # noqa: F811
    """Makes runs of a body that looks, with its episodes in three files."""

    def make(name, **settings):
        named = {key: str(folders[value]) if value in folders else value for key, value in settings.items()}
        run = RunDir.create(tmp_path / name, SFTRecipe(**FEW | {"seed": 7} | named))
        for number, first in enumerate((0, 1, 4)):
            write_episodes(run.data / f"{number}.safetensors", looking(7)[first : (1, 4, 7)[number]])
        return run

    return make


@pytest.fixture
def stay(monkeypatch):
    """From here on nothing fits into memory."""
    return lambda: monkeypatch.setattr(stored_rows, "IN_MEMORY", 0)


def test_pictures_that_stay_in_their_files_are_the_same_and_take_no_memory(tmp_path, stay):
    for number in range(2):
        write_episodes(tmp_path / f"{number}.safetensors", looking(3, seed=number))
    paths = sorted(tmp_path.glob("*"))
    held = read_demonstrations(paths)
    stay()
    stored = read_demonstrations(paths)
    rows = torch.randint(len(held.steps_to_go), (50,), generator=torch.Generator().manual_seed(0))
    assert isinstance(stored.observations[FRONT], StoredRows) and isinstance(stored.observations[STATE], torch.Tensor)
    for key, array in held.observations.items():
        assert array[rows].equal(stored.observations[key][rows]) and array.shape == stored.observations[key].shape
    assert stored.observations[FRONT][rows[:0]].shape == (0, 16, 16, 3)
    (episode, *_) = read_episodes(paths[0], pictures_stay=True)
    assert isinstance(episode.observations[FRONT], np.memmap) and episode.observations[FRONT].filename == paths[0]


def test_a_file_that_became_shorter_is_said(tmp_path, stay):
    path = tmp_path / "shown.safetensors"
    write_episodes(path, looking(3))
    stay()
    pictures = read_demonstrations([path]).observations[f"{IMAGES}front"]
    with open(path, "rb+") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match="has become shorter"):
        pictures[torch.tensor([20])]


def test_parts_are_kept_in_memory_or_in_a_file_that_leaves_nothing(tmp_path, stay):
    parts = [torch.randn(n, 2, 3) for n in (4, 1, 2)]
    rows = torch.tensor([6, 0, 3, 3])
    assert kept(iter(parts), 7, tmp_path).equal(torch.cat(parts))
    stay()
    stored = kept(iter(parts), 7, tmp_path)
    assert isinstance(stored, StoredRows) and stored[rows].equal(torch.cat(parts)[rows])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seen_by", SEEN_BY)
def test_sft_from_files_ends_in_the_same_bits_as_from_memory_also_after_a_stop(new_run, stay, monkeypatch, seen_by):
    held, stored, stopped = (new_run(name, **SEEN_BY[seen_by]) for name in ("held", "stored", "stopped"))
    sft(held)
    stay()
    read = []
    take = StoredRows.__getitem__
    monkeypatch.setattr(StoredRows, "__getitem__", lambda rows, at: read.append(len(at)) or take(rows, at))
    sft(stored)
    assert read, "it was in memory"
    log = stopped.log

    def log_until_stopped(kind, **values):
        log(kind, **values)
        stopped.cancelled |= kind == "loss" and values["step"] == 6

    monkeypatch.setattr(stopped, "log", log_until_stopped)
    assert sft(stopped) == {}
    monkeypatch.setattr(stopped, "log", log)
    stopped.cancelled = False
    sft(stopped)
    for other in (stored, stopped):
        for role in ("policy", "reward_model"):
            one, two = content(held, role), content(other, role)
            assert all(one[name].equal(two[name]) for name in one)
    assert [line["bc"] for line in stored.lines("loss")] == [line["bc"] for line in held.lines("loss")]


@pytest.mark.parametrize("family", ["block2block", "camera_block2block"])
def test_tables_that_are_too_many_for_memory_are_still_grounded(new_sft_run, stay, monkeypatch, family):
    """What is told of a table, or found in its picture, is a few numbers a frame, which words need all at once."""
    monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    shown = collect_demonstrations([family], 12, seed=8)
    ends = []
    for name in ("held", "stored"):
        run = new_sft_run(name, steps=4, perception_steps=3)
        write_episodes(run.data / "demonstrations.safetensors", shown)
        sft(run)
        ends.append(content(run))
        stay()
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_an_episode_that_is_left_out_is_drawn_no_more_though_it_was_drawn_ahead(new_run, monkeypatch):
    def read_with_one_bad(*arguments):
        demonstrations = read_demonstrations(*arguments)
        demonstrations.observations[STATE][demonstrations.frames_of(torch.tensor([2]))] = torch.nan
        return demonstrations

    monkeypatch.setattr(sft_module, "read_demonstrations", read_with_one_bad)
    monkeypatch.setattr(sft_module.Demonstrations, "vectors", lambda data, keys: torch.zeros(len(data.actions), 1))
    ends = []
    for ahead in (0, 2):
        monkeypatch.setattr(stored_rows, "AHEAD", ahead)
        run = new_run(f"ahead-{ahead}")
        sft(run)
        said = [line["text"] for line in run.lines("note") if "left out" in line["text"]]
        assert len(said) == 1
        ends.append(content(run))
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_what_is_read_ahead_is_bounded_and_what_reading_raises_is_raised(monkeypatch):
    generator, plain = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    drawn = []

    def draw(step):
        drawn.append(step)
        return step, torch.rand(2, generator=generator)

    def read(of):
        if of[0] == 5:
            raise OSError("the disk is gone")
        return of[0] * 10

    ahead = ReadAhead(generator, draw, read, 1, 6)
    for step in (1, 2, 3, 4):
        (number, numbers), found = ahead.next()
        assert (number, found) == (step, step * 10) and numbers.equal(torch.rand(2, generator=plain))
        assert generator.get_state().equal(plain.get_state()), "as if nothing were drawn ahead"
        assert drawn[-1] == min(6, step + stored_rows.AHEAD)
    ahead.forget()
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.next()
    assert drawn == [1, 2, 3, 4, 5, 6, 5, 6], "what was forgotten is drawn anew"
    ahead.close()


def test_a_training_whose_files_vanish_says_so(new_run, stay, monkeypatch):
    run = new_run("gone", steps=200, validate_every=2)
    stay()
    log = run.log

    def log_and_remove(kind, **values):
        log(kind, **values)
        if kind == "loss" and values["step"] == 2:
            for path in run.data.glob("*"):
                path.unlink()

    monkeypatch.setattr(run, "log", log_and_remove)
    assert carry_out("sft", run) == 2
    assert "can't be read or written" in run.lines("failed")[0]["reason"]
