"""Starting and stopping: with plugins that do not work, beside another daemon, after one that was killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from ingestd import manifest, process
from ingestd.daemon import Daemon
from tests.processes.daemons import HOSTILE, ingestd, left_over, running, write_config
from tests.processes.inside import events, inside, states, take_in

PLUGINS = {
    "absent": "import no_such_library",
    "deadly": "import os; os._exit(7)",
    "raises": """
from ingestd.hookspecs import hookimpl
@hookimpl
def register_loaders(): raise RuntimeError("no licence")
""",
    "sleeps": "import time; time.sleep(1000)",
}
CAUSES = {
    "absent": "cannot be used: ModuleNotFoundError: No module named 'no_such_library'",
    "deadly": "is left out: exit code 7",
    "raises": "cannot be used: RuntimeError: no licence",
    "sleeps": "is left out: hangs for",
}


def test_plugins_that_do_not_work_are_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    for name, source in PLUGINS.items():
        info = site / f"plugin_{name}-2.1.dist-info"
        info.mkdir(parents=True)
        (site / f"plugin_{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[ingestd]\n{name} = plugin_{name}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(manifest, "PLUGIN_TIMEOUT", 5.0)
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("It works all the same.")

    async def body(daemon: Daemon) -> None:
        for name, cause in CAUSES.items():
            told = [warning for warning in daemon.plugins.warnings if f"plugin {name} " in warning]
            assert len(told) == 1, daemon.plugins.warnings
            assert told[0].startswith(f"plugin {name} (plugin-{name} 2.1) {cause}")
        assert (await daemon.status())["warnings"][:4] == daemon.plugins.warnings
        # No stage's worker imports what the probe did not survive.
        assert (await take_in(daemon, folder))["indexed"] == 1
        assert (await daemon.search("works", 1, None, None))[0]["path"] == str(folder / "a.md")

    inside(write_config(tmp_path / "state", None), body)


def test_a_second_daemon_is_refused_and_hands_over_its_work(tmp_path: Path) -> None:
    folder, more = tmp_path / "docs", tmp_path / "more"
    folder.mkdir()
    (folder / "a.md").write_text("in the watched folder")
    paths = [more / f"{number:03}-{'x' * 100}" for number in range(600)]
    for path in paths:
        path.mkdir(parents=True)
    (paths[-1] / "b.md").write_text("somewhere else altogether")
    state = tmp_path / "state"
    config = write_config(state, folder)
    with running(config, state) as first:
        first.wait()
        second = ingestd(config, "run")
        assert second.returncode == 3
        assert f"another daemon (pid {first.process.pid}) holds the state directory" in second.stderr
        # More paths than one frame holds.
        done = ingestd(config, "ingest", *map(str, paths))
        assert done.returncode == 0, done.stderr
        assert first.status()["files"]["indexed"] == 2
        assert first.process.poll() is None
        found = ingestd(config, "search", "--json", "somewhere altogether").stdout
        assert str(paths[-1] / "b.md") in found
        assert first.stop() == 0
    assert not left_over(state)


def test_an_interrupt_drains_and_a_second_one_does_not_wait(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "slow.hostile").write_text("slow 2\n")
    state = tmp_path / "state"
    config = write_config(state, folder, load={"deadline": "100s", "idle_deadline": "100s", "workers": 2})

    def await_loading(name: str) -> None:
        deadline = time.monotonic() + 60
        while not any(name in (w["path"] or "") for w in daemon.status()["workers"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with running(config, state, hostile=True) as daemon:
        await_loading("slow")
        assert daemon.stop() == 0
    assert states(state) == {"indexed": 1}, "what was in hand is finished first"
    (folder / "hang.hostile").write_text("hang_in_sleep\n")
    with running(config, state, hostile=True) as daemon:
        await_loading("hang")
        daemon.process.send_signal(2)
        time.sleep(0.5)
        assert daemon.process.poll() is None, "it waits for the file in hand"
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 15  # the drain alone is 20 s
    assert not left_over(state)
    assert sum(states(state).values()) == 2
    assert not any("interrupted" in event or "strike" in event for event in events(state))


def test_what_a_killed_daemon_left_is_swept(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "scratch" / "old.load.1" / "deep").mkdir(parents=True)
    (state / "scratch" / "old.load.1" / "deep" / "file").write_text("x")
    (state / "scratch" / "old.load.1").chmod(0)
    name = hashlib.blake2b(os.fsencode(state.resolve()), digest_size=6).hexdigest()
    pair = [
        subprocess.Popen(["sleep", "1000"], env={process.TOKEN: token}, start_new_session=True)
        for token in (f"{name}.0123abcd.load.7", "0" * 12 + ".0123abcd.load.7")
    ]
    try:

        async def body(daemon: Daemon) -> None:
            assert pair[0].wait(10) == -9
            assert pair[1].poll() is None, "that of another state directory is not touched"
            assert not (state / "scratch" / "old.load.1").exists()

        inside(write_config(state, None), body)
        assert not (state / "scratch").exists()
    finally:
        for one in pair:
            one.kill()
            one.wait()


def test_it_is_hostile_that_is_tested() -> None:
    """`running(hostile=True)` would silently skip a folder of files that no loader takes."""
    assert (HOSTILE / "ingestd_hostile.py").exists()
