"""Run in an environment of its own: the best passage that LangChain's and LlamaIndex's stores find through an alias.

Standard input: JSON of `url`, `alias`, `question`, `vector`. Standard output: JSON of text and metadata by reader.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_elasticsearch import ElasticsearchStore
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.vector_stores.elasticsearch import ElasticsearchStore as LlamaStore

import elasticsearch


class Known(Embeddings):
    """The vector that the question is known to have."""

    def __init__(self, vector: list[float]) -> None:
        self.vector = vector

    def embed_query(self, text: str) -> list[float]:
        return self.vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vector for _ in texts]


def langchain(asked: dict[str, Any]) -> dict[str, Any]:
    client = elasticsearch.Elasticsearch(asked["url"])
    store = ElasticsearchStore(index_name=asked["alias"], embedding=Known(asked["vector"]), client=client)
    (best,) = store.similarity_search(asked["question"], k=1)
    path = best.metadata["path"]
    (filtered,) = store.similarity_search(asked["question"], k=1, filter=[{"term": {"metadata.path": path}}])
    assert filtered.metadata == best.metadata
    client.close()
    return {"text": best.page_content, "metadata": best.metadata}


async def llama(asked: dict[str, Any]) -> dict[str, Any]:
    client = elasticsearch.AsyncElasticsearch(asked["url"])
    store = LlamaStore(index_name=asked["alias"], es_client=client, text_field="text", vector_field="vector")
    question = VectorStoreQuery(query_embedding=asked["vector"], query_str=asked["question"], similarity_top_k=1)
    found = await store.aquery(question)
    assert found.nodes
    await client.close()
    return {"text": found.nodes[0].get_content(metadata_mode="none"), "metadata": found.nodes[0].metadata}


def main() -> None:
    asked = json.load(sys.stdin)
    json.dump({"langchain": langchain(asked), "llama_index": asyncio.run(llama(asked))}, sys.stdout)


if __name__ == "__main__":
    main()
