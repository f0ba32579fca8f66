"""Archives that unpack to themselves, after Russ Cox, "Zip Files All The Way Down" (2010).

DEFLATE as a language of two words: L(n) writes the n bytes that follow it, R(n) writes the last n bytes again. A
program in it that prints itself between a given beginning and a given end is an archive that is its own member. What it
says of its own checksum is found by algebra: CRC-32 is affine, so the bits that make it right solve 32 equations.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

HEAD = 115
"""Bytes before the program: as many as let R(HEAD + 5) be five bytes long."""
WORD = 5
"""Bytes of a word."""


def zip_quine(name: str = "quine.zip") -> bytes:
    """A zip whose one member, of that name, is the zip."""
    encoded = name.encode()
    extra = HEAD - 30 - len(encoded)
    padding = struct.pack("<HH", 0x7171, extra - 4) + bytes(extra - 4)
    tail_size = 46 + len(encoded) + 22
    packed = len(program(bytes(HEAD), bytes(tail_size)))
    whole = HEAD + packed + tail_size

    def write(crc: int) -> bytes:
        about = struct.pack("<5H3L", 20, 0, 8, 0, 0x21, crc, packed, whole)
        head = b"PK\3\4" + about + struct.pack("<2H", len(encoded), extra) + encoded + padding
        entry = b"PK\1\2" + struct.pack("<H", 20) + about
        entry += struct.pack("<5H2L", len(encoded), 0, 0, 0, 0, 0, 0) + encoded
        tail = entry + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(entry), HEAD + packed, 0)
        return head + program(head, tail) + tail

    return write(fixed_point(lambda crc: zlib.crc32(write(crc))))


def gzip_quine() -> bytes:
    """A gzip file that unpacks to itself."""
    head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", HEAD - 12) + bytes(HEAD - 12)
    whole = HEAD + len(program(head, bytes(8))) + 8

    def write(crc: int) -> bytes:
        tail = struct.pack("<2L", crc, whole)
        return head + program(head, tail) + tail

    return write(fixed_point(lambda crc: zlib.crc32(write(crc))))


def program(head: bytes, tail: bytes) -> bytes:
    """What prints `head`, itself and `tail`."""
    begin, again, four = literal(len(head) + WORD), repeat_head(head), repeat(4 * WORD)
    one, many = literal(WORD), literal(4 * WORD)
    last = repeat(len(tail) + WORD + 4, final=True)
    last = repeat(len(tail) + len(last), final=True)
    end = literal(len(tail) + len(last))
    return b"".join((
        begin, head, begin, again, one, again, one, one, many, again, one, one, many, four, many, four, many, four,
        many, four, many, four, literal(0), literal(0), end, four, literal(0), literal(0), end, last, tail, last,
    ))  # fmt: skip


def literal(size: int) -> bytes:
    """A stored block's head."""
    return struct.pack("<BHH", 0, size, size ^ 0xFFFF)


def repeat_head(head: bytes) -> bytes:
    """The first letter as it is, then all but one of what was written last: 40 bits."""
    bits = _Bits()
    bits.letter(head[0])
    bits.match(len(head) + WORD - 1, len(head) + WORD)
    return bits.end(WORD)


def repeat(size: int, *, final: bool = False) -> bytes:
    """What was written last, again."""
    bits = _Bits(final)
    for length in (size // 2, size - size // 2):
        bits.match(length, size)
    return bits.end(None if final else WORD)


class _Bits:
    """A block with the fixed codes of RFC 1951, 3.2.6."""

    def __init__(self, final: bool = False) -> None:
        self._text = f"{int(final)}10"
        """In the order in which a decoder sees them."""

    def letter(self, value: int) -> None:
        assert value < 144
        self._text += f"{value + 0x30:08b}"

    def match(self, length: int, distance: int) -> None:
        symbol, extra, rest = 257 + length - 3, 0, 0
        if length > 10:
            extra = (length - 3).bit_length() - 3
            symbol, rest = 257 + 4 * extra + ((length - 3) >> extra), (length - 3) & ((1 << extra) - 1)
        self._text += f"{symbol - 256:07b}" if symbol < 280 else f"{symbol - 280 + 0xC0:08b}"
        self._low(rest, extra)
        extra = max(0, (distance - 1).bit_length() - 2)
        self._text += f"{2 * extra + ((distance - 1) >> extra):05b}"
        self._low((distance - 1) & ((1 << extra) - 1), extra)

    def _low(self, value: int, bits: int) -> None:
        self._text += "".join(str(value >> place & 1) for place in range(bits))

    def end(self, size: int | None) -> bytes:
        text = f"{self._text}{0:07b}"
        assert size is None or len(text) == 8 * size
        return bytes(int(text[place : place + 8][::-1], 2) for place in range(0, len(text), 8))


def fixed_point(checksum: Callable[[int], int]) -> int:
    """The x for which `checksum(x)` is x, where it is affine over single bits."""
    constant = checksum(0)
    columns = [checksum(1 << bit) ^ constant ^ (1 << bit) for bit in range(32)]
    rows = [
        sum((columns[bit] >> row & 1) << bit for bit in range(32)) | (constant >> row & 1) << 32 for row in range(32)
    ]
    for bit in range(32):
        pivot = next(row for row in range(bit, 32) if rows[row] >> bit & 1)
        rows[bit], rows[pivot] = rows[pivot], rows[bit]
        for row in range(32):
            if row != bit and rows[row] >> bit & 1:
                rows[row] ^= rows[bit]
    return sum((rows[bit] >> 32 & 1) << bit for bit in range(32))
