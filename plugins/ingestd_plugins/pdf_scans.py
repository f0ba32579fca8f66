"""Which pages of a PDF are to be read by OCR, and how they look: decided page by page.

A page with a good text layer never is. One without text, or whose letters stand for other ones than it shows, is, all
of it. One with a large picture of which the text layer says nothing is, but for what the layer has: that is painted
over.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ingestd_plugins.pagelayout import Box, Line

LEAST_LETTERS = 20
"""Fewer cannot be judged."""
LEAST_SOUNDS = 60
VOWELS = 0.22, 0.65
"""Share of vowels among the letters of words: 0.33 to 0.5 in the languages that Latin letters are made for."""
ODD = 0.3
"""Share of characters that no text has, from which on a text is garbage."""
PICTURE = 0.15
"""Share of a page that a picture has to take to be looked at."""
COVERED = 0.03
"""Share of a picture that letters of the text layer cover where it says what the picture shows."""
RESOLUTION = (150.0, 200.0, 300.0)
"""Dots per inch: the least, that of what has none of its own, the most."""
SMALL = 8.0
"""Points; smaller letters are drawn at the highest resolution."""
PIXELS = 40_000_000
"""The most of one page: posters are drawn more coarsely."""

_WORD = re.compile(r"[a-z\u00df-\u00ff]{4,}", re.I)
_VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýÿœ")


def garbled(text: str) -> bool:
    """Whether the text is none: fonts that do not say which letters they have, bytes read in another encoding."""
    letters = "".join(text.split())
    if len(letters) < LEAST_LETTERS:
        return False
    odd = sum(letter == "\ufffd" or unicodedata.category(letter) in ("Cc", "Co", "Cn", "Cs") for letter in letters)
    if odd > ODD * len(letters):
        return True
    # Each letter beyond ASCII in UTF-8, or in a Chinese encoding, read as Latin-1: no language has so many of these.
    if sum("\x80" <= letter <= "\xff" for letter in letters) > 0.5 * len(letters):
        return True
    sounds = "".join(_WORD.findall(text)).lower()
    vowels = sum(letter in _VOWELS for letter in sounds)
    return len(sounds) >= LEAST_SOUNDS and not VOWELS[0] < vowels / len(sounds) < VOWELS[1]


def to_read(page: Any, lines: Sequence[Line], garbage: bool) -> list[Box] | None:
    """Where on the page there is something to read that its text layer does not say; None: nowhere.

    `lines`: those of the text layer. `garbage`: they are not to be trusted.
    """
    whole: Box = tuple(page.cropbox)
    if not lines or garbage:
        return [whole] if page.get_bboxlog() else None
    area = _area(whole)
    found = []
    for image in page.get_image_info():
        box = _common(tuple(image["bbox"]), whole)
        size = _area(box)
        if size < PICTURE * area or min(image["width"], image["height"]) < 100:
            continue
        if sum(_area(_common(line.box, box)) for line in lines) < COVERED * size:
            found.append(box)
    return found or None


def picture(pymupdf: ModuleType, page: Any, boxes: Sequence[Box], lines: Sequence[Line]) -> tuple[str, bytes]:
    """Suffix and content of a picture of these places of a page, without the lines that are known already."""
    if not lines and (embedded := _scan(page)):
        return embedded
    clip = pymupdf.Rect(boxes[0])
    for box in boxes[1:]:
        clip |= pymupdf.Rect(box)
    clip *= page.rotation_matrix
    dpi = _resolution(page, lines)
    dpi = min(dpi, 72 * math.sqrt(PIXELS / max(1.0, clip.width * clip.height)))
    drawn = page.get_pixmap(dpi=max(1, int(dpi)), colorspace=pymupdf.csGRAY, clip=clip, annots=False)
    for line in lines:
        place = (pymupdf.Rect(line.box) * page.rotation_matrix * (dpi / 72)).irect & drawn.irect
        if not place.is_empty:
            drawn.set_rect(place, (255,))
    return ".png", drawn.tobytes("png")


def _resolution(page: Any, lines: Sequence[Line]) -> float:
    least, usual, most = RESOLUTION
    own = [
        72 * image["width"] / max(1.0, image["bbox"][2] - image["bbox"][0])
        for image in page.get_image_info()
        if image["width"] >= 100
    ]
    sizes = sorted(line.size for line in lines)
    if sizes and sizes[len(sizes) // 2] < SMALL:
        return most
    return min(most, max(least, *own)) if own else usual


def _scan(page: Any) -> tuple[str, bytes] | None:
    """The picture of which the page consists, as the scanner made it, where nothing would be lost by that."""
    if page.rotation or len(page.get_bboxlog()) != 1:
        return None
    images = page.get_image_info(xrefs=True)
    if len(images) != 1:
        return None
    image = images[0]
    a, b, c, d, _, _ = image["transform"]
    if not image["xref"] or image["has-mask"] or b or c or a <= 0 or d <= 0 or image["colorspace"] not in (1, 3):
        return None
    if _area(_common(tuple(image["bbox"]), tuple(page.cropbox))) < 0.95 * _area(tuple(image["bbox"])):
        return None  # part of it is not to be seen
    if page.parent.xref_get_key(image["xref"], "Decode")[0] != "null":
        return None  # a negative
    found = page.parent.extract_image(image["xref"])
    return (".jpg", found["image"]) if found and found["ext"] == "jpeg" else None


def _common(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
