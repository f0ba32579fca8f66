"""A throw-away machine with a real systemd, the unit, and this very Python environment bound in, read only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 90.0
PACKAGES = "acl,systemd,systemd-sysv,dbus,python3,libnss-systemd,libpam-systemd,dbus-user-session"
VARIABLES = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8",
             "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}  # fmt: skip


def base() -> Path:
    """The root file system that boxes lie over, made once and kept with the user's caches."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ingestd"
    found = cache / f"systemd-bookworm-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]}"
    if not found.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"{found.name}.{os.getpid()}"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(fresh)]
        subprocess.run(command, check=True, capture_output=True)
        try:
            fresh.rename(found)
        except OSError:  # another run was quicker
            shutil.rmtree(fresh)
    return found


class Box:
    """The booted machine, as root in it."""

    def __init__(self, leader: int, program: str = "/usr/bin/python3") -> None:
        self.leader = leader
        self.program = program
        """The interpreter that has what this test run has."""
        self.root = Path(f"/proc/{leader}/root")

    def run(
        self, *command: str, user: str | None = None, timeout: float = 180, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """`more`: variables."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        home = {"HOME": f"/home/{user}"} if user else {}
        variables = [f"{name}={value}" for name, value in {**VARIABLES, **home, **more}.items()]
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


def install(box: Box, prefix: str) -> str:
    """A virtual environment with the wheel of this checkout; returns its `ingestd`."""
    site = f"{prefix}/lib/python3.{sys.version_info.minor}/site-packages"
    box.sh(f"mkdir -p {prefix}/bin {site} && ln -s {box.program} {prefix}/bin/python3")
    box.write(f"{prefix}/pyvenv.cfg", f"home = {Path(box.program).parent}\n")
    box.write(f"{site}/packages.pth", "/opt/packages\n")
    with tempfile.TemporaryDirectory() as place:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = Path(place).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(box.root / site.lstrip("/"))
    box.write(f"{prefix}/bin/ingestd", f"#!{prefix}/bin/python3\nfrom ingestd.cli import main\nmain()\n")
    box.sh(f"chmod 755 {prefix}/bin/ingestd")
    return f"{prefix}/bin/ingestd"


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
        process.communicate(timeout=300)  # a whole runtime on a disk is removed


@contextmanager
def booted() -> Iterator[Box]:
    """A box with the service installed but not started."""
    with bare() as box:
        # As the page tells it, word by word.
        page = (ROOT / "docs" / "operations.md").read_text()
        commands = page.split("```sh\n")[1].split("```")[0]
        box.write("/tmp/install.sh", f"set -e\ncd /opt/checkout\nSUDO_USER=ann\n{commands}")
        box.sh("sh /tmp/install.sh && systemctl daemon-reload")
        yield box


@contextmanager
def bare() -> Iterator[Box]:
    """A box where `ingestd` can be called, and there is no service; skips, with the reason, where none can boot."""
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
        box.program = program
        path = ":".join(places)
        box.write(
            "/usr/bin/ingestd",
            f'#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/python/lib\nPYTHONPATH={path} exec {program} -P -m ingestd "$@"\n',
        )
        (box.root / "usr/bin/ingestd").chmod(0o755)
        box.sh("useradd -m ann && useradd -m bob")
        # The interpreter is called without the variable, too.
        box.write("/etc/ld.so.conf.d/python.conf", "/opt/python/lib\n")
        box.sh("ldconfig")
        yield box
