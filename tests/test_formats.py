"""Formats that a library or a stream of tags reads: what is taken, what is left out, and what is named as wrong."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingestd.detect import Detector
from ingestd.errors import DamagedFileError, EncryptedFileError, LimitError
from ingestd.plugins import discover
from ingestd.types import Element, File
from tests import corpus, formats

LOADERS = discover("loaders").loaders
DETECTOR = Detector(LOADERS)
Load = Callable[..., tuple[File, list[Element]]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load bytes under a name, by whom they go to."""

    def load(name: str, data: bytes | str, **options: Any) -> tuple[File, list[Element]]:
        data = data.encode() if isinstance(data, str) else data
        detected = DETECTOR.detect(io.BytesIO(data), name)
        assert detected.loader is not None
        path = tmp_path / f"file{detected.suffix}"
        path.write_bytes(data)
        file = File(path, name, detected.suffix, detected.media_type, len(data), tmp_path, options)
        found = list(LOADERS[detected.loader].load(file))
        assert all(isinstance(element, Element) for element in found)
        return file, [element for element in found if isinstance(element, Element)]

    return load


def told(found: list[Element]) -> str:
    return "\n".join(element.text for element in found)


@pytest.mark.parametrize("language", formats.WORDS)
@pytest.mark.parametrize("suffix", formats.WRITERS)
def test_a_known_sentence_is_found(suffix: str, language: str, load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    file, found = load(f"notes{suffix}", formats.WRITERS[suffix](formats.WORDS[language]))
    assert formats.WORDS[language].sentence in told(found)
    assert formats.WORDS[language].title in (file.title, *(element.text for element in found)) or suffix in (
        ".srt",
        ".vtt",
        ".xml",
    )
    assert file.warnings == []
    assert capfd.readouterr() == ("", "")


# --- workbooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".xls", ".ods"])
def test_rows_stand_under_their_column_names_and_sheets_are_pages(suffix: str, load: Load) -> None:
    _, found = load(f"a{suffix}", formats.WRITERS[suffix](formats.WORDS["english"]))
    rows = told([element for element in found if element.kind == "table" and element.page == 1])
    assert f"task: {formats.ENGLISH}; hours: {3 if suffix == '.xls' else 7}" in rows
    if suffix == ".xls":
        assert "since: 2024-03-02" in rows
    assert [(element.text, element.page) for element in found][-1] == ("A remark on the second sheet", 2)
    assert [element.text for element in found if element.kind == "heading"] == [
        formats.WORDS["english"].title,
        "remarks",
    ]


def test_rows_of_a_spreadsheet_are_forgotten_when_they_were_read(load: Load) -> None:
    def row(repeated: str) -> str:
        return (
            f'<table:table-row {repeated}><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
        )

    many = row('table:number-rows-repeated="1"') * 100_000
    content = ods_content(
        f'<table:table table:name="s">{many}<table:table-row>{cell("the end")}</table:table-row></table:table>'
    )
    tracemalloc.start()
    try:
        _, found = load("a.ods", content)
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
    finally:
        tracemalloc.stop()
    assert told(found) == "s\nthe end"


def cell(text: str, repeated: int = 1) -> str:
    return f'<table:table-cell table:number-columns-repeated="{repeated}"><text:p>{text}</text:p></table:table-cell>'


def ods_content(body: str) -> bytes:
    names = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "text", "table")
    )
    return corpus.zipped({
        "mimetype": b"application/vnd.oasis.opendocument.spreadsheet",
        "content.xml": f"<office:document-content{names}><office:body><office:spreadsheet>{body}</office:spreadsheet>"
        "</office:body></office:document-content>".encode(),
    })  # fmt: skip


def test_a_cell_that_is_repeated_without_end_is_cut(load: Load) -> None:
    row = f"<table:table-row>{cell('x', 16_000)}{cell('y')}</table:table-row>"
    _, found = load("a.ods", ods_content(f'<table:table table:name="s">{row}</table:table>'))
    assert 0 < told(found).count("x") <= 200


# --- OpenDocument ---------------------------------------------------------------------------------------------


def test_an_open_document_text_in_order(load: Load) -> None:
    _, found = load("a.odt", formats.odt(formats.WORDS["english"]))
    assert [(element.kind, element.text) for element in found] == [
        ("heading", formats.WORDS["english"].title),
        ("text", f"{formats.ENGLISH} Then it rains."),
        ("footnote", "Since 1887."),
        ("list", "- brushes"),
        ("list", "- white paint"),
        ("table", "name: North Point; height: 31 m; year: 1887"),
        ("header", "For keepers only"),
    ]


def test_slides_are_pages_with_their_title_first_and_notes_apart(load: Load) -> None:
    _, found = load("a.odp", formats.odp(formats.WORDS["english"]))
    assert [(element.kind, element.page) for element in found] == [
        (kind, page) for page in (1, 2) for kind in ("heading", "text", "note")
    ]


@pytest.mark.parametrize("name", ["a.odt", "a.ods", "a.odp"])
@pytest.mark.parametrize("way", ["each member", "the whole"])
def test_an_encrypted_open_document_is_named_as_such(name: str, way: str, load: Load) -> None:
    good = formats.WRITERS[name[1:]](formats.WORDS["english"])
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    if way == "the whole":
        members = {"mimetype": members["mimetype"], "encrypted-package": bytes(500)}
    else:
        members["content.xml"] = bytes(500)
        members["META-INF/manifest.xml"] = b"<manifest:manifest><manifest:encryption-data/></manifest:manifest>"
    with pytest.raises(EncryptedFileError, match="password"):
        load(name, corpus.zipped(members))


