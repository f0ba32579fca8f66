"""A whole daemon beside a file system that does not answer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.processes.daemons import running, write_config
from tests.test_hanging import Hang
from tests.test_hanging import hang as hang


@pytest.mark.parametrize("swallow", [False, True], ids=["killable", "state D"])
def test_a_daemon_starts_works_and_stops_beside_a_hung_mount(tmp_path: Path, hang: Hang, swallow: bool) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "one.txt").write_text("wombat")
    mount = hang(tmp_path / "nas", swallow=swallow)
    state = tmp_path / "state"
    config = write_config(state, docs)
    config.write_text(f'{config.read_text()}[[watch]]\nname = "nas"\ndirectory = "{mount.place}"\nrescan = "1s"\n')
    with running(config, state) as daemon:
        deadline = time.monotonic() + 120
        while (status := daemon.status())["files"]["indexed"] < 1 or not status["ready"]:
            assert time.monotonic() < deadline, daemon.tail()
            time.sleep(0.2)
        while not any("nas: the file system does not answer" in text for text in daemon.status()["warnings"]):
            assert time.monotonic() < deadline, daemon.tail()
            time.sleep(0.2)
        assert daemon.stop(100) == 0, daemon.tail()
        mount.let_go()
