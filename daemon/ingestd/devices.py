"""The accelerators that the kernel shows, without asking a library."""

from __future__ import annotations

import os
from pathlib import Path


def seen() -> int:
    """How many there are."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def visible() -> int:
    """How many this process may use: those that `CUDA_VISIBLE_DEVICES` names, where it is set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return seen()
    return len([number for number in named.split(",") if number.strip() not in ("", "-1")])
