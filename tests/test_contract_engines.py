"""The bundled engines under the contract of all engines, see `ingestd.testing`."""

from __future__ import annotations

from ingestd.config import DEFAULT_MODEL
from ingestd.plugins import discover
from ingestd.testing import EngineContract


class TestHashing(EngineContract):
    name = "hashing"
    model = "hashing"


class TestTorch(EngineContract):
    name = "torch"
    model = DEFAULT_MODEL


def test_none_of_the_bundled_ones_is_left_out() -> None:
    assert discover("engines").engines.keys() == {contract.name for contract in EngineContract.__subclasses__()}
