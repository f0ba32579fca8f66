"""A model is changed while files change: whoever reads the alias sees a complete index all the while."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ingestd_plugins.hashing import HashingEngine
from tests.elasticsearch.places import configured, contents, eventually, options
from tests.processes import daemons
from tests.processes.daemons import RunningDaemon, environment, ingest, running, write_config

pytestmark = [pytest.mark.elasticsearch, pytest.mark.timeout(600)]

STABLE = 40
PARTS = 5
PAGE = 37
"""Entries that the reader takes at a time, few so that it reads one snapshot for a while."""


def write(path: Path, marker: str, what: str = "first") -> None:
    path.parent.mkdir(exist_ok=True)
    parts = (f"{what} {marker} paragraph{n} {'and so on ' * 100}" for n in range(PARTS))
    path.write_text("\n\n".join(parts) + "\n")


class Reader(threading.Thread):
    """Somebody else's program: it knows the alias and the official client, and nothing of ingestd."""

    def __init__(self, url: str, alias: str) -> None:
        super().__init__()
        import elasticsearch

        self.client = elasticsearch.Elasticsearch(url, request_timeout=60)
        self.errors = elasticsearch
        self.alias = alias
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.dims: list[int] = []
        """Of the index that each poll read."""
        self.stable: set[str] = set()
        """Ids of the entries of files that never change."""

    def run(self) -> None:
        turn = 0
        while not self.over.is_set():
            try:
                self.poll(turn)
            except self.errors.ApiError as error:
                self.wrong.append(f"poll {turn}: {error!r} {error.body}"[:600])
            except AssertionError as error:
                self.wrong.append(f"poll {turn}: {error}")
            turn += 1

    def poll(self, turn: int) -> None:
        marker = f"stable{turn % STABLE}"
        found = self.client.search(index=self.alias, size=50, query={"match_phrase": {"text": f"{marker} paragraph3"}})
        passages = [hit["_source"]["text"] for hit in found["hits"]["hits"]]
        assert len(passages) == 1, f"{marker} is found {len(passages)} times"
        stable = {"prefix": {"metadata.name": "stable"}}
        count = self.client.count(index=self.alias, query=stable)["count"]
        assert count == len(self.stable) or not self.stable, f"{count} stable entries"
        self.by_meaning(passages[0])
        self.whole()

    def by_meaning(self, passage: str) -> None:
        """The passage is the nearest to itself, by vectors of the model that the index is made with."""
        tried: dict[int, bool] = {}
        for dims in (64, 96):
            engine = HashingEngine()
            engine.load(f"hashing-{dims}", "cpu", {})
            tokens = engine.tokenizer(f"hashing-{dims}").encode([passage])
            vector = engine.encode(tokens)[0].tolist()
            knn = {"field": "vector", "query_vector": vector, "k": 3, "num_candidates": 500}
            try:
                hits = self.client.search(index=self.alias, knn=knn, size=3)["hits"]["hits"]
            except self.errors.BadRequestError:  # the index has other dimensions
                continue
            tried[dims] = any(hit["_source"]["text"] == passage for hit in hits)
        assert tried, "no model fits the vectors"  # both where the swap was between the two questions
        assert all(tried.values()), f"not the nearest to itself: {tried}"
        self.dims.append(min(tried))

    def whole(self) -> None:
        """Everything there is, page by page, as one moment has it."""
        point = self.client.open_point_in_time(index=self.alias, keep_alive="1m")["id"]
        entries: list[dict[str, Any]] = []
        after = None
        while True:
            sort = [{"metadata.doc_id": "asc"}, {"metadata.ordinal": "asc"}, {"_shard_doc": "asc"}]
            more = {"search_after": after} if after else {}
            page = self.client.search(
                pit={"id": point, "keep_alive": "1m"}, size=PAGE, sort=sort, source=["metadata"], **more
            )["hits"]["hits"]
            if not page:
                break
            entries += page
            after = page[-1]["sort"]
        self.client.close_point_in_time(id=point)
        assert len({entry["_index"] for entry in entries}) == 1, "entries of two indexes"
        documents: dict[str, list[dict[str, Any]]] = {}
        for entry in entries:
            documents.setdefault(entry["_source"]["metadata"]["doc_id"], []).append(entry["_source"]["metadata"])
        for chunks in documents.values():
            place = chunks[0]["path"]
            assert len({chunk["digest"] for chunk in chunks}) == 1, f"{place} in two versions"
            assert [chunk["ordinal"] for chunk in chunks] == list(range(len(chunks))), f"{place} is not whole"
        assert len({chunks[0]["path"] for chunks in documents.values()}) == len(documents), "a file twice"
        ids = {e["_id"] for e in entries if e["_source"]["metadata"]["name"].startswith("stable")}
        self.stable = self.stable or ids
        assert ids == self.stable, f"{len(ids)} of {len(self.stable)} stable entries"


