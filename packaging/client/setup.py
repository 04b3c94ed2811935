"""What the wheel fleetui-client holds: the package that lies here, under the project's version."""

import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parents[2]

setup(
    version=tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
    packages=["fleetui_client"],
    package_data={"fleetui_client": ["py.typed"]},
)
