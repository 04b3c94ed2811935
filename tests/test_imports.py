"""The rooms stay apart: the rules of who may import whom, and what the web process must never load."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_import_rules_hold():
    """The contracts are in pyproject.toml."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 6 kept, 0 broken" in done.stdout, done.stdout


def test_no_import_is_hidden_from_the_rules():
    """Models are imported, not asked for by name."""
    hidden = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "fleetui").rglob("*.py"))
        if "get_model(" in path.read_text() and path.parent.name != "migrations"
    ]
    assert not hidden


def test_web_process_loads_neither_torch_nor_mujoco():
    script = "import sys, fleetui.asgi; print([name for name in ('torch', 'mujoco') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
