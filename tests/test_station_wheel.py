"""The wheel for a robot's machine: built, installed where only its own dependencies are, and run there."""

import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.wheels import alone, machine_with, run

# What the wheel names, and what those bring along.
SEEN = (
    "numpy",
    "httpx",
    "websockets",
    "safetensors",
    "pillow",
    "psutil",
    "httpcore",
    "anyio",
    "h11",
    "idna",
    "certifi",
)
NEVER = ("django", "celery", "mujoco", "torch", "fleetui", "lerobot")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A robot's machine: its Python, which sees the wheel and the packages of SEEN alone."""
    return machine_with(tmp_path_factory.mktemp("station"), "station", ("robots", "training"), SEEN)


def test_its_version_is_the_projects(machine):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert machine[1].name == f"fleetui_station-{version}-py3-none-any.whl"


def test_its_program_says_what_it_does_without_torch(machine, tmp_path):
    program = machine[0].with_name("fleetui-station")
    said = run(program, "--help", folder=tmp_path)
    assert "practise" in said and "lerobot" in said
    refused = subprocess.run([program, "lerobot"], capture_output=True, text=True, **alone(tmp_path))
    assert refused.returncode == 2
    assert refused.stderr == 'Policies need torch here: pip install "fleetui-station[policy]".\n'
    assert subprocess.run([program, "fly"], capture_output=True, **alone(tmp_path)).returncode == 2


def test_all_that_a_station_without_networks_needs_is_there(machine, tmp_path):
    modules = "fleetui_station, robots.link, robots.station, robots.lerobot_robot, robots.transfers, PIL.Image"
    script = (
        f"import sys, {modules}\n"
        "from robots.embodiments import EMBODIMENTS\n"
        f"print([name for name in {NEVER!r} if name in sys.modules], sorted(EMBODIMENTS))"
    )
    said = run(machine[0], "-c", script, folder=tmp_path)
    assert said.startswith("[] [") and "language_table" in said


def test_what_practice_imports_is_packed(machine, tmp_path):
    """With torch beside it, as on a machine where policies run; and still without a simulator."""
    torch = Path(distribution("torch").locate_file(""))
    script = (
        f"import sys; sys.path.append({str(torch)!r})\n"
        "import training.practice, training.lerobot_station\n"
        f"print([name for name in {NEVER!r} if name in sys.modules and name != 'torch'], training.__file__)"
    )
    said = run(machine[0], "-c", script, folder=tmp_path)
    assert said.startswith("[]") and str(ROOT) not in said
