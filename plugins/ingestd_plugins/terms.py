"""Words for a full-text index that cuts at spaces: Chinese, Japanese and Korean as two-character shingles."""

from __future__ import annotations

import re
import unicodedata

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


def match_expression(question: str) -> str:
    """An FTS5 expression that matches any term of the question; "" where it has none.

    Every term is quoted, so that nothing a person types is an operator.
    """
    plain = unicodedata.normalize("NFKC", question.encode(errors="replace").decode())
    terms: dict[str, None] = {}
    words = [word.lower() for word in _WORD.findall(plain)]
    for word in [word for word in words if word not in _COMMON] or words:
        if not _RUN.match(word):
            terms[f'"{word}"'] = None
        elif len(word) == 1:
            terms[f'"{word}"*'] = None
        else:
            terms.update((f'"{pair}"', None) for pair in _pairs(word))
        if len(terms) >= _TERM_LIMIT:
            break
    return " OR ".join(list(terms)[:_TERM_LIMIT])
