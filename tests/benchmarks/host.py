"""A supervisor that tells what its own work cost: `python -m tests.benchmarks.host CONFIG PATH...`.

Takes in one folder after the other, as `ingestd ingest` does, and prints a JSON object for each. All are linked below
one root first, since load workers are replaced when they are to read a new place. With `--respawn N` it
then kills a worker of each kind N times and prints one more object. `--profile FILE` profiles the event loop's thread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingestd import config as configuration
from ingestd.daemon import Daemon
from ingestd.slots import Pool
from tests.benchmarks.memory import status_kib

POLL = 0.005
LOOK = 0.01
"""Seconds between two looks at who waits for what."""
PATIENCE = 120.0


async def held_up(daemon: Daemon, seconds: list[float]) -> None:
    """Seconds for which encoders have nothing to do since what is encoded waits for the index, and holds all credit."""
    encoders, dispatcher = daemon.encoders, daemon.dispatcher
    before = time.monotonic()
    while True:
        await asyncio.sleep(LOOK)
        now = time.monotonic()
        if not encoders._queue and not encoders._ahead and not dispatcher._may_load():
            seconds.append((now - before) * sum(worker.state == "idle" for worker in daemon.encode_pool.workers))
        before = now


async def take_in(daemon: Daemon, root: Path, folder: Path, *, watch: bool = False) -> dict[str, Any]:
    """Ingest one folder. Times in seconds: `loop` of the event loop's thread, `cpu` of all threads of this process.

    `watch`: measure `held`, too, see `held_up`.
    """
    shutil.copytree(folder, root / folder.name, copy_function=os.link)
    spent = daemon.encoders.spent.copy()
    commits = daemon.journal.commits
    wall, cpu, loop = time.monotonic(), time.process_time(), time.thread_time()
    held: list[float] = []
    looking = asyncio.create_task(held_up(daemon, held)) if watch else None
    summary = [said async for said in daemon.ingest([os.fsencode(root)])][-1]
    if looking is not None:
        looking.cancel()
    record: dict[str, Any] = {
        "wall": time.monotonic() - wall,
        "cpu": time.process_time() - cpu,
        "loop": time.thread_time() - loop,
        "commits": daemon.journal.commits - commits,
        "encoders": max(1, len(daemon.encode_pool.workers)),
        "held": sum(held),
    }
    await asyncio.sleep(1.2)  # an encoder tells of its last second when it is over
    now = daemon.encoders.spent
    record["spent"] = {key: now[key] - spent[key] for key in now}
    return {**record, **{key: summary[key] for key in ("indexed", "quarantined", "failed", "chunks")}}


async def respawn(daemon: Daemon, pool: Pool) -> dict[str, float]:
    """Kill one worker; seconds until another one is ready, and its memory in MB."""
    living = [worker for worker in pool.workers if worker.state in ("idle", "running")]
    victim = min(living, key=lambda worker: int(worker.token.rpartition(".")[2]))
    victim.served += 1  # one that has done nothing yet is replaced after a pause
    known = set(pool.workers)
    began = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    while True:
        fresh = [worker for worker in pool.workers if worker not in known and worker.state in ("idle", "running")]
        if fresh:
            break
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"no {pool.stage} worker came back")
        await asyncio.sleep(POLL)
    seconds = time.monotonic() - began
    memory = status_kib(fresh[0].pid)
    return {"seconds": seconds, "rss": memory["VmRSS"] * 1024 / 1e6, "anonymous": memory["RssAnon"] * 1024 / 1e6}


async def serve(arguments: argparse.Namespace) -> None:
    config = configuration.load(arguments.config, os.environ)
    root = config.state_directory.with_suffix(".root")
    root.mkdir()
    began = time.monotonic()
    async with Daemon(config, watching=False) as daemon:
        for path in arguments.paths:
            say({"path": str(path), **await take_in(daemon, root, path, watch=arguments.watch)})
        if arguments.respawn:
            pools = {pool.stage: pool for pool in (*daemon.watching.pools, *daemon.load_pools)}
            pools |= {"encode": daemon.encode_pool, "index": daemon.index_pool}
            found: dict[str, list[dict[str, float]]] = {stage: [] for stage in pools}
            for _ in range(arguments.respawn):
                for stage, pool in pools.items():
                    found[stage].append(await respawn(daemon, pool))
            say({"respawn": found})
    say({"total": time.monotonic() - began})


def say(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def profiled(file: str | None) -> Iterator[None]:
    if file is None:
        yield
        return
    profile = cProfile.Profile(time.thread_time)
    with profile:
        yield
    profile.dump_stats(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--respawn", type=int, default=0, metavar="N")
    parser.add_argument("--profile", metavar="FILE")
    parser.add_argument("--watch", action="store_true", help="measure how long encoders wait for the index")
    arguments = parser.parse_args()
    with profiled(arguments.profile):
        asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
