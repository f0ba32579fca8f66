"""A throw-away machine with a real systemd, the unit, and this very Python environment bound in, read only."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 90.0
PACKAGES = "systemd,systemd-sysv,dbus,python3,libnss-systemd"
VARIABLES = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8",
             "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}  # fmt: skip


def base() -> Path:
    """The root file system that boxes lie over, made once and kept with the user's caches."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ingestd"
    found = cache / "systemd-bookworm"
    if not found.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"systemd-bookworm.{os.getpid()}"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(fresh)]
        subprocess.run(command, check=True, capture_output=True)
        fresh.rename(found)
    return found


class Box:
    """The booted machine, as root in it."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.root = Path(f"/proc/{leader}/root")

    def run(self, *command: str, user: str | None = None, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        variables = [f"{name}={value}" for name, value in VARIABLES.items()]
        line = [*enter, "env", "-i", "-C", "/", *variables, *become, *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False, errors="replace")

    def sh(self, command: str, user: str | None = None) -> str:
        """The output of a command that must succeed."""
        done = self.run("sh", "-c", command, user=user)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def log(self) -> str:
        return self.run("journalctl", "--no-pager", "-u", "ingestd", "-n", "60", "-o", "cat").stdout

    def show(self, name: str) -> str:
        return self.sh(f"systemctl show --value -p {name} ingestd").strip()

    def until(self, command: str, user: str | None = None) -> str:
        """The output of a command, once it succeeds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            done = self.run("sh", "-c", command, user=user)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > deadline:
                raise AssertionError(f"{command}\n{done.stdout}{done.stderr}\n{self.log()}")
            time.sleep(0.3)

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@contextmanager
def boot(binds: dict[Path, str], variables: dict[str, str] | None = None) -> Iterator[Box]:
    """A bare Debian with these directories of ours bound in, read only; skips, with the reason, where none can boot."""
    if os.geteuid() != 0:
        pytest.skip("cannot be had: a box needs root")
    for program in ("systemd-nspawn", "debootstrap", "nsenter", "pgrep"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    command = [str(HERE / "box.sh"), str(base()), *(f"--bind-ro={source}:{place}" for source, place in binds.items())]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(variables or {})},
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stderr
    line = process.stdout.readline().strip()
    if not line:
        pytest.skip(f"cannot be had: no systemd boots here: {process.stderr.read()[-500:]}")
    try:
        yield Box(int(line))
    finally:
        process.communicate(timeout=60)


@contextmanager
def booted() -> Iterator[Box]:
    """A box with the service installed but not started; skips, with the reason, where none can boot."""
    if not importlib.util.find_spec("systemd"):
        pytest.skip("needs ingestd[systemd]")
    python = Path(sys.base_prefix)
    if python == Path("/usr") and "bookworm" not in Path("/etc/os-release").read_text():
        pytest.skip("cannot be had: this system's Python does not run in the box; use one of its own prefix")
    places = ["/opt/ingestd/daemon", "/opt/ingestd/plugins", "/opt/ingestd/hostile", "/opt/packages"]
    binds = {ROOT / "daemon": places[0], ROOT / "plugins": places[1], HERE / "probing": places[2],
             Path(sysconfig.get_path("purelib")): places[3]}  # fmt: skip
    binds[ROOT / "packaging"] = "/opt/checkout/packaging"
    program = "/usr/bin/python3"
    if python != Path("/usr"):
        binds[python] = "/opt/python"
        program = f"/opt/python/bin/python3.{sys.version_info.minor}"
    with boot(binds) as box:
        path = ":".join(places)
        box.write(
            "/usr/bin/ingestd",
            f'#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/python/lib\nPYTHONPATH={path} exec {program} -P -m ingestd "$@"\n',
        )
        (box.root / "usr/bin/ingestd").chmod(0o755)
        box.sh("useradd -m ann && useradd -m bob")
        # As the page tells it, word by word.
        page = (ROOT / "docs" / "operations.md").read_text()
        commands = page.split("```sh\n")[1].split("```")[0]
        box.write("/tmp/install.sh", f"set -e\ncd /opt/checkout\nSUDO_USER=ann\n{commands}")
        box.sh("sh /tmp/install.sh && systemctl daemon-reload")
        yield box
