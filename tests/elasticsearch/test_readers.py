"""What others read the alias with, the real packages: LangChain and LlamaIndex, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import corpus
from tests.elasticsearch import environments
from tests.elasticsearch.places import configured, eventually, options
from tests.processes.daemons import running

pytestmark = [pytest.mark.elasticsearch, pytest.mark.timeout(600)]

PACKAGES = ("langchain-elasticsearch>=1.0,<2", "llama-index-vector-stores-elasticsearch>=0.7,<1")
"""Both want a client below 9, and so cannot be beside ours."""


def test_langchain_and_llama_index_find_the_same_with_metadata(url: str, tmp_path: Path) -> None:
    python = environments.python_with("readers", PACKAGES)
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
