"""Several daemons behind one alias, and one daemon with several nodes."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from ingestd.errors import IndexMismatchError
from tests.elasticsearch import nodes
from tests.elasticsearch.places import configured, contents, eventually, get, options
from tests.processes.daemons import RunningDaemon, ingestd, running

pytestmark = [pytest.mark.elasticsearch, pytest.mark.timeout(600)]


def filled(folder: Path, words: str) -> Path:
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(f"{words} {number}")
    return folder


def test_two_daemons_behind_one_alias_leave_each_other_alone(url: str, tmp_path: Path) -> None:
    table = options(url)
    tables = {name: {**table, "daemon": name} for name in ("one", "two")}
    daemons: dict[str, RunningDaemon] = {}
    configs: dict[str, Path] = {}
    for name in tables:
        folder = filled(tmp_path / f"docs-{name}", f"words of {name}")
        state = tmp_path / name
        configs[name] = configured(state, folder, tables[name])
    with (
        running(configs["one"], tmp_path / "one") as daemons["one"],
        running(configs["two"], tmp_path / "two") as daemons["two"],
    ):
        for daemon in daemons.values():
            eventually(lambda daemon=daemon: daemon.status()["files"]["indexed"] == 8, "it is not indexed")  # type: ignore[misc]
        held = {name: contents(tmp_path / name, tables[name]) for name in tables}
        assert not set(held["one"][1]) & set(held["two"][1])
        for name, other in (("one", "two"), ("two", "one")):
            before = names(url, table)
            done = ingestd(configs[name], "reindex")
            assert done.returncode == 0, done.stderr
            changed = before ^ names(url, table)
            assert changed
            assert all(f"-{name}-" in index for index in changed)  # its own went, its new one came
            done = ingestd(configs[name], "verify", "--repair", "--deep")
            assert done.returncode == 0, done.stdout
            assert contents(tmp_path / name, tables[name]) == held[name]
            assert contents(tmp_path / other, tables[other]) == held[other]
        hits = daemons["one"].call("search", text="words", top=20, source=None, path=None)["hits"]
        assert {Path(hit["path"]).parent.name for hit in hits} == {"docs-one"}


def names(url: str, table: dict[str, Any]) -> set[str]:
    return set(get(url, f"/{table['name']}/_alias"))


def test_another_model_under_the_same_alias_is_refused(url: str, tmp_path: Path) -> None:
    import msgspec

    from ingestd.testing.sink_cases import FINGERPRINT
    from ingestd_plugins.elasticsearch import ElasticsearchSink

    table = options(url)
    sink = ElasticsearchSink()
    sink.open(tmp_path, FINGERPRINT, table, readonly=False)
    sink.close()
    changed = msgspec.structs.replace(FINGERPRINT, model="another")
    for draft in (False, True):
        with pytest.raises(IndexMismatchError, match="model was 'tiny', is 'another'"):
            ElasticsearchSink().open(tmp_path, changed, {**table, "daemon": "two"}, readonly=False, draft=draft)


def test_two_state_directories_with_one_name_are_told_apart(url: str, tmp_path: Path) -> None:
    """Each would delete the documents of the other. One whose state was lost may take its index over, as it is."""
    table = options(url)
    folder = filled(tmp_path / "docs", "words")
    first = configured(tmp_path / "one", folder, table)
    assert ingestd(first, "ingest", str(folder)).returncode == 0
    held = contents(tmp_path / "one", table)
    second = configured(tmp_path / "two", folder, table)
    for command in (["ingest", str(folder)], ["reindex"], ["verify", "--repair"]):
        done = ingestd(second, *command)
        assert done.returncode in (2, 3), done.stdout
        assert f"{tmp_path / 'one'} on {socket.gethostname()}" in done.stderr
        assert "take_over = " in done.stderr
        assert "ingestd explain another-owner" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "two" / "next").exists()  # else the next start would go on with what was refused
    assert contents(tmp_path / "one", table) == held
    shutil.rmtree(tmp_path / "one")
    (id,) = set(re.findall(r"take_over = '(\w+)'", done.stderr))
    second = configured(tmp_path / "two", folder, {**table, "take_over": id})
    done = ingestd(second, "verify", "--repair", "--deep", "--json")
    assert json.loads(done.stdout)["extra"] == 8, done.stderr  # the journal knew none of them
    with running(second, tmp_path / "two") as daemon:
        eventually(lambda: daemon.wait()["files"]["indexed"] == 8, "it is not mended")
        told = [daemon.call("why", path=bytes(path))["history"][-1]["event"] for path in folder.iterdir()]
    assert all("0 of them encoded" in event for event in told), told
    assert contents(tmp_path / "two", table) == held
    assert ingestd(second, "reindex").returncode == 0
    assert contents(tmp_path / "two", table)[0] == held[0]
    first = configured(tmp_path / "one", folder, table)
    done = ingestd(first, "ingest", str(folder))  # back from the dead, by a backup perhaps
    assert done.returncode in (2, 3)
    assert f"{tmp_path / 'two'} on" in done.stderr


def test_a_copy_of_a_state_directory_beside_the_original_is_noticed(url: str, tmp_path: Path) -> None:
    """They have one id. The one that was started last goes on, the other one waits, and says for what."""
    table = options(url)
    states = {name: tmp_path / name for name in ("original", "copy")}
    folders = {name: filled(tmp_path / f"docs-{name}", "words") for name in states}
    configs = {name: configured(state, folders[name], table) for name, state in states.items()}
    with running(configs["original"], states["original"]) as daemon:
        daemon.wait()
    shutil.copytree(states["original"], states["copy"])
    with running(configs["original"], states["original"]) as original:
        original.wait()
        with running(configs["copy"], states["copy"]) as copy:
            eventually(lambda: copy.status()["ready"], "the copy does not start")
            (folders["original"] / "new.txt").write_text("new")

            def told() -> str:
                return " ".join(original.status()["waiting_for"])

            said = f"a copy of this state directory is in use, {states['copy']} on {socket.gethostname()}"
            eventually(lambda: said in told(), "the original does not notice")
            (folders["copy"] / "new.txt").write_text("new")
            eventually(lambda: copy.wait()["files"]["indexed"] == 9, "the copy does not go on")
            assert copy.status()["sink"]["healthy"]
        assert original.process.poll() is None
    with running(configs["original"], states["original"]) as original:
        eventually(lambda: original.wait()["files"]["indexed"] == 9, "it does not go on")
        assert original.status()["sink"]["healthy"]


def test_one_of_three_nodes_is_killed(tmp_path: Path) -> None:
    try:
        with nodes.cluster(tmp_path / "nodes", 3) as (first, *others):
            one_is_killed(tmp_path, first, others)
    except nodes.MissingToolError as error:
        pytest.skip(str(error))


def one_is_killed(tmp_path: Path, first: nodes.Node, others: list[nodes.Node]) -> None:
    folder = filled(tmp_path / "docs", "words")
    table = options("", hosts=[node.url for node in (first, *others)], replicas=1, timeout="20s")
    state = tmp_path / "state"
    config = configured(state, folder, table)
    with running(config, state) as daemon:
        eventually(lambda: daemon.status()["files"]["indexed"] == 8, "it is not indexed")
        first.request("GET", "/_cluster/health?wait_for_status=green&timeout=60s")
        first.kill()
        for number in range(8, 16):
            (folder / f"{number}.txt").write_text(f"more words {number}")
        eventually(lambda: daemon.status()["files"]["indexed"] == 16, "it does not go on with two nodes")
        assert daemon.starts == 1
        hits = daemon.call("search", text="words", top=20, source=None, path=None)["hits"]
        assert len(hits) == 16
    left = {**table, "hosts": [node.url for node in others]}
    documents, chunks = contents(state, left)
    assert len(documents) == len(chunks) == 16
