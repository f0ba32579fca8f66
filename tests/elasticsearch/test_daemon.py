"""A daemon whose index is on a real node: what it holds, and what happens while the node is away or takes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import corpus
from tests.elasticsearch.nodes import Node
from tests.elasticsearch.places import configured, contents, eventually, get, options, put
from tests.processes import daemons
from tests.processes.daemons import ingest, ingestd, running, write_config

pytestmark = pytest.mark.elasticsearch

MODEL = {"engine": "torch", "model": "sentence-transformers/all-MiniLM-L6-v2"}


def test_the_corpus_is_found_and_is_the_same_as_in_the_embedded_store(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    entries = corpus.build(folder)
    assert len(entries) >= 40
    table = options(url)
    state = tmp_path / "state"
    config = configured(state, folder, table, encode=MODEL)
    with running(config, state) as daemon:
        status = daemon.wait()
        assert status["files"]["indexed"] == len(entries)
        assert status["sink"] == {"name": "elasticsearch", "healthy": True}
        lost = []
        last = {"text": entries[-1][1], "top": 3, "source": None, "path": None}
        eventually(lambda: daemon.call("search", **last)["hits"], "what was written last is not shown")
        for path, query, phrase in entries:
            hits = daemon.call("search", text=query, top=3, source=None, path=None)["hits"]
            found = " ".join(hit["text"] for hit in hits if hit["path"] == str(folder / path))
            if "".join(phrase.split()) not in "".join(found.split()):
                lost.append((path, query, [hit["path"] for hit in hits]))
        assert lost == []
    other = tmp_path / "embedded"
    assert ingest(write_config(other, folder, encode=MODEL), folder)["failures"] == []
    assert contents(state, table) == daemons.contents(other)
    done = ingestd(config, "verify", "--deep", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_that_is_killed_is_waited_for(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "before.txt").write_text("written before")
    table = options(node.url)
    state = tmp_path / "state"
    node.kill()
    config = configured(state, folder, table)
    with running(config, state) as daemon:
        told = eventually(lambda: [w for w in daemon.status()["waiting_for"] if "index" in w and ":" in w], "no cause")
        assert f"cannot reach Elasticsearch at {node.url}" in told[0]
        node.start()
        status = eventually(lambda: (s := daemon.status())["files"]["indexed"] == 1 and s, "it is not resumed")
        assert status["sink"]["healthy"]
        done = ingestd(config, "wait")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        node.kill()
        for number in range(5):
            (folder / f"{number}.txt").write_text(f"written meanwhile {number}")
        status = eventually(lambda: not (s := daemon.status())["sink"]["healthy"] and s, "nobody noticed")
        assert any("cannot write to Elasticsearch" in each or "cannot" in each for each in status["waiting_for"])
        done = ingestd(config, "wait", "--timeout", "2s")
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert lines[0].startswith("waiting for index: cannot ")
        assert f"Elasticsearch at {node.url}" in lines[0]
        assert len(set(lines)) == len(lines)
        node.start()
        eventually(lambda: daemon.status()["files"]["indexed"] == 6, "it is not resumed")
        assert daemon.wait()["sink"]["healthy"]
        assert daemon.starts == 1
    documents, chunks = contents(state, table)
    assert len(documents) == len(chunks) == 6


@pytest.mark.parametrize("block", ["index.blocks.write", "index.blocks.read_only_allow_delete"])
def test_an_index_that_takes_no_writes_is_waited_for(url: str, tmp_path: Path, block: str) -> None:
    """The second one is what the server does when its disk is nearly full."""
    folder = tmp_path / "docs"
    folder.mkdir()
    table = options(url)
    state = tmp_path / "state"
    with running(configured(state, folder, table), state) as daemon:
        (folder / "a.txt").write_text("first")
        eventually(lambda: daemon.status()["files"]["indexed"] == 1, "it is not indexed")
        put(url, f"/{table['name']}/_settings", {block: True})
        (folder / "b.txt").write_text("second")
        status = eventually(lambda: not (s := daemon.status())["sink"]["healthy"] and s, "nobody noticed")
        assert "cluster_block_exception" in " ".join(status["waiting_for"])
        put(url, f"/{table['name']}/_settings", {block: None})
        eventually(lambda: daemon.status()["files"]["indexed"] == 2, "it is not resumed")


def test_a_red_cluster_is_waited_for(node: Node, tmp_path: Path) -> None:
    """The server answers, but what holds the documents is away: here its part of the disk."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("first")
    table = options(node.url, timeout="5s")
    state = tmp_path / "state"
    config = configured(state, folder, table)
    with running(config, state) as daemon:
        eventually(lambda: daemon.status()["files"]["indexed"] == 1, "it is not indexed")
        (found,) = get(node.url, f"/{table['name']}/_settings").values()
        shard = node.directory / "data" / "indices" / found["settings"]["index"]["uuid"] / "0"
        node.kill()
        shard.rename(tmp_path / "away")
        node.start(wait=False)
        (folder / "b.txt").write_text("second")
        (folder / "a.txt").unlink()
        said = "the cluster is red, shards are not available"
        eventually(lambda: said in " ".join(daemon.status()["waiting_for"]), "nobody noticed")
        assert get(node.url, "/_cluster/health")["status"] == "red"
        asked = [ingestd(config, *command) for command in (["status"], ["search", "first"])]
        assert [said in " ".join((each.stdout + each.stderr).split()) for each in asked] == [True, True], asked
        node.kill()
        (tmp_path / "away").rename(shard)
        node.start()
        eventually(lambda: set(contents(state, table)[0]) == {str(folder / "b.txt")}, "it is not resumed")
        assert daemon.wait()["sink"]["healthy"]
        assert daemon.starts == 1
