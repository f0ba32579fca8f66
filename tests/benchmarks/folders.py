"""Folders to ingest, made anew for each run and always the same: mixed formats, one-line files, long documents."""

from __future__ import annotations

import random
from pathlib import Path

from tests import corpus
from tests.corpus_texts import ENGLISH, Topic

FORMATS = (".txt", ".md", ".html", ".pdf", ".docx", ".txt", ".md", ".pptx", ".xlsx", ".csv", ".json", ".log")
"""Suffixes in turn; plain text and Markdown come twice, as in most folders."""


class Prose:
    """English sentences from the corpus in ever new order, so that no two chunks are equal but all read like text."""

    def __init__(self, seed: int) -> None:
        self._pick = random.Random(seed)
        text = " ".join(
            paragraph for topic in ENGLISH if topic.path.endswith((".txt", ".md")) for paragraph in topic.paragraphs
        )
        self._sentences = [sentence.strip(". ") for sentence in text.split(". ") if len(sentence) > 20]
        self._words = sorted({word for sentence in self._sentences for word in sentence.split() if word.isalpha()})

    def sentence(self) -> str:
        words = self._pick.choice(self._sentences).split()
        words[self._pick.randrange(len(words))] = self._pick.choice(self._words)
        return f"{' '.join(words)} {self._pick.randint(1, 10_000)}."

    def paragraph(self, sentences: int) -> str:
        return " ".join(self.sentence() for _ in range(sentences))

    def between(self, low: int, high: int) -> int:
        return self._pick.randint(low, high)


def mixed(folder: Path, files: int, seed: int = 1) -> Path:
    """`files` documents of the bundled formats, of one to about eight chunks each."""
    prose = Prose(seed)
    for number in range(files):
        suffix = FORMATS[number % len(FORMATS)]
        path = folder / f"d{number % 10}" / f"{number:05}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        paragraphs = tuple(prose.paragraph(prose.between(2, 8)) for _ in range(prose.between(2, 7)))
        if suffix == ".pdf":  # a page to a paragraph
            pages = [[(text, 11.0)] for text in paragraphs]
            path.write_bytes(corpus.pdf(pages, title=f"Document {number}"))
        else:
            topic = Topic(f"{number}{suffix}", f"Document {number}", paragraphs, "", "")
            path.write_bytes(corpus.document(topic))
    return folder


def one_line(
    folder: Path, files: int, seed: int = 2, suffix: str = ".txt", first: str = "", sentences: int = 1
) -> Path:
    """Files of a single line, a chunk each, of so many sentences; `first` is written before it."""
    prose = Prose(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        (folder / f"f{number:05}{suffix}").write_text(f"{first}{prose.paragraph(sentences)}\n")
    return folder


def long(folder: Path, files: int, paragraphs: int, seed: int = 3) -> Path:
    """Markdown of so many sections of about one chunk."""
    prose = Prose(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        sections = (f"# Section {n}\n\n{prose.paragraph(8)}\n" for n in range(paragraphs))
        (folder / f"f{number:05}.md").write_text("\n".join(sections))
    return folder
