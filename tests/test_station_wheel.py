"""The wheel for a robot's machine: built, installed where only its own dependencies are, and run there."""

import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What the wheel names, and what those bring along.
SEEN = ("numpy", "httpx", "websockets", "safetensors", "pillow", "httpcore", "anyio", "h11", "idna", "certifi")
NEVER = ("django", "celery", "mujoco", "torch", "fleetui", "lerobot")


def run(*command, **more):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A robot's machine: its Python, which sees the wheel and the packages of SEEN alone."""
    folder = tmp_path_factory.mktemp("station")
    for part in ("packaging", "robots", "training"):
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / part, folder / "source" / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder / "source")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    wheel = (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist")
    run(*wheel, folder / "source" / "packaging" / "station")
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


def test_its_version_is_the_projects(machine):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert machine[1].name == f"fleetui_station-{version}-py3-none-any.whl"


def test_its_program_says_what_it_does_without_torch(machine, tmp_path):
    program = machine[0].with_name("fleetui-station")
    said = run(program, "--help", cwd=tmp_path)
    assert "practise" in said and "lerobot" in said
    refused = subprocess.run([program, "lerobot"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == 'Policies need torch here: pip install "fleetui-station[policy]".\n'
    assert subprocess.run([program, "fly"], cwd=tmp_path, capture_output=True).returncode == 2


def test_all_that_a_station_without_networks_needs_is_there(machine, tmp_path):
    modules = "fleetui_station, robots.link, robots.station, robots.lerobot_robot, robots.transfers, PIL.Image"
    script = (
        f"import sys, {modules}\n"
        "from robots.embodiments import EMBODIMENTS\n"
        f"print([name for name in {NEVER!r} if name in sys.modules], sorted(EMBODIMENTS))"
    )
    said = run(machine[0], "-c", script, cwd=tmp_path)
    assert said.startswith("[] [") and "language_table" in said


def test_what_practice_imports_is_packed(machine, tmp_path):
    """With torch beside it, as on a machine where policies run; and still without a simulator."""
    torch = Path(distribution("torch").locate_file(""))
    script = (
        f"import sys; sys.path.append({str(torch)!r})\n"
        "import training.practice, training.lerobot_station\n"
        f"print([name for name in {NEVER!r} if name in sys.modules and name != 'torch'], training.__file__)"
    )
    said = run(machine[0], "-c", script, cwd=tmp_path)
    assert said.startswith("[]") and str(ROOT) not in said
