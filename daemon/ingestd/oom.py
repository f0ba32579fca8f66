"""Whether the kernel killed something of ours for want of memory: control groups count it, a signal does not say it."""

from __future__ import annotations

from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


class OomKills:
    """The kills in this process's control group, which its workers share."""

    def __init__(self) -> None:
        self._file = _counter()
        self._seen = self._count()

    def fresh(self) -> bool:
        """Whether there was one since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        try:
            lines = self._file.read_text().splitlines() if self._file is not None else []
        except OSError:
            return 0
        return sum(int(number) for name, _, number in (line.partition(" ") for line in lines) if name == "oom_kill")


def _counter(groups: Path = _GROUPS, own: Path = Path("/proc/self/cgroup")) -> Path | None:
    """The file with the line `oom_kill N`, of either version of control groups; None: there is none."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, place in lines:
        if "memory" in controllers.split(","):
            return groups / "memory" / place.lstrip("/") / "memory.oom_control"
    places = [place for _, controllers, place in lines if not controllers]
    return groups / places[0].lstrip("/") / "memory.events" if places else None
