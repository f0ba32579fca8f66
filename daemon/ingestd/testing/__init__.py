"""A conformance kit for plugins: an author subclasses a contract in a test module, and pytest holds the plugin to it.

    from ingestd.testing import LoaderContract

    class TestCalendar(LoaderContract):
        loader = "calendar"
        samples = "samples"

The bundled plugins are held to the same. It needs pytest, and the plugin installed where its entry point is found.
"""

from __future__ import annotations

import pytest

for _module in ("loaders", "sinks", "sink_searches", "engines"):
    pytest.register_assert_rewrite(f"ingestd.testing.{_module}")

from ingestd.testing.engines import EngineContract  # noqa: E402
from ingestd.testing.loaders import LoaderContract  # noqa: E402
from ingestd.testing.sinks import SinkContract  # noqa: E402

__all__ = ["EngineContract", "LoaderContract", "SinkContract"]
