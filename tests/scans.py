"""Pages as a scanner makes them: text drawn, turned, skewed and noisy, as pictures and as PDF."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

ENGLISH = (
    "The returned kettle was examined on Tuesday by two engineers.",
    "Its handle had come loose, and the lid no longer closed.",
    "Please send 14 new gaskets (part no. 7741-B) before Friday!",
    "A refund of 38.50 euros was paid by bank transfer.",
    "Water damage is excluded from the warranty, see page 12.",
    "Questions? Call the workshop between nine and five.",
)
CHINESE = (
    "退回的水壶已由两名工程师于星期二检查完毕。",
    "手柄松动，壶盖无法关闭，需要更换零件。",
    "请在星期五之前寄来十四个新的密封垫圈。",
    "退款已通过银行转账支付，请查收账户。",
    "水渍损坏不在保修范围之内，详见第十二页。",
    "如有疑问，请在工作时间致电维修车间。",
)
MIXED = (
    "The kettle 水壶 was examined on Tuesday.",
    "请在 Friday 之前寄来 14 个垫圈。",
    "A refund 退款 of 38.50 euros was paid.",
    "保修 warranty 不包括水渍损坏。",
)
LANGUAGES = {"english": ENGLISH, "chinese": CHINESE, "mixed": MIXED}
DENSE = tuple(f"{line} {other}" for line in ENGLISH for other in reversed(ENGLISH))
"""Lines as long as a page of A4 is wide at 9 points."""


def page(lines: Sequence[str], size: float = 14.0) -> Any:
    """A PDF of one page of A4 with these lines."""
    import pymupdf

    book = pymupdf.open()
    sheet = book.new_page(width=595, height=842)
    writer = pymupdf.TextWriter(sheet.rect)
    for number, line in enumerate(lines):
        font = pymupdf.Font("helv" if line.isascii() else "cjk")
        writer.append((50, 80 + number * 1.6 * size), line, font=font, fontsize=size)
    writer.write_text(sheet)
    return book


def drawn(lines: Sequence[str], dpi: int = 150, size: float = 14.0) -> Image:
    """A picture of such a page."""
    from PIL import Image

    with page(lines, size) as book:
        pixels = book[0].get_pixmap(dpi=dpi)
        return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)


def worn(picture: Image, seed: int = 1) -> Image:
    """A little askew, and with the noise of a scanner."""
    import numpy as np
    from PIL import Image, ImageFilter

    noise = np.random.default_rng(seed)
    angle = random.Random(seed).choice((-1.5, 1.5))
    skewed = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    soft = np.asarray(skewed.filter(ImageFilter.GaussianBlur(0.6))).astype(np.float32)
    return Image.fromarray(np.clip(soft + noise.normal(0, 12, soft.shape), 0, 255).astype(np.uint8))


def saved(picture: Image, suffix: str = ".png", **options: Any) -> bytes:
    """As a file of that format."""
    if suffix in (".heic", ".heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".tif": "TIFF", ".tiff": "TIFF",
             ".heic": "HEIF", ".heif": "HEIF"}  # fmt: skip
    stream = io.BytesIO()
    picture.save(stream, kinds.get(suffix, suffix[1:].upper()), **options)
    return stream.getvalue()


def book(*pages: bytes | str | None) -> bytes:
    """A PDF: of bytes a scanned page, of a string a page with that text, of None an empty one."""
    import pymupdf

    made = pymupdf.open()
    for content in pages:
        sheet = made.new_page(width=595, height=842)
        if isinstance(content, bytes):
            sheet.insert_image(sheet.rect, stream=content)
        elif content:
            sheet.insert_textbox((50, 60, 545, 780), content, fontsize=12)
    data = bytes(made.tobytes())
    made.close()
    return data


def error_rate(read: str, wanted: str) -> float:
    """Levenshtein distance over the length, white space aside."""
    one, other = "".join(read.split()), "".join(wanted.split())
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        last, row[0] = row[0], number
        for place, wanted_letter in enumerate(other, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (letter != wanted_letter))
    return row[-1] / max(1, len(other))
