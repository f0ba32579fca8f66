"""What the packages are made of: locks that name every version and its hashes, and environments that hold just that."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tempfile
import time
from calendar import timegm
from collections.abc import Iterable
from pathlib import Path

import console
from environment import ROOT
from installers import Uv

LOCK = ROOT / "packaging" / "debian" / "runtime.lock"
TOOLS = ROOT / "packaging" / "debian" / "tools.lock"
"""What makes a wheel of the source."""
EXTRAS = ("minilm", "elasticsearch", "ocr", "systemd")
SYSTEM = "/usr/bin/python3"
"""The distribution's own, which the packages depend on."""
COMPILED = ("systemd-python",)
"""Is had as source only, and compiled here."""
HEADLESS, DISPLAYED = "opencv-python-headless", ("opencv-contrib-python", "opencv-python")
"""Three packages of the same files, each of which somebody requires. A server lacks what the others link to."""
WHEELS = ("--only-binary", ":all:")
FIRST = "3.11"
"""The oldest Python that the locks are for; entries for later ones are marked so."""


def resolve(uv: Uv) -> None:
    """Write both locks anew. Wheels that lie about (`find-links`) are not asked: they may be anybody's builds."""
    options = ["--universal", "--generate-hashes", "--python-version", FIRST, "--no-header", "--no-annotate"]
    options += ["--no-emit-index-url", "--upgrade", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if "FIND_LINKS" not in name}
    wanted = tuple(f"--extra={extra}" for extra in EXTRAS)
    for lock, source, more in ((LOCK, "pyproject.toml", wanted), (TOOLS, "-", ())):
        command = [uv.path, "pip", "compile", source, *options, *more]
        with console.Pulse(f"resolving {lock.name}"):
            done = subprocess.run(
                command, cwd=ROOT, env=environment, input="hatchling\n", capture_output=True, text=True
            )
        if done.returncode:
            raise console.Failure(f"resolving {lock.name}: {done.stderr.strip()}")
        day = time.strftime("%Y.%m.%d", time.gmtime())
        lock.write_text(f"# {day}, by python3 packaging/deb.py lock\n{done.stdout}")


def version() -> tuple[str, int]:
    """The runtime's version, which is the day of its lock and its Python, and that day in seconds since 1970."""
    day = LOCK.read_text().split(None, 2)[1].rstrip(",")
    return f"{day}+py3.{minor()}", timegm(time.strptime(day, "%Y.%m.%d"))


def minor() -> int:
    """x of the distribution's Python 3.x. Raises `console.Failure` where that is none, or too old."""
    try:
        told = subprocess.run(
            [SYSTEM, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
        )
        found = tuple(int(number) for number in told.stdout.split())
    except OSError:
        found = ()
    if found < (3, 11):
        raise console.Failure(f"{SYSTEM} is not there, or not Python 3.11 or later: on Debian 12: apt install python3")
    return found[1]


def fill(uv: Uv, place: Path, without: list[str]) -> int:
    """Make `place` a virtual environment of the distribution's Python with the runtime's lock. Returns `minor()`.

    Nothing but its interpreter's links is in `bin`: a script would name the interpreter by the place where it was made.
    """
    found = minor()
    python = place / "bin" / f"python3.{found}"
    bare(place, found)
    names = [name for name in entries(LOCK) if not any(fnmatch.fnmatch(name, pattern) for pattern in without)]
    install(uv, python, LOCK, [name for name in names if name not in (*COMPILED, HEADLESS)], *WHEELS)
    if HEADLESS in names:
        install(uv, python, LOCK, [HEADLESS], *WHEELS)  # over the others' files
        site = place / "lib" / f"python3.{found}" / "site-packages"
        for rest in ("cv2/qt", *(f"{name.replace('-', '_')}.libs" for name in DISPLAYED)):
            shutil.rmtree(site / rest, ignore_errors=True)
    if sources := [name for name in names if name in COMPILED]:
        # with the lock's own setuptools, which PyTorch needs anyway
        install(uv, python, LOCK, sources, "--no-build-isolation")
    for path in place.iterdir():
        if path.name not in ("bin", "lib", "pyvenv.cfg"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (place / "bin").iterdir():
        if not re.fullmatch(r"python[\d.]*", path.name):
            path.unlink()
    compile_all(place.parents[2], "usr/lib/ingestd/lib")
    return found


def bare(place: Path, minor: int) -> None:
    """An environment without anything. By hand: the module `venv` is apart in Debian, and notes where it was made."""
    (place / "bin").mkdir(parents=True)
    (place / "lib" / f"python3.{minor}" / "site-packages").mkdir(parents=True)
    (place / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.{minor}\n")
    (place / "bin" / f"python3.{minor}").symlink_to(f"/usr/bin/python3.{minor}")
    for name in ("python", "python3"):
        (place / "bin" / name).symlink_to(f"python3.{minor}")


def install(uv: Uv, python: Path, lock: Path, names: Iterable[str], *options: str) -> None:
    """Install what a lock has of these names, each with one of its hashes."""
    known = entries(lock)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(text for name in names for text in known[name]))
        file.flush()
        command = [uv.path, "pip", "install", "--python", os.fspath(python), "--no-deps", "--require-hashes", *options]
        command += uv.settings.uv_arguments(os.environ)
        console.run([*command, "-r", file.name], f"installing from {lock.name}")


def entries(lock: Path) -> dict[str, list[str]]:
    """The lock's requirements with their hashes, by name; several where versions of Python differ."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]:
        found.setdefault(block.split("==")[0], []).append(block)
    return found


def compile_all(root: Path, below: str) -> None:
    """Compile what lies below; by contents that do not change, not by times, which a package does not keep.

    Files that are for another version of Python do not compile, and are not imported.
    """
    options = ["-q", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", os.fspath(root), "-p", "/"]
    with console.Pulse("compiling"):
        subprocess.run(
            [SYSTEM, "-m", "compileall", *options, os.fspath(root / below)], capture_output=True, check=False
        )


def wheel(uv: Uv, tools: Path, place: Path) -> Path:
    """The source as a wheel in `place`, made by what `tools` is filled with."""
    bare(tools, minor())
    python = tools / "bin" / "python"
    install(uv, python, TOOLS, entries(TOOLS), *WHEELS)
    console.run([os.fspath(python), "-m", "hatchling", "build", "-t", "wheel", "-d", os.fspath(place)],
                "making a wheel of the source", cwd=ROOT)  # fmt: skip
    (made,) = place.glob("*.whl")
    return made
