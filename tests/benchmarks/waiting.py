"""How long encoders wait for the index: Elasticsearch on a real node of this machine, and the embedded store.

The real model on every core, a mixed folder. An encoder waits for the index when its vectors are not taken off it, or
when it has nothing to do since what is encoded holds all the credit. The node takes its share of the same cores: what
that costs is in the ratio of the times, and no wait.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, spread
from tests.elasticsearch import nodes
from tests.processes.daemons import write_config

GOAL = 5.0
"""Percent."""


def measure(*, quick: bool) -> list[Figure]:
    count, rounds = (96, 1) if quick else (480, 2)
    records: dict[str, list[dict[str, Any]]] = {"elasticsearch": [], "sqlite": []}
    try:
        with runs.scratch() as scratch, nodes.cluster(scratch / "nodes") as (node,):
            folder = folders.mixed(scratch / "docs", count)
            primer = folders.one_line(scratch / "primer", 4)
            for number in range(rounds):
                for sink in sorted(records, reverse=bool(number % 2)):
                    runs.say(f"round {number + 1} of {rounds}, {count} files: {sink}")
                    records[sink].append(one(scratch / f"{sink}{number}", sink, node.url, primer, folder))
    except nodes.MissingToolError as error:
        raise SystemExit(str(error)) from None
    figures = [Figure(f"{count} files", f"{records['sqlite'][0]['chunks']} chunks")]
    for sink, found in records.items():
        total = sum(record["wall"] * record["encoders"] for record in found)
        busy, output = (sum(record["spent"][cause] for record in found) / total for cause in ("busy", "output"))
        held = sum(record["held"] for record in found) / total
        figures += [
            Figure(f"{sink}: the ingest", spread([record["wall"] for record in found], " s", 1)),
            Figure(f"{sink}: encoders busy", f"{busy:.0%}"),
            below(f"{sink}: encoders wait for the index", 100 * (output + held), GOAL, "%"),
        ]
    pairs = zip(records["elasticsearch"], records["sqlite"], strict=True)
    return [
        *figures,
        Figure("elasticsearch / sqlite", f"{statistics.median(a['wall'] / b['wall'] for a, b in pairs):.2f}x"),
    ]


def one(state: Path, sink: str, url: str, primer: Path, folder: Path) -> dict[str, Any]:
    tables: dict[str, Any] = {**runs.REAL, "index": {"sink": sink}}
    if sink == "elasticsearch":
        tables["index.elasticsearch"] = {"hosts": url, "name": state.name, "daemon": "b"}
    run = runs.host(write_config(state, None, **tables), primer, folder, options=("--watch",))
    record = run.records[1]
    if record["failed"] or record["quarantined"]:
        raise SystemExit(f"not everything was taken in: {record}")
    return record
