"""Every loader: what it takes from a good file, and that a bad one costs an error that says what is wrong."""

from __future__ import annotations

import datetime
import io
import itertools
import json
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from ingestd.detect import Detector
from ingestd.errors import ConfigError, DamagedFileError, EncryptedFileError, FileError, LimitError, MissingError
from ingestd.plugins import discover
from ingestd.types import Element, File, Kind
from ingestd_plugins import pdf
from tests import corpus

LOADERS = discover("loaders").loaders
BUNDLED = {name: LOADERS[name] for name in ("text", "html", "tables", "json", "pdf", "word", "slides", "sheets")}
DETECTOR = Detector(BUNDLED)
FORMATS = corpus.samples()
KINDS = get_args(Kind)


def opened(path: Path, **options: Any) -> File | None:
    """The file as the load worker gives it to a loader, None where no loader takes it."""
    with path.open("rb") as stream:
        detected = DETECTOR.detect(stream, path.name)
    if detected.loader is None:
        return None
    alias = path.parent / f"alias-{len(list(path.parent.iterdir()))}{detected.suffix}"
    alias.symlink_to(path)
    file = File(alias, path.name, detected.suffix, detected.media_type, path.stat().st_size, path.parent, {**options})
    file.metadata["loader"] = detected.loader
    return file


def elements(file: File) -> Iterator[Element]:
    for element in BUNDLED[file.metadata["loader"]].load(file):
        assert isinstance(element, Element)
        yield element


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[File, list[Element]]]:
    """Write bytes under a name and load them."""

    def load(name: str, data: bytes | str, **options: Any) -> tuple[File, list[Element]]:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        file = opened(path, **options)
        assert file is not None
        return file, list(elements(file))

    return load


Load = Callable[..., tuple[File, list[Element]]]


def check(found: list[Element]) -> None:
    for element in found:
        element.text.encode()  # no lone surrogate
        assert element.text.strip()
        assert not any(ord(c) < 32 and c not in "\n\t" for c in element.text), element.text
        assert element.kind in KINDS
        assert element.page is None or element.page > 0
        assert (element.level is not None and 0 < element.level < 10) == (element.kind == "heading")


def texts(found: list[Element], kind: str | None = None) -> list[str]:
    return [element.text for element in found if kind is None or element.kind == kind]


# --- all loaders ----------------------------------------------------------------------------------------------


def test_every_document_of_the_corpus_yields_its_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    entries = corpus.build(tmp_path)
    assert len(entries) >= 45
    assert len({path for path, _, _ in entries}) == len(entries)
    loaders = set()
    for path, query, phrase in entries:
        file = opened(tmp_path / path)
        assert file is not None, path
        found = list(elements(file))
        check(found)
        text = "\n".join(texts(found))
        assert phrase in text, path
        assert query not in text, path
        assert "\ufffd" not in text, path
        assert file.warnings == [], path
        loaders.add(file.metadata["loader"])
    assert loaders == set(BUNDLED)
    assert capfd.readouterr() == ("", "")


