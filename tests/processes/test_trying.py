"""`ingestd try` and `Library.load`: a real load worker, whatever the loader does; nothing is journaled or indexed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ingestd import AsyncLibrary, Library
from ingestd.config import DEFAULT_MODEL
from ingestd.daemon import Daemon
from ingestd.errors import FileError, UsageError
from tests.processes.daemons import HOSTILE, environment, ingestd, left_over, running, write_config
from tests.processes.inside import inside, states
from tests.processes.test_hostile import EXPECTED, GOOD, LIMITS, PARTIAL, strays

TINY = {"encode": {"engine": "hashing", "model": "hashing"}}
FAULTS = [
    "element 2: page 1 comes after page 2",
    "element 3: its text has a lone surrogate, which is no character",
    "element 4: kind 'para' is none of text, title, heading",
    "element 5: a heading has a level from 1 to 9, not None",
    "element 6: level 2 of a text: only headings have one",
    "element 7: its text is white space alone",
    "element 7: its metadata is not plain data",
    "element 8: page 0 is not a number from 1",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# Kettles\n\nA kettle boils water.\n\n## Care\n\nDescale it once a month.\n")
    (folder / "broken.json").write_text("{broken")
    (folder / "program.bin").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))
    for behaviour in ("faulty", "hang_in_sleep", "text_then_exception"):
        (folder / f"{behaviour}.hostile").write_text(behaviour)
    return folder


def attempt(config: Path, path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of `try --json`."""
    done = ingestd(config, "try", "--json", str(path), *arguments, hostile=True)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("daemon", [False, True], ids=["alone", "beside a daemon"])
def test_what_it_says_of_good_and_bad_files(tmp_path: Path, folder: Path, daemon: bool) -> None:
    state, watched = tmp_path / "state", tmp_path / "watched"
    watched.mkdir()
    config = write_config(state, watched, load={"idle_deadline": "2s"})
    if not daemon:
        check_outcomes(config, folder)
    else:
        with running(config, state, hostile=True) as beside:
            beside.wait()
            check_outcomes(config, folder)
            assert sum(beside.status()["files"].values()) == 0
            assert beside.stop() == 0
    assert states(state) == {}
    assert list((state / "index").iterdir()) == [] or daemon
    assert left_over(state) == []


def check_outcomes(config: Path, folder: Path) -> None:
    code, told = attempt(config, folder / "a.md")
    assert (code, told["state"], told["kind"], told["reason"]) == (0, "loaded", "", None)
    assert (told["media_type"], told["title"], told["warnings"], told["faults"]) == ("text/markdown", "Kettles", [], [])
    assert told["loader"].startswith("text ")
    assert told["element_count"] == 4
    assert told["elements"][0] == {"kind": "heading", "page": None, "level": 1, "text": "Kettles", "length": 7}
    assert [chunk["headings"] for chunk in told["chunks"]] == [["Kettles"], ["Kettles", "Care"]]
    assert told["tokens"] == sum(chunk["tokens"] for chunk in told["chunks"]) > 0
    assert told["seconds"] > 0
    assert 10 << 20 < told["memory"] < 1 << 30
    assert told["sandbox"].keys() == {"landlock", "seccomp", "reason"}

    code, told = attempt(config, folder / "broken.json")
    assert (code, told["state"], told["kind"]) == (1, "failed", "file")
    assert "not JSON" in told["reason"]

    code, told = attempt(config, folder / "broken.json", "--loader", "text")
    assert (code, told["chunks"][0]["text"]) == (0, "{broken")

    code, told = attempt(config, folder / "program.bin")
    assert (code, told["state"], told["loader"]) == (1, "skipped", None)
    assert told["reason"].startswith("no loader for ")

    code, told = attempt(config, folder / "text_then_exception.hostile")
    assert (code, told["kind"], told["reason"]) == (1, "error", "ValueError: half way")
    assert "in text_then_exception" in told["detail"]
    assert told["elements"][0]["text"].startswith("some text"), "what came before is shown"

    code, told = attempt(config, folder / "hang_in_sleep.hostile")
    assert (code, told["kind"]) == (1, "limit")
    assert told["reason"] == "idle_deadline of 2 s exceeded: no progress since page 3, element 1"
    assert "in hang_in_sleep" in told["detail"]
    assert told["memory"] > 10 << 20

    code, told = attempt(config, folder / "faulty.hostile")
    assert (code, told["state"]) == (0, "loaded")
    assert len(told["faults"]) == len(FAULTS)
    for fault, expected in zip(told["faults"], FAULTS, strict=True):
        assert fault.startswith(expected)
    assert told["output"] == "a word on standard output"


def test_what_people_see(tmp_path: Path, folder: Path) -> None:
    config = write_config(tmp_path / "state", None)
    shown = ingestd(config, "try", str(folder / "faulty.hostile"), hostile=True)
    assert shown.returncode == 0, shown.stderr
    for line in ("state       loaded", "loader      hostile 1", "8 elements", f"fault       {FAULTS[0]}", "output"):
        assert line in shown.stdout
    for arguments, message in [
        ([str(folder / "a.md"), "--loader", "nobody"], "there is no loader 'nobody'; there are: "),
        ([str(folder / "nowhere.md")], "no such file or directory"),
    ]:
        refused = ingestd(config, "try", *arguments)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_with_the_models_own_tokeniser(tmp_path: Path, folder: Path) -> None:
    encode = {"engine": "torch", "model": DEFAULT_MODEL}
    _, told = attempt(write_config(tmp_path / "state", None, encode=encode), folder / "a.md")
    assert [chunk["tokens"] for chunk in told["chunks"]] == [10, 11], "with the two special ones"


