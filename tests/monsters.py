"""Small files that claim, or come to, what no machine can hold; and files behind a password. Made, never stored."""

from __future__ import annotations

import functools
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

from tests import archives, corpus, formats, outlook, quines

BLOCK = 1 << 20
TEN_GB = 10 << 30


def giant(good: bytes, member: str, fill: bytes = b" ", size: int = TEN_GB, claimed: int | None = None) -> bytes:
    """A zip in which one member is `size` bytes of nothing, and says so, or that it is `claimed` bytes.

    A flushed block of DEFLATE stands for itself wherever it stands: it is repeated, not packed again.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(fill * BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * (size // BLOCK) + packer.flush()
    claimed = size if claimed is None else claimed
    out, entries = io.BytesIO(), []
    with zipfile.ZipFile(io.BytesIO(good)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    for name in [*(name for name in members if name != member), member]:
        data = b"" if name == member else members[name]
        sizes = (claimed, len(packed)) if name == member else (len(data), len(data))
        method = 8 if name == member else 0
        more = struct.pack("<HHQQ", 1, 16, *sizes)
        about = struct.pack("<5H3L2H", 45, 0, method, 0, 0x21, zlib.crc32(data), *(2 * [0xFFFFFFFF]), len(name), 20)
        place = out.tell()
        out.write(b"PK\3\4" + about + name.encode() + more + (packed if name == member else data))
        tail = struct.pack("<3H2L", 0, 0, 0, 0, place) + name.encode() + more
        entries.append(b"PK\1\2" + struct.pack("<H", 45) + about + tail)
    start, directory = out.tell(), b"".join(entries)
    out.write(directory)
    out.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, len(entries), len(entries), len(directory), start, 0))
    return out.getvalue()


def with_member(good: bytes, member: str, data: bytes) -> bytes:
    """The zip with one member more, or another one."""
    with zipfile.ZipFile(io.BytesIO(good)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    return corpus.zipped({**members, member: data})


def pdf(*objects: str) -> bytes:
    """Of these objects, numbered from 1."""
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{each}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += f"trailer << /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def million_pages(count: int = 1_000_000) -> bytes:
    """One page, which a tree of three levels has a hundred times a hundred times a hundred times."""
    kids = [f"/Kids [{f'{number} 0 R ' * 100}]" for number in (3, 4, 5)]
    shown = "BT /F1 12 Tf 72 700 Td (The page of all pages) Tj ET"
    return pdf(
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {count} {kids[0]} >>",
        f"<< /Type /Pages /Parent 2 0 R /Count 10000 {kids[1]} >>",
        f"<< /Type /Pages /Parent 3 0 R /Count 100 {kids[2]} >>",
        "<< /Type /Page /Parent 4 0 R /MediaBox [0 0 612 792] /Contents 6 0 R"
        " /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream",
    )


def one_page(count: int) -> bytes:
    """One page, of which the file says that it is `count`."""
    return million_pages().replace(b"/Count 1000000", b"/Count %d" % count).replace(b"3 0 R " * 100, b"5 0 R")


def sheet(rows: str) -> bytes:
    """A workbook with these rows."""
    data = corpus.samples()[".xlsx"]
    start, end = b"<sheetData>", b"</sheetData>"
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        name = next(name for name in source.namelist() if name.startswith("xl/worksheets/"))
        xml = source.read(name)
    place = xml.index(start) + len(start)
    xml = xml[:place] + rows.encode() + xml[xml.index(end) :]
    out = io.BytesIO(with_member(data, name, xml))
    packed = io.BytesIO()
    with zipfile.ZipFile(out) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
    return packed.getvalue()


@functools.cache
def picture(width: int = 50_000, height: int = 50_000) -> bytes:
    """A PNG that says it has so many pixels, all of them black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    line = bytes(width // 8 + 1)
    pixels = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    head = struct.pack(">2L5B", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_picture(suffix: str) -> bytes:
    """A document that shows it."""
    shown = io.BytesIO(picture())
    if suffix == ".epub":
        return with_member(formats.epub(formats.WORDS["english"]), "OPS/cover.png", shown.getvalue())
    small = io.BytesIO(picture(8, 8))
    made = io.BytesIO()
    if suffix == ".docx":
        import docx

        document = docx.Document()
        document.add_paragraph("Below is a large picture.")
        document.add_picture(small)
        document.save(made)
    else:
        import pptx

        slides = pptx.Presentation()
        slide = slides.slides.add_slide(slides.slide_layouts[5])
        slide.shapes.title.text = "Below is a large picture."
        slide.shapes.add_picture(small, 0, 0)
        slides.save(made)
    name = "word/media/image1.png" if suffix == ".docx" else "ppt/media/image1.png"
    return with_member(made.getvalue(), name, shown.getvalue())


def deep_mail(depth: int) -> bytes:
    """A message in a message in a message."""
    head = b"From: a@example.org\nSubject: deeper\n"
    return (head + b"Content-Type: message/rfc822\n\n") * depth + head + b"\nThe innermost.\n"


def deep_parts(depth: int) -> bytes:
    """A multipart in a multipart in a multipart."""
    head = b"From: a@example.org\nSubject: deep\n"
    for level in range(depth):
        head += b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (level, level)
    return head + b"Content-Type: text/plain\n\nThe innermost.\n"


def deep_ole(depth: int, storages: bool) -> bytes:
    """An Outlook item with a storage in a storage, or with neighbours in a row, each of which names the next one."""
    if storages:
        tree: outlook.Tree = {}
        for _ in range(depth):
            tree = {"s": tree}
    else:
        tree = {f"stream{number}": b"x" for number in range(depth)}
    return outlook.compound({"__properties_version1.0": bytes(32), "deep": tree})


def nested(around: bytes, inner: bytes, after: bytes, depth: int) -> bytes:
    return around * depth + inner + after * depth


def sized() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each that is too large or too deep."""
    docx, pptx, xlsx = (corpus.samples()[suffix] for suffix in (".docx", ".pptx", ".xlsx"))
    odt, epub = formats.odt(formats.WORDS["english"]), formats.epub(formats.WORDS["english"])
    for name, good, member in (
        ("giant.docx", docx, "word/document.xml"), ("giant.pptx", pptx, "ppt/presentation.xml"),
        ("giant.xlsx", xlsx, "xl/workbook.xml"), ("giant.odt", odt, "content.xml"),
        ("giant.epub", epub, "OPS/book.opf"),
        ("giant.zip", archives.zipped({"a.txt": "Beside it."}), "b.txt"),
    ):  # fmt: skip
        yield name, lambda good=good, member=member: giant(good, member)  # type: ignore[misc]
        yield (
            f"lying-{name}",
            lambda good=good, member=member: giant(good, member, claimed=1000),  # type: ignore[misc]
        )
    # As much as is allowed, and more than fits into memory once it is a tree.
    within = 400 << 20
    yield "blank.docx", lambda: giant(docx, "word/document.xml", size=within)
    yield "tags.docx", lambda: giant(docx, "word/document.xml", b"<a/>", size=within >> 2)
    yield "shared.xlsx", lambda: giant(xlsx, "xl/sharedStrings.xml", size=within)
    yield "chapter.epub", lambda: giant(epub, "OPS/text/b.xhtml", size=within)
    yield "shared-pages.pdf", million_pages
    yield "lying-pages.pdf", lambda: one_page(1_000_000)
    yield "most-pages.pdf", lambda: one_page(2**31 - 1)
    empty = "".join(f'<row r="{row}" s="1" customFormat="1"/>' for row in range(2, 1_000_001))
    first = '<row r="1"><c r="A1" t="inlineStr"><is><t>The first cell</t></is></c></row>'
    yield "empty-rows.xlsx", lambda: sheet(first + empty)
    last = '<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t>The last cell</t></is></c></row>'
    yield "last-cell.xlsx", lambda: sheet(first + last)
    wide = "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(2, 1000))
    yield "wide.xlsx", lambda: sheet(first + wide)
    yield "huge.png", picture
    for suffix in (".docx", ".pptx", ".epub"):
        yield f"picture{suffix}", lambda suffix=suffix: with_picture(suffix)  # type: ignore[misc]
    deep = 100_000
    yield "deep.xml", lambda: nested(b"<a>", b"x", b"</a>", deep)
    yield "deep.svg", lambda: b"<svg>" + nested(b"<g>", b"<text>x</text>", b"</g>", deep) + b"</svg>"
    yield "deep.html", lambda: b"<!DOCTYPE html>" + nested(b"<div>", b"x", b"</div>", deep)
    yield "lists.html", lambda: b"<!DOCTYPE html>" + nested(b"<table><tr><td><ul><li>", b"x", b"", deep)
    yield "deep.json", lambda: nested(b'{"a":', b"1", b"}", deep)
    yield "deep.ipynb", lambda: b'{"nbformat": 4, "cells": ' + nested(b"[", b"1", b"]", deep) + b"}"
    yield "deep.rtf", lambda: b"{\\rtf1 " + nested(b"{", b"x", b"}", deep) + b"}"
    yield (
        "deep.fodt",
        lambda: formats.fodt(formats.WORDS["english"]).replace(
            b"</office:text>",
            nested(b"<text:section>", b"<text:p>x</text:p>", b"</text:section>", deep) + b"</office:text>",
        ),
    )
    paragraph = b"<w:p><w:r><w:t>x</w:t></w:r></w:p>"
    names = b' xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    for levels in (200, 100_000):
        table = nested(b"<w:tbl><w:tr><w:tc>", paragraph, b"</w:tc></w:tr></w:tbl>", levels // 3)
        body = b"<w:document" + names + b"><w:body>" + table + b"</w:body></w:document>"
        yield f"tables-{levels}.docx", lambda body=body: with_member(docx, "word/document.xml", body)  # type: ignore[misc]
    for depth in (50, 5000):
        yield f"mails-{depth}.eml", lambda depth=depth: deep_mail(depth)  # type: ignore[misc]
        yield f"parts-{depth}.eml", lambda depth=depth: deep_parts(depth)  # type: ignore[misc]
        for suffix in (".msg", ".xls", ".doc"):
            yield (
                f"storages-{depth}{suffix}",
                lambda depth=depth: deep_ole(min(depth, 900), True),  # type: ignore[misc]
            )
            yield f"streams-{depth}{suffix}", lambda depth=depth: deep_ole(depth, False)  # type: ignore[misc]
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    laughs = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e0 "ha">{entities}]><a>&e11;</a>'.encode()
    for suffix in (".xml", ".svg", ".html"):
        yield f"laughs{suffix}", lambda: laughs
    yield "laughs.docx", lambda: with_member(docx, "word/document.xml", laughs)
    yield "laughs.xlsx", lambda: with_member(xlsx, "xl/workbook.xml", laughs)
    yield "laughs.odt", lambda: with_member(odt, "content.xml", laughs)
    yield "laughs.epub", lambda: with_member(epub, "OPS/book.opf", laughs)
    yield "names.zip", lambda: archives.zipped({f"{'d/' * 4000}{number}.txt": "deep" for number in range(3)})
    yield "many.json", lambda: json.dumps({f"k{number}": number for number in range(50_000)}).encode()


def locked() -> Iterator[tuple[str, bytes]]:
    """One of each format that has passwords."""
    import pymupdf

    page = [[("behind a lock", 11.0)]]
    yield "a.pdf", corpus.pdf(page, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")
    for suffix in (".docx", ".pptx", ".xlsx"):
        yield f"a{suffix}", corpus.ole("EncryptionInfo", "EncryptedPackage")
    odt = formats.odt(formats.WORDS["english"])
    manifest = b'<manifest xmlns="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><encryption-data/></manifest>'
    yield "a.odt", with_member(odt, "META-INF/manifest.xml", manifest)
    yield "b.odt", with_member(odt, "encrypted-package", b"?" * 99)
    book = formats.xls(formats.WORDS["english"])
    start = book.index(b"\x09\x08\x10\x00\x00\x06")  # what follows the beginning of a workbook's stream
    follows = start + 4 + book[start + 2]
    yield "a.xls", book[:follows] + b"\x2f\x00" + book[follows + 2 :]
    word = struct.pack("<HHHHHHL", 0xA5EC, 0xC1, 0, 0, 0, 0x0100, 0)
    yield "a.doc", outlook.compound({"WordDocument": word})
    yield "a.ppt", outlook.compound({"Current User": struct.pack("<HHLLL", 0, 0xFF6, 20, 20, 0xF3D1C4DF)})


def of_themselves() -> Iterator[tuple[str, bytes]]:
    """Archives that hold themselves."""
    yield "quine.zip", quines.zip_quine()
    yield "other.zip", quines.zip_quine("quine.zip")
    yield "quine.gz", quines.gzip_quine()
    yield "holds-a-quine.zip", archives.zipped({"quine.zip": quines.zip_quine(), "a.txt": "Beside it."})
