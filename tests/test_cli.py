from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import ingestd.commands
from ingestd import __version__, journal
from ingestd.cli import cli
from ingestd.errors import IndexMismatchError, IngestdError, ModelError, UnreachableError

NAMES = [
    "run", "ingest", "search", "status", "why", "failures", "explain", "check-config", "plugins", "doctor",
    "completion", "retry", "wait", "pause", "resume", "confirm-deletes", "reload", "verify", "reindex", "try",
    "new-plugin", "install-service", "uninstall-service",
]  # fmt: skip
WITH_JSON = [
    "ingest", "search", "status", "why", "failures", "retry", "pause", "resume", "confirm-deletes", "reload",
    "check-config", "plugins", "doctor", "try", "verify", "explain",
]  # fmt: skip

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the command line in an empty directory, with a state directory of its own."""
    for name in list(os.environ):
        if name.startswith("INGESTD_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("INGESTD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("ingestd.config.settings.SYSTEM_FILE", tmp_path / "none.toml")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, list(arguments), prog_name="ingestd")
        assert "Traceback" not in result.output or "-vv" in arguments
        return result

    return run


def fake(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> list[tuple[Any, ...]]:
    """Stand in for what needs workers; returns the calls."""
    calls: list[tuple[Any, ...]] = []

    def function(config: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if isinstance(answer, BaseException):
            raise answer
        return answer(*arguments, **options) if callable(answer) else answer

    monkeypatch.setattr(ingestd.commands, name, function)
    return calls


def process(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}
    return subprocess.run(
        [sys.executable, "-m", "ingestd", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**clean, "INGESTD_STATE_DIR": str(cwd / "state"), **environ}, check=False,
    )  # fmt: skip


# --- help -----------------------------------------------------------------------------------------------------


def test_the_commands_are_listed_in_the_order_of_their_use(invoke: Invoke) -> None:
    assert cli.list_commands(click.Context(cli)) == NAMES
    help = invoke("--help")
    assert help.exit_code == 0
    for name in NAMES:
        assert f"\n  {name} " in help.output


@pytest.mark.parametrize("name", NAMES)
def test_every_command_teaches_by_example(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: ingestd {name}" in result.output
    examples = result.output.split("Examples:\n")[1].split("\n\n")[0]
    assert f"  ingestd {name}" in examples
    for option in ("--config FILE", "--state DIR", "--verbose"):
        assert option in result.output
    assert ("--json" in result.output) == (name in WITH_JSON or name == "reindex")
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} is not explained"


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").output == f"ingestd, version {__version__}\n"


def test_the_command_line_imports_next_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from ingestd.cli import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('modules', *sorted(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stderr.split())
    assert "click" in modules
    heavy = {"rich", "asyncio", "msgspec", "numpy", "torch", "apsw", "pluggy", "watchdog", "ingestd_plugins", "ssl"}
    assert not modules & heavy
    began = time.perf_counter()
    assert process("--help", cwd=tmp_path).returncode == 0
    with capsys.disabled():
        print(f"\n`ingestd --help`: {time.perf_counter() - began:.2f} s")


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["serch", "x"], "serch", "ingestd --help"),
        (["status", "--jsn"], "--json", "ingestd status --help"),
        (["search"], "QUESTION", "ingestd search --help"),
        (["search", " "], "the question is empty", None),
        (["search", "--top", "0", "x"], "--top", "ingestd search --help"),
        (["ingest"], "PATH", "ingestd ingest --help"),
        (["ingest", "nowhere.pdf"], "nowhere.pdf: no such file or directory", None),
        (["ingest", ""], "a path must not be empty", None),
        (["ingest", "--b64", "%"], "is not base64", None),
        (["retry"], "name either files or --all", "ingestd retry --help"),
        (["retry", "--all", "x"], "name either files or --all", "ingestd retry --help"),
        (["wait", "--timeout", "soon"], "'soon' is not a duration", "ingestd wait --help"),
        (["--config", "nowhere.toml", "status"], "nowhere.toml: cannot read the configuration", None),
        (["status", "--config", "nowhere.toml"], "nowhere.toml: cannot read the configuration", None),
        (["status", "--state", ""], "--state: must not be empty", None),
        (["run"], "nothing to watch: add a [[watch]] table to a config.toml", "ingestd ingest PATH"),
        (["why", "x.pdf"], "nothing has been ingested yet", "ingestd ingest PATH"),
    ],
)
def test_wrong_usage_is_explained(invoke: Invoke, arguments: Sequence[str], message: str, hint: str | None) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert rest == ([f"try: {hint}"] if hint else [])


def test_without_a_command_there_is_help(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: ingestd" in result.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnreachableError("no daemon", command="ingestd run"), 3),
        (IndexMismatchError("another model", command="ingestd reindex"), 3),
        (ModelError("no such model"), 2),
        (IngestdError("bad\x1b[2J\nsecond line"), 3),
    ],
)
def test_errors_become_exit_codes(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: IngestdError, code: int
) -> None:
    fake(monkeypatch, "status", error)
    result = invoke("status", "--json")
    assert result.exit_code == code
    assert result.stdout == ""
    assert "\x1b" not in result.stderr
    assert all(line.startswith(("error: ", "try: ")) for line in result.stderr.splitlines())
    assert (f"try: {error.command}" in result.stderr) == (error.command is not None)


def test_a_bug_is_called_one_with_its_traceback(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    fake(monkeypatch, "status", ZeroDivisionError("oh"))
    result = CliRunner().invoke(cli, ["status"])
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "error: a bug in ingestd: ZeroDivisionError" in result.stderr


def test_tracebacks_of_errors_are_there_for_those_who_ask(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "status", UnreachableError("no daemon"))
    assert "Traceback" in invoke("status", "-vv").stderr
    monkeypatch.setenv("INGESTD_DEBUG", "1")
    result = CliRunner().invoke(cli, ["status"])
    assert "Traceback" in result.stderr


def test_all_problems_of_a_configuration_are_named(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[load]\ndeadlin = 1\nworkers = -1\n")
    result = invoke("check-config")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        'error: config.toml:2: [load] deadlin: unknown key; did you mean "deadline"?',
        "error: config.toml:3: [load] workers: must not be negative: -1",
    ]
    result = invoke("check-config", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["problems"][0].startswith("config.toml:2: [load] deadlin")
    assert invoke("status").exit_code == 2


def test_a_right_configuration(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    text = '[[watch]]\nname = "docs"\ndirectory = "docs"\n[[watch]]\nname = "gone"\ndirectory = "gone"\n'
    (tmp_path / "config.toml").write_text(text)
    result = invoke("check-config")
    assert result.exit_code == 0
    assert "config.toml: no problem found" in result.stdout
    assert f"source docs: {tmp_path}/docs" in result.stdout
    assert result.stderr == f"warning: {tmp_path}/gone is not there, or not a directory\n"
    shape = json.loads(invoke("check-config", "--json").stdout)
    assert (shape["valid"], shape["sources"], len(shape["warnings"])) == (True, ["docs", "gone"], 1)


# --- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_common_options_stand_before_or_after_the_command(invoke: Invoke, tmp_path: Path, before: bool) -> None:
    (tmp_path / "other.toml").write_text("[chunk]\noverlap = 7\n")
    options = ["--config", "other.toml", "--state", "elsewhere"]
    result = invoke(*(options if before else []), "check-config", "--json", *([] if before else options))
    answer = json.loads(result.stdout)
    assert answer["file"] == str(tmp_path / "other.toml")
    assert answer["state"] == str(tmp_path / "elsewhere")


# --- commands -------------------------------------------------------------------------------------------------

HIT = {
    "score": 0.03, "path": b"/docs/\xff.pdf", "source": "docs", "page": 3, "title": "T", "text": "the notice period",
    "doc_id": "d", "chunk_id": "c", "ordinal": 0, "metadata": {},
}  # fmt: skip


def test_search(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake(monkeypatch, "search", [HIT])
    result = invoke("search", "notice", "period", "--top", "3", "--source", "docs", "--path", "*.pdf")
    assert result.exit_code == 0
    assert "1. /docs/\ufffd.pdf:3" in result.stdout
    assert result.stderr == ""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.sqlite").touch()
    assert "loading the model" in invoke("search", "x").stderr
    result = invoke("search", "--json", "notice period")
    (hit,) = json.loads(result.stdout)
    assert hit["path"] == "/docs/\ufffd.pdf"
    assert base64.b64decode(hit["path_b64"]) == b"/docs/\xff.pdf"
    assert hit.keys() >= HIT.keys()
    assert calls == [("notice period", 3, "docs", "*.pdf"), ("x", 10, None, None), ("notice period", 10, None, None)]


def test_a_search_that_finds_nothing(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "search", [])
    result = invoke("search", "x")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing found" in result.stderr
    assert json.loads(invoke("search", "--json", "x").stdout) == []


SUMMARY = {
    "indexed": 2, "unchanged": 1, "failed": 0, "quarantined": 0, "skipped": 0, "chunks": 9, "seconds": 1.5,
    "failures": [],
}  # fmt: skip


@pytest.mark.parametrize(("extra", "code"), [({}, 0), ({"failed": 1}, 1), ({"quarantined": 2}, 1), ({"skipped": 3}, 0)])
def test_ingest(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: dict[str, int], code: int
) -> None:
    def work(paths: list[bytes], *, progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        progress({"total": 3, "done": 1})
        return {**SUMMARY, **extra}

    calls = fake(monkeypatch, "ingest", work)
    odd = os.fsencode(tmp_path) + b"/\xff"
    os.close(os.open(odd, os.O_CREAT))
    result = invoke("ingest", ".", "../" + tmp_path.name + "/./x/..")
    assert result.exit_code == code
    assert "indexed" in result.stdout
    result = invoke("ingest", "--json", "--b64", base64.b64encode(odd).decode())
    assert result.exit_code == code
    assert json.loads(result.stdout) == {**SUMMARY, **extra}
    assert calls == [([os.fsencode(tmp_path)] * 2,), ([odd],)]


def test_status_without_a_daemon(invoke: Invoke) -> None:
    result = invoke("status", "--json")
    assert result.exit_code == 0
    status = json.loads(result.stdout)
    assert status["running"] is False
    keys = "running ready waiting_for files chunks eta_seconds sources workers encoders sink sandbox warnings"
    assert status.keys() >= set(keys.split())
    states = "settling queued running indexed partial failed quarantined skipped held"
    assert " ".join(status["files"]) == states
    assert "not running" in invoke("status").stdout


def test_failures_without_a_daemon(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(invoke("failures", "--json").stdout) == []
    assert "no file has failed" in invoke("failures").stderr
    fake(monkeypatch, "failures", [{"path": "/a.pdf", "state": "failed", "reason": "encrypted", "attempts": 2}])
    result = invoke("failures")
    assert "/a.pdf" in result.stdout
    assert "failed, 2 attempts: encrypted" in result.stdout


def test_why(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake(monkeypatch, "why", {"path": b"/a\xff", "state": "failed", "reason": "r", "history": []})
    assert "failed" in invoke("why", "a").stdout
    assert json.loads(invoke("why", "--json", "--b64", "L2H/").stdout)["path_b64"] == "L2H/"
    assert calls == [(os.fsencode(tmp_path / "a"),), (b"/a\xff",)]


def test_pause_resume_and_confirm_without_a_daemon(invoke: Invoke, tmp_path: Path) -> None:
    """With the real journal; what a daemon does then is in `processes/test_sources.py`."""
    lost = invoke("pause", "docs")
    assert lost.exit_code == 2
    assert "there is no source 'docs'; known: none yet" in lost.stderr
    with contextlib.closing(journal.connect(tmp_path / "state" / "journal.sqlite")) as db:
        journal.configure(db, {"docs": journal.SourceSettings(b"/srv/docs")}, 0)
    assert invoke("pause", "docs").stdout == "paused: docs\n"
    assert json.loads(invoke("pause", "--json").stdout) == {"sources": ["docs"], "paused": True}
    assert "source docs is paused: ingestd resume docs" in json.loads(invoke("status", "--json").stdout)["warnings"]
    assert invoke("resume").stdout == "resumed: docs\n"
    assert json.loads(invoke("status", "--json").stdout)["warnings"] == []
    assert invoke("confirm-deletes", "docs").stdout == "0 files of docs will leave the index\n"
    assert json.loads(invoke("confirm-deletes", "docs", "--json").stdout) == {"source": "docs", "files": 0}
    assert "known: docs" in invoke("confirm-deletes", "dosc").stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(invoke: Invoke, tmp_path: Path, shell: str) -> None:
    """The script is one that the shell takes, where it is here, and what it asks for is answered."""
    script = invoke("completion", shell)
    assert script.exit_code == 0
    (tmp_path / "script").write_text(script.stdout)
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
    words = {"COMP_WORDS": "ingestd con", "COMP_CWORD": "1" if shell != "fish" else "con"}
    done = process(cwd=tmp_path, _INGESTD_COMPLETE=f"{shell}_complete", **words)
    assert "confirm-deletes" in done.stdout
    assert invoke("completion", "tcsh").exit_code == 2


def test_retry(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake(monkeypatch, "retry", {"retried": 1})
    assert invoke("retry", "/a", "/b").stdout == "1 file will be tried again\n"
    assert json.loads(invoke("retry", "--all", "--json").stdout) == {"retried": 1}
    assert calls == [([b"/a", b"/b"],), (None,)]


def test_wait(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("wait", "--timeout", "5").exit_code == 0
    calls = fake(monkeypatch, "wait", False)
    assert invoke("wait", "--timeout", "1m").exit_code == 1
    assert calls == [(60.0,)]


def test_plugins(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "plugins", [{"kind": "loader", "name": "pdf", "suffixes": [".pdf"], "error": None}])
    assert ".pdf" in invoke("plugins").stdout
    assert json.loads(invoke("plugins", "--json").stdout)[0]["name"] == "pdf"


def test_reindex(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"documents": 1234, "chunks": 5, "failed": 0, "quarantined": 1, "model": "m"}
    fake(monkeypatch, "reindex", lambda *, progress: told)
    shown = invoke("reindex")
    assert shown.stdout.startswith("in use: 1,234 documents, 5 chunks, made with m")
    assert "1 files failed: ingestd failures" in shown.stderr
    assert shown.exit_code == 1
    assert json.loads(invoke("reindex", "--yes", "--json").stdout) == told
    fake(monkeypatch, "drop_index", 1234)
    assert invoke("reindex", "--drop").stdout.startswith("1,234 files are queued")
    assert json.loads(invoke("reindex", "--drop", "--yes", "--json").stdout) == {"queued": 1234}


def test_run_starts_with_a_source(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[[watch]]\nname = "a"\ndirectory = "a"\n')
    calls = fake(monkeypatch, "run", lambda *, progress: 0 if progress is None else 9)
    assert invoke("run").exit_code == 0
    assert calls == [()]


# --- a real process -------------------------------------------------------------------------------------------


def test_exit_codes_of_a_real_process(tmp_path: Path) -> None:
    assert process("status", "--json", cwd=tmp_path).returncode == 0
    wrong = process("status", "--jsn", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert process("run", cwd=tmp_path).returncode == 2
    assert process("search", "x", cwd=tmp_path).returncode == 3


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, flags: list[str]) -> None:
    code = (
        "import sys, time, ingestd.commands as c, ingestd.cli\n"
        "c.failures = lambda config: [{'path': 'x' * 1000, 'reason': 'r'}] * 1000\n"
        "ingestd.cli.main()"
    )
    command = [sys.executable, "-c", code, "failures", *flags]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


def test_names_can_be_printed_in_any_locale(tmp_path: Path) -> None:
    code = (
        "import ingestd.commands as c, ingestd.cli\n"
        "c.failures = lambda config: [{'path': 'caf\\u00e9\\udcff', 'reason': '\\u8bed'}]\n"
        "ingestd.cli.main()"
    )
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "INGESTD_STATE_DIR": str(tmp_path)}
    for flags in ([], ["--json"]):
        command = [sys.executable, "-c", code, "failures", *flags]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
        assert b"caf" in done.stdout


def test_ctrl_c_during_an_ingest(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, ingestd.commands as c, ingestd.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "def ingest(config, paths, *, progress):\n"
        "    print('working', flush=True); time.sleep(60)\n"
        "c.ingest = ingest\n"
        "ingestd.cli.main()"
    )
    (tmp_path / "a b").mkdir()
    command = [sys.executable, "-c", code, "ingest", "a b"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline() == "working\n"
        child.send_signal(signal.SIGINT)
        error = child.stderr.read()
        assert child.stdout.read() == ""
    assert child.returncode == 130
    assert error.splitlines() == [
        "error: interrupted: nothing is lost, what is done stays done, and the same command goes on from there",
        "try: ingestd ingest 'a b'",
    ]


TERMINAL = """
import logging, sys
import ingestd.commands as c, ingestd.cli
def run(config, *, progress):
    progress({"ready": True, "files": {"indexed": 30, "queued": 10}, "rates": {"files_per_second": 8.1}})
    logging.getLogger("ingestd.load").warning("a line that stays")
    progress({"ready": True, "files": {"indexed": 40}})
    return 0
