"""How fast the embedded store loads, replaces and searches: `python tests/benchmarks/index.py [CHUNKS ...]`.

Chunks of 150 words (about 1 kB) whose frequencies follow Zipf's law, eight to a document, with vectors of 384
dimensions. Searches are hybrid, with a question of three common and three less common words.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ingestd.types import Chunk, Document, Fingerprint, Query, Replace, document_id, text_hash
from ingestd_plugins.sqlite import SqliteSink

DIMS = 384
CHUNKS_PER_DOCUMENT = 8
DOCUMENTS_PER_BATCH = 62
SOURCES = 10
FUNCTION_WORDS = ["the", "of", "and", "a", "to", "in", "is", "was", "for", "that", "on", "with", "as", "it"]
FINGERPRINT = Fingerprint(
    model="made up", dims=DIMS, pooling="mean", normalize=True, tokenizer="", max_tokens=256, overlap=32
)


class Corpus:
    """Documents without end, always the same."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._vectors = np.random.default_rng(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        made = ["".join(self._random.choices(letters, k=self._random.randint(3, 10))) for _ in range(30_000)]
        self.words = FUNCTION_WORDS + made
        weights = [1 / rank for rank in range(1, len(self.words) + 1)]
        self._cumulative = np.cumsum(weights).tolist()

    def document(self, number: int) -> Replace:
        texts = [
            " ".join(self._random.choices(self.words, cum_weights=self._cumulative, k=150))
            for _ in range(CHUNKS_PER_DOCUMENT)
        ]
        chunks = [Chunk(text_hash(text, 0), text, n, 200, True, headings=("One",)) for n, text in enumerate(texts)]
        source, path = f"source {number % SOURCES}", f"/srv/{number % 100}/{number}.txt".encode()
        document = Document(doc_id=document_id(source, path), source=source, path=path, size=8_000, digest=bytes(16))
        return Replace(document, chunks, self.vector(len(chunks)))

    def vector(self, count: int = 1) -> bytes:
        return self._vectors.standard_normal((count, DIMS), dtype=np.float32).tobytes()

    def question(self, source: str | None = None, path: str | None = None) -> Query:
        words = self._random.sample(FUNCTION_WORDS, 3)
        words += [self.words[self._random.randint(*span)] for span in ((100, 500), (500, 3_000), (3_000, 20_000))]
        return Query(text=" ".join(words), vector=self.vector(), source=source, path=path)


def report(name: str, action: Callable[[], object], rounds: int) -> None:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    say(f"  {name:36}p50 {statistics.median(taken):6.1f} ms   p99 {taken[int(len(taken) * 0.99)]:6.1f} ms")


def measure(total: int, directory: Path) -> None:
    corpus = Corpus()
    sink = SqliteSink()
    sink.open(directory, FINGERPRINT, {}, readonly=False)
    documents = total // CHUNKS_PER_DOCUMENT
    loading = 0.0
    for start in range(0, documents, DOCUMENTS_PER_BATCH):
        batch = [corpus.document(n) for n in range(start, min(start + DOCUMENTS_PER_BATCH, documents))]
        began = time.perf_counter()
        sink.write(batch)
        loading += time.perf_counter() - began
    size = sum(file.stat().st_size for file in directory.iterdir()) / 2**20
    say(f"{total} chunks: load {total / loading:.0f} rows/s, {size:.0f} MiB")

    changed = iter([corpus.document(n) for n in range(100)])
    report("replace a document of 8 chunks", lambda: sink.write([next(changed)]), 100)
    report("search", lambda: sink.search(corpus.question()), 100)
    report("search in one source of ten", lambda: sink.search(corpus.question(source="source 3")), 50)
    report("search below one path of a hundred", lambda: sink.search(corpus.question(path="/srv/7/*")), 50)

    stop = threading.Event()
    pending = [[corpus.document(n) for n in range(k, k + DOCUMENTS_PER_BATCH)] for k in range(0, 620, 62)]

    def write() -> None:
        while not stop.is_set():
            for batch in pending:
                sink.write(batch)

    sys.setswitchinterval(0.0005)  # as the index worker does
    writer = threading.Thread(target=write)
    writer.start()
    report("search while a thread writes", lambda: sink.search(corpus.question()), 50)
    stop.set()
    writer.join()
    sink.close()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["10000", "100000"]:
        with tempfile.TemporaryDirectory(prefix="ingestd-benchmark-") as scratch:
            measure(int(argument), Path(scratch))