def test_the_corpus_is_the_same_on_every_run(tmp_path: Path) -> None:
    corpus.build(tmp_path / "a")
    time.sleep(0.01)
    for path, _, _ in corpus.build(tmp_path / "b"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_hostile_files_are_named_for_what_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, outcome in corpus.hostile(tmp_path):
        file = opened(tmp_path / name)
        if file is None:
            assert outcome == "skipped", name
            continue
        try:
            found = list(elements(file))
        except FileError as error:
            got, said = type(error).__name__, error.message
        else:
            check(found)
            got, said = "warning" if file.warnings else "text" if found else "empty", " ".join(file.warnings)
        assert got == outcome, (name, said)
        assert "\n" not in said
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["text", "html", "tables", "json"])
def test_text_formats_stream(name: str, tmp_path: Path) -> None:
    line = {
        "text": "A line of a long log that never has an empty line in between.\n",
        "html": "<p>A paragraph of a long page.</p>\n",
        "tables": "a cell,another cell,a third one\n",
        "json": '{"key": "a value", "other": [1, 2, 3]}\n',
    }[name]
    suffix = {"text": ".log", "html": ".html", "tables": ".csv", "json": ".json"}[name]
    path = tmp_path / f"a{suffix}"
    with path.open("w") as stream:
        for _ in range(24):
            stream.write(line * (1_000_000 // len(line)))
    file = File(path, path.name, suffix, "", path.stat().st_size, tmp_path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in itertools.islice(BUNDLED[name].load(file), 100)) == 100
        assert tracemalloc.get_traced_memory()[1] < (20_000_000 if name == "json" else 4_000_000)
    finally:
        tracemalloc.stop()


def test_importing_the_plugins_imports_no_format_library() -> None:
    modules = ", ".join(
        f"ingestd_plugins.{name}" for name in ["text", "html", "tables", "pdf", "word", "slides", "sheets"]
    )
    heavy = "'lxml', 'pymupdf', 'docx', 'pptx', 'openpyxl', 'charset_normalizer'"
    code = f"import sys, {modules}; print([name for name in ({heavy}) if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- text -----------------------------------------------------------------------------------------------------

PROSE = {
    "gb18030": "人工智能正在改变医疗行业。医生可以利用深度学习模型分析影像，提高诊断的准确率。",
    "big5": "台灣的夜市文化非常豐富，遊客可以品嚐到各種小吃，例如臭豆腐、蚵仔煎和珍珠奶茶。",
    "shift_jis": "京都の秋は紅葉が美しく、多くの観光客が訪れます。寺院や庭園も有名です。",
    "euc_jp": "京都の秋は紅葉が美しく、多くの観光客が訪れます。寺院や庭園も有名です。",
    "iso2022_jp": "京都の秋は紅葉が美しく、多くの観光客が訪れます。寺院や庭園も有名です。",
    "euc_kr": "서울의 지하철은 매우 편리하며 노선이 다양합니다. 외국인 관광객도 쉽게 이용할 수 있습니다.",
    "cp1252": "Der Bäcker verkauft jeden Morgen frische Brötchen – “schön” für das Geschäft an der Straße.",
    "latin-1": "Le café de la gare était fermé à cause de la grève générale. Les élèves ont dû marcher.",
    "cp1251": "Москва является столицей России и крупнейшим городом страны. Население растёт.",
    "koi8_r": "Москва является столицей России и крупнейшим городом страны. Население растёт.",
    "cp1250": "Žluťoučký kůň úpěl ďábelské ódy. Příliš hlučná samota.",
    "utf-8": "naïve 会議 Straße",
    "utf-8-sig": "naïve 会議 Straße",
    "utf-16": "naïve 会議 Straße 😀",
    "utf-16-le": "Plain English text without a mark.",
    "utf-16-be": "Plain English text without a mark.",
    "utf-32": "naïve 会議 Straße 😀",
}


@pytest.mark.parametrize("encoding", PROSE)
def test_encodings(encoding: str, load: Load) -> None:
    text = PROSE[encoding]
    file, found = load("a.txt", f"{text}\r\n\r\n{text}\r".encode(encoding))
    assert texts(found) == [text, text]
    assert file.metadata["encoding_confidence"] >= 0.6
    named = str(file.metadata["encoding"])
    assert text.encode(named) == text.encode(encoding).removeprefix(b"\xff\xfe").removeprefix(b"\0\0").removeprefix(
        b"\xef\xbb\xbf"
    )
    assert file.warnings == []


def test_ascii_before_the_first_foreign_letter_does_not_mislead(load: Load) -> None:
    text = PROSE["gb18030"]
    file, found = load("a.log", b"2024-01-01 started\n" * 40_000 + f"\n\n{text}".encode("gb18030"))
    assert file.metadata["encoding"] == "gb18030"
    assert found[-1].text == text


def test_an_uncertain_encoding_is_said(load: Load) -> None:
    file, _ = load("a.txt", b"x \xe6\xf8 y")
    assert file.metadata["encoding_confidence"] < 0.6
    assert "guess" in file.warnings[0]


def test_a_bad_byte_is_said_and_nothing_is_replaced_in_silence(load: Load) -> None:
    file, found = load("a.txt", "größer 会議 ".encode() * 30 + b"\xe9t\xe9 end")
    assert found[0].text.endswith("été end")
    assert file.warnings == ["2 bytes are not utf-8; they were read as Windows-1252"]
    file, found = load("b.txt", "größer 会議 ".encode() * 30 + "会".encode()[:2])
    assert file.warnings == ["the file ends inside a character"]
    assert found[0].text.endswith("会議")


def test_characters_are_whole_across_blocks(load: Load) -> None:
    for encoding in ("utf-8", "gb18030", "utf-16"):
        text = "会议室已经预订好了，请大家准时参加。" * 20_000  # no line end, no space: blocks are cut anywhere
        file, found = load(f"{encoding}.txt", text.encode(encoding))
        assert "".join(texts(found)) == text
        assert file.warnings == []


def test_control_characters_are_removed(load: Load) -> None:
    file, found = load("a.log", "\x1b[31mred\x1b[0m alert\x07 on \x1b]0;title\x07 line\n")
    assert texts(found) == ["red alert on  line"]
    assert file.warnings == ["control characters were removed"]


def test_paragraphs_and_long_ones(load: Load) -> None:
    _, found = load("a.txt", "one\nstill one\n \t\ntwo\f\nthree\n\n\n\n")
    assert texts(found) == ["one\nstill one", "two", "three"]
    lines = [f"line {number}" for number in range(20_000)]
    _, found = load("b.log", "\n".join(lines))
    assert "\n".join(texts(found)).split("\n") == lines
    assert max(len(text) for text in texts(found)) <= 8192


def test_markdown(load: Load) -> None:
    file, found = load(
        "a.md",
        "---\ntitle: Front\n---\n\n# Top #\ntext\n\nUnder\n-----\n- item\n- item\n\n```sh\n# no heading\n\nls\n```\n"
        "\n| a | b |\n|---|---|\n\n### Deep\n",
    )
    assert [(element.kind, element.level, element.text) for element in found] == [
        ("title", None, "Front"),
        ("heading", 1, "Top"),
        ("text", None, "text"),
        ("heading", 2, "Under"),
        ("list", None, "- item\n- item"),
        ("code", None, "```sh\n# no heading"),
        ("code", None, "ls\n```"),
        ("table", None, "| a | b |\n|---|---|"),
        ("heading", 3, "Deep"),
    ]
    assert file.title == "Front"


def test_rst_and_its_relatives(load: Load) -> None:
    file, found = load("a.rst", "====\nBook\n====\n\nOne\n===\ntext\n\nTwo\n---\n\nThree\n=====\n")
    assert [(element.level, element.text) for element in found if element.kind == "heading"] == [
        (1, "Book"), (2, "One"), (3, "Two"), (2, "Three"),
    ]  # fmt: skip
    assert file.title == "Book"
    _, found = load("a.tex", "\\chapter{Start}\n\\subsection*{Inside}\ntext % remark\n")
    assert [(element.level, element.text) for element in found] == [
        (1, "Start"),
        (3, "Inside"),
        (None, "text % remark"),
    ]
    _, found = load("a.adoc", "= Book\n\n== Part\n\ntext\n")
    assert [element.level for element in found] == [1, 2, None]
    _, found = load("a.org", "* One\n** Two\ntext\n")
    assert [element.level for element in found] == [1, 2, None]


def test_code_is_code(load: Load) -> None:
    _, found = load("a.py", "# not a heading\nx = 1\n\n\ndef f():\n    return x\n")
    assert [(element.kind, element.text) for element in found] == [
        ("code", "# not a heading\nx = 1"), ("code", "def f():\n    return x"),
    ]  # fmt: skip


# --- html -----------------------------------------------------------------------------------------------------


def test_html_structure(load: Load) -> None:
    file, found = load(
        "a.html",
        "<html><head><title>A &amp; B</title><meta name=author content='Ann'><style>x{}</style></head><body>"
        "<script>if (a < b) alert('unseen')</script><h1>Top</h1><p>one <b>bold</b>\n word<br>next line</p>loose"
        "<ul><li>first<li>second <i>item</i></ul><pre>a  b\n  c</pre><h3>Deep</h3>"
        "<table><tr><th>Name<th>Age</tr><tr><td>Ann<td>40</tr><tr><td>Bob<td>50</tr></table>"
        "<table><tr><td><h2>Layout</h2><p>text in a layout cell</td><td>side</td></tr></table></body></html>",
    )
    assert [(element.kind, element.level, element.text) for element in found] == [
        ("title", None, "A & B"),
        ("heading", 1, "Top"),
        ("text", None, "one bold word\nnext line"),
        ("text", None, "loose"),
        ("list", None, "- first\n- second item"),
        ("code", None, "a  b\n  c"),
        ("heading", 3, "Deep"),
        ("table", None, "Name: Ann; Age: 40\nName: Bob; Age: 50"),
        ("heading", 2, "Layout"),
        ("text", None, "text in a layout cell"),
        ("text", None, "side"),
    ]
    assert (file.title, file.metadata["author"]) == ("A & B", "Ann")


@pytest.mark.parametrize(
    ("declared", "really"),
    [("gb2312", "gb18030"), ("Shift_JIS", "cp932"), ("utf-8", "gb18030"), ("utf-16", "utf-8"), ("nonsense", "utf-8")],
)
def test_html_encoding(declared: str, really: str, load: Load) -> None:
    text = PROSE["shift_jis" if really == "cp932" else "gb18030"]
    _, found = load("a.html", f'<html><meta charset="{declared}"><p>{text}</p></html>'.encode(really))
    assert texts(found) == [text]


def test_html_reaches_for_nothing(load: Load) -> None:
    _, found = load(
        "a.xhtml",
        '<?xml version="1.0"?><!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        "<html><body><p>a &x; b</p></body></html>",
    )
    assert "root:" not in "".join(texts(found))


# --- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters_and_header(delimiter: str, load: Load) -> None:
    rows = ["name,city,remark", 'Ann,"Rome\nItaly",fine', "Bob,,ragged,extra", "", "Cy"]
    file, found = load("a.csv", "\n".join(rows).replace(",", delimiter))
    assert texts(found) == ["name: Ann; city: Rome Italy; remark: fine\nname: Bob; remark: ragged; extra\nname: Cy"]
    assert found[0].kind == "table"
    assert file.metadata["columns"] == ["name", "city", "remark"]


def test_csv_without_a_header_and_only_with_one(load: Load) -> None:
    _, found = load("a.csv", "1,2\n3,4\n")
    assert texts(found) == ["1 | 2\n3 | 4"]
    _, found = load("b.csv", "name,city\n")
    assert texts(found) == ["name | city"]
    _, found = load("c.csv", "sep=;\nname;city, land\nAnn;Rome\n")
    assert texts(found) == ["name: Ann; city, land: Rome"]


def test_a_quote_that_never_ends_loses_nothing(load: Load) -> None:
    file, found = load("a.csv", 'name,remark\nAnn,"open\n' + "".join(f"person {n},fine\n" for n in range(20_000)))
    text = "\n".join(texts(found))
    assert all(f"person {n}\n" in text or f"person {n};" in text or f"person {n}," in text for n in (0, 9_999, 19_999))
    assert "quotes are read as they are" in file.warnings[0]


def test_json_paths(load: Load) -> None:
    _, found = load(
        "a.json",
        json.dumps({"a": {"b": ["x", {"c": 1.5}], "empty": "", "none": None}, "t": True, 'quote"d': "tab\tline\nend"}),
    )
    assert texts(found) == ['a.b: x\na.b.c: 1.5\nt: true\nquote"d: tab line end'.replace("tab line", "tab line")]
    _, found = load("b.json", '[1, "two"] {"three": 3}')
    assert texts(found) == ["1\ntwo\nthree: 3"]
    _, found = load("c.json", r'{"a": "\ud83d\ude00 \ud800 \u0007"}')
    assert texts(found) == ["a: 😀  "]


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ('{"a": 1,\n "b": }', "line 2 column 7"),
        ('{"a" 1}', "line 1 column 6"),
        ('["a" "b"]', "line 1 column 6"),
        ("[1, 2", "line 1 column 6"),
        ('{"a": "\\x"}', "line 1 column 8"),
        ("[01]", "line 1 column 2"),
        ("]", "line 1 column 1"),
        ('{"a": 1]', "line 1 column 8"),
        ("word", "line 1 column 1"),
    ],
)
def test_broken_json_names_the_place(data: str, place: str, load: Load) -> None:
    with pytest.raises(DamagedFileError, match=place):
        load("a.json", data)
    with pytest.raises(DamagedFileError, match=place.replace("line 2", "line 70002").replace("line 1", "line 70001")):
        load("b.json", "\n" * 70_000 + data)