def ingest(config, paths, *, progress):
    progress({"total": 4, "done": 1, "current": ["/x/report.pdf"]})
    return {"indexed": 4, "seconds": 1.0}
c.run, c.ingest = run, ingest
ingestd.cli.main()
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [("run", ["30 of 40", "75%", "8.1 files/s", "load: a line that stays", "40 of 40"]),
     ("ingest", ["1 of 4", "25%", "now", "report.pdf", "indexed"])],
)  # fmt: skip
def test_on_a_terminal(tmp_path: Path, command: str, expected: list[str]) -> None:
    (tmp_path / "config.toml").write_text('[[watch]]\nname = "a"\ndirectory = "a"\n')
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "INGESTD_STATE_DIR": str(tmp_path / "state")}
    arguments = [sys.executable, "-c", TERMINAL, command, *(["."] if command == "ingest" else [])]
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
    ) as child:
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # a terminal's end of file
            while piece := os.read(ours, 65536):
                output += piece
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode())
    assert child.returncode == 0, plain
    for text in expected:
        assert text in plain, plain


# --- explain --------------------------------------------------------------------------------------------------


def test_explain(invoke: Invoke) -> None:
    assert "quarantined" in invoke("explain").stdout
    assert invoke("explain", "deadline of 60 s exceeded at page 3").stdout.startswith(
        "deadline\n\nThe loader took longer"
    )
    assert json.loads(invoke("explain", "--json", "memory").stdout)["name"] == "memory"
    assert {"name": "held", "section": "States"} in json.loads(invoke("explain", "--json").stdout)
    unknown = invoke("explain", "some", "plugin's", "deadlines")
    assert unknown.exit_code == 2
    assert "'deadline'" in unknown.stderr


def test_failures_name_the_pages_that_explain_them(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "failures", [{"path": "/a.pdf", "state": "quarantined", "reason": "needs a password"}])
    assert "ingestd explain password" in invoke("failures").stderr
