"""Hybrid search without a licensed retriever: nearest vectors and best-worded passages, fused here."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import numpy as np

from ingestd.errors import IngestdError
from ingestd.types import Hit, Query
from ingestd_plugins import elasticsearch_documents as documents
from ingestd_plugins.elasticsearch_index import Index
from ingestd_plugins.elasticsearch_read import search as ask
from ingestd_plugins.elasticsearch_server import Server
from ingestd_plugins.fusion import fuse
from ingestd_plugins.glob_regexp import glob_regexp
from ingestd_plugins.highlights import highlights
from ingestd_plugins.stems import split
from ingestd_plugins.terms import coverage, is_cjk, question_words

DEPTH: Final = 10_000
"""The most entries that one search gives."""
VOTERS: Final = 1_000
_FIELDS: Final = ["text", "metadata"]


async def search(server: Server, index: Index, query: Query, dims: int) -> list[Hit]:
    """Best first. Raises `IngestdError`."""
    top = max(0, min(query.top, DEPTH))
    filters = conditions(query)
    if not top or filters is None:
        return []
    depth = min(DEPTH, max(50, 4 * top))
    words = question_words(query.text)
    unit = _unit(query.vector)
    near, worded, counts = await asyncio.gather(
        _nearest(server, index, unit, filters, depth),
        _best_worded(server, index, words, filters, depth if unit is None else min(depth, VOTERS)),
        _counts(server, index, words if unit is not None else []),
    )
    held = {hit["_id"]: set(hit.get("matched_queries", ())) for hit in worded}
    total, found = counts
    shares = {id: coverage(words, found, total, terms) for id, terms in held.items()}
    scores = fuse(_ranking(near), _ranking(worded), shares)
    entries = {hit["_id"]: hit["_source"] for hit in (*near, *worded)}

    def place(id: str) -> tuple[float, str, int]:
        metadata = entries[id]["metadata"]
        return -scores[id], metadata["doc_id"], metadata["ordinal"]

    hits = [documents.hit_of(entries[id], scores[id]) for id in sorted(scores, key=place)[:top]]
    return [msgspec.structs.replace(hit, highlights=highlights(words, hit.text)) for hit in hits]


def conditions(query: Query) -> list[dict[str, Any]] | None:
    """Filters; None where nothing can match."""
    found: list[dict[str, Any]] = []
    if query.source is not None:
        found.append({"term": {"metadata.source": query.source.encode(errors="replace").decode()}})
    if query.path is not None:
        pattern = documents.exact(query.path).encode(errors="replace").decode()
        expression = glob_regexp(pattern)
        if expression is None or "\0" in pattern:
            return None
        field = "metadata.path_exact" if "/" in pattern else "metadata.name"
        found.append({"regexp": {field: {"value": expression, "flags": "NONE"}}})
    if query.under is not None:
        found.append({"prefix": {"metadata.path_exact": documents.exact(query.under.rstrip(b"/") + b"/")}})
    if query.category is not None:
        category = query.category.encode(errors="replace").decode()
        ways: list[dict[str, Any]] = [
            {"term": {"metadata.category_id": category}},
            {"term": {"metadata.category_path": category}},
            {"prefix": {"metadata.category_path": category.rstrip("/") + "/"}},
        ]
        found.append({"bool": {"should": ways, "minimum_should_match": 1}})
    if query.since_ns is not None or query.until_ns is not None:
        limits = {"gte": query.since_ns, "lt": query.until_ns}
        span = {name: limit for name, limit in limits.items() if limit is not None}
        found.append({"range": {"metadata.mtime_ns": span}})
    return found


def _unit(vector: bytes) -> list[float] | None:
    question = np.frombuffer(vector, np.float32).astype(np.float64)
    length = float(np.linalg.norm(question))
    if not length or not np.isfinite(length):
        return None
    unit: list[float] = (question / length).astype(np.float32).tolist()
    return unit


async def _nearest(
    server: Server, index: Index, unit: list[float] | None, filters: list[dict[str, Any]], depth: int
) -> list[dict[str, Any]]:
    if unit is None:
        return []
    knn: dict[str, Any] = {
        "field": "vector", "query_vector": unit, "k": depth, "num_candidates": min(DEPTH, 2 * depth),
    }  # fmt: skip
    if filters:
        knn["filter"] = filters
    return await _hits(server, index, {"knn": knn, "size": depth})


async def _best_worded(
    server: Server, index: Index, words: list[tuple[str, ...]], filters: list[dict[str, Any]], depth: int
) -> list[dict[str, Any]]:
    should = [_named(term, query) for term, query in _terms(words).items()]
    if not should:
        return []
    query: dict[str, Any] = {"bool": {"should": should, "minimum_should_match": 1}}
    if filters:
        query["bool"]["filter"] = filters
    return await _hits(server, index, {"query": query, "size": depth})


async def _hits(server: Server, index: Index, body: dict[str, Any]) -> list[dict[str, Any]]:
    body = {**body, "_source": _FIELDS, "track_total_hits": False}
    answer = await ask(server, index.name, body, frequencies="knn" not in body)  # which the server refuses
    found: list[dict[str, Any]] = answer["hits"]["hits"]
    return found


async def _counts(server: Server, index: Index, words: list[tuple[str, ...]]) -> tuple[int, dict[str, int]]:
    """How many passages there are, and in how many of them each term is."""
    terms = _terms(words)
    if not terms:
        return 0, {}
    numbered = list(terms)
    filters = {str(number): terms[term] for number, term in enumerate(numbered)}
    body = {
        "size": 0,
        "query": {"exists": {"field": "terms"}},
        "track_total_hits": True,
        "aggs": {"terms": {"filters": {"filters": filters}}},
    }
    answer = await ask(server, index.name, body)
    buckets = answer["aggregations"]["terms"]["buckets"]
    counts = {numbered[int(number)]: bucket["doc_count"] for number, bucket in buckets.items()}
    return answer["hits"]["total"]["value"], counts


def _terms(words: list[tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """A query for each term of the question."""
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        for term in word:
            if len(term) == 1 and is_cjk(term):
                found[term] = {"prefix": {"terms": {"value": term}}}
            elif parts := split(term):
                found[term] = {"match_phrase": {"terms": {"query": " ".join(parts)}}}
    return found


def _named(term: str, query: dict[str, Any]) -> dict[str, Any]:
    ((kind, inner),) = query.items()
    return {kind: {"terms": {**inner["terms"], "_name": term}}}


def _ranking(hits: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(hit["_id"], -hit["_score"]) for hit in hits]


def check(query: Query, dims: int) -> None:
    """Raises `IngestdError` for a vector of other dimensions."""
    if query.vector and len(query.vector) != 4 * dims:
        raise IngestdError(f"the question's vector has {len(query.vector)} bytes; the index has {dims} dimensions")
