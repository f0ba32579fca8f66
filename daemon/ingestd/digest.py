"""The digest by which a content is known."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from ingestd.worker import step

BLOCK = 1 << 20


def digest_of(stream: BinaryIO) -> bytes:
    """BLAKE2b-128 of the content; the stream is at its start again afterwards."""
    digest = hashlib.blake2b(digest_size=16)
    while block := stream.read(BLOCK):
        digest.update(block)
        step("reading")
    stream.seek(0)
    return digest.digest()
