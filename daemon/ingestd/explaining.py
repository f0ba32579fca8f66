"""What every state and reason means: the pages of `reasons.md`, found by name or by a line as it was printed."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

HEADING = re.compile(r"^(##|###) (.+)$", re.MULTILINE)
PATTERN = re.compile(r"^- `(.+)`$", re.MULTILINE)


class Page(NamedTuple):
    """One page."""

    name: str
    section: str
    patterns: tuple[str, ...]
    """Lines that it explains; `{}` stands for anything."""
    text: str
    """Markdown."""


@functools.cache
def pages() -> tuple[Page, ...]:
    """All pages, in the order of the file."""
    whole = resources.files("ingestd").joinpath("reasons.md").read_text(encoding="utf-8")
    _, *parts = HEADING.split(whole)
    found = []
    section = ""
    for level, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if level == "##":
            section = title
            continue
        text = "\n".join(line for line in body.splitlines() if not PATTERN.match(line))
        found.append(Page(title, section, tuple(PATTERN.findall(body)), text.strip()))
    return tuple(found)


def find(what: str) -> Page | None:
    """The page of that name, else the one whose pattern fits the printed line most closely."""
    line = " ".join(what.split())
    for page in pages():
        if line.casefold() == page.name:
            return page
    fits = [(best, page) for page in pages() if (best := max((fit(p, line) for p in page.patterns), default=0))]
    return max(fits, key=lambda found: found[0])[1] if fits else None


def near(what: str, number: int = 5) -> list[str]:
    """Names of pages that may be meant."""
    words = _words(what)
    common = {page.name: len(words & _words(f"{page.name} {page.patterns} {page.text}")) for page in pages()}
    spelt = difflib.get_close_matches(what.casefold(), common, number)
    ranked = sorted((name for name in common if common[name]), key=lambda name: -common[name])
    return list(dict.fromkeys([*spelt, *ranked]))[:number]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.casefold()))


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    literal = [re.escape(part) for part in pattern.split("{}")]
    return re.compile(r"(?:^|(?<=[\s:;(,]))" + ".*".join(literal), re.IGNORECASE)


def fit(pattern: str, line: str) -> int:
    """How many letters of the pattern stand in the line; 0 where it does not fit."""
    return len(pattern.replace("{}", "")) if _expression(pattern).search(line) else 0


def names() -> Sequence[str]:
    """Of all pages."""
    return [page.name for page in pages()]
