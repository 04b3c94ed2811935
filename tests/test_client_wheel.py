"""The wheel for programs: built, installed where only its own dependencies are, and run there."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution

import pytest

from tests.conftest import ROOT

# What the wheel names, and what those bring along.
SEEN = ("httpx", "httpcore", "anyio", "h11", "idna", "certifi", "typing_extensions")
SEEN += ("typer", "rich", "shellingham", "annotated-doc", "markdown-it-py", "mdurl", "Pygments")
SEEN += ("pydantic", "pydantic_core", "annotated-types", "typing-inspection")  # typer's
NEVER = ("django", "torch", "numpy", "fleetui", "robots", "training")


def run(*command, **more):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine elsewhere: its Python, which sees the wheel and the packages of SEEN alone."""
    folder = tmp_path_factory.mktemp("client")
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT / "packaging", folder / "source" / "packaging", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder / "source")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    wheel = (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist")
    run(*wheel, folder / "source" / "packaging" / "client")
    (built,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", built)
    seen = folder / "seen"
    seen.mkdir()
    for name in SEEN:
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top != ".." and not (seen / top).exists():
                (seen / top).symlink_to(distribution(name).locate_file(top))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "seen.pth").write_text(f"{seen}\n")
    return python, built


def alone(folder):
    """Nothing of this checkout is on the path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("FLEET_")}
    return {"cwd": folder, "env": kept | {"XDG_CONFIG_HOME": str(folder)}}


def test_its_version_is_the_projects(machine):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert machine[1].name == f"fleetui_client-{version}-py3-none-any.whl"


def test_its_command_runs_without_the_project(machine, tmp_path):
    program = machine[0].with_name("fleet")
    assert "checkpoints" in run(program, "--help", **alone(tmp_path))
    refused = subprocess.run([program, "runs", "list"], capture_output=True, text=True, **alone(tmp_path))
    assert refused.returncode == 4 and "fleet login" in refused.stderr
    (tmp_path / "a").write_text("")
    refused = subprocess.run(
        [program, *["datasets", "convert", "a", "b"]], capture_output=True, text=True, **alone(tmp_path)
    )
    assert refused.returncode == 1 and "robots.lerobot is not installed here" in refused.stderr


def test_it_brings_nothing_of_the_server(machine, tmp_path):
    script = (
        "import sys, fleetui_client, fleetui_client.commands\n"
        f"print([name for name in {NEVER!r} if name in sys.modules], fleetui_client.Fleet.__name__)"
    )
    assert run(machine[0], "-c", script, **alone(tmp_path)) == "[] Fleet\n"
