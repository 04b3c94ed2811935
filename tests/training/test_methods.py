"""The registry of methods: what may be in it, how it is found, and that a process without torch can read it."""

import dataclasses
import os
import subprocess
import sys
from textwrap import dedent

import pytest

from training.methods.registry import BUILT_IN, MethodError, method_of, methods, methods_that_need, register

SFT, IMPROVE, *_ = BUILT_IN


def method(kind="mine", **changes):
    recipe = dataclasses.dataclass(frozen=True)(type("Mine", (SFT.recipe,), {"KIND": kind}))
    return dataclasses.replace(SFT, recipe=recipe, **changes)


def test_what_a_method_declares_is_what_its_recipe_and_its_run_have():
    for each in BUILT_IN:
        assert methods()[each.kind] is each and set(each.main_fields) <= set(each.recipe.FIELDS)
        assert each.summary.endswith(".") and each.title and each.words
        keys = [(curve.metric, line.key) for curve in each.curves for line in curve.lines]
        assert len(set(keys)) == len(keys) > 0
    assert (SFT.practises, IMPROVE.practises) == (False, True)
    assert methods_that_need("dataset")[0] is SFT and methods_that_need("parent", "stations")[0] is IMPROVE


@pytest.mark.parametrize(
    "wrong, said",
    [
        (SFT, "one of that kind already"),
        (method("Mine!"), "small letters"),
        (method(needs=("stations",)), "a dataset or a parent at least"),
        (method(needs=("dataset", "luck")), "something of dataset, parent, stations"),
        (method(roles=("policy", "critic")), "can only be of policy, reward_model"),
        (method(main_fields=("colour",)), "colour is no setting"),
    ],
)
def test_one_that_cannot_be_is_refused_and_changes_nothing(wrong, said):
    known = dict(methods())
    with pytest.raises(MethodError, match=said):
        register(wrong)
    assert methods() == known


def test_a_run_of_a_method_that_is_gone_can_still_be_looked_at():
    gone = method_of("fly")
    assert (gone.kind, gone.words, gone.practises, gone.recipe.FIELDS, gone.curves) == ("fly", "fly", False, {}, ())
    assert "fly" not in methods()


def run_python(code, **environment):
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_one_that_lies_elsewhere_is_found_by_the_command_line_too_and_the_registry_needs_no_torch(tmp_path):
    (tmp_path / "lazy_method.py").write_text(
        dedent(
            """
            from dataclasses import dataclass
            from training.methods.registry import Method
            from training.recipes import Recipe
            from training.run_dir import RunDir

            @dataclass(frozen=True)
            class LazyRecipe(Recipe):
                KIND = "lazy"

            def run(run: RunDir):
                run.log("done", worked=0)
                return run.summary()

            METHODS = (
                Method(LazyRecipe, "lazy_method:run", "Be lazy", "laziness", "Does nothing.", ("dataset",), ()),
            )
            """
        )
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    read = "import sys, training.methods.registry as it; print(*it.methods(), 'torch' in sys.modules)"
    done = run_python(read, FLEETUI_METHODS="lazy_method", PYTHONPATH=path)
    assert done.stdout.split() == [*(each.kind for each in BUILT_IN), "lazy", "False"], done.stderr
    first = "import lazy_method\n"  # whoever reads it first
    assert run_python(first + read, FLEETUI_METHODS="lazy_method", PYTHONPATH=path).stdout == done.stdout
    command = [sys.executable, "-m", "training", "lazy", str(tmp_path)]
    environment = {**os.environ, "FLEETUI_METHODS": "lazy_method", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '{"worked": 0}\n'), done.stderr
    done = run_python(read, FLEETUI_METHODS="no_such_method")
    assert "FLEETUI_METHODS names no_such_method" in done.stderr
