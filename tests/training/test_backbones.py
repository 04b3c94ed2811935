"""Pretrained models in a network: read from a local folder, trained as the recipe says, named by checkpoints."""

import json
import shutil
import uuid

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from robots.embodiments import STATE, Embodiment, picture, vector
from robots.episodes import Episode, write_episodes
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.training import tiny_models
from tests.training.conftest import SMALL_IMPROVE, SMALL_SFT
from training import computing, practice
from training.__main__ import carry_out
from training.checkpoints import CheckpointError, Policy, RewardModel, load_checkpoint
from training.datasets import demonstrations_of
from training.local_practice import LocalStations
from training.methods.self_improvement import improve
from training.methods.sft import Losses, new_network, perceive_all, sft
from training.model_folders import describe
from training.networks.backbones import PictureEncoder, Pretrained, Scaling, TextEncoder
from training.networks.vision import PretrainedVisionFeatures
from training.networks.vision_language import JointFeatures
from training.networks.words import PretrainedGrounding
from training.recipes import ImproveRecipe, RecipeError, SFTRecipe
from training.run_dir import RunDir, RunError
from training.vocabulary import Vocabulary

FRONT = "observation.images.front"
BODY = Embodiment(
    name="looker",
    fps=5.0,
    observation={STATE: vector(("passed",), (0.0,), (8.0,)), FRONT: picture(16, 16)},
    action=vector(("x", "y"), (-1.0, -1.0), (1.0, 1.0)),
)
BLIND = Embodiment(name="reader", fps=5.0, observation={STATE: BODY.observation[STATE]}, action=BODY.action)
STEPS = 6
FEW = {"steps": 12, "validate_every": 6, "batch": 16, "hidden": 16, "evaluation_episodes": 0, "largest_threshold": 0.0}
SIZES = {"hidden": 16, "layers": 1, "action_bins": 7, "bins": 10}


