"""What a loader needs and is not installed: its files fail with what to type, and are loaded once it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages import install_offline
from tests.processes.daemons import write_config

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "acme-ink"
version = "1.0"

[project.entry-points.ingestd]
ink = "acme_ink"

[tool.hatch.build.targets.wheel]
only-include = ["acme_ink.py"]
"""
PLUGIN = """
from ingestd.hookspecs import hookimpl
from ingestd.types import Element


class InkLoader:
    name = "ink"
    version = "1"
    suffixes = (".ink",)
    media_types = ()
    requires = ("acme_pen",)
    install = "acme-pen: pip install acme-pen"
    workers = 1

    def load(self, file):
        import acme_pen

        yield Element(acme_pen.read(file.path))


@hookimpl
def register_loaders():
    return [InkLoader()]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the loader is installed, and what it needs is not."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "acme_ink.py").write_text(PLUGIN)
    site = tmp_path / "site"
    monkeypatch.setenv("PYTHONPATH", install_offline(project, site))
    return site


def ingestd(config: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ingestd", "--config", *map(str, (config, *arguments))]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)


def test_a_file_fails_until_what_its_loader_needs_is_installed(tmp_path: Path, site: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "letter.ink").write_text("The otter signs at noon.")
    config = write_config(tmp_path / "state", None)
    done = ingestd(config, "ingest", "--json", folder)
    summary = json.loads(done.stdout)
    reason = "needs acme-pen: pip install acme-pen"
    assert (done.returncode, summary["failed"]) == (1, 1)
    why = json.loads(ingestd(config, "why", "--json", folder / "letter.ink").stdout)
    assert (why["state"], why["reason"], why["retry_at"]) == ("failed", reason, None)
    assert reason in ingestd(config, "plugins").stdout
    assert f"{reason}" in ingestd(config, "try", folder / "letter.ink").stdout
    (site / "acme_pen.py").write_text("def read(path):\n    return path.read_text()\n")
    assert json.loads(ingestd(config, "ingest", "--json", folder).stdout)["indexed"] == 1
    (hit,) = json.loads(ingestd(config, "search", "--json", "otter noon").stdout)
    assert hit["path"] == str(folder / "letter.ink")
