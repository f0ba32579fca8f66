"""Words for a full-text index that cuts at spaces: Chinese, Japanese and Korean as two-character shingles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from ingestd_plugins.fusion import rarity

_CJK = (
    "\u1100-\u11ff\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3105-\u312f\u3131-\u318e\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7a3"
    "\ud7b0-\ud7fb\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_CJK}]+")
_WORD = re.compile(f"[{_CJK}]+|[^\\W{_CJK}]+")
_COMMON = frozenset((
    "a", "about", "all", "also", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could",
    "did", "do", "does", "for", "from", "had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its",
    "me", "more", "my", "no", "not", "of", "on", "or", "our", "so", "such", "than", "that", "the", "their", "then",
    "there", "these", "they", "this", "to", "up", "was", "we", "were", "what", "when", "where", "which", "who",
    "why", "will", "with", "would", "you", "your",
))  # fmt: skip
"""In nearly every passage: they move no ranking (their inverse document frequency is nil), but take most of the time
that ranking takes. A question of nothing else keeps them."""
_TERM_LIMIT = 64
"""A question of more terms than this is a pasted passage; the vector half of the search serves it."""


def prepare(text: str) -> str:
    """The text as a full-text index is to be fed with it.

    Each run of CJK characters becomes its overlapping pairs and, on its own, its last character. So every character
    of a run is the start of exactly one term, and a prefix finds single characters.
    """
    if text.isascii():
        return text
    return _RUN.sub(_shingles, unicodedata.normalize("NFKC", text))


def _shingles(run: re.Match[str]) -> str:
    return f" {' '.join(_pairs(run[0]))} {run[0][-1]} "


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]


def question_words(question: str) -> list[tuple[str, ...]]:
    """The terms of each word that counts in a question: the word itself, of a run of CJK characters its pairs.

    No word comes twice, and all of them have at most 64 terms. A run of one CJK character is that character.
    """
    plain = unicodedata.normalize("NFKC", question.encode(errors="replace").decode())
    words: dict[str, tuple[str, ...]] = {}
    room = _TERM_LIMIT
    found = [word.lower() for word in _WORD.findall(plain)]
    for word in [word for word in found if word not in _COMMON] or found:
        if word in words:
            continue
        pairs = _pairs(word) if _RUN.match(word) else []
        words[word] = tuple(pairs[:room]) or (word,)
        room -= len(words[word])
        if not room:
            break
    return list(words.values())


def runs(text: str) -> Iterator[tuple[int, str]]:
    """The words of a text, and its runs of CJK characters, each with its place."""
    return ((match.start(), match[0]) for match in _WORD.finditer(text))


def is_cjk(term: str) -> bool:
    """Whether it begins with a CJK character."""
    return _RUN.match(term) is not None


def phrase(term: str) -> str:
    """An FTS5 expression that matches the term. It is quoted, so that nothing a person types is an operator."""
    return f'"{term}"*' if len(term) == 1 and _RUN.match(term) else f'"{term}"'


def match_expression(words: Iterable[Sequence[str]]) -> str:
    """An FTS5 expression that matches any term of the words; "" where there are none."""
    return " OR ".join(dict.fromkeys(phrase(term) for word in words for term in word))


def coverage(words: Iterable[Sequence[str]], counts: Mapping[str, int], total: int, held: AbstractSet[str]) -> float:
    """How much of the question a passage with the terms `held` holds, 0 to 1: rare terms weigh more than common ones.

    `counts`: in how many of the `total` passages each term is.

    Half the pairs of a run of CJK characters end in one word and begin in the next: accidents that no passage need
    share. So a pair found nowhere does not count (a word found nowhere counts most: it was asked for), and one beside
    a pair that is held is held by half, that is by the character that both have in common.
    """
    whole = part = 0.0
    for word in words:
        for place, term in enumerate(word):
            count = counts.get(term, 0)
            if not count and len(word) > 1:
                continue
            weight = rarity(count, total)
            whole += weight
            if term in held:
                part += weight
            else:
                beside = (*word[max(0, place - 1) : place], *word[place + 1 : place + 2])
                part += weight * sum(neighbour in held for neighbour in beside) / 2
    return part / whole if whole else 0.0
