"""Documents of the formats that `corpus` has none of, made by the libraries that write them, in two languages."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

ENGLISH = "The lighthouse keeper repaints the lantern room every spring."
CHINESE = "灯塔看守人每年春天重新粉刷灯室。"


class Words(NamedTuple):
    """What a document says."""

    title: str
    sentence: str


WORDS = {"english": Words("Notes on a lighthouse", ENGLISH), "chinese": Words("灯塔笔记", CHINESE)}
"""By language."""


def xls(words: Words) -> bytes:
    """Two sheets: a table with column names, numbers and a date, and one with a remark."""
    import datetime

    import xlwt

    book = xlwt.Workbook(encoding="utf-8")
    sheet = book.add_sheet(words.title)
    dated = xlwt.easyxf(num_format_str="YYYY-MM-DD")
    for column, name in enumerate(("task", "hours", "since")):
        sheet.write(0, column, name)
    for row in range(1, 4):
        sheet.write(row, 0, words.sentence if row == 2 else f"task {row}")
        sheet.write(row, 1, row * 1.5)
        sheet.write(row, 2, datetime.date(2024, 3, row), dated)
    book.add_sheet("remarks").write(3, 1, "A remark on the second sheet")
    return _saved(book.save)


def rtf(words: Words) -> bytes:
    """As word processors write it: fonts, properties, a picture, a link, a table, letters as escapes."""
    sentence = "".join(c if c.isascii() else f"\\u{ord(c)}?" for c in words.sentence)
    title = "".join(c if c.isascii() else f"\\u{ord(c)}?" for c in words.title)
    picture = "\n".join("89504e470d0a1a0a" * 8 for _ in range(40))
    return (
        "{\\rtf1\\ansi\\ansicpg1252\\deff0{\\fonttbl{\\f0\\fcharset0 Arial;}{\\f1\\fcharset134 SimSun;}}\n"
        f"{{\\info{{\\title {title}}}{{\\author Ida Lamp}}}}\n"
        f"\\pard\\f0 {title}\\par\n{sentence}\\par\n{{\\pict\\pngblip\\picw10\\pich10\n{picture}}}\n"
        '{\\field{\\*\\fldinst{HYPERLINK "http://example.org/"}}{\\fldrslt the society of keepers}}\\par\n'
        "{\\f1 \\'b5\\'c6\\'cb\\'fe}\\par\n"
        "\\trowd\\cellx1000\\cellx2000 name\\cell height\\cell year\\cell\\row\n"
        "\\trowd\\cellx1000\\cellx2000 North Point\\cell 31 m\\cell 1887\\cell\\row\n}"
    ).encode()


def odt(words: Words) -> bytes:
    """Headings, a list, a table, a footnote, a footer."""
    from odf import style, table, text
    from odf.opendocument import OpenDocumentText

    book = OpenDocumentText()
    _odf_title(book, words)
    layout = style.PageLayout(name="page")
    book.automaticstyles.addElement(layout)
    master = style.MasterPage(name="Standard", pagelayoutname=layout)
    footer = style.Footer()
    footer.addElement(text.P(text="For keepers only"))
    master.addElement(footer)
    book.masterstyles.addElement(master)
    book.text.addElement(text.H(outlinelevel=1, text=words.title))
    paragraph = text.P(text=words.sentence)
    note = text.Note(noteclass="footnote")
    note.addElement(text.NoteCitation(text="1"))
    body = text.NoteBody()
    body.addElement(text.P(text="Since 1887."))
    note.addElement(body)
    paragraph.addElement(note)
    paragraph.addText(" Then it rains.")
    book.text.addElement(paragraph)
    entries = text.List()
    for entry in ("brushes", "white paint"):
        item = text.ListItem()
        item.addElement(text.P(text=entry))
        entries.addElement(item)
    book.text.addElement(entries)
    book.text.addElement(_odf_table(table.Table(name="t"), ["name", "height", "year"], ["North Point", "31 m", "1887"]))
    return _saved(book.save)


def ods(words: Words) -> bytes:
    """Two sheets; empty cells and rows repeated as spreadsheet programs do."""
    from odf import table
    from odf.opendocument import OpenDocumentSpreadsheet

    book = OpenDocumentSpreadsheet()
    _odf_title(book, words)
    rows = ["task", "hours", "who"], ["inspect", "2", ""], [words.sentence, "7", "Ida"]
    sheet = _odf_table(table.Table(name=words.title), *rows)
    row = table.TableRow(numberrowsrepeated=1_048_000)
    row.addElement(table.TableCell(numbercolumnsrepeated=16_384))
    sheet.addElement(row)
    book.spreadsheet.addElement(sheet)
    book.spreadsheet.addElement(_odf_table(table.Table(name="remarks"), ["A remark on the second sheet"]))
    return _saved(book.save)


def odp(words: Words) -> bytes:
    """A slide with title, text and notes."""
    from odf import draw, presentation, style, text
    from odf.opendocument import OpenDocumentPresentation

    book = OpenDocumentPresentation()
    _odf_title(book, words)
    layout = style.PageLayout(name="page")
    book.automaticstyles.addElement(layout)
    master = style.MasterPage(name="master", pagelayoutname=layout)
    book.masterstyles.addElement(master)
    for number, title in enumerate((words.title, "Second slide"), 1):
        slide = draw.Page(masterpagename=master, name=f"s{number}")
        for kind, content in (("title", title), ("outline", words.sentence if number == 2 else "An outline")):
            frame = draw.Frame(width="10cm", height="3cm", x="1cm", y="1cm", attributes={"class": kind})
            box = draw.TextBox()
            box.addElement(text.P(text=content))
            frame.addElement(box)
            slide.addElement(frame)
        notes = presentation.Notes()
        frame = draw.Frame(width="10cm", height="3cm")
        box = draw.TextBox()
        box.addElement(text.P(text="Greet the keepers."))
        frame.addElement(box)
        notes.addElement(frame)
        slide.addElement(notes)
        book.presentation.addElement(slide)
    return _saved(book.save)


def _odf_title(book: Any, words: Words) -> None:
    from odf import dc

    book.meta.addElement(dc.Title(text=words.title))


def _odf_table(target: Any, *rows: list[str]) -> Any:
    from odf import table, text

    for cells in rows:
        row = table.TableRow()
        for words in cells:
            cell = table.TableCell(valuetype="string")
            if words:
                cell.addElement(text.P(text=words))
            row.addElement(cell)
        target.addElement(row)
    return target


def fodt(words: Words) -> bytes:
    """All of a text in one XML file."""
    office, text = "urn:oasis:names:tc:opendocument:xmlns:office:1.0", "urn:oasis:names:tc:opendocument:xmlns:text:1.0"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<office:document xmlns:office="{office}" xmlns:text="{text}" '
        'office:mimetype="application/vnd.oasis.opendocument.text"><office:body><office:text>'
        f'<text:h text:outline-level="1">{words.title}</text:h><text:p>{words.sentence}</text:p>'
        "</office:text></office:body></office:document>"
    ).encode()


def epub(words: Words) -> bytes:
    """Two chapters, in an order that is not that of their names."""
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{words.title}</dc:title>'
        "<dc:creator>Ida Lamp</dc:creator></metadata><manifest>"
        '<item id="b" href="text/b.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="a" href="text/a%20one.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="p" href="cover.png" media-type="image/png"/></manifest>'
        '<spine><itemref idref="b"/><itemref idref="a"/></spine></package>'
    )
    page = (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
        "<body><h1>{}</h1><p>{}</p></body></html>"
    )
    return _zipped({
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        "OPS/book.opf": package,
        "OPS/text/b.xhtml": page.format("The first chapter", "It begins."),
        "OPS/text/a one.xhtml": page.format("The second chapter", words.sentence),
        "OPS/cover.png": "no picture",
    })  # fmt: skip


def srt(words: Words) -> bytes:
    """The sentence lies across two cues."""
    first, second = _halves(words)
    return (
        f"1\r\n00:00:01,000 --> 00:00:03,500\r\n<i>{first}</i>\r\n"
        f"\r\n2\r\n00:00:03,600 --> 00:00:05,000\r\n{second}\r\n"
        "\r\n3\r\n00:01:05,000 --> 00:01:06,000\r\n{\\an8}Much later.\r\n"
    ).encode()


def vtt(words: Words) -> bytes:
    """With a style, a note, cue settings and a speaker."""
    first, second = _halves(words)
    return (
        "WEBVTT\n\nSTYLE\n::cue { color: lime }\n\nNOTE not to be shown\n\nintro\n"
        "00:01.000 --> 00:03.500 align:start\n"
        f"<v Ida>{first}</v>\n\n00:03.600 --> 00:05.000\n{second} &amp; so on\n"
        "\n01:00:05.000 --> 01:00:06.000\nMuch later.\n"
    ).encode()


def _halves(words: Words) -> tuple[str, str]:
    sentence = words.sentence
    place = sentence.index(" ", len(sentence) // 2) if sentence.isascii() else len(sentence) // 2
    return sentence[:place], sentence[place:].strip()


def xml(words: Words) -> bytes:
    """Records with attributes, and a text with tags in its midst."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<log><title>{words.title}</title>\n'
        f'<entry day="2024-03-01"><who>Ida</who><hours>7</hours></entry>\n<text>{_marked(words)}</text></log>\n'
    ).encode()


