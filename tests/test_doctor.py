"""The doctor finds what is wrong, and says what to type."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from ingestd import devices, doctor, journal
from ingestd.cli import cli
from ingestd.config import Config, EncodeTable, IndexTable, LoadTable, StateTable, WatchTable
from ingestd.doctor import Finding, examine
from ingestd.sandbox import landlock
from tests.processes.fuse_folder import missing, mounted

NO_FUSE = missing()
needs_fuse = pytest.mark.skipif(NO_FUSE is not None, reason=NO_FUSE or "")


def config(path: Path, *sources: Path, **tables: object) -> Config:
    chosen = {"encode": EncodeTable(engine="hashing", model="hashing"), **tables}
    watch = tuple(WatchTable(name=source.name, directory=str(source)) for source in sources)
    return Config(state=StateTable(directory=str(path / "state")), watch=watch, **chosen)  # type: ignore[arg-type]


def findings(config: Config) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in examine(config):
        found.setdefault(finding.check, []).append(finding)
    return found


def test_a_healthy_machine(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    found = findings(config(tmp_path, tmp_path / "docs"))
    assert [finding.state for finding in found["source docs"]] == ["ok"]
    assert [finding.state for finding in found["inotify"]] == ["ok", "ok"]
    assert "nothing is indexed yet" in found["index"][0].text
    assert found["daemon"][0][1:] == ("warning", "not running", "ingestd run")
    assert not [finding for checks in found.values() for finding in checks if finding.state == "wrong"]


def test_sources_that_cannot_be_watched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no directory")
    found = findings(config(tmp_path, tmp_path / "lost", tmp_path / "empty", tmp_path / "file"))
    assert found["source lost"][0].state == found["source file"][0].state == "wrong"
    assert "No such file or directory" in found["source lost"][0].text
    assert found["source empty"][0].state == "warning"
    assert "findmnt" in str(found["source empty"][0].command)


def test_limits_that_are_too_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **options: "2" if "inotify" in str(path) else read(path, **options)
    )
    docs = tmp_path / "docs"
    for number in range(5):
        (docs / str(number)).mkdir(parents=True)
    watches, instances = findings(config(tmp_path, docs))["inotify"]
    assert (watches.state, watches.command) == ("wrong", "sysctl -w fs.inotify.max_user_watches=12")
    assert "is 2, 6 are needed" in watches.text
    assert instances.state == "ok"


def test_a_model_that_is_not_there_and_a_kernel_without_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    encode = EncodeTable(model="/nowhere/at-all")
    found = findings(config(tmp_path, encode=encode, load=LoadTable(sandbox="required")))
    assert found["model"][0].state == "wrong"
    assert "/nowhere/at-all" in found["model"][0].text
    assert found["sandbox"][0].state == "wrong"
    assert "Landlock" in found["sandbox"][0].text
    assert findings(config(tmp_path))["sandbox"][0].state == "warning"


@pytest.mark.parametrize(
    ("visible", "chosen", "state", "text"),
    [
        (2, "auto", "ok", "2 of 2 used"),
        (0, "auto", "warning", "all hidden"),
        (2, ("cpu",), "warning", "[encode] devices"),
    ],
)
def test_accelerators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: int, chosen: str, state: str, text: str
) -> None:
    monkeypatch.setattr(devices, "seen", lambda: 2)
    monkeypatch.setattr(devices, "visible", lambda: visible)
    encode = EncodeTable(engine="hashing", model="hashing", devices=chosen)
    (found,) = findings(config(tmp_path, encode=encode))["gpu"]
    assert found.state == state
    assert text in found.text


def test_a_damaged_journal_and_failures(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    chosen.state_directory.mkdir()
    path = chosen.state_directory / "journal.sqlite"
    journal.connect(path).close()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO documents(source, path, state) VALUES ('a', x'61', 'quarantined')")
    db.commit()
    db.close()
    assert [finding.text for finding in findings(chosen)["failures"]] == ["1 file failed or quarantined"]
    path.write_bytes(b"no database at all" * 1000)
    (damaged,) = findings(chosen)["index"]
    assert damaged.state == "wrong"
    assert "cannot open the journal" in damaged.text


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "examine", lambda config: [Finding("disk", "wrong", "it is full", "df -h")])
    done = CliRunner().invoke(cli, ["doctor", "--state", str(tmp_path / "state")])
    assert (done.exit_code, done.stdout) == (1, "wrong   disk: it is full\n        try: df -h\n")
    done = CliRunner().invoke(cli, ["doctor", "--json", "--state", str(tmp_path / "state")])
    assert json.loads(done.stdout) == [{"check": "disk", "state": "wrong", "text": "it is full", "command": "df -h"}]


def test_every_finding_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(devices, "seen", lambda: 2)
    monkeypatch.setattr(devices, "visible", lambda: 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        table = IndexTable(sink="far", sinks={"far": {"url": [f"http://127.0.0.1:{port}", "https://127.0.0.1:1/x"]}})
        chosen = config(tmp_path, tmp_path / "lost", index=table,
                        encode=EncodeTable(model="/nowhere", devices=("cpu",)))  # fmt: skip
        found = findings(chosen)
    assert [finding.state for finding in found["sink"]] == ["ok", "wrong"]
    assert found["sink"][1].text == "[index.far] url: https://127.0.0.1:1 cannot be reached: Connection refused"
    for name in ("source lost", "sandbox", "gpu", "model", "daemon", "sink"):
        assert any(finding.state != "ok" for finding in found[name]), name
    for checks in found.values():
        for finding in checks:
            assert finding.state == "ok" or finding.command, finding


@needs_fuse
def test_a_hung_mount_hangs_no_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DEADLINE", 1.0)
    (tmp_path / "well").mkdir()
    (tmp_path / "well" / "a.txt").write_text("a")
    with mounted(tmp_path / "fuse") as folder:
        (folder.real / "below").mkdir()
        (folder.real / "below" / "a.txt").write_text("a")
        chosen = config(tmp_path, folder.point, tmp_path / "well")
        folder.fail(errno.EACCES, "/below")
        refused = findings(chosen)["source point"]
        assert [finding.state for finding in refused] == ["ok", "warning"]
        assert f"{folder.point}/below: Permission denied" in refused[1].text
        folder.heal()
        folder.hang()
        found = findings(chosen)
        folder.heal()
    (hung,) = found["source point"]
    assert hung.state == "wrong"
    assert f"no answer within 1 s: {folder.point} hangs" in hung.text
    assert hung.command == f"timeout 5 ls -ld {folder.point}"
    assert found["source well"][0].state == "ok"
    assert found["inotify"][0].state == "ok"
    assert "daemon" in found
