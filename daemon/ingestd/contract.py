"""What a loader may yield: the contract that `ingestd try` and the conformance kit hold its elements to.

A daemon mends what it can (text that is not valid, say) and indexes the file all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from ingestd.messages.load import Shown, Yielded
from ingestd.types import Element, Kind, Part
from ingestd.worker import one_line

KINDS = get_args(Kind)
DEEPEST = 9
"""Level of a heading."""
FAULTS = 20
"""Faults told of a file."""
BEGINNING = 200
"""Characters of an element that are shown."""


class Inspection:
    """Looks at the elements as a loader yields them, and keeps the beginnings of the first `show`."""

    def __init__(self, show: int) -> None:
        self._show = show
        self._elements = 0
        self._page: int | None = None
        self._shown: list[Shown] = []
        self._faults: list[str] = []

    def look(self, element: object) -> None:
        """The next one."""
        self._elements += 1
        if len(self._faults) < FAULTS:
            for fault in faults(element, self._page):
                self._faults.append(f"element {self._elements}: {fault}")
        if not isinstance(element, Element):
            return
        page = element.page if type(element.page) is int else None
        self._page = page if page is not None else self._page
        if len(self._shown) < self._show and isinstance(element.text, str):
            level = element.level if type(element.level) is int else None
            beginning = element.text[:BEGINNING].encode("utf-8", "replace").decode()
            self._shown.append(Shown(one_line(str(element.kind), 40), page, level, beginning, len(element.text)))

    def yielded(self) -> Yielded:
        """What was seen."""
        return Yielded(self._elements, self._shown, self._faults[:FAULTS])


def faults(element: object, page: int | None = None) -> Iterator[str]:
    """What is wrong with an element that comes after one on `page`; an empty text only says that there is progress."""
    if isinstance(element, Part):
        if not isinstance(element.name, str) or not element.name:
            yield f"a part has a name, not {one_line(repr(element.name), 40)}"
        if element.error is None and not (isinstance(element.path, Path) and element.path.is_file()):
            yield "a part has either the path of a file or an error"
        return
    if not isinstance(element, Element):
        yield f"it is a {type(element).__name__}, not an Element"
        return
    yield from _text_faults(element.text)
    if element.kind not in KINDS:
        yield f"kind {one_line(repr(element.kind), 40)} is none of {', '.join(KINDS)}"
    if element.kind == "heading":
        if type(element.level) is not int or not 1 <= element.level <= DEEPEST:
            yield f"a heading has a level from 1 to {DEEPEST}, not {one_line(repr(element.level), 40)}"
    elif element.level is not None:
        level = one_line(repr(element.level), 40)
        yield f"level {level} of a {one_line(str(element.kind), 40)}: only headings have one"
    if element.page is not None:
        if type(element.page) is not int or element.page < 1:
            yield f"page {one_line(repr(element.page), 40)} is not a number from 1"
        elif page is not None and element.page < page:
            yield f"page {element.page} comes after page {page}"
    if not is_plain(dict(element.metadata)):
        yield "its metadata is not plain data: str, int, float, bool, None, and lists and dicts of them"


def _text_faults(text: object) -> Iterator[str]:
    if not isinstance(text, str):
        yield f"its text is a {type(text).__name__}, not a str"
        return
    if text and not text.strip():
        yield "its text is white space alone"
    if any("\ud800" <= character <= "\udfff" for character in text):
        yield "its text has a lone surrogate, which is no character"


def is_plain(value: Any) -> bool:
    """Whether it is data that every process and store can take."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
