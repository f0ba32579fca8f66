"""PDF by PyMuPDF: the text layer, page by page, in the order in which a person reads it."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from ingestd.errors import DamagedFileError, EncryptedFileError, MissingError
from ingestd.hookspecs import hookimpl
from ingestd.plugins import lacks
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins import embedded, pdf_scans
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.ocr import OcrLoader
from ingestd_plugins.pagelayout import Block, Line, in_reading_order, paragraph

SHRINK_EVERY = 50
"""Pages after which MuPDF's cache of fonts and images is emptied."""
MARGIN = 0.08
"""Share of a page's height, above and below, in which running titles and page numbers stand."""


_NO_OCR = lacks(OcrLoader)
"""What is to be installed before pages can be read by OCR."""


class PdfLoader:
    name = "pdf"
    version = "2 without OCR" if _NO_OCR else "2"
    suffixes: Sequence[str] = (".pdf",)
    media_types: Sequence[str] = ("application/pdf",)
    extracts = (
        "The text layer page by page, columns one after the other, words joined that a hyphen splits; headings by "
        "outline and size of letters; running titles once; readers' notes; title, author, subject and keywords; "
        "embedded files as documents of their own. With `ingestd[ocr]` pages without text, or with garbage for text, "
        "and what large pictures show, each page as a document of its own, see `ocr`"
    )
    omits = "Page numbers; forms, scripts, sounds; the text in small pictures"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        """One element for each paragraph; headings by the outline and by the size of the letters. A part for each page
        that is to be read by OCR.

        Raises `MissingError` where that is not installed and no page has text.
        """
        pymupdf = _library()
        if file.size == 0:
            raise DamagedFileError("the file is empty")
        try:
            document = pymupdf.open(str(file.path), filetype="pdf")
        except (pymupdf.FileDataError, pymupdf.mupdf.FzErrorBase) as error:
            raise DamagedFileError(f"damaged: {_cause(error)}") from None
        with contextlib.closing(document):
            if document.needs_pass and not document.authenticate(""):
                raise EncryptedFileError("needs a password")
            yield from _document(pymupdf, document, file)
            yield from embedded.of_pdf(file, document)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [PdfLoader()]


def _library() -> ModuleType:
    """PyMuPDF without its layout add-on, which it imports wherever that is installed and which is not needed here.

    The add-on brings onnxruntime: twice the time and 70 MB more in every worker. A module set to None in
    `sys.modules` cannot be imported, which PyMuPDF takes for "not installed"; afterwards others can import it again.
    """
    if "pymupdf" not in sys.modules:
        kept_out = [name for name in ("pymupdf.layout", "pymupdf4llm") if name not in sys.modules]
        sys.modules.update(dict.fromkeys(kept_out))  # type: ignore[arg-type]  # None has this documented meaning
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG's types, on Python 3.12 and later
                importlib.import_module("pymupdf")
        finally:
            for name in kept_out:
                sys.modules.pop(name, None)
    pymupdf = sys.modules["pymupdf"]
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    return pymupdf


def _document(pymupdf: ModuleType, document: Any, file: File) -> Iterator[Element | Part]:
    broken = (pymupdf.mupdf.FzErrorBase, pymupdf.FileDataError, RuntimeError, ValueError, LookupError, TypeError)
    try:
        count = document.page_count
        _metadata(document, file)
    except broken as error:
        raise DamagedFileError(f"damaged: {_cause(error)}") from None
    if count == 0:
        raise DamagedFileError("damaged: it has no pages")
    if document.is_repaired:
        file.warn("the file is damaged; what could be repaired was read")
    file.metadata["pages"] = count
    outline = _outline(document, broken)
    style = _Style()
    unread: list[int] = []  # pages that show something that is no text
    failed: list[int] = []
    last = ""
    spoken = False
    for number in range(1, count + 1):
        try:
            page = document.load_page(number - 1)
            blocks = _blocks(pymupdf, page)
            lines = [line for block in blocks for line in block.lines]
            garbage = pdf_scans.garbled(" ".join(line.text for line in lines))
            boxes = pdf_scans.to_read(page, lines, garbage)
            scan = None
            if boxes and not _NO_OCR:
                suffix, scan = pdf_scans.picture(pymupdf, page, boxes, [] if garbage else lines)
            blocks = [] if garbage else in_reading_order(blocks)
            notes = list(_notes(page))
        except broken as error:
            failed.append(number)
            last = _cause(error)
            continue
        for element in style.elements(blocks, page.rect.height, number, outline.get(number, {})):
            spoken = True
            yield element
        for note in notes:
            spoken = True
            yield Element(note, "note", page=number)
        if scan is not None:
            yield file.part(f"page {number}{suffix}", scan)
        elif boxes:
            unread.append(number)
        if number % SHRINK_EVERY == 0:
            pymupdf.TOOLS.store_shrink(100)
            pymupdf.TOOLS.reset_mupdf_warnings()
    pymupdf.TOOLS.reset_mupdf_warnings()
    if failed and len(failed) == count:
        raise DamagedFileError(f"damaged: no page can be read: {last}")
    if failed:
        file.warn(f"pages that cannot be read: {_ranges(failed)} ({last})")
    if unread and not spoken:
        raise MissingError(f"needs {_NO_OCR}: none of its {count} pages has a text layer")
    if unread:
        file.partial = f"pages {_ranges(unread)} need {_NO_OCR}"


