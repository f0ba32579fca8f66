"""Cutting a document into chunks by the encoder's own tokeniser: no chunk is longer than the model takes.

A document is a sequence of runs: a heading, a title or a new page starts the next. Each run is cut into atoms (see
`atoms`), and these are packed into chunks. Where a run does not fit one chunk, each chunk ends at the strongest break
of the second half of its room, and among equally strong ones at the one whose surrounding text hashes highest. So an
insertion moves the cuts near it and no others: two cuttings that start at different places soon meet at the same
break and agree from there on, and only the chunks in between are embedded again.

Weights are estimates, since a slice of a text may have other tokens than the text had there. Every chunk is tokenised
as it will be encoded before it is given out, and cut once more in the rare case that it is too long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.chunk import atoms as atomic
from ingestd.chunk.atoms import Atom, Piece
from ingestd.errors import ConfigError
from ingestd.types import Chunk, Element, Tokenizer, Tokens, text_hash

BATCH_TEXTS = 64
BATCH_CHARACTERS = 1 << 17
LEAST_ROOM = 16
"""Tokens that must be left for text beside the special tokens and the prompt."""
_CLOSE_KINDS = frozenset({"table", "list", "code"})
_HEADING_KINDS = frozenset({"heading", "title"})
_HEADING_LENGTH = 200
_HEADING_DEPTH = 16


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document's chunks and what the load worker sends along."""

    chunks: list[Chunk]
    tokens: Tokens
    """Of the fresh chunks, in order: special tokens and prompt included, never longer than the limit."""
    hashes: bytes
    """The 16-byte hashes of all chunks, in order."""
    unknown_share: float
    """Share of the text's tokens that the model does not know, 0 to 1."""
    characters: int
    """Characters of text taken in."""
    title: str | None
    """Text of the first title element."""


class Chunker:
    """The splitting rules for one tokeniser and one configuration; used for many documents.

    `max_tokens`: 0 for as many as the model takes. `overlap`: tokens that a chunk repeats from the one before it in
    the same run. `prompt` is put in front of every text and counts. Raises `ConfigError` where this leaves too
    little room for text.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = 0, overlap: int = 32, prompt: str = "") -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.limit = min(max_tokens or tokenizer.max_tokens, tokenizer.max_tokens)
        overhead = tokenizer.overhead(prompt)
        self.room = self.limit - overhead
        if self.room < LEAST_ROOM:
            raise ConfigError(
                f"[chunk] max_tokens: {self.limit} tokens a chunk, less {overhead} for the model's special tokens and "
                f"the passage prompt, leave no room for text; at least {overhead + LEAST_ROOM} are needed"
            )
        self.overlap = min(overlap, self.room // 4)
        self.half = (self.room - self.overlap) // 2
        # Known only once it is tokenised, but nearly always enough: what a blank line between two elements costs.
        single, double = tokenizer.offsets(["word", "word\n\nword"])
        self.join = max(len(double) - 2 * len(single), 0)

    def chunk(self, elements: Iterable[Element], known: AbstractSet[bytes] = frozenset()) -> ChunkedDocument:
        """Chunk a whole document. `known`: hashes of chunks whose vectors exist; the others are fresh."""
        chunking = Chunking(self, known)
        for element in elements:
            chunking.add(element)
        return chunking.finish()

    def length(self, text: str, ids: int) -> int:
        """How many ids the text really has, given how many are left after the tokeniser's own truncation."""
        if ids < self.tokenizer.max_tokens:
            return ids
        return len(self.tokenizer.offsets([self.prompt + text])[0]) + self.tokenizer.overhead()


@dataclass(slots=True)
class _Draft:
    """A chunk before it is tokenised."""

    text: str
    bare: str
    """Without the overlap."""
    page: int | None
    headings: tuple[str, ...]
    metadata: dict[str, Any]


