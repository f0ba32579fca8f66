from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from ingestd.cli import layout, terminal, views
from ingestd.types import STATES

EVIL = "/docs/\x1b[2J[red]evil\nname\u202e.pdf"
WIDTHS = pytest.mark.parametrize("width", [80, 50, 40])

STATUS: dict[str, Any] = {
    "running": True,
    "ready": True,
    "waiting_for": [],
    "files": {"settling": 12, **dict.fromkeys(STATES, 0), "queued": 1200, "running": 4, "indexed": 12345, "failed": 2},
    "chunks": 987654,
    "eta_seconds": 185.0,
    "sources": [
        {"name": "documents", "directory": "/home/someone/Documents", "mode": "inotify", "files": 13000},
        {"name": "a-rather-long-name-of-a-source", "directory": "/srv/" + "deep/" * 20, "mode": "poll", "files": 551},
    ],
    "workers": [
        {"pid": 10, "stage": "load", "state": "busy", "path": "/home/someone/Documents/report.pdf"},
        {"pid": 11, "stage": "load", "state": "idle", "path": None},
        {"pid": 12, "stage": "index", "state": "idle", "path": None},
    ],
    "encoders": [{"device": "cpu", "pid": 13, "tokens_per_second": 5210.4, "busy": 0.97}],
    "sink": {"name": "sqlite", "healthy": True},
    "sandbox": {"landlock": 7, "seccomp": True},
    "warnings": ["the disk is almost full " * 8],
    "rates": {"files_per_second": 8.13, "chunks_per_second": 212.4},
    "recent": [
        {"path": "/ignored.txt", "state": "indexed"},
        {"path": EVIL, "state": "quarantined", "reason": "deadline of 60 s\nstack", "seconds": 61.0},
    ],
}


def shown(renderable: RenderableType, width: int = 80, *, color: bool = False) -> str:
    console = Console(
        record=True, width=width, file=io.StringIO(), highlight=False, force_terminal=color, color_system="truecolor",
        markup=False, emoji=False,
    )  # fmt: skip
    console.print(renderable)
    return console.export_text(styles=color)


def fits(text: str, width: int) -> None:
    for line in text.splitlines():
        assert cell_len(line.rstrip()) <= width, line
    assert "\x1b" not in text
    assert "\u202e" not in text


@WIDTHS
def test_the_live_view(width: int) -> None:
    text = shown(views.live(STATUS, width), width)
    fits(text, width)
    assert "ignored.txt" not in text
    for word in (
        "12,347",
        "13,563",
        "91%",
        "5,210 tokens/s",
        "8.1",
        "212.4",
        "backlog",
        "indexed",
        "failed",
        "documents",
        "report.pdf",
    ):
        assert word in text, text
    assert "quarantined" in text
    assert "[red]evil" in text or width < 80
    assert ("3m 05s left" in text) == (width >= 50)
    assert len(text.splitlines()) <= 16


@WIDTHS
def test_the_live_view_before_anything_is_known(width: int) -> None:
    text = shown(views.live({"ready": False, "waiting_for": ["encoders"]}, width), width)
    fits(text, width)
    assert "waiting for encoders" in text


@WIDTHS
def test_the_progress_of_an_ingest(width: int) -> None:
    progress = {
        "total": 1204, "done": 312, "indexed": 300, "unchanged": 9, "failed": 3, "quarantined": 0, "skipped": 0,
        "chunks": 5000, "scanning": True, "current": [EVIL.encode(), "/docs/b.docx"], "chunks_per_second": 321.5,
        "eta_seconds": None,
    }  # fmt: skip
    text = shown(views.ingesting(progress, width), width)
    fits(text, width)
    for word in ("312 of 1,204+", "26%", "321.5", "failed", "unchanged"):
        assert word in text
    assert "quarantined" not in text
    assert views.ingest_line(progress) == "312 of 1,204 files, 3 failed, 321.5 chunks/s"
    shown(views.ingesting({}, width), width)


