"""Workbooks by openpyxl: one page a sheet, a line a row, read as they come."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins import embedded, ooxml
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.rows import sheet_elements, trimmed

UNPACKED_LIMIT = 4 << 30
"""Bytes. Sheets are streamed; only the table of shared texts is held in memory."""
EMPTY_ROWS = 5000
"""A sheet ends after so many empty rows: formatting often goes on for a million."""
BATCH = 200
"""Rows read at once."""


class SheetsLoader:
    name = "sheets"
    version = "1"
    suffixes: Sequence[str] = (".xlsx", ".xlsm", ".xltx", ".xltm")
    media_types: Sequence[str] = (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.ms-excel.sheet.macroenabled.12",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.template",
        "application/vnd.ms-excel.template.macroenabled.12",
    )
    extracts = (
        "The name of each sheet, then a line for each row, `column: value; ...` below column names; formulas as "
        "the value that was saved last; embedded files as documents of their own"
    )
    omits = "Formulas as such, comments, text boxes, charts, pictures, macros; what follows 5,000 empty rows"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        """The name of each sheet as a heading, then its rows; `page` is the sheet's number."""
        ooxml.check(file, self.name, UNPACKED_LIMIT)
        from openpyxl import load_workbook

        with _reading(file):
            # Other programs write styles that the library refuses; without them dates are shown as numbers.
            book = ooxml.opened(
                file,
                lambda path: load_workbook(path, read_only=True, data_only=True, keep_links=False),
                expendable=("xl/styles.xml",),
            )
        with contextlib.closing(book):
            _properties(file, book)
            for number, sheet in enumerate(book.worksheets, 1):
                name = clean(sheet.title)
                elements = sheet_elements(_rows(file, sheet, name), name, number)
                first = next(elements, None)
                if first is not None:
                    yield Element(name, "heading", page=number, level=1)
                    yield first
                    yield from elements
        yield from embedded.of_office(file)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [SheetsLoader()]


@contextlib.contextmanager
def _reading(file: File) -> Iterator[None]:
    """The library warns of what it does not keep; only what changes cells is worth passing on."""
    with warnings.catch_warnings(record=True) as caught, ooxml.reading(file):
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "date" in str(warning.message) and "limits" in str(warning.message):
            file.warn(str(warning.message)[:300])


def _properties(file: File, book: Any) -> None:
    for key, attribute in (("author", "creator"), ("subject", "subject"), ("keywords", "keywords")):
        value = clean(str(getattr(book.properties, attribute, None) or "")).strip()
        if value and value != "openpyxl":
            file.metadata[key] = value[:1000]
    title = clean(str(book.properties.title or "")).strip()
    if title:
        file.title = title[:1000]


def _rows(file: File, sheet: Any, name: str) -> Iterator[Sequence[str]]:
    """Rows that hold something, as texts, without the empty cells at their ends."""
    with _reading(file):
        sheet.reset_dimensions()  # files state wrong ones
        source = sheet.iter_rows(values_only=True)
    empty = 0
    while True:
        with _reading(file):
            batch = list(itertools.islice(source, BATCH))
        if not batch:
            return
        for values in batch:
            row = trimmed(["" if value is None else _shown(value) for value in values])
            if row:
                empty = 0
                yield row
                continue
            empty += 1
            if empty >= EMPTY_ROWS:
                file.warn(f"sheet {name!r}: what follows {EMPTY_ROWS} empty rows was not read")
                return


def _shown(value: Any) -> str:
    if isinstance(value, str):
        text = clean(value).strip()
        return " ".join(text.split()) if "\n" in text else text
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return clean(str(value))
