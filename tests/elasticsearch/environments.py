"""Environments with packages that cannot be beside ours, made once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_with(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment outside the checkout that has these packages."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ingestd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(repr((packages, sys.version_info[:2])).encode(), digest_size=6).hexdigest()
    place = cache / f"{name}-{digest}"
    python = place / "bin" / "python"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            if uv := shutil.which("uv"):
                subprocess.run([uv, "venv", "-q", "--python", sys.executable, place], check=True)
                subprocess.run([uv, "pip", "install", "-q", "--python", python, *packages], check=True)
            else:
                subprocess.run([sys.executable, "-m", "venv", place], check=True)
                subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
            (place / "complete").touch()
    return python
