"""A server 8.19 with the client for it: the same tests, in a process whose client is the older one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.elasticsearch import environments, nodes
from tests.elasticsearch.conftest import EXISTING

pytestmark = [pytest.mark.elasticsearch, pytest.mark.timeout(900)]

CLIENT = ("elasticsearch[async]>=8.19,<9",)
HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "tests",
    [
        "test_contract.py",
        "test_daemon.py::test_the_corpus_is_found_and_is_the_same_as_in_the_embedded_store",
        "test_reindex.py",
    ],
)
def test_the_same_holds_for_a_server_8(tmp_path: Path, tests: str) -> None:
    python = environments.python_with("client-8", CLIENT)
    (packages,) = (python.parents[1] / "lib").glob("python*/site-packages")
    try:
        with nodes.cluster(tmp_path / "nodes", major=8) as (node,):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "elasticsearch"]
            done = subprocess.run(
                [*command, f"--basetemp={tmp_path / 'tests'}", str(HERE / tests)], capture_output=True, text=True,
                check=False, env={**os.environ, EXISTING: node.url, "PYTHONPATH": str(packages)},
            )  # fmt: skip
            assert node.request("GET", "/")["version"]["number"] == nodes.SERVERS[8]
    except nodes.MissingToolError as error:
        pytest.skip(str(error))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_a_client_that_is_too_new_for_its_server_says_which_one_fits(tmp_path: Path) -> None:
    from ingestd.errors import ConfigError
    from ingestd.testing.sink_cases import FINGERPRINT
    from ingestd_plugins.elasticsearch import ElasticsearchSink
    from tests.elasticsearch.places import options

    try:
        with nodes.cluster(tmp_path / "nodes", major=8) as (node,), pytest.raises(ConfigError) as caught:
            ElasticsearchSink().open(tmp_path, FINGERPRINT, options(node.url), readonly=False)
    except nodes.MissingToolError as error:
        pytest.skip(str(error))
    assert "is too new for it" in caught.value.message
    assert caught.value.command == f"pip install '{CLIENT[0]}'"
