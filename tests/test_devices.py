"""Which accelerators are used: those that the kernel shows and the environment does not hide."""

from __future__ import annotations

import pytest

from ingestd import devices


@pytest.mark.parametrize(
    ("named", "usable"), [(None, 3), ("", 0), ("-1", 0), ("1", 1), ("0,2", 2), (" 0 , ", 1), ("GPU-1a,GPU-2b", 2)]
)
def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch, named: str | None, usable: int) -> None:
    monkeypatch.setattr(devices, "seen", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert devices.visible() == usable
