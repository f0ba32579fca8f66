"""XML of any kind, and the words of SVG pictures: read as a stream of tags, entities and outside files never."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File
from ingestd.types import Loader as LoaderProtocol
from ingestd_plugins.charset import blocks, clean
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.html import declared_encoding
from ingestd_plugins.text import paragraphs

GROUP = 1200
"""Characters; short values are gathered into elements of about this size."""
SHORT = 200
"""Characters; a longer text speaks for itself and is not put behind the name of its tag."""
RUN = 8192
"""Characters of one run of text that are kept together."""
PENDING = 100
"""Short texts that wait for what their parent turns out to be."""
ATTRIBUTES = 20
"""Of one tag, that are taken."""

_SVG_TEXT = frozenset({"text", "textpath", "title", "desc"})


class XmlLoader:
    name = "xml"
    version = "1"
    suffixes: Sequence[str] = (".xml", ".rss", ".atom", ".svg")
    media_types: Sequence[str] = ("application/xml", "text/xml", "application/rss+xml", "application/atom+xml",
                                  "image/svg+xml")  # fmt: skip
    extracts = (
        "`tag: text; attribute: value`, a line each, gathered; a long text alone; of SVG the texts, title and "
        "description. What is no XML after all is read as text"
    )
    omits = "Comments, processing instructions; entities are not expanded, nothing outside is read"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Lines "tag: text" with the attributes of each tag, gathered; long texts alone. Of SVG only what is written.

        What is no XML after all is read as text, with a warning.
        """
        from lxml import etree

        with file.path.open("rb") as stream:
            declared = declared_encoding(stream.read(4096))
        target = _Svg(file) if file.suffix == ".svg" else _Values()
        # What is declared was dealt with by `blocks`, hence one encoding for the parser, whatever the file says.
        parser = etree.XMLParser(
            target=cast("Any", target), encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False
        )
        some = False
        try:
            for block in blocks(file, declared):
                parser.feed(block.encode())
                for element in target.taken():
                    some = True
                    yield element
            parser.close()
        except etree.XMLSyntaxError as error:
            target.finish()
            rest = target.taken()
            yield from rest
            if file.suffix == ".svg" and not some and not rest:
                raise DamagedFileError(f"not SVG: {cause(error)}") from None
            told = f"not well-formed XML: {cause(error)}"
            if some or rest:
                file.warn(f"{told}; what follows it was not read")
                return
            file.warn(f"{told}; it was read as text")
            for piece in paragraphs(blocks(file, declared)):
                yield Element(piece)
            return
        target.finish()
        yield from target.taken()


@hookimpl
def register_loaders() -> Iterable[LoaderProtocol]:
    return [XmlLoader()]


def _local(tag: object) -> str:
    """Without its namespace."""
    return str(tag).rpartition("}")[2]


class _Frame:
    __slots__ = ("attributes", "mixed", "parts", "size", "tag")

    def __init__(self, tag: str, attributes: str) -> None:
        self.tag = tag
        self.attributes = attributes
        self.parts: list[str] = []
        """Of text, once `mixed`; before that what short children said, of which nobody knows yet whether it is part of
        a sentence."""
        self.mixed = False
        self.size = 0


