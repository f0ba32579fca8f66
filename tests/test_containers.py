"""The container files, as far as that can be told without an engine: whom they run as, and what they name."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from ingestd.config import load

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"


def test_the_image_is_made_of_what_is_here_and_runs_as_nobody_special() -> None:
    text = re.sub(r"\\\n\s*", "", (PACKAGING / "Containerfile").read_text())
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    copied = [name for word, rest in lines if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
    for name in copied:
        assert (ROOT / name).exists(), name
    # The wheel is built of these alone.
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in (*wheel["packages"], *wheel["force-include"]):
        assert any(needed == name or needed.startswith(f"{name}/") for name in copied), needed
    assert [rest for word, rest in lines if word == "USER"] == ["970:970"]
    (check,) = (rest for word, rest in lines if word == "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    ast.parse(command[2])  # the program that looks whether it is ready
    assert "pip install" in text
    assert "@" not in text


def test_the_composition_is_held_tight_and_its_settings_are_known(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    services = yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"]
    ours = services["ingestd"]
    assert (ours["read_only"], ours["cap_drop"], ours["user"]) == (True, ["ALL"], "970:970")
    assert all("healthcheck" in service or "build" in service for service in services.values())
    assert (PACKAGING / ours["build"]["context"] / ours["build"]["dockerfile"]).exists()
    config = load(None, {**ours["environment"], "HOME": str(tmp_path)})
    assert config.index.sink == "elasticsearch"
    from ingestd_plugins.elasticsearch_settings import Settings

    Settings(**config.index.sinks["elasticsearch"])
