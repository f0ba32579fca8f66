"""A folder of real documents in every bundled format, with a question for each, and one of files that are broken.

Both are the same bytes on every run.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.corpus_texts import MISLABELLED, TOPICS, Topic

EPOCH = datetime(2024, 1, 1)


def build(directory: Path) -> list[tuple[str, str, str]]:
    """Write the documents below `directory`. Returns (relative path, question, phrase of the answer) for each."""
    entries = []
    for topic in (*TOPICS, *MISLABELLED):
        path = directory / topic.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document(topic))
        entries.append((topic.path, topic.query, topic.phrase))
    return entries


def document(topic: Topic) -> bytes:
    """The bytes of one document; the suffix of its path says how, but for the mislabelled ones."""
    written_as = {
        "odd/really-a-pdf.txt": ".pdf",
        "odd/really-a-document.pdf": ".docx",
        "odd/really-a-workbook.zip": ".xlsx",
    }
    suffix = written_as.get(topic.path, Path(topic.path).suffix)
    return _WRITERS[suffix](topic)


def samples() -> dict[str, bytes]:
    """One document of each format, by suffix; the largest variety of structure for the least bytes."""
    chosen: dict[str, bytes] = {}
    for topic in TOPICS:
        chosen.setdefault(Path(topic.path).suffix, document(topic))
    return chosen


# --- text -----------------------------------------------------------------------------------------------------


def _text(topic: Topic) -> bytes:
    return "\n\n".join((topic.title, *topic.paragraphs, "")).encode(topic.encoding)


def _log(topic: Topic) -> bytes:
    return "\n".join((*topic.paragraphs, "")).encode(topic.encoding)


def _markdown(topic: Topic) -> bytes:
    first, *others = topic.paragraphs
    return "\n\n".join((f"# {topic.title}", first, "## Details", *others, "")).encode()


def _rst(topic: Topic) -> bytes:
    return "\n".join((topic.title, "=" * len(topic.title), "", *(f"{text}\n" for text in topic.paragraphs))).encode()


def _latex(topic: Topic) -> bytes:
    body = "\n\n".join(topic.paragraphs)
    start = f"\\documentclass{{article}}\n\\begin{{document}}\n\\section{{{topic.title}}}\n"
    return f"{start}{body}\n\\end{{document}}\n".encode()


def _html(topic: Topic) -> bytes:
    charset = "gb2312" if not topic.title.isascii() else "utf-8"
    paragraphs = "".join(f"<p>{text}</p>\n" for text in topic.paragraphs)
    page = (
        f'<!DOCTYPE html>\n<html><head><meta charset="{charset}"><title>{topic.title}</title>'
        "<style>p { color: black }</style><script>var unseen = 1 < 2;</script></head>\n"
        f"<body><h1>{topic.title}</h1>\n{paragraphs}<ul><li>first</li><li>second</li></ul></body></html>\n"
    )
    return page.encode("gb18030" if charset == "gb2312" else "utf-8")


def _csv(topic: Topic) -> bytes:
    chinese = not topic.title.isascii()
    header = "书名,作者,简介" if chinese else "plant,sow,plant out,care"
    return "\n".join((header, *topic.paragraphs, "")).encode("utf-8-sig" if chinese else "utf-8")


def _tsv(topic: Topic) -> bytes:
    return "\n".join(("region\tsales\tremark", *topic.paragraphs, "")).encode()


def _json(topic: Topic) -> bytes:
    record = {"title": topic.title, "notes": [{"number": i, "text": text} for i, text in enumerate(topic.paragraphs)]}
    return json.dumps(record, ensure_ascii=not topic.title.isascii(), indent=1).encode()


def _jsonl(topic: Topic) -> bytes:
    records = (dict(zip(("opening", "idea"), text.split(": "), strict=True)) for text in topic.paragraphs)
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _python(topic: Topic) -> bytes:
    first, second = topic.paragraphs
    return (
        f'"""{topic.title}."""\n\nimport random\nimport time\n\n\ndef retry(function, attempts=5):\n'
        f'    """{first}"""\n    for attempt in range(attempts):\n        try:\n            return function()\n'
        "        except OSError:\n            time.sleep(2**attempt * random.random())\n\n\n"
        f"class Breaker:\n    # {second}\n    limit = 5\n"
    ).encode()


def _sql(topic: Topic) -> bytes:
    comments = "\n".join(f"-- {text}" for text in topic.paragraphs)
    return (
        f"-- {topic.title}\n\n{comments}\nCREATE TABLE loan (reader INTEGER, copy INTEGER UNIQUE, due DATE);\n".encode()
    )


# --- formats of libraries -------------------------------------------------------------------------------------


def pdf(pages: Sequence[Sequence[tuple[str, float]]], *, title: str = "", **save: Any) -> bytes:
    """A PDF of pages of (paragraph, size of its letters)."""
    from ingestd_plugins.pdf import _library

    pymupdf = _library()
    book = pymupdf.open()
    for paragraphs in pages:
        page = book.new_page()
        top = 72.0
        for text, size in paragraphs:
            font = "helv" if text.isascii() else "china-s"
            box = pymupdf.Rect(72, top, 520, 760)
            left = page.insert_textbox(box, text, fontsize=size, fontname=font)
            assert left >= 0, "the paragraph does not fit on the page"
            top = 760 - left + size
    book.set_metadata({"title": title, "creationDate": "", "modDate": "", "producer": "", "creator": ""})
    data = book.tobytes(no_new_id=True, deflate=True, **save)
    book.close()
    return bytes(data)


def _pdf(topic: Topic) -> bytes:
    return pdf([[(topic.title, 20.0), *((text, 11.0) for text in topic.paragraphs)]], title=topic.title)


def _docx(topic: Topic) -> bytes:
    import docx

    book = docx.Document()
    book.core_properties.title = topic.title
    book.core_properties.created = book.core_properties.modified = EPOCH
    book.add_heading(topic.title, 1)
    for text in topic.paragraphs:
        book.add_paragraph(text)
    table = book.add_table(2, 3)
    for cell, text in zip(table._cells, ("Version", "Author", "State", "3", "Editorial office", "final"), strict=True):
        cell.text = text
    book.sections[0].footer.paragraphs[0].text = "For internal use"
    return _saved(book.save)


def _pptx(topic: Topic) -> bytes:
    import pptx

    deck = pptx.Presentation()
    deck.core_properties.created = deck.core_properties.modified = EPOCH
    for number, text in enumerate(topic.paragraphs):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = topic.title if number == 0 else f"{topic.title} ({number + 1})"
        slide.placeholders[1].text = text
    deck.slides[0].notes_slide.notes_text_frame.text = "Greet the audience."
    return _saved(deck.save)


def _xlsx(topic: Topic) -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    book.properties.created = book.properties.modified = EPOCH
    sheet = book.active
    sheet.title = topic.title
    sheet.append(["名称", "价格", "说明"] if not topic.title.isascii() else ["what", "details", "remark"])
    for text in topic.paragraphs:
        sheet.append(text.split("|"))
    return _saved(book.save)


def _saved(save: Callable[[io.BytesIO], None]) -> bytes:
    """What a library saves as a zip, without the time of day in it."""
    stream = io.BytesIO()
    save(stream)
    with zipfile.ZipFile(stream) as source:
        return zipped({name: source.read(name) for name in source.namelist()})


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip of the members, in their order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            if name == "docProps/core.xml":  # openpyxl writes the time of saving whatever one says
                data = _without_time(data)
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _without_time(core: bytes) -> bytes:
    import re

    return re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>2024-01-01T00:00:00Z", core)


_WRITERS: dict[str, Callable[[Topic], bytes]] = {
    "": _text,
    ".txt": _text,
    ".log": _log,
    ".md": _markdown,
    ".rst": _rst,
    ".tex": _latex,
    ".html": _html,
    ".csv": _csv,
    ".tsv": _tsv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".py": _python,
    ".sql": _sql,
    ".pdf": _pdf,
    ".docx": _docx,
    ".pptx": _pptx,
    ".xlsx": _xlsx,
}


# --- hostile --------------------------------------------------------------------------------------------------


def ole(*streams: str) -> bytes:
    """An OLE compound file whose directory names these (empty) streams, at most three."""
    end, free, table = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD
    header = bytearray(512)
    header[:8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    struct.pack_into("<5H", header, 24, 0x3E, 3, 0xFFFE, 9, 6)
    struct.pack_into("<9L", header, 40, 0, 1, 1, 0, 4096, end, 0, end, 0)
    struct.pack_into("<109L", header, 76, 0, *[free] * 108)
    allocation = struct.pack("<128L", table, end, *[free] * 126)
    directory = b""
    for index, name in enumerate(("Root Entry", *streams)):
        encoded = name.encode("utf-16-le")
        entry = bytearray(128)
        entry[: len(encoded)] = encoded
        struct.pack_into("<H2B3L", entry, 64, len(encoded) + 2, 2 if index else 5, 1, free, free, free)
        struct.pack_into("<LQ", entry, 116, end, 0)
        directory += bytes(entry)
    return bytes(header) + allocation + directory.ljust(512, b"\0")


def bomb(name: str = "word/document.xml", size: int = 1 << 20, claimed: int = 6 << 30) -> bytes:
    """A zip whose directory says that a member is `claimed` bytes when unpacked."""
    data = zipped({"[Content_Types].xml": b"<Types/>", name: b" " * size})
    claim = struct.pack("<L", min(claimed, 0xFFFFFFF0))
    entry = data.rfind(b"PK\x01\x02")
    return data[: entry + 24] + claim + data[entry + 28 :]


def flipped(data: bytes, seed: int, bits: int = 8) -> bytes:
    """A copy with some bits inverted."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(bits):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def hostile(directory: Path) -> list[tuple[str, str]]:
    """Write files that are at fault below `directory`. Returns (relative path, outcome) for each.

    An outcome is the name of the `FileError` that the loader has to raise, "empty" for a file that loads without an
    element, "warning" for one that loads with a warning, "skipped" for one that no loader takes.
    """
    import pymupdf

    random_bytes = random.Random(1).randbytes(3000)
    formats = samples()
    locked = pdf([[("secret", 11.0)]], encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="a", owner_pw="b")
    lines = b"".join(b"line %d of a log\n" % number for number in range(1000))
    files: list[tuple[str, bytes, str]] = [
        ("empty.txt", b"", "empty"),
        ("empty.csv", b"", "empty"),
        ("empty.json", b"", "empty"),
        ("empty.html", b"", "empty"),
        ("empty.pdf", b"", "DamagedFileError"),
        ("empty.docx", b"", "DamagedFileError"),
        ("empty.pptx", b"", "DamagedFileError"),
        ("empty.xlsx", b"", "DamagedFileError"),
        ("blank.txt", b" \n\t\n\r\n", "empty"),
        ("half.docx", formats[".docx"][: len(formats[".docx"]) // 2], "DamagedFileError"),
        ("half.pptx", formats[".pptx"][: len(formats[".pptx"]) // 2], "DamagedFileError"),
        ("half.xlsx", formats[".xlsx"][: len(formats[".xlsx"]) // 2], "DamagedFileError"),
        ("head.pdf", formats[".pdf"][:60], "DamagedFileError"),
        ("headless.pdf", formats[".pdf"][9:], "warning"),
        ("half.json", formats[".json"][: len(formats[".json"]) // 2], "DamagedFileError"),
        ("comma.json", b'{"a": 1,}', "DamagedFileError"),
        ("some-lines.jsonl", b'{"a": "one"}\n{"a": \n{"a": "three"}\n', "warning"),
        ("no-lines.jsonl", b"one\ntwo\n", "DamagedFileError"),
        ("locked.pdf", locked, "EncryptedFileError"),
        ("locked.docx", ole("EncryptionInfo", "EncryptedPackage"), "EncryptedFileError"),
        ("locked.pptx", ole("EncryptionInfo", "EncryptedPackage"), "EncryptedFileError"),
        ("locked.xlsx", ole("EncryptionInfo", "EncryptedPackage"), "EncryptedFileError"),
        ("old-word.docx", ole("WordDocument"), "skipped"),
        ("bomb.docx", bomb(), "LimitError"),
        ("bomb.pptx", bomb("ppt/presentation.xml"), "LimitError"),
        ("no-types.docx", zipped({"word/document.xml": b"<x/>"}), "DamagedFileError"),
        ("not-xml.docx", _with_member(formats[".docx"], "word/document.xml", b"<w:document"), "DamagedFileError"),
        ("not-xml.xlsx", _with_member(formats[".xlsx"], "xl/workbook.xml", b"<workbook"), "DamagedFileError"),
        ("noise.txt", random_bytes, "skipped"),
        ("noise.pdf", random_bytes, "DamagedFileError"),
        ("noise.docx", random_bytes, "DamagedFileError"),
        ("noise", random_bytes, "skipped"),
        ("program.txt", b"\x7fELF\x02\x01\x01" + bytes(500), "skipped"),
        ("late-noise.txt", lines + random_bytes * 4, "DamagedFileError"),
        ("zeros.log", lines + bytes(300) + lines, "warning"),
        ("one-bad-byte.txt", lines + "größer".encode() * 20 + b"\xff\n", "warning"),
        ("picture.docx", base64.b64decode(_PIXEL), "skipped"),
        ("open-quote.csv", b'name,remark\nann,"never closed\n' + b"bob,fine\n" * 20000, "warning"),
        ("nested.json", b"[" * 100_000 + b'"deep"' + b"]" * 100_000, "text"),
        ("nested.html", b"<div>" * 100_000 + b"deep", "text"),
        ("one-line.txt", b"word " * 200_000, "text"),
    ]
    for name, data, _ in files:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return [(name, outcome) for name, _, outcome in files]


def _with_member(data: bytes, name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return zipped({member: content if member == name else source.read(member) for member in source.namelist()})


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