class Chunking:
    """One document on its way: `add` its elements in order, then `finish`. Holds little beside the output."""

    def __init__(self, chunker: Chunker, known: AbstractSet[bytes] = frozenset()) -> None:
        self.characters = 0
        """Characters of text so far."""
        self._chunker = chunker
        self._out = _Sealer(chunker, known)
        self._title: str | None = None
        self._path: list[tuple[int, str]] = []
        self._queue: list[Piece] = []
        self._queued = 0
        self._run = _Run()

    def add(self, element: Element) -> None:
        """Take in the next element; one without text is dropped."""
        text = clean(element.text)
        if not text:
            return
        self.characters += len(text)
        if element.kind in _HEADING_KINDS:
            self._enter(element, text)
        headings = tuple(heading for _, heading in self._path)
        for piece in atomic.pieces(element, text, headings):
            self._queue.append(piece)
            self._queued += piece.end - piece.start
            if len(self._queue) >= BATCH_TEXTS or self._queued >= BATCH_CHARACTERS:
                self._drain()

    @property
    def waiting(self) -> int:
        """Characters taken in that are in no chunk yet."""
        return self._queued + sum(atom.end - atom.start for atom in self._run.atoms)

    def finish(self) -> ChunkedDocument:
        self._drain()
        self._end_run()
        return self._out.document(self.characters, self._title)

    def _enter(self, element: Element, text: str) -> None:
        heading = " ".join(text[: 2 * _HEADING_LENGTH].split())[:_HEADING_LENGTH]
        if element.kind == "title" and self._title is None:
            self._title = heading
            self._path.clear()
            return
        level = element.level or 1
        while self._path and (self._path[-1][0] >= level or len(self._path) >= _HEADING_DEPTH):
            self._path.pop()
        self._path.append((level, heading))

    def _drain(self) -> None:
        """Tokenise the queued pieces and pack their atoms."""
        if not self._queue:
            return
        queue, self._queue, self._queued = self._queue, [], 0
        spans = self._chunker.tokenizer.offsets([piece.text[piece.start : piece.end] for piece in queue])
        for piece, found in zip(queue, spans, strict=True):
            self._place(piece, atomic.atoms(piece, found, self._chunker.half))

    def _place(self, piece: Piece, found: list[Atom]) -> None:
        run = self._run
        heading = piece.element.kind in _HEADING_KINDS
        if piece.start == 0:  # the element's first
            page = piece.element.page
            if (heading and run.body) or (page is not None and page != run.page and (run.atoms or run.lead)):
                run = self._end_run()
            run.page = page if page is not None else run.page
            if run.atoms:
                found[0].weight += self._chunker.join
                if run.atoms[-1].piece.element.kind in _HEADING_KINDS:
                    found[0].strength = atomic.HEADING
        run.body = run.body or not heading
        for atom in found:
            run.atoms.append(atom)
            run.weight += atom.weight
            while run.weight > self._chunker.room - run.lead_weight + self._chunker.room // 8:
                self._emit(self._cut())

    def _end_run(self) -> _Run:
        """Make chunks of what is left of the run, and begin the next."""
        run = self._run
        while run.weight > self._chunker.room - run.lead_weight and len(run.atoms) > 1:
            self._emit(self._cut())
        if run.atoms:
            self._emit(len(run.atoms))
        self._run = _Run(page=run.page)
        return self._run

    def _cut(self) -> int:
        """How many of the run's atoms make the next chunk."""
        run = self._run
        room = self._chunker.room - run.lead_weight
        upper = min(room, run.weight - self._chunker.room // 8)  # leave no crumb for the run's last chunk
        total = fitting = 0
        strongest = -1
        candidates: list[int] = []
        for index, atom in enumerate(run.atoms[:-1], 1):
            total += atom.weight
            if total > room:
                break
            fitting = index
            if self._chunker.half <= total <= upper:
                strength = run.atoms[index].strength
                if strength > strongest:
                    strongest, candidates = strength, []
                if strength == strongest:
                    candidates.append(index)
        if not candidates:
            return max(fitting, 1)
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=lambda at: (atomic.signature(run.atoms[at - 1], run.atoms[at]), at))

    def _emit(self, count: int) -> None:
        run = self._run
        taken, run.atoms = run.atoms[:count], run.atoms[count:]
        run.weight -= sum(atom.weight for atom in taken)
        own = [(atom.piece, atom.start, atom.end) for atom in taken]
        bare = _joined(own)
        text = _joined([*run.lead, *own]) if run.lead else bare
        body = next((a for a in taken if a.piece.element.kind not in _HEADING_KINDS), taken[-1])
        metadata: dict[str, Any] = {}
        for atom in taken:
            if atom.start == 0 or atom is taken[0]:
                metadata = {**atom.piece.element.metadata, **metadata} if atom.piece.element.metadata else metadata
        run.lead, run.lead_weight = _overlap(taken, self._chunker.overlap)
        self._out.add(_Draft(text, bare, run.page, body.piece.headings, metadata))


class _Run:
    """The part of a document being packed: atoms not yet in a chunk."""

    def __init__(self, page: int | None = None) -> None:
        self.atoms: list[Atom] = []
        self.weight = 0
        self.page = page
        self.body = False
        """It has more than headings."""
        self.lead: list[tuple[Piece, int, int]] = []
        """What the next chunk repeats from the last one."""
        self.lead_weight = 0


