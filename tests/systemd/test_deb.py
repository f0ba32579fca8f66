"""The Debian packages: built, and installed, upgraded, removed and purged in a real, booted systemd without network.

The runtime of the tests is without PyTorch, and the service embeds by hashing. INGESTD_TEST_RUNTIME=FILE names a whole
one that is built already; then the service runs as it is delivered.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import scans
from tests.systemd.boxes import HERE, ROOT, Box, boot

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(1200)]

WHOLE = os.environ.get("INGESTD_TEST_RUNTIME")
HEAVY = ("torch", "triton", "nvidia-*", "cuda-*", "transformers", "sentence-transformers", "scipy", "scikit-learn",
         "sympy", "networkx", "pymupdf?*", "gt-*")  # fmt: skip
HASHING = "[Service]\nEnvironment=INGESTD_ENCODE__ENGINE=hashing INGESTD_ENCODE__MODEL=hashing\n"
FILE = "/etc/ingestd/config.toml"
OLD, NEW, NEXT = "0.0.1-1", "0.0.2-1", "0.0.3-1"
INSTALL = "DEBIAN_FRONTEND=noninteractive dpkg -i"
APART = ("/proc", "/sys", "/run", "/dev", "/tmp", "/debs", "/var/log", "/var/lib/systemd/timers")
LISTING = f"find / {' '.join(f'-path {place} -prune -o' for place in APART)} -print"


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages: ingestd in two versions, and the runtime."""
    release = Path("/etc/os-release").read_text()
    if "bookworm" not in release:
        pytest.skip("cannot be had: packages are built on the distribution they are for, and the box is a Debian 12")
    place = tmp_path_factory.mktemp("debs")

    def build(*arguments: str) -> None:
        command = ["/usr/bin/python3", str(ROOT / "packaging" / "deb.py"), "--output", str(place), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    if WHOLE:
        os.link(WHOLE, place / Path(WHOLE).name)
    else:
        build("runtime", *(f"--without={name}" for name in HEAVY))
    build("ingestd", "--version", OLD)
    build("ingestd", "--version", NEW)
    if not WHOLE:
        (runtime,) = place.glob("ingestd-runtime_*.deb")
        (program,) = place.glob(f"ingestd_{NEW}_*.deb")
        version = runtime.name.split("_")[1]
        packed_anew(runtime, {f"Version: {version}": f"Version: {version}.1"})
        packed_anew(program, {f"Version: {NEW}": f"Version: {NEXT}", f"(= {version})": f"(= {version}.1)"})
    return place


def packed_anew(deb: Path, changes: dict[str, str]) -> None:
    """The package of a later day: the same files, and another control file."""
    tree = deb.with_suffix(".tree")
    subprocess.run(["dpkg-deb", "-R", str(deb), str(tree)], check=True)
    control = (tree / "DEBIAN" / "control").read_text()
    for old, new in changes.items():
        assert control.count(old) == 1
        control = control.replace(old, new)
    (tree / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "-b", str(tree), str(deb.parent)], check=True,
                   capture_output=True)  # fmt: skip
    shutil.rmtree(tree)


@pytest.fixture(scope="module")
def box(debs: Path) -> Iterator[Box]:
    with boot({debs: "/debs"}, {"INGESTD_BOX_ON_DISK": "1"} if WHOLE else None) as found:
        found.sh("useradd -m ann && useradd -m bob")
        found.write("/tmp/before", found.sh(LISTING))
        if not WHOLE:
            found.write("/etc/systemd/system/ingestd.service.d/test.conf", HASHING)
        yield found


def install(box: Box, *patterns: str) -> str:
    # dpkg waits for the disk after every file: a whole runtime takes minutes.
    command = f"{INSTALL} {' '.join(f'/debs/{pattern}' for pattern in patterns)} 2>&1"
    done = box.run("sh", "-c", command, timeout=1000)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{box.log()}"
    return done.stdout


