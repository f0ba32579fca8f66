"""A mail as Outlook saves it, written from the published formats: compound file (MS-CFB) and item (MS-OXMSG)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

SECTOR = 512
MINI = 64
CUTOFF = 4096
FREE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
STRING, BINARY, TIME, NUMBER = 0x001F, 0x0102, 0x0040, 0x0003

Tree = Mapping[str, "bytes | Tree"]


def item(
    subject: str,
    body: str,
    sender: tuple[str, str],
    recipients: list[tuple[str, str]],
    attachments: Mapping[str, bytes | Tree],
) -> bytes:
    """A message of class IPM.Note, sent on 1 January 2025 at 09:00 UTC; one in it is a `message`."""
    return compound(message(subject, body, sender, recipients, attachments, "<8x4I8x"))


def message(
    subject: str,
    body: str,
    sender: tuple[str, str],
    recipients: list[tuple[str, str]],
    attachments: Mapping[str, bytes | Tree],
    head: str = "<8x4I",
) -> Tree:
    sent = (1735722000 + 11644473600) * 10**7
    tree: dict[str, bytes | Tree] = properties(
        struct.pack(head, len(recipients), len(attachments), len(recipients), len(attachments)),
        {(0x001A, STRING): "IPM.Note", (0x0037, STRING): subject, (0x1000, STRING): body,
         (0x0C1A, STRING): sender[0], (0x0C1F, STRING): sender[1], (0x0039, TIME): sent, (0x340D, NUMBER): 0x40000},
    )  # fmt: skip
    for number, (name, address) in enumerate(recipients):
        tree[f"__recip_version1.0_#{number:08X}"] = properties(
            b"\0" * 8, {(0x3001, STRING): name, (0x3003, STRING): address, (0x0C15, NUMBER): 1}
        )
    for number, (name, data) in enumerate(attachments.items()):
        tree[f"__attach_version1.0_#{number:08X}"] = properties(
            b"\0" * 8, {(0x3707, STRING): name, (0x3701, BINARY): data, (0x3705, NUMBER): 1}
        ) if isinstance(data, bytes) else {
            **properties(b"\0" * 8, {(0x3001, STRING): name, (0x3705, NUMBER): 5}), "__substg1.0_3701000D": data
        }  # fmt: skip
    return tree


def properties(head: bytes, values: Mapping[tuple[int, int], str | bytes | int]) -> dict[str, bytes | Tree]:
    """The streams of an object: its fixed values in one, each longer one in its own."""
    streams: dict[str, bytes | Tree] = {}
    fixed = [head]
    for (number, kind), value in values.items():
        if isinstance(value, int):
            fixed.append(struct.pack("<HHLQ", kind, number, 6, value))
            continue
        data = value.encode("utf-16-le") if isinstance(value, str) else value
        streams[f"__substg1.0_{number:04X}{kind:04X}"] = data
        fixed.append(struct.pack("<HHLQ", kind, number, 6, len(data) + (2 if isinstance(value, str) else 0)))
    streams["__properties_version1.0"] = b"".join(fixed)
    return streams


def compound(tree: Tree) -> bytes:
    """A compound file of version 3."""
    entries: list[list[int | str | bytes]] = []
    big, mini = bytearray(), bytearray()
    chains: list[int] = []
    mini_chains: list[int] = []

    def put(store: bytearray, links: list[int], data: bytes, unit: int) -> int:
        first = len(links)
        count = -(-len(data) // unit)
        links.extend([*range(first + 1, first + count), END] if count else [])
        store.extend(data.ljust(count * unit, b"\0"))
        return first if count else END

    def add(name: str, content: bytes | Tree) -> int:
        number = len(entries)
        entries.append([])
        if isinstance(content, bytes):
            small = len(content) < CUTOFF
            start = put(mini, mini_chains, content, MINI) if small else put(big, chains, content, SECTOR)
            entries[number] = [name, 2, FREE, FREE, start, len(content)]
            return number
        child = FREE
        for key in sorted(content, key=lambda key: (len(key), key.upper()), reverse=True):
            found = add(key, content[key])
            entries[found][2] = child  # each one's right neighbour is the next one
            child = found
        entries[number] = [name, 1, FREE, child, 0, 0]
        return number

    add("Root Entry", tree)
    start = put(big, chains, bytes(mini), SECTOR)
    entries[0] = ["Root Entry", 5, FREE, entries[0][3], start, len(mini)]
    mini_table = put(big, chains, struct.pack(f"<{len(mini_chains)}L", *mini_chains), SECTOR)
    packed = b"".join(_entry(*entry) for entry in entries)  # type: ignore[arg-type]
    directory = put(big, chains, packed.ljust(-(-len(packed) // SECTOR) * SECTOR, b"\0"), SECTOR)
    tables = 1
    while len(chains) + tables > tables * SECTOR // 4:
        tables += 1
    first = len(chains)
    chains += [FAT] * tables
    chains += [FREE] * (tables * SECTOR // 4 - len(chains))
    head = struct.pack(
        "<8s16x5H6x2LL4x5L", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6, 0, tables, directory, CUTOFF,
        mini_table, -(-len(mini_chains) * 4 // SECTOR), END, 0,
    )  # fmt: skip
    placed = [*range(first, first + tables), *[FREE] * (109 - tables)]
    return head + struct.pack("<109L", *placed) + bytes(big) + struct.pack(f"<{len(chains)}L", *chains)


def _entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
    data = name.encode("utf-16-le")
    return struct.pack(
        "<64sHBB3L16xL8x8xLQ", data, len(data) + 2, kind, 1, FREE, right, child, 0, start, size
    )  # fmt: skip
