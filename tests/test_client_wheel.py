"""The wheel for programs: built, installed where only its own dependencies are, and run there."""

import subprocess
import tomllib

import pytest

from tests.conftest import ROOT
from tests.wheels import alone, machine_with, run

# What the wheel names, and what those bring along.
SEEN = ("httpx", "httpcore", "anyio", "h11", "idna", "certifi", "typing_extensions")
SEEN += ("typer", "rich", "shellingham", "annotated-doc", "markdown-it-py", "mdurl", "Pygments")
SEEN += ("pydantic", "pydantic_core", "annotated-types", "typing-inspection")  # typer's
NEVER = ("django", "torch", "numpy", "fleetui", "robots", "training")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine elsewhere: its Python, which sees the wheel and the packages of SEEN alone."""
    return machine_with(tmp_path_factory.mktemp("client"), "client", (), SEEN)


def test_its_version_is_the_projects(machine):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert machine[1].name == f"fleetui_client-{version}-py3-none-any.whl"


def test_its_command_runs_without_the_project(machine, tmp_path):
    program = machine[0].with_name("fleet")
    assert "checkpoints" in run(program, "--help", folder=tmp_path)
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
    assert run(machine[0], "-c", script, folder=tmp_path) == "[] Fleet\n"