@WIDTHS
def test_the_summary_of_an_ingest(width: int) -> None:
    failures = [{"path": f"/docs/{n}.pdf", "state": "failed", "reason": "encrypted"} for n in range(25)]
    summary = {
        "indexed": 1180, "unchanged": 20, "failed": 25, "quarantined": 0, "skipped": 1, "chunks": 23112,
        "seconds": 72.0,
        "failures": [*failures[:1], {"path": EVIL, "state": "quarantined", "reason": "a\nb\nc\nd"}, *failures[1:]],
    }  # fmt: skip
    text = shown(views.ingested(summary), width)
    fits(text, width)
    for word in ("1,180", "23,112", "321.0/s", "1m 12s", "/docs/0.pdf", "encrypted", "and 6 more"):
        assert word in text
    shown(views.ingested({}), width)


HITS: list[dict[str, Any]] = [
    {
        "score": 0.0325, "path": "/docs/contract.pdf", "source": "docs", "page": 3, "title": "Contract [v2]",
        "text": "The notice period is three months. " * 30 + "\x1b]0;x\x07", "doc_id": "d", "chunk_id": "c",
        "ordinal": 0, "metadata": {"headings": ["Termination"]},
    },
    {"score": 0.01, "path": EVIL, "page": None, "title": None, "text": "合同的通知期为三个月。", "metadata": {}},
]  # fmt: skip


@WIDTHS
def test_search_results(width: int) -> None:
    text = shown(views.found(HITS, "how long is the notice period"), width)
    fits(text, width)
    assert "1. /docs/contract.pdf:3  0.0325" in text
    assert "Contract [v2] › Termination" in text
    assert "合同的通知期为三个月" in text
    assert "…" in text
    assert len(text.splitlines()) < 25


def test_the_words_of_the_question_are_emphasised() -> None:
    text = shown(views.found(HITS, "how long is the notice period 通知期"), color=True)
    assert "\x1b[1;33mnotice\x1b[0m" in text
    assert "\x1b[1;33mperiod\x1b[0m" in text
    assert "\x1b[1;33m通知\x1b[0m" in text
    assert "\x1b[1;33mthe\x1b[0m" not in text


def test_the_part_of_a_long_passage_that_matters_is_shown() -> None:
    hit = HITS[0] | {"text": "filler words " * 100 + "the needle is here " + "more filler " * 100}
    assert "the needle is here" in " ".join(shown(views.found([hit], "needle")).split())


@WIDTHS
def test_status(width: int) -> None:
    text = shown(views.state_of(STATUS), width)
    fits(text, width)
    joined = " ".join(text.split())
    for word in ("running", "indexed 12,345", "987,654", "3m 05s", "sqlite, healthy", "landlock: 7", "documents"):
        assert word in joined, joined
    assert "5,210 tokens/s 97%" in joined
    offline = shown(views.state_of({"running": False, "files": {}, "sink": {"name": "sqlite", "healthy": None}}), width)
    assert "not running" in offline
    assert "healthy" not in offline
    assert "waiting for encoders: no model" in " ".join(
        shown(views.state_of({"running": True, "ready": False, "waiting_for": ["encoders: no model"]}), width).split()
    )


@WIDTHS
def test_why(width: int) -> None:
    why = {
        "path": EVIL, "state": "failed", "reason": "deadline of 60 s\nat line 3", "loader": "pdf 1", "attempts": 2,
        "retry_at": time.time() + 125.5, "chunks": 3, "digest": "ab" * 16, "warnings": ["page 3 has no text"],
        "detail": "Thread 1\x1b[0m", "history": [{"at": 0.0, "event": "loaded"}, [1.0, "killed"], "plain"],
    }  # fmt: skip
    text = shown(views.reason_of(why), width)
    fits(text, width)
    for word in ("failed", "at line 3", "pdf 1", "tried again in 2m", "abab", "page 3", "loaded", "killed", "plain"):
        assert word in " ".join(text.split()), text
    assert "\\x1b" in text
    shown(views.reason_of({}), width)


