"""The unit in a real, booted systemd: started, watched over, reloaded, stopped, killed, and held in its sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd.boxes import Box, booted

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

CONFIG = """
[state]
directory = "/var/lib/ingestd"
control_group = "ingestd"
control_socket = "/run/ingestd/control.sock"

[encode]
engine = "hashing"
model = "hashing"
devices = ["cpu"]

[load]
workers = 2

[load.probing]
memory = "400MiB"

[[watch]]
name = "documents"
directory = "/srv/ingestd"
settle = "200ms"
"""
SECOND = """
[[watch]]
name = "second"
directory = "/srv/second"
settle = "200ms"
"""
DROP_IN = """
[Service]
WatchdogSec=5s
MemoryMax=700M
SetCredential=key:secret
"""
FILE = "/etc/ingestd/config.toml"


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with booted() as found:
        found.write(FILE, CONFIG)
        found.write("/etc/systemd/system/ingestd.service.d/test.conf", DROP_IN)
        found.write("/srv/ingestd/first.md", "The first document speaks of herons.")
        found.sh("systemctl daemon-reload && systemctl start ingestd")
        yield found


def status(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.until("ingestd status --json", "ann"))
    return found


def drop(box: Box, name: str, text: str) -> str:
    """A file that an ordinary user in the group drops into the folder."""
    path = f"/srv/ingestd/{name}"
    box.sh(f"printf %s '{text}' > {path}.tmp && mv {path}.tmp {path}", "ann")
    return path


def indexed(box: Box, path: str) -> None:
    try:
        box.until(f'ingestd why --json {path} | grep -q \'"state": *"indexed"\'', "ann")
    except AssertionError as error:
        raise AssertionError(box.run("ingestd", "why", path, user="ann").stdout) from error


def why(box: Box, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.until(f"ingestd why --json {path}", "ann"))
    return found


def test_start_returns_when_it_is_ready_and_the_group_may_search(box: Box) -> None:
    assert status(box)["ready"]
    indexed(box, drop(box, "second.md", "The second document speaks of otters."))
    assert "second.md" in box.sh("ingestd search --top 1 otters", "ann")
    box.until("systemctl status ingestd | grep -q 'Status: .*2 indexed, 0 failed'")


def test_who_may_not_use_it_is_told_how_to(box: Box) -> None:
    for command in (["status"], ["search", "herons"], ["why", "/srv/ingestd/first.md"], ["retry", "--all"], ["reload"]):
        refused = box.run("ingestd", *command, user="bob")
        assert refused.returncode == 3, refused.stdout
        assert "is for the group ingestd, and bob is not in it" in refused.stderr
        assert "try: sudo usermod -aG ingestd bob\n" in refused.stderr
    old = ["setpriv", "--reuid=bob", "--regid=bob", "--clear-groups", "ingestd", "status"]  # a session from before
    box.sh("usermod -aG ingestd bob")
    told = box.run(*old).stderr
    box.sh("ingestd status", "bob")
    box.sh("gpasswd -d bob ingestd")
    assert "bob logged in before being in it: log in again\ntry: newgrp ingestd\n" in told


def test_whoever_finds_it_stopped_is_told_how_to_start_it(box: Box) -> None:
    box.sh("systemctl stop ingestd")
    for user in ("ann", "bob"):
        for command in (["status"], ["search", "herons"], ["why", "/srv/ingestd/first.md"], ["retry", "--all"],
                        ["reload"], ["ingest", "/srv/ingestd"], ["verify"], ["wait"], ["failures"]):  # fmt: skip
            stopped = box.run("ingestd", *command, user=user)
            assert stopped.returncode == 3, stopped.stdout + stopped.stderr
            assert stopped.stderr.startswith("error: no daemon is running at /run/ingestd/control.sock")
            assert stopped.stderr.endswith("\ntry: sudo systemctl start ingestd\n")
    assert "try: sudo systemctl start ingestd" in box.run("ingestd", "doctor", user="ann").stdout
    assert "not running: sudo systemctl start ingestd" in box.sh("ingestd status")
    own = box.run("ingestd", "ingest", "/srv/ingestd")
    assert own.returncode == 3
    assert "control socket /run/ingestd/control.sock cannot be made" in own.stderr
    assert own.stderr.endswith("try: sudo systemctl start ingestd\n"), (
        "root leaves nothing there that the service cannot use"
    )
    box.sh("systemctl start ingestd")
    assert "which the daemon alone may open" in box.run("ingestd", "doctor", user="ann").stdout


def test_the_sandbox_holds_inside_the_unit(box: Box) -> None:
    def outcomes(name: str) -> set[str]:
        path = drop(box, name, f"attempts {name}")
        indexed(box, path)
        hits = json.loads(box.sh(f"ingestd search --json --top 5 --path {path} refused allowed", "ann"))
        text = " ".join(hit["text"] for hit in hits).split()
        return {f"{text[at]} {text[at + 2]}" for at in range(len(text) - 2) if text[at + 1] == "was"}

    sandbox = status(box)["sandbox"]
    assert sandbox["seccomp"], sandbox
    assert sandbox["landlock"] > 0, sandbox
    names = ("journal", "credential", "environment", "write", "socket")
    assert outcomes("held.probe") == {f"{name} refused" for name in (*names, "namespace")}
    box.sh(f"sed -i 's/^workers = 2/workers = 2\\nsandbox = \"off\"/' {FILE} && systemctl reload ingestd")
    # The unit itself refuses a namespace to all of the service.
    assert outcomes("free.probe") >= {f"{name} allowed" for name in names}
    box.write(FILE, CONFIG)
    box.sh("systemctl reload ingestd")


def test_the_journal_has_fields_and_nothing_twice(box: Box) -> None:
    path = drop(box, "warns.probe", "warn mind the gap")
    indexed(box, path)
    found = box.until(f"journalctl -u ingestd -o json INGESTD_PATH={path} | grep 'mind the gap'")
    (entry,) = [json.loads(line) for line in found.splitlines()]
    assert "warns.probe" in entry["MESSAGE"]
    assert entry["INGESTD_STAGE"] == "load"
    assert entry["_TRANSPORT"] == "journal"
    assert int(entry["INGESTD_WORKER_PID"]) > 0
    everything = box.sh("journalctl -u ingestd -o cat")
    assert everything.count("mind the gap") == 1


def test_memory_limits_kill_a_loader_and_blame_its_file(box: Box) -> None:
    before = box.show("NRestarts")
    path = drop(box, "hoards.probe", "hoard 500")
    box.until(f"ingestd why --json {path} | grep -q 'memory limit'", "ann")
    box.sh(f"sed -i 's/^memory = .*/memory = \"4GiB\"/' {FILE} && systemctl reload ingestd")
    path = drop(box, "floods.probe", "hoard 900")
    box.until(f"ingestd why --json {path} | grep -q 'out of memory'", "ann")
    box.write(FILE, CONFIG)
    box.sh(f"rm {path} /srv/ingestd/hoards.probe && systemctl reload ingestd")
    assert box.show("NRestarts") == before
    assert box.show("ActiveState") == "active"
    assert why(box, "/srv/ingestd/first.md")["attempts"] == 1, "nobody else is blamed"


def test_a_reload_returns_when_the_source_is_watched_or_refused(box: Box) -> None:
    box.sh("mkdir -p /srv/second && chmod 755 /srv/second")
    box.write("/srv/second/there.md", "It was there before: marmots.")
    box.write(FILE, CONFIG + SECOND)
    box.sh("systemctl reload ingestd")
    assert [source["name"] for source in status(box)["sources"]] == ["documents", "second"]
    indexed(box, "/srv/second/there.md")
    box.write(FILE, CONFIG.replace("workers = 2", "workres = 2"))
    refused = box.run("systemctl", "reload", "ingestd")
    assert refused.returncode != 0
    box.until(f"journalctl -u ingestd -o cat | grep -q '{FILE}:.*workres: unknown key'")
    box.write(FILE, CONFIG + SECOND)
    assert len(status(box)["sources"]) == 2
    assert box.show("ActiveState") == "active"


def test_a_wrong_configuration_fails_at_once_and_is_not_tried_again(box: Box) -> None:
    box.sh("systemctl stop ingestd")
    box.write(FILE, CONFIG.replace("workers = 2", "workres = 2"))
    assert box.run("systemctl", "start", "ingestd").returncode != 0
    told = box.run("systemctl", "status", "ingestd").stdout
    line = CONFIG.splitlines().index("workers = 2") + 1
    assert f"{FILE}:{line}: [load] workres: unknown key" in told
    time.sleep(3)  # longer than RestartSec
    assert (box.show("ActiveState"), box.show("NRestarts")) == ("failed", "0")
    box.write(FILE, CONFIG + SECOND)
    box.sh("systemctl reset-failed ingestd && systemctl start ingestd")


def test_a_supervisor_that_stands_still_is_replaced_and_nothing_is_lost(box: Box) -> None:
    first = box.show("MainPID")
    box.sh(f"kill -STOP {first}")
    path = drop(box, "meanwhile.md", "It came while nobody looked: wombats.")
    box.until(f"test $(systemctl show --value -p MainPID ingestd) -gt 0 && "
              f"test $(systemctl show --value -p MainPID ingestd) != {first}")  # fmt: skip
    box.until("test $(systemctl show --value -p ActiveState ingestd) = active")
    assert "watchdog" in box.sh("journalctl -u ingestd -o cat").lower()
    indexed(box, path)
    assert box.show("NRestarts") == "1"


def test_every_process_of_the_unit_is_killed_in_turn(box: Box) -> None:
    main = box.show("MainPID")
    workers = [worker["pid"] for worker in status(box)["workers"]]
    for pid in workers:
        box.sh(f"kill -KILL {pid} 2>/dev/null || true")
    indexed(box, drop(box, "after-workers.md", "Workers were killed: badgers."))
    assert box.show("MainPID") == main, "workers are the supervisor's business"
    box.sh(f"kill -KILL {main}")
    box.until(f"test $(systemctl show --value -p MainPID ingestd) != {main} && "
              "test $(systemctl show --value -p ActiveState ingestd) = active")  # fmt: skip
    indexed(box, drop(box, "after-main.md", "The supervisor was killed: beavers."))
    assert box.show("NRestarts") == "2"
    for word in ("herons", "otters", "wombats", "badgers", "beavers"):
        hits = json.loads(box.sh(f"ingestd search --top 10 --json {word}", "ann"))
        assert [word in hit["text"] for hit in hits].count(True) == 1, "neither lost nor doubled"
    assert not status(box)["files"]["queued"]


def test_a_model_that_takes_longer_to_load_than_a_start_may_is_waited_for(box: Box) -> None:
    box.sh("systemctl stop ingestd")
    drop_in = "/etc/systemd/system/ingestd.service.d/heavy.conf"
    box.write(drop_in, "[Service]\nTimeoutStartSec=15s\nEnvironment=INGESTD_ENCODE__ENGINE=heavy\n")
    box.sh("systemctl daemon-reload && systemctl start ingestd")
    assert status(box)["ready"]
    assert (box.show("Result"), box.show("NRestarts")) == ("success", "0")
    box.sh(f"rm {drop_in} && systemctl daemon-reload && systemctl restart ingestd")


def test_stop_under_load_is_within_the_limit_and_leaves_nothing(box: Box) -> None:
    paths = [drop(box, f"slow-{number}.probe", f"slow {4 + number}") for number in range(6)]
    box.until("ingestd status --json | grep -q 'slow-'", "ann")
    group = box.show("ControlGroup")
    began = time.monotonic()
    box.sh("systemctl stop ingestd")
    assert time.monotonic() - began < 90
    assert box.show("Result") == "success"
    left = box.run("sh", "-c", f"cat $(find /sys/fs/cgroup -path '*{group}/cgroup.procs')").stdout
    assert not left.strip()
    box.sh("systemctl start ingestd")
    for path in paths:
        indexed(box, path)