def drop(box: Box, name: str, text: str) -> str:
    path = f"/srv/ingestd/{name}"
    box.sh(f"printf %s '{text}' > {path}", "ann")
    box.until(f'ingestd why --json {path} | grep -q \'"state": *"indexed"\'', "ann")
    return path


def hits(box: Box, question: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(box.sh(f"ingestd search --json --top 3 '{question}'", "ann"))
    return found


def test_installed_it_is_enabled_and_started_and_finds_what_is_dropped(box: Box) -> None:
    install(box, "ingestd-runtime_*[0-9]+py3.[0-9][0-9]_*.deb", f"ingestd_{OLD}_*.deb")
    assert box.sh("systemctl is-enabled ingestd").strip() == "enabled"
    assert box.show("ActiveState") == "active"
    assert box.sh("stat -c '%a %U %G' /srv/ingestd").strip() == "2775 root ingestd"
    assert box.sh("dpkg --verify ingestd ingestd-runtime") == ""
    box.sh("usermod -aG ingestd ann")
    drop(box, "kettle.md", "A broken kettle can be returned within two years.")
    drop(box, "otters.md", "Otters hold hands while they sleep on a river.")
    assert hits(box, "How long do I have to return a broken kettle?")[0]["path"].endswith("kettle.md")
    box.until("systemctl status ingestd | grep -q 'Status: .*2 indexed, 0 failed'")
    assert box.run("ingestd", "status", user="bob").returncode == 3


def test_a_scan_is_read_on_a_server_without_a_display(box: Box) -> None:
    (box.root / "srv/ingestd/scan.png").write_bytes(scans.saved(scans.drawn(scans.ENGLISH)))
    box.until("ingestd why --json /srv/ingestd/scan.png | grep -q indexed", "ann")
    assert scans.ENGLISH[0] in hits(box, "kettle examined Tuesday engineers")[0]["text"]
    box.sh("rm /srv/ingestd/scan.png && ingestd wait --timeout 60")


def test_a_start_returns_when_it_is_ready(box: Box) -> None:
    box.sh("systemctl stop ingestd")
    box.sh("systemctl start ingestd")
    assert json.loads(box.sh("ingestd status --json", "ann"))["ready"]
    assert hits(box, "otters")[0]["path"].endswith("otters.md")


def test_an_upgrade_keeps_configuration_journal_and_index(box: Box) -> None:
    box.sh(f'sed -i \'s/^name = "documents"/name = "documents"\\nsettle = "300ms"/\' {FILE}')
    config = box.sh(f"cat {FILE}")
    before = box.show("MainPID"), hits(box, "otters")
    told = json.loads(box.sh("ingestd why --json /srv/ingestd/otters.md", "ann"))
    install(box, f"ingestd_{NEW}_*.deb")
    assert box.sh("dpkg-query -W -f '${Version}' ingestd") == NEW
    assert box.sh(f"cat {FILE}") == config
    assert box.show("ActiveState") == "active"
    assert box.show("MainPID") != before[0]
    assert hits(box, "otters") == before[1]
    assert json.loads(box.sh("ingestd why --json /srv/ingestd/otters.md", "ann")) == told, "it is not done again"
    assert box.show("NRestarts") == "0"
    drop(box, "herons.md", "Herons stand still for hours.")


@pytest.mark.skipif(bool(WHOLE), reason="cannot be had: a whole runtime is built already")
def test_a_new_runtime_comes_with_a_new_program(box: Box) -> None:
    """Either alone is refused, and harms nothing; both together keep journal and index."""
    before = hits(box, "otters"), box.show("MainPID")
    told = json.loads(box.sh("ingestd why --json /srv/ingestd/otters.md", "ann"))
    alone = box.run("sh", "-c", f"{INSTALL} /debs/ingestd_{NEXT}_*.deb 2>&1")
    assert alone.returncode != 0
    assert "ingestd depends on ingestd-runtime (= " in alone.stdout
    install(box, "ingestd-runtime_*.1_*.deb", f"ingestd_{NEXT}_*.deb")
    assert box.sh("dpkg-query -W -f '${Version}' ingestd") == NEXT
    assert box.show("ActiveState") == "active"
    assert (hits(box, "otters"), box.show("MainPID")) != before
    assert hits(box, "otters") == before[0]
    assert json.loads(box.sh("ingestd why --json /srv/ingestd/otters.md", "ann")) == told
    install(
        box, "ingestd-runtime_*[0-9]+py3.[0-9][0-9]_*.deb", f"ingestd_{NEW}_*.deb"
    )  # and back, since they were equal
    assert hits(box, "otters") == before[0]


def test_what_an_administrator_switched_off_stays_off(box: Box) -> None:
    box.sh("systemctl disable --now ingestd")
    install(box, f"ingestd_{NEW}_*.deb")
    assert box.run("systemctl", "is-enabled", "ingestd").stdout.strip() == "disabled"
    assert box.show("ActiveState") == "inactive"
    box.sh("systemctl enable --now ingestd")


def test_plugins_are_added_beside_the_runtime(box: Box) -> None:
    for source in (HERE / "probing").rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            box.write(f"/usr/local/lib/ingestd/{source.relative_to(HERE / 'probing')}", source.read_text())
    box.sh("systemctl restart ingestd")
    assert "probing" in box.sh("ingestd plugins", "ann")
    drop(box, "plain.probe", "attempts nothing")
    box.sh("rm -r /usr/local/lib/ingestd /srv/ingestd/plain.probe")


def test_a_wrong_configuration_breaks_the_service_and_not_the_installation(box: Box) -> None:
    config = box.sh(f"cat {FILE}")
    box.sh("dpkg -r ingestd 2>&1")
    assert box.run("systemctl", "is-active", "ingestd").returncode != 0
    assert box.run("pgrep", "-u", "ingestd").stdout == "", "nothing of it is left running"
    assert box.sh(f"cat {FILE}") == config, "a removed package's configuration stays"
    assert "journal" in box.sh("ls /var/lib/ingestd")
    box.write(FILE, config.replace("settle", "setle"))
    told = install(box, f"ingestd_{NEW}_*.deb")
    assert f"{FILE}:" in told
    assert "setle: unknown key" in told
    assert box.sh("dpkg-query -W -f '${Status}' ingestd") == "install ok installed"
    assert (box.show("ActiveState"), box.show("NRestarts")) == ("failed", "0")
    box.write(FILE, config)
    box.sh("systemctl start ingestd")
    assert hits(box, "herons")[0]["path"].endswith("herons.md"), "the state was kept"


def test_a_purge_leaves_nothing_but_the_files_of_users(box: Box) -> None:
    box.sh("dpkg --purge ingestd ingestd-runtime 2>&1")
    after = set(box.sh(LISTING).splitlines())
    left = after - set((box.root / "tmp/before").read_text().splitlines())
    documents = {f"/srv/ingestd/{name}.md" for name in ("kettle", "otters", "herons")}
    drop_in = {"/etc/systemd/system/ingestd.service.d", "/etc/systemd/system/ingestd.service.d/test.conf"}
    assert left - drop_in == {"/srv/ingestd", *documents}
    assert box.run("systemctl", "cat", "ingestd").returncode != 0


def test_a_first_installation_finds_a_broken_configuration(box: Box) -> None:
    """It keeps it, says file, line and key, and is not started again and again."""
    box.write(FILE, "[load]\nworkres = 2\n")
    runtime = "/debs/ingestd-runtime_*[0-9]+py3.[0-9][0-9]_*.deb"
    done = box.run("sh", "-c", f"{INSTALL} --force-confold {runtime} /debs/ingestd_{NEW}_*.deb 2>&1", timeout=1000)
    assert done.returncode == 0, done.stdout
    assert "ingestd is installed, but the service does not start:" in done.stdout
    assert f"{FILE}:2: [load] workres: unknown key" in done.stdout
    time.sleep(3)  # longer than RestartSec
    assert (box.show("ActiveState"), box.show("NRestarts")) == ("failed", "0")
    assert (box.root / FILE.lstrip("/")).read_text() == "[load]\nworkres = 2\n"
