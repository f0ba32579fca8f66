"""Pictures by Pillow, as PaddleOCR wants them: upright, opaque, 8 bits, and in tiles where they are long strips."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

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
LEAST = 1600
"""Pixels that it has at the least: PaddleOCR sees as many, and there is a gap between words or lines to cut in."""
BAND = 1 << 24
"""Pixels that are converted at a time: a large picture fits the memory of a worker once, not several times."""


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
            _plain(picture, _factor(*picture.size)).save(content, "PNG", compress_level=1)
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
    ImageOps.exif_transpose(picture, in_place=True)
    if min(picture.size) < SMALLEST:
        return []
    plain = _plain(picture, _factor(*picture.size))
    shades = plain.convert("L")
    grey = np.asarray(shades)
    left, top, right, bottom = _written(grey, shades.histogram())
    width, height = right - left, bottom - top
    if max(width, height) <= max(LONG, STRIP * min(width, height)):
        return [_small(plain.crop((left, top, right, bottom)))]
    if height >= width:
        cuts = _cuts(grey[top:bottom, left:right])
        return [_small(plain.crop((left, top + start, right, top + stop))) for start, stop in cuts]
    cuts = _cuts(grey[top:bottom, left:right].T)
    return [_small(plain.crop((left + start, top, left + stop, bottom))) for start, stop in cuts]


def _factor(width: int, height: int) -> int:
    """By how much a picture can be made smaller before anything else is done with it."""
    shorter, longer = sorted((width, height))
    return max(1, int(min(longer, TILE * shorter if longer > STRIP * shorter else longer) // LONGEST))


def _plain(picture: Image.Image, factor: int) -> Image.Image:
    """8 bits, opaque on white, and smaller by a factor. It may be the picture itself."""
    from PIL import Image

    if factor == 1 and picture.mode in ("1", "L", "RGB") and "transparency" not in picture.info:
        return picture
    # More than 8 bits: nobody says which is white.
    edges = picture.getextrema() if picture.mode.startswith("I") or picture.mode == "F" else (0, 255)
    width, height = picture.size
    plain = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = max(1, BAND // width // factor) * factor
    for top in range(0, height, rows):
        band = _opaque(picture.crop((0, top, width, min(height, top + rows))), *edges)
        plain.paste(band.reduce(factor), (0, top // factor))
    return plain


def _opaque(band: Image.Image, low: float, high: float) -> Image.Image:
    """`low`, `high`: what is black and white where there are more than 8 bits."""
    from PIL import Image

    if band.mode.startswith("I") or band.mode == "F":
        scale = 255.0 / (high - low) if high > low else 1.0
        return band.convert("F").point(lambda value: value * scale - low * scale).convert("RGB")
    if band.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in band.info:
        layer = band.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return band.convert("RGB")


def _written(grey: npt.NDArray[np.uint8], histogram: Sequence[int]) -> tuple[int, int, int, int]:
    """Where it is, without empty margins (left, top, right, bottom): which way up a page is, PaddleOCR tells from its
    middle."""
    import numpy as np

    height, width = grey.shape
    most = int(np.searchsorted(np.cumsum(histogram), grey.size / 2))
    ink = (np.abs(np.arange(256) - most) > INK)[grey]
    rows, columns = (np.flatnonzero(ink.sum(axis=axis, dtype=np.int32) > 2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 0, 0, width, height
    return (
        int(max(0, columns[0] - MARGIN)), int(max(0, rows[0] - MARGIN)),
        int(min(width, columns[-1] + MARGIN)), int(min(height, rows[-1] + MARGIN)),
    )  # fmt: skip


def _cuts(grey: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """From where to where the tiles of a strip go: their ends lie in the emptiest rows around."""
    length, width = grey.shape
    step = max(LEAST, int(TILE * width))
    reach = max(1, step // 4)
    start = 0
    while length - start > step + reach:
        band = grey[start + step - reach : start + step + reach].astype("int16")
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


def _small(tile: Image.Image) -> npt.NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    width, height = tile.size
    if max(height, width) > LONGEST:
        scale = LONGEST / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        tile = tile.convert("RGB").resize(size, Image.Resampling.BOX)
    return np.ascontiguousarray(np.asarray(tile.convert("RGB"))[:, :, ::-1])