def test_json_equals_the_library_on_random_values(load: Load) -> None:
    chance = random.Random(5)

    def value(depth: int) -> Any:
        kind = chance.randrange(6 if depth else 4)
        if kind < 3:
            return chance.choice(["text", 'ü"\\\n\t', 1, -2.5e-7, True, "会", 10**20])
        if kind == 3:
            return chance.choice(["", None, [], {}])
        items = [value(depth - 1) for _ in range(chance.randrange(4))]
        return items if kind == 4 else {f"k{index}": item for index, item in enumerate(items)}

    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, (list, dict)):
            for item in value if isinstance(value, list) else value.values():
                yield from leaves(item)
        elif value is not None and value != "":
            yield (
                " ".join(value.split())
                if isinstance(value, str) and "\n" in value
                else (value if isinstance(value, str) else json.dumps(value))
            )

    for number in range(200):
        example = value(5)
        _, found = load(f"{number}.json", json.dumps(example, indent=chance.choice([None, 2])))
        lines = [line.rpartition(": ")[2] for text in texts(found) for line in text.split("\n") if line]
        assert lines == list(leaves(example))


def test_a_bad_line_of_json_lines_costs_itself(load: Load) -> None:
    file, found = load("a.jsonl", '{"a": 1}\nnonsense\n\n{"a": 2}\n')
    assert texts(found) == ["a: 1\na: 2"]
    assert file.warnings == ["line 2 is not JSON and was left out: unexpected 'n'"]


