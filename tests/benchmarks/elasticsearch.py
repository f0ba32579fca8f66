"""The Elasticsearch sink against `helpers.async_bulk` with arrays of floats, on a real node of this machine."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ingestd.types import Replace, chunk_id
from ingestd_plugins.elasticsearch import ElasticsearchSink
from tests.benchmarks import runs
from tests.benchmarks.figures import Figure, spread
from tests.benchmarks.index import DOCUMENTS_PER_BATCH, FINGERPRINT, Corpus
from tests.elasticsearch import nodes

KINDS = {"the server's own index": None, "flat": {"type": "flat"}}


def measure(*, quick: bool) -> list[Figure]:
    rounds, batches = (1, 8) if quick else (3, 20)
    figures: list[Figure] = []
    corpus = Corpus()
    documents = [corpus.document(number) for number in range(batches * DOCUMENTS_PER_BATCH)]
    chunks = sum(len(document.chunks) for document in documents)
    try:
        with tempfile.TemporaryDirectory() as directory, nodes.cluster(Path(directory)) as (node,):
            for kind, chosen in KINDS.items():
                rates: dict[str, list[float]] = {"sink": [], "async_bulk": []}
                for number in range(-1, rounds):  # the first warms the server up
                    runs.say(f"{kind}, round {number}")
                    options = {"hosts": node.url, "name": f"b{rounds}-{len(figures)}-{number + 1}", "daemon": "b"}
                    if chosen is not None:
                        options["index_options"] = chosen  # type: ignore[assignment]
                    sides = [("sink", through_sink), ("async_bulk", through_helper)]
                    for name, side in sides if number % 2 else reversed(sides):
                        own = {**options, "name": f"{options['name']}-{name.replace('_', '')}"}
                        seconds = side(Path(directory, own["name"]), node, own, documents)
                        if number >= 0:
                            rates[name].append(chunks / seconds)
                ratios = [ours / theirs for ours, theirs in zip(rates["sink"], rates["async_bulk"], strict=True)]
                figures += [
                    Figure(f"{kind}: through the sink", f"{statistics.median(rates['sink']):.0f} chunks/s"),
                    Figure(f"{kind}: async_bulk, arrays", f"{statistics.median(rates['async_bulk']):.0f} chunks/s"),
                    Figure(f"{kind}: sink / async_bulk", spread(ratios, "x")),
                ]
    except nodes.MissingToolError as error:
        raise SystemExit(str(error)) from None
    return figures


def through_sink(directory: Path, node: nodes.Node, options: dict[str, Any], documents: list[Replace]) -> float:
    """Seconds until all is durable and can be found."""
    sink = ElasticsearchSink()
    sink.open(directory, FINGERPRINT, options, readonly=False)
    began = time.perf_counter()
    for start in range(0, len(documents), DOCUMENTS_PER_BATCH):
        sink.write(documents[start : start + DOCUMENTS_PER_BATCH])
    assert sink.count()[0] == len(documents)
    seconds = time.perf_counter() - began
    sink.close()
    for index in node.request("GET", f"/{options['name']}/_alias"):
        node.request("DELETE", f"/{index}")
    return seconds


def through_helper(directory: Path, node: nodes.Node, options: dict[str, Any], documents: list[Replace]) -> float:
    """The same passages into an index with the same mapping, as most people do it: no stale ones, no terms."""
    sink = ElasticsearchSink()
    sink.open(directory, FINGERPRINT, options, readonly=False)
    (name,) = node.request("GET", f"/{options['name']}/_alias")
    sink.close()
    seconds = asyncio.run(_bulk(node.url, name, documents))
    for index in node.request("GET", f"/{options['name']}/_alias"):
        node.request("DELETE", f"/{index}")
    return seconds


async def _bulk(url: str, index: str, documents: list[Replace]) -> float:
    library = importlib.import_module("elasticsearch")
    helpers = importlib.import_module("elasticsearch.helpers")
    client = library.AsyncElasticsearch(url, request_timeout=120)
    began = time.perf_counter()
    await helpers.async_bulk(client, _actions(index, documents), chunk_size=500)
    await client.indices.refresh(index=index)
    seconds = time.perf_counter() - began
    await client.close()
    return seconds


def _actions(index: str, documents: list[Replace]) -> Iterator[dict[str, Any]]:
    for operation in documents:
        document = operation.document
        vectors = np.frombuffer(operation.vectors, np.float32).reshape(len(operation.chunks), -1)
        for chunk, vector in zip(operation.chunks, vectors, strict=True):
            metadata = {
                "doc_id": document.doc_id, "source": document.source, "path": document.path.decode(),
                "ordinal": chunk.ordinal, "size": document.size, "headings": list(chunk.headings),
            }  # fmt: skip
            source = {"text": chunk.text, "vector": vector.tolist(), "metadata": metadata}
            yield {"_index": index, "_id": chunk_id(document.doc_id, chunk.hash), **source}
