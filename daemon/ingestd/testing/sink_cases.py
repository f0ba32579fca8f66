"""What sinks are tried with: made-up documents, and a process to be killed in mid-write."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ingestd import plugins
from ingestd.errors import UsageError
from ingestd.types import (
    Chunk,
    Document,
    Fingerprint,
    Hit,
    Operation,
    Query,
    Rekey,
    Remove,
    Replace,
    Sink,
    chunk_id,
    document_id,
    text_hash,
)

DIMS = 16
FINGERPRINT = Fingerprint(
    model="tiny", dims=DIMS, pooling="mean", normalize=True, tokenizer="t0", max_tokens=64, overlap=8
)


PLACE = "{place}"
"""Stands in an option for a short name of the directory, for stores that have their data elsewhere."""


@dataclass(frozen=True)
class Case:
    """A sink under the contract."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    atomic: bool = True
    """A search sees each document in one version only, also while it is replaced."""

    def open(self, directory: Path, fingerprint: Fingerprint = FINGERPRINT, *, readonly: bool = False) -> Sink:
        """A sink object of its own, as another process would have it."""
        registry = plugins.discover("sinks")
        if self.name not in registry.sinks:
            told = "".join(f"; {error.plugin}: {error.reason}" for error in registry.errors)
            raise UsageError(f"there is no sink {self.name!r}; installed: {', '.join(registry.sinks)}{told}")
        sink = registry.sinks[self.name]
        place = hashlib.blake2b(os.fsencode(directory), digest_size=6).hexdigest()
        options = {k: v.replace(PLACE, place) if isinstance(v, str) else v for k, v in self.options.items()}
        sink.open(directory, fingerprint, options, readonly=readonly)
        return sink


def vector(text: str) -> bytes:
    """A direction that depends on the text alone; equal texts have equal vectors."""
    seed = int.from_bytes(text_hash(text, 0)[:8], "little")
    return np.random.default_rng(seed).standard_normal(DIMS, dtype=np.float32).tobytes()


def document(path: str | bytes, *, source: str = "notes", **fields: Any) -> Document:
    raw = path.encode() if isinstance(path, str) else path
    return Document(
        doc_id=document_id(source, raw), source=source, path=b"/srv/" + source.encode() + b"/" + raw, **fields
    )


def chunks(texts: Sequence[str], known: Sequence[str] = (), **fields: Any) -> list[Chunk]:
    """A chunk for each text; those in `known` are said to have their vector in the index already."""
    made: list[Chunk] = []
    seen: dict[str, int] = {}
    for ordinal, text in enumerate(texts):
        occurrence = seen.get(text, 0)
        seen[text] = occurrence + 1
        made.append(Chunk(text_hash(text, occurrence), text, ordinal, 7, text not in known, **fields))
    return made


def replace(
    path: str | bytes, texts: Sequence[str], *, known: Sequence[str] = (), source: str = "notes", **fields: Any
) -> Replace:
    made = chunks(texts, known)
    vectors = b"".join(vector(chunk.text) for chunk in made if chunk.fresh)
    return Replace(document(path, source=source, **fields), made, vectors)


def ids(operation: Replace) -> set[str]:
    """The chunk ids that the document has once the operation is done."""
    return {chunk_id(operation.document.doc_id, chunk.hash) for chunk in operation.chunks}


def ask(sink: Sink, text: str = "", *, near: str | None = None, **fields: Any) -> list[Hit]:
    """Search by words, or by the vector of the text `near`, or by both."""
    return sink.search(Query(text=text, vector=vector(near) if near is not None else bytes(4 * DIMS), **fields))


def contents(sink: Sink) -> dict[str, Any]:
    """All that an index says of itself, so that two can be compared."""
    questions = [("part", None), ("version", "common 3"), ("", "doc 4 version 2 part 1"), ("合同 编号", "common 1")]
    return {
        "documents": [(d.doc_id, d.source, d.path, d.digest, d.chunks) for d in sink.documents()],
        "chunks": sorted(sink.chunk_ids()),
        "count": sink.count(),
        "answers": [ask(sink, text, near=near, top=30) for text, near in questions],
    }


def versions(number: int) -> Iterator[Replace]:
    """The successive versions of one made-up document; the later ones keep some passages of the one before."""
    for version in range(4):
        rng = random.Random(number * 100 + version)
        common = [f"common {number} 合同编号 {n}" for n in range(3)]
        own = [f"doc {number} version {version} part {n} " + "filler " * 40 for n in range(rng.randint(1, 12))]
        texts = [*own, *common]
        rng.shuffle(texts)
        yield replace(f"{number}.txt", texts, known=common if version else (), digest=bytes([number, version]))


def script(seed: int) -> list[list[Operation]]:
    """Batches of writes of every kind, always the same for a seed."""
    rng = random.Random(seed)
    waiting = [list(versions(number)) for number in range(16)]
    batches: list[list[Operation]] = []
    while any(waiting):
        batch: list[Operation] = []
        for _ in range(rng.randint(1, 3)):
            number = rng.choice([n for n, left in enumerate(waiting) if left] or [0])
            if waiting[number]:
                batch.append(waiting[number].pop(0))
        batches.append(batch)
    batches.append([Rekey(document(f"{n}.txt").doc_id, document(f"copy of {n}.txt")) for n in range(5)])
    batches.append([Remove(document(f"{n}.txt").doc_id) for n in range(3)])
    return batches


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def carry_out(case: Case, directory: Path, seed: int, start: int) -> None:
    """Write the batches of a script from `start` on, and say how many are durable."""
    sink = case.open(directory)
    for number, batch in enumerate(script(seed)[start:], start + 1):
        sink.write(batch)
        say(number)
    sink.close()


def main(name: str, options: str, directory: str, seed: str) -> None:
    """For each number on standard input, carry out the script from there on in a process that can be killed.

    The processes are forked from this one, which has opened nothing, since an import of numpy costs more than the test.
    """
    case = Case(name, json.loads(options))
    plugins.discover("sinks")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            say(os.getpid())
            carry_out(case, Path(directory), int(seed), int(line))
            os._exit(0)
        say(f"exit {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
