"""A real file of any suffix that a bundled loader takes, with a given sentence in it, made by tools of the format."""

from __future__ import annotations

import csv
import io
import json
import mailbox
import tempfile
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests import archives, corpus, formats, outlook
from tests.corpus_texts import Topic
from tests.formats import Words

Writer = Callable[[Words], bytes]


def text(words: Words) -> bytes:
    """A title and two paragraphs; what is not ASCII in an encoding that has to be found."""
    written = f"{words.title}\n\n{words.sentence}\n\nMore of it follows.\n"
    return written.encode("utf-8" if words.title.isascii() else "gb18030")


def commented(mark: str) -> Writer:
    """Source code or settings with the sentence in a comment, after an opening and before a closing mark."""
    opening, _, closing = mark.partition(" ")
    return lambda words: f"{opening} {words.sentence} {closing}\n\nname = 1\n".encode()


def html(words: Words) -> bytes:
    page = f"<!DOCTYPE html><html><head><title>{words.title}</title></head><body><p>{words.sentence}</p></body></html>"
    return page.encode()


def xhtml(words: Words) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title>{words.title}</title></head><body><p>{words.sentence}</p></body></html>"
    ).encode()


def table(delimiter: str) -> Writer:
    def write(words: Words) -> bytes:
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([["number", "remark"], ["1", "none"], ["2", words.sentence]])
        return stream.getvalue().encode()

    return write


def json_lines(words: Words) -> bytes:
    return "".join(json.dumps({"n": n, "text": line}) + "\n" for n, line in enumerate(words)).encode()


def topic(suffix: str) -> Writer:
    """As the corpus makes it, by the library of the format."""

    def write(words: Words) -> bytes:
        paragraphs = (f"a|{words.sentence}|c",) if suffix == ".xlsx" else (words.sentence, "More of it follows.")
        return corpus.document(Topic(f"a{suffix}", words.title, paragraphs, "", ""))

    return write


def sibling(suffix: str, main: str) -> Writer:
    """Of an Office document, with the content type of its main part that the template or the one with macros has."""
    write = topic(suffix)

    def written(words: Words) -> bytes:
        with zipfile.ZipFile(io.BytesIO(write(words))) as source:
            members = {name: source.read(name) for name in source.namelist()}
        types = members["[Content_Types].xml"].decode()
        before, found, after = types.partition(f'{MAIN[suffix]}.main+xml"')
        assert found
        start = before.rindex('"') + 1
        members["[Content_Types].xml"] = f'{before[:start]}application/vnd.{main}.main+xml"{after}'.encode()
        return corpus.zipped(members)

    return written


MAIN = {".docx": "document", ".pptx": "presentation", ".xlsx": "sheet"}
_OOXML = "openxmlformats-officedocument"


def odf(kind: str, flat: bool) -> Writer:
    """What odfpy saves under another media type, or as one XML file."""

    def write(words: Words) -> bytes:
        from odf import draw, style, text
        from odf.opendocument import OpenDocumentDrawing, load

        base = {"text": formats.odt, "spreadsheet": formats.ods, "presentation": formats.odp}.get(kind.split("-")[0])
        if base is not None:
            book = load(io.BytesIO(base(words)))
        else:
            book = OpenDocumentDrawing()
            layout = style.PageLayout(name="page")
            book.automaticstyles.addElement(layout)
            master = style.MasterPage(name="master", pagelayoutname=layout)
            book.masterstyles.addElement(master)
            page = draw.Page(masterpagename=master, name="p")
            frame = draw.Frame(width="10cm", height="3cm", x="1cm", y="1cm")
            box = draw.TextBox()
            box.addElement(text.P(text=words.sentence))
            frame.addElement(box)
            page.addElement(frame)
            book.drawing.addElement(page)
        book.mimetype = f"application/vnd.oasis.opendocument.{kind}"
        book.topnode.setAttribute("mimetype", book.mimetype)
        if flat:
            return bytes(book.xml())
        return _saved(book.save)

    return write


