"""What others read the alias with, the real packages: LangChain and LlamaIndex, in an environment of their own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import corpus
from tests.elasticsearch.places import configured, eventually, options
from tests.processes.daemons import running

pytestmark = [pytest.mark.elasticsearch, pytest.mark.timeout(600)]

PACKAGES = ("langchain-elasticsearch>=1.0,<2", "llama-index-vector-stores-elasticsearch>=0.7,<1")
"""Both want a client below 9, and so cannot be beside ours."""


def python_with_readers() -> Path:
    """Of an environment that is made once, outside the checkout."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ingestd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.blake2b(repr((PACKAGES, sys.version_info[:2])).encode(), digest_size=6).hexdigest()
    place = cache / f"readers-{name}"
    python = place / "bin" / "python"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            if uv := shutil.which("uv"):
                subprocess.run([uv, "venv", "-q", "--python", sys.executable, place], check=True)
                subprocess.run([uv, "pip", "install", "-q", "--python", python, *PACKAGES], check=True)
            else:
                subprocess.run([sys.executable, "-m", "venv", place], check=True)
                subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
            (place / "complete").touch()
    return python


def test_langchain_and_llama_index_find_the_same_with_metadata(url: str, tmp_path: Path) -> None:
    python = python_with_readers()
    folder = tmp_path / "docs"
    entries = corpus.build(folder)[:12]
    table = options(url)
    state = tmp_path / "state"
    config = configured(state, folder, table)
    with running(config, state) as daemon:
        eventually(lambda: daemon.wait()["ready"], "it does not start")
        for path, question, _ in entries[::4]:
            packed = daemon.call("encode", texts=[question], query=True)["vectors"]
            asked = {
                "url": url, "alias": table["name"], "question": question,
                "vector": np.frombuffer(packed, np.float32).tolist(),
            }  # fmt: skip
            done = subprocess.run(
                [python, Path(__file__).parent / "readers.py"], input=json.dumps(asked), capture_output=True,
                text=True, timeout=300, check=False, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["langchain"]["text"] == found["llama_index"]["text"], path
            for reader in found.values():
                metadata = reader["metadata"]
                hits = daemon.call("search", text=question, top=20, source=None, path=metadata["path"])["hits"]
                (own,) = [hit for hit in hits if hit["text"] == reader["text"]]
                assert metadata["doc_id"] == own["doc_id"]
                assert (metadata["source"], metadata["ordinal"]) == ("docs", own["ordinal"])
                assert Path(metadata["path"]).exists()
