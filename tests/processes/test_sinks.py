"""A third party's sink that hangs, dies, raises or answers with nonsense: nothing is lost, and its name is told."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ingestd import indexer
from ingestd.daemon import Daemon
from ingestd.errors import IngestdError
from tests.processes.daemons import ingestd, left_over, write_config
from tests.processes.inside import inside, states, take_in, until

SINKS = Path(__file__).parent / "sinks"
NAMED = "sink unruly (ingestd-sinks 1.0)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of twelve good documents."""
    monkeypatch.syspath_prepend(str(SINKS))
    monkeypatch.setenv("PYTHONPATH", str(SINKS), prepend=os.pathsep)
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(12):
        (folder / f"f{number:02}.md").write_text(f"The number{number} of the good ones.")
    return folder


def config(tmp_path: Path, always: str = "") -> Path:
    tables: dict[str, Any] = {"index": {"sink": "unruly"}, "index.unruly": {"always": always}}
    return write_config(tmp_path / "state", None, **tables)


def test_a_document_that_breaks_it_is_refused_and_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "SILENCE", 2.0)
    told = {
        "hangalways": f"it kills the index worker: {NAMED} gave no answer for",
        "exitpill": "it kills the index worker: exit code 7",
        "quitpill": "it kills the index worker: exit code 1",
        "raisepill": f"{NAMED} failed: ZeroDivisionError: by this very text",
        "fewpill": f"{NAMED} failed: ValueError: write returned 0 results for 1 operations",
        "nonepill": f"{NAMED} failed: TypeError: write returned a NoneType, not a list of Written",
        "numberpill": f"{NAMED} failed: TypeError: write returned a int, not a Written",
        "wrongpill": f"{NAMED} failed: ValueError: write returned Written(chunks='lots'",
    }
    for word in told:
        (folder / f"{word}.md").write_text(f"This one is a {word}.")
    (folder / "once.md").write_text("It will hangonce, and then be well.")

    async def body(daemon: Daemon) -> dict[str, Any]:
        summary = await take_in(daemon, folder)
        (hit, *_) = await daemon.search("number7", 1, None, None)
        assert hit["path"] == str(folder / "f07.md")
        assert daemon.indexer.trouble is None
        return summary

    summary = inside(config(tmp_path), body)
    failures = {Path(failure["path"]).stem: failure["reason"] for failure in summary["failures"]}
    assert failures.keys() == told.keys()
    for word, reason in told.items():
        assert failures[word].startswith(f"refused by the index: {reason}"), failures[word]
    assert states(tmp_path / "state") == {"indexed": 13, "quarantined": len(told)}
    assert not left_over(tmp_path / "state")


@pytest.mark.parametrize(
    ("always", "cause"),
    [
        ("raise", f"{NAMED} failed: RuntimeError: the shelf has fallen down"),
        ("miscount", f"{NAMED} cannot be opened: ValidationError"),
    ],
)
def test_one_that_never_works_blames_no_document(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: str, cause: str
) -> None:
    monkeypatch.setattr(indexer, "OUT_OF_ORDER", 2.0)

    async def body(daemon: Daemon) -> None:
        with pytest.raises(IngestdError) as given_up:
            await take_in(daemon, folder)
        assert cause in given_up.value.message
        told = (await daemon.status())["warnings"]
        assert any(cause in warning for warning in told), told

    inside(config(tmp_path, always), body)
    assert set(states(tmp_path / "state")) <= {"queued", "running"}, "they wait, and none is struck"
    if always == "miscount":
        done = ingestd(config(tmp_path, always), "ingest", str(folder))
        assert done.returncode == 3, done.stdout + done.stderr
        assert cause in " ".join(done.stderr.split())
        assert "Traceback" not in done.stdout + done.stderr
    again = ingestd(config(tmp_path), "ingest", "--json", str(folder))
    assert json.loads(again.stdout)["indexed"] == 12


@pytest.mark.slow
def test_one_that_is_out_of_order_for_a_while_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """It raises what it should not: that it is away is only guessed."""

    async def body(daemon: Daemon) -> None:
        work = asyncio.ensure_future(take_in(daemon, folder))
        await until(lambda: daemon.indexer.trouble)
        warnings = (await daemon.status())["warnings"]
        cause = f"the index cannot be written: {NAMED} failed: ConnectionError: nobody there"
        assert cause in warnings
        (tmp_path / "state" / "index" / "mended").touch()
        assert (await work)["indexed"] == 12

    inside(config(tmp_path, "raise until told"), body)


@pytest.mark.slow
def test_a_search_that_breaks_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "SEARCH_SILENCE", 2.0)
    causes = {
        "raise": f"{NAMED} failed: LookupError: no such shelf",
        "none": f"{NAMED} failed: TypeError: search returned a NoneType, not a list of Hit",
        "garbage": f"{NAMED} failed: ValidationError",
        "halfway": f"{NAMED} failed: ValidationError",
        "nan": f"{NAMED} failed: ValueError: search returned a hit with the score nan",
        "exit": "the index worker dies of the question: exit code 8",
        "hang": f"{NAMED} gave no answer to a search for 2 s",
    }

    async def body(daemon: Daemon) -> None:
        assert (await take_in(daemon, folder))["indexed"] == 12
        for question, cause in causes.items():
            with pytest.raises(IngestdError) as refused:
                await daemon.search(question, 3, None, None)
            assert cause in refused.value.message
            assert (await daemon.search("number5", 1, None, None))[0]["path"] == str(folder / "f05.md")
        assert len(await daemon.search("flood", 3, None, None)) == 3

    inside(config(tmp_path), body)


@pytest.mark.slow
def test_one_that_hangs_in_open_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingestd import stages

    monkeypatch.setitem(stages.START_TIMEOUT, "index", 3.0)

    async def body(daemon: Daemon) -> None:
        work = asyncio.ensure_future(take_in(daemon, folder))
        await until(lambda: daemon.index_pool.trouble)
        trouble = f"the index worker cannot start: opening {NAMED}: was not ready within 3 s"
        assert trouble in (await daemon.status())["warnings"]
        with pytest.raises(IngestdError, match="was not ready within 3 s"):
            await work

    inside(config(tmp_path, "hang in open"), body)
    assert set(states(tmp_path / "state")) <= {"queued", "running"}
