"""What people see of `ingestd try`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ingestd.cli.printable import clean, clean_line
from ingestd.config.units import spell_duration

SHOWN: Final = 40
"""Elements, and chunks, that are shown; `--json` has more."""
LINE: Final = 160
"""Characters of each."""


def tried(told: Mapping[str, Any]) -> Group:
    """What became of the file, its elements, its chunks."""
    good = told["state"] in ("loaded", "partial")
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    style = {"loaded": "green", "partial": "yellow"}.get(told["state"], "red")
    facts.add_row("state", Text(told["state"], style=style))
    for key in ("reason", "loader", "media_type", "title"):
        if told[key]:
            facts.add_row(key.replace("_", " "), Text(clean_line(told[key])))
    for key, value in told["metadata"].items():
        facts.add_row("metadata", Text(clean_line(f"{key}: {value}")))
    facts.add_row(
        "time", f"{told['seconds'] * 1000:.0f} ms" if told["seconds"] < 1 else spell_duration(told["seconds"])
    )
    facts.add_row("memory", f"{told['memory'] / (1 << 20):,.0f} MiB at the most, with all that the worker started")
    facts.add_row("sandbox", Text(clean_line(_sandbox(told["sandbox"]))))
    for warning in told["warnings"]:
        facts.add_row("warning", Text(clean_line(warning), style="yellow"))
    for fault in told["faults"]:
        facts.add_row("fault", Text(clean_line(fault), style="red"))
    parts: list[RenderableType] = [Text(clean_line(told["path"]), style="bold", overflow="fold"), facts]
    for key in ("detail", "output"):
        if told[key]:
            parts += [Text(f"\n{key}", style="dim"), Text(clean(told[key]), overflow="fold")]
    if told["elements"]:
        parts += [Text(f"\n{told['element_count']:,} elements", style="bold"), _elements(told)]
    if told["parts"]:
        parts += [Text(f"\n{told['part_count']:,} parts", style="bold"), _parts(told)]
    if good:
        tokens = f"\n{told['chunk_count']:,} chunks, {told['tokens']:,} tokens"
        parts += [Text(tokens, style="bold"), *([_chunks(told)] if told["chunks"] else [])]
    return Group(*parts)


def _elements(told: Mapping[str, Any]) -> Table:
    table = _table("kind", "page", "level", "text")
    for element in told["elements"][:SHOWN]:
        more = element["length"] > len(element["text"])
        cells = [element["kind"], element["page"], element["level"], _beginning(element["text"], more)]
        table.add_row(*(Text(clean_line("" if cell is None else cell)) for cell in cells))
    _rest(table, told["element_count"])
    return table


def _parts(told: Mapping[str, Any]) -> Table:
    table = _table("loader", "type", "bytes", "name")
    for part in told["parts"][:SHOWN]:
        cells = [part["loader"] or "none", part["media_type"], f"{part['size']:,}", part["name"]]
        if part["error"]:
            cells = ["", "", "", f"{part['name']}: {part['error']}"]
        table.add_row(*(Text(clean_line(cell)) for cell in cells))
    _rest(table, told["part_count"])
    return table


def _chunks(told: Mapping[str, Any]) -> Table:
    table = _table("tokens", "page", "under", "text")
    for chunk in told["chunks"][:SHOWN]:
        cells = [chunk["tokens"], chunk["page"], " > ".join(chunk["headings"]), _beginning(chunk["text"])]
        table.add_row(*(Text(clean_line("" if cell is None else cell)) for cell in cells))
    _rest(table, told["chunk_count"])
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _rest(table: Table, number: int) -> None:
    if number > SHOWN:
        table.add_row("", "", "", Text(f"... and {number - SHOWN:,} more", style="dim"))


def _beginning(text: str, more: bool = False) -> str:
    line = " ".join(text[: 2 * LINE].split())
    return line[:LINE] + ("..." if more or len(text) > LINE else "")


def _sandbox(report: Mapping[str, Any]) -> str:
    held = [name for name, on in (("files", report.get("landlock")), ("system calls", report.get("seccomp"))) if on]
    told = f"holds {' and '.join(held)}" if held else "holds nothing"
    return f"{told}; {report['reason']}" if report.get("reason") else told
