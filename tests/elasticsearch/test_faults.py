"""Everything that goes wrong between a daemon and its server, at random: afterwards the index equals the folder."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from ingestd.types import chunk_id
from ingestd_plugins import elasticsearch_read as reading
from tests.elasticsearch.nodes import Node
from tests.elasticsearch.places import configured, contents, eventually, opened, options, put
from tests.elasticsearch.proxy import Proxy
from tests.processes import daemons
from tests.processes.daemons import RunningDaemon, ingest, ingestd, write_config

pytestmark = [pytest.mark.elasticsearch, pytest.mark.timeout(900)]

FAULTS = 50
KILLS = {"node killed": 2, "daemon killed": 4, "read-only": 2}
"""The dearest faults, and how often each comes at least."""
CHANCES = {"lost": 0.1, "cut": 0.1, "busy": 0.15, "late": 0.1}


def test_fifty_faults_lose_nothing_and_double_nothing(node: Node, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seed = pytestconfig.getoption("--seed")
    seed = int(time.time()) if seed is None else seed
    print(f"to see this run again: --seed {seed}")
    dice = random.Random(seed)
    folder = tmp_path / "docs"
    folder.mkdir()
    proxy = Proxy(node.url)
    proxy.dice = random.Random(seed + 1)
    proxy.poison = b"POISON"
    table = options(proxy.url, timeout="10s", bulk_bytes="4KiB")  # several requests for a document
    state = tmp_path / "state"
    config = configured(state, folder, table)
    daemon = RunningDaemon(config, state)
    daemon.start()
    faults: Counter[str] = Counter()
    planned = [name for name, count in KILLS.items() for _ in range(count)]
    dice.shuffle(planned)
    try:
        eventually(lambda: daemon.status()["ready"], "it does not start")
        (folder / "poison.txt").write_text("one\n\n" * 3 + "POISON")
        proxy.faults = dict(CHANCES)
        while planned or faults.total() + proxy.done.total() < FAULTS:
            for _ in range(dice.randint(1, 12)):
                change(folder, dice)
            time.sleep(0.1 + dice.random() / 2)
            match planned.pop() if planned and dice.random() < 0.5 else None:
                case "node killed":
                    node.kill()
                    change(folder, dice)
                    node.start()
                    faults["node killed"] += 1
                case "daemon killed":
                    daemon.kill()
                    change(folder, dice)
                    daemon.start()
                    faults["daemon killed"] += 1
                case "read-only":
                    put(node.url, f"/{table['name']}/_settings", {"index.blocks.write": True})
                    change(folder, dice)
                    time.sleep(0.5)
                    put(node.url, f"/{table['name']}/_settings", {"index.blocks.write": None})
                    faults["read-only"] += 1
        proxy.faults = {}
        faults.update(proxy.done)
        print(f"{faults.total()} faults: {dict(faults)}")
        daemon.wait(300)
        reason = daemon.call("why", path=bytes(folder / "poison.txt"))
        assert reason["state"] == "quarantined"
        assert "strict_dynamic_mapping_exception" in reason["reason"]
        (folder / "poison.txt").unlink()
        daemon.wait(300)
    finally:
        proxy.faults = {}
        if daemon.process.poll() is None:
            daemon.stop()
    assert faults.total() >= FAULTS
    done = ingestd(config, "verify", "--deep", "--json")
    assert done.returncode == 0, done.stdout
    assert not any(json.loads(done.stdout)[key] for key in ("missing", "extra", "stale"))
    no_chunk_has_two_ids(state, table)
    other = tmp_path / "undisturbed"
    ingest(write_config(other, folder), folder)
    assert contents(state, table) == daemons.contents(other)
    proxy.close()


def change(folder: Path, dice: random.Random) -> None:
    """Write, move, copy or delete a file of a few passages, some of which other versions have too."""
    name = folder / f"{dice.randrange(40)}.txt"
    known = [path for path in folder.iterdir() if path.name != "poison.txt"]
    match dice.randrange(6):
        case 0 if known:
            dice.choice(known).unlink()
        case 1 if known:
            dice.choice(known).rename(name)
        case 2 if known:
            name.write_bytes(dice.choice(known).read_bytes())
        case _:
            parts = [f"passage {dice.randrange(30)} " + "word " * 150 for _ in range(dice.randint(1, 12))]
            name.write_text("\n\n".join(parts))


def no_chunk_has_two_ids(state: Path, table: dict[str, object]) -> None:
    sink = opened(state, table)
    server, index = sink._server, sink._index

    async def entries() -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        async with reading.snapshot(server, index) as point:
            after = None
            while page := await reading.page(server, index, point, after, ["metadata"]):
                found += [(id, each["metadata"]["doc_id"], each["metadata"]["hash"]) for id, each, _ in page]
                after = page[-1][2]
        return found

    found = server.run(entries())
    sink.close()
    assert len({(document, hash) for _, document, hash in found}) == len(found)
    assert all(id == (chunk_id(document, bytes.fromhex(hash)) if hash else document) for id, document, hash in found)
