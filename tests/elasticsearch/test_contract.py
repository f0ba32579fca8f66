"""The sink for Elasticsearch under the contract of all sinks, against a real node."""

from __future__ import annotations

import pytest

from ingestd.testing import SinkContract
from ingestd.testing.sink_cases import PLACE, Case

pytestmark = pytest.mark.elasticsearch


class TestElasticsearch(SinkContract):
    name = "elasticsearch"
    atomic = False

    @pytest.fixture
    def case(self, url: str) -> Case:
        # What is written is seen when `write` returns, as in the embedded store.
        options = {"hosts": url, "name": f"t-{PLACE}", "daemon": "contract", "refresh": "0s"}
        return Case(self.name, options, self.atomic)
