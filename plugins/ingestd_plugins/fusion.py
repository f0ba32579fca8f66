"""Putting rankings of different scales together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

CONSTANT = 60
"""Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009: found there to be near the best for every collection tried."""


def reciprocal_rank(*rankings: Sequence[tuple[K, float]]) -> dict[K, float]:
    """Score of each key: the sum over rankings of 1 / (60 + rank), ranks from 1.

    A ranking is (key, cost) with the least cost first. Equal costs share a rank, so that what is equal (two copies of
    a passage) stays equal and the order of storage does not show.
    """
    scores: dict[K, float] = {}
    for ranking in rankings:
        rank = 0
        last: float | None = None
        for position, (key, cost) in enumerate(ranking, 1):
            if cost != last:
                rank, last = position, cost
            scores[key] = scores.get(key, 0.0) + 1.0 / (CONSTANT + rank)
    return scores
