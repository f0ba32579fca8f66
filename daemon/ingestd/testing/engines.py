"""What every engine promises: of its tokeniser, of its vectors, and in encode workers that are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingestd.errors import IngestdError
from ingestd.library import Library
from ingestd.plugins import discover
from ingestd.types import Engine, Tokenizer, Tokens

TEXTS = (
    "A kettle boils water.",
    "The warranty covers two years, from the day of purchase.",
    "员工每年享有十天带薪年假。",
    "Straße, naïve, 東京 💥",
    "x",
    "word " * 40,
)
ODD = ("", " ", "\n\t", "\0", "\u200b", "💥" * 50, "a" * 3000, "\ufffd", "word " * 5000)
"""What comes out of files too."""
HEAVY = ("torch", "transformers", "sentence_transformers", "onnxruntime", "tensorflow", "llama_cpp")
CALLS = 12
"""Of `encode` by the library; an encoder is killed between the first half and the second."""


class EngineContract:
    """An engine under the contract: subclass it as `Test...` in a test module, and set `name` and `model`."""

    name: str
    model: str
    device: str = "cpu"
    options: Mapping[str, Any] = {"dtype": "float32", "normalize": None}
    tolerance: float = 1e-3
    """By which numbers of a vector may differ with the texts that are encoded beside it."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        """With the model loaded."""
        registry = discover("engines")
        if cls.name not in registry.engines:
            told = "".join(f"; {error.plugin}: {error.reason}" for error in registry.errors)
            pytest.fail(f"there is no engine {cls.name!r}; installed: {', '.join(registry.engines)}{told}", False)
        engine = registry.engines[cls.name]
        engine.load(cls.model, cls.device, cls.options)
        return engine

    @pytest.fixture
    def tokenizer(self, engine: Engine) -> Tokenizer:
        """The model's own."""
        return engine.tokenizer(self.model)

    def test_its_import_loads_no_library(self) -> None:
        code = (
            "import sys; from ingestd.plugins import discover; discover('engines'); "
            f"print([name for name in {HEAVY} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_what_it_says_of_itself(self, engine: Engine) -> None:
        described = engine.describe()
        assert described.keys() >= {"dims", "pooling", "normalize", "dtype", "query_prompt", "passage_prompt"}
        assert described["dims"] > 0
        assert all(isinstance(device, str) for device in engine.devices())

    def test_token_ids(self, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.encode(TEXTS)
        check_tokens(tokens, len(TEXTS), tokenizer.max_tokens)
        for number, text in enumerate(TEXTS):
            assert one(tokens, number) == one(tokenizer.encode([text]), 0), "it depends on the texts beside it"
            assert len(one(tokens, number)) == len(tokenizer.offsets([text])[0]) + tokenizer.overhead()
        assert 0 <= tokenizer.unknown(tokens) <= len(tokens.ids)
        assert tokenizer.digest == tokenizer.digest != ""
        check_tokens(tokenizer.encode([]), 0, tokenizer.max_tokens)

    def test_a_prompt_takes_no_more_than_it_says(self, tokenizer: Tokenizer) -> None:
        for prompt in ("query: ", "Represent this sentence: "):
            tokens = tokenizer.encode(TEXTS, prompt=prompt)
            check_tokens(tokens, len(TEXTS), tokenizer.max_tokens)
            for number, places in enumerate(tokenizer.offsets(TEXTS)):
                assert len(one(tokens, number)) <= len(places) + tokenizer.overhead(prompt)

    def test_where_tokens_lie(self, tokenizer: Tokenizer) -> None:
        for text, places in zip(TEXTS + ODD, tokenizer.offsets(TEXTS + ODD), strict=True):
            assert places.shape == (len(places), 2)
            if len(places):
                assert places.min() >= 0
                assert places.max() <= len(text)
                assert (places[:, 0] <= places[:, 1]).all()
                assert (np.diff(places[:, 0]) >= 0).all()

    def test_vectors(self, engine: Engine, tokenizer: Tokenizer) -> None:
        vectors = engine.encode(tokenizer.encode(TEXTS))
        described = engine.describe()
        assert isinstance(vectors, np.ndarray), f"encode returned a {type(vectors).__name__}, not an array"
        assert vectors.dtype == np.float32, f"encode returned {vectors.dtype}, not float32"
        assert vectors.shape == (len(TEXTS), described["dims"]), "one vector of `dims` numbers for each text"
        assert np.isfinite(vectors).all(), "encode returned NaN or infinity"
        if described["normalize"]:
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
        for number, text in enumerate(TEXTS):
            alone = engine.encode(tokenizer.encode([text]))[0]
            assert np.allclose(alone, vectors[number], atol=self.tolerance), "it depends on the texts beside it"
        backwards = engine.encode(tokenizer.encode(TEXTS[::-1]))[::-1]
        assert np.allclose(backwards, vectors, atol=self.tolerance), "the order is not kept"

    def test_odd_texts(self, engine: Engine, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.encode(ODD)
        check_tokens(tokens, len(ODD), tokenizer.max_tokens)
        assert np.isfinite(engine.encode(tokens)).all()

    def test_in_encode_workers_of_which_one_is_killed(self, engine: Engine, tmp_path: Path) -> None:
        tables = {"engine": self.name, "model": self.model, "devices": [self.device] * 2, "dtype": "float32"}
        with told(), Library(state=tmp_path / "state", settings={"encode": tables}) as library:
            expected = library.encode(TEXTS)
            assert expected.shape == (len(TEXTS), engine.describe()["dims"])
            for call in range(CALLS):
                if call == CALLS // 2:
                    os.kill(next(encoders(library)), signal.SIGKILL)
                assert np.allclose(library.encode(TEXTS), expected, atol=self.tolerance)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What ingestd says of the engine, without the inside of ingestd."""
    why = ""
    try:
        yield
    except IngestdError as error:
        why = error.message
    if why:
        pytest.fail(why, pytrace=False)


def encoders(library: Library) -> Iterator[int]:
    """Their process ids."""
    for worker in library.status()["workers"]:
        if worker["stage"] == "encode":
            yield worker["pid"]


def one(tokens: Tokens, number: int) -> list[int]:
    """The ids of one text."""
    return [int(token) for token in tokens.ids[tokens.offsets[number] : tokens.offsets[number + 1]]]


def check_tokens(tokens: Tokens, texts: int, most: int) -> None:
    """The form in which token ids travel."""
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64
    assert len(tokens) == texts
    assert (tokens.offsets[0], tokens.offsets[-1]) == (0, len(tokens.ids))
    lengths = np.diff(tokens.offsets)
    assert (lengths >= 0).all()
    assert (lengths <= most).all()