def feed(kind: str) -> Writer:
    def write(words: Words) -> bytes:
        entry = f"<title>{words.title}</title><{kind}>{words.sentence}</{kind}>"
        inner = f"<channel><item>{entry}</item></channel>" if kind == "description" else f"<entry>{entry}</entry>"
        outer = 'rss version="2.0"' if kind == "description" else 'feed xmlns="http://www.w3.org/2005/Atom"'
        return f'<?xml version="1.0" encoding="utf-8"?><{outer}>{inner}</{outer.split()[0]}>'.encode()

    return write


def members(words: Words) -> dict[str, str | bytes]:
    """What an archive holds: the sentence is in a document of a folder."""
    return {"readme.txt": "nothing of interest", "folder/notes.md": f"# {words.title}\n\n{words.sentence}\n"}


def tar(packing: str) -> Writer:
    return lambda words: archives.tarred(members(words), packing)


def packed(packing: str) -> Writer:
    return lambda words: archives.packed(words.sentence.encode(), packing)


def mail(words: Words) -> bytes:
    return archives.mail(words.title, f"{words.sentence}\n", attachments={"a.txt": "attached"})


def mbox(words: Words) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.mbox"
        box = mailbox.mbox(path)
        for subject, line in (("First", "Nothing.\n"), (words.title, f"{words.sentence}\n")):
            message = EmailMessage()
            message["From"], message["Subject"] = "ada@example.org", subject
            message.set_content(line)
            box.add(message)
        box.close()
        return path.read_bytes()


def msg(words: Words) -> bytes:
    people = [("Bob", "bob@example.org")]
    return outlook.item(words.title, words.sentence, ("Ada", "ada@example.org"), people, {"a.txt": b"attached"})


