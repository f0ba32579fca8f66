"""Putting the ranking by meaning and the ranking by words together: weighted reciprocal-rank fusion.

Plain fusion gives the best-worded passage as many points as the nearest one, whatever the words are worth. In a small
index every passage has a place in the ranking by meaning, so one that shares a single common word with a question of
six gains twice and passes the one that answers it. The places alone cannot tell that from a literal match. The share
of the question that a passage holds can, so it decides how much its place in the ranking by words counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
Ranking = Sequence[tuple[K, float]]
"""(key, cost), the least cost first."""

CONSTANT = 60
"""Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009: found there to be near the best for every collection tried."""

LITERAL = 2.0
"""Votes of a passage that holds every word of the question. A place by meaning is one vote; with two, the first sixty
literal matches come before any passage that is merely near: 2 / (60 + 60) > 1 / (60 + 1)."""


def fuse(near: Ranking[K], worded: Ranking[K], coverage: Mapping[K, float]) -> dict[K, float]:
    """Score of each key: 1 / (60 + rank) by meaning, `votes` / (60 + rank) by words, ranks from 1.

    `coverage`: how much of the question each key of `worded` holds, 0 to 1. Without a ranking by meaning there is
    nothing to weigh the words against, and each of its places is one vote.
    """
    scores = {key: 1.0 / (CONSTANT + rank) for key, rank in _ranks(near)}
    for key, rank in _ranks(worded):
        weight = votes(coverage[key]) if near else 1.0
        scores[key] = scores.get(key, 0.0) + weight / (CONSTANT + rank)
    return scores


def votes(coverage: float) -> float:
    """None up to half of the question, since more speaks against such a passage than for it, and from there evenly up.

    The half is the usual "minimum should match" of full-text search, without its step.
    """
    return LITERAL * max(0.0, 2.0 * coverage - 1.0)


def rarity(count: int, total: int) -> float:
    """What a term in `count` of `total` passages tells: its inverse document frequency as in BM25, never negative."""
    return math.log1p(max(0.0, total - count + 0.5) / (count + 0.5))


def _ranks(ranking: Ranking[K]) -> Iterator[tuple[K, int]]:
    """Equal costs share a rank, so that what is equal (two copies of a passage) stays equal and the order of storage
    does not show."""
    rank = 0
    last: float | None = None
    for position, (key, cost) in enumerate(ranking, 1):
        if cost != last:
            rank, last = position, cost
        yield key, rank
