"""What `install-service` writes and refuses, short of a systemd; tests/systemd has a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ingestd.config import load
from ingestd.errors import UsageError
from ingestd.installation import program
from ingestd.installation.plan import Plan, Remove, Write, carry_out, condition, stamped
from ingestd.installation.service import Place, source

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "packaging" / "systemd"


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_wheel_and_sdist_hold_what_is_installed(tmp_path: Path) -> None:
    """The wheel is built of the sdist, as pip does it."""

    def build(where: Path, target: str) -> Path:
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tmp_path / target)]
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = (tmp_path / target).iterdir()
        return made

    with tarfile.open(build(ROOT, "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wanted = {path.relative_to(UNITS).as_posix(): path.read_bytes() for path in UNITS.rglob("*") if path.is_file()}
    assert "ingestd.service" in wanted
    with zipfile.ZipFile(build(unpacked, "wheel")) as wheel:
        inside = "ingestd/systemd/"
        found = {name.removeprefix(inside): wheel.read(name) for name in wheel.namelist() if name.startswith(inside)}
        wheel.extractall(tmp_path / "site")
    assert found == wanted
    ask = "from ingestd.installation.service import source; print(source('drop-ins/home.conf'))"
    site = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    told = subprocess.run([sys.executable, "-c", ask], env=site, cwd="/", capture_output=True, text=True, check=True)
    assert "ProtectHome=read-only" in told.stdout


def test_a_users_unit_is_the_systems_as_far_as_it_can_be() -> None:
    ours, theirs = directives(source("ingestd.service")), directives(source("ingestd-user.service"))
    other = {key for key, value in theirs.items() if ours.get(key) != value}
    assert other == {"Description", "ExecStart", "ExecReload", "WantedBy"}


def test_the_first_configuration_is_right(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(source("config.toml"))
    config = load(tmp_path / "config.toml", {})
    assert [watch.directory for watch in config.watch] == ["/srv/ingestd"]
    assert config.control_socket == Path("/run/ingestd/control.sock")


def test_what_was_changed_is_known(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ingestd.service"
    assert condition(path) == "absent"
    plan = Plan([Write(path, stamped("[Unit]\n"))])
    assert next(iter(plan.told())) == f"write {path}"
    carry_out(plan)
    assert condition(path) == "written"
    assert not plan.steps[0].needed, "it is there"
    newer = Write(path, stamped("[Unit]\n[Service]\n"))
    assert newer.needed
    assert not Plan([newer]).overridden
    assert next(newer.told()) == f"replace {path}"
    path.write_text(path.read_text() + "# mine\n")
    assert condition(path) == "changed"
    assert Plan([newer]).overridden == [path]
    assert "    -# mine" in newer.told()
    assert Plan([Remove(path)]).overridden == [path]
    own = Write(tmp_path / "config.toml", "new", own=True)
    assert own.needed
    own.path.write_text("old")
    assert not own.needed, "a configuration is written once"


def test_a_word_of_a_unit_is_quoted() -> None:
    assert program.quoted("/opt/ingestd/bin/ingestd") == "/opt/ingestd/bin/ingestd"
    assert program.quoted("/opt/my programs/100%/ingestd") == '"/opt/my programs/100%%/ingestd"'
    assert program.quoted('a"b\\c') == '"a\\"b\\\\c"'
    for bad in ("/opt/$HOME", "/opt/new\nline"):
        with pytest.raises(UsageError):
            program.quoted(bad)


def test_what_the_service_cannot_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"below /tmp, which the service does not see \(PrivateTmp\)"):
        program.seen_by_service(Path("/tmp"), "the program")
    program.seen_by_service(Path("/usr/bin/env"), "the program")
    closed = Path("/run/ingestd-test") if os.geteuid() == 0 else None
    if closed is not None:
        closed.mkdir(mode=0o700, exist_ok=True)
        try:
            with pytest.raises(UsageError, match=r"/run/ingestd-test has mode 0700") as error:
                program.seen_by_service(closed, "the program")
        finally:
            closed.rmdir()
        assert error.value.command == "chmod o+rx /run/ingestd-test"


def test_a_users_places_follow_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(True, {"HOME": "/home/ann"})
    assert place.units == Path("/home/ann/.config/systemd/user")
    assert place.config == Path("/home/ann/.config/ingestd/config.toml")
    moved = Place(True, {"HOME": "/home/ann", "XDG_CONFIG_HOME": "/data/ann"})
    assert moved.units == Path("/data/ann/systemd/user")
    (tmp_path / ".config" / "ingestd").mkdir(parents=True)
    (tmp_path / ".config" / "ingestd" / "config.toml").write_text('[encode]\nmodel = "mine"\n')
    monkeypatch.chdir(tmp_path)
    assert load(None, {"HOME": str(tmp_path)}).encode.model == "mine"


def test_a_plan_is_shown_and_nothing_done(tmp_path: Path) -> None:
    pytest.importorskip(
        "systemd.daemon", reason="cannot be had: without a compiler; see the step of systemd in .ci/run"
    )
    (tmp_path / "my papers").mkdir()
    command = [sys.executable, "-m", "ingestd", "install-service", "--user", "--dry-run", "my papers"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "INGESTD_"))}
    done = subprocess.run(
        command, cwd=tmp_path, env={**variables, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"write {tmp_path}/.config/systemd/user/ingestd.service"
    config = f"{tmp_path}/.config/ingestd/config.toml"
    assert f"write {config}" in lines
    assert f'    directory = "{tmp_path}/my papers"' in lines
    (start,) = (line for line in lines if line.startswith("    ExecStart="))
    assert start.endswith(f" --config {config} run")
    assert lines[-1] == "run systemctl --user daemon-reload"
    assert "next: systemctl --user enable --now ingestd" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my papers"]
