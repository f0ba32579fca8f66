"""The bundled sinks under the contract of all sinks, see `ingestd.testing`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.testing import SinkContract
from ingestd.testing.sink_cases import Case, ask, replace
from ingestd.types import Sink


class TestSqlite(SinkContract):
    name = "sqlite"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.text(alphabet=st.characters(), max_size=60) | st.text('"*^():+-{}\0 aAND', max_size=30),
    path=st.none() | st.text(alphabet=st.characters(), max_size=20) | st.text("[]!^-*?ab/\0\udcff\ud800", max_size=12),
)
def test_nothing_a_person_types_is_an_error(shared: Sink, question: str, path: str | None) -> None:
    hits = ask(shared, question, near="alpha", path=path)
    assert len(hits) <= 2
    if path is None:
        assert len(hits) == 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    opened = Case("sqlite").open(tmp_path_factory.mktemp("shared"))
    opened.write([replace("a.txt", ["alpha NEAR and OR"]), replace("b/ab.txt", ["beta"])])
    yield opened
    opened.close()
