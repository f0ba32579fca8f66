"""Encoding alone: the torch engine against `SentenceTransformer.encode`, one thread each, the same texts.

    python tests/benchmarks/encoding.py [--texts N] [--rounds N] [--model NAME] [--device cpu|cuda:0]

Both sides take strings and return vectors, each in a process of its own (the engine tunes its process's allocator).
Rounds are interleaved; ratios and shares are medians over the rounds. On a CPU the clock is the process's own CPU
time, which other processes on the machine disturb least. The share of the peak is the model's multiply-adds per second
over those of large matrix products measured in the same round.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch read it

import numpy as np
import torch

from ingestd.config import DEFAULT_MODEL
from ingestd.models import FastTokenizer, Settings, resolve
from ingestd.types import Tokens
from ingestd_plugins.torch import TorchEngine

BUDGETS = (1024, 2048, 4096, 8192)
SYLLABLES = [
    "ka", "lo", "mi", "ren", "tor", "bas", "ven", "qui", "sta", "pel", "dor", "ing", "ter", "ous", "ment", "al", "ate",
]  # fmt: skip
COMMON = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "was", "on", "are", "as", "with", "his", "be"]


def texts(count: int, low: int, high: int, seed: int) -> list[str]:
    """Texts of `low` to `high` words: three in four prose, the others figures or names as tables and code have them.

    The kinds differ in tokens per character, as real documents do.
    """
    pick = random.Random(seed)
    words = ["".join(pick.choices(SYLLABLES, k=pick.randint(1, 3))) for _ in range(4000)]

    def prose() -> str:
        return pick.choice(COMMON if pick.random() < 0.6 else words)

    def figure() -> str:
        return f"{pick.randint(0, 10**6):,}.{pick.randint(0, 99):02}" if pick.random() < 0.6 else prose()

    def name() -> str:
        return f"{pick.choice(words)}_{pick.choice(words)}()" if pick.random() < 0.5 else prose()

    made = []
    for kind in pick.choices([prose, figure, name], [6, 1, 1], k=count):
        length = max(low, round(pick.triangular(low, high) / (1 if kind is prose else 4)))
        made.append(" ".join(kind() for _ in range(length)))
    return made


def batches(tokens: Tokens, budget: int) -> Iterator[tuple[np.ndarray, Tokens]]:
    """Texts by ascending token count, as many to a batch as fit in `budget` tokens."""
    lengths = np.diff(tokens.offsets)
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, int(np.searchsorted(np.cumsum(lengths[order[start:]]), budget, "right")))
        chosen = order[start:stop]
        ids = np.concatenate([tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]] for i in chosen])
        yield chosen, Tokens(ids, np.concatenate([[0], np.cumsum(lengths[chosen])]))
        start = stop


def encode(engine: TorchEngine, tokenizer: FastTokenizer, corpus: list[str], budget: int) -> np.ndarray:
    vectors = np.empty((len(corpus), engine.describe()["dims"]), np.float32)
    for chosen, part in batches(tokenizer.encode(corpus), budget):
        vectors[chosen] = engine.encode(part)
    return vectors


def operations(settings: Settings, lengths: np.ndarray) -> float:
    """Floating-point operations of the matrix products for these texts, in a BERT-shaped encoder."""
    hidden, wide = settings.config["hidden_size"], settings.config["intermediate_size"]
    tokens, pairs = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    layer = 2 * tokens * hidden * (4 * hidden + 2 * wide) + 4 * pairs * hidden
    return float(layer * settings.config["num_hidden_layers"])


def padding(corpus: list[str], lengths: np.ndarray, size: int = 32) -> float:
    """Tokens that batches of `size` texts sorted by characters compute, over the tokens that the texts have."""
    order = np.argsort([-len(text) for text in corpus])
    parts = [lengths[order[i : i + size]] for i in range(0, len(order), size)]
    return float(sum(part.max() * len(part) for part in parts) / lengths.sum())


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """What `work` returns, and its seconds."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return result, clock() - start


def peak(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations per second of large matrix products."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    repeats = 1 if device == "cpu" else 50
    seconds = min(timed(lambda: [left @ right for _ in range(repeats)], device)[1] for _ in range(3))
    return 2 * size**3 * repeats / seconds


class Reference:
    """sentence-transformers with its defaults, in the process that starts it."""

    model: Any

    @classmethod
    def start(cls, directory: str, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)
        cls.model = SentenceTransformer(directory, device=device)

    @classmethod
    def encode(cls, corpus: list[str], device: str) -> tuple[np.ndarray, float]:
        return timed(lambda: cls.model.encode(corpus, batch_size=32, show_progress_bar=False), device)


def compare(name: str, corpus: list[str], arguments: argparse.Namespace) -> None:
    device, engine, tokenizer = arguments.device, arguments.engine, arguments.tokenizer
    lengths = np.diff(tokenizer.encode(corpus).offsets)
    work, tokens = operations(arguments.settings, lengths), lengths.sum()
    computes = engine.describe()["dtype"]

    expected, _ = arguments.reference(corpus)
    got = encode(engine, tokenizer, corpus, arguments.budgets[0])  # both sides warm
    cosine = (expected * got).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
    times: dict[int, list[float]] = {budget: [] for budget in arguments.budgets}
    base, peaks = [], []
    for _ in range(arguments.rounds):
        peaks.append(peak(device, getattr(torch, computes)))
        base.append(arguments.reference(corpus)[1])
        for budget, taken in times.items():
            taken.append(timed(lambda b=budget: encode(engine, tokenizer, corpus, b), device)[1])  # type: ignore[misc]

    print(f"\n{name}: {len(corpus)} texts, {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} on average")
    print(f"  1 - cosine: worst {1 - cosine.min():.1e}, mean {1 - cosine.mean():.1e}")
    print(f"  peak of {computes} matrix products: {statistics.median(peaks) / 1e9:,.0f} GFLOP/s")
    print(
        f"  SentenceTransformer.encode, batch 32: {tokens / statistics.median(base):8,.0f} tokens/s"
        f" (computes {padding(corpus, lengths):.2f}x the tokens)"
    )
    for budget, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(base, taken, strict=True))
        share = statistics.median(work / seconds / p for seconds, p in zip(taken, peaks, strict=True))
        rate = tokens / statistics.median(taken)
        print(f"  torch engine, batch {budget:5,} tokens: {rate:10,.0f} tokens/s = {ratio:.2f}x, {share:.0%} of peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=128, help="of the mixed set; four times as many short ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    directory = resolve(arguments.model)
    arguments.settings = Settings.read(directory)
    arguments.engine = TorchEngine()
    arguments.tokenizer = arguments.engine.tokenizer(arguments.model)
    arguments.engine.load(arguments.model, arguments.device, {"dtype": arguments.dtype})
    print(f"{arguments.model} on {arguments.device}: {dict(arguments.engine.describe())}")
    start = (str(directory), arguments.device)
    with ProcessPoolExecutor(1, get_context("spawn"), Reference.start, start) as pool:
        arguments.reference = lambda corpus: pool.submit(Reference.encode, corpus, arguments.device).result()
        compare("mixed", texts(arguments.texts, 5, 220, seed=1), arguments)
        compare("short", texts(arguments.texts * 4, 2, 16, seed=2), arguments)


if __name__ == "__main__":
    main()
