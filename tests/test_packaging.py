"""What packages and images are made of, as far as that can be seen without building one; tests/systemd builds them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ingestd
from ingestd.cli.group import cli
from ingestd.config import load
from tests.processes.daemons import environment, running, write_config

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"


@pytest.fixture(autouse=True)
def _packaging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGING))


# --- locks ----------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, list[str]]:
    import deb_lock

    return deb_lock.entries(PACKAGING / "debian" / name)


@pytest.mark.parametrize("name", ["runtime.lock", "tools.lock"])
def test_a_lock_names_versions_and_hashes_and_no_place_that_they_come_from(name: str) -> None:
    text = (PACKAGING / "debian" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-{1,2}(index|extra|find|trusted)", text, re.MULTILINE)
    for blocks in locked(name).values():
        for block in blocks:
            assert re.match(r"[a-z0-9.-]+==[0-9][\w.+]*( ; .+)? \\\n", block), block
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
            assert "@" not in block


def test_the_lock_of_the_runtime_has_what_the_project_needs() -> None:
    import deb_lock

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(line for extra in deb_lock.EXTRAS
                                          for line in project["optional-dependencies"][extra])]  # fmt: skip
    found = locked("runtime.lock")
    for line in needed:
        wanted = Requirement(line)
        versions = [block.split(" ")[0].split("==")[1] for block in found.get(canonicalize_name(wanted.name), [])]
        assert versions, f"{line}: type python3 packaging/deb.py lock"
        assert all(wanted.specifier.contains(Version(version)) for version in versions), (line, versions)


def test_the_lock_of_the_tools_builds_the_project() -> None:
    (wanted,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    version = locked("tools.lock")["hatchling"][0].split(" ")[0].split("==")[1]
    assert Requirement(wanted).specifier.contains(Version(version))


# --- the package ----------------------------------------------------------------------------------------------


def test_the_manual_page_has_every_command() -> None:
    from deb_manual import manual

    page = manual((ROOT / "docs" / "commands.md").read_text(), ingestd.__version__)
    assert re.findall(r"^\.SS (.+)$", page, re.MULTILINE) == [name.replace("-", "\\-") for name in cli.commands]
    assert "`" not in page
    assert "](" not in page
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww"], input=page, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""


@pytest.mark.parametrize("script", sorted((PACKAGING / "debian").glob("ingestd.*")), ids=lambda path: path.name)
def test_a_maintainer_script_is_a_script_of_a_plain_shell(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\nset -e\n")
    subprocess.run(["sh", "-n", str(script)], check=True)


# --- the image ------------------------------------------------------------------------------------------------

CONTAINERFILE = (PACKAGING / "Containerfile").read_text().replace("\\\n", " ")
COMPOSITION: dict[str, Any] = yaml.safe_load((PACKAGING / "compose.yaml").read_text())


def copied() -> list[tuple[str, str]]:
    """What the image takes of the source, and where to."""
    found = []
    for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE, re.MULTILINE):
        *sources, target = line.split()
        found += [(source, target) for source in sources]
    return found


def health() -> list[str]:
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.+\])$", CONTAINERFILE, re.MULTILINE)
    found: list[str] = json.loads(command)
    return found


def test_the_image_holds_what_a_wheel_is_made_of(tmp_path: Path) -> None:
    ignored = (PACKAGING / "Containerfile.dockerignore").read_text().splitlines()
    for source, target in copied():
        assert f"!{source}" in ignored
        place = tmp_path / target / (source if target == "./" else "")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert "ingestd/systemd/ingestd.service" in zipfile.ZipFile(wheel).namelist()


def test_the_image_ends_with_the_opencv_that_the_project_names() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["ocr"]
    assert re.findall(r"--force-reinstall (\S+)", CONTAINERFILE) == [name for name in wanted if "headless" in name]


def test_the_image_runs_as_a_user_that_is_known_by_number() -> None:
    number = re.findall(r"--uid (\d+)", CONTAINERFILE)[0]
    assert re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE) == [f"{number}:{number}"]
    assert COMPOSITION["services"]["ingestd"]["user"] == f"{number}:{number}"


def test_a_container_is_healthy_while_a_daemon_is_ready(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    config = write_config(tmp_path / "state", tmp_path / "docs")
    program, *arguments = health()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {**environment(), "INGESTD_CONFIG": str(config), "PATH": path}

    def healthy() -> bool:
        done = subprocess.run([program, *arguments], env=own, capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    assert not healthy()
    with running(config, tmp_path / "state") as daemon:
        daemon.wait()
        assert healthy()
    assert not healthy()


def test_the_composition_is_read_only_but_for_what_ingestd_writes() -> None:
    service = COMPOSITION["services"]["ingestd"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == ["ingestd:/var/lib/ingestd"]
    assert service["healthcheck"]["test"] == ["CMD", *health()], "an image of podman has none of its own"
    assert (PACKAGING / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert service["depends_on"] == {"elasticsearch": {"condition": "service_healthy"}}
    assert COMPOSITION["services"]["elasticsearch"]["healthcheck"]["test"]
    load(None, {**service["environment"], "HOME": "/var/lib/ingestd"})
