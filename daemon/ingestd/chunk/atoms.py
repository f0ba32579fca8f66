"""Cutting text at its structure into atoms: pieces light enough that chunks can be packed from them.

Everything here looks at a text's own content around a cut, never at how far from the start of the document it is,
so that the same passage is cut the same way wherever an edit elsewhere has moved it.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ingestd.types import Element

TOKENISE_LIMIT = 8192
"""Characters tokenised at once: a tokeniser needs hundreds of bytes for every token of its input."""
CHARACTERS_PER_TOKEN = 12
"""A token weighs more than one where it stands for more characters than this: a tokeniser that makes one unknown
token of a megabyte without spaces must not make one chunk of it."""

# Strength of a break: of the breaks in reach, a chunk ends at the strongest.
HEADING, CHARACTER, WORD, CLAUSE, SENTENCE, LINE, PARAGRAPH = range(7)
"""`HEADING` is the break between a heading and what it announces: the one to avoid."""

# Each pattern ends where the text may be cut. Runs are possessive and entered at their first character only: without
# that a megabyte of dots or blanks would take quadratic time.
_BREAKS = {
    PARAGRAPH: re.compile(r"\n[^\S\n]*+\n\s*+"),
    LINE: re.compile(r"\n\s*+"),
    SENTENCE: re.compile(
        r"(?<![.!?…؟۔])[.!?…؟۔]++[\"'”’)\]»]*+\s++(?![a-z])"  # "e.g. this" is no end of a sentence
        r"|(?<![।॥])[।॥]++\s*+"
        r"|(?<![。！？；｡．…])[。！？；｡．…]++[”’」』）】》\"]*+\s*+"
    ),
    CLAUSE: re.compile(r"(?<![,;:])[,;:]++\s++|[，、：､]\s*+"),
    WORD: re.compile(r"\s++"),
}


@dataclass(slots=True)
class Piece:
    """Characters `start` to `end` of an element's text, tokenised by themselves."""

    element: Element
    text: str
    """The element's text, sanitised."""
    start: int
    end: int
    strength: int
    """Of the break before it."""
    level: int
    """The piece is an arbitrary run of parts of this level and must be cut into them again."""
    headings: tuple[str, ...] = ()
    starts: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Where its tokens start, in characters of the element's text; known once it is tokenised."""


@dataclass(slots=True)
class Atom:
    """What packing never cuts."""

    piece: Piece
    start: int
    end: int
    weight: int
    """Estimated token ids."""
    strength: int
    """Of the break before it."""


def pieces(element: Element, text: str, headings: tuple[str, ...]) -> Iterator[Piece]:
    """The paragraphs of an element, or, where one is too long to be tokenised at once, runs of its finer parts."""
    if len(text) <= TOKENISE_LIMIT and "\n" not in text:
        yield Piece(element, text, 0, len(text), PARAGRAPH, PARAGRAPH, headings)
        return
    for start, end, strength, level in _runs(text, 0, len(text), PARAGRAPH, PARAGRAPH):
        yield Piece(element, text, start, end, strength, level, headings)


def _runs(text: str, start: int, end: int, level: int, strength: int) -> Iterator[tuple[int, int, int, int]]:
    """Spans of at most `TOKENISE_LIMIT` characters: (start, end, strength of the break before, level to cut at)."""
    parts = pairwise(_cuts(text, start, end, level))
    run: tuple[int, int] | None = None
    for low, high in parts:
        if run and (level == PARAGRAPH or high - run[0] > TOKENISE_LIMIT):
            yield (*run, strength, level)
            run, strength = None, level
        if high - low > TOKENISE_LIMIT:
            yield from _runs(text, low, high, level - 1, strength)
            strength = level
        else:
            run = (run[0] if run else low, high)
    if run:
        yield (*run, strength, level)


