from __future__ import annotations

from pathlib import Path

import pytest

from ingestd import oom


@pytest.mark.parametrize(
    ("own", "file", "text"),
    [
        ("0::/system.slice/x.service\n", "system.slice/x.service/memory.events", "low 0\noom 1\noom_kill {}\n"),
        ("5:cpu:/\n4:memory:/a/b\n0::/\n", "memory/a/b/memory.oom_control", "under_oom 0\noom_kill {}\n"),
    ],
)  # fmt: skip
def test_kills_are_counted_in_either_kind_of_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, file: str, text: str
) -> None:
    (tmp_path / "own").write_text(own)
    counter = tmp_path / file
    counter.parent.mkdir(parents=True)
    counter.write_text(text.format(3))
    assert oom._counter(tmp_path, tmp_path / "own") == counter
    monkeypatch.setattr(oom, "_counter", lambda: counter)
    kills = oom.OomKills()
    assert not kills.fresh()
    counter.write_text(text.format(4))
    assert kills.fresh()
    assert not kills.fresh()
    counter.unlink()
    assert not kills.fresh()
