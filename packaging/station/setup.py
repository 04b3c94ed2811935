"""What the wheel fleetui-station holds: robots/ as a whole, and of training/ what its commands import, however far."""

import ast
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMANDS = ("training.practice", "training.lerobot_station")


def file_of(module: str) -> Path | None:
    """Where a module or package of the project lies, if it is one."""
    path = ROOT.joinpath(*module.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if file.is_file()), None)


def imports(file: Path) -> set[str]:
    """What a file imports of training/, also within functions, and the packages that those lie in."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    parents = {name.rsplit(".", depth)[0] for name in found for depth in range(name.count(".") + 1)}
    return {name for name in parents if name.split(".")[0] == "training" and file_of(name)}


def needed() -> list[str]:
    """The modules of training/ that the commands need."""
    modules, new = set(), set(COMMANDS)
    while new:
        modules |= new
        new = {name for module in new if (file := file_of(module)) for name in imports(file)} - modules
    return sorted(modules - {"training"})  # the package's own file comes with them


setup(
    version=tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
    packages=find_namespace_packages(str(ROOT), include=["robots*"], exclude=["*__pycache__*"]),
    package_data={"robots.worlds": ["*.toml"]},
    py_modules=[*needed(), "fleetui_station"],
    package_dir={name: f"../../{name}" for name in ("robots", "training")},
)