def looking(count, seed=0, body=BODY):
    """Episodes of a body that goes along x to the bright side, and along y as the instruction says."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        side, flees = rng.integers(2), number % 2
        seen = np.full((STEPS + 1, 16, 16, 3), rng.integers(0, 60), np.uint8)
        seen[:, 4:12, 9 * side : 9 * side + 7] = 220
        observations = {STATE: np.arange(STEPS + 1, dtype=np.float32)[:, None], FRONT: seen}
        found.append(
            Episode(
                uuid=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
                embodiment=body.name,
                task="looking",
                instruction="flee from the red box" if flees else "go to the red box",
                observations={key: each for key, each in observations.items() if key in body.observation},
                actions=np.tile(np.float32([0.9 if side else -0.9, -0.9 if flees else 0.9]), (STEPS, 1)),
                actors=np.full(STEPS, 1, np.uint8),
                steps_to_go=np.full(STEPS + 1, np.nan, np.float32),
                ending="operator",
                detected_success=False,
                true_success=None,
                purpose="demonstration",
                body=body,
            )
        )
    return found


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("folders")
    return {name: getattr(tiny_models, name)(path / name) for name in ("bert", "siglip", "smolvlm", "paligemma")}


# Which models stand for what of which body
KINDS = {
    "words": (BLIND, {"text_encoder": "bert"}),
    "pictures": (BODY, {"vision_encoder": "siglip"}),
    "a pair": (BODY, {"vision_encoder": "siglip", "text_encoder": "siglip"}),
    "smolvlm": (BODY, {"vision_language": "smolvlm"}),
    "paligemma": (BODY, {"vision_language": "paligemma"}),
}


@pytest.fixture
def new_run(tmp_path, folders):
    """Makes SFT runs of a body that looks, or reads alone."""

    def make(kind, name="sft", episodes=6, **settings):
        body, models = KINDS[kind]
        named = {setting: str(folders[model]) for setting, model in models.items()}
        run = RunDir.create(tmp_path / name, SFTRecipe(**FEW | {"seed": 7} | named | settings))
        write_episodes(run.data / "demonstrations.safetensors", looking(episodes, body=body))
        return run

    return make


def content(run, role="policy"):
    with safe_open(run.checkpoints / f"{role}.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, no dict)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_what_was_trained_and_names_the_model_by_its_sum(new_run, folders, kind):
    held = {}
    for trained in ("heads", "lora", "all"):
        run = new_run(kind, trained, trained=trained)
        sft(run)
        held[trained] = content(run)
        network, metadata = load_checkpoint(run.checkpoints / "policy.safetensors")
        assert metadata.pretrained["models"] == {
            setting.removesuffix("_encoder"): describe(folders[model]).sha256
            for setting, model in KINDS[kind][1].items()
        }
        assert_same(held[trained], network.state_dict())
        act(run, KINDS[kind][0])
    adapters = held["lora"].keys() - held["heads"].keys()
    assert adapters and all("lora_" in name for name in adapters)
    assert any(held["lora"][name].abs().max() > 0 for name in adapters if "lora_B" in name), "they learn"
    assert not any("lora_" in name or ".whole." in name for name in held["heads"])
    whole = {name for name in held["all"] if ".whole." in name}
    assert whole and not whole & (held["heads"].keys() | held["lora"].keys())


def act(run, body):
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    (episode,) = looking(1, seed=3, body=body)
    seen = {key: each[:3] for key, each in episode.observations.items()}
    actions = policy.act(
        seen, ["go to the box", "flee", "words that nobody has said"], torch.Generator().manual_seed(0)
    )
    assert actions.shape == (3, 1, 2) and np.isfinite(actions).all()
    return actions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained", ["heads", "lora"])
def test_the_same_seed_gives_the_same_bits_also_after_a_stop(new_run, kind, trained):
    straight, again, stopped = (new_run(kind, name, trained=trained) for name in ("straight", "again", "stopped"))
    sft(straight)
    sft(again)
    stopped.cancelled = True  # at its first update
    assert sft(stopped) == {}
    stopped.cancelled = False
    sft(stopped)
    for other in (again, stopped):
        for role in ("policy", "reward_model"):
            assert_same(content(straight, role), content(other, role))


@pytest.mark.parametrize("trained", ["heads", "lora"])
def test_a_model_that_stays_as_it_is_lies_in_memory_once(new_run, trained):
    run = new_run("pictures", trained=trained)
    sft(run)
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    judge = RewardModel.load(run.checkpoints / "reward_model.safetensors")
    same = policy.network.perception.encoder.model is judge.network.perception.encoder.model
    assert same == (trained == "heads")


@pytest.mark.parametrize("kind", ["pictures", "smolvlm"])
def test_what_the_model_sees_is_learned_from(new_run, kind):
    """New pictures and sentences: nearly all are acted on rightly; by guessing half would be."""
    run = new_run(kind, episodes=60, steps=200, batch=64, hidden=32, trained="lora", pretrained_rate=1.0, passes=1000)
    sft(run)
    losses = [line["bc"] for line in run.lines("loss")]
    assert losses[-1] < 0.5 * losses[0]
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    right = []
    for episode in looking(40, seed=9):
        seen = {key: each[:1] for key, each in episode.observations.items()}
        right.append(policy.act(seen, [episode.instruction], greedy=True)[0, 0] * episode.actions[0] > 0)
    assert np.mean(right, axis=0).min() > 0.85


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (None, (1 - 0.485) / 0.229),
        ({"image_mean": [0.5, 0, 0], "image_std": [0.25, 1, 1]}, 2.0),
        ({"image_mean": [0.5, 0, 0], "image_std": [0.25, 1, 1], "do_normalize": False}, 1.0),
    ],
)
def test_pictures_are_scaled_as_the_folder_says(tmp_path, told, wanted):
    if told is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    white = torch.full((1, 2, 3, 3), 255, dtype=torch.uint8)
    seen = Scaling(tmp_path)(white, (4, 6))
    assert seen.shape == (1, 3, 4, 6) and torch.allclose(seen[0, 0], torch.tensor(wanted))


def test_a_dinov2_sees_a_picture_in_its_own_shape(tmp_path):
    """Of as few patches as tell places apart, and not the 5 x 5 that it was trained on."""
    encoder = PictureEncoder(Pretrained({"vision": describe(tiny_models.dinov2(tmp_path / "model"))}), 12, 24)
    assert encoder.size == (32, 64) and encoder.cells == (8, 16)
    pictures = torch.randint(256, (3, 12, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        tokens = encoder.model(pixel_values=encoder.scaling(pictures, (32, 64))).last_hidden_state[:, 1:]
        seen = encoder(pictures)
    assert torch.equal(seen[:, :, 3, 11], tokens[:, 3 * 16 + 11])


def test_a_frozen_map_moves_as_its_picture_would(folders):
    """By half a cell at most, on a map that rises by 1 a cell; the vectors stay."""
    encoder = PictureEncoder(Pretrained({"vision": describe(folders["siglip"])}), 16, 16)
    features = PretrainedVisionFeatures([1], 2, 3, encoder)
    height, width = encoder.cells
    ramp = torch.arange(width).expand(50, 2, encoder.channels, height, width).float()
    perceived = torch.cat([torch.full((50, 1), 7.0), ramp.flatten(1)], 1)
    moved = features.moved(perceived, torch.Generator().manual_seed(0))
    assert (moved[:, 0] == 7).all() and moved.shape == perceived.shape
    inner = (moved - perceived)[:, 1:].unflatten(1, (2, encoder.channels, height, width))[..., 1:-1]
    assert 0.3 < inner.abs().max() <= 0.5 + 1e-5
    torch.testing.assert_close(inner, inner[:, :, :1, :1, :1].expand_as(inner), atol=1e-4, rtol=0)
    assert len(inner[:, :, 0, 0, 0].unique()) == 100, "each by its own"


def test_gradient_checkpointing_changes_nothing_but_memory(new_run, monkeypatch):
    runs = [new_run("smolvlm", f"run-{flag}", trained="lora", checkpointing=flag) for flag in (0, 1)]
    again = []
    monkeypatch.setattr(
        "training.networks.backbones.checkpoint",
        lambda *arguments, **options: again.append(1) or torch.utils.checkpoint.checkpoint(*arguments, **options),
    )
    for run in runs:
        sft(run)
    assert again
    for name, tensor in content(runs[0]).items():
        torch.testing.assert_close(tensor, content(runs[1])[name])


@pytest.fixture
def as_before(monkeypatch):
    """What a run sets for its process is over with the test."""
    monkeypatch.setattr(computing, "_NOW", computing.now())


def test_a_vision_language_model_that_stays_as_it_is_reads_each_frame_once(new_run, monkeypatch):
    """In training; it sees nothing then that it had not read before. (Then the detector looks at all frames again.)"""
    rows, read = [], JointFeatures.read

    def counted(features, perceived, goal):
        rows.append(len(perceived))
        return read(features, perceived, goal)

    monkeypatch.setattr(JointFeatures, "read", counted)
    sft(new_run("smolvlm", steps=30, validate_every=10))
    assert sum(rows) == 2 * 6 * (STEPS + 1)


def test_what_was_read_once_is_what_would_be_read_anew(new_run):
    run = new_run("paligemma")
    recipe, demonstrations = run.recipe(SFTRecipe), demonstrations_of(looking(4))
    network = new_network(run, recipe, demonstrations, Vocabulary.of(demonstrations.instructions, BODY))
    perceived, words = torch.cat([*perceive_all(network, demonstrations)]), network.encode(demonstrations.instructions)
    losses = Losses(network, demonstrations, perceived, words, recipe, torch.Generator())
    frames = torch.tensor([0, 9, 20, 27])
    hidden, _ = losses._seen(frames, from_any_side=True)
    anew = network.hidden(perceived[frames], network.goal(words[demonstrations.instruction[frames]]))
    torch.testing.assert_close(hidden, anew)


@pytest.mark.parametrize("kind", ["a pair", "paligemma"])
def test_models_compute_in_bfloat16_where_that_is_asked_for(new_run, as_before, kind):
    made = {}
    for precision in ("fp32", "bf16"):
        run = new_run(kind, precision, trained="lora", precision=precision)
        sft(run)
        made[precision] = content(run)
        assert all(each.dtype != torch.bfloat16 for each in made[precision].values())
    far = [float((made["fp32"][name] - each).abs().max()) for name, each in made["bf16"].items()]
    assert 0 < max(far) < 0.5, "nearly the same"


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has one")
def test_a_device_that_is_not_there_is_said_before_anything_starts(new_run, tmp_path, capsys, as_before):
    run = new_run("words", device="cuda")
    assert carry_out("sft", run) == 2
    sentence = "torch finds no cuda device on this machine; set the device to one of: cpu."
    assert run.lines("failed")[0]["reason"] == sentence
    assert practice.main(["--server", "http://x", "--tokens", str(tmp_path / "t"), "--device", "cuda"]) == 2


# On a table: the words' part is grounded by itself


@pytest.fixture
def table_run(tmp_path, folders, demonstrations):
    def make(name="table", **settings):
        run = RunDir.create(tmp_path / name, SFTRecipe(**SMALL_SFT | {"text_encoder": str(folders["bert"])} | settings))
        write_episodes(run.data / "demonstrations.safetensors", demonstrations)
        return run

    return make


@pytest.mark.parametrize("trained", ["heads", "lora"])
def test_words_on_a_table_are_grounded_through_a_text_encoder_and_practice_goes_on_from_there(
    table_run, tmp_path, trained
):
    first = table_run(trained=trained, evaluation_episodes=0)
    sft(first)
    second = RunDir.create(tmp_path / "improve", ImproveRecipe(**SMALL_IMPROVE | {"max_episodes": 4}))
    for role in ("policy", "reward_model"):
        (second.start / f"{role}.safetensors").symlink_to(first.checkpoints / f"{role}.safetensors")
    second.models.symlink_to(first.models)
    stations = LocalStations(["block2block"], 2, seed=1, time_limit=12)
    try:
        assert improve(second, stations)["version"] >= 1
    finally:
        stations.close()
    newest, metadata = load_checkpoint(max(second.checkpoints.glob("policy-*")))
    begun, before = load_checkpoint(first.checkpoints / "policy.safetensors")
    assert metadata.pretrained == before.pretrained != {}
    was, now = begun.state_dict(), newest.state_dict()
    assert_same(*({name: each for name, each in part.items() if name.startswith("words.")} for part in (was, now)))
    assert any((now[name] - was[name]).abs().max() > 0 for name in now if name.startswith("trunk."))


def test_a_killed_grounding_goes_on_bit_by_bit(table_run, monkeypatch):
    straight, killed = table_run("straight", trained="lora"), table_run("killed", trained="lora")
    sft(straight)
    descend, left = sft.__globals__["descend"], [10]

    def break_off(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            killed.cancelled = True
        return descend(*arguments, **options)

    monkeypatch.setitem(sft.__globals__, "descend", break_off)
    assert sft(killed) == {}
    assert not (killed.path / "state.safetensors").exists(), "it was grounding"
    killed.cancelled = False
    sft(killed)
    assert_same(content(straight), content(killed))


def test_a_name_that_was_never_said_is_found_where_the_encoder_knows_it(folders):
    """An encoder that takes crimson for red, whatever is learned: then a crimson block is the red one."""
    encoder = TextEncoder(Pretrained({"text": describe(folders["bert"])}))
    words = encoder.model.embeddings.word_embeddings.weight.data
    numbers = encoder.tokens(["red crimson"])[0]
    words[numbers[1]] = words[numbers[0]]
    grounding = PretrainedGrounding(Vocabulary.of(["push the cube to it"], LANGUAGE_TABLE), LANGUAGE_TABLE, encoder)
    one, other = (grounding(grounding.encode([f"push the {word} moon"])) for word in ("red", "crimson"))
    torch.testing.assert_close(one, other)
    nn.init.zeros_(grounding.attention.weight)  # each word counts
    names = [kind.name for kind in LANGUAGE_TABLE.objects]
    said = [name.replace("red", "crimson") for name in names]
    assert grounding(grounding.encode(said))[:, : len(names)].argmax(1).tolist() == list(range(len(names)))


# Refusals, before anything starts


def test_a_checkpoint_whose_model_is_missing_says_so(new_run, tmp_path):
    run = new_run("words")
    sft(run)
    sha256 = load_checkpoint(run.checkpoints / "policy.safetensors")[1].pretrained["models"]["text"]
    station = tmp_path / "station" / "checkpoints"
    station.mkdir(parents=True)
    shutil.copy(run.checkpoints / "policy.safetensors", station / "p.safetensors")
    with pytest.raises(CheckpointError) as missing:
        Policy.load(station / "p.safetensors")
    assert str(missing.value).startswith(
        f"The policy of version 0 can't be used: The pretrained model {sha256} is missing;"
    )
    shutil.copytree(run.models, station.parent / "models", symlinks=True)
    Policy.load(station / "p.safetensors")


def test_the_stores_that_the_environment_names_are_looked_in(new_run, tmp_path, monkeypatch):
    run = new_run("words")
    sft(run)
    alone = tmp_path / "elsewhere.safetensors"
    shutil.copy(run.checkpoints / "reward_model.safetensors", alone)
    monkeypatch.setenv("FLEETUI_MODELS", str(run.models))
    RewardModel.load(alone)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("words", {"text_encoder": "0" * 64}, f"The pretrained model {'0' * 64} is missing"),
        ("words", {"text_encoder": "/nowhere"}, "There is no folder /nowhere"),
        ("words", {"vision_encoder": "siglip", "text_encoder": ""}, "reader has no camera of its own for siglip"),
        ("pictures", {"vision_encoder": "bert"}, r"bert is a text model \(BertModel\) and no vision model"),
    ],
)
def test_a_run_says_what_is_wrong_with_its_models(new_run, folders, kind, settings, sentence):
    run = new_run(kind, **{name: str(folders.get(value, value)) for name, value in settings.items()})
    with pytest.raises(RunError, match=sentence):
        sft(run)


def test_a_folder_that_lacks_tensors_or_a_tokenizer_is_refused(new_run, folders, tmp_path):
    for name, spoil in (("short", "model.safetensors"), ("mute", "tokenizer.json")):
        folder = tmp_path / name
        shutil.copytree(folders["bert"], folder)
        if name == "short":
            weights = load_file(folder / spoil)
            weights.pop("embeddings.word_embeddings.weight")
            save_file(weights, folder / spoil)
        else:
            (folder / spoil).unlink()
        run = new_run("words", f"run-{name}", text_encoder=str(folder))
        wanted = "short lacks 1 of its tensors" if name == "short" else "can't read the tokenizer of mute"
        with pytest.raises(RunError, match=wanted):
            sft(run)


def test_recipes_refuse_what_does_not_go_together():
    with pytest.raises(RecipeError, match="trained is 'some'; write one of heads, lora, all"):
        SFTRecipe(trained="some")
    with pytest.raises(RecipeError, match="precision is 'fp8'; write one of fp32, bf16"):
        SFTRecipe(precision="fp8")
    with pytest.raises(RecipeError, match="device is 'gpu'; write one of cpu, cuda, mps"):
        ImproveRecipe(device="gpu")
    with pytest.raises(RecipeError, match="takes the place of both encoders"):
        SFTRecipe(vision_language="a", text_encoder="b")


def test_a_model_stays_in_evaluation_mode_and_moves_with_its_network(folders):
    encoder = TextEncoder(Pretrained({"text": describe(folders["bert"])}))
    encoder.train()
    assert not any(each.training for each in encoder.model.modules())
    assert not list(encoder.parameters()) and isinstance(encoder.model, nn.Module)
    encoder.double()
    assert encoder.model.embeddings.word_embeddings.weight.dtype == torch.float64
