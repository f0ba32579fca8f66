"""Respawn: seconds from the kill of a worker until another one is ready, and its memory, for each kind."""

from __future__ import annotations

from statistics import median

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, spread
from tests.processes.daemons import write_config


def measure(*, quick: bool) -> list[Figure]:
    with runs.scratch() as scratch:
        primer = folders.mixed(scratch / "primer", 6)
        found: dict[str, dict[str, list[dict[str, float]]]] = {}
        for name, tables in (("real model", runs.REAL), ("hashing", {})):
            runs.say(f"killing workers, {name}")
            config = write_config(scratch / f"state{len(found)}", None, load={"workers": 1}, **tables)
            times = 1 if quick else 3
            found[name] = runs.host(config, primer, options=("--respawn", str(times))).respawn
    figures = []
    for stage, samples in found["real model"].items():
        engines = [("", samples)] if stage != "encode" else [(f", {name}", found[name][stage]) for name in found]
        for label, values in engines:
            seconds = spread([value["seconds"] for value in values], " s")
            rss = median(value["rss"] for value in values)
            own = median(value["anonymous"] for value in values)
            figures.append(Figure(f"{stage} worker{label}", f"{seconds}; {rss:.0f} MB, {own:.0f} MB of it anonymous"))
    return figures
