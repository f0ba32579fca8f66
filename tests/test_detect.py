"""The suffix first, checked against the first bytes; nothing raises, whatever the bytes are."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ingestd.detect import Detected, Detector, detect
from ingestd.plugins import discover
from ingestd.types import Element, File, Loader
from tests import corpus, formats

LOADERS = discover("loaders").loaders
DETECTOR = Detector(LOADERS)
FORMATS = {**corpus.samples(), **formats.samples()}
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def found(data: bytes, name: str, detector: Detector = DETECTOR) -> Detected:
    return detector.detect(io.BytesIO(data), name)


class Own:
    """A third party's loader."""

    version = "1"

    def __init__(self, name: str, suffixes: Sequence[str], media_types: Sequence[str]) -> None:
        self.name, self.suffixes, self.media_types = name, suffixes, media_types

    def load(self, file: File) -> Iterator[Element]:
        yield Element(file.name)


@pytest.mark.parametrize(
    ("suffix", "loader"),
    [
        (".txt", "text"), (".md", "text"), (".rst", "text"), (".log", "text"), (".py", "text"), (".sql", "text"),
        (".html", "html"), (".csv", "tables"), (".tsv", "tables"), (".json", "json"), (".jsonl", "json"),
        (".pdf", "pdf"), (".docx", "word"), (".pptx", "slides"), (".xlsx", "sheets"),
        (".xls", "xls"), (".rtf", "rtf"), (".odt", "odf"), (".ods", "odf"), (".odp", "odf"), (".fodt", "odf"),
        (".epub", "epub"), (".srt", "subtitles"), (".vtt", "subtitles"), (".xml", "xml"), (".svg", "xml"),
        (".ipynb", "notebook"),
    ],
)  # fmt: skip
def test_a_true_suffix_is_kept(suffix: str, loader: str) -> None:
    assert found(FORMATS[suffix], f"Bericht{suffix.upper()}")[1:] == (loader, suffix)


@pytest.mark.parametrize(
    ("really", "name", "expected"),
    [
        (".xls", "a.xlsx", ("application/vnd.ms-excel", "xls", ".xls")),
        (".rtf", "a.doc", ("application/rtf", "rtf", ".rtf")),
        (".rtf", "a.txt", ("application/rtf", "rtf", ".rtf")),
        (".odt", "a.docx", ("application/vnd.oasis.opendocument.text", "odf", ".odt")),
        (".epub", "a", ("application/epub+zip", "epub", ".epub")),
        (".html", "a.xls", ("text/html", "html", ".html")),
        (".xml", "a.xls", ("application/xml", "xml", ".xml")),
        (".pdf", "a.txt", ("application/pdf", "pdf", ".pdf")),
        (".pdf", "a.docx", ("application/pdf", "pdf", ".pdf")),
        (".pdf", "a", ("application/pdf", "pdf", ".pdf")),
        (".pdf", "a.unheard-of", ("application/pdf", "pdf", ".pdf")),
        (".docx", "a.pdf", (DOCX, "word", ".docx")),
        (".docx", "a.zip", (DOCX, "word", ".docx")),
        (".docx", "a.xlsx", (DOCX, "word", ".docx")),
        (".docx", "a.csv", (DOCX, "word", ".docx")),
        (".html", "a.pdf", ("text/html", "html", ".html")),
        (".html", "a", ("text/html", "html", ".html")),
        (".md", "a.docx", ("text/plain", "text", ".txt")),
    ],
)  # fmt: skip
def test_a_mislabelled_file_goes_to_the_right_loader(really: str, name: str, expected: tuple[str, str, str]) -> None:
    assert found(FORMATS[really], name) == expected


@pytest.mark.parametrize("name", ["page.txt", "page.md", "page.py", "page.csv", "page.json"])
def test_text_formats_keep_their_suffix_whatever_they_hold(name: str) -> None:
    assert found(FORMATS[".html"], name).suffix == name.removeprefix("page")


@pytest.mark.parametrize("name", ["README", "Makefile", ".gitignore", "report.2024", "v1. A new beginning", "x."])
def test_text_without_a_real_suffix_is_text(name: str) -> None:
    assert found(b"Build with make.\n", name) == ("text/plain", "text", ".txt")


@pytest.mark.parametrize(
    ("data", "name", "media_type"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(100), "notes.txt", "application/x-elf"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "notes.md", "application/x-7z-compressed"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "notes.docx", "application/x-7z-compressed"),
        (random.Random(2).randbytes(500), "notes.txt", "application/octet-stream"),
        (random.Random(2).randbytes(500), "notes", "application/octet-stream"),
        (b"text in a format of its own\n", "notes.unheard-of", "text/plain"),
    ],
)
def test_what_no_loader_takes(data: bytes, name: str, media_type: str) -> None:
    assert found(data, name)[:2] == (media_type, None)


