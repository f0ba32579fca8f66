"""A third party's engines that do to their worker what the words of a text tell them to.

They compute what `hashing` computes. `ENGINES_DIRECTORY` is where they note each call, and what they did once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.hookspecs import hookimpl
from ingestd.types import Tokens
from ingestd_plugins.hashing import HashingEngine, token_id

MOST_TOKENS = 60
"""Of a batch for the engine that is short of memory."""


class ObedientEngine(HashingEngine):
    name = "obedient"

    def load(self, model: str, device: str, options: Mapping[str, Any]) -> None:
        super().load("hashing", device, options)
        self.device = device
        self.directory = Path(os.environ["ENGINES_DIRECTORY"])

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        words = set(tokens.ids.tolist())
        dawdles = int(token_id("dawdle") in words)
        with (self.directory / "calls").open("a") as calls:
            calls.write(f"{os.getpid()} {dawdles} {len(tokens)} {len(tokens.ids)}\n")
        if token_id("poisonpill") in words:
            os._exit(5)
        if token_id("hangalways") in words or (token_id("hangonce") in words and self._first("hang")):
            time.sleep(10_000)
        if dawdles:
            time.sleep(0.1)
        return super().encode(tokens)

    def _first(self, what: str) -> bool:
        try:
            (self.directory / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class ShortEngine(ObedientEngine):
    name = "short"

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        vectors = super().encode(tokens)
        if len(tokens.ids) > MOST_TOKENS and len(tokens) > 1:
            raise MemoryError
        return vectors


class BrokenEngine(ObedientEngine):
    name = "broken"

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        raise RuntimeError("the device has fallen off the bus")


@hookimpl
def register_engines() -> list[HashingEngine]:
    return [ObedientEngine(), ShortEngine(), BrokenEngine()]
