"""A person's mistakes, and a machine's: a line that says what, where and why, what to type, the right exit code."""

from __future__ import annotations

import errno
import grp
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from ingestd.cli import cli
from tests.mounting import detach, fill, mount, small_disk
from tests.processes.daemons import environment

GOOD = '[encode]\nengine = "hashing"\nmodel = "hashing"\n[[watch]]\nname = "docs"\ndirectory = "docs"\n'
MS_RDONLY = 1


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("INGESTD_") or name == "RUNTIME_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setattr("ingestd.config.settings.SYSTEM_FILE", tmp_path / "none.toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a text")
    (tmp_path / "good.toml").write_text(GOOD)
    (tmp_path / "lost.toml").write_text(f'[state]\ncontrol_socket = "lost/control.sock"\n{GOOD}')
    (tmp_path / "broken.toml").write_text("[encode\n")
    (tmp_path / "wrong.toml").write_text("[load]\ndeadlin = 1\n")
    return tmp_path


def said(arguments: Sequence[str]) -> tuple[int, str, str | None]:
    """The exit code, the error, and what to type."""
    done = CliRunner().invoke(cli, list(arguments), prog_name="ingestd")
    assert done.stdout == ""
    return judged(done.exit_code, done.stderr)


def judged(code: int, stderr: str) -> tuple[int, str, str | None]:
    assert "Traceback" not in stderr
    assert "a bug in ingestd" not in stderr
    first, *rest = stderr.splitlines()
    assert first.startswith("error: "), stderr
    assert len(rest) <= 1, stderr
    assert all(line.startswith("try: ") for line in rest), stderr
    return code, first.removeprefix("error: "), rest[0].removeprefix("try: ") if rest else None


OK = ["--config", "good.toml", "--state", "state"]
LOST = ["--config", "lost.toml", "--state", "state"]
FILE = ["--config", "good.toml", "--state", "docs/a.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "message", "command"),
    [
        (["stats"], 2, "No such command", "ingestd --help"),
        (["ingest", "--jsn", "x"], 2, "No such option '--jsn'", "ingestd ingest --help"),
        (["try"], 2, "Missing argument 'FILE'", "ingestd try --help"),
        (["completion", "tcsh"], 2, "'tcsh' is not one of", "ingestd completion --help"),
        (["new-plugin", "a/b"], 2, "'a/b'", None),
        (["--config", "broken.toml", "status"], 2, "broken.toml:1: ", None),
        (
            ["--config", "wrong.toml", "run"],
            2,
            'wrong.toml:2: [load] deadlin: unknown key; did you mean "deadline"?',
            None,
        ),
        (["--config", "docs", "status"], 2, "docs: cannot read the configuration: Is a directory", None),
        (["--config", "none.toml", "search", "x"], 2, "none.toml: cannot read the configuration", None),
        ([*OK, "ingest", "lost"], 2, "lost: no such file or directory", None),
        ([*OK, "try", "lost"], 2, "lost: no such file or directory", None),
        ([*OK, "try", "docs"], 2, "docs is a directory: name a file", None),
        ([*OK, "search", "x"], 3, "nothing has been indexed yet", "ingestd ingest PATH"),
        ([*OK, "why", "docs/a.txt"], 2, "nothing has been ingested yet", "ingestd ingest PATH"),
        ([*OK, "reload"], 3, "no daemon is running at", "ingestd run"),
        ([*OK, "pause", "nope"], 2, "there is no source 'nope'", "ingestd status"),
        ([*OK, "confirm-deletes", "nope"], 2, "there is no source 'nope'", "ingestd status"),
        ([*OK, "retry", "lost"], 2, "lost is not in the journal", "ingestd failures"),
        ([*OK, "reindex", "--yes"], 2, "nothing has been indexed yet", "ingestd ingest PATH"),
        ([*LOST, "ingest", "docs"], 3, "lost/control.sock cannot be made: No such file or directory", "ls -ld "),
        ([*LOST, "run"], 3, "lost/control.sock cannot be made: No such file or directory", "ls -ld "),
        ([*FILE, "status"], 2, "docs/a.txt is not a directory", "ls -ld "),
        ([*FILE, "failures"], 2, "docs/a.txt is not a directory", "ls -ld "),
        ([*FILE, "ingest", "docs"], 2, "docs/a.txt is not a directory", "ls -ld "),
        ([*FILE, "run"], 2, "docs/a.txt is not a directory", "ls -ld "),
        ([*FILE, "retry", "--all"], 2, "docs/a.txt is not a directory", "ls -ld "),
    ],
)
def test_a_mistake(place: Path, arguments: list[str], code: int, message: str, command: str | None) -> None:
    found, error, hint = said(arguments)
    assert found == code
    assert message in error
    assert (hint is None) == (command is None), hint
    assert command is None or str(hint).startswith(command)