# --- pdf ------------------------------------------------------------------------------------------------------


def test_pdf_pages_headings_and_joined_lines(load: Load) -> None:
    body = "The committee met in spring. " * 8
    pages = [
        [("A heading", 20.0), (f"{body}It was a long-\nlasting session.", 11.0)],
        [("深度学习模型\n可以读片。", 11.0)],
    ]
    file, found = load("a.pdf", corpus.pdf(pages, title="Minutes"))
    assert (file.title, file.metadata["pages"]) == ("Minutes", 2)
    assert [(element.kind, element.page, element.level) for element in found] == [
        ("heading", 1, 1), ("text", 1, None), ("text", 2, None),
    ]  # fmt: skip
    assert found[1].text.endswith("It was a longlasting session.")
    assert found[2].text == "深度学习模型可以读片。"


def test_pdf_columns_are_read_one_after_the_other(load: Load, tmp_path: Path) -> None:
    import pymupdf

    book = pymupdf.open()
    page = book.new_page()
    right, left = "right column words follow here. " * 12, "left column words come first. " * 12
    page.insert_textbox((310, 120, 550, 700), right, fontsize=10)  # in the wrong order in the file
    page.insert_textbox((50, 120, 290, 700), left, fontsize=10)
    page.insert_textbox((50, 60, 550, 110), "A title over both columns", fontsize=22)
    for row, (name, price) in enumerate((("tea", "3.50"), ("coffee", "4.20"), ("milk", "1.10"), ("sugar", "0.80"))):
        page.insert_text((60, 720 + 14 * row), name, fontsize=10)
        page.insert_text((400, 720 + 14 * row), price, fontsize=10)
    _, found = load("a.pdf", book.tobytes())
    text = " ".join(texts(found))
    order = [text.index(part) for part in ("A title", "left column", "right column", "tea", "3.50", "coffee", "4.20")]
    assert order == sorted(order)


