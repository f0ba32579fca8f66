"""`install-service` in a real systemd, by the wheel in a virtual environment: for the system, and for a user."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.systemd.boxes import Box, bare, install

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]
VENV = "/opt/venv"
PROGRAM = f"{VENV}/bin/ingestd"
TRACES = ("/etc/systemd/system/ingestd.service", "/etc/systemd/system/ingestd.service.d", "/etc/ingestd",
          "/etc/systemd/system/multi-user.target.wants/ingestd.service", "/etc/sysusers.d/ingestd.conf",
          "/etc/tmpfiles.d/ingestd.conf", "/var/lib/ingestd", "/var/cache/ingestd", "/run/ingestd")  # fmt: skip


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with bare() as found:
        install(found, VENV)
        yield found


def refused(box: Box, *arguments: str, program: str = PROGRAM, user: str | None = None) -> str:
    """What is said to a mistake; its exit code is that of wrong usage, and it names a next command."""
    done = box.run(program, "install-service", *arguments, user=user)
    assert done.returncode in (2, 3), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "try: " in done.stderr, done.stderr
    return done.stderr


def test_what_stands_in_the_way_is_told(box: Box) -> None:
    assert f"try: sudo {PROGRAM} install-service" in refused(box, "--yes", user="ann")
    assert "does not work without the variables of this shell" in refused(box, "--yes", program="/usr/bin/ingestd")
    told = refused(box, "--yes", program=install(box, "/home/ann/venv"))
    assert "below /home, which the service does not see (ProtectHome)" in told
    assert "/opt/ingestd/bin/pip install" in told
    assert "no systemd of the user bob runs" in refused(box, "--user", "--yes", "/tmp", user="bob")
    box.write("/etc/ingestd/config.toml", "[load]\nworkres = 2\n")
    assert "/etc/ingestd/config.toml:2: [load] workres: unknown key" in refused(box, "--yes")
    box.sh("rm -r /etc/ingestd /home/ann/venv")
    assert "there is no such file" in refused(box, "--config", "/etc/ingestd/other.toml", "--yes")
    for path in TRACES:
        assert not (box.root / path.lstrip("/")).exists(), path


def test_a_service_of_the_system(box: Box) -> None:
    """With the configuration that it writes: that is the real model, by torch, inside the hardened unit."""
    shown = box.sh(f"{PROGRAM} install-service --dry-run")
    assert not (box.root / "etc/systemd/system/ingestd.service").exists()
    done = box.run(PROGRAM, "install-service", "--yes", "--start", SUDO_USER="ann")
    assert done.returncode == 0, done.stderr + box.log()
    for line in ("write /etc/systemd/system/ingestd.service", "run systemctl daemon-reload", "    ProtectSystem=strict",
                 f"    ExecStart={PROGRAM} --config /etc/ingestd/config.toml run"):  # fmt: skip
        assert f"{line}\n" in shown
        assert f"{line}\n" in done.stdout
    assert "next: usermod -aG ingestd ann" in done.stderr
    assert box.show("ActiveState") == "active"
    box.sh("systemd-analyze verify /etc/systemd/system/ingestd.service && usermod -aG ingestd ann")
    assert json.loads(box.sh(f"{PROGRAM} status --json", "ann"))["ready"], "start returned before it was"
    box.sh("echo 'Otters eat fish, and hold hands while they sleep.' > /srv/ingestd/otters.md", "ann")
    box.sh("echo 'The notice period of this contract is three months.' > /srv/ingestd/contract.md", "ann")
    box.sh(f"sleep 1; {PROGRAM} wait --timeout 60", "ann")
    found = json.loads(box.sh(f"{PROGRAM} search --json --top 1 aquatic mammals", "ann"))
    assert found[0]["path"] == "/srv/ingestd/otters.md", "found by meaning"

    again = box.run(PROGRAM, "install-service", "--yes", "--start")
    assert (again.returncode, again.stdout) == (0, "nothing is to be done\n"), again.stderr
    pid = box.show("MainPID")
    box.sh("echo '# mine' >> /etc/systemd/system/ingestd.service")
    kept = box.run(PROGRAM, "install-service", "--yes")
    assert kept.returncode == 2
    assert "OVERWRITE, though it was changed, /etc/systemd/system/ingestd.service\n" in kept.stdout
    assert "    -# mine\n" in kept.stdout
    assert "# mine" in box.sh("cat /etc/systemd/system/ingestd.service")
    assert box.run(PROGRAM, "uninstall-service", "--yes").returncode == 2
    box.sh(f"{PROGRAM} install-service --yes --force")
    assert "# mine" not in box.sh("cat /etc/systemd/system/ingestd.service")
    assert box.show("MainPID") == pid, "nobody asked for a restart"

    told = box.run(PROGRAM, "uninstall-service", "--yes")
    assert told.returncode == 0, told.stderr
    assert "left, and removed by --purge: /var/lib/ingestd" in told.stdout
    assert (box.root / "var/lib/ingestd/journal.sqlite").exists()
    assert box.run("systemctl", "cat", "ingestd").returncode != 0
    box.sh(f"{PROGRAM} install-service --yes")
    assert json.loads(box.sh(f"{PROGRAM} status --json"))["files"]["indexed"] == 2, "as it was before"
    box.sh(f"{PROGRAM} uninstall-service --yes --purge")
    for path in TRACES:
        assert not (box.root / path.lstrip("/")).exists(), path
    assert "ingestd" not in box.sh("cat /etc/passwd /etc/group")
    assert (box.root / "srv/ingestd/otters.md").exists(), "what was watched is nobody's to remove"
    assert box.sh(f"{PROGRAM} uninstall-service --purge --yes") == "nothing is to be done\n"


def test_a_service_of_a_user(box: Box) -> None:
    """In the user's own systemd, which lives without a login."""
    box.sh("loginctl enable-linger ann && mkdir -p /home/ann/Documents && chown ann /home/ann/Documents")
    uid = box.sh("id -u ann").strip()
    box.until(f"test -S /run/user/{uid}/systemd/private")

    def ann(command: str) -> str:
        done = box.run("sh", "-c", f"cd && {command}", user="ann", XDG_RUNTIME_DIR=f"/run/user/{uid}")
        logs = box.run("journalctl", "--no-pager", "-n", "60", "-o", "cat").stdout
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{logs}"
        return done.stdout

    assert "no folder to begin one with" in refused(box, "--user", "--yes", user="ann")
    ann(f"{PROGRAM} install-service --user --yes Documents")
    config = "home/ann/.config/ingestd/config.toml"
    (box.root / config).write_text(
        (box.root / config).read_text() + '[encode]\nengine = "hashing"\nmodel = "hashing"\n'
    )
    # A shell that came by su or cron has no XDG_RUNTIME_DIR; then the command finds it.
    shown = box.run("sh", "-c", f"cd && {PROGRAM} install-service --user --yes --start", user="ann")
    assert shown.returncode == 0, shown.stderr + box.run("journalctl", "--no-pager", "-n", "60", "-o", "cat").stdout
    assert json.loads(ann(f"{PROGRAM} status --json"))["ready"], "start returned before it was"
    ann("echo 'The heron stands still.' > Documents/heron.md")
    ann(f"sleep 3; {PROGRAM} wait --timeout 60")
    assert "heron.md" in ann(f"{PROGRAM} search heron")
    ann("systemctl --user reload ingestd && systemctl --user status ingestd | grep '1 indexed'")
    sandbox = json.loads(ann(f"{PROGRAM} status --json"))["sandbox"]
    assert sandbox["seccomp"], sandbox
    assert sandbox["landlock"], sandbox
    pid = ann("systemctl --user show --value -p MainPID ingestd").strip()
    assert "Seccomp:\t2" in box.sh(f"cat /proc/{pid}/status"), "the unit's own filter is in force"
    ann("systemctl --user stop ingestd")
    assert not box.run("pgrep", "-u", "ann", "-f", "ingestd").stdout
    ann(f"{PROGRAM} uninstall-service --user --yes --purge")
    left = box.sh("find /home/ann -name '*ingestd*'; find /run/user -name '*ingestd*'")
    assert left == "", left
    assert (box.root / "home/ann/Documents/heron.md").exists()
