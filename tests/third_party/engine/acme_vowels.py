"""An engine whose tokens are characters and whose vectors count them. `[encode] model = "faulty-HOW"` has a fault."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.errors import ModelError
from ingestd.hookspecs import hookimpl
from ingestd.types import Tokens

DIMS = 32
MOST = 400


class CharacterTokenizer:
    max_tokens = MOST
    unknown_id: int | None = None
    digest = "characters-1"
    passage_prompt = ""

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> Tokens:
        codes = [[ord(character) % 1000 for character in (prompt + text)[:MOST]] for text in texts]
        offsets = np.cumsum([0, *map(len, codes)], dtype=np.int64)
        return Tokens(np.array([code for text in codes for code in text], dtype=np.int32), offsets)

    def offsets(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        return [np.array([(n, n + 1) for n in range(len(text))], np.int64).reshape(-1, 2) for text in texts]

    def overhead(self, prompt: str = "") -> int:
        return len(prompt)

    def unknown(self, tokens: Tokens) -> int:
        return 0


class VowelEngine:
    name = "vowels"

    def tokenizer(self, model: str) -> CharacterTokenizer:
        return CharacterTokenizer()

    def load(self, model: str, device: str, options: Mapping[str, Any]) -> None:
        self.fault = model.removeprefix("faulty-") if model.startswith("faulty-") else ""
        match self.fault:
            case "refuses":
                raise ModelError("the vowels are sold out", command="acme buy vowels")
            case "raises":
                raise RuntimeError("a vowel is stuck")
            case "exits":
                os._exit(9)

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(tokens), DIMS), np.float32)
        owner = np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets))
        np.add.at(vectors, (owner, tokens.ids % DIMS), 1)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        match self.fault:
            case "shape":
                return vectors[:, :-1] if len(tokens) > 1 else vectors
            case "nan":
                vectors[:] = np.nan
            case "float64":
                return vectors.astype(np.float64)  # type: ignore[return-value]
            case "sleeps":
                time.sleep(1000)
        return vectors

    def devices(self) -> list[str]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {"dims": DIMS, "pooling": "sum", "normalize": True, "dtype": "float32", "query_prompt": "",
                "passage_prompt": ""}  # fmt: skip


@hookimpl
def register_engines() -> list[VowelEngine]:
    return [VowelEngine()]