def _metadata(document: Any, file: File) -> None:
    found = document.metadata or {}
    title = clean(found.get("title") or "").strip()
    # Word processors put the name of the file they printed there.
    if title and not re.fullmatch(
        r"(?i)untitled.*|microsoft word - .*|.*\.(?:docx?|pptx?|xlsx?|tex|dvi|pdf|indd)", title
    ):
        file.title = title[:1000]
    for key in ("author", "subject", "keywords"):
        value = clean(found.get(key) or "").strip()
        if value:
            file.metadata[key] = value[:1000]


def _outline(document: Any, broken: tuple[type[BaseException], ...]) -> dict[int, dict[str, int]]:
    """Levels of the outline's titles by page."""
    outline: dict[int, dict[str, int]] = {}
    try:
        entries = document.get_toc(simple=True)
    except broken:  # only the outline is lost
        return outline
    for level, title, page in entries:
        key = _key(title)
        if key and page > 0:
            outline.setdefault(page, {})[key] = level
    return outline


def _key(text: str) -> str:
    return "".join(text.split()).casefold()[:200]


def _blocks(pymupdf: ModuleType, page: Any) -> list[Block]:
    # Without TEXT_CID_FOR_UNKNOWN_UNICODE a letter without a meaning is U+FFFD, not another letter.
    flags = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
    blocks = []
    good = lost = 0
    for block in page.get_text("dict", flags=flags)["blocks"]:
        lines = []
        for line in block.get("lines", ()):
            spans = line["spans"]
            text = "".join(span["text"] for span in spans)
            if text.isspace() or not text:
                continue
            lost += text.count("\ufffd")
            good += len(text)
            main = max(spans, key=lambda span: len(span["text"]))
            bold = bool(main["flags"] & pymupdf.TEXT_FONT_BOLD) or "bold" in main["font"].lower()
            lines.append(Line(clean(_plain(text)), line["bbox"], round(main["size"], 1), bold))
        if lines:
            blocks.append(Block(lines, block["bbox"]))
    # Letters without a meaning: the font does not say which characters they are.
    return [] if lost > pdf_scans.ODD * good else blocks


_ODD = re.compile("[\ufb00-\ufb06\u00ad\u200b\u2060\ufffd\ue000-\uf8ff]")


def _plain(text: str) -> str:
    """Ligatures as letters, soft hyphens as hyphens; what stands for no character is left out."""
    return _ODD.sub(_letters, text) if _ODD.search(text) else text


def _letters(odd: re.Match[str]) -> str:
    if "\ufb00" <= odd[0] <= "\ufb06":
        return unicodedata.normalize("NFKC", odd[0])
    return "-" if odd[0] == "\u00ad" else ""


def _notes(page: Any) -> Iterator[str]:
    """What readers wrote on the page."""
    if page.first_annot is None:
        return
    for note in page.annots():
        text = clean(note.info.get("content") or "").strip()
        if text:
            yield text


class _Style:
    """Learns page by page what body text and running titles of this document look like."""

    def __init__(self) -> None:
        self._sizes: Counter[float] = Counter()
        self._running: set[str] = set()

    def elements(
        self, blocks: Sequence[Block], height: float, number: int, outline: dict[str, int]
    ) -> Iterator[Element]:
        for block in blocks:
            for line in block.lines:
                self._sizes[line.size] += len(line.text)
        body = self._sizes.most_common(1)[0][0] if self._sizes else 0.0
        for block in blocks:
            text = paragraph(block.lines)
            marginal = _is_marginal(block, text, height)
            if not text or (marginal and self._is_repeated(text)):
                continue
            level = outline.get(_key(text)) or (None if marginal else self._level(block, text, body))
            if level:
                yield Element(text, "heading", page=number, level=level)
            else:
                yield Element(text, "header" if marginal else "text", page=number)

    def _level(self, block: Block, text: str, body: float) -> int | None:
        if len(block.lines) > 3 or len(text) > 200 or text.endswith((".", ",", ";", "。", "，", "；")):
            return None
        size = min(line.size for line in block.lines)
        if size >= 1.7 * body:
            return 1
        if size >= 1.35 * body:
            return 2
        if size >= 1.12 * body or (
            size >= body and len(block.lines) == 1 and len(text) <= 80 and all(line.bold for line in block.lines)
        ):
            return 3
        return None

    def _is_repeated(self, text: str) -> bool:
        """True for page numbers, and for running titles from their second page on."""
        pattern = re.sub(r"\d+", "#", text)
        if _PAGE_NUMBER.fullmatch(pattern) or pattern in self._running:
            return True
        if len(self._running) < 1000:
            self._running.add(pattern)
        return False


_PAGE_NUMBER = re.compile(
    r"[\W_]*(?:page|seite|第)?\s*(?:#|[ivxlc]{1,7})\s*[页頁]?(?:\s*(?:/|of|von|共)\s*#\s*[页頁]?)?[\W_]*", re.I
)


def _is_marginal(block: Block, text: str, height: float) -> bool:
    """True for short text at the top or the foot of a page."""
    _, top, _, bottom = block.box
    return len(block.lines) <= 2 and len(text) <= 150 and (bottom <= MARGIN * height or top >= (1 - MARGIN) * height)


def _ranges(numbers: Sequence[int]) -> str:
    """ "3, 7-9"."""
    parts: list[str] = []
    start = previous = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == previous + 1:
            previous = number
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ", ".join(parts) if len(parts) <= 50 else ", ".join([*parts[:50], "..."])


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
