"""Scans beside text: when the texts of a folder are searchable, with a pile of scans among them and without."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path

from ingestd.library import Library
from tests import scans
from tests.benchmarks import runs
from tests.benchmarks.figures import Figure

SETTINGS = {"load": {"deadline": "10m", "idle_deadline": "10m"}}
STEPS = (0.25, 0.5, 0.75, 1.0)


def measure(*, quick: bool) -> list[Figure]:
    if find_spec("paddleocr") is None:
        raise SystemExit("ingestd[ocr] is not installed: pip install '.[ocr]'")
    pictures, texts = (5, 50) if quick else (30, 300)
    with runs.scratch() as scratch:
        alone = scratch / "alone"
        both = scratch / "both"
        for folder in (alone, both):
            folder.mkdir()
            for number in range(texts):
                text = f"Note {number}. {scans.ENGLISH[number % 6]} " * 8
                (folder / f"text {number}.txt").write_text(text)
        for number in range(pictures):
            lines = [f"Sheet {number}.", *scans.ENGLISH, *scans.CHINESE]
            (both / f"a scan {number}.png").write_bytes(scans.saved(scans.drawn(lines, 200)))
        runs.say(f"{texts} texts alone")
        without = curves(scratch / "state1", alone)[".txt"]
        runs.say(f"{texts} texts and {pictures} scans")
        found = curves(scratch / "state2", both)
    return [
        Figure(f"{texts} texts alone", spelled(without)),
        Figure(f"{texts} texts beside {pictures} scans", spelled(found[".txt"])),
        Figure(f"{pictures} scans beside them", spelled(found[".png"])),
        Figure("the last text, beside scans / alone", f"{found['.txt'][-1] / without[-1]:.2f}x"),
        Figure("a scan", f"{found['.png'][-1] / pictures:.2f} s"),
    ]


def curves(state: Path, folder: Path) -> dict[str, list[float]]:
    """By suffix: the seconds at which each file was searchable, in order. The workers are started before."""
    done: dict[str, list[float]] = {".txt": [], ".png": []}
    primer = state.with_name(f"{state.name}-primer.txt")
    primer.write_text("The first one starts the workers.")
    with Library(state=state, settings=SETTINGS) as library:
        list(library.ingest(primer))
        began = time.monotonic()
        for result in library.ingest(folder):
            if result.state != "indexed":
                raise SystemExit(f"{result.path} is {result.state}: {result.reason}")
            done[os.path.splitext(result.path)[1]].append(time.monotonic() - began)
    return done


def spelled(seconds: list[float]) -> str:
    """The curve: when each quarter was done."""
    places = (seconds[round(step * len(seconds)) - 1] for step in STEPS)
    return ", ".join(f"{step:.0%} {place:.1f} s" for step, place in zip(STEPS, places, strict=True))