def test_a_source_or_a_loader_that_nobody_knows(place: Path) -> None:
    assert CliRunner().invoke(cli, [*OK, "ingest", "docs"], prog_name="ingestd").exit_code == 0
    for arguments, known in (
        (["search", "--source", "nope", "x"], "docs"),
        (["try", "--loader", "nope", "docs/a.txt"], "text"),
    ):
        done = CliRunner().invoke(cli, [*OK, *arguments], prog_name="ingestd")
        stderr = done.stderr.replace("no daemon is running: loading the model first\n", "")
        code, error, hint = judged(done.exit_code, stderr)
        assert code == 2
        assert "'nope'" in error
        assert known in error
        assert str(hint).startswith("ingestd ")


def test_a_disk_that_is_full_or_read_only(place: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        fill(disk)
        state = ["--config", "good.toml", "--state", str(disk / "state")]
        code, error, hint = said([*state, "ingest", "docs"])
        assert (code, hint) == (3, f"df -h {disk}/state")
        assert error == f"the state directory {disk}/state cannot be used: No space left on device"
    mount("tmpfs", tmp_path / "fixed", flags=MS_RDONLY)
    try:
        state = ["--config", "good.toml", "--state", str(tmp_path / "fixed" / "state")]
        for arguments in (["ingest", "docs"], ["retry", "--all"]):
            code, error, hint = said([*state, *arguments])
            assert code == 2
            assert error.endswith(os.strerror(errno.EROFS))
            assert str(hint).startswith("ls -ld")
    finally:
        detach(tmp_path / "fixed")


needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="cannot be had: root, and setpriv"
)


def stranger(*arguments: str) -> tuple[int, str, str | None]:
    """What is said to another user: without its capabilities root is one like others."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--clear-groups",
         sys.executable, "-m", "ingestd", *arguments],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return judged(done.returncode, done.stderr)


CLOSED = (["status"], ["failures"], ["why", "a.txt"], ["ingest", "docs"], ["retry", "--all"], ["reload"],
          ["search", "x"], ["verify"], ["wait"])  # fmt: skip


@needs_setpriv
def test_another_users_state(place: Path) -> None:
    state = place / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)
    for arguments in CLOSED:
        code, error, _ = stranger("--config", "good.toml", "--state", str(state), *arguments)
        assert code == 3
        assert f"the daemon at {state}/control.sock belongs to another user" in error


@needs_setpriv
def test_another_users_daemon_whose_socket_is_for_a_group(place: Path) -> None:
    """As the service has it: the state is closed, the socket elsewhere. It runs not, and then not for this user."""
    for name in ("state", "run"):
        (place / name).mkdir(mode=0o700)
        os.chown(place / name, 65534, grp.getgrnam("games").gr_gid)
    (place / "run").chmod(0o755)
    own = f'[state]\ncontrol_group = "games"\ncontrol_socket = "{place}/run/control.sock"\n'
    (place / "group.toml").write_text(own + GOOD)
    options = ["--config", "group.toml", "--state", str(place / "state")]
    for arguments in CLOSED:
        code, error, command = stranger(*options, *arguments)
        assert (code, command) == (3, "ingestd run")
        assert error.startswith(f"no daemon is running at {place}/run/control.sock")
        assert "is closed to this user" in error or arguments == ["reload"]
    (place / "run").chmod(0o750)
    for arguments in CLOSED:
        code, error, command = stranger(*options, *arguments)
        assert (code, command) == (3, "sudo usermod -aG games root")
        assert "is for the group games, and root is not in it; once added, log in again" in error


def test_a_service_is_started_by_its_manager(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingestd.unit.STATE", place / "state")
    monkeypatch.setattr("ingestd.unit.PACKAGED", (place / "good.toml",))
    assert said([*OK, "reload"])[2] == "sudo systemctl start ingestd"
    assert "not running: sudo systemctl start ingestd" in CliRunner().invoke(cli, [*OK, "status"]).stdout
