"""What the supervisor spends: CPU per document and per chunk, and the journal's commits per file.

With the hashing engine, since the supervisor does the same whatever the model. What it spends by the second, looking
at its workers, is measured while they work on files that take long and need no CPU, and taken off; a chunk's cost is
what many-chunk documents take beyond a one-chunk document's cost each.
"""

from __future__ import annotations

import statistics

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, spread
from tests.processes.daemons import write_config

SLOW = 5
"""Seconds."""


def measure(*, quick: bool) -> list[Figure]:
    files, long_files, sections, rounds = (400, 6, 600, 1) if quick else (1000, 12, 1500, 2)
    found: dict[str, list[float]] = {name: [] for name in ("second", "document", "loop", "chunk", "commits", "speed")}
    with runs.scratch() as scratch:
        primer = folders.one_line(scratch / "primer", 8, seed=9)
        slow = folders.one_line(scratch / "slow", 2, seed=8, suffix=".hostile", first=f"slow {SLOW}\n")
        small = folders.one_line(scratch / "small", files)
        large = folders.long(scratch / "large", long_files, sections)
        for number in range(rounds):
            runs.say(f"round {number + 1} of {rounds}: {files} one-line files, {long_files} long ones")
            config = write_config(scratch / f"state{number}", None, load={"workers": 2})
            _, waiting, few, many = runs.host(config, primer, slow, small, large, hostile=True).records
            second = waiting["cpu"] / waiting["wall"]
            document = (few["cpu"] - second * few["wall"]) / files
            chunks = many["chunks"]
            found["second"].append(second * 1e3)
            found["document"].append(document * 1e6)
            found["loop"].append(few["loop"] / few["cpu"] * 100)
            found["chunk"].append((many["cpu"] - second * many["wall"] - long_files * document) / chunks * 1e6)
            found["commits"].append(few["commits"] / files)
            found["speed"].append(files / few["wall"])
    return [
        Figure("supervisor CPU per second, two workers busy", spread(found["second"], " ms", 1)),
        Figure("supervisor CPU per one-chunk document", spread(found["document"], " µs", 0)),
        Figure("of it in the event loop's thread, the rest in the journal's", spread(found["loop"], " %", 0)),
        below(f"supervisor CPU per chunk beyond that ({chunks} chunks)", statistics.median(found["chunk"]), 2.0, "µs"),
        Figure(f"journal commits per file, {files} one-line files", spread(found["commits"])),
        Figure("files per second, one-line files, hashing engine", spread(found["speed"], digits=0)),
    ]
