"""Anything is killed at any time: the index ends equal to that of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.processes.daemons import RunningDaemon, contents, left_over, running, write_config

ROLES = ("supervisor", "watch", "load", "encode", "index")


def write_files(folder: Path, count: int, rng: random.Random, pause: float = 0.0) -> None:
    """Files of one to forty paragraphs; one in ten is a copy of an earlier one."""
    words = [f"word{number}" for number in range(500)]
    texts: list[str] = []
    for number in range(count):
        if texts and rng.random() < 0.1:
            text = rng.choice(texts)
        else:
            paragraphs = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(rng.randint(1, 40))]
            text = f"# File {number}\n\n" + "\n\n".join(paragraphs)
        texts.append(text)
        place = folder / f"d{number % 7}" / f"file{number}.md"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        if pause:
            time.sleep(rng.random() * 2 * pause)


class Killer:
    """Kills a process of each role in turn, in busy moments where it finds them."""

    def __init__(self, daemon: RunningDaemon, rng: random.Random) -> None:
        self.daemon = daemon
        self.rng = rng
        self.kills: Counter[tuple[str, str]] = Counter()

    def kill_one(self) -> None:
        role = ROLES[sum(self.kills.values()) % len(ROLES)]
        status = self.daemon.status()
        if role == "supervisor":
            busy = "busy" if status["files"]["running"] else "idle"
            self.daemon.kill()
            self.kills[role, busy] += 1
            self.daemon.start()
            return
        for _ in range(1200):
            workers = [w for w in self.daemon.status()["workers"] if w["stage"] == role and w["state"] != "starting"]
            chosen = [w for w in workers if w["state"] == "running"] or workers
            if chosen:
                victim = self.rng.choice(chosen)
                try:
                    os.kill(victim["pid"], signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.kills[role, victim["state"]] += 1
                return
            time.sleep(0.05)
        raise AssertionError(f"no {role} worker to kill: {self.daemon.status()}")


def run_under_fire(
    tmp_path: Path, kills: int, files: int, seed: int, tables: dict[str, dict[str, Any]], pace: tuple[float, float]
) -> None:
    """`pace`: seconds between two files, and between two kills, both on average."""
    between_files, between_kills = pace
    rng = random.Random(seed)
    folder = tmp_path / "docs"
    folder.mkdir()
    state = tmp_path / "fire"
    config = write_config(state, folder, **tables)
    with running(config, state) as daemon:
        writer = threading.Thread(target=write_files, args=(folder, files, random.Random(seed), between_files))
        writer.start()
        killer = Killer(daemon, rng)
        try:
            while sum(killer.kills.values()) < kills:
                killer.kill_one()
                time.sleep(rng.random() * 2 * between_kills)
        finally:
            writer.join()
        status = daemon.wait(180)
        print(f"kills by role and moment: {dict(killer.kills)}; starts: {daemon.starts}")
        failures = daemon.call("failures")["failures"]
        assert daemon.stop() == 0
    assert not failures
    assert status["files"]["indexed"] == files
    assert not left_over(state)

    calm = tmp_path / "calm"
    with running(write_config(calm, folder, **tables), calm) as daemon:
        daemon.wait(180)
    fire_documents, fire_chunks = contents(state)
    documents, chunks = contents(calm)
    assert fire_documents == documents
    assert len(documents) == files
    assert fire_chunks == chunks
    assert len(set(chunks)) == len(chunks)


def test_kills(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills = request.config.getoption("--kills") or 50
    run_under_fire(tmp_path, kills, files=4 * kills, seed=20, tables={}, pace=(0.2, 0.1))


def test_kills_with_the_real_model(tmp_path: Path) -> None:
    model = {"engine": "torch", "model": "sentence-transformers/all-MiniLM-L6-v2", "devices": ["cpu"]}
    run_under_fire(tmp_path, kills=6, files=20, seed=21, tables={"encode": model}, pace=(0.5, 1.0))
