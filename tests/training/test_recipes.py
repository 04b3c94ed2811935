import subprocess
import sys

import pytest

from training.methods.registry import recipe_from_json
from training.recipes import ImproveRecipe, RecipeError, SFTRecipe
from training.run_dir import RunDir, RunError


def test_a_recipe_survives_json():
    recipe = ImproveRecipe(seed=3, batch=32)
    assert recipe_from_json(recipe.to_json()) == recipe
    assert recipe.steps_per_round == 3 * 32


def test_what_a_form_sends_as_text_becomes_numbers():
    recipe = SFTRecipe.from_json({"seed": "7", "learning_rate": "1e-4"})
    assert (recipe.seed, recipe.learning_rate) == (7, 1e-4)


def test_each_bad_field_gets_a_sentence():
    with pytest.raises(RecipeError) as error:
        SFTRecipe.from_json(
            {"seed": "x", "steps": 0, "batch": 2.5, "bin_width": "nan", "hidden": 10**9, "colour": 1, "threads": True}
        )
    problems = error.value.problems
    assert set(problems) == {"seed", "steps", "batch", "bin_width", "hidden", "colour", "threads"}
    assert problems["steps"] == "steps is 0; it must be at least 1."
    assert problems["colour"] == "colour is no setting of a sft recipe; remove it."


@pytest.mark.parametrize("data", [{}, {"kind": "fly"}, [], None])
def test_a_recipe_without_a_known_kind_is_refused(data):
    with pytest.raises(RecipeError):
        recipe_from_json(data)


def test_every_setting_can_be_explained_in_a_form():
    for recipe in (SFTRecipe, ImproveRecipe):
        for field in recipe.FIELDS.values():
            assert field.label and field.help.endswith(".")
            assert field.type is str or field.minimum <= field.default <= field.maximum


def test_neither_recipes_nor_run_directories_need_torch():
    code = "import sys, training.recipes, training.run_dir; sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_learner_clears_what_a_killed_one_was_writing(tmp_path):
    run = RunDir.create(tmp_path, SFTRecipe())
    kept = [run.checkpoints / "policy.safetensors", tmp_path / "state.safetensors"]
    for path in kept:
        path.write_bytes(b"whole")
        path.with_name(f".{path.name}.0a1b2c3d.tmp").write_bytes(b"ha")
    run.clear_leftovers()
    assert list(tmp_path.rglob("*.tmp")) == [] and all(path.exists() for path in kept)


def test_metrics_are_read_on_from_an_offset_and_a_torn_line_is_left_out(tmp_path):
    run = RunDir(tmp_path)
    run.log("loss", step=1, bc=float("nan"))
    lines, offset = run.read_metrics()
    assert [(line["kind"], line["bc"]) for line in lines] == [("loss", None)]
    with open(run.metrics, "a") as file:
        file.write('{"t": 1, "kind": "lo')
    assert run.read_metrics(offset) == ([], offset)
    # The next process ends the torn line first, so that its own first line is whole.
    RunDir(tmp_path).log("note", text="again", level="info")
    assert [line["kind"] for line in run.read_metrics(offset)[0]] == ["note"]


def test_a_run_directory_without_a_usable_recipe_says_so(tmp_path):
    with pytest.raises(RunError, match=r"no recipe.json"):
        RunDir(tmp_path).recipe(SFTRecipe)
    run = RunDir.create(tmp_path, SFTRecipe())
    with pytest.raises(RunError, match="kind 'sft'"):
        run.recipe(ImproveRecipe)
    (tmp_path / "recipe.json").write_text('{"kind": "sft", "steps": -1}')
    with pytest.raises(RunError, match="steps is -1"):
        run.recipe(SFTRecipe)