def _saved(save: Callable[[io.BytesIO], Any]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


_MARKS = {
    "//": ".c .h .cc .cpp .cxx .hh .hpp .hxx .cs .java .kt .kts .scala .groovy .gradle .go .rs .swift .m .mm .js .mjs"
    " .cjs .jsx .ts .tsx .scss .less .php .dart .proto .zig .v .sv .cu .cuh .sol .ipp .inl .d .properties",
    "#": ".py .pyi .pyx .rb .pl .pm .r .jl .ex .exs .sh .bash .zsh .fish .ps1 .cmake .mk .tf .graphql .nim .tcl .awk"
    " .dockerfile .toml .yaml .yml .env .conf .cfg .diff .patch",
    "--": ".lua .hs .sql .vhdl",
    ";": ".clj .lisp .el .scm .asm .s .ini",
    "%": ".erl .tex .latex .bib",
    "!": ".f90 .f .for",
    "'": ".vb",
    "REM": ".bat .cmd",
    "(* *)": ".ml .pas",
    "/* */": ".css",
    "<!-- -->": ".vue",
}
WRITERS: dict[str, Writer] = {
    **{suffix: commented(mark) for mark, suffixes in _MARKS.items() for suffix in suffixes.split()},
    **dict.fromkeys((".txt", ".text", ".log"), text),
    **dict.fromkeys((".md", ".markdown"), topic(".md")),
    **dict.fromkeys((".rst", ".adoc", ".asciidoc", ".org"), topic(".rst")),
    **dict.fromkeys((".html", ".htm", ".shtml"), html),
    ".xhtml": xhtml,
    ".csv": table(","),
    ".tsv": table("\t"),
    ".tab": table("\t"),
    ".json": topic(".json"),
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    **{suffix: topic(suffix) for suffix in (".pdf", ".docx", ".pptx", ".xlsx")},
    ".docm": sibling(".docx", "ms-word.document.macroEnabled"),
    ".dotx": sibling(".docx", f"{_OOXML}.wordprocessingml.template"),
    ".dotm": sibling(".docx", "ms-word.template.macroEnabledTemplate"),
    ".pptm": sibling(".pptx", "ms-powerpoint.presentation.macroEnabled"),
    ".ppsx": sibling(".pptx", f"{_OOXML}.presentationml.slideshow"),
    ".ppsm": sibling(".pptx", "ms-powerpoint.slideshow.macroEnabled"),
    ".potx": sibling(".pptx", f"{_OOXML}.presentationml.template"),
    ".potm": sibling(".pptx", "ms-powerpoint.template.macroEnabled"),
    ".xlsm": sibling(".xlsx", "ms-excel.sheet.macroEnabled"),
    ".xltx": sibling(".xlsx", f"{_OOXML}.spreadsheetml.template"),
    ".xltm": sibling(".xlsx", "ms-excel.template.macroEnabled"),
    **formats.WRITERS,
    ".xlt": formats.xls,
    ".ott": odf("text-template", False),
    ".odm": odf("text-master", False),
    ".ots": odf("spreadsheet-template", False),
    ".otp": odf("presentation-template", False),
    ".odg": odf("graphics", False),
    ".otg": odf("graphics-template", False),
    ".fodt": odf("text", True),
    ".fods": odf("spreadsheet", True),
    ".fodp": odf("presentation", True),
    ".fodg": odf("graphics", True),
    ".rss": feed("description"),
    ".atom": feed("content"),
    ".zip": lambda words: archives.zipped(members(words)),
    ".tar": tar(""),
    **{f".tar{packing}": tar(packing) for packing in (".gz", ".bz2", ".xz", ".zst")},
    **{suffix: tar(packing) for suffix, packing in
       {".tgz": ".gz", ".tbz": ".bz2", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}.items()},
    **{packing: packed(packing) for packing in (".gz", ".bz2", ".xz", ".zst")},
    ".eml": mail,
    ".mbox": mbox,
    ".msg": msg,
}  # fmt: skip
"""By suffix."""

_BIRDS = "heron owl stork raven gull finch crane wren swift plover egret kite"
_ENGLISH = (
    "keeper harbourmaster gardener ferryman teacher baker shepherd miller nurse printer sailor",
    "repaints measures cleans photographs sells describes repairs borrows hides inherits paints weighs counts",
    "lanterns nets barometers apples diaries bicycles chimneys violins maps kettles umbrellas ladders boats",
    "spring autumn Tuesday harvest winter holiday market morning storm wedding election eclipse",
)
_CHINESE = (
    "守塔人 船长 园丁 摆渡人 教师 面包师 牧羊人 磨坊主 护士 印刷工 水手",
    "粉刷 测量 清洗 拍摄 出售 描写 修理 借走 藏起 继承 描绘 称重 清点",
    "灯笼 渔网 气压计 苹果 日记 自行车 烟囱 小提琴 地图 水壶 雨伞 梯子 木船",
    "春天 秋季 周二 丰收 冬夜 假日 集市 清晨 暴雨 婚礼 选举 日食",
)
_SIGNS = "鹭鹰鹤鸦鸥雀鹳鹬燕雁鹞鹊鸽鹂鹏鸠鹉鹦鸢鹃", "岛湾岬角港嘴礁滩洲沟峡崖浦汀渚屿堤坝塘溪"


def words(number: int, language: str) -> Words:
    """Words that no other document has: `number` is below 400."""
    chosen = _ENGLISH if language == "english" else _CHINESE
    who, does, what, when = (
        each.split()[number * 7 // (slot + 1) % len(each.split())] for slot, each in enumerate(chosen)
    )
    if language == "english":
        birds = _BIRDS.split()
        name = f"{birds[number // 144]}{birds[number // 12 % 12]}{birds[number % 12]}"
        return Words(f"Notes on {name}", f"The {who} of {name} {does} the old {what} before each {when}.")
    name = f"{_SIGNS[0][number // 20]}{_SIGNS[1][number % 20]}"
    return Words(f"{name}笔记", f"每逢{when}，{name}的{who}都要{does}那些旧{what}。")
