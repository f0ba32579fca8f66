"""Many files of one content, and everything killed and stopped meanwhile: each of them is indexed, soon."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes.daemons import RunningDaemon, contents, left_over, running, write_config

COPIES = 6
PATIENCE = 90.0


def disturb(daemon: RunningDaemon, rng: random.Random) -> str:
    """Kill the supervisor, some or all workers, or both, or stop the daemon; it runs again afterwards."""
    how = rng.choice(("supervisor", "workers", "loaders", "one", "both", "stop"))
    if how == "stop":
        daemon.process.send_signal(signal.SIGTERM)
        if rng.random() < 0.5:  # in a hurry
            time.sleep(rng.random())
            daemon.process.send_signal(signal.SIGTERM)
        # Before it listens to signals, this one ends it as it ends any program.
        assert daemon.process.wait(90) in (0, -signal.SIGTERM), daemon.tail()
        daemon.start()
        return how
    if how != "supervisor":
        workers = [worker for worker in daemon.status()["workers"] if how != "loaders" or worker["stage"] == "load"]
        if how == "one":
            workers = workers and [rng.choice(workers)]
        for worker in workers:
            try:
                os.kill(worker["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass
            time.sleep(rng.choice((0.0, 0.02)))
    if how in ("supervisor", "both"):
        daemon.kill()
        daemon.start()
    return how


def until_indexed(daemon: RunningDaemon, paths: list[Path], told: str) -> None:
    deadline = time.monotonic() + PATIENCE
    left = list(paths)
    while left:
        left = [path for path in left if state_of(daemon, path).get("state") != "indexed"]
        if left and time.monotonic() > deadline:
            known = "\n".join(str(state_of(daemon, path)) for path in left)
            raise AssertionError(f"{told}\n{known}\n{daemon.status()}\n{daemon.tail()}")
        time.sleep(0.1)


def state_of(daemon: RunningDaemon, path: Path) -> dict[str, Any]:
    try:
        return daemon.call("why", path=os.fsencode(path))
    except AssertionError as error:
        if "is not in the journal" in str(error) or "not known" in str(error):
            return {}
        raise


def under_fire(tmp_path: Path, seed: int, rounds: int) -> None:
    """Each round drops equal files, slow or quick, and disturbs the daemon up to five times while they are loaded."""
    rng = random.Random(seed)
    folder = tmp_path / "docs"
    folder.mkdir()
    state = tmp_path / "state"
    config = write_config(state, folder, load={"workers": 2})
    dropped: list[Path] = []
    with running(config, state, hostile=True) as daemon:
        for round in range(rounds):
            text = rng.choice(
                (f"slow {0.2 + rng.random() * 2:.1f}\nround {round}", f"good\nround {round} of equal files")
            )
            paths = [folder / f"r{round}-{copy}.hostile" for copy in range(COPIES)]
            for path in paths:
                path.write_text(text)
            dropped += paths
            done = []
            for _ in range(rng.randint(1, 5)):
                time.sleep(rng.random() * rng.choice((0.2, 1.0, 3.0)))
                done.append(disturb(daemon, rng))
            began = time.monotonic()
            until_indexed(daemon, paths, f"seed {seed}, round {round}, {text!r}: {done}")
            print(f"round {round}: {text.split(chr(10))[0]}, {', '.join(done)}: {time.monotonic() - began:.1f} s")
        failures = daemon.call("failures")["failures"]
        assert daemon.stop() == 0
    assert not failures
    assert not left_over(state)
    documents, chunks = contents(state)
    assert sorted(documents) == sorted(map(str, dropped))
    assert len(set(chunks)) == len(chunks)


@pytest.mark.slow
def test_copies_under_fire(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    under_fire(tmp_path, request.config.getoption("--seed") or 1, 12)