class _Values:
    """The parser's target. A tag with text of its own takes in its children's: `<p>a <b>b</b> c</p>` is one text."""

    def __init__(self) -> None:
        self._frames = [_Frame("", "")]
        self._waiting: list[_Frame] = []
        """Those that hold what short children said, outermost first: a file decides how deep it is."""
        self._lines: list[str] = []
        self._size = 0
        self._ready: list[Element] = []

    def taken(self) -> list[Element]:
        """The elements that are ready, each handed over once."""
        ready, self._ready = self._ready, []
        return ready

    # --- called by the parser

    def start(self, tag: object, attributes: Mapping[str, str]) -> None:
        around = self._frames[-1]
        if around.attributes and not around.mixed:
            self._say(around.tag, "", around.attributes)
            around.attributes = ""
        told = [
            f"{_local(name)}: {' '.join(clean(value).split())[:500]}"
            for name, value in list(attributes.items())[:ATTRIBUTES]
            if value.strip() and "XMLSchema" not in str(name)
        ]
        self._frames.append(_Frame(_local(tag), "; ".join(told)))

    def data(self, text: str) -> None:
        frame = self._frames[-1]
        if not frame.mixed and (not text or text.isspace()):
            if frame.parts and frame.parts[-1] != " ":
                frame.parts.append(" ")
            return
        frame.mixed = True
        frame.parts.append(text)
        frame.size += len(text)
        if frame.size > RUN:
            self._say("", _joined(frame))
            frame.parts, frame.size = [], 0

    def end(self, tag: object) -> None:
        if len(self._frames) < 2:
            return
        frame = self._frames.pop()
        around = self._frames[-1]
        text = _joined(frame)
        if around.mixed:
            around.parts.append(text)
            around.size += len(text)
            return
        if not frame.mixed:
            self._say(frame.tag, "", frame.attributes)
            self._pending()
        elif frame.attributes or len(text) > SHORT:
            self._say(frame.tag, text, frame.attributes)
        else:
            if not around.parts:
                self._waiting.append(around)
            around.parts.append(f"{frame.tag}\0{text}")
            if len(around.parts) > PENDING:
                self._pending()

    def close(self) -> None:
        return None

    def finish(self) -> None:
        """Hand over what an unfinished document has left open."""
        self._pending()
        for frame in self._frames:
            if frame.mixed:
                self._say(frame.tag, _joined(frame), frame.attributes)
        self._frames = self._frames[:1]
        self._frames[0].parts = []
        self._gather()

    # --- lines

    def _pending(self) -> None:
        """Hand over what waits in tags that are still open, in the order of the file."""
        frames, self._waiting = self._waiting, []
        for frame in frames:
            if not frame.mixed:
                parts, frame.parts = frame.parts, []
                for part in parts:
                    tag, _, text = part.rpartition("\0")
                    self._line(tag, text, "")

    def _say(self, tag: str, text: str, attributes: str = "") -> None:
        if attributes or text.strip():
            self._pending()
            self._line(tag, text, attributes)

    def _line(self, tag: str, text: str, attributes: str) -> None:
        text = " ".join(clean(text).split())
        if not text and not attributes:
            return
        long = len(text) > SHORT
        if long:
            self._gather()
            if attributes:
                self._ready.append(Element(f"{tag}: {attributes}"))
            self._ready.append(Element(text))
            return
        line = f"{tag}: {'; '.join(filter(None, (text, attributes)))}" if tag else text
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size > GROUP:
            self._gather()

    def _gather(self) -> None:
        if self._lines:
            self._ready.append(Element("\n".join(self._lines)))
            self._lines, self._size = [], 0


def _joined(frame: _Frame) -> str:
    return "".join(part.rpartition("\0")[2] for part in frame.parts)


class _Svg(_Values):
    """What a picture says: its texts, title and description."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self._file = file
        self._open = 0
        self._text: list[str] = []

    def start(self, tag: object, attributes: Mapping[str, str]) -> None:
        if _local(tag).lower() in _SVG_TEXT:
            self._open += 1
        elif self._open and _local(tag).lower() == "tspan" and self._text:
            self._text.append(" ")

    def data(self, text: str) -> None:
        if self._open:
            self._text.append(text)

    def end(self, tag: object) -> None:
        name = _local(tag).lower()
        if name not in _SVG_TEXT:
            return
        self._open = max(0, self._open - 1)
        if self._open:
            return
        text = " ".join(clean("".join(self._text)).split())
        self._text = []
        if text and name == "title" and self._file.title is None:
            self._file.title = text[:1000]
        self._say("", text)
