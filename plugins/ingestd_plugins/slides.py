"""Presentations by python-pptx: one page a slide, its title first, its notes last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins import embedded, ooxml
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.rows import grouped, is_header

UNPACKED_LIMIT = 1 << 30
"""Bytes. The library holds all members in memory."""
DEPTH_LIMIT = 32
"""Groups in groups."""

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_DIAGRAM = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/diagramData"


class SlidesLoader:
    name = "slides"
    version = "2"
    suffixes: Sequence[str] = (".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm")
    media_types: Sequence[str] = (
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "application/vnd.ms-powerpoint.presentation.macroenabled.12",
        "application/vnd.openxmlformats-officedocument.presentationml.slideshow",
        "application/vnd.ms-powerpoint.slideshow.macroenabled.12",
        "application/vnd.openxmlformats-officedocument.presentationml.template",
        "application/vnd.ms-powerpoint.template.macroenabled.12",
    )
    extracts = (
        "Title, text, tables, groups, charts' titles and labels, diagrams and notes of each slide; embedded files "
        "as documents of their own"
    )
    omits = "Pictures, sounds, animations, macros, what only a layout shows"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        """Title, text, tables, charts, diagrams and notes of each slide; `page` is the slide's number."""
        ooxml.check(file, self.name, UNPACKED_LIMIT)
        from pptx.opc.package import PartFactory
        from pptx.package import Package
        from pptx.parts.presentation import PresentationPart

        for kind in ("slideshow", "template"):  # the library knows neither of them with macros
            main = f"application/vnd.ms-powerpoint.{kind}.macroEnabled.main+xml"
            PartFactory.part_type_for.setdefault(main, PresentationPart)
        package = ooxml.opened(file, Package.open)
        with ooxml.reading(file):
            presentation = package.presentation_part.presentation
            slides = list(presentation.slides._sldIdLst)
        _properties(file, package)
        file.metadata["pages"] = len(slides)
        damaged = []
        for number, entry in enumerate(slides, 1):
            try:
                with ooxml.reading(file):
                    elements = list(_slide(presentation.part.related_slide(entry.rId), number))
            except DamagedFileError as error:
                damaged.append(number)
                last = error
                continue
            if number == 1 and file.title is None and elements and elements[0].kind == "heading":
                file.title = elements[0].text[:1000]
            yield from elements
        if damaged and len(damaged) == len(slides):
            raise last
        if damaged:
            file.warn(f"slides that cannot be read: {', '.join(map(str, damaged[:50]))}")
        yield from embedded.of_office(file)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [SlidesLoader()]


def _properties(file: File, package: Any) -> None:
    try:
        properties = package.core_properties
        found = {key: getattr(properties, key) for key in ("title", "author", "subject", "keywords")}
    except ooxml.content_errors():  # what names a document must not keep its text out of the index
        file.warn("the presentation's properties are damaged")
        return
    title = clean(found.pop("title") or "").strip()
    if title and title.lower() not in ("powerpoint presentation", "presentation"):
        file.title = title[:1000]
    for key, value in found.items():
        text = clean(value or "").strip()
        if text:
            file.metadata[key] = text[:1000]


def _slide(slide: Any, number: int) -> Iterator[Element]:
    title = slide.shapes.title
    heading = _paragraphs(title.text_frame) if title is not None else []
    if heading:
        yield Element(" ".join(heading), "heading", page=number, level=1)
    for shape in _shapes(slide.shapes):
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape(shape, slide, number)
    if slide.has_notes_slide:
        frame = slide.notes_slide.notes_text_frame
        text = "\n".join(_paragraphs(frame)) if frame is not None else ""
        if text:
            yield Element(text, "note", page=number)


def _shapes(shapes: Iterable[Any], depth: int = 0) -> Iterator[Any]:
    """Shapes in the order of the file, which screen readers follow too, groups opened."""
    from pptx.shapes.group import GroupShape

    for shape in shapes:
        if isinstance(shape, GroupShape):
            if depth < DEPTH_LIMIT:
                yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape


def _shape(shape: Any, slide: Any, number: int) -> Iterator[Element]:
    if shape.has_text_frame:
        text = "\n".join(_paragraphs(shape.text_frame))
        if text and not _is_number_field(shape):
            yield Element(text, page=number)
    elif getattr(shape, "has_table", False):
        rows = [[" ".join(_paragraphs(cell.text_frame)) for cell in row.cells] for row in shape.table.rows]
        if len(rows) > 1 and is_header(rows[0]):
            yield from grouped(rows[1:], header=rows[0], page=number)
        else:
            yield from grouped(rows, page=number)
    elif getattr(shape, "has_chart", False):
        text = _chart(shape.chart)
        if text:
            yield Element(text, "caption", page=number)
    else:
        text = _diagram(shape, slide)
        if text:
            yield Element(text, page=number)


def _is_number_field(shape: Any) -> bool:
    """Slide numbers, which every slide has."""
    from pptx.enum.shapes import PP_PLACEHOLDER

    return bool(shape.is_placeholder and shape.placeholder_format.type == PP_PLACEHOLDER.SLIDE_NUMBER)


def _paragraphs(frame: Any) -> list[str]:
    texts = (clean(paragraph.text.replace("\v", "\n")).strip() for paragraph in frame.paragraphs)
    return [text for text in texts if text]


def _chart(chart: Any) -> str:
    """Title, series and categories; the numbers are in the slide's text where they matter."""
    lines = []
    if chart.has_title and chart.chart_title.has_text_frame:
        lines.extend(_paragraphs(chart.chart_title.text_frame))
    for plot in chart.plots:
        names = [clean(str(series.name)) for series in plot.series if series.name]
        categories = [clean(str(category)) for category in plot.categories if str(category)]
        for label in (names, categories):
            if label:
                lines.append(", ".join(label[:100]))
    return "\n".join(lines)


def _diagram(shape: Any, slide: Any) -> str:
    """The words of a SmartArt diagram, which python-pptx does not know."""
    from lxml import etree

    identifiers = shape.element.xpath(".//*[local-name()='relIds']/@*[local-name()='dm']")
    if not identifiers or identifiers[0] not in slide.part.rels:
        return ""
    relation = slide.part.rels[identifiers[0]]
    if relation.is_external or relation.reltype != _DIAGRAM:
        return ""
    root = etree.fromstring(relation.target_part.blob, etree.XMLParser(resolve_entities=False, no_network=True))
    texts = ("".join(node.text or "" for node in paragraph.iter(f"{_A}t")) for paragraph in root.iter(f"{_A}p"))
    return "\n".join(clean(text).strip() for text in texts if text.strip())