def test_one_worker_serves_for_many_files_and_each_bad_one_costs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the conformance kit, which loads hundreds of variants."""
    monkeypatch.syspath_prepend(str(HOSTILE))
    monkeypatch.setenv("PYTHONPATH", str(HOSTILE), prepend=os.pathsep)
    folder = tmp_path / "docs"
    folder.mkdir()
    state = tmp_path / "state"

    async def body(daemon: Daemon) -> None:
        async def load(behaviour: str) -> None:
            path = folder / f"{behaviour.replace(' ', '-')}.hostile"
            path.write_text(f"{behaviour}\nits text")
            trial = await daemon.trials.load(os.fsencode(path), fresh=False)
            if behaviour in EXPECTED:
                assert trial.state == "failed"
                assert EXPECTED[behaviour] in (trial.reason or ""), behaviour
            else:
                assert trial.state == ("partial" if behaviour in PARTIAL else "loaded"), trial

        for _ in range(3):
            await load("good")
        (first,) = daemon.trials._workers
        assert first.served == 3
        # As many at once as there are load workers.
        await asyncio.gather(*map(load, (*EXPECTED, *GOOD, *PARTIAL)))
        assert len(daemon.trials._workers) <= 4
        assert not strays()

    inside(write_config(state, None, load={**LIMITS, "workers": 4}), body)
    assert left_over(state) == []
    assert states(state) == {}


def test_chunks_without_an_index(tmp_path: Path, folder: Path) -> None:
    """The library's `load`; many chunks come in several parts."""
    (folder / "long.txt").write_text("\n\n".join(f"Paragraph {number} of many. " * 40 for number in range(600)))
    with Library(state=tmp_path / "state", settings=TINY) as library:
        document = library.load(folder / "a.md")
        assert (document.path, document.title, document.media_type) == (
            str(folder / "a.md"),
            "Kettles",
            "text/markdown",
        )
        assert [chunk.headings for chunk in document.chunks] == [("Kettles",), ("Kettles", "Care")]
        assert document.chunks[1].text.endswith("Descale it once a month.")
        assert (document.partial, document.warnings) == (None, ())
        chunks = library.load(str(folder / "long.txt")).chunks
        assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
        assert len(chunks) >= 600
        assert library.load(folder / "broken.json", loader="text").chunks[0].text == "{broken"
        for name, reason in [("broken.json", "not JSON"), ("program.bin", "no loader for")]:
            with pytest.raises(FileError, match=reason):
                library.load(folder / name)
        with pytest.raises(UsageError, match="there is no"):
            library.load(folder / "nowhere")
        assert library.status()["files"]["indexed"] == 0

    async def main() -> None:
        async with AsyncLibrary(state=tmp_path / "state", settings=TINY) as library:
            first, second = await asyncio.gather(library.load(folder / "a.md"), library.load(folder / "long.txt"))
            assert (first, second.chunks) == (document, chunks)

    asyncio.run(main())
    assert states(tmp_path / "state") == {}
    assert left_over(tmp_path / "state") == []


def test_a_library_beside_a_daemon_loads_through_it(tmp_path: Path, folder: Path) -> None:
    state = tmp_path / "state"
    config = write_config(state, None)
    add = config.read_text()
    config.write_text(f'{add}[[watch]]\nname = "empty"\ndirectory = "{tmp_path / "empty"}"\n')
    (tmp_path / "empty").mkdir()
    with running(config, state, hostile=True) as daemon:
        daemon.wait()
        with Library(config) as library:
            assert library.load(folder / "a.md").title == "Kettles"
            with pytest.raises(FileError, match="half way") as caught:
                library.load(folder / "text_then_exception.hostile")
            assert "in text_then_exception" in "".join(caught.value.__notes__)
        assert daemon.stop() == 0


def test_a_file_that_nobody_waits_for_any_more_is_given_up(tmp_path: Path, folder: Path) -> None:
    state = tmp_path / "state"
    (tmp_path / "watched").mkdir()
    config = write_config(state, tmp_path / "watched", load={"idle_deadline": "500s", "deadline": "500s"})

    def await_work(pattern: str, expected: bool) -> None:
        """Until the scratch directories of trials hold such a thing, or hold it no more."""
        deadline = time.monotonic() + 60
        while any((state / "scratch").glob(pattern)) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    with running(config, state, hostile=True) as daemon:
        daemon.wait()
        command = [
            sys.executable,
            "-m",
            "ingestd",
            "--config",
            str(config),
            "try",
            str(folder / "hang_in_sleep.hostile"),
        ]
        client = subprocess.Popen(command, env=environment(hostile=True))
        await_work("*.load.try.*/*/file.hostile", True)  # it has the file in hand
        (trial,) = [worker for worker in daemon.status()["workers"] if worker["trial"]]
        assert (trial["stage"], trial["state"], trial["path"]) == (
            "load", "running", str(folder / "hang_in_sleep.hostile"),
        )  # fmt: skip
        client.kill()
        client.wait()
        await_work("*.load.try.*", False)
        assert not any(worker["trial"] for worker in daemon.status()["workers"])
        assert daemon.stop() == 0
    assert left_over(state) == []
