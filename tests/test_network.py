"""Documents that refer to what is elsewhere: nobody is asked for it, by address or by name, with or without sandbox."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import archives, formats
from tests.formats import ENGLISH, WORDS
from tests.monsters import with_member

PORT = 8080
PLACES = (f"http://127.0.0.1:{PORT}", f"http://tracker.ingestd.test:{PORT}")
ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def edited(good: bytes, member: str, edit: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(good)) as source:
        return with_member(good, member, edit(source.read(member)))


def related(good: bytes, member: str, *kinds: str) -> bytes:
    """An Office document with such relations to what is elsewhere."""
    relations = "".join(
        f'<Relationship Id="rX{n}{kind}" Type="{_RELATION}/{kind}" Target="{place}/{kind}" TargetMode="External"/>'
        for n, place in enumerate(PLACES) for kind in kinds
    )  # fmt: skip
    return edited(
        good, member, lambda data: data.replace(b"</Relationships>", relations.encode() + b"</Relationships>")
    )


def office(suffix: str) -> bytes:
    """A document of the library of its format."""
    made = io.BytesIO()
    book: Any
    if suffix == ".docx":
        import docx

        book = docx.Document()
        book.add_paragraph(ENGLISH)
    elif suffix == ".pptx":
        import pptx

        book = pptx.Presentation()
        book.slides.add_slide(book.slide_layouts[5]).shapes.title.text = ENGLISH
    else:
        import openpyxl

        book = openpyxl.Workbook()
        book.active.append(["remark", ENGLISH, f'=WEBSERVICE("{PLACES[0]}/service")', f"='{PLACES[0]}/[a.xlsx]S'!A1"])
    book.save(made)
    return made.getvalue()


def documents() -> dict[str, bytes]:
    """By name; each holds the sentence, and refers to both places in every way that its format has."""
    first, second = PLACES
    images = "".join(f'<img src="{place}/i.png"/>' for place in PLACES)
    page = (
        f'<html><head><base href="{first}/"/><link rel="stylesheet" href="{second}/s.css"/><script src="{first}/a.js">'
        f'</script><meta http-equiv="refresh" content="0; url={first}/next"/></head><body background="{second}/b.png">'
        f'{images}<iframe src="{second}/frame"></iframe><p>{ENGLISH}</p></body></html>'
    )
    outside = (
        f'<!DOCTYPE a SYSTEM "{first}/a.dtd" [<!ENTITY % p SYSTEM "{second}/p.ent"> %p;'
        f'<!ENTITY e SYSTEM "{second}/e.xml"><!ENTITY l SYSTEM "file:///etc/passwd">]>'
    )
    head = f'<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="{first}/a.xsl"?>{outside}'
    include = f'<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="{second}/i.xml"/>'
    schema = f'xmlns:x="http://www.w3.org/2001/XMLSchema-instance" x:schemaLocation="urn:a {first}/a.xsd"'
    links = f'xmlns:l="http://www.w3.org/1999/xlink" l:href="{second}/i.png"'
    odt = formats.odt(WORDS["english"])
    epub = formats.epub(WORDS["english"])
    template = "word/_rels/settings.xml.rels"
    empty = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"></Relationships>'
    word = with_member(office(".docx"), template, empty.encode())
    words = related(
        related(word, "word/_rels/document.xml.rels", "image", "hyperlink", "subDocument", "frame"),
        template,
        "attachedTemplate",
    )
    html = page.encode()
    picture = f"<image {links}/><use {links}/><text>{ENGLISH} &e;</text>"
    item = f'<enclosure url="{first}/e.mp3"/><link>{first}</link><description>{ENGLISH}</description>'
    cell = {"cell_type": "markdown", "source": f"<img src='{first}/i.png'> {ENGLISH}"}
    field = f'{{\\*\\template {first}/t.dot}}{{\\field{{\\*\\fldinst INCLUDEPICTURE "{second}/i.png"}}}}{{\\info'
    return {
        "a.docx": words,
        "entities.docx": edited(words, "word/document.xml", lambda xml: declared(xml, outside)),
        "a.pptx": related(office(".pptx"), "ppt/slides/_rels/slide1.xml.rels", "image", "video", "oleObject"),
        "a.xlsx": related(office(".xlsx"), "xl/_rels/workbook.xml.rels", "externalLink", "image"),
        "a.odt": edited(odt, "content.xml", lambda xml: xml.replace(
            b"</office:text>", f'<text:p><draw:image {links}/></text:p></office:text>'.encode())),
        "entities.odt": edited(odt, "content.xml", lambda xml: declared(xml, outside)),
        "entities.fodt": declared(formats.fodt(WORDS["english"]), outside),
        "a.epub": edited(epub, "OPS/text/b.xhtml", lambda _: html),
        "entities.epub": edited(epub, "OPS/book.opf", lambda xml: declared(xml, outside)),
        "a.html": html,
        "a.xhtml": declared(html, outside),
        "a.svg": f'{head}<svg xmlns="http://www.w3.org/2000/svg">{picture}</svg>'.encode(),
        "a.xml": f"{head}<a {schema}>{include}<b>{ENGLISH}</b><c>&e;&l;</c></a>".encode(),
        "a.rss": f"{head}<rss><channel><item>{item}</item></channel></rss>".encode(),
        "a.eml": archives.mail("Remote", html=page),
        "a.md": f"# Notes\n\n![i]({first}/i.png) {ENGLISH}\n".encode(),
        "a.rtf": formats.rtf(WORDS["english"]).replace(b"{\\info", field.encode(), 1),
        "a.pdf": linked_pdf(),
        "a.ipynb": json.dumps({"nbformat": 4, "cells": [cell]}).encode(),
    }  # fmt: skip


def declared(xml: bytes, outside: str) -> bytes:
    """With what is outside declared, and asked for where the first text is."""
    _, declaration, rest = xml.rpartition(b"?>")
    head = b'<?xml version="1.0"?>' if declaration else b""
    return head + outside.encode() + rest


def linked_pdf() -> bytes:
    import pymupdf

    book = pymupdf.open()
    page = book.new_page()
    page.insert_text((60, 100), ENGLISH)
    for number, place in enumerate(PLACES):
        area = pymupdf.Rect(60, 90 + number, 90, 100)
        page.insert_link({"kind": pymupdf.LINK_URI, "from": area, "uri": f"{place}/link"})
        page.insert_link(
            {"kind": pymupdf.LINK_GOTOR, "from": area, "file": f"{place}/other.pdf", "page": 0, "to": (0, 0)}
        )
    return bytes(book.tobytes())


def told(tmp_path: Path, sandbox: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What `isolated` says of them."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.isolated", str(tmp_path), sandbox, str(PORT)]
    done = subprocess.run(
        [*command, *(str(tmp_path / name) for name in files)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("sandbox", ["best-effort", "off"])
def test_nothing_is_fetched(sandbox: str, tmp_path: Path) -> None:
    said = told(tmp_path, sandbox, documents())
    assert [each.split()[0] for each in said["control"]][-1:] == ["GET"], "the listener hears"
    assert any(each.startswith("name") for each in said["control"]), "of names too"
    assert said["heard"] == []
    for name, text in said["texts"].items():
        assert ENGLISH in text, (name, text)
        assert "root:" not in text, name


@pytest.mark.office
@pytest.mark.skipif(shutil.which("soffice") is None, reason="soffice, of LibreOffice, is not installed")
@pytest.mark.parametrize("sandbox", ["best-effort", "off"])
def test_libreoffice_fetches_nothing(sandbox: str, tmp_path: Path) -> None:
    from tests.test_office import linking, written

    made = {f"{n}.doc": written(tmp_path, f"{n}.fodt", linking(place), ".doc") for n, place in enumerate(PLACES)}
    said = told(tmp_path, sandbox, made)
    assert said["heard"] == []
    assert all(ENGLISH in text for text in said["texts"].values())
