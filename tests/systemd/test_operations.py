"""The commands of docs/operations.md, section by section, in a real systemd; `booted` follows the first block."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd.boxes import ROOT, Box, booted
from tests.test_docs import blocks, section

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
FILE = "/etc/ingestd/config.toml"
HASHING = "[Service]\nEnvironment=INGESTD_ENCODE__ENGINE=hashing INGESTD_ENCODE__MODEL=hashing\n"
REPORT = "/srv/ingestd/report.pdf"


def follow(box: Box, title: str, number: int = 0) -> str:
    """What a block of commands prints, each of which succeeds."""
    script = blocks(section(PAGE, title), "sh")[number]
    return box.sh(f"set -e; cd /opt/checkout\n{script}")


def status(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.sh("ingestd status --json", "ann"))
    return found


def found(box: Box, question: str) -> list[str]:
    return [hit["path"] for hit in json.loads(box.sh(f"ingestd search --json --top 1 {question}", "ann"))]


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """With the configuration of the page, but for the model."""
    with booted() as machine:
        (toml,) = blocks(section(PAGE, "Install"), "toml")
        machine.write(FILE, toml)
        machine.write("/etc/systemd/system/ingestd.service.d/test.conf", HASHING)
        machine.sh("systemctl daemon-reload")
        assert "Active: active (running)" in follow(machine, "Install", 1)
        yield machine


def test_configure_and_reload(box: Box) -> None:
    box.write("/srv/more/otters.md", "Otters hold hands while they sleep.")
    watch = '\n[[watch]]\nname = "more"\ndirectory = "/srv/more"\nsettle = "200ms"\n'
    box.write(FILE, (box.root / FILE.lstrip("/")).read_text() + watch)
    follow(box, "Configure and reload")
    assert [source["name"] for source in status(box)["sources"]] == ["documents", "more"]


def test_read_logs(box: Box) -> None:
    box.sh(f"printf '%%PDF-1.7\\nbroken' > {REPORT}", "ann")
    box.until(f"ingestd why --json {REPORT} | grep -q quarantined", "ann")
    text = follow(box, "Read logs")
    assert "READY" in text or "Started" in text
    assert "report.pdf" in text
    told = follow(box, "Read logs", 1)
    assert told.count("report.pdf") >= 2, "among the failures, and of its own"


def test_back_up_and_restore(box: Box) -> None:
    """What came, changed and went after the copy is as the folders have it, and nothing is encoded twice."""
    box.sh('for n in 1 2 3; do echo "Note $n speaks of herons." > /srv/ingestd/$n.md; done', "ann")
    box.until("ingestd why /srv/ingestd/3.md", "ann")
    box.sh("ingestd wait --timeout 60", "ann")
    follow(box, "Back up and restore")
    assert found(box, "herons")
    box.sh("rm /srv/ingestd/1.md; echo 'Marmots whistle.' > /srv/ingestd/2.md; echo 'Wombats dig.' > /srv/ingestd/4.md",
           "ann")  # fmt: skip
    box.until("ingestd why /srv/ingestd/4.md", "ann")
    box.sh("ingestd wait --timeout 60", "ann")
    follow(box, "Back up and restore", 1)
    assert found(box, "herons") == ["/srv/ingestd/3.md"]
    assert found(box, "marmots") == ["/srv/ingestd/2.md"]
    assert found(box, "wombats") == ["/srv/ingestd/4.md"]
    told = json.loads(box.sh("ingestd verify --deep --json", "ann"))
    assert not told["missing"] + told["extra"] + told["stale"], told
    assert json.loads(box.sh("ingestd why --json /srv/ingestd/3.md", "ann"))["attempts"] == 1


def test_limits_of_inotify(box: Box) -> None:
    follow(box, "Limits of inotify")
    assert not status(box)["warnings"]


def test_folders_below_home(box: Box) -> None:
    box.sh("mkdir -p /home/ann/Documents && chmod 700 /home/ann && chown -R ann: /home/ann")
    box.write("/home/ann/Documents/fox.md", "A fox crossed the yard.")
    watch = '\n[[watch]]\nname = "home"\ndirectory = "/home/ann/Documents"\nsettle = "200ms"\n'
    box.write(FILE, (box.root / FILE.lstrip("/")).read_text() + watch)
    follow(box, "Folders below /home")
    box.sh("echo 'A badger, too.' > /home/ann/Documents/badger.md", "ann")
    box.until("ingestd why --json /home/ann/Documents/badger.md | grep -q indexed", "ann")
    assert found(box, "fox") == ["/home/ann/Documents/fox.md"]


def test_gpus(box: Box) -> None:
    """There is none; the unit starts with what it may open all the same."""
    assert "cpu" in follow(box, "GPUs")
    assert box.show("DevicePolicy") == "closed"


def test_uninstall(box: Box) -> None:
    follow(box, "Stop and uninstall")
    left = box.sh("find /etc /usr/lib/sysusers.d /usr/lib/tmpfiles.d /var/lib /var/cache /run -name '*ingestd*'")
    assert left == "/etc/sysctl.d/90-ingestd.conf\n"
    assert "ingestd" not in box.sh("cat /etc/passwd")
    assert (box.root / "srv/ingestd/3.md").exists()
