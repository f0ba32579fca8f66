"""Hostile loaders: each costs exactly its own file, with a reason, and nothing that it started stays alive."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestd import blame, outcomes
from ingestd.daemon import Daemon
from tests.processes.daemons import HOSTILE, contents, ingest, left_over, running, write_config
from tests.processes.inside import inside, take_in, until

LIMITS = {"deadline": "12s", "idle_deadline": "3s", "memory": "400MiB", "max_strikes": 1, "max_text": "2MiB"}

EXPECTED = {
    "hang_in_c": "idle_deadline",
    "hang_in_sleep": "idle_deadline of 3 s exceeded: no progress since page 3, element 1",
    "hang_in_loop": "idle_deadline",
    "hang_in_fork": "idle_deadline",
    "hang_in_daemon": "idle_deadline",
    "endless_nothing": "deadline of 12 s exceeded",
    "eat_memory": "memory",
    "eat_memory_in_child": "memory limit of 400 MiB exceeded",
    "memory_error": "memory limit: MemoryError",
    "fill_scratch": "File too large",
    "exit": "exit code 3",
    "exit 0": "exit code 0",
    "system_exit": "SystemExit: goodbye",
    "signal 11": "SIGSEGV",
    "signal 6": "SIGABRT",
    "signal 7": "SIGBUS",
    "stack_overflow": "",
    "recursion": "RecursionError",
    "text_then_exception": "ValueError: half way",
    "eof_error": "EOFError: cut short",
    "silent_exception": "ValueError",
    "control_characters": "ValueError: bad",
    "wrong_type": "yielded int, not Element",
    "garbage": "bad frame",
    "wrong_frame": "bad frame",
    "negative_length": "bad frame",
    "partial": "bad frame",
    "oversized": "frame",
    "close_descriptors": "the worker died",
    "crash_in_detection": "the worker died: exit code 9",
    "nothing_of_the_kind": "AttributeError",
}
"""Behaviour to what its reason says."""
GOOD = ("noise", "change_state", "leave_daemon", "good", "slow 4.5")
"""Behaviours that are no fault."""
PARTIAL = ("endless", "huge")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hostile loaders for a daemon inside the test, which waits less after several deadlines at once."""
    monkeypatch.syspath_prepend(str(HOSTILE))
    monkeypatch.setenv("PYTHONPATH", str(HOSTILE), prepend=os.pathsep)
    monkeypatch.setattr(blame, "PAUSES", (0.5, 4.0))


async def history(daemon: Daemon, path: Path) -> str:
    """All that `why` knows of a file."""
    async for told in daemon.handle("why", {"path": os.fsencode(path)}):
        return str(told)
    raise AssertionError


def strays() -> list[int]:
    """Processes that hostile loaders started without a token."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"hostile-sleep" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_each_costs_its_own_file(tmp_path: Path, hostile: None) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for behaviour in (*EXPECTED, *GOOD, *PARTIAL):
        name = behaviour.replace(" ", "-").replace(".", "")
        (folder / f"{name}.hostile").write_text(f"{behaviour}\nthe text of {behaviour}")
    for number in range(30):
        (folder / f"innocent{number}.md").write_text(f"# Innocent {number}\n\nNothing is wrong with number {number}.")
    state = tmp_path / "state"

    async def body(daemon: Daemon) -> dict[str, Any]:
        summary = await take_in(daemon, folder)
        why = await history(daemon, folder / "hang_in_sleep.hostile")
        assert "in hang_in_sleep" in why  # the stack
        assert "page 3, element 1" in why
        for name in PARTIAL:
            assert "'partial'" in await history(daemon, folder / f"{name}.hostile")
        return summary

    summary = inside(write_config(state, None, load={**LIMITS, "workers": 3}), body)
    reasons = {Path(f["path"]).stem: f["reason"] for f in summary["failures"]}
    for behaviour, expected in EXPECTED.items():
        reason = reasons.pop(behaviour.replace(" ", "-"))
        assert expected in reason, behaviour
        assert reason.isprintable()
        assert len(reason) <= 600
    assert not reasons
    assert summary["quarantined"] == len(EXPECTED)
    assert summary["indexed"] == 30 + len(GOOD) + len(PARTIAL)
    assert not left_over(state)
    assert not strays()
    documents, _ = contents(state)
    assert len(documents) == summary["indexed"]
    assert not any("text_then_exception" in path for path in documents)


def test_others_go_on_beside_one_that_hangs(tmp_path: Path) -> None:
    """The only slot is taken by it for as long as this test runs; the spare does the work."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.hostile").write_text("hang_in_sleep\n")
    for number in range(30):
        (folder / f"b{number}.hostile").write_text(f"good\ntext of number {number}")
    state = tmp_path / "state"
    limits = {"workers": 1, "deadline": "10m", "idle_deadline": "10m"}
    with running(write_config(state, folder, load=limits), state, hostile=True) as daemon:
        deadline = time.monotonic() + 60
        while (status := daemon.status())["files"]["indexed"] < 30:
            assert time.monotonic() < deadline, status
            time.sleep(0.1)
        assert status["files"]["running"] == 1
        assert "a.hostile" in str([worker["path"] for worker in status["workers"]])
        daemon.kill()


