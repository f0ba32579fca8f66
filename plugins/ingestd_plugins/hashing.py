"""The `hashing` engine: lexical vectors from hashed words, for try-outs, tests and machines without a model.

It finds texts that share words (or, in Chinese, Japanese and Korean, pairs of characters) with the question; it knows
nothing of meaning. It needs numpy alone, starts in a tenth of a second and takes microseconds a chunk. The model's
name chooses the dimensions: `hashing` has 64, `hashing-256` has 256.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestd.errors import ModelError
from ingestd.hookspecs import hookimpl
from ingestd.types import Engine, Tokens

VOCABULARY = 1 << 16
MAX_TOKENS = 256
DEFAULT_DIMS = 64
MARK = 0
"""The id of every punctuation mark and symbol: it counts as a token, so that no text is free, but weighs nothing."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]{{1,32}}|[^\w\s]")
"""One ideograph, kana or syllable; up to 32 letters of a word; one mark. Everything but white space is a token."""

_COMMON = (
    "a an and are as at be been but by can do does for from had has have he her his how i if in into is it its my no "
    "not of on or our she so such that the their them then there these they this to was we were what when where which "
    "who why will with would you your 的 了 是 在 和 与 及 有 也 这 那 吗 么 什 之 の は が を に へ と で"
)
_COMMON_WEIGHT = 0.1
_PAIR_WEIGHT = 0.75
_HASHES = 2
"""Buckets per feature: with two a chance collision of two words is half as loud."""


class HashingTokenizer:
    """Words, single CJK characters and marks, hashed into 2**16 ids; no special tokens and no unknown one."""

    max_tokens = MAX_TOKENS
    unknown_id: int | None = None
    vocabulary = VOCABULARY
    digest = "hashing-1"
    passage_prompt = ""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> Tokens:
        flat: list[int] = []
        offsets = [0]
        known = self._ids
        for text in texts:
            for word in _TOKEN.findall(prompt + text)[:MAX_TOKENS]:
                number = known.get(word)
                flat.append(self._id(word) if number is None else number)
            offsets.append(len(flat))
        return Tokens(np.array(flat, dtype=np.int32), np.array(offsets, dtype=np.int64))

    def offsets(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        spans = ([match.span() for match in _TOKEN.finditer(text)] for text in texts)
        return [np.array(found, dtype=np.int64).reshape(-1, 2) for found in spans]

    def overhead(self, prompt: str = "") -> int:
        return len(_TOKEN.findall(prompt))

    def unknown(self, tokens: Tokens) -> int:
        return 0

    def _id(self, word: str) -> int:
        if len(self._ids) >= VOCABULARY:  # random text would grow it without end
            self._ids.clear()
        number = self._ids[word] = token_id(word)
        return number


def token_id(word: str) -> int:
    """`MARK` for punctuation, else 1 to 65535; upper and lower case are the same word."""
    if not (word[0].isalnum() or word[0] == "_"):
        return MARK
    return 1 + zlib.crc32(word.lower().encode("utf-8", "surrogatepass")) % (VOCABULARY - 1)


class HashingEngine:
    """Feature hashing of words and of neighbouring pairs; float32, of length one unless `normalize` is off."""

    name = "hashing"
    version = "1"

    def __init__(self) -> None:
        self._dims = DEFAULT_DIMS
        self._normalize = True
        self._weights: npt.NDArray[np.float64] = np.ones(VOCABULARY)
        self._weights[MARK] = 0.0
        self._weights[[token_id(word) for word in _COMMON.split()]] = _COMMON_WEIGHT

    def tokenizer(self, model: str) -> HashingTokenizer:
        dimensions(model)
        return HashingTokenizer()

    def load(self, model: str, device: str, options: Mapping[str, Any]) -> None:
        self._dims = dimensions(model)
        self._normalize = options.get("normalize") is not False

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        count = len(tokens)
        text = np.repeat(np.arange(count), np.diff(tokens.offsets))
        ids = tokens.ids.astype(np.uint64)
        weights = self._weights[tokens.ids]
        together = (text[1:] == text[:-1]) & (ids[1:] != MARK) & (ids[:-1] != MARK)
        pairs = (ids[:-1] * np.uint64(VOCABULARY) + ids[1:] + np.uint64(VOCABULARY))[together]
        features = np.concatenate((ids, pairs))
        owners = np.concatenate((text, text[1:][together]))
        volume = np.concatenate((weights, _PAIR_WEIGHT * np.minimum(weights[:-1], weights[1:])[together]))
        sums = np.zeros(count * self._dims)
        for turn in range(_HASHES):
            mixed = _mix(features + np.uint64(turn * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF))
            bucket = owners * self._dims + (mixed >> np.uint64(33)).astype(np.int64) % self._dims
            signed = np.where(mixed & np.uint64(1), volume, -volume)
            sums += np.bincount(bucket, weights=signed, minlength=count * self._dims)
        vectors = sums.reshape(count, self._dims).astype(np.float32)
        if self._normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors[lengths[:, 0] == 0.0, 0] = 1.0  # marks alone: any direction, but a finite one
            vectors /= np.where(lengths == 0.0, 1.0, lengths)
        return vectors

    def devices(self) -> list[str]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {
            "dims": self._dims,
            "pooling": "sum",
            "normalize": self._normalize,
            "dtype": "float32",
            "query_prompt": "",
            "passage_prompt": "",
        }


def dimensions(model: str) -> int:
    """64 for `hashing`, N for `hashing-N`. Raises `ModelError` for any other name."""
    match = re.fullmatch(r"hashing(?:-(\d{1,4}))?", model)
    dims = int(match[1] or DEFAULT_DIMS) if match else 0
    if not 8 <= dims <= 4096:
        raise ModelError(
            f"the engine hashing has no model {model!r}: its models are `hashing` ({DEFAULT_DIMS} dimensions) "
            "and `hashing-N` with N from 8 to 4096; set `model` in the table [encode]"
        )
    return dims


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A fixed 64-bit mixing function: numpy's own generators may change from one release to the next."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@hookimpl
def register_engines() -> Iterable[Engine]:
    return [HashingEngine()]
