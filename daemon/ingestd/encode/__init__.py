"""The encode worker: one device, the model loaded once, batches across documents, questions between batches."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ingestd.channel import Channel, read_blob, write_blob
from ingestd.chunk import Chunker, pack
from ingestd.encode.window import FIRST_BUDGET, Budget, Job, Text, Window
from ingestd.errors import ChannelError, IngestdError
from ingestd.messages import Start, Stop
from ingestd.messages.encode import (
    Encode,
    Encoded,
    EncodeFailed,
    EncodeQuery,
    EncoderLoad,
    QueryVector,
    Tokenize,
    Tokenized,
)
from ingestd.plugins import discover
from ingestd.types import Engine, Fingerprint, Tokenizer, Tokens
from ingestd.worker import describe, ready, step

TOKEN_BLOB_LIMIT = 1 << 30
REPORT_SECONDS = 1.0
FRAMES_PER_TURN = 256
SWEEP = (4096, 8192, 16384, 32768, 65536)
"""Budgets tried at start on an accelerator."""
SWEEP_TOLERANCE = 0.97
"""The smallest budget that gives so much of the best rate: a question waits for a shorter batch."""
UNKNOWN_QUESTION = 0.4
"""Share of unknown tokens above which a question gets no vector."""
_WARM_UP = "The quick brown fox jumps over the lazy dog. " * 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def serve(channel: Channel[Any], start: Start) -> None:
    """Settings: `engine model device reserved dtype normalize batch_tokens query_prompt passage_prompt max_tokens
    overlap`.

    `Ready.info`: `fingerprint dims dtype device batch_tokens`. Returns on `Stop`, once everything in hand is
    answered, and at once when the supervisor is gone. Raises `IngestdError` where the engine cannot be used, and
    later where the device fails a batch that it managed at the start.
    """
    settings = start.settings
    device = settings["device"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if device == "cpu":  # two processes of one thread beat one of two; before the engine's libraries are loaded
        for variable in _THREAD_VARIABLES:
            os.environ.setdefault(variable, "1")
    blocked = settings.get("blocked", ())
    registry = discover("engines", block=blocked, trying=lambda name: step(f"importing plugin {name}"))
    engine = registry.engines.get(settings["engine"])
    if engine is None:
        broken = "".join(f"; plugin {error.plugin!r} failed: {error.reason}" for error in registry.errors)
        raise IngestdError(
            f"[encode] engine: there is no engine {settings['engine']!r}; "
            f"installed: {', '.join(sorted(registry.engines)) or 'none'}{broken}"
        )
    called = registry.called("engine", engine.name)
    step(f"{called} loads the model")
    tokenizer = engine.tokenizer(settings["model"])
    options = {key: settings[key] for key in ("dtype", "normalize", "reserved")}
    engine.load(settings["model"], device, options)
    worker = EncodeWorker(channel, engine, tokenizer, settings, Path(start.scratch), called)
    worker.warm_up()
    description = engine.describe()
    identity = fingerprint(
        tokenizer,
        description,
        model=settings["model"],
        max_tokens=settings["max_tokens"],
        overlap=settings["overlap"],
        passage_prompt=settings["passage_prompt"],
    )
    try:
        ready(
            channel,
            fingerprint=msgspec.to_builtins(identity),
            dims=worker.dims,
            dtype=str(description["dtype"]),
            device=device,
            batch_tokens=worker.budget.tokens,
        )
        worker.run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def fingerprint(
    tokenizer: Tokenizer,
    description: Mapping[str, Any],
    *,
    model: str,
    max_tokens: int,
    overlap: int,
    passage_prompt: str | None,
) -> Fingerprint:
    """The fingerprint of an index made with these settings, in their effective values.

    `description`: `Engine.describe()`. `passage_prompt`: None for the model's own. Raises `ConfigError`.
    """
    prompt = (description.get("passage_prompt") or "") if passage_prompt is None else passage_prompt
    chunker = Chunker(tokenizer, max_tokens, overlap, prompt)
    return Fingerprint(
        model=model,
        dims=int(description["dims"]),
        pooling=str(description["pooling"]),
        normalize=bool(description["normalize"]),
        tokenizer=tokenizer.digest,
        max_tokens=chunker.limit,
        overlap=chunker.overlap,
        passage_prompt=prompt,
    )


# --- token ids ------------------------------------------------------------------------------------------------


def pack_tokens(tokens: Tokens) -> bytes:
    """uint32 n, uint32 offsets[n + 1], int32 ids[], little-endian."""
    head = np.array([len(tokens)], dtype="<u4")
    return b"".join((head.tobytes(), tokens.offsets.astype("<u4").tobytes(), tokens.ids.astype("<i4").tobytes()))


def unpack_tokens(blob: bytes, max_tokens: int, vocabulary: int | None = None) -> Tokens:
    """What `pack_tokens` packed. Trusts nothing: raises `ChannelError` that says what is wrong.

    Every text has 1 to `max_tokens` ids, each from 0 to below `vocabulary` (None: not known).
    """
    if len(blob) < 8 or len(blob) % 4:
        raise ChannelError(f"a blob of {len(blob)} bytes holds no token ids")
    count = int.from_bytes(blob[:4], "little")
    if count > len(blob) // 4 - 2:
        raise ChannelError(f"a blob of {len(blob)} bytes cannot hold {count} texts")
    offsets = np.frombuffer(blob, "<u4", count + 1, 4).astype(np.int64)
    ids = np.frombuffer(blob, "<i4", -1, 4 * (count + 2)).astype(np.int32, copy=False)
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != len(ids):
        raise ChannelError(f"the texts span tokens {offsets[0]} to {offsets[-1]}, but there are {len(ids)}")
    if count and (lengths.min() < 1 or lengths.max() > max_tokens):
        worst = int(lengths.min()) if lengths.min() < 1 else int(lengths.max())
        raise ChannelError(f"a text of {worst} tokens, where 1 to {max_tokens} are allowed")
    if len(ids) and (ids.min() < 0 or (vocabulary is not None and ids.max() >= vocabulary)):
        raise ChannelError(f"token ids from {ids.min()} to {ids.max()}, where the model has {vocabulary or 'others'}")
    return Tokens(ids, offsets)


# --- the worker -----------------------------------------------------------------------------------------------


class EncodeWorker:
    """Reads frames between batches, and runs one batch or answers one question at a time."""

    def __init__(
        self,
        channel: Channel[Any],
        engine: Engine,
        tokenizer: Tokenizer,
        settings: Mapping[str, Any],
        scratch: Path,
        called: str = "the engine",
    ) -> None:
        description = engine.describe()
        self.dims = int(description["dims"])
        cpu = settings["device"] == "cpu"
        self.budget = Budget(settings["batch_tokens"] or FIRST_BUDGET, adapt=cpu and not settings["batch_tokens"])
        self._sweeps = not cpu and not settings["batch_tokens"]
        self._device = settings["device"]
        self._engine = engine
        self._called = called
        self._tokenizer = tokenizer
        prompt = settings["query_prompt"]
        self._query_prompt: str = (description.get("query_prompt") or "") if prompt is None else prompt
        prompt = settings["passage_prompt"]
        self._passage_prompt: str = (description.get("passage_prompt") or "") if prompt is None else prompt
        self._channel = channel
        self._scratch = scratch
        self._arrivals = select.poll()
        self._arrivals.register(channel, select.POLLIN)
        self._queries: deque[EncodeQuery] = deque()
        self._texts: deque[tuple[Tokenize, int]] = deque()
        self._window = Window()
        self._stopping = False
        self._since = time.perf_counter()
        self._tokens = 0
        self._busy = 0.0
        self._idle = {"input": 0.0, "output": 0.0}

    def warm_up(self) -> None:
        """The first batches, which also find the budget. Raises `IngestdError` where the device cannot do them."""
        try:
            self._check_device()
            sample = self._tokenizer.encode([_WARM_UP])
            for _ in range(2):  # the first one pays for what is loaded and compiled on first use
                seconds = self._time(sample)
            self.budget.observe(len(sample.ids), seconds)
            if self._sweeps:
                self.budget.tokens = self._sweep(sample)
            self.budget.settle()
        except Exception as error:
            raise IngestdError(
                f"{self._called} fails its warm-up batch on {self._device}: {describe(error)}"
            ) from error

    def run(self) -> None:
        """Raises `EOFError` when the supervisor is gone."""
        while True:
            self._receive()
            while self._queries:  # those that are here; more come after the next batch, which is not to starve either
                self._answer(self._queries.popleft())
            if self._texts:
                self._tokenize(*self._texts.popleft())
            if self._window:
                self._compute(self._window.batch(self.budget.tokens), first=True)
            elif self._stopping and not self._texts:
                return
            self._report()

    def _receive(self) -> None:
        """Take in all frames that wait; with nothing to do, wait for one."""
        wait: float | None = 0.0
        if not (self._queries or self._texts or self._window or self._stopping):
            began = time.perf_counter()
            # The last second of work is reported when it is over; a long pause after it belongs to no second.
            wait = max(self._since + REPORT_SECONDS - began, 0.0) * 1000.0 if self._tokens else None
            self._arrivals.poll(wait)
            self._idle["input"] += time.perf_counter() - began
            if wait is None:
                self._reset()
        for _ in range(FRAMES_PER_TURN):
            if not self._arrivals.poll(0):
                return
            self._take(*self._channel.receive())

    def _take(self, frame: Any, descriptors: list[int]) -> None:
        if isinstance(frame, Encode) and len(descriptors) == 1:
            self._accept(frame, descriptors[0])
            return
        if isinstance(frame, Tokenize) and len(descriptors) == 1:
            self._texts.append((frame, descriptors[0]))
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(frame, Stop):
            self._stopping = True
        elif isinstance(frame, EncodeQuery):
            self._queries.append(frame)
        else:
            raise ChannelError(f"a {type(frame).__name__} frame with {len(descriptors)} descriptors to an encoder")

    def _accept(self, frame: Encode, descriptor: int) -> None:
        try:
            vocabulary = getattr(self._tokenizer, "vocabulary", None)
            tokens = unpack_tokens(read_blob(descriptor, TOKEN_BLOB_LIMIT), self._tokenizer.max_tokens, vocabulary)
            stop = len(tokens) if frame.stop is None else frame.stop
            if not 0 <= frame.start <= stop <= len(tokens):
                raise ChannelError(f"texts {frame.start} to {stop} of {len(tokens)}")
        except (ChannelError, OSError, MemoryError) as error:
            self._send(EncodeFailed(job=frame.job, reason=f"bad token ids: {describe(error)}"))
            return
        offsets = tokens.offsets[frame.start : stop + 1]
        tokens = Tokens(tokens.ids[offsets[0] : offsets[-1]], offsets - offsets[0])
        job = Job(frame.job, tokens, np.empty((len(tokens), self.dims), np.float32), len(tokens))
        if job.left:
            self._window.add(job, ahead=frame.ahead)
        else:
            self._finish(job)

    def _answer(self, query: EncodeQuery) -> None:
        try:
            tokens = self._tokenizer.encode([query.text], prompt=self._query_prompt)
            if self._tokenizer.unknown(tokens) > UNKNOWN_QUESTION * len(tokens.ids):
                # In a language that the model does not know every vector is as good as any: words alone find it.
                self._send(QueryVector(job=query.job, vector=b""))
                return
            vectors = self._encode(tokens)
            if not np.isfinite(vectors).all():
                raise ValueError("the vector is not finite")
        except Exception as error:
            self._send(EncodeFailed(job=query.job, reason=describe(error)))
        else:
            self._send(QueryVector(job=query.job, vector=vectors[0].tobytes()))

    def _tokenize(self, frame: Tokenize, descriptor: int) -> None:
        prompt = self._query_prompt if frame.query else self._passage_prompt
        try:
            texts = msgspec.msgpack.decode(read_blob(descriptor), type=list[str])
            tokens = self._tokenizer.encode(texts, prompt=prompt)
            lengths = np.diff(tokens.offsets).tolist()
            if not all(lengths):  # an engine without special tokens has nothing to encode of an empty text
                texts = [text if length else "." for text, length in zip(texts, lengths, strict=True)]
                tokens = self._tokenizer.encode(texts, prompt=prompt)
            blob = write_blob([pack_tokens(tokens)], self._scratch)
        except Exception as error:
            self._send(EncodeFailed(job=frame.job, reason=describe(error)))
            return
        try:
            self._send(Tokenized(job=frame.job, texts=len(tokens), tokens=len(tokens.ids)), [blob])
        finally:
            os.close(blob)

    # --- batches ---

    def _compute(self, texts: Sequence[Text], *, first: bool = False) -> None:
        """Fill in the vectors of these texts; what fails is halved until the text at fault is alone.

        `first`: a batch as the window gave it, which says something about the rate.
        """
        texts = [text for text in texts if not text[0].failed]
        if not texts:
            return
        tokens = pack([job.text(index) for job, index in texts])
        began = time.perf_counter()
        try:
            vectors = self._encode(tokens)
            finite: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
            if len(texts) == 1 and not finite[0]:
                raise ValueError(f"{self._called} returned a vector that is not finite")
        except MemoryError:
            if len(texts) > 1:
                self.budget.halve(len(tokens.ids))
            else:  # it does not fit alone: that says nothing about the others
                self.budget.restore()
            self._blame(texts, f"a text of {len(tokens.ids)} tokens does not fit the memory of {self._device}")
            return
        except Exception as error:
            self._blame(texts, describe(error))
            return
        seconds = time.perf_counter() - began
        if first:
            self.budget.observe(len(tokens.ids), seconds)
            self.budget.settle()
        share = seconds / max(len(tokens.ids), 1)
        lengths = np.diff(tokens.offsets).tolist()
        for (job, index), vector, good, length in zip(texts, vectors, finite.tolist(), lengths, strict=True):
            if not good:
                continue
            job.vectors[index] = vector
            job.seconds += share * length
            job.left -= 1
            if not job.left:
                self._finish(job)
        if not finite.all():  # each alone: in other company it may come out well
            for text, good in zip(texts, finite.tolist(), strict=True):
                if not good:
                    self._compute([text])

    def _blame(self, texts: Sequence[Text], reason: str) -> None:
        if len(texts) > 1:
            middle = len(texts) // 2
            self._compute(texts[:middle])
            self._compute(texts[middle:])
            return
        job, index = texts[0]
        try:
            self._check_device()
        except Exception as error:
            raise IngestdError(f"{self._device} fails the batch it managed at the start: {describe(error)}") from error
        job.failed = True
        self._window.drop(job)
        self._send(EncodeFailed(job=job.number, reason=f"text {index + 1} of {len(job.tokens)}: {reason}"))

    def _encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Raises whatever the engine raises, and `ValueError` for vectors of another shape or type."""
        began = time.perf_counter()
        try:
            vectors = self._engine.encode(tokens)
        finally:
            self._busy += time.perf_counter() - began
        shape = (len(tokens), self.dims)
        if not isinstance(vectors, np.ndarray) or vectors.shape != shape or vectors.dtype != np.float32:
            kind = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
            raise ValueError(f"{self._called} returned {kind}, not float32 {shape}")
        self._tokens += len(tokens.ids)
        return vectors

    def _check_device(self) -> None:
        if not np.isfinite(self._encode(self._tokenizer.encode(["warm-up"]))).all():
            raise ValueError("the vector of the warm-up text is not finite")

    def _sweep(self, sample: Tokens) -> int:
        """The smallest budget that is about as fast as the fastest."""
        rates: dict[int, float] = {}
        for budget in SWEEP:
            batch = pack([sample.ids] * max(budget // len(sample.ids), 1))
            try:
                self._time(batch)
                rates[budget] = len(batch.ids) / min(self._time(batch), self._time(batch))
            except MemoryError:
                break
        best = max(rates.values(), default=0.0)
        return next((budget for budget, rate in rates.items() if rate >= SWEEP_TOLERANCE * best), FIRST_BUDGET)

    def _time(self, tokens: Tokens) -> float:
        began = time.perf_counter()
        self._encode(tokens)
        return time.perf_counter() - began

    # --- answers ---

    def _finish(self, job: Job) -> None:
        blob = write_blob([job.vectors.data.cast("B")] if job.vectors.size else [], self._scratch)
        try:
            frame = Encoded(job=job.number, texts=len(job.tokens), tokens=len(job.tokens.ids), seconds=job.seconds)
            self._send(frame, [blob])
        finally:
            os.close(blob)

    def _send(self, frame: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
        began = time.perf_counter()
        self._channel.send(frame, descriptors)
        self._idle["output"] += time.perf_counter() - began

    def _report(self) -> None:
        now = time.perf_counter()
        span = now - self._since
        if span < REPORT_SECONDS:
            return
        if self._tokens or self._window:
            idle = {cause: round(seconds / span, 4) for cause, seconds in self._idle.items()}
            busy = min(self._busy / span, 1.0)
            self._channel.send(EncoderLoad(tokens=round(self._tokens / span), busy=round(busy, 4), idle=idle))
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._tokens = 0
        self._busy = 0.0
        self._idle = {"input": 0.0, "output": 0.0}
