"""Finds what is too long to read: lines of more than 120 characters where no linter counts them (templates, scripts,
styles and documents), functions of more than 80 lines and classes of more than 350.

Rows of Markdown's tables can't be broken, so they may be longer. Tests, migrations and what is generated are left out.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CHARACTERS, FUNCTION, CLASS = 120, 80, 350
SUFFIXES = (".css", ".html", ".js", ".md", ".toml", ".yaml")
LEFT_OUT = (
    "tests/",
    "packaging/client/fleetui_client/synchronous.py",
    "packaging/client/fleetui_client/asynchronous.py",
)


def long_lines(name: str) -> Iterator[str]:
    """A sentence for each."""
    for number, line in enumerate(Path(name).read_text(encoding="utf-8").splitlines(), 1):
        if len(line) > CHARACTERS and not line.startswith("|"):
            yield f"{name}:{number}: {len(line)} characters"


def long_blocks(name: str) -> Iterator[str]:
    """A sentence for each function and class."""
    for each in ast.walk(ast.parse(Path(name).read_text(encoding="utf-8"))):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            lines = (each.end_lineno or each.lineno) - each.lineno + 1
            most = CLASS if isinstance(each, ast.ClassDef) else FUNCTION
            if lines > most:
                yield f"{name}:{each.lineno}: {each.name} has {lines} lines; {most} can be read at once. Divide it."


def main() -> int:
    """Name each; the process's exit code."""
    names = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    found = [line for name in names if name.endswith(SUFFIXES) and "/vendor/" not in name for line in long_lines(name)]
    code = [name for name in names if name.endswith(".py") and "/migrations/" not in name]
    found += [line for name in code if not name.startswith(LEFT_OUT) for line in long_blocks(name)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
