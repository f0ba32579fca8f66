"""Every odd name and object in one tree, through the whole daemon."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes.daemons import RunningDaemon, ingestd, running, write_config
from tests.test_paths import deep, put

WORDS = ("aardvark", "bandicoot", "capybara", "dugong", "echidna", "fossa", "gerenuk", "hoatzin", "ibex")


def hits(daemon: RunningDaemon, word: str) -> set[bytes]:
    """Paths of the files in which the word is found."""
    found: list[dict[str, Any]] = json.loads(ingestd(daemon.config, "search", "--json", word).stdout)
    return {
        base64.b64decode(hit["path_b64"]) if "path_b64" in hit else hit["path"].encode()
        for hit in found
        if word in hit["text"]
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="cannot be had: root, for a device")
def test_odd_names_and_objects(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    root = os.fsencode(docs)
    names = [
        b"\xff\xfe.txt",
        b"new\nline.txt",
        b"n" * 251 + b".txt",
        b" ",
        "名前.txt".encode(),
        b"-rf",
        b"a\\*?[b].txt",
    ]
    paths = [put(root, name, word.encode()) for name, word in zip(names, WORDS, strict=False)]
    paths.append(put(deep(docs, 5000, b"\xfe" * 255), b"deep.txt", WORDS[7].encode()))
    future = put(root, b"future.txt", WORDS[8].encode())
    paths.append(future)
    os.utime(future, (time.time() + 1e6,) * 2)
    os.mkfifo(docs / "fifo.txt")
    os.mknod(docs / "device.txt", 0o020666, os.makedev(1, 5))  # endless zeros
    os.mknod(docs / "block.txt", 0o060666, os.makedev(7, 255))
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(docs, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{directory}/socket.txt")
    os.close(directory)
    (docs / "loop").symlink_to(".")
    (docs / "self").symlink_to("self")
    (docs / "outside.txt").symlink_to("/etc/passwd")
    (docs / "hard.txt").hardlink_to(os.fsdecode(future))
    (docs / "empty.txt").touch()
    with (docs / "sparse.txt").open("wb") as sparse:
        sparse.truncate(1 << 20)
    config = write_config(tmp_path / "state", docs)
    with running(config, tmp_path / "state") as daemon:
        status = daemon.wait()
        for path, word in zip(paths, WORDS, strict=True):
            expected = {path, os.fsencode(docs / "hard.txt")} if path == future else {path}
            assert hits(daemon, word) == expected, word
        known = sum(status["files"].values())
        assert known == len(paths) + 3, "neither objects nor links are documents"
        assert not [text for text in status["warnings"] if "docs" in text]

        (docs / "-rf").rename(docs / "-RF")  # the case alone
        (docs / " ").unlink()
        late = put(root, b"late \xff\n.txt", b"jerboa")
        preserved = docs / "preserved.txt"
        shutil.copy2(os.fsdecode(late), preserved)  # a new file with an old time
        os.utime(preserved, (1e9, 1e9))
        deadline = time.monotonic() + 120
        while hits(daemon, "jerboa") != {late, os.fsencode(preserved)} or hits(daemon, "dugong"):
            assert time.monotonic() < deadline, daemon.tail()
        while hits(daemon, "fossa") != {root + b"/-RF"}:
            assert time.monotonic() < deadline, daemon.tail()
    listener.close()


def test_a_file_deeper_than_a_path_of_the_kernel_can_be_named(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    path = os.fsdecode(put(deep(docs, 5000), b"deep.txt", b"a wombat"))
    config = write_config(tmp_path / "state", None)
    done = ingestd(config, "ingest", "--json", path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexed"] == 1
    assert json.loads(ingestd(config, "why", "--json", path).stdout)["state"] == "indexed"
    assert ingestd(config, "ingest", f"{path}-").returncode == 2
