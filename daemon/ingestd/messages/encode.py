"""Frames of the encode workers: token ids in, vectors out, and questions between them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ingestd.messages import Count, Frame, Reason


class Encode(Frame, frozen=True, kw_only=True):
    """Descriptor: the document's token ids (`encode.pack_tokens`). `start:stop` picks some of its texts.

    `ahead`: before the texts of all others that wait.
    """

    job: int
    start: int = 0
    stop: int | None = None
    ahead: bool = False


class Encoded(Frame, frozen=True, kw_only=True):
    """Descriptor: float32 (texts, dims), raw. `seconds`: device time that these texts took."""

    job: int
    texts: Count
    tokens: Count
    seconds: float


class EncodeFailed(Frame, frozen=True, kw_only=True):
    job: int
    reason: Reason


class EncodeQuery(Frame, frozen=True, kw_only=True):
    """Encode a question with the query prompt, before the next batch."""

    job: int
    text: str


class QueryVector(Frame, frozen=True, kw_only=True):
    """`vector`: float32 (dims,), raw; empty where the model does not know the question's language."""

    job: int
    vector: Annotated[bytes, msgspec.Meta(max_length=65536)]


class Tokenize(Frame, frozen=True, kw_only=True):
    """Descriptor: a blob of texts (msgpack list of str). Answered by `Tokenized`, before the next batch."""

    job: int
    query: bool = False
    """With the prompt of questions; else with that of passages."""


class Tokenized(Frame, frozen=True, kw_only=True):
    """Descriptor: the texts' token ids (`encode.pack_tokens`)."""

    job: int
    texts: Count
    tokens: Count


class EncoderLoad(Frame, frozen=True, kw_only=True):
    """Sent once a second by an encode worker: how the last second was spent."""

    tokens: Count
    busy: float
    """Share of the time in which the device computed."""
    idle: dict[str, float] = {}
    """Seconds by cause: "input", "output"."""
