"""`python -m tests.benchmarks [--quick] [NAME ...]`: every benchmark, and one table of what they found.

Run it on an otherwise quiet machine. Figures that depend on the machine are there for comparison within one run:
ratios, shares and goals are what to look at. No figure makes it fail: the exit code is 1 only if
one could not be measured.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import time
from pathlib import Path
from typing import cast

from tests.benchmarks.figures import Benchmark, Figure, table

NAMES = (
    "end_to_end",
    "encoder",
    "overhead",
    "respawn",
    "searching",
    "fresh",
    "rescan",
    "scale",
    "hanging",
    "store",
    "starting",
    "elasticsearch",
    "waiting",
    "ocr",
)


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{model}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, load before {load:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer files and rounds: a look, not a measurement")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    print(f"{datetime.date.today()}: {machine()}", flush=True)
    failed = []
    for name in arguments.names or NAMES:
        began = time.monotonic()
        module = importlib.import_module(f"tests.benchmarks.{name}")
        print(f"\n## {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        try:
            figures: list[Figure] = cast(Benchmark, module).measure(quick=arguments.quick)
        except SystemExit as error:
            print(f"it could not be measured: {error}", flush=True)
            failed.append(name)
            continue
        print(f"{table(figures)}\n\n{time.monotonic() - began:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