def test_pdf_running_titles_and_page_numbers_come_once(load: Load) -> None:
    import pymupdf

    book = pymupdf.open()
    for number in range(1, 5):
        page = book.new_page()
        page.insert_text((60, 40), "Annual report", fontsize=9)
        page.insert_text((300, 820), f"Page {number} of 4", fontsize=9)
        page.insert_textbox((60, 100, 500, 300), f"Chapter text number {number}. " * 9, fontsize=11)
    _, found = load("a.pdf", book.tobytes())
    assert texts(found, "header") == ["Annual report"]
    assert len(texts(found)) == 5


def test_pdf_outline_gives_levels(load: Load) -> None:
    import pymupdf

    book = pymupdf.open()
    page = book.new_page()
    page.insert_text((60, 100), "1.2 Method", fontsize=11)
    page.insert_textbox((60, 120, 500, 300), "We asked a hundred people. " * 9, fontsize=11)
    book.set_toc([[1, "Study", 1], [2, "1.2  Method", 1]])
    _, found = load("a.pdf", book.tobytes())
    assert (found[0].kind, found[0].level) == ("heading", 2)


def test_pdf_pages_without_text_are_named(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    import pymupdf

    book = pymupdf.open()
    for number in range(1, 11):
        page = book.new_page()
        if number in (3, 7, 8, 9):
            page.draw_rect((50, 50, 300, 300), fill=(0.5, 0.5, 0.5))
        elif number != 5:  # a blank page needs nothing
            page.insert_text((60, 100), f"text of page {number}")
    monkeypatch.setattr(pdf, "_NO_OCR", "a reader")
    file, _ = load("a.pdf", book.tobytes())
    assert file.partial == "pages 3, 7-9 need a reader"
    book.select([2])
    with pytest.raises(MissingError, match="needs a reader: none of its 1 pages has a text layer"):
        load("b.pdf", book.tobytes())


def test_pdf_passwords(load: Load) -> None:
    import pymupdf

    pages = [[("words behind a lock", 11.0)]]
    locked = corpus.pdf(pages, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")
    with pytest.raises(EncryptedFileError, match="password"):
        load("a.pdf", locked)
    readable = corpus.pdf(pages, encryption=pymupdf.PDF_ENCRYPT_AES_128, user_pw="", owner_pw="owner")
    assert texts(load("b.pdf", readable)[1]) == ["words behind a lock"]


def test_pdf_notes_of_readers(load: Load) -> None:
    import pymupdf

    book = pymupdf.open()
    page = book.new_page()
    page.insert_text((60, 100), "A sentence.")
    page.add_text_annot((200, 100), "Please check this figure.")
    _, found = load("a.pdf", book.tobytes())
    assert texts(found, "note") == ["Please check this figure."]


def test_pdf_library_comes_without_its_layout_model() -> None:
    code = (
        "import sys; from ingestd_plugins.pdf import _library; _library();"
        "print([n for n in ('onnxruntime', 'numpy', 'pymupdf.layout', 'pymupdf4llm') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- word -----------------------------------------------------------------------------------------------------


def saved(save: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def edited(data: bytes, edits: dict[str, Callable[[bytes], bytes]], **added: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: edits.get(name, bytes)(source.read(name)) for name in source.namelist()}
    return corpus.zipped({**members, **{name.replace("__", "/"): content for name, content in added.items()}})


def test_word_body_in_order(load: Load) -> None:
    import docx

    book = docx.Document()
    book.core_properties.author = "Ann"
    book.add_paragraph("The great plan", style="Title")
    book.add_heading("Part", 1)
    book.add_paragraph("Before the table.")
    table = book.add_table(2, 3)
    for cell, text in zip(table._cells, ("City", "Country", "Remark", "Rome", "Italy", ""), strict=True):
        cell.text = text
    inner = table.cell(1, 2).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "nested", "cells"
    book.add_paragraph("After the table.", style="List Bullet")
    run = book.add_paragraph("Remarked.").runs
    book.add_comment(run, text="Is this true?", author="Bob", initials="b")
    book.add_heading("Section", 2)
    book.sections[0].header.paragraphs[0].text = "Letterhead"
    book.add_section()
    book.sections[1].footer.paragraphs[0].text = "Letterhead"
    file, found = load("a.docx", saved(book.save))
    assert [(element.kind, element.level, element.text) for element in found] == [
        ("title", None, "The great plan"),
        ("heading", 1, "Part"),
        ("text", None, "Before the table."),
        ("table", None, "City: Rome; Country: Italy; Remark: nested cells"),
        ("list", None, "- After the table."),
        ("text", None, "Remarked."),
        ("note", None, "Is this true?"),
        ("heading", 2, "Section"),
        ("header", None, "Letterhead"),
    ]
    assert (file.title, file.metadata["author"]) == ("The great plan", "Ann")


_BODY = """
<w:sdt><w:sdtContent><w:p><w:r><w:t>in a content control</w:t></w:r></w:p></w:sdtContent></w:sdt>
<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>
<w:ins><w:r><w:t> added</w:t></w:r></w:ins><w:r><w:tab/><w:t>tab</w:t></w:r>
<w:moveFrom><w:r><w:t>moved away</w:t></w:r></w:moveFrom></w:p>
<w:p><w:r><w:t>anchor</w:t><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">
<mc:Choice Requires="wps"><w:drawing>
<w:txbxContent><w:p><w:r><w:t>in a text box</w:t></w:r></w:p></w:txbxContent></w:drawing>
</mc:Choice><mc:Fallback><w:pict><w:txbxContent><w:p><w:r><w:t>in a text box</w:t></w:r></w:p></w:txbxContent></w:pict>
</mc:Fallback></mc:AlternateContent></w:r></w:p>
<w:p><w:pPr><w:outlineLvl w:val="2"/></w:pPr><w:r><w:t>by outline level</w:t></w:r></w:p>
<w:p><w:pPr><w:pStyle w:val="berschrift2"/></w:pPr><w:r><w:t>localised style</w:t></w:r></w:p>
<w:p><w:pPr><w:pStyle w:val="Eigene"/></w:pPr><w:r><w:t>based on it</w:t></w:r></w:p>
<w:p><w:pPr><w:pStyle w:val="Verzeichnis1"/></w:pPr><w:r><w:t>contents entry 7</w:t></w:r></w:p>
<w:p><w:r><w:t>noted</w:t><w:footnoteReference w:id="2"/></w:r></w:p>
"""
_STYLES = """
<w:style w:type="paragraph" w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style>
<w:style w:type="paragraph" w:styleId="Eigene"><w:name w:val="Meine"/><w:basedOn w:val="berschrift2"/></w:style>
<w:style w:type="paragraph" w:styleId="Verzeichnis1"><w:name w:val="toc 1"/></w:style>
<w:style w:type="paragraph" w:styleId="Kreis"><w:name w:val="k"/><w:basedOn w:val="Kreis"/></w:style>
"""
_FOOTNOTES = (
    b'<w:footnotes xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
    b'<w:footnote w:type="separator" w:id="0"><w:p><w:r><w:t>unseen</w:t></w:r></w:p></w:footnote>'
    b'<w:footnote w:id="2"><w:p><w:r><w:t>at the foot</w:t></w:r></w:p></w:footnote></w:footnotes>'
)


def test_word_text_that_python_docx_does_not_reach(load: Load) -> None:
    import docx

    relation = (
        b'<Relationship Id="rId99" Target="footnotes.xml" Type="http://schemas.openxmlformats.org/officeDocument/2006/'
        b'relationships/footnotes"/></Relationships>'
    )
    kind = (
        b'<Override PartName="/word/footnotes.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        b'wordprocessingml.footnotes+xml"/></Types>'
    )
    data = edited(
        saved(docx.Document().save),
        {
            "word/document.xml": lambda xml: xml.replace(b"<w:body>", b"<w:body>" + _BODY.encode()),
            "word/styles.xml": lambda xml: xml.replace(b"</w:styles>", _STYLES.encode() + b"</w:styles>"),
            "word/_rels/document.xml.rels": lambda xml: xml.replace(b"</Relationships>", relation),
            "[Content_Types].xml": lambda xml: xml.replace(b"</Types>", kind),
        },
        **{"word__footnotes.xml": _FOOTNOTES},
    )
    _, found = load("a.docx", data)
    assert [(element.kind, element.level, element.text) for element in found] == [
        ("text", None, "in a content control"),
        ("text", None, "kept added\ttab"),
        ("text", None, "anchor"),
        ("text", None, "in a text box"),
        ("heading", 3, "by outline level"),
        ("heading", 2, "localised style"),
        ("heading", 2, "based on it"),
        ("text", None, "noted"),
        ("footnote", None, "at the foot"),
    ]


def test_word_with_macros(load: Load) -> None:
    import docx

    book = docx.Document()
    book.add_paragraph("words")
    main = b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    macro = b"application/vnd.ms-word.document.macroEnabled.main+xml"
    data = edited(saved(book.save), {"[Content_Types].xml": lambda xml: xml.replace(main, macro)})
    assert texts(load("a.docm", data)[1]) == ["words"]


@pytest.mark.parametrize("member", ["word/styles.xml", "word/theme/theme1.xml", "docProps/core.xml"])
@pytest.mark.parametrize("how", ["lost", "no XML"])
def test_word_is_read_without_what_only_decorates(member: str, how: str, load: Load) -> None:
    import docx

    book = docx.Document()
    book.add_paragraph("words")
    data = saved(book.save)
    if how == "lost":
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            data = corpus.zipped({name: source.read(name) for name in source.namelist() if name != member})
    else:
        data = edited(data, {member: lambda _: b"<broken"})
    file, found = load("a.docx", data)
    assert texts(found) == ["words"]
    if (member, how) != ("word/theme/theme1.xml", "no XML"):  # which nobody reads
        assert file.warnings == [f"missing or damaged in the file: {member}"]


def test_unpacked_size_is_limited(load: Load) -> None:
    with pytest.raises(LimitError, match="max_unpacked"):
        load("a.docx", FORMATS[".docx"], max_unpacked=1000)
    with pytest.raises(LimitError, match="the limit is 2 KiB"):
        load("b.docx", FORMATS[".docx"], max_unpacked="2KiB")
    with pytest.raises(ConfigError, match="max_unpacked"):
        load("c.docx", FORMATS[".docx"], max_unpacked="plenty")


# --- slides ---------------------------------------------------------------------------------------------------


def test_slides(load: Load) -> None:
    import pptx
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.placeholders[1].text = "First point\nSecond point"
    slide.shapes.title.text = "Opening"
    group = slide.shapes.add_group_shape().shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "deep in groups"
    table = slide.shapes.add_table(2, 2, 0, 0, Inches(2), Inches(1)).table
    for position, text in enumerate(("Name", "Age", "Ann", "40")):
        table.cell(position // 2, position % 2).text = text
    data = CategoryChartData()
    data.categories = ["spring", "autumn"]
    data.add_series("visitors", (1, 2))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(2), Inches(2), data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "The museum"
    slide.notes_slide.notes_text_frame.text = "Speak slowly."
    deck.slides.add_slide(deck.slide_layouts[6]).shapes.add_textbox(0, 0, 9, 9).text_frame.text = "untitled"
    file, found = load("a.pptx", saved(deck.save))
    assert [(element.kind, element.page, element.text) for element in found] == [
        ("heading", 1, "Opening"),
        ("text", 1, "First point\nSecond point"),
        ("text", 1, "deep in groups"),
        ("table", 1, "Name: Ann; Age: 40"),
        ("caption", 1, "The museum\nvisitors\nspring, autumn"),
        ("note", 1, "Speak slowly."),
        ("text", 2, "untitled"),
    ]
    assert (file.title, file.metadata["pages"]) == ("Opening", 2)


def test_a_broken_slide_costs_itself(load: Load) -> None:
    import pptx

    deck = pptx.Presentation()
    for text in ("one", "two"):
        deck.slides.add_slide(deck.slide_layouts[5]).shapes.title.text = text
    relation = b'Target="slides/slide1.xml"'
    data = edited(
        saved(deck.save),
        {"ppt/_rels/presentation.xml.rels": lambda xml: xml.replace(relation, b'Target="theme/theme1.xml"')},
    )
    file, found = load("a.pptx", data)
    assert texts(found) == ["two"]
    assert file.warnings == ["slides that cannot be read: 1"]


# --- sheets ---------------------------------------------------------------------------------------------------


def test_sheets(load: Load) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Prices"
    for row in (
        ["Price list"], [], ["Item", "Price", "Since", "Sold out"],
        ["Tea", 3.5, datetime.datetime(2024, 1, 2), False], ["Water", 0.1 + 0.2, datetime.datetime(2024, 1, 2, 9, 30)],
    ):  # fmt: skip
        sheet.append(row)
    book.create_sheet("Empty")
    book.create_sheet("数字").append([1, None, 3])
    _, found = load("a.xlsx", saved(book.save))
    assert [(element.kind, element.page, element.text) for element in found] == [
        ("heading", 1, "Prices"),
        ("table", 1, "Price list"),
        (
            "table",
            1,
            "Item: Tea; Price: 3.5; Since: 2024-01-02; Sold out: FALSE\n"
            "Item: Water; Price: 0.3; Since: 2024-01-02 09:30:00",
        ),
        ("heading", 3, "数字"),
        ("table", 3, "1 | 3"),
    ]
    assert found[1].metadata == {"sheet": "Prices"}


def test_formatted_empty_rows_cost_little_and_wrong_dimensions_lose_nothing(load: Load) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["a", "b"])
    book.active.append(["last", "cell"])
    empty = "".join(f'<row r="{row}"><c r="A{row}" s="0"/></row>' for row in range(3, 200_000)).encode()
    data = edited(
        saved(book.save),
        {
            "xl/worksheets/sheet1.xml": lambda xml: xml.replace(b"</sheetData>", empty + b"</sheetData>").replace(
                b'ref="A1:B2"', b'ref="A1"'
            )
        },
    )
    file, found = load("a.xlsx", data)
    assert texts(found) == ["Sheet", "a: last; b: cell"]
    assert "5000 empty rows" in file.warnings[0]


def test_styles_that_the_library_refuses_do_not_lose_the_cells(load: Load) -> None:
    data = edited(
        FORMATS[".xlsx"], {"xl/styles.xml": lambda xml: xml.replace(b"<fills", b"<fills><fill><x/></fill></fills><f")}
    )
    file, found = load("a.xlsx", data)
    assert "taper before race day" in "".join(texts(found))
    assert file.warnings == ["missing or damaged in the file: xl/styles.xml"]
