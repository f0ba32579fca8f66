"""What people see of `ingestd try`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ingestd.cli import layout
from ingestd.cli.printable import clean, clean_line
from ingestd.config.units import spell_duration

SHOWN: Final = 40
"""Elements, and chunks, that are shown; `--json` has more."""
LINE: Final = 160
"""Characters of each."""


def tried(told: Mapping[str, Any]) -> Group:
    """What became of the file, its elements, its chunks."""
    good = told["state"] in ("loaded", "partial")
    facts = layout.Named()
    style = {"loaded": "green", "partial": "yellow"}.get(told["state"], "red")
    facts.add("state", Text(told["state"], style=style))
    for key in ("reason", "loader", "media_type", "title"):
        if told[key]:
            facts.add(key.replace("_", " "), Text(clean_line(told[key])))
    for key, value in told["metadata"].items():
        facts.add("metadata", Text(clean_line(f"{key}: {value}")))
    facts.add("time", f"{told['seconds'] * 1000:.0f} ms" if told["seconds"] < 1 else spell_duration(told["seconds"]))
    facts.add("memory", f"{told['memory'] / (1 << 20):,.0f} MiB at the most, with all that the worker started")
    facts.add("sandbox", Text(clean_line(_sandbox(told["sandbox"]))))
    for warning in told["warnings"]:
        facts.add("warning", Text(clean_line(warning), style="yellow"))
    for fault in told["faults"]:
        facts.add("fault", Text(clean_line(fault), style="red"))
    parts: list[RenderableType] = [layout.Whole(Text(clean_line(told["path"]), style="bold")), facts]
    for key in ("detail", "output"):
        if told[key]:
            parts += [Text(f"\n{key}", style="dim"), Text(clean(told[key]), overflow="fold")]
    if told["elements"]:
        parts += [Text(f"\n{layout.number_of(told['element_count'], 'element')}", style="bold"), _elements(told)]
    if told["parts"]:
        parts += [Text(f"\n{layout.number_of(told['part_count'], 'part')}", style="bold"), _parts(told)]
    if good:
        tokens = f"\n{layout.number_of(told['chunk_count'], 'chunk')}, {layout.number_of(told['tokens'], 'token')}"
        parts += [Text(tokens, style="bold"), *([_chunks(told)] if told["chunks"] else [])]
    return Group(*parts)


def _elements(told: Mapping[str, Any]) -> RenderableType:
    rows = []
    for element in told["elements"][:SHOWN]:
        more = element["length"] > len(element["text"])
        rows.append([element["kind"], element["page"], element["level"], _beginning(element["text"], more)])
    return _table(["kind", "page", "level"], rows, told["element_count"])


def _parts(told: Mapping[str, Any]) -> RenderableType:
    rows = []
    for part in told["parts"][:SHOWN]:
        rows.append([part["loader"] or "none", part["media_type"], f"{part['size']:,}", part["name"]])
        if part["error"]:
            rows[-1] = ["", "", "", f"{part['name']}: {part['error']}"]
    return _table(["loader", "type", "bytes"], rows, told["part_count"], last="name")


def _chunks(told: Mapping[str, Any]) -> RenderableType:
    rows = [
        [chunk["tokens"], chunk["page"], " > ".join(chunk["headings"]), _beginning(chunk["text"])]
        for chunk in told["chunks"][:SHOWN]
    ]
    return _table(["tokens", "page", "under"], rows, told["chunk_count"])


def _table(names: list[str], rows: list[list[Any]], number: int, last: str = "text") -> RenderableType:
    """What has something to say of each row, and its text; as a list where the terminal is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    said = [at for at in range(len(names)) if any(row[at] not in (None, "") for row in rows)]
    for at in said:
        table.add_column(names[at], no_wrap=names[at] != "under", overflow="fold")
    table.add_column(last, overflow="fold")
    narrow: list[RenderableType] = []
    for row in rows:
        *cells, text = (clean_line("" if cell is None else cell) for cell in row)
        table.add_row(*(Text(cells[at]) for at in said), Text(text))
        head = ", ".join(f"{names[at]} {cells[at]}" for at in said if cells[at])
        narrow += [Text(head, style="dim", overflow="fold")] if head else []
        narrow.append(Padding.indent(Text(text, overflow="fold"), 2))
    parts: list[RenderableType] = [layout.Either(table, Group(*narrow))]
    if number > SHOWN:
        parts.append(Text(f"... and {number - SHOWN:,} more", style="dim"))
    return Group(*parts)


def _beginning(text: str, more: bool = False) -> str:
    line = " ".join(text[: 2 * LINE].split())
    return line[:LINE] + ("..." if more or len(text) > LINE else "")


def _sandbox(report: Mapping[str, Any]) -> str:
    held = [name for name, on in (("files", report.get("landlock")), ("system calls", report.get("seccomp"))) if on]
    told = f"holds {' and '.join(held)}" if held else "holds nothing"
    return f"{told}; {report['reason']}" if report.get("reason") else told
