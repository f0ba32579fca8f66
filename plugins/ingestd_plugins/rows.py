"""Rows of a table as text: each row says what its columns are called, so that a passage is understood alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from ingestd.types import Element, Metadata

GROUP = 1200
"""Characters; rows are gathered into elements of about this size."""
HEADER_ROWS = 10
"""Rows of a sheet in which the column names are looked for."""


def is_header(row: Sequence[str]) -> bool:
    """True where a row looks like column names: at least two, different, none empty, long or a number."""
    names = trimmed(row)
    return (
        len(names) >= 2
        and len(set(names)) == len(names)
        and all(name and len(name) <= 80 and not _number(name) for name in names)
    )


def trimmed(row: Sequence[str]) -> Sequence[str]:
    """Without the empty cells at its end."""
    end = len(row)
    while end and not row[end - 1]:
        end -= 1
    return row[:end]


def line(row: Sequence[str], header: Sequence[str] | None) -> str:
    """ "name: value; ..." with a header, else the cells in a row; "" for an empty row."""
    if header:
        named = len(header)
        return "; ".join(
            f"{header[index]}: {cell}" if index < named and header[index] else cell
            for index, cell in enumerate(row)
            if cell
        )
    return " | ".join(cell for cell in row if cell)


def grouped(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] | None = None,
    page: int | None = None,
    metadata: Metadata | None = None,
) -> Iterator[Element]:
    """Elements of kind `table`, one line for each row that is not empty. A huge row is an element of its own."""
    group: list[str] = []
    size = 0
    for row in rows:
        text = line(row, header)
        if not text:
            continue
        if size + len(text) > GROUP and group:
            yield Element("\n".join(group), "table", page=page, metadata=metadata or {})
            group, size = [], 0
        group.append(text)
        size += len(text) + 1
    if group:
        yield Element("\n".join(group), "table", page=page, metadata=metadata or {})


def sheet_elements(rows: Iterator[Sequence[str]], name: str, number: int) -> Iterator[Element]:
    """A workbook's sheet: what stands above the table, then its rows under their column names; `page` is `number`."""
    opening = list(itertools.islice(rows, HEADER_ROWS))
    header: Sequence[str] | None = None
    before: list[Sequence[str]] = []  # a title over the table, an empty row
    for index, row in enumerate(opening):
        if is_header(row) and all(len(trimmed(other)) <= len(row) for other in opening[index + 1 :]):
            header = row
            opening = opening[index + 1 :]
            break
        if sum(map(bool, row)) > 1:
            break
        before.append(row)
    metadata = {"sheet": name}
    if header is None:
        yield from grouped(itertools.chain(opening, rows), page=number, metadata=metadata)
        return
    yield from grouped(before, page=number, metadata=metadata)
    body = itertools.chain(opening, rows)
    first = next(body, None)
    if first is None:  # a form: found by its column names
        yield from grouped([header], page=number, metadata=metadata)
    else:
        yield from grouped(itertools.chain([first], body), header=header, page=number, metadata=metadata)


def _number(text: str) -> bool:
    stripped = text.strip().rstrip("%").replace(",", "").replace(".", "").replace("-", "").replace("/", "")
    return stripped.isdigit()
