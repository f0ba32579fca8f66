"""A node for each test run (one for each process of it), and what a test needs to have an index of its own on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.elasticsearch import nodes

EXISTING = "INGESTD_TEST_ELASTICSEARCH_URL"
"""An existing cluster to be used instead of starting a node; its indexes that begin with `t-` come and go."""


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a node that nobody kills."""
    if existing := os.environ.get(EXISTING):
        yield existing
        return
    try:
        with nodes.cluster(tmp_path_factory.mktemp("node")) as (node,):
            yield node.url
    except nodes.MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[nodes.Node]:
    """One to be killed and started again."""
    try:
        with nodes.cluster(tmp_path / "nodes") as (started,):
            yield started
    except nodes.MissingToolError as error:
        pytest.skip(str(error))