def _marked(words: Words) -> str:
    first, second = _halves(words)
    return f"<b>{escape(first)}</b>{' ' if second.isascii() else ''}{escape(second)}"


def svg(words: Words) -> bytes:
    """A drawing with a title and two texts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><title>{words.title}</title>'
        "<style>text { fill: red }</style><path d='M0 0L10 10'/>"
        f"<g><text x='1' y='1'>{words.sentence}</text>"
        "<text><tspan>North</tspan><tspan>Point</tspan></text></g></svg>"
    ).encode()


def ipynb(words: Words) -> bytes:
    """Prose, code with printed output and a picture."""
    import nbformat.v4 as v4

    code = v4.new_code_cell("print(height * 2)")
    code.outputs = [
        v4.new_output("stream", text="62 metres\n"),
        v4.new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 640x480>"}),
        v4.new_output("error", ename="NameError", evalue="name 'tide' is not defined", traceback=["..."]),
    ]
    cells = [v4.new_markdown_cell(f"# {words.title}\n\n{words.sentence}"), code]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return json.dumps(v4.new_notebook(cells=cells), ensure_ascii=False).encode()


def _saved(save: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def _zipped(members: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            stored = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), text, stored)
    return stream.getvalue()


WRITERS: dict[str, Callable[[Words], bytes]] = {
    ".xls": xls, ".rtf": rtf, ".odt": odt, ".ods": ods, ".odp": odp, ".fodt": fodt, ".epub": epub, ".srt": srt,
    ".vtt": vtt, ".xml": xml, ".svg": svg, ".ipynb": ipynb,
}  # fmt: skip


def samples(language: str = "english") -> dict[str, bytes]:
    """One document of each format, by suffix."""
    return {suffix: write(WORDS[language]) for suffix, write in WRITERS.items()}
