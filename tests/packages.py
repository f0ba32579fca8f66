"""Distributions of third parties, installed without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path


def install_offline(project: Path, site: Path) -> str:
    """Build a project's wheel and unpack it, which is all that installing one does; returns what goes on PYTHONPATH.

    The search path of this process follows, for an ingestd that is itself found there.
    """
    wheels = project / "dist"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    done = subprocess.run(build, cwd=project, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
