"""What the benchmarks found, as rows of a table: a figure, and the goal where there is one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `met`: None where there is no goal."""

    what: str
    value: str
    goal: str = ""
    met: bool | None = None


class Benchmark(Protocol):
    """A module of this package with its docstring's first line as a title."""

    def measure(self, *, quick: bool) -> list[Figure]: ...


def below(what: str, value: float, goal: float, unit: str) -> Figure:
    """A figure that is to stay below its goal."""
    return Figure(what, f"{value:.2f} {unit}", f"< {goal:g} {unit}", value < goal)


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """The median, and beside it the least and the largest where there are several."""
    text = f"{statistics.median(values):.{digits}f}{unit}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(figures: Sequence[Figure]) -> str:
    """Rows as Markdown, so that they can be read in a terminal and pasted into a page."""
    rows = [("figure", "value", "goal")]
    for figure in figures:
        verdict = "" if figure.met is None else ": met" if figure.met else ": MISSED"
        rows.append((figure.what, figure.value, figure.goal + verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
