"""The order in which a person reads the blocks of a page, and the text of one block's lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in points from the upper left corner."""

GUTTER = 6.0
"""Points; narrower gaps do not separate columns."""


class Line(NamedTuple):
    text: str
    box: Box
    size: float
    """Points, of most of its letters."""
    bold: bool


class Block(NamedTuple):
    lines: Sequence[Line]
    box: Box


def in_reading_order(blocks: list[Block]) -> list[Block]:
    """Columns one after the other, everything else from top to bottom. Shape: as many blocks as given.

    Columns are told from the cells of a table by their width: prose fills its column.
    """
    ordered: list[Block] = []
    pending = [blocks]
    while pending:
        region = pending.pop()
        parts = _columns(region) or _strips(region) if len(region) > 1 else None
        if parts is None:
            ordered.extend(sorted(region, key=lambda block: (round(block.box[1] / 4), block.box[0])))
        else:
            pending.extend(reversed(parts))
    return ordered


def _columns(region: list[Block]) -> list[list[Block]] | None:
    """Left and right of a gap that no block crosses, where both sides are prose."""
    left = min(block.box[0] for block in region)
    right = max(block.box[2] for block in region)
    edge = left
    best: tuple[float, float] | None = None
    for block in sorted(region, key=lambda block: block.box[0]):
        gap = block.box[0] - edge
        if gap >= GUTTER and edge > left and (best is None or gap > best[0]):
            best = gap, (block.box[0] + edge) / 2
        edge = max(edge, block.box[2])
    if best is None:
        return None
    sides = (
        [block for block in region if block.box[0] < best[1]],
        [block for block in region if block.box[0] >= best[1]],
    )
    if all(_is_prose(side, right - left) for side in sides):
        return list(sides)
    return None


def _is_prose(side: Sequence[Block], width: float) -> bool:
    lines = [line for block in side for line in block.lines]
    characters = sum(len(line.text) for line in lines)
    spread = max(line.box[2] for line in lines) - min(line.box[0] for line in lines)
    return len(lines) >= 3 and characters / len(lines) >= 12 and spread >= 0.2 * width


def _strips(region: list[Block]) -> list[list[Block]] | None:
    """Cut above and below the blocks that are wide enough to span columns, so that these can be told apart."""
    left = min(block.box[0] for block in region)
    right = max(block.box[2] for block in region)
    middle = (left + right) / 2
    ordered = sorted(region, key=lambda block: block.box[1])
    strips: list[list[Block]] = [[]]
    spanning_before = False
    for block in ordered:
        spanning = block.box[0] < middle - GUTTER and block.box[2] > middle + GUTTER
        if strips[-1] and spanning != spanning_before:
            strips.append([])
        strips[-1].append(block)
        spanning_before = spanning
    return strips if len(strips) > 1 else None


_WIDE = r"\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_ENDS_WIDE = re.compile(rf"[{_WIDE}]$")
_STARTS_WIDE = re.compile(rf"[{_WIDE}]")


def paragraph(lines: Sequence[Line]) -> str:
    """The lines as one text: words that a hyphen splits are joined, ideographs need no space between them."""
    text = ""
    for index, line in enumerate(lines):
        piece = line.text.strip()
        if not piece:
            continue
        if not text:
            text = piece
        elif lines[index - 1].box[1] >= line.box[3] - 1 or _beside(lines[index - 1], line):
            text += " " + piece
        elif len(text) > 1 and text[-1] in "-\u2010" and text[-2].isalpha() and piece[0].islower():
            text = text[:-1] + piece
        elif _ENDS_WIDE.search(text[-1]) and _STARTS_WIDE.match(piece):
            text += piece
        else:
            text += " " + piece
    return text


def _beside(first: Line, second: Line) -> bool:
    """True for cells of one row."""
    return abs(first.box[1] - second.box[1]) < 2 and second.box[0] >= first.box[2]
