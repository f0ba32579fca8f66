"""The library, from every kind of program that people write."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingestd
from ingestd import AsyncLibrary, Library
from ingestd.errors import ConfigError, UsageError
from tests.processes.daemons import environment, left_over, running, write_config

TINY = {"encode": {"engine": "hashing", "model": "hashing", "devices": ["cpu", "cpu"]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(5):
        (folder / f"f{number}.txt").write_text(f"Kettle number {number} can be returned.")
    (folder / "broken.json").write_text("{broken")
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(state=tmp_path / "state", settings=TINY) as library:
        yield library
    assert left_over(tmp_path / "state") == []


def script(tmp_path: Path, body: str, *, stdin: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program that has `library` open, as a file without a main guard or from standard input."""
    text = (
        "import ingestd\n"
        f"STATE, DOCS, TINY = {str(tmp_path / 'state')!r}, {str(tmp_path / 'docs')!r}, {TINY!r}\n"
        f"{textwrap.dedent(body)}"
    )
    path = tmp_path / "program.py"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "error", "-"] if stdin else [sys.executable, "-W", "error", str(path)],
        input=text if stdin else None, capture_output=True, text=True, timeout=200, env=environment(), check=False,
    )  # fmt: skip


def test_what_it_does(library: Library, folder: Path, tmp_path: Path) -> None:
    results = {os.path.basename(result.path): result for result in library.ingest(folder)}
    assert len(results) == 6
    assert results["broken.json"].state == "quarantined"
    assert "not JSON" in str(results["broken.json"].reason)
    assert all(results[f"f{number}.txt"].state == "indexed" for number in range(5))
    assert list(library.ingest([folder])) == [], "what is unchanged is not worked on"
    (hit, *_) = library.search("kettle number 3", top=2)
    assert (hit.path, hit.text) == (str(folder / "f3.txt"), "Kettle number 3 can be returned.")
    assert hit.doc_id == results["f3.txt"].doc_id
    vectors = library.encode(["Kettle number 3 can be returned.", "x", ""])
    assert (vectors.shape, vectors.dtype) == ((3, 64), np.float32)
    assert library.encode([]).shape == (0, 64)
    assert library.status()["files"]["indexed"] == 5
    with pytest.raises(UsageError, match="there is no"):
        library.ingest(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not one text"):
        library.encode("one text")


def test_a_lost_index_is_noticed_and_mended(tmp_path: Path, folder: Path) -> None:
    with Library(state=tmp_path / "state", settings=TINY) as library:
        list(library.ingest(folder))
        assert library.verify(deep=True)["findings"] == []
    shutil.rmtree(tmp_path / "state" / "index")
    with Library(state=tmp_path / "state", settings=TINY) as library:
        assert library.verify()["missing"] == 5
        assert library.verify(repair=True)["repaired"] == 5
        list(library.ingest(folder))
        found = library.verify(deep=True)
    assert (found["findings"], found["documents"]) == ([], 5)


def test_a_name_that_is_not_utf_8_comes_back_as_it_is(library: Library, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff.txt")
    odd.write_text("zebra crossing")
    (result,) = library.ingest(odd)
    (hit,) = library.search("zebra", top=1)
    assert result.path == hit.path == str(odd)


def test_settings_reach_every_table(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "load": {"workers": 3, "json": {"disabled": True, "suffixes": [".a", ".b,c"]}},
        "encode": {"normalize": False, "devices": ["cpu", "cpu"]},
        "index": {"sqlite": {"limit": 5}},
    }
    config = Library(state=tmp_path / "state", settings=tables)._config
    assert config.load.workers == 3
    assert config.load.loaders["json"] == {"disabled": True, "suffixes": (".a", ".b,c")}
    assert (config.encode.normalize, config.encode.devices) == (False, ("cpu", "cpu"))
    assert config.index.sinks == {"sqlite": {"limit": 5}}


def test_wrong_settings_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        Library(state=tmp_path / "state", settings={"encode": {"modle": "x"}})
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("stdin", [False, True], ids=["script", "standard input"])
def test_an_unguarded_program(tmp_path: Path, folder: Path, stdin: bool) -> None:
    body = """
        import signal, sys, os, threading, multiprocessing, json
        before = dict(os.environ), list(sys.path), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD)
        assert threading.active_count() == 1
        library = ingestd.Library(state=STATE, settings=TINY)
        assert threading.active_count() == 1, "nothing is started before the first call"
        states = sorted(result.state for result in library.ingest(DOCS))
        assert before == (dict(os.environ), list(sys.path), signal.getsignal(signal.SIGINT),
                          signal.getsignal(signal.SIGCHLD))
        assert multiprocessing.get_start_method(allow_none=True) is None
        print(json.dumps([states, library.search("kettle number 2", top=1)[0].path]))
        # It is never closed.
    """
    done = script(tmp_path, body, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["indexed"] * 5 + ["quarantined"], str(folder / "f2.txt")]
    assert "Traceback" not in done.stderr
    assert left_over(tmp_path / "state") == []


def test_a_program_with_its_own_processes(tmp_path: Path, folder: Path) -> None:
    """It has set a start method and forks; a fork cannot use what its parent opened, nor does its end harm it."""
    body = """
        import multiprocessing, os
        multiprocessing.set_start_method("fork")
        library = ingestd.Library(state=STATE, settings=TINY)
        list(library.ingest(DOCS))
        def child():
            try:
                library.search("kettle")
            except ingestd.errors.UsageError as error:
                print(error, flush=True)
        one = multiprocessing.Process(target=child)
        one.start(); one.join()
        if (pid := os.fork()) == 0:
            raise SystemExit  # with its exit handlers
        os.waitpid(pid, 0)
        assert multiprocessing.get_start_method() == "fork"
        print(len(library.search("kettle")))
        library.close()
    """
    done = script(
        tmp_path, "import ingestd.errors\nimport warnings\nwarnings.simplefilter('default')\n" + textwrap.dedent(body)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["this process was forked: make a Library of its own in it", "5"]


def test_from_a_thread_and_inside_a_running_loop(tmp_path: Path, folder: Path) -> None:
    found: list[Any] = []

    def work() -> None:
        with Library(state=tmp_path / "state", settings=TINY) as library:
            found.extend(library.ingest(folder))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 6

    async def main() -> None:
        async with AsyncLibrary(state=tmp_path / "state", settings=TINY) as library:
            (folder / "new.txt").write_text("something new")
            results = [result async for result in library.ingest(folder)]
            assert [result.state for result in results] == ["indexed"]
            hits, vectors = await asyncio.gather(library.search("something new"), library.encode(["a", "b"]))
            assert hits[0].path == str(folder / "new.txt")
            assert vectors.shape == (2, 64)
            assert (await library.status())["files"]["indexed"] == 6
            assert (await library.verify())["documents"] == 6

    asyncio.run(main())

    async def blocking() -> None:  # as in a notebook, where a loop runs and people call what blocks
        with Library(state=tmp_path / "state", settings=TINY) as library:
            assert library.search("something new")

    asyncio.run(blocking())
    assert left_over(tmp_path / "state") == []


def test_in_a_notebook(tmp_path: Path, folder: Path) -> None:
    """A real kernel: its loop runs while a cell does, and cells may await."""
    code = f"""
import ingestd
library = ingestd.Library(state={str(tmp_path / "state")!r}, settings={TINY!r})
print(sorted(result.state for result in library.ingest({str(folder)!r})))
---
print(library.search("kettle number 2", top=1)[0].path)
library.close()
---
async with ingestd.AsyncLibrary(state={str(tmp_path / "state")!r}, settings={TINY!r}) as library:
    print((await library.encode(["a", "b"])).shape)
"""
    runner = f"""
import nbformat, nbclient
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in {code!r}.split("---")])
nbclient.NotebookClient(book, timeout=200, kernel_name="python3").execute()
print("".join(output.text for cell in book.cells for output in cell.outputs))
"""
    own = {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter")}
    done = subprocess.run(
        [sys.executable, "-c", runner], capture_output=True, text=True, timeout=280, cwd=tmp_path, check=False,
        env={**environment(), **own},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states, path, shape = done.stdout.split("\n")[:3]
    assert states == str(["indexed"] * 5 + ["quarantined"])
    assert (path, shape) == (str(folder / "f2.txt"), "(2, 64)")
    assert left_over(tmp_path / "state") == []


def test_a_running_daemon_does_the_work(tmp_path: Path, folder: Path) -> None:
    state = tmp_path / "state"
    config = write_config(state, folder)
    with running(config, state) as daemon:
        daemon.wait()
        more = tmp_path / "more.txt"
        more.write_text("handed over")
        with Library(config) as library:
            assert [result.path for result in library.ingest(more)] == [str(more)]
            assert library.search("handed over")[0].path == str(more)
            assert library.encode(["a"] * 5000).shape == (5000, 64)
            assert library.status()["pid"] == daemon.process.pid
        assert daemon.stop() == 0


def test_stopping_early_loses_nothing(library: Library, folder: Path) -> None:
    results = library.ingest(folder)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert library.search("kettle") is not None
    deadline = time.monotonic() + 60
    while library.status()["files"]["indexed"] < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_program_leaves_no_process(tmp_path: Path, folder: Path) -> None:
    text = (
        "import ingestd, time\n"
        f"library = ingestd.Library(state={str(tmp_path / 'state')!r}, settings={TINY!r})\n"
        f"list(library.ingest({str(folder)!r}))\nprint('ready', flush=True)\ntime.sleep(600)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, env=environment())
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    assert left_over(tmp_path / "state")
    program.kill()
    program.wait()
    program.stdout.close()
    deadline = time.monotonic() + 60
    while left_over(tmp_path / "state"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_encoders_that_are_killed_are_not_noticed(library: Library) -> None:
    texts = [f"text number {number} of {number % 7}" for number in range(50)]
    expected = library.encode(texts)
    assert len(np.unique(expected, axis=0)) > 40
    calls, failures = 1000, []
    left = list(range(calls))
    kills = 0

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        while left:
            try:
                left.pop()
            except IndexError:
                return
            picked = [chosen.randrange(50) for _ in range(chosen.randint(1, 5))]
            try:
                if not np.array_equal(library.encode([texts[index] for index in picked]), expected[picked]):
                    failures.append(picked)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        encoders = [worker["pid"] for worker in library.status()["workers"] if worker["stage"] == "encode"]
        done = calls - len(left)
        if encoders and kills < 5 and done >= 150 * (kills + 1):
            os.kill(random.choice(encoders), signal.SIGKILL)
            kills += 1
        time.sleep(0.05)
    assert failures == []
    assert kills == 5


def test_the_import_starts_nothing_and_names_everything() -> None:
    code = "import sys, threading, ingestd; print(threading.active_count(), 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.split() == ["1", "False"]
    for name in ingestd.__all__:
        assert getattr(ingestd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ingestd.nothing  # noqa: B018
