"""Files that are not what they should be, made from one that is; the same ones on every run."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from typing import NamedTuple


class Variant(NamedTuple):
    """A file, and in words what is wrong with it."""

    name: str
    data: bytes
    what: str


def cut(name: str, data: bytes, number: int) -> Iterator[Variant]:
    """Cut short at so many places, the last one just before the end."""
    places = {len(data) * part // number for part in range(1, number)} | {len(data) - 1}
    for place in sorted(places - {0, -1}):
        yield Variant(name, data[:place], f"cut after byte {place} of {len(data)}")


def flipped(name: str, data: bytes, number: int) -> Iterator[Variant]:
    """With one byte changed each, at so many places."""
    for seed in range(number if data else 0):
        chosen = random.Random(seed)
        place, change = chosen.randrange(len(data)), chosen.randrange(1, 256)
        changed = data[place] ^ change
        what = f"byte {place} of {len(data)} is 0x{changed:02x}, not 0x{data[place]:02x}"
        yield Variant(name, data[:place] + bytes([changed]) + data[place + 1 :], what)


def flipped_inside(name: str, data: bytes, number: int) -> Iterator[Variant]:
    """Of a zip, and of what is one by another name: as `flipped`, but in a member before it is packed."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    for seed in range(number):
        member = random.Random(seed).choice(sorted(members))
        for variant in list(flipped(name, members[member], seed + 1))[-1:]:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for each, content in members.items():
                    archive.writestr(zipfile.ZipInfo(each), variant.data if each == member else content)
            yield Variant(name, stream.getvalue(), f"in {member}: {variant.what}")


def foreign(suffix: str) -> Iterator[Variant]:
    """What has nothing to do with the suffix."""
    contents = {
        "prose": b"Nothing of the kind: a letter to an aunt.\n\nIt rained on Tuesday.\n",
        "zeros": bytes(5000),
        "noise": random.Random(0).randbytes(5000),
        "one byte": b"\xff",
        "the beginning of a zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(40),
        "the beginning of a PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        "XML": b'<?xml version="1.0"?><a><b>text</b></a>',
        "a line without an end": b"x" * 200_000,
    }
    for what, data in contents.items():
        yield Variant(f"foreign{suffix}", data, f"{what} instead")
