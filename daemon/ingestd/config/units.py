"""Durations and sizes as people write them: "30s", "1h30m", "2GiB", "512 MB"."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {
    "ms": 0.001,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_BYTES: Final[dict[str, int]] = {
    **dict.fromkeys(("", "b", "byte", "bytes"), 1),
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
    **{prefix: 1024**power for power, prefix in enumerate("kmgt", 1)},
}
# The digits are bounded so that no input, however long, reaches infinity or Python's limit on integer parsing.
_NUMBER: Final = r"[0-9]{1,18}(?:\.[0-9]{0,18})?"
_DURATION: Final = re.compile(rf"\s*({_NUMBER})\s*([a-z]+)", re.ASCII)
_SIZE: Final = re.compile(rf"\s*({_NUMBER})\s*([a-z]*)\s*", re.ASCII)

DURATION_HINT: Final = 'write "200ms", "30s", "5m" or "1h30m"; a bare number is seconds'
SIZE_HINT: Final = 'write "512MB" or "2GiB"; a bare number is bytes'


def parse_duration(text: str) -> float:
    """Seconds. Raises `ValueError`, whose text says how to write one."""
    lowered = text.strip().lower()
    if re.fullmatch(_NUMBER, lowered, re.ASCII):
        return float(lowered)
    total, position, used = 0.0, 0, set()
    while match := _DURATION.match(lowered, position):
        factor = _SECONDS.get(match[2])
        if factor is None or factor in used:
            break
        used.add(factor)
        total += float(match[1]) * factor
        position = match.end()
    if not used or position != len(lowered):
        raise ValueError(f"{text[:40]!r} is not a duration ({DURATION_HINT})")
    return total


def parse_size(text: str) -> int:
    """Bytes: kB, MB, GB, TB are powers of 1000; KiB and so on, and K, M, G, T alone, powers of 1024.

    Raises `ValueError`, whose text says how to write one.
    """
    match = _SIZE.fullmatch(text.lower())
    factor = _BYTES.get(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text[:40]!r} is not a size ({SIZE_HINT})")
    size: int = round(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
    if size >= 1 << 63:
        raise ValueError(f"{text[:40]!r} is larger than any file can be")
    return size


def spell_duration(seconds: float) -> str:
    """For people, two units at most: "0.4s", "12s", "3m 05s", "2h 10m", "3d 4h"."""
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds % 1 else f"{seconds:.0f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def spell_size(size: float) -> str:
    """For people: "512 B", "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 or size == int(size) else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