@pytest.mark.parametrize(
    "text", ["MZ is a postcode", "BM25 ranks", "ID3 tags explained", "GIF89a is a version", "%PDF-"]
)
def test_a_text_may_begin_like_something_else(text: str) -> None:
    expected = "pdf" if text == "%PDF-" else "text"
    assert found(text.encode(), "notes.txt").loader == expected
    assert found(b"About " + text.encode(), "notes.txt").loader == "text"


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "shift_jis", "latin-1"]
)
def test_text_in_any_encoding_is_text(encoding: str) -> None:
    text = "naïve" if encoding == "latin-1" else "Notes 会議 on rails"
    assert found(text.encode(encoding), "a.txt").loader == "text"


@pytest.mark.parametrize(
    ("suffix", "loader"), [(".docx", "word"), (".pptx", "slides"), (".xlsx", "sheets"), ("", "word")]
)
def test_an_encrypted_office_file_goes_to_a_loader_that_says_so(suffix: str, loader: str) -> None:
    data = corpus.ole("EncryptionInfo", "EncryptedPackage")
    assert found(data, f"secret{suffix}") == ("application/x-encrypted-ooxml", loader, suffix or ".docx")


@pytest.mark.parametrize(
    ("suffix", "loader"), [(".pdf", "pdf"), (".docx", "word"), (".pptx", "slides"), (".xlsx", "sheets")]
)
def test_damage_is_left_to_the_loader_of_the_suffix(suffix: str, loader: str) -> None:
    data = FORMATS[suffix]
    for damaged in (b"", data[:200], bytes(64) + data[64:], random.Random(3).randbytes(400)):
        assert found(damaged, f"a{suffix}")[1:] == (loader, suffix)


def test_siblings_keep_their_own_suffix() -> None:
    assert found(FORMATS[".docx"], "a.docm")[1:] == ("word", ".docm")
    assert found(FORMATS[".xlsx"], "a.xlsm") == ("application/vnd.ms-excel.sheet.macroenabled.12", "sheets", ".xlsm")


def test_a_zip_with_a_comment_or_bytes_before_it_is_recognised() -> None:
    data = bytearray(FORMATS[".xlsx"])
    data[-2:] = (1000).to_bytes(2, "little")
    assert found(bytes(data) + b"c" * 1000, "a").loader == "sheets"


def test_open_document_names_itself() -> None:
    data = corpus.zipped({"mimetype": b"application/epub+zip"})
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
    assert found(stored.getvalue(), "book.zip")[:2] == ("application/epub+zip", "epub")
    assert found(data, "book.zip").loader == "zip"


def test_settings_come_before_what_loaders_claim() -> None:
    log = Own("logs", [".log", ".txt"], ["text/x-log"])
    loaders: dict[str, Loader] = {**LOADERS, "logs": log}
    assert found(b"x", "a.log", Detector(loaders)).loader == "text"
    assert found(b"x", "a.log", Detector(loaders, {"logs": ["log"]})).loader == "logs"
    assert found(b"x", "a.log", Detector(loaders, {"logs": [".LOG"]}, disabled=["logs"])).loader == "text"
    assert found(b"x", "a.log", Detector(loaders, disabled=["text"])).loader == "logs"
    assert found(b"x", "a.foo", Detector(loaders, {"text": [".foo"]})) == ("text/plain", "text", ".foo")
    assert found(b"\x7fELF" + bytes(9), "a.foo", Detector(loaders, {"text": [".foo"]})).loader is None


def test_a_third_party_suffix_is_trusted() -> None:
    drawing = Own("drawing", [".ai", ".cpio.xz"], ["application/illustrator"])
    detector = Detector({**LOADERS, "drawing": drawing})
    assert found(FORMATS[".pdf"], "poster.ai", detector) == ("application/octet-stream", "drawing", ".ai")
    assert found(b"\xfd7zXZ\x00" + bytes(9), "Set.CPIO.XZ", detector)[1:] == ("drawing", ".cpio.xz")
    assert (
        found(FORMATS[".docx"], "a.docx", Detector({**LOADERS, "drawing": drawing}, {"drawing": [".docx"]})).loader
        == "drawing"
    )


def test_a_function_for_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(FORMATS[".pdf"])
    with path.open("rb") as stream:
        assert detect(stream, path.name, LOADERS).loader == "pdf"


def test_garbage_never_raises() -> None:
    chance = random.Random(4)
    for name in ("a", "a.txt", "a.pdf", "a.docx", "a.zip", "a.doc", "", ".", "..", "a.\udcff", "\0.txt", "a" * 300):
        for data in (*FORMATS.values(), corpus.ole("EncryptedPackage"), b"PK\x03\x04", b"PK\x05\x06", b"mimetype"):
            for _ in range(3):
                cut = data[: chance.randrange(len(data) + 1)]
                assert isinstance(found(corpus.flipped(cut, chance.randrange(99)) if cut else cut, name), Detected)


def test_a_circle_in_an_ole_directory_ends() -> None:
    data = bytearray(corpus.ole("WordDocument"))
    data[512 + 4 : 512 + 8] = (1).to_bytes(4, "little")  # the directory's next sector is itself
    assert found(bytes(data), "a.doc").media_type == "application/msword"
