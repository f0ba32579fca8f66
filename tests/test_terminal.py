"""What people see: every command in a real terminal of several widths, in a pipe, and when they have seen enough."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.processes.daemons import environment, running, write_config
from tests.screens import Terminal, terminal

EVIL = "evil\x1b[2J\x1b]0;owned\x07\nname\u202egnp.txt"
BROKEN = "evil\x1b[2J\nbroken.docx"
WIDE = "契約書_とても長い名前のファイルです_第二版_最終.txt"
DEEP = "/".join(["deep-directory-name"] * 6) + "/" + "a-long-file-name-" * 5 + ".txt"
NOT_UTF8 = b"not-utf8-\xff\xfe.txt"
SHOWN = "evil\\x1b[2J\\x1b]0;owned\\x07\\nname\\u202egnp.txt"

ALLOWED = re.compile(rb"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[ABGK]|2K)")
"""What may steer the terminal: colours, and moves of the live views' cursor."""

FLOWING = ("error:", "try:", "what that means:", "0 to load", "nothing", "no ")
"""Beginnings of lines that come without layout: the terminal breaks them."""


class Demo:
    """A daemon over names and files that nobody would like to see unfiltered."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.docs = base / "docs"
        self.docs.mkdir()
        (self.docs / "notice period.txt").write_text("The notice period is three months. " * 30)
        (self.docs / WIDE).write_text("契約は自動的に更新されます。解約予告期間は三か月です。" * 10)
        (self.docs / EVIL).write_text("a notice period, \x1b[31mred\x1b[0m \u202e and \x1b]0;owned\x07 evil")
        Path(os.fsdecode(os.fsencode(self.docs) + b"/" + NOT_UTF8)).write_text("a notice period, oddly named")
        (self.docs / BROKEN).write_bytes(b"PK\x03\x04nothing")
        (self.docs / DEEP).parent.mkdir(parents=True)
        (self.docs / DEEP).write_text("a notice period, deep below")
        self.config = write_config(base / "state", self.docs)

    def command(self, *arguments: str) -> list[str]:
        return ["--config", str(self.config), *arguments]

    def piped(self, *arguments: str, shell: str = "") -> subprocess.CompletedProcess[str]:
        """Without a terminal; `shell`: what follows the command on its line."""
        command = [sys.executable, "-m", "ingestd", *self.command(*arguments)]
        line = f'"$@" {shell}; exit ${{PIPESTATUS[0]}}'
        return subprocess.run(
            ["bash", "-c", line, "bash", *command],
            capture_output=True, text=True, cwd=self.base, env=environment(), timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    found = Demo(tmp_path_factory.mktemp("demo"))
    with running(found.config, found.base / "state") as daemon:
        daemon.wait()
        yield found


def commands(demo: Demo) -> dict[str, tuple[list[str], int, list[str]]]:
    """Each command, its exit code, and what must be seen of it at any width."""
    broken = "evil\\x1b[2J\\nbroken.docx"
    return {
        "status": (["status"], 0, ["running", "indexed 5", "quarantined 1", "sqlite, healthy", str(demo.docs)]),
        "search": (["search", "notice period"], 0,
                   [SHOWN, WIDE, DEEP, "not-utf8-\ufffd\ufffd.txt", "oddly named"]),
        "why": (["why", str(demo.docs / BROKEN)], 0, ["quarantined", "not a zip file", "word 1", broken]),
        "failures": (["failures"], 0, [broken, "quarantined", "not a zip file", "ingestd retry PATH"]),
        "plugins": (["plugins"], 0, ["loader", "hashing", "sqlite", ".dockerfile", ".properties", ".xltx", ".zsh"]),
        "doctor": (["doctor"], 0, ["warning", "1 file failed", "ingestd failures", "max_user_watches", "sandbox"]),
        "try": (["try", str(demo.docs / EVIL)], 0, [SHOWN, "loaded", "text 1", "1 element", "1 chunk", "sandbox"]),
        "dry-run": (["ingest", "-n", str(demo.docs)], 0, ["0 to load", "6 unchanged", "nothing was done"]),
        "ingest": (["ingest", str(demo.docs)], 1, ["unchanged", "5", "quarantined", "1"]),
        "verify": (["verify"], 0, ["missing", "stale", "documents", "5"]),
        "wait": (["wait"], 0, []),
        "explain": (["explain", "quarantined"], 0, ["quarantined"]),
        "nothing": (["search", "--path", "*.nowhere", "x"], 0, ["nothing found"]),
        "mistake": (["serch"], 2, ["error: No such command", "serch", "try: ingestd --help"]),
    }  # fmt: skip


NAMES = ["status", "search", "why", "failures", "plugins", "doctor", "try", "dry-run", "ingest", "verify", "wait",
         "explain", "nothing", "mistake"]  # fmt: skip


def harmless(raw: bytes) -> None:
    """Nothing that a name or a text of a file holds reaches the terminal as anything but text."""
    left = ALLOWED.sub(b"", raw)
    assert b"\x1b" not in left, left
    assert b"\x07" not in raw
    assert "\u202e".encode() not in raw


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("columns", [pytest.param(80, marks=pytest.mark.slow), 20])
@pytest.mark.parametrize("name", NAMES)
def test_every_view_at_any_width(demo: Demo, name: str, columns: int) -> None:
    arguments, code, expected = commands(demo)[name]
    with terminal(*demo.command(*arguments), cwd=demo.base, columns=columns) as seen:
        assert seen.finish() == code, seen.text
    harmless(seen.raw)
    assert seen.restored
    assert seen.screen.title == ""
    text = squeezed(seen.text)
    for words in expected:
        assert squeezed(words) in text, seen.text
    fits(seen, columns)
    assert "…" not in seen.text or name == "search"  # a passage is cut, nothing else


def fits(seen: Terminal, columns: int) -> None:
    """Only a path, and what comes without layout, may leave the breaking of a line to the terminal."""
    for line in ALLOWED.sub(b"", seen.raw).decode().splitlines():
        if "/" not in line and not line.startswith(
            ("error:", "try:", "what that means:", "0 to load", "nothing", "no ")
        ):
            assert cell_len(line.rstrip()) <= columns, line


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 200])
def test_other_widths(demo: Demo, columns: int) -> None:
    for name in ("status", "plugins"):
        arguments, code, expected = commands(demo)[name]
        with terminal(*demo.command(*arguments), cwd=demo.base, columns=columns) as seen:
            assert seen.finish() == code
        for words in expected:
            assert squeezed(words) in squeezed(seen.text), seen.text
        fits(seen, columns)


def test_without_colour(demo: Demo) -> None:
    with terminal(*demo.command("status"), cwd=demo.base, NO_COLOR="1") as seen:
        assert seen.finish() == 0
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38)[;m]", seen.raw)
    with terminal(*demo.command("status"), cwd=demo.base) as seen:
        assert seen.finish() == 0
    assert b"\x1b[32m" in seen.raw


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_view_in_a_pipe(demo: Demo, name: str) -> None:
    arguments, code, expected = commands(demo)[name]
    done = demo.piped(*arguments)
    assert done.returncode == code, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert not [character for character in "━╺╸\u202e\x07" if character in done.stdout + done.stderr]
    for words in expected:
        if "\n" not in words:
            assert words in done.stdout + done.stderr, done.stdout + done.stderr
    if code == 2 or name == "nothing":
        assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["status", "search", "why", "failures", "plugins", "doctor", "try", "dry-run",
                                  "ingest", "verify", "nothing"])  # fmt: skip
def test_json_is_one_document_and_nothing_else_also_on_a_terminal(demo: Demo, name: str) -> None:
    arguments, code, _ = commands(demo)[name]
    with terminal(*demo.command(*arguments, "--json"), cwd=demo.base, columns=40) as seen:
        assert seen.finish() == code
    harmless(seen.raw)
    text = ALLOWED.sub(b"", seen.raw).decode()  # stderr is the same terminal: progress has moves and lines of its own
    start = min(at for mark in "[{" if (at := text.find(mark)) >= 0)
    json.loads(text[start:])
    done = demo.piped(*arguments, "--json")
    assert done.returncode == code
    json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["failures"], 0), (["plugins"], 0), (["search", "notice period"], 0), (["status", "--json"], 0), (["--help"], 0)],
)
def test_a_reader_that_has_seen_enough(demo: Demo, arguments: list[str], code: int) -> None:
    done = demo.piped(*arguments, shell="| true")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    full = demo.piped(*arguments, shell="> /dev/full")
    assert full.returncode not in (0, 70, 120), full.stderr
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert "Exception" not in full.stderr


# --- live -----------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Demo:
    found = Demo(tmp_path)
    for number in range(600):
        (found.docs / f"file {number}.txt").write_text(f"text number {number} " * 300)
    return found


def test_an_ingest_is_seen_resized_and_interrupted(busy: Demo) -> None:
    with terminal(*busy.command("ingest", str(busy.docs)), cwd=busy.base) as seen:
        seen.until(lambda text: " of 606" in text and "chunks/s" in text)
        assert seen.screen.cursor.hidden
        for columns in (40, 20, 120):
            seen.resize(columns)
            before = len(seen.raw)
            seen.until(lambda text, before=before: b" of 606" in seen.raw[before:])  # type: ignore[misc]
        for line in ALLOWED.sub(b"", seen.raw[before:]).decode().split("\r\n"):
            if " warning dispatch: " not in line:  # what is logged stays whole, for the terminal to break
                assert cell_len(line.strip("\r")) <= 120
        seen.interrupt()
        assert seen.finish() == 130
    harmless(seen.raw)
    assert seen.restored
    assert "interrupted: nothing is lost" in " ".join(seen.text.split())
    assert "try: ingestd ingest" in seen.text
    assert "━" not in "\n".join(seen.screen.display)


def test_a_daemon_and_those_who_look_on(busy: Demo) -> None:
    with terminal(*busy.command("run"), cwd=busy.base, rows=30) as daemon:
        daemon.until(lambda text: " of 606" in text and "inotify" in text)
        with terminal(*busy.command("status", "--watch"), cwd=busy.base, columns=20) as seen:
            seen.until(lambda text: "backlog" in text and "606" in text)
            fits(seen, 20)
            seen.interrupt()
            assert seen.finish() == 0
            assert seen.restored
        with terminal(*busy.command("wait"), cwd=busy.base) as waiting:
            while "backlog" not in waiting.text:
                daemon.read(0)
                assert waiting.read()
            waiting.interrupt()
            assert waiting.finish() == 130
            assert waiting.restored
            assert "backlog" not in waiting.text
        daemon.interrupt()
        daemon.until(lambda text: b"stopping: " in daemon.raw)
        assert daemon.finish() == 0
    harmless(daemon.raw)
    assert daemon.restored
    with terminal(*busy.command("status", "--watch"), cwd=busy.base) as seen:
        seen.until(lambda text: "no daemon is running: ingestd run" in text)
        seen.interrupt()
        assert seen.finish() == 0


def test_a_dumb_terminal_and_a_pipe_get_lines(demo: Demo) -> None:
    with terminal(*demo.command("status", "--watch"), cwd=demo.base, TERM="dumb") as seen:
        seen.until(lambda text: text.count("indexed 5, quarantined 1") >= 2)
        seen.interrupt()
        assert seen.finish() == 0
    assert b"\x1b" not in seen.raw
    with terminal(*demo.command("ingest", str(demo.docs)), cwd=demo.base, TERM="dumb") as seen:
        assert seen.finish() == 1
    assert b"\x1b" not in seen.raw


def test_a_question_can_be_left(demo: Demo) -> None:
    with terminal(*demo.command("reindex", "--drop"), cwd=demo.base) as seen:
        seen.until(lambda text: "[y/N]" in text)
        seen.interrupt()
        assert seen.finish() == 130
    assert seen.restored
