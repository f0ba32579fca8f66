"""One pass over what a loader yields of a file: cleaned, cut at the limit of text, parts handed on, and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from ingestd.contract import Inspection
from ingestd.errors import LimitError
from ingestd.recollections import LARGEST
from ingestd.types import Element, File, Kind, Loader, Part
from ingestd.unpack import Unpacking
from ingestd.worker import step

LONG_ELEMENT = 1 << 16
"""Characters."""


class Recollection(msgspec.Struct):
    """What a loader made of a content."""

    elements: list[tuple[Kind, str, int | None, int | None, dict[str, Any]]]
    title: str | None
    metadata: dict[str, Any]
    warnings: list[str]


class Reading:
    """One pass over a loader's elements, up to the limit of text."""

    def __init__(
        self,
        file: File,
        loader: Loader,
        limits: dict[str, Any],
        partial: str | None,
        unpacking: Unpacking,
        inspection: Inspection | None = None,
        recollection: bytes = b"",
    ) -> None:
        self.file = file
        self.unpacking = unpacking
        self.loader = loader
        self.inspection = inspection
        self.recollection = recollection
        """What is remembered of this content, or is to be."""
        self.max_text = limits["max_text"]
        self.quarantine = limits["on_limit"] == "quarantine"
        self.partial = partial
        self.found = False
        """Anything at all."""

    def elements(self) -> Iterator[Element]:
        try:
            yield from self._elements()
        except LimitError as error:
            if self.quarantine or not self.found:
                raise
            self.partial = self.partial or error.message  # what was found so far stays
        self.partial = self.partial or self.file.partial
        self.unpacking.flush()

    def _yielded(self) -> Iterable[Element | Part]:
        """By the loader, or by itself at an earlier time."""
        if self.recollection:
            return recall(self.recollection, self.file)
        if getattr(self.loader, "remembers", False):
            return self._remembering()
        return self.loader.load(self.file)

    def _remembering(self) -> Iterator[Element | Part]:
        kept: list[Element] | None = []
        for element in self.loader.load(self.file):
            if isinstance(element, Element) and kept is not None:
                kept.append(element)
            else:
                kept = None  # parts are the journal's business
            yield element
        if kept and not self.file.partial:
            self.recollection = remember(kept, self.file)

    def _elements(self) -> Iterator[Element]:
        characters = 0
        number = 0
        place = "before the first element"
        step(place)
        for element in self._yielded():
            number += 1
            if self.inspection is not None:
                self.inspection.look(element)
            if isinstance(element, Part):
                self.unpacking.take(element, self.file)
                self.found = True
                continue
            if not isinstance(element, Element) or not isinstance(element.text, str):
                raise TypeError(f"loader {self.loader.name!r} yielded {type(element).__name__}, not Element")
            place = f"page {element.page}, element {number}" if element.page is not None else f"element {number}"
            step(place)
            self.found = True
            room = self.max_text - characters
            characters += len(element.text)
            if characters > self.max_text:
                reason = f"more than max_text = {self.max_text} characters: it ends in {place}"
                if self.quarantine:
                    raise LimitError(reason)
                self.partial = reason
                element = replace(element, text=element.text[:room])
            for piece in pieces(clean(element)):
                yield piece
                step(place)
            if self.partial is not None and characters > self.max_text:
                return


def clean(element: Element) -> Element:
    """Text leaves a worker as valid UTF-8 without surrogates and NULs."""
    text = element.text
    if text.isascii() and "\0" not in text:
        return element
    try:
        text.encode()
        if "\0" not in text:
            return element
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return replace(element, text=text.replace("\0", ""))


def pieces(element: Element) -> Iterator[Element]:
    """A very long element in parts, so that splitting it shows progress; cut between lines, else between words."""
    text = element.text
    start = 0
    while len(text) - start > LONG_ELEMENT:
        end = start + LONG_ELEMENT
        for mark in ("\n", " "):
            if (found := text.rfind(mark, start + LONG_ELEMENT // 2, end)) > 0:
                end = found + 1
                break
        yield replace(element, text=text[start:end])
        start = end
    yield replace(element, text=text[start:]) if start else element


def remember(elements: list[Element], file: File) -> bytes:
    """Empty for what is too much."""
    made = [(each.kind, each.text, each.page, each.level, dict(each.metadata)) for each in elements]
    try:
        whole = msgspec.msgpack.encode(Recollection(made, file.title, file.metadata, file.warnings))
    except (TypeError, OverflowError, UnicodeEncodeError):  # no plain data
        return b""
    return whole if len(whole) <= LARGEST else b""


def recall(recollection: bytes, file: File) -> Iterator[Element]:
    """The elements, and what the loader set in the file."""
    found = msgspec.msgpack.decode(recollection, type=Recollection)
    file.title, file.metadata, file.warnings = found.title, found.metadata, found.warnings
    for kind, text, page, level, metadata in found.elements:
        yield Element(text, kind, page, level, metadata)
