"""Delimited tables and JSON: records, one line each, read as they come."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader
from ingestd_plugins.charset import blocks, clean, lines
from ingestd_plugins.damage import guarded
from ingestd_plugins.jsontext import JsonSyntaxError, records
from ingestd_plugins.rows import grouped, is_header, trimmed

SNIFF_ROWS = 50
RECORD = 1200
"""Characters; JSON records are gathered into elements of about this size."""


class TableLoader:
    name = "tables"
    version = "1"
    suffixes: Sequence[str] = (".csv", ".tsv", ".tab")
    media_types: Sequence[str] = ("text/csv", "text/tab-separated-values")
    extracts = "A line for each row, `column: value; ...` where the first row names the columns; the delimiter is found"
    omits = "Empty cells"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """One line for each row, "column: value; ..." where the first row names the columns."""
        source = lines(file)
        sample = list(itertools.islice(source, SNIFF_ROWS))
        delimiter = ""
        if sample and sample[0].lower().startswith("sep=") and len(sample[0].strip()) == 5:  # a hint for Excel
            delimiter = sample.pop(0)[4]
        if not delimiter:
            delimiter = "\t" if file.suffix in (".tsv", ".tab") and "\t" in "".join(sample) else _delimiter(sample)
        rows = _rows(file, itertools.chain(sample, source), delimiter)
        first = next(rows, None)
        if first is None:
            return
        if is_header(first):
            file.metadata["columns"] = [name[:200] for name in trimmed(first)[:200]]
            yield from grouped(_or_header(first, rows), header=first)
        else:
            yield from grouped(itertools.chain([first], rows))


def _or_header(header: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[Sequence[str]]:
    """A table that is only its header is found by its column names."""
    first = next(rows, None)
    if first is None:
        yield [""] * len(header) + [" | ".join(header)]
    else:
        yield first
        yield from rows


def _delimiter(sample: Sequence[str]) -> str:
    """The one that gives most rows the same number of columns, and more than one."""
    best, best_score = ",", 0.0
    for candidate in ",;\t|":
        try:
            widths = Counter(len(row) for row in csv.reader(sample, delimiter=candidate) if row)
        except csv.Error:
            continue
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        score = count / max(1, widths.total()) + 0.001 * min(width, 50) if width > 1 else 0.0
        if score > best_score:
            best, best_score = candidate, score
    return best


def _rows(file: File, source: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Rows of stripped cells. A quote that never ends would swallow the rest of the file: it is read as a character."""
    unread: list[str] = []

    def recorded() -> Iterator[str]:
        for line in source:
            unread.append(line)
            yield line

    reader = csv.reader(recorded(), delimiter=delimiter)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            file.warn(f"row {reader.line_num}: {error}; from there on quotes are read as they are")
            plain = csv.reader(
                (
                    line[i : i + 65536]
                    for line in itertools.chain(list(unread), source)
                    for i in range(0, len(line), 65536)
                ),
                delimiter=delimiter,
                quoting=csv.QUOTE_NONE,
            )
            for row in plain:
                yield [_tidy(cell) for cell in row]
            return
        if row is None:
            return
        unread.clear()
        yield [_tidy(cell) for cell in row]


def _tidy(cell: str) -> str:
    cell = cell.strip()
    return " ".join(cell.split()) if "\n" in cell else cell


class JsonLoader:
    name = "json"
    version = "1"
    suffixes: Sequence[str] = (".json", ".jsonl", ".ndjson")
    media_types: Sequence[str] = ("application/json", "application/x-ndjson")
    extracts = "A line for each value, `key.path: value`, gathered by record"
    omits = "`null`"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Lines "key.path: value", gathered by record."""
        yield from _gathered(_records_by_line(file) if file.suffix in (".jsonl", ".ndjson") else _records(file))


def _gathered(found: Iterable[list[str]]) -> Iterator[Element]:
    group = ""
    for record in found:
        text = "\n".join(record)
        if group and len(group) + len(text) > RECORD:
            yield Element(group)
            group = ""
        group = f"{group}\n\n{text}" if group and "\n" in text else f"{group}\n{text}" if group else text
    if group:
        yield Element(group)


def _records(file: File) -> Iterator[list[str]]:
    try:
        for record in records(blocks(file)):
            yield [clean(line) for line in record]
    except JsonSyntaxError as error:
        raise DamagedFileError(f"not JSON: {error}") from None


def _records_by_line(file: File) -> Iterator[list[str]]:
    good = bad = 0
    for number, line in enumerate(lines(file), 1):
        if not line.strip():
            continue
        try:
            found = list(records([line]))
        except JsonSyntaxError as error:
            bad += 1
            if bad <= 8:
                file.warn(f"line {number} is not JSON and was left out: {error.reason}")
            continue
        good += 1
        for record in found:
            yield [clean(text) for text in record]
    if bad and not good:
        raise DamagedFileError(f"none of its {bad} lines is JSON")
    if bad > 8:
        file.warn(f"{bad} lines were left out in all")


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [TableLoader(), JsonLoader()]