class _Sealer:
    """Tokenises drafts as they will be encoded, cuts those that are too long, and numbers and hashes the rest."""

    def __init__(self, chunker: Chunker, known: AbstractSet[bytes]) -> None:
        self._chunker = chunker
        self._known = known
        self._drafts: list[_Draft] = []
        self._chunks: list[Chunk] = []
        self._ids: list[npt.NDArray[np.int32]] = []
        self._occurrences: dict[bytes, int] = {}
        self._tokens = 0
        self._unknown = 0

    def add(self, draft: _Draft) -> None:
        if draft.text:
            self._drafts.append(draft)
            if len(self._drafts) >= BATCH_TEXTS:
                self._seal()

    def document(self, characters: int, title: str | None) -> ChunkedDocument:
        self._seal()
        return ChunkedDocument(
            self._chunks,
            pack(self._ids),
            b"".join(chunk.hash for chunk in self._chunks),
            self._unknown / self._tokens if self._tokens else 0.0,
            characters,
            title,
        )

    def _seal(self) -> None:
        drafts, self._drafts = self._drafts, []
        if not drafts:
            return
        chunker = self._chunker
        tokens = chunker.tokenizer.encode([draft.text for draft in drafts], prompt=chunker.prompt)
        self._unknown += chunker.tokenizer.unknown(tokens)
        self._tokens += max(len(tokens.ids) - len(drafts) * (chunker.limit - chunker.room), 0)
        offsets = tokens.offsets.tolist()
        for index, draft in enumerate(drafts):
            ids = tokens.ids[offsets[index] : offsets[index + 1]]
            if chunker.length(draft.text, len(ids)) <= chunker.limit:
                self._give(draft, draft.text, ids)
                continue
            texts = [draft.bare] if draft.bare != draft.text else atomic.halves(draft.text)
            for text, cut in self._fitting(texts):
                self._give(draft, text, cut)

    def _fitting(self, texts: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.int32]]]:
        chunker = self._chunker
        waiting = [text.strip() for text in reversed(texts)]
        while waiting:
            text = waiting.pop()
            if not text:
                continue
            ids = chunker.tokenizer.encode([text], prompt=chunker.prompt).ids
            if len(text) == 1 or chunker.length(text, len(ids)) <= chunker.limit:
                yield text, ids[: chunker.limit]  # one character may be more than any limit
            else:
                waiting.extend(half.strip() for half in reversed(atomic.halves(text)))

    def _give(self, draft: _Draft, text: str, ids: npt.NDArray[np.int32]) -> None:
        if not len(ids):  # nothing in it that the model can see
            return
        key = text_hash(text, 0)
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        if occurrence:
            key = text_hash(text, occurrence)
        fresh = key not in self._known
        if fresh:
            self._ids.append(ids)
        ordinal = len(self._chunks)
        self._chunks.append(Chunk(key, text, ordinal, len(ids), fresh, draft.page, draft.headings, draft.metadata))


def pack(ids: Sequence[npt.NDArray[np.int32]]) -> Tokens:
    """Flat tokens of several texts."""
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in ids], out=offsets[1:])
    flat = np.concatenate(ids).astype(np.int32, copy=False) if ids else np.empty(0, dtype=np.int32)
    return Tokens(flat, offsets)


def clean(text: str) -> str:
    """Valid text: no NUL, no lone surrogate, line ends of one kind, no white space around it."""
    if "\0" in text:
        text = text.replace("\0", "")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.strip()


def _joined(slices: Sequence[tuple[Piece, int, int]]) -> str:
    """The text of neighbouring slices: as it stands within an element, with a line or a blank line between two."""
    parts: list[str] = []
    first = 0
    for index, (piece, _, end) in enumerate(slices):
        following = slices[index + 1] if index + 1 < len(slices) else None
        if following and following[0].text is piece.text and following[1] == end:
            continue
        parts.append(piece.text[slices[first][1] : end].strip())
        first = index + 1
        if following:
            kind = piece.element.kind
            close = kind in _HEADING_KINDS or (kind in _CLOSE_KINDS and following[0].element.kind == kind)
            parts.append("\n" if close else "\n\n")
    return "".join(parts).strip()


def _overlap(taken: Sequence[Atom], most: int) -> tuple[list[tuple[Piece, int, int]], int]:
    """The end of a chunk that the next one repeats: whole atoms where one fits, else the last words."""
    index, weight = len(taken), 0
    while index and weight + taken[index - 1].weight <= most:
        index -= 1
        weight += taken[index].weight
    if index < len(taken):
        return [(atom.piece, atom.start, atom.end) for atom in taken[index:]], weight
    last = taken[-1]
    place, weight = atomic.last_words(last, most) if most else (last.end, 0)
    return ([(last.piece, place, last.end)], weight) if place < last.end else ([], 0)
