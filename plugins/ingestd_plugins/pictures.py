"""Pictures by Pillow, as PaddleOCR wants them: upright, opaque, 8 bits, and in tiles where they are long strips."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ingestd.errors import DamagedFileError, LimitError
from ingestd.types import File, Part
from ingestd_plugins.damage import cause, of_content

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

LONGEST = 4096
"""Pixels to which the longer side of a picture, or of a tile of it, is brought down."""
SMALLEST = 8
"""Pixels; nothing is written in less."""
STRIP = 2.0
"""Times as long as it is wide from which on a picture is cut into tiles, if it has more than `LONG` pixels."""
LONG = 2400
INK = 64
"""What is so much darker, or lighter, than most of a picture may be written there."""
MARGIN = 24
"""Pixels left around it."""
TILE = 1.4
"""Length of a tile, in widths."""


@contextlib.contextmanager
def opened(file: File, max_pixels: int) -> Iterator[Image.Image]:
    """The picture, of which nothing but the header is read. Raises `DamagedFileError`, `LimitError`."""
    from PIL import Image

    if not file.size:
        raise DamagedFileError("the file is empty")
    Image.MAX_IMAGE_PIXELS = None  # the limit is below, with words of its own
    if file.suffix in (".heic", ".heif"):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    with Image.open(file.path) as picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise LimitError(f"it has {width} x {height} pixels; [load.ocr] max_pixels is {max_pixels}")
        yield picture


def pages(picture: Image.Image) -> int:
    """Of a TIFF; a moving picture is one."""
    return int(getattr(picture, "n_frames", 1)) if picture.format == "TIFF" else 1


def parts(file: File, picture: Image.Image) -> Iterator[Part]:
    """Each page as a picture of its own."""
    for number in range(pages(picture)):
        name = f"page {number + 1}.png"
        try:
            picture.seek(number)
            content = io.BytesIO()
            _plain(picture).save(content, "PNG", compress_level=1)
        except Exception as error:
            if not of_content(error):
                raise
            yield Part(name, error=f"damaged: {cause(error)}")
            continue
        yield file.part(name, content.getvalue())


def tiles(file: File, picture: Image.Image) -> list[npt.NDArray[np.uint8]]:
    """The picture, shape (height, width, 3), blue first; a long strip in several, cut where nothing is written."""
    import numpy as np
    from PIL import ImageOps

    if getattr(picture, "is_animated", False):
        file.warn("only the first frame of it was read")
    picture.draft("RGB", (LONGEST, LONGEST))
    upright = ImageOps.exif_transpose(_plain(picture)).convert("RGB")
    width, height = upright.size
    if min(width, height) < SMALLEST:
        return []
    flat = _written(np.asarray(upright)[:, :, ::-1])
    height, width = flat.shape[:2]
    if max(width, height) <= max(LONG, STRIP * min(width, height)):
        return [_small(flat)]
    if height >= width:
        return [_small(flat[start:stop]) for start, stop in _cuts(flat)]
    return [_small(flat[:, start:stop]) for start, stop in _cuts(flat.swapaxes(0, 1))]


def _plain(picture: Image.Image) -> Image.Image:
    """8 bits, opaque on white."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":  # more than 8 bits: nobody says which is white
        low, high = (float(edge) for edge in picture.getextrema())  # type: ignore[arg-type]
        scale = 255.0 / (high - low) if high > low else 1.0
        return picture.convert("F").point(lambda value: value * scale - low * scale).convert("L")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode in ("1", "L", "RGB") else picture.convert("RGB")


def _written(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Without empty margins: which way up a page is, PaddleOCR tells from its middle."""
    import numpy as np

    grey = picture.mean(axis=2, dtype=np.float32)
    ink = np.abs(grey - np.median(grey)) > INK
    rows, columns = (np.flatnonzero(ink.sum(axis=axis) > 2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return picture
    top, bottom = max(0, rows[0] - MARGIN), rows[-1] + MARGIN
    left, right = max(0, columns[0] - MARGIN), columns[-1] + MARGIN
    return picture[top:bottom, left:right]


def _cuts(strip: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """From where to where the tiles of a strip go: their ends lie in the emptiest rows around."""
    length, width = strip.shape[:2]
    step = int(TILE * width)
    reach = max(1, step // 4)
    start = 0
    while length - start > step + reach:
        band = strip[start + step - reach : start + step + reach].astype("int16").max(axis=2)
        ink = (band.max(axis=1) - band.min(axis=1)).astype("float32")
        # the middle of the longest run of rows without much in it
        empty = ink <= ink.min() + 16
        best, run = (0, 0), 0
        for index, bare in enumerate([*empty.tolist(), False]):
            if bare:
                run += 1
                continue
            best, run = max(best, (run, index - run)), 0
        stop = start + step - reach + best[1] + best[0] // 2
        yield start, stop
        start = stop
    yield start, length


def _small(tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    height, width = tile.shape[:2]
    if max(height, width) > LONGEST:
        scale = LONGEST / max(height, width)
        size: Any = max(1, round(width * scale)), max(1, round(height * scale))
        tile = np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize(size, Image.Resampling.BOX))
    return np.ascontiguousarray(tile)
