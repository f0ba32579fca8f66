"""Workbooks of the old kind by xlrd: one page a sheet, a line a row, as those of the new kind are read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ingestd.errors import DamagedFileError, EncryptedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader
from ingestd_plugins import ooxml
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.rows import sheet_elements, trimmed


class XlsLoader:
    name = "xls"
    version = "1"
    suffixes: Sequence[str] = (".xls", ".xlt")
    media_types: Sequence[str] = ("application/vnd.ms-excel",)
    extracts = "As `sheets`: rows of each sheet under their column names, dates as dates, formulas as their last value"
    omits = "Comments, text boxes, charts, macros"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """The name of each sheet as a heading, then its rows; `page` is the sheet's number."""
        import xlrd

        if not file.size:
            raise DamagedFileError("the file is empty")
        said = io.StringIO()  # else it would go to standard output
        with _reading(file):
            book = xlrd.open_workbook(str(file.path), logfile=said, on_demand=True, ragged_rows=True)
            names = book.sheet_names()
        author = clean(book.user_name or "").strip()
        if author:
            file.metadata["author"] = author[:1000]
        damaged: list[str] = []
        for number, name in enumerate(names, 1):
            title = clean(name) or str(number)
            try:
                with _reading(file):
                    sheet = book.sheet_by_index(number - 1)
            except DamagedFileError as error:  # the others may be whole
                damaged.append(title)
                last = error
                continue
            elements = sheet_elements(_rows(file, book, sheet), title, number)
            first = next(elements, None)
            if first is not None:
                yield Element(title, "heading", page=number, level=1)
                yield first
                yield from elements
            book.unload_sheet(number - 1)
        if damaged and len(damaged) == len(names):
            raise last
        if damaged:
            file.warn(f"sheets that cannot be read: {', '.join(damaged[:50])}")


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [XlsLoader()]


@contextlib.contextmanager
def _reading(file: File) -> Iterator[None]:
    """Turn what the library raises over a file's content into `FileError`s."""
    import xlrd
    from xlrd.compdoc import CompDocError

    try:
        with ooxml.reading(file):
            yield
    except (xlrd.XLRDError, CompDocError) as error:
        if "encrypted" in str(error).lower():
            raise EncryptedFileError("needs a password") from None
        raise DamagedFileError(f"damaged: {cause(error)}") from None


def _rows(file: File, book: Any, sheet: Any) -> Iterator[Sequence[str]]:
    """Rows that hold something, as texts, without the empty cells at their ends."""
    for index in range(sheet.nrows):
        with _reading(file):
            cells = zip(sheet.row_types(index), sheet.row_values(index), strict=True)
            row = trimmed([_shown(book, kind, value) for kind, value in cells])
        if row:
            yield row


def _shown(book: Any, kind: int, value: Any) -> str:
    import xlrd

    if kind == xlrd.XL_CELL_TEXT:
        return " ".join(clean(value).split())
    if kind == xlrd.XL_CELL_NUMBER:
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if kind == xlrd.XL_CELL_DATE:
        return _date(book, value)
    if kind == xlrd.XL_CELL_BOOLEAN:
        return "TRUE" if value else "FALSE"
    if kind == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(value, "#ERROR"))
    return ""


def _date(book: Any, value: float) -> str:
    import xlrd

    try:
        moment = xlrd.xldate_as_datetime(value, book.datemode)
    except (ValueError, OverflowError, xlrd.XLDateError):
        return f"{value:.15g}"
    if 0 <= value < 1:
        return str(moment.time())
    return str(moment).removesuffix(" 00:00:00")
