"""Finds lines of more than 120 characters where no linter counts them: in templates, scripts, styles and documents.

Rows of Markdown's tables can't be broken, so they may be longer.
"""

import subprocess
import sys
from pathlib import Path

MOST = 120
SUFFIXES = (".css", ".html", ".js", ".md", ".toml", ".yaml")


def main() -> int:
    """Name each such line; the process's exit code."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    files = [name for name in listed if name.endswith(SUFFIXES) and "/vendor/" not in name]
    found = [
        f"{name}:{number}: {len(line)} characters"
        for name in files
        for number, line in enumerate(Path(name).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MOST and not line.startswith("|")
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