def test_damage_in_the_middle_costs_what_follows(load: Load) -> None:
    rows = "".join(f"<table:table-row>{cell(f'row {n}')}{cell('x' * 50)}</table:table-row>" for n in range(5000))
    whole = ods_content(f'<table:table table:name="s">{rows}</table:table>')
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        content = archive.read("content.xml")
    cut = corpus.zipped({"content.xml": content[: len(content) // 2]})
    file, found = load("a.ods", cut)
    assert "row 100" in told(found)
    assert "what follows it was not read" in file.warnings[0]


# --- books ----------------------------------------------------------------------------------------------------


def test_chapters_in_the_order_of_the_book(load: Load) -> None:
    file, found = load("a.epub", formats.epub(formats.WORDS["english"]))
    assert [(element.text, element.page) for element in found] == [
        ("The first chapter", 1), ("It begins.", 1), ("The second chapter", 2), (formats.ENGLISH, 2),
    ]  # fmt: skip
    assert (file.title, file.metadata["author"]) == (formats.WORDS["english"].title, "Ida Lamp")


def test_a_protected_book_is_named_as_such_and_one_with_obfuscated_fonts_is_read(load: Load) -> None:
    with zipfile.ZipFile(io.BytesIO(formats.epub(formats.WORDS["english"]))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def protected(algorithm: str) -> bytes:
        entry = (
            '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<enc:EncryptedData xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
            f'<enc:EncryptionMethod Algorithm="{algorithm}"/></enc:EncryptedData></encryption>'
        )
        return corpus.zipped({**members, "META-INF/encryption.xml": entry.encode()})

    with pytest.raises(EncryptedFileError, match="DRM"):
        load("a.epub", protected("http://www.w3.org/2001/04/xmlenc#aes128-cbc"))
    assert formats.ENGLISH in told(load("a.epub", protected("http://www.idpf.org/2008/embedding"))[1])


def test_a_lost_chapter_costs_that_chapter(load: Load) -> None:
    with zipfile.ZipFile(io.BytesIO(formats.epub(formats.WORDS["english"]))) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "OPS/text/b.xhtml"}
    file, found = load("a.epub", corpus.zipped(members))
    assert formats.ENGLISH in told(found)
    assert "OPS/text/b.xhtml" in file.warnings[0]


@pytest.mark.parametrize("name", ["a.epub", "a.odt"])
def test_a_bomb_is_refused_before_it_is_unpacked(name: str, load: Load) -> None:
    with pytest.raises(LimitError, match=r"max_unpacked in \[load\."):
        load(name, corpus.bomb("content.xml"), max_unpacked="1GiB")


# --- the others -----------------------------------------------------------------------------------------------


def test_rich_text_in_fonts_of_other_encodings_links_and_tables(load: Load) -> None:
    file, found = load("a.rtf", formats.rtf(formats.WORDS["chinese"]))
    assert [element.text for element in found][-3:] == [
        "the society of keepers", "灯塔", "name | height | year\nNorth Point | 31 m | 1887",
    ]  # fmt: skip
    assert file.metadata["author"] == "Ida Lamp"
    assert "89504e47" not in told(found)


def test_a_long_line_of_links_in_rich_text_takes_no_longer_than_other_text(load: Load) -> None:
    link = '{\\field{\\*\\fldinst{HYPERLINK "http://example.org/"}}{\\fldrslt {here "we" are}}} '
    _, found = load("a.rtf", "{\\rtf1 " + link * 5000 + "}")
    assert told(found).count("here") == 5000


def test_cues_are_joined_and_keep_their_times(load: Load) -> None:
    _, found = load("a.vtt", formats.vtt(formats.WORDS["english"]))
    assert [(element.text, dict(element.metadata)) for element in found] == [
        (f"Ida: {formats.ENGLISH} & so on", {"start": 1.0, "end": 5.0}),
        ("Much later.", {"start": 3605.0, "end": 3606.0}),
    ]
    with pytest.raises(DamagedFileError, match="not subtitles"):
        load("a.srt", "a letter\n")


def test_xml_says_what_its_values_are_called(load: Load) -> None:
    _, found = load("a.xml", formats.xml(formats.WORDS["english"]))
    assert told(found).split("\n") == [
        f"title: {formats.WORDS['english'].title}", "entry: day: 2024-03-01", "who: Ida", "hours: 7",
        f"text: {formats.ENGLISH}",
    ]  # fmt: skip


def test_xml_that_is_none_is_read_as_text(load: Load) -> None:
    file, found = load("a.xml", "1 < 2 & it goes on")
    assert told(found) == "1 < 2 & it goes on"
    assert "it was read as text" in file.warnings[0]


def test_entities_are_not_expanded_and_no_file_is_read(load: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 30))
    data = (
        f'<!DOCTYPE a [<!ENTITY e0 "boom">{bomb}<!ENTITY f SYSTEM "file://{tmp_path}/secret">]>'
        "<a><b>plain</b><c>&e29;</c><d>&f;</d></a>"
    )
    file, found = load("a.xml", data)
    assert "plain" in told(found) + "".join(file.warnings)
    assert "boom" not in told(found)
    assert "secret" not in told(found).replace("/secret", "")


def test_of_a_notebook_prose_code_and_text_that_was_put_out(load: Load) -> None:
    _, found = load("a.ipynb", formats.ipynb(formats.WORDS["english"]))
    assert [(element.kind, element.text) for element in found] == [
        ("heading", formats.WORDS["english"].title), ("text", formats.ENGLISH), ("code", "print(height * 2)"),
        ("code", "62 metres"), ("code", "NameError: name 'tide' is not defined"),
    ]  # fmt: skip
    for wrong in ("[]", json.dumps({"a": 1}), "[" * 100_000):
        with pytest.raises(DamagedFileError, match="not"):
            load("a.ipynb", wrong)