@WIDTHS
def test_plugins(width: int) -> None:
    plugins = [
        {
            "kind": "loader",
            "name": "pdf",
            "version": "1",
            "suffixes": [".pdf"],
            "distribution": "ingestd 0.1",
            "error": None,
        },
        {"kind": "plugin", "name": "bad", "distribution": "bad 1", "error": "ImportError: [no] x\x1b"},
        {
            "kind": "loader",
            "name": "mine",
            "suffixes": [".mine", ".pdf"],
            "distribution": "mine 3",
            "takes": [".mine"],
            "lost": {".pdf": "pdf"},
        },
        {"kind": "loader", "name": "old", "suffixes": [".old"], "takes": [], "lost": {".old": None}, "disabled": True},
    ]
    text = shown(views.listed(plugins), width)
    fits(text, width)
    words = " ".join(text.split())
    assert 'mine (mine 3) claims .pdf, which goes to pdf: [load.mine] suffixes = [".pdf"] changes that' in words
    assert "disabled" in text or width < 80
    assert "old () claims" not in words
    assert ".pdf" in text
    assert "bad 1" in text
    assert "[no]" in text


def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is obeyed on a terminal: emphasis stays, colour goes."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    console.print(views.state_of(STATUS))
    console.print(views.live(STATUS, 80))
    assert not [code for code in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "38;") if code in out.getvalue()]


def test_output_for_a_pipe_is_neither_wrapped_nor_padded(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/deep" * 100
    why = {"path": path, "reason": "r", "history": ["x"]}
    plugins = [{"kind": "loader", "name": "a", "suffixes": [".x"] * 300}, {"kind": "loader", "name": "b"}]
    for view, text in (
        (views.found([HITS[0] | {"path": path}], "x"), f"{path}:3"), (views.reason_of(why), path),
        (views.state_of(STATUS), "/srv/" + "deep/" * 20), (views.failed([why]), path),
        (views.ingested({"failures": [why]}), path), (views.listed(plugins), " .x" * 300),
    ):  # fmt: skip
        layout.show(view)
        out = capsys.readouterr().out
        assert text in out
        assert "\x1b" not in out
        for line in out.splitlines():
            assert line == line.rstrip()
            assert len(line) < 2000


def test_a_live_view_draws_and_keeps_lines_above() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    view = terminal.LiveView(console, views.live)
    with view.live:
        view.show(STATUS)
        view.write("a line\x1b[2J")
        view.show(STATUS)
    assert "a line\\x1b[2J" in out.getvalue()
    assert "12,347" in out.getvalue()


def test_what_stands_in_the_way_is_told_once_until_nothing_does() -> None:
    written: list[str] = []
    view = terminal.Obstacles(written.append)
    for waiting_for in (["encoders", "index: away"], ["index: away"], ["index: no\x1b answer"], ["index: away"], []):
        view.show({"waiting_for": waiting_for})
    assert written == [
        "waiting for encoders, index: away",
        "waiting for index: away",
        "waiting for index: no\\x1b answer",
    ]
    view.show({"waiting_for": ["index: away"]})
    assert written[3:] == ["waiting for index: away"]


def test_lines_of_progress_come_now_and_then() -> None:
    now, written = [0.0], list[str]()
    view = terminal.LineView(written.append, clock=lambda: now[0])
    for now[0] in range(41):
        view.show({"done": int(now[0]), "total": 100})
    assert [line.split()[0] for line in written] == ["10", "20", "30", "40"]


def test_the_view_goes_on_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(rounds, "stop") == "stop":
            raise KeyboardInterrupt

    chunks = iter([100, 103, 150])
    status = {key: value for key, value in STATUS.items() if key != "rates"}
    terminal.follow(lambda: {**status, "chunks": next(chunks)}, sleep=sleep)
    out = capsys.readouterr().out
    assert "47.0 chunks/s" in out
