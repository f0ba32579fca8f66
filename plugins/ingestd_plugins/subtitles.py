"""Subtitles: what is said, several cues together, with the times from and to."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader
from ingestd_plugins.charset import lines
from ingestd_plugins.damage import guarded

GROUP = 600
"""Characters; cues are gathered into elements of about this size."""
PAUSE = 8.0
"""Seconds of silence that end an element."""
CUE_LIMIT = 4000
"""Characters of one cue that are kept together."""

_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_TAG = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")
_SPEAKER = re.compile(r"<v(?:\.[^ >]*)? ([^<>]{1,100})>")


class SubtitlesLoader:
    name = "subtitles"
    version = "1"
    suffixes: Sequence[str] = (".srt", ".vtt")
    media_types: Sequence[str] = ("text/vtt", "application/x-subrip")
    extracts = (
        "What is said, cues joined to passages, with `start` and `end` in seconds as metadata; speakers of WebVTT "
        "by name"
    )
    omits = "Numbers, styles, positions and notes"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Sentences across cues; metadata `start` and `end` in seconds. Numbers, styles and positions are left out."""
        said: list[str] = []
        begin = end = 0.0
        for start, stop, text in _cues(file):
            if said and (start - end > PAUSE or start < begin or len(" ".join(said)) + len(text) > GROUP):
                yield _element(said, begin, end)
                said = []
            if not said:
                begin, end = start, stop
            if not said or text != said[-1]:  # captions of live programmes repeat their last line
                said.append(text)
            end = max(end, stop)
        if said:
            yield _element(said, begin, end)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [SubtitlesLoader()]


def _element(said: Sequence[str], begin: float, end: float) -> Element:
    return Element(_joined(said), metadata={"start": round(begin, 3), "end": round(end, 3)})


_WIDE = re.compile("(?<=[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]) (?=[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef])")
"""A space where Chinese or Japanese has none."""


def _joined(pieces: Sequence[str]) -> str:
    return _WIDE.sub("", " ".join(pieces))


def _cues(file: File) -> Iterator[tuple[float, float, str]]:
    """Start, end (seconds) and text of each cue that has text."""
    times: tuple[float, float] | None = None
    held: list[str] = []
    size = cues = 0
    some = False

    def flush() -> Iterator[tuple[float, float, str]]:
        text = " ".join(_joined(held).split())
        held.clear()
        if times is not None and text:
            yield *times, text

    for line in lines(file):
        line = line.strip()
        some = some or bool(line)
        found = _TIMES.match(line)
        if found:
            if held and held[-1].isdigit():  # the next cue's number, with no empty line before it
                held.pop()
            yield from flush()
            times, size = (_seconds(found.groups()[:4]), _seconds(found.groups()[4:])), 0
            cues += 1
        elif not line:
            yield from flush()
            times = None
        elif times is not None:
            held.append(_spoken(line))
            size += len(line)
            if size > CUE_LIMIT:
                yield from flush()
                size = 0
    yield from flush()
    if some and not cues:
        raise DamagedFileError("not subtitles: no line has two times with --> in between")


def _spoken(line: str) -> str:
    return html.unescape(_TAG.sub("", _SPEAKER.sub(r"\1: ", line)))


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, thousandths = (group or "0" for group in groups)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths.ljust(3, "0")) / 1000
