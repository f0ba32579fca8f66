"""Where the words of a question are in a passage, found as the indexes find them: by stems, and by pairs of CJK."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ingestd_plugins.stems import split
from ingestd_plugins.terms import is_cjk, runs


def highlights(words: Iterable[Sequence[str]], text: str) -> list[tuple[int, int]]:
    """Start and end of each place, in characters, in order; none overlap."""
    pairs = {term for word in words for term in word if is_cjk(term)}
    stems = {stem for word in words for term in word if not is_cjk(term) for stem in split(term)}
    found: list[tuple[int, int]] = []
    for start, run in runs(text):
        if not is_cjk(run):
            if stems.intersection(split(run)):
                found.append((start, start + len(run)))
            continue
        for at in range(len(run)):
            length = 2 if run[at : at + 2] in pairs else 1 if run[at] in pairs else 0
            if not length:
                continue
            begin, end = start + at, start + at + length
            if found and found[-1][1] >= begin:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((begin, end))
    return found