def test_others_go_on_beside_one_that_hangs_alone(
    tmp_path: Path, hostile: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that hit their deadline at once are tried alone; that one of them hangs again is no reason to wait for it."""
    folder, more = tmp_path / "docs", tmp_path / "more"
    for place in (folder, more):
        place.mkdir()
    for number in range(2):
        (folder / f"{number}.hostile").write_text(f"hang_in_sleep\n{number}")
    for number in range(5):
        (more / f"{number}.hostile").write_text(f"good\ntext of number {number}")

    async def body(daemon: Daemon) -> None:
        work = asyncio.ensure_future(take_in(daemon, folder))
        await until(lambda: "deadline" in daemon.dispatcher.causes.warnings)
        patient = msgspec.structs.replace(daemon.config.load.limits("hostile"), deadline=600.0, idle_deadline=600.0)
        monkeypatch.setattr(daemon.dispatcher, "_limits_of", lambda *_: patient)
        await until(lambda: any(attempt.alone for attempt in daemon.dispatcher.watchman.attempts))
        assert (await asyncio.wait_for(take_in(daemon, more), 60))["indexed"] == 5
        assert [attempt.alone for attempt in daemon.dispatcher.watchman.attempts] == [True]
        assert not work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        daemon.hurry()

    inside(write_config(tmp_path / "state", None, load={**LIMITS, "workers": 2, "idle_deadline": "2s"}), body)


def test_a_seeded_mix_ends_with_exact_counts(tmp_path: Path, hostile: None) -> None:
    count = 1000
    rng = random.Random(7)
    folder = tmp_path / "docs"
    folder.mkdir()
    kinds = ["exit"] * 50 + ["memory_error"] * 25 + ["eat_memory"] * 25 + ["hang_in_sleep"] * 15 + ["hang_in_c"] * 15
    kinds += ["signal 11"] * 15 + ["signal 6"] * 15
    kinds += ["good"] * (count - len(kinds))
    rng.shuffle(kinds)
    for number, kind in enumerate(kinds):
        (folder / f"f{number:04}.hostile").write_text(f"{kind}\nfile number {number} says good morning")
    state = tmp_path / "state"
    limits = {**LIMITS, "workers": 4, "memory": "200MiB", "idle_deadline": "1s"}

    async def body(daemon: Daemon) -> dict[str, Any]:
        batch: dict[str, Any] = await take_in(daemon, folder)
        return batch

    summary = inside(write_config(state, None, load=limits), body)
    bad = Counter(kind for kind in kinds if kind != "good")
    found: Counter[str] = Counter()
    for failure in summary["failures"]:
        kind = kinds[int(Path(failure["path"]).stem[1:])]
        assert kind != "good", failure
        found[kind] += 1
    assert found == bad
    assert summary["quarantined"] == sum(bad.values())
    assert summary["indexed"] == count - sum(bad.values())
    assert not left_over(state)


def test_strikes_follow_the_content(tmp_path: Path, hostile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts, then quarantine; a copy is not tried, a changed file is."""
    monkeypatch.setattr(outcomes, "STRIKE_RETRY", (0.2, 2.0))
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.hostile").write_text("exit\n")

    async def body(daemon: Daemon) -> None:
        assert (await take_in(daemon, folder))["quarantined"] == 1
        assert (await history(daemon, folder / "a.hostile")).count("'strike ") == 3
        (folder / "b.hostile").write_text("exit\n")
        assert (await take_in(daemon, folder))["quarantined"] == 2
        why = await history(daemon, folder / "b.hostile")
        assert "'strike " not in why
        assert "same content as a quarantined file" in why
        (folder / "a.hostile").write_text("good\nnow it is")
        assert (await take_in(daemon, folder))["indexed"] == 1
        async for told in daemon.handle("failures", {}):
            assert [os.path.basename(failure["path"]) for failure in told["failures"]] == ["b.hostile"]

    inside(write_config(tmp_path / "state", folder, load={**LIMITS, "max_strikes": 3}), body)


def test_the_sandbox_holds(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    state = tmp_path / "state"
    source = folder / "escape.hostile"
    source.write_text(f"escape {state}\n")
    before = source.read_bytes()
    config = write_config(state, folder, load={**LIMITS, "sandbox": "required"})
    with running(config, state, hostile=True) as daemon:
        daemon.wait()
        hits = daemon.call("search", text="refused succeeded", top=10, source=None, path=None)["hits"]
    text = " ".join(hit["text"] for hit in hits)
    assert text.count("refused") == 10, text
    assert "succeeded" not in text
    assert "own scratch works" in text
    assert source.read_bytes() == before


def test_a_loader_with_workers_of_its_own_starves_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(12):
        (folder / f"a{number}.hostile").write_text(f"slow 0.5\n{number}")
    for number in range(30):
        (folder / f"b{number}.md").write_text(f"# Quick {number}\n\nA short text, number {number}.")
    state = tmp_path / "state"
    config = write_config(state, folder, load={**LIMITS, "workers": 1}, **{"load.hostile": {"workers": 1}})
    summary = ingest(config, folder, hostile=True)
    assert summary["indexed"] == 42
    journal = sqlite3.connect(state / "journal.sqlite")
    found = journal.execute(
        "SELECT documents.path FROM history JOIN documents ON documents.id = document"
        " WHERE event LIKE 'indexed%' ORDER BY history.id"
    ).fetchall()
    journal.close()
    order = [name for (name,) in found]
    last_text = max(order.index(name) for name in order if name.endswith(b".md"))
    assert sum(name.endswith(b".hostile") for name in order[:last_text]) < 6, order


def test_healthy_files_are_not_struck_on_a_busy_machine(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(16):
        (folder / f"f{number}.hostile").write_text(f"slow 0.5\n{number}")
    state = tmp_path / "state"
    config = write_config(state, folder, load={**LIMITS, "workers": 4, "deadline": "4s"})
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(12)]
    try:
        summary = ingest(config, folder, hostile=True)
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert summary["quarantined"] == summary["failed"] == 0
    assert summary["indexed"] == 16