def _cuts(text: str, start: int, end: int, level: int) -> list[int]:
    """Start, end, and the places of this level between them, ascending."""
    if level <= CHARACTER:
        places = [
            start,
            *(_near(text, place) for place in range(start + TOKENISE_LIMIT // 2, end, TOKENISE_LIMIT // 2)),
        ]
    else:
        places = [start, *(match.end() for match in _BREAKS[level].finditer(text, start, end))]
        if len(places) > 1 and places[1] == start:  # a break right at the start
            del places[1]
    if places[-1] < end:
        places.append(end)
    return places


def atoms(piece: Piece, spans: npt.NDArray[np.int64], most: int) -> list[Atom]:
    """Cut a piece into atoms of at most `most` tokens' weight, at the coarsest breaks that give that.

    `spans`: shape (tokens, 2), where each of the piece's tokens lies, in characters from the piece's start. Only a
    single character that the tokeniser makes more of than `most` tokens stays heavier.
    """
    piece.starts = spans[:, 0] + piece.start
    weight = max(len(spans), -(-(piece.end - piece.start) // CHARACTERS_PER_TOKEN))
    if weight <= most and piece.level == PARAGRAPH:
        return [Atom(piece, piece.start, piece.end, weight, piece.strength)]
    piece.starts = np.maximum.accumulate(piece.starts)
    found: list[Atom] = []
    if weight <= most:  # the tail of an arbitrary run: cut as its middle was
        _add(piece, _cuts(piece.text, piece.start, piece.end, piece.level), piece.level, most, found)
    else:
        _refine(piece, piece.start, piece.end, min(piece.level, LINE), most, found)
    found[0].strength = piece.strength
    return found


def _refine(piece: Piece, low: int, high: int, level: int, most: int, found: list[Atom]) -> None:
    """Add the atoms of a span that is too heavy, cut at the first level, from `level` down, that has a break in it."""
    while level > CHARACTER:
        cuts = _cuts(piece.text, low, high, level)
        if len(cuts) > 2:
            _add(piece, cuts, level, most, found)
            return
        level -= 1
    _add(piece, _characters(piece, low, high), CHARACTER, most, found)


def _add(piece: Piece, cuts: list[int], level: int, most: int, found: list[Atom]) -> None:
    counts = piece.starts.searchsorted(cuts).tolist()
    for (low, high), (first, last) in zip(pairwise(cuts), pairwise(counts), strict=True):
        weight = max(last - first, -(-(high - low) // CHARACTERS_PER_TOKEN))
        if weight > most and level > CHARACTER:
            index = len(found)
            _refine(piece, low, high, level - 1, most, found)
            found[index].strength = level
        else:
            found.append(Atom(piece, low, high, weight, level))


def _characters(piece: Piece, low: int, high: int) -> list[int]:
    """Places between tokens, or every so many characters within one, that do not tear a grapheme where avoidable."""
    text = piece.text
    first, last = piece.starts.searchsorted((low, high)).tolist()
    step = 8 * CHARACTERS_PER_TOKEN
    cuts = [low]
    for place in (*dict.fromkeys(piece.starts[first:last].tolist()), high):
        while place - cuts[-1] > step:
            cuts.append(_near(text, cuts[-1] + step))
        if cuts[-1] < place < high and whole(text, place):
            cuts.append(place)
    cuts.append(high)
    return cuts


def _near(text: str, place: int) -> int:
    """The nearest place before it, within a few characters, that tears no grapheme, else the place itself."""
    return next((near for near in range(place, place - 32, -1) if whole(text, near)), place)


def whole(text: str, place: int) -> bool:
    """Whether a cut before `text[place]` leaves graphemes whole, as far as one look at both sides can tell."""
    after = text[place]
    if after < "\u0300":
        return True
    before = text[place - 1]
    return not (
        unicodedata.category(after)[0] == "M"
        or after == "\u200d"
        or before == "\u200d"
        or "\u1160" <= after <= "\u11ff"  # Hangul vowels and finals
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")  # halves of flags
    )


def signature(before: Atom, after: Atom) -> int:
    """A number that depends on nothing but the text on both sides of the break: who wins among equal breaks."""
    tail = before.piece.text[max(before.end - 32, before.start) : before.end]
    head = after.piece.text[after.start : min(after.start + 32, after.end)]
    return zlib.crc32(f"{tail}\0{head}".encode()) * 0x9E3779B1 & 0xFFFFFFFF


def last_words(atom: Atom, most: int) -> tuple[int, int]:
    """Where the last whole words of an atom, of at most `most` tokens' weight, start; and their weight."""
    piece, text = atom.piece, atom.piece.text
    first, last = piece.starts.searchsorted((atom.start, atom.end)).tolist()
    place = max(atom.end - most * CHARACTERS_PER_TOKEN, atom.start)
    if last - first > most:
        place = max(place, int(piece.starts[last - most]))
    blank = _BREAKS[WORD].search(text, max(place - 1, atom.start), atom.end)
    if blank and blank.end() < atom.end:
        place = blank.end()
    while place < atom.end and not whole(text, place):
        place += 1
    return place, max(last - int(piece.starts.searchsorted(place)), -(-(atom.end - place) // CHARACTERS_PER_TOKEN))


def halves(text: str) -> tuple[str, str]:
    """Both sides of the strongest break in the middle half of a text of at least two characters."""
    size = len(text)
    low, high, middle = size // 4, size - size // 4, size // 2
    for level in (PARAGRAPH, LINE, SENTENCE, CLAUSE, WORD):
        cuts = _cuts(text, low, high, level)[1:-1]
        if cuts:
            place = min(cuts, key=lambda cut: abs(cut - middle))
            break
    else:
        place = _near(text, middle) if size > 64 else middle
    return text[:place], text[place:]
