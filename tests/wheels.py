"""A machine elsewhere, for the tests of our wheels: a wheel is built and installed where nothing else of ours is."""

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

from tests.conftest import ROOT


def alone(folder: Path) -> dict:
    """Of a process there: its folder, and an environment by which nothing of this checkout is on the path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("FLEET_")}
    return {"cwd": folder, "env": kept | {"XDG_CONFIG_HOME": str(folder)}}


def run(*command: object, folder: Path) -> str:
    """What it says; it must go well."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, **alone(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def machine_with(folder: Path, wheel: str, parts: tuple[str, ...], seen: tuple[str, ...]) -> tuple[Path, Path]:
    """(its Python, the wheel's file): it sees packaging/`wheel`, made of these parts of the project, and the packages
    named by `seen` alone.
    """
    for part in ("packaging", *parts):
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / part, folder / "source" / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder / "source")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist")
    run(*build, folder / "source" / "packaging" / wheel, folder=folder)
    (built,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", built, folder=folder)
    packages = folder / "seen"
    packages.mkdir()
    for name in seen:
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top != ".." and not (packages / top).exists():
                (packages / top).symlink_to(distribution(name).locate_file(top))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "seen.pth").write_text(f"{packages}\n")
    return python, built
