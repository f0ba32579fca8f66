"""Files that claim too much, hold themselves, or are locked: each ends with a reason and leaves nothing behind."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ingestd.daemon import Daemon
from ingestd.journal.members import IN_ITSELF
from ingestd.trying import Trial, Trials
from tests import monsters
from tests.archives import tarred
from tests.processes.daemons import ingest, left_over, write_config
from tests.processes.inside import events, inside, until
from tests.processes.test_containers import flagged, overlapping, zipped
from tests.processes.test_parts import members

LIMITS = {"memory": "768MiB", "max_strikes": 1}
UNHELD = {"blank.docx", "tags.docx"}
"""Those that are as large as they may be, and do not fit into that memory."""


def mounts(below: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {below}" in line]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def tried(tmp_path: Path, made: Iterable[tuple[str, Callable[[], bytes]]]) -> dict[str, Trial]:
    """How each ends in a load worker, which has after it what it had before."""
    state, place = tmp_path / "state", tmp_path / "docs"
    place.mkdir()

    async def body(daemon: Daemon) -> dict[str, Trial]:
        found = {}
        trials = Trials(daemon, "t")
        try:
            (place / "plain.txt").write_text("Nothing is wrong with this one.")
            plain = os.fsencode(place / "plain.txt")
            for name, make in made:
                await trials.load(plain, fresh=False)
                (worker,) = trials.workers
                before, kept = descriptors(worker.pid), os.listdir(worker.scratch)
                path = place / name
                path.write_bytes(make())
                found[name] = trial = await trials.load(os.fsencode(path), fresh=False)
                path.unlink()
                if worker in trials.workers:
                    await until(
                        lambda: (
                            descriptors(worker.pid) <= before and os.listdir(worker.scratch) == kept  # noqa: B023
                        )
                    )
                else:
                    assert trial.kind or trial.left, name
                    assert not worker.scratch.exists(), name
        finally:
            await trials.close()
        return found

    found = inside(write_config(state, None, load=LIMITS), body)
    assert not left_over(state)
    assert not mounts(tmp_path)
    return found


def test_what_is_too_large_or_too_deep_costs_itself(tmp_path: Path) -> None:
    bad = {}
    for name, trial in tried(tmp_path, monsters.sized()).items():
        allowed = ("", "file", "missing", "memory") if name in UNHELD else ("", "file", "missing")
        reason = trial.reason or ""
        if trial.kind not in allowed or not reason.isprintable() or len(reason) > 300 or trial.left:
            bad[name] = trial.kind, trial.state, reason, trial.detail
        assert trial.memory < 900 << 20, (name, trial.memory)
    assert not bad


def test_what_is_locked_is_named_so(tmp_path: Path) -> None:
    made = [(name, lambda data=data: data) for name, data in monsters.locked()]
    if shutil.which("soffice") is None:
        made = [(name, make) for name, make in made if not name.endswith((".doc", ".ppt"))]
    for name, trial in tried(tmp_path, made).items():
        assert (trial.state, trial.kind, trial.reason) == ("failed", "file", "needs a password"), name


def test_archives_that_hold_themselves_end(tmp_path: Path) -> None:
    """In the daemon, which asks for their parts until there are no more."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, data in monsters.of_themselves():
        (folder / name).write_bytes(data)
    (folder / "overlapping.zip").write_bytes(overlapping())
    (folder / "locked.zip").write_bytes(flagged(zipped({"a.txt": "a", "b.txt": "b"}), "a.txt"))
    nested = b"The innermost."
    for level in range(30):
        nested = tarred({f"{level}.tar": nested}, ".gz")
    (folder / "nested.tar.gz").write_bytes(nested)
    state = tmp_path / "state"
    ingest(write_config(state, None, load=LIMITS), folder)
    found = members(state)
    for name in (
        "quine.zip!/quine.zip",
        "other.zip!/quine.zip",
        "quine.gz!/quine",
        "holds-a-quine.zip!/quine.zip!/quine.zip",
    ):
        assert found[name][::2] == ("quarantined", IN_ITSELF), (name, found[name])
    assert found["holds-a-quine.zip!/a.txt"][0] == "indexed"
    assert found["locked.zip!/a.txt"][::2] == ("quarantined", "needs a password")
    assert not [event for event in events(state) if "strike" in event]
    assert {state for state, *_ in found.values()} <= {"indexed", "partial", "quarantined", "skipped"}
    assert not left_over(state)
    assert not mounts(tmp_path)


def test_a_bomb_of_bzip2_costs_its_member(tmp_path: Path) -> None:
    """A few bytes of it are gigabytes at once: no limit on what is read would come in time."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("bomb.txt", bytes(600 << 20))
        archive.writestr("good.txt", "The heron stands. " * 1000)
    trial = tried(tmp_path, [("bomb.zip", made.getvalue)])["bomb.zip"]
    found = {part.name: part.error or "" for part in trial.parts}
    assert "unpack to more than" in found["bomb.txt"]
    assert (trial.state, found["good.txt"]) == ("loaded", "")
    assert trial.memory < 900 << 20
