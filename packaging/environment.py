"""The checkout's own virtual environment, `.venv`: made once, brought up to date when the project asks for more."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import console
import installers

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / ".venv"
PYTHON = DIRECTORY / "bin" / "python"
MARK = DIRECTORY / ".ingestd.json"
"""Says that the directory is ours to rebuild, and what has been installed for which state of the project."""
BYTES_NEEDED = 6 << 30
"""PyTorch with its CUDA libraries takes 5 GB."""
LAST = "opencv-python-headless"
"""Of the packages of OpenCV that the models want, all with the same files, the one that needs no graphics library."""
RUNS = "import sys; sys.exit(sys.version_info < (3, 11))"
IMPORTED = (
    "ingestd.daemon", "ingestd.load", "ingestd.encode", "ingestd.index", "ingestd.watch", "ingestd.cli.views", "torch",
    "tokenizers", "safetensors", "numpy", "apsw", "sqlite_vec", "charset_normalizer", "lxml.html", "docx", "pptx",
    "openpyxl", "pymupdf", *(f"ingestd_plugins.{name}" for name in ("text", "html", "tables", "pdf", "word", "torch")),
)  # fmt: skip
"""What the workers import. Those that are sandboxed cannot keep what they compile, and would do it at each start."""
COMPILE = """
import contextlib, importlib
for name in {names}:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""


def ensure(*extras: str) -> Path:
    """The environment's interpreter, with the project (editable) and these extras installed.

    Costs one start of an interpreter where nothing is to be done. Raises `Failure`.
    """
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
    if unknown := [extra for extra in extras if extra not in known]:
        raise console.Failure(f"there is no extra {unknown[0]!r}; there are: {', '.join(known)}")
    if up_to_date(extras):
        return PYTHON
    with exclusively():
        if up_to_date(extras):  # another run has done it meanwhile
            return PYTHON
        wanted = sorted({*extras, *read_mark().get("extras", ())})
        clear_unusable()
        installer = installers.find(DIRECTORY / "installer")
        if not python_does(RUNS):
            installer.make(DIRECTORY)
        requirement = f".[{','.join(wanted)}]" if wanted else "."
        installer.install(PYTHON, requirement, ROOT)
        for extra in wanted:
            for needed in known[extra]:
                if needed.startswith(LAST):
                    installer.overwrite(PYTHON, needed)
        if not python_does("import ingestd"):
            raise console.Failure(f"the environment does not work; remove it and try again: rm -r {DIRECTORY}")
        compile_imported()
        write_mark(wanted)
    return PYTHON


def compile_imported() -> None:
    """Compile once what is imported again and again; to fail costs time only."""
    keeping = ["env", "-u", "PYTHONDONTWRITEBYTECODE", os.fspath(PYTHON)]
    with contextlib.suppress(console.Failure):
        console.run([*keeping, "-c", COMPILE.format(names=IMPORTED)], "compiling what the workers import")


def up_to_date(extras: Sequence[str]) -> bool:
    mark = read_mark()
    done = mark.get("project") == project_digest() and {*extras} <= {*mark.get("extras", ())}
    return done and python_does("import ingestd")


def clear_unusable() -> None:
    """Leave either a directory that is marked as ours, or an environment that its owner made and that works."""
    if python_does(RUNS) and read_mark().get("root", str(ROOT)) == str(ROOT):
        return
    if DIRECTORY.exists():
        if not MARK.exists():
            raise console.Failure(
                f"{DIRECTORY} is there already, is no environment of Python 3.11 or later, and was not made here;"
                f" move it away:\n  mv {DIRECTORY} {DIRECTORY}.old"
            )
        # the Python it was made with is gone, or the checkout has moved: scripts name their interpreter by full path
        console.say("making the environment anew: its Python is gone or the checkout has moved")
        shutil.rmtree(DIRECTORY)
    free = shutil.disk_usage(ROOT).free
    if free < BYTES_NEEDED:
        raise console.Failure(
            f"{ROOT} has {free / 1e9:.1f} GB free, and the environment (mostly PyTorch) takes up to"
            f" {BYTES_NEEDED / 1e9:.0f} GB; free some space or move the checkout"
        )
    try:
        DIRECTORY.mkdir()
    except OSError as error:
        raise console.Failure(f"cannot make {DIRECTORY}: {error.strerror}; the checkout must be writable") from error
    write_mark([], project="")


def python_does(code: str) -> bool:
    return installers.works([os.fspath(PYTHON), "-c", code])


def project_digest() -> str:
    """Of what decides the installation: dependencies, entry points, layout. The code itself is used in place."""
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()


def read_mark() -> dict[str, Any]:
    try:
        mark = json.loads(MARK.read_text())
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def write_mark(extras: Sequence[str], project: str | None = None) -> None:
    mark = {"root": str(ROOT), "project": project_digest() if project is None else project, "extras": [*extras]}
    new = MARK.with_suffix(".new")
    new.write_text(json.dumps(mark))
    new.replace(MARK)


@contextlib.contextmanager
def exclusively() -> Iterator[None]:
    """One installation at a time; the lock is on a file that every checkout has, so that nothing is left behind."""
    with open(ROOT / "pyproject.toml") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with console.Pulse("waiting for another quick start that is installing here"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
