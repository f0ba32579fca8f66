"""What every store does with vectors and values before it takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from ingestd.types import Replace

_BLOCK = 1024
_HASH_SIZE = 16
VALUE_LIMIT = 100_000_000
"""Bytes; SQLite itself takes ten times as many."""
REFUSALS = (ValueError, TypeError, OverflowError, RecursionError)
"""What the checks below raise for a document that cannot be stored."""


def unit_vectors(operation: Replace, dims: int) -> list[bytes | None]:
    """The vectors of the fresh chunks, each float32 (dims,) of length 1, None where it has no direction."""
    fresh = sum(chunk.fresh for chunk in operation.chunks)
    if len(operation.vectors) != fresh * dims * 4:
        raise ValueError(
            f"{len(operation.vectors)} bytes of vectors for {fresh} chunks of {dims} dimensions ({fresh * dims * 4})"
        )
    matrix = np.frombuffer(operation.vectors, np.float32).reshape(fresh, dims)
    if not np.isfinite(matrix).all():
        raise ValueError("a vector holds a value that is not finite")
    unit: list[bytes | None] = []
    for start in range(0, fresh, _BLOCK):
        # In double precision, since the squares of finite floats need not be finite.
        block = matrix[start : start + _BLOCK].astype(np.float64)
        lengths = np.linalg.norm(block, axis=1)
        scaled = (block / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)
        unit += [row.tobytes() if length > 0 else None for row, length in zip(scaled, lengths, strict=True)]
    return unit


def check_hashes(operation: Replace) -> None:
    """Each of the right size, none twice."""
    for chunk in operation.chunks:
        if len(chunk.hash) != _HASH_SIZE:
            raise ValueError(f"a chunk's hash has {len(chunk.hash)} bytes instead of {_HASH_SIZE}")
    if len({chunk.hash for chunk in operation.chunks}) != len(operation.chunks):
        raise ValueError("two of its chunks have the same hash")


def check_values(row: Iterable[Any]) -> None:
    """What a store would refuse when part of the document is in it already is refused before."""
    for value in row:
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{value} is no 64-bit number")
        if isinstance(value, str):
            value.encode()  # lone surrogates
        if isinstance(value, str | bytes) and len(value) > VALUE_LIMIT:
            raise ValueError(f"a value of {len(value)} bytes is too long")


def check_metadata(value: Any) -> None:
    """What a hit cannot carry (numbers of more than 64 bits, objects) is refused."""
    msgspec.msgpack.encode(value)