def test_who_reads_the_alias_sees_a_complete_index_through_a_change_of_model(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    for number in range(STABLE):
        write(folder / f"stable{number}.txt", f"stable{number}")
    for number in range(10):
        write(folder / f"moving{number}.txt", f"moving{number}")
    # Exact, since each passage has to be the nearest to itself: the graphs of a server 8 lose some that are much alike.
    table = options(url, keep_replaced="5s", index_options={"type": "flat"})
    state = tmp_path / "state"
    config = configured(state, folder, table)
    with running(config, state) as daemon:
        eventually(lambda: daemon.status()["files"]["indexed"] == STABLE + 10, "it is not indexed")
        reader = Reader(url, table["name"])
        reader.poll(0)
        assert len(reader.stable) >= STABLE * PARTS
        (before,) = indexes(reader)
        reader.start()
        try:
            swap(daemon, folder, config, reader)
            (after,) = reader.client.indices.get_alias(name=table["name"])
            eventually(lambda: before not in indexes(reader), "the replaced index is not dropped")
            polls = len(reader.dims)
            eventually(lambda: len(reader.dims) > polls + 3, "the reader stands still")
        finally:
            reader.over.set()
            reader.join()
        assert reader.wrong == []
        assert reader.dims == sorted(reader.dims)
        assert set(reader.dims) == {64, 96}
        assert indexes(reader) == {after}
        assert after != before
        reader.client.close()
        other = tmp_path / "undisturbed"
        ingest(write_config(other, folder, encode={"model": "hashing-96"}), folder)
        wanted = daemons.contents(other)
        eventually(lambda: daemon.wait() and contents(state, table) == wanted, "the index is not that of the folder")


def indexes(reader: Reader) -> set[str]:
    return set(reader.client.indices.get(index=f"{reader.alias}-*"))


def swap(daemon: RunningDaemon, folder: Path, config: Path, reader: Reader) -> None:
    """`ingestd reindex` with another model, while files change."""
    text = config.read_text()
    assert 'model = "hashing"' in text
    config.write_text(text.replace('model = "hashing"', 'model = "hashing-96"'))
    seen = len(reader.dims)
    command = subprocess.Popen(
        [sys.executable, "-m", "ingestd", "--config", str(config), "reindex", "--json"],
        stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    turn = 0
    while command.poll() is None:
        turn += 1
        write(folder / f"moving{turn % 10}.txt", f"moving{turn % 10}", f"turn{turn}")
        write(folder / f"new{turn % 20}.txt", f"new{turn}")
        (folder / f"new{(turn + 10) % 20}.txt").unlink(missing_ok=True)
        time.sleep(0.1)
    assert json.loads(command.communicate()[0])["documents"] >= STABLE
    assert command.returncode == 0
    eventually(lambda: len(reader.dims) > seen, f"the reader saw nothing of it: {reader.wrong} {daemon.tail()}")
