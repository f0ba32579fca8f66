"""The merge of folder and journal on real trees: every outcome against a plain comparison of two sets."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from ingestd import journal
from ingestd.messages.load import Stat, journaled
from ingestd.watch import scan
from ingestd.watch.rules import Rules
from ingestd.watch.scan import JournalReader, Scan, identity
from ingestd.watch.tree import Tree

HERE = 5
"""The volume."""
NAMES = ("a", "a-b", "a.txt", "b", "b0", "c", "z.tmp", "é", "\udcff")


class Outcome:
    """What one scan said."""

    def __init__(self, root: bytes, rules: Rules, reader: JournalReader, *, same_rules: bool, states: bool) -> None:
        self.found: dict[bytes, Stat] = {}
        self.missing: dict[bytes, int] = {}
        self.known: dict[bytes, Stat] = {}
        self.failed: list[bytes] = []
        self.volumes: set[int] = set()
        self.scan = Scan(
            "docs", Tree(root), rules, reader,
            entered=lambda *_: HERE,
            identify=lambda _, found: identity(found, HERE),
            found=self.found.__setitem__,
            missing=self.missing.__setitem__,
            failed=lambda path, _: self.failed.append(path),
            known=self.known.__setitem__ if states else None,
            same_volume=lambda _, volume: self.volumes.add(volume),
            same_rules=same_rules,
        )  # fmt: skip
        self.turns = sum(1 for _ in self.scan.run())


def grow(pick: random.Random, root: Path, depth: int = 0) -> None:
    root.mkdir(exist_ok=True)
    for name in pick.sample(NAMES, pick.randrange(len(NAMES))):
        if pick.random() < 0.3 and depth < 3:
            grow(pick, root / name, depth + 1)
        else:
            (root / name).write_bytes(b"x" * pick.randrange(3))


def put(db: sqlite3.Connection, path: bytes, stat: Stat, state: str, gone: int = 0) -> None:
    db.execute(
        "INSERT INTO documents(source, path, device, inode, size, mtime_ns, ctime_ns, state, gone)"
        " VALUES ('docs', ?, ?, ?, ?, ?, ?, ?, ?)",
        (path, stat.device, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns, state, gone),
    )


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_difference_is_found_and_nothing_else(
    seed: int, states: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PAGE", 3)
    monkeypatch.setattr(scan, "STRIDE", 2)
    monkeypatch.setattr(scan, "STEP", 2)
    pick = random.Random(seed)
    root = tmp_path / "docs"
    grow(pick, root)
    files = {
        os.fsencode(path.relative_to(root)): identity(path.lstat(), HERE)
        for path in root.rglob("*")
        if not path.is_dir()
    }
    rules = Rules([], ["*.tmp"], recursive=True)
    found: dict[bytes, Stat] = {}
    missing: dict[bytes, int] = {}
    known: dict[bytes, Stat] = {}
    done: Counter[str] = Counter()
    volumes = set()
    with contextlib.closing(journal.connect(tmp_path / "journal.sqlite")) as db:
        for path, stat in files.items():
            admitted = b".tmp/" not in path + b"/"
            state = pick.choice(("indexed", "queued", "skipped"))
            match pick.choice(("same", "same", "same", "same", "changed", "new", "gone", "other volume")):
                case "same":
                    put(db, path, stat, state)
                    if not admitted:
                        missing[path] = stat.device
                    elif states and state == "queued":
                        known[path] = stat
                    else:
                        done[state] += 1
                case "other volume":
                    put(db, path, Stat(77, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns), "indexed")
                    if admitted:
                        done["indexed"] += 1
                        volumes.add(77)
                    else:
                        missing[path] = 77
                case "changed":
                    put(db, path, Stat(stat.device, stat.inode, stat.size, stat.mtime_ns - 1, stat.ctime_ns), state)
                    if admitted:
                        found[path] = stat
                    else:
                        missing[path] = stat.device
                case "new" if admitted:
                    found[path] = stat
                case "gone":
                    put(db, path, stat, "queued", gone=1)
                    if admitted:
                        found[path] = stat
        for path in (b"a/gone", b"a-b/c", b"b", b"q/w/e", b"zz"):
            if path not in files and not (root / os.fsdecode(path)).exists():
                put(db, path, Stat(1, 2, 3, 4, 5), "indexed")
                missing[path] = 1
    outcome = Outcome(
        os.fsencode(root), rules, JournalReader(tmp_path / "journal.sqlite"), same_rules=False, states=states
    )
    assert outcome.found == found
    assert outcome.missing == missing
    assert outcome.known == known
    assert outcome.volumes - {HERE} == volumes
    assert outcome.scan.unchanged == sum(done.values()) + len(known)
    assert outcome.scan.different == len(found)
    assert outcome.scan.done == (done if states else Counter())
    assert not outcome.failed


def test_a_place_that_cannot_be_listed_hides_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "docs"
    for name in ("a/1", "b/1", "b/2", "c/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    with contextlib.closing(journal.connect(tmp_path / "journal.sqlite")) as db:
        for path in (b"a/1", b"b/1", b"b/2", b"b/c/3", b"c/1", b"c/2"):
            stat = (
                identity((root / os.fsdecode(path)).lstat(), HERE)
                if (root / os.fsdecode(path)).exists()
                else Stat(1, 2, 3, 4, 5)
            )
            put(db, path, stat, "indexed")

    opened = Tree.open

    def refuse(tree: Tree, prefix: bytes, *, first: bool = False) -> int:
        if prefix == b"b/":
            raise PermissionError(13, "Permission denied")  # root may list everything
        return opened(tree, prefix, first=first)

    monkeypatch.setattr(Tree, "open", refuse)
    rules = Rules([], [], recursive=True)
    outcome = Outcome(
        os.fsencode(root), rules, JournalReader(tmp_path / "journal.sqlite"), same_rules=True, states=False
    )
    assert (outcome.failed, outcome.missing, outcome.found) == ([b"b/"], {b"c/2": 1}, {})
    assert outcome.scan.unchanged == 2


def test_numbers_that_no_journal_can_keep_are_no_difference(tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    for name, nanoseconds in (("2300", 10_413_792_000 * 10**9), ("now", 10**18), ("1800", -5 * 10**18)):
        (root / name).touch()
        os.utime(root / name, ns=(nanoseconds, nanoseconds))
    if (root / "2300").lstat().st_mtime_ns < 1 << 63:
        pytest.skip("cannot be had: a file system with times after 2262")
    reader = JournalReader(tmp_path / "journal.sqlite")
    root_path, rules = os.fsencode(root), Rules([], [], recursive=True)
    first = Outcome(root_path, rules, reader, same_rules=True, states=False)
    assert len(first.found) == 3
    frame = msgspec.msgpack.encode(list(first.found.values()))
    with contextlib.closing(journal.connect(tmp_path / "journal.sqlite")) as db:
        for path, stat in zip(first.found, msgspec.msgpack.decode(frame, type=list[Stat]), strict=True):
            put(db, path, stat, "indexed")
    again = Outcome(root_path, rules, reader, same_rules=True, states=False)
    assert (again.found, again.missing, again.scan.unchanged) == ({}, {}, 3)
    assert journaled((1 << 64) - 1) == -1
    assert journaled(1 << 80) == 0


def test_a_large_directory_and_a_large_loss_leave_others_a_turn(tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    for number in range(3 * scan.STRIDE):
        os.mknod(root / f"x{number:05}")
    with contextlib.closing(journal.connect(tmp_path / "journal.sqlite")) as db:
        db.execute("BEGIN")
        for path in [b"w%05d" % number for number in range(3 * scan.STRIDE)]:
            put(db, path, Stat(1, 2, 3, 4, 5), "indexed")
        db.execute("COMMIT")
    rules = Rules([], [], recursive=True)
    outcome = Outcome(
        os.fsencode(root), rules, JournalReader(tmp_path / "journal.sqlite"), same_rules=True, states=False
    )
    assert len(outcome.missing) == len(outcome.found) == 3 * scan.STRIDE
    assert outcome.turns >= 6


def test_rules_find_in_one_search_what_each_pattern_would() -> None:
    lines = ["*.tmp", "!keep.tmp", "/build/", "secret/*", "[(]?P<x>", "\\#*#", "~$*"]
    rules = Rules([], lines, recursive=True)
    refused = [b"a.tmp", b"x/y.tmp", b"secret/a", b"(?P<x>", b"#a#", b"x/~$b", b"a.tmp/x"]
    admitted = [b"keep.tmp", b"x/keep.tmp", b"builds", b"a", b"xsecret/a", b"#a", b"\xff"]
    assert [path for path in refused if rules.name(path)] == []
    assert [path for path in admitted if not rules.name(path)] == []
