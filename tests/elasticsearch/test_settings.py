"""What `[index.elasticsearch]` sets, seen on a real node, and what is written to a server that is older than it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestd.testing.sink_cases import FINGERPRINT, ask, contents, replace
from ingestd_plugins.elasticsearch import ElasticsearchSink
from tests.elasticsearch.places import configured, eventually, get, options
from tests.elasticsearch.proxy import Proxy
from tests.processes.daemons import ingestd

pytestmark = pytest.mark.elasticsearch


@pytest.fixture
def sink() -> Iterator[ElasticsearchSink]:
    made = ElasticsearchSink()
    yield made
    made.close()


def test_a_new_index_has_the_shards_replicas_and_fields_that_were_configured(
    url: str, tmp_path: Path, sink: ElasticsearchSink
) -> None:
    table = options(
        url, shards=3, replicas=2, analyzer="simple", similarity="dot_product", index_options={"type": "int8_hnsw"}
    )
    sink.open(tmp_path, FINGERPRINT, table, readonly=False)
    (found,) = get(url, f"/{table['name']}").values()
    made = found["settings"]["index"]
    assert (made["number_of_shards"], made["number_of_replicas"], made["refresh_interval"]) == ("3", "2", "60s")
    fields = found["mappings"]["properties"]
    assert fields["text"]["analyzer"] == "simple"
    assert fields["vector"]["similarity"] == "dot_product"
    assert fields["vector"]["index_options"]["type"] == "int8_hnsw"
    assert fields["vector"]["dims"] == FINGERPRINT.dims
    assert sink.write([replace("a.txt", ["alpha"])])[0].error is None  # one of three copies takes it


@pytest.mark.parametrize("routing", [True, False])
def test_the_passages_of_a_document_are_on_one_shard_where_they_are_routed(
    url: str, tmp_path: Path, sink: ElasticsearchSink, routing: bool
) -> None:
    table = options(url, shards=3, routing=routing, refresh="0s")
    sink.open(tmp_path, FINGERPRINT, table, readonly=False)
    written = [replace(f"{number}.txt", [f"{number} part {part}" for part in range(12)]) for number in range(6)]
    assert not any(done.error for done in sink.write(written))
    shards: dict[str, set[int]] = {}
    for shard in range(3):
        hits = get(url, f"/{table['name']}/_search?size=1000&preference=_shards:{shard}")["hits"]["hits"]
        for hit in hits:
            shards.setdefault(hit["_source"]["metadata"]["doc_id"], set()).add(shard)
    assert len(shards) == len(written)
    assert {len(places) == 1 for places in shards.values()} == {routing}
    assert len(set().union(*shards.values())) > 1
    again = [replace(f"{number}.txt", [f"{number} part {part}" for part in (3, 4)]) for number in range(6)]
    assert not any(done.error for done in sink.write(again))
    assert sink.count() == (6, 12)  # what is stale was found on its shard
    assert {hit.path for hit in ask(sink, near="5 part 4", top=1)} == {b"/srv/notes/5.txt"}


def test_other_readers_find_what_was_written_after_the_time_that_was_configured(
    url: str, tmp_path: Path, sink: ElasticsearchSink
) -> None:
    table = options(url, refresh="0s")

    def count() -> int:
        return int(get(url, f"/{table['name']}/_count")["count"])

    sink.open(tmp_path, FINGERPRINT, table, readonly=False)
    sink.write([replace("a.txt", ["alpha"])])
    assert count() == 1
    sink.close()
    sink.open(tmp_path, FINGERPRINT, {**table, "refresh": "300ms"}, readonly=False)
    sink.write([replace("b.txt", ["beta"])])
    eventually(lambda: count() == 2, "nobody refreshes")


def test_a_server_without_compact_vectors_is_sent_arrays(url: str, tmp_path: Path) -> None:
    """It says that it is older than the server that it is; what is in both indexes is the same."""
    held: list[Any] = []
    kinds: list[set[type]] = []
    for version in (None, "9.2.8"):
        proxy = Proxy(url)
        proxy.version = version
        sink = ElasticsearchSink()
        sink.open(tmp_path / str(version), FINGERPRINT, options(proxy.url, refresh="0s"), readonly=False)
        sink.write([replace(f"{number}.txt", ["alpha", f"part {number}"]) for number in range(5)])
        sink.write([replace("0.txt", ["alpha", "new"], known=["alpha"])])
        sink.write(
            [replace("1.txt", ["before", "alpha"], known=["alpha"])]
        )  # its place changed: read and written again
        lines = [json.loads(line) for bulk in proxy.bulks for line in bulk.splitlines()]
        kinds.append({type(line["vector"]) for line in lines if "vector" in line})
        documents = sink.read(sorted({d.doc_id for d in sink.documents()}))
        held.append((contents(sink), [(d.document.doc_id, d.chunks, d.vectors) for d in documents]))
        sink.close()
        proxy.close()
    assert kinds == [{str}, {list}]
    assert held[0] == held[1]


def test_without_the_package_of_the_client_a_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment where only `ingestd` was installed."""
    (tmp_path / "bare").mkdir()
    lacking = 'raise ModuleNotFoundError("No module named \'elasticsearch\'", name="elasticsearch")\n'
    (tmp_path / "bare" / "elasticsearch.py").write_text(lacking)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bare"), prepend=os.pathsep)
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("first")
    config = configured(tmp_path / "state", folder, options("http://127.0.0.1:1"))
    for command in (["ingest", str(folder)], ["run"], ["search", "first"], ["verify"], ["reindex"]):
        done = ingestd(config, *command)
        assert done.returncode == 2, (command, done)
        assert "the sink elasticsearch needs the package elasticsearch, which is not installed" in done.stderr
        assert "pip install 'ingestd[elasticsearch]'" in done.stderr
        assert "Traceback" not in done.stderr
