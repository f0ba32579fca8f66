"""The encode worker over a real socket pair: order, fairness, questions first, trouble that costs its own document."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ingestd
from ingestd.channel import Channel, pair, read_blob, write_blob
from ingestd.chunk import Chunker, pack
from ingestd.encode import fingerprint, pack_tokens, serve, unpack_tokens
from ingestd.encode.window import LEAST_BUDGET, TARGET_SECONDS, Budget, Job, Window
from ingestd.errors import ChannelError, IngestdError, ModelError
from ingestd.messages import Ready, Start, Stop
from ingestd.messages.encode import Encode, Encoded, EncodeFailed, EncodeQuery, EncoderLoad, QueryVector
from ingestd.messages.load import Load
from ingestd.messages.stages import FROM_WORKER, TO_WORKER
from ingestd.types import Element, Fingerprint, Tokens
from ingestd_plugins.hashing import HashingEngine, HashingTokenizer

PLUGIN = '''
"""Engines with purpose-made faults, found through an entry point as a third party's are."""

import time

import numpy as np

from ingestd.hookspecs import hookimpl
from ingestd_plugins.hashing import HashingEngine, token_id

POISON, HOLE, HEAVY = token_id("poison"), token_id("hole"), token_id("heavy")
batches = []
state = {"broken": False, "wrong": None, "capacity": 10**9, "rate": 0.0, "gate": None}


class OddEngine(HashingEngine):
    name = "odd"

    def describe(self):
        return {**super().describe(), "query_prompt": "question: ", "passage_prompt": "passage: "}

    def encode(self, tokens):
        batches.append([tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:])])
        if state["gate"] is not None:
            state["gate"].acquire(timeout=5)
        if state["broken"]:
            raise RuntimeError("the device fell off the bus")
        if len(tokens.ids) > state["capacity"] or HEAVY in tokens.ids:
            raise MemoryError
        if POISON in tokens.ids:
            raise KeyError("a poisoned text")
        if state["rate"]:
            time.sleep(len(tokens.ids) / state["rate"])
        vectors = super().encode(tokens)
        if state["wrong"] is not None:
            return state["wrong"](vectors)
        for i in range(len(tokens)):
            if HOLE in tokens.ids[tokens.offsets[i]:tokens.offsets[i + 1]]:
                vectors[i, 3] = np.nan
        return vectors


@hookimpl
def register_engines():
    return [OddEngine()]
'''

ENGINE = HashingEngine()
ENGINE.load("hashing", "cpu", {})
TOKENIZER = HashingTokenizer()


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("site")
    (directory / "ingestd_odd_engine.py").write_text(PLUGIN)
    info = directory / "ingestd_odd_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ingestd-odd-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ingestd]\nodd = ingestd_odd_engine\n")
    sys.path.insert(0, str(directory))
    yield
    sys.path.remove(str(directory))
    sys.modules.pop("ingestd_odd_engine", None)


@pytest.fixture
def odd() -> Iterator[Any]:
    import ingestd_odd_engine as module  # type: ignore[import-not-found]

    before = dict(module.state)
    module.batches.clear()
    yield module
    module.state.update(before)


class Worker:
    """An encode worker in a thread, and the supervisor's end of its socket pair."""

    def __init__(self, scratch: Path, **settings: Any) -> None:
        ours, theirs = pair()
        self.channel: Channel[Any] = Channel(ours, FROM_WORKER["encode"])
        self.channel.socket.settimeout(30)
        self._scratch = scratch
        self.error: BaseException | None = None
        defaults = {
            "engine": "odd",
            "model": "hashing",
            "device": "cpu",
            "dtype": "auto",
            "normalize": None,
            "reserved": 0,
            "batch_tokens": 0,
            "query_prompt": None,
            "passage_prompt": None,
            "max_tokens": 0,
            "overlap": 32,
        }
        start = Start(
            stage="encode",
            version=ingestd.__version__,
            sys_path=sys.path,
            scratch=str(scratch),
            settings={**defaults, **settings},
        )
        self._thread = threading.Thread(target=self._live, args=(theirs, start), daemon=True)
        self._thread.start()

    def _live(self, sock: socket.socket, start: Start) -> None:
        channel: Channel[Any] = Channel(sock, TO_WORKER)
        try:
            serve(channel, start)
        except BaseException as error:
            self.error = error
        finally:
            channel.close()

    def ready(self) -> Ready:
        frame, _ = self.channel.receive()
        assert isinstance(frame, Ready)
        return frame

    def encode(self, job: int, texts: list[str] | bytes, start: int = 0, stop: int | None = None) -> None:
        blob = texts if isinstance(texts, bytes) else pack_tokens(TOKENIZER.encode(texts))
        descriptor = write_blob([blob], self._scratch)
        self.channel.send(Encode(job=job, start=start, stop=stop), [descriptor])
        os.close(descriptor)

    def answer(self) -> tuple[Any, npt.NDArray[np.float32] | None]:
        """The next frame that is not a report, and its vectors."""
        while True:
            frame, descriptors = self.channel.receive()
            if not isinstance(frame, EncoderLoad):
                break
        if not descriptors:
            return frame, None
        [descriptor] = descriptors
        return frame, np.frombuffer(read_blob(descriptor), np.float32).reshape(frame.texts, -1 if frame.texts else 64)

    def answers(self, count: int) -> dict[int, tuple[Any, npt.NDArray[np.float32] | None]]:
        return {frame.job: (frame, vectors) for frame, vectors in (self.answer() for _ in range(count))}

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    def end(self) -> None:
        with suppress(OSError):
            self.channel.send(Stop())
        self.join()
        self.channel.close()


Spawn = Callable[..., Worker]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    workers: list[Worker] = []

    def start(**settings: Any) -> Worker:
        workers.append(Worker(tmp_path, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.channel.close()
        worker.join()


@pytest.fixture
def worker(spawn: Spawn, odd: Any) -> Worker:
    started = spawn()
    started.ready()
    odd.batches.clear()
    return started


def vectors_of(texts: list[str]) -> npt.NDArray[np.float32]:
    return ENGINE.encode(TOKENIZER.encode(texts))


def words(count: int, seed: int) -> str:
    return " ".join(f"w{(seed * 7919 + i * 104729) % 9973}" for i in range(count))


# --- starting -------------------------------------------------------------------------------------------------


def test_ready_names_the_effective_settings(spawn: Spawn) -> None:
    info = spawn(max_tokens=100, overlap=90).ready().info
    assert info["dims"] == 64
    assert info["dtype"] == "float32"
    assert info["device"] == "cpu"
    assert info["batch_tokens"] > 0
    identity = msgspec.convert(info["fingerprint"], Fingerprint)
    assert identity == Fingerprint(
        model="hashing", dims=64, pooling="sum", normalize=True, tokenizer=TOKENIZER.digest, max_tokens=100,
        overlap=(100 - 2) // 4, passage_prompt="passage: ",
    )  # fmt: skip
    assert spawn(passage_prompt="").ready().info["fingerprint"]["passage_prompt"] == ""
    assert spawn(normalize=False).ready().info["fingerprint"]["normalize"] is False
    assert spawn(model="hashing-128").ready().info["dims"] == 128
    assert spawn(batch_tokens=333).ready().info["batch_tokens"] == 333


def test_fingerprint_does_not_depend_on_the_query_prompt_or_dtype() -> None:
    description = {**ENGINE.describe(), "passage_prompt": None}
    settings: dict[str, Any] = {"model": "m", "max_tokens": 0, "overlap": 32, "passage_prompt": None}
    one = fingerprint(TOKENIZER, {**description, "dtype": "float32", "query_prompt": "a"}, **settings)
    other = fingerprint(TOKENIZER, {**description, "dtype": "bfloat16", "query_prompt": "b"}, **settings)
    assert one == other
    assert one.digest() == other.digest()
    assert one.digest() != fingerprint(TOKENIZER, description, **{**settings, "overlap": 8}).digest()


def test_an_unknown_engine_is_refused_with_the_known_ones(spawn: Spawn) -> None:
    worker = spawn(engine="warp")
    worker.join()
    assert isinstance(worker.error, IngestdError)
    assert "'warp'" in worker.error.message
    assert "hashing" in worker.error.message
    assert "odd" in worker.error.message


def test_a_model_the_engine_lacks_is_refused(spawn: Spawn) -> None:
    worker = spawn(model="hashing-3")
    worker.join()
    assert isinstance(worker.error, ModelError)


def test_a_device_that_fails_its_warm_up_never_gets_ready(spawn: Spawn, odd: Any) -> None:
    odd.state["broken"] = True
    worker = spawn()
    worker.join()
    assert isinstance(worker.error, IngestdError)
    assert "fell off the bus" in worker.error.message


# --- documents ------------------------------------------------------------------------------------------------


def test_vectors_come_back_whole_and_in_order(worker: Worker) -> None:
    documents = {job: [words(1 + (job * 31 + i * 17) % 200, job * 100 + i) for i in range(job * 3)] for job in range(8)}
    for job, texts in documents.items():
        worker.encode(job, texts)
    found = worker.answers(len(documents))
    for job, texts in documents.items():
        frame, vectors = found[job]
        assert isinstance(frame, Encoded)
        assert frame.texts == len(texts)
        assert frame.tokens == len(TOKENIZER.encode(texts).ids)
        assert (frame.seconds > 0) == bool(texts)
        assert vectors is not None
        if texts:
            np.testing.assert_allclose(vectors, vectors_of(texts), atol=1e-6)


def test_batches_are_filled_across_documents(spawn: Spawn, odd: Any) -> None:
    odd.state["gate"] = gate = threading.Semaphore(10**6)
    worker = spawn(batch_tokens=400)
    worker.ready()
    odd.state["gate"] = gate = threading.Semaphore(0)
    odd.batches.clear()
    worker.encode(0, ["the first occupies the device"])
    while not odd.batches:
        time.sleep(0.001)
    for job in range(1, 41):
        worker.encode(job, [words(10 + 30 * (job % 2), job)])
    odd.batches.clear()
    gate.release(10**6)
    assert len(worker.answers(41)) == 41
    full = [batch for batch in odd.batches if len(batch) > 1]
    assert max(len(batch) for batch in full) == 20
    assert all(len({len(text) for text in batch}) <= 2 for batch in full)
    assert len(odd.batches) <= 6


def test_a_subset_of_the_texts(worker: Worker) -> None:
    texts = [words(20, seed) for seed in range(10)]
    worker.encode(1, texts, 3, 7)
    worker.encode(2, texts, 9)
    worker.encode(3, texts, 4, 4)
    found = worker.answers(3)
    for job, expected in ((1, texts[3:7]), (2, texts[9:])):
        vectors = found[job][1]
        assert vectors is not None
        np.testing.assert_allclose(vectors, vectors_of(expected), atol=1e-6)
    assert found[3][0].texts == 0
    for job, (start, stop) in enumerate([(-1, 3), (5, 4), (0, 11)], 4):
        worker.encode(job, texts, start, stop)
        frame, _ = worker.answer()
        assert isinstance(frame, EncodeFailed)


def test_neither_a_huge_document_nor_small_ones_starve() -> None:
    """The window alone, since only it decides who is next."""

    def job(number: int, texts: int) -> Job:
        tokens = pack([np.full(10, number, np.int32)] * texts)
        return Job(number, tokens, np.zeros((texts, 1), np.float32), texts)

    window = Window()
    for number, texts in enumerate([1000, *[2] * 50]):
        window.add(job(number, texts))
    order: list[int] = []
    while window:
        order += [job.number for job, _ in window.batch(100)]
        if len(order) < 400:
            window.add(job(len(order), 1))
    assert len(order) > 1100
    small = [index for index, number in enumerate(order) if 0 < number <= 50]
    assert max(small) < 300
    assert order[:400].count(0) > 60


def test_documents_finish_in_about_the_order_they_came() -> None:
    window = Window()
    left = {}
    for number in range(60):
        tokens = pack([np.zeros(20 + (number * 37 + i * 11) % 200, np.int32) for i in range(1 + number % 9)])
        window.add(Job(number, tokens, np.zeros((len(tokens), 1), np.float32), len(tokens)))
        left[number] = len(tokens)
    finished: list[int] = []
    while window:
        for job, _ in window.batch(300):
            left[job.number] -= 1
            if not left[job.number]:
                finished.append(job.number)
    assert len(finished) == 60
    assert max(abs(place - number) for place, number in enumerate(finished)) < 15


def test_what_is_ahead_comes_before_a_window_that_was_filled() -> None:
    def job(number: int, texts: int) -> Job:
        tokens = pack([np.full(10 * number, number, np.int32)] * texts)
        return Job(number, tokens, np.zeros((texts, 1), np.float32), texts)

    window = Window()
    window.add(job(3, 40))
    assert {one.number for one, _ in window.batch(100)} == {3}
    window.add(job(1, 12), ahead=True)
    window.add(failed := job(2, 4), ahead=True)
    window.drop(failed)
    order = []
    while window:
        batch = window.batch(100)
        assert len({one.number for one, _ in batch}) == 1, "a batch is of texts of one length"
        assert sum(len(one.text(index)) for one, index in batch) <= 100
        order += [one.number for one, _ in batch]
    assert order == [1] * 12 + [3] * 37


def test_a_question_overtakes_everything(spawn: Spawn, odd: Any) -> None:
    odd.state["gate"] = gate = threading.Semaphore(10**6)
    worker = spawn(batch_tokens=64)
    worker.ready()
    odd.state["gate"] = gate = threading.Semaphore(0)
    texts = [words(60, seed) for seed in range(50)]
    worker.encode(1, texts)
    while not odd.batches[-1:] or len(odd.batches[-1][0]) < 60:
        time.sleep(0.001)
    worker.channel.send(EncodeQuery(job=2, text="where is it?"))
    odd.batches.clear()
    gate.release(2)
    frame, _ = worker.answer()
    assert isinstance(frame, QueryVector)
    assert len(odd.batches[0]) == 1  # the next thing after the batch that was running
    assert len(odd.batches[0][0]) < 60
    expected = ENGINE.encode(TOKENIZER.encode(["where is it?"], prompt="question: "))[0]
    np.testing.assert_allclose(np.frombuffer(frame.vector, np.float32), expected, atol=1e-6)
    gate.release(10**6)
    frame, _ = worker.answer()
    assert frame.job == 1
    assert frame.texts == 50


def test_a_question_with_its_own_prompt_and_one_that_fails(spawn: Spawn, odd: Any) -> None:
    worker = spawn(query_prompt="")
    worker.ready()
    worker.channel.send(EncodeQuery(job=1, text="plain"))
    frame, _ = worker.answer()
    np.testing.assert_allclose(np.frombuffer(frame.vector, np.float32), vectors_of(["plain"])[0], atol=1e-6)
    worker.channel.send(EncodeQuery(job=2, text="poison"))
    frame, _ = worker.answer()
    assert isinstance(frame, EncodeFailed)
    assert "poisoned" in frame.reason


def test_a_question_in_an_unknown_language_gets_no_vector(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HashingTokenizer, "unknown", lambda self, tokens: len(tokens.ids) // 2)
    worker = spawn()
    worker.ready()
    worker.channel.send(EncodeQuery(job=1, text="a question of several words here"))
    frame, _ = worker.answer()
    assert frame == QueryVector(job=1, vector=b"")


# --- trouble --------------------------------------------------------------------------------------------------


def test_a_batch_too_big_for_the_device_is_halved(spawn: Spawn, odd: Any) -> None:
    odd.state["capacity"] = 300
    worker = spawn(batch_tokens=1000)
    worker.ready()
    texts = [words(100, seed) for seed in range(40)]
    worker.encode(1, texts)
    frame, vectors = worker.answer()
    assert isinstance(frame, Encoded)
    assert vectors is not None
    np.testing.assert_allclose(vectors, vectors_of(texts), atol=1e-6)
    sizes = [sum(map(len, batch)) for batch in odd.batches]
    failed = [size for size in sizes if size > 300]
    assert len(failed) <= 3  # it learns
    assert sizes[-1] <= 300


def test_a_text_that_fits_nowhere_fails_alone_and_the_budget_recovers(spawn: Spawn, odd: Any) -> None:
    worker = spawn(batch_tokens=800)
    worker.ready()
    worker.encode(0, [words(50, 1)] * 16)
    worker.answer()
    worker.encode(1, [words(50, seed) for seed in range(7)] + ["heavy"])
    worker.encode(2, [words(50, seed) for seed in range(9)])
    found = worker.answers(2)
    assert isinstance(found[1][0], EncodeFailed)
    assert "memory" in found[1][0].reason
    assert isinstance(found[2][0], Encoded)
    odd.batches.clear()
    worker.encode(3, [words(50, seed) for seed in range(16)])
    assert isinstance(worker.answer()[0], Encoded)
    assert len(odd.batches) == 1


@pytest.mark.parametrize(("word", "reason"), [("poison", "poisoned"), ("hole", "finite")])
def test_one_bad_text_costs_its_own_document(worker: Worker, word: str, reason: str) -> None:
    documents = {job: [words(5 + job, 10 * job + i) for i in range(6)] for job in range(6)}
    documents[3][4] = f"{word} {words(8, 5)}"
    for job, texts in documents.items():
        worker.encode(job, texts)
    found = worker.answers(6)
    for job, texts in documents.items():
        frame, vectors = found[job]
        if job == 3:
            assert isinstance(frame, EncodeFailed)
            assert reason in frame.reason
            assert "text 5 of 6" in frame.reason
        else:
            assert vectors is not None
            np.testing.assert_allclose(vectors, vectors_of(texts), atol=1e-6)


WRONG: dict[str, Callable[[npt.NDArray[np.float32]], Any]] = {
    "float64": lambda vectors: vectors.astype(np.float64),
    "too few": lambda vectors: vectors[1:],
    "too short": lambda vectors: vectors[:, 1:],
    "a list": lambda vectors: vectors.tolist(),
    "nothing": lambda vectors: None,
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_device_blames_no_document(worker: Worker, odd: Any, kind: str) -> None:
    """Vectors of the wrong kind for the warm-up text too: the engine is at fault, not what it was given."""
    odd.state["wrong"] = WRONG[kind]
    worker.encode(1, ["a text", "and another"])
    with pytest.raises(EOFError):
        worker.answer()
    worker.join()
    assert isinstance(worker.error, IngestdError)
    assert "cpu fails" in worker.error.message


GOOD = pack_tokens(TOKENIZER.encode(["one two three", "four"]))


def numbers(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


BAD_BLOBS = {
    "empty": b"",
    "garbage": b"\xff" * 64,
    "cut": GOOD[:-4],
    "longer": GOOD + b"\0\0\0\0",
    "odd size": GOOD + b"\0",
    "count": b"\xff\xff\xff\xff" + GOOD[4:],
    "decreasing": numbers(2, 0, 3, 2, 5, 5),
    "negative offset": numbers(1, 0, -1, 5),
    "late start": numbers(1, 1, 2, 5, 5),
    "empty text": numbers(2, 0, 0, 1, 5),
    "negative id": numbers(1, 0, 1, -1),
    "id beyond the vocabulary": numbers(1, 0, 1, 1 << 20),
    "too long": numbers(1, 0, 257, *[5] * 257),
}


@pytest.mark.parametrize("kind", BAD_BLOBS)
def test_a_bad_blob_fails_its_job(worker: Worker, kind: str) -> None:
    worker.encode(1, BAD_BLOBS[kind])
    worker.encode(2, GOOD)
    found = worker.answers(2)
    assert isinstance(found[1][0], EncodeFailed)
    assert "token ids" in found[1][0].reason
    assert isinstance(found[2][0], Encoded)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), max_size=20))
def test_tokens_survive_the_blob(texts: list[list[int]]) -> None:
    tokens = pack([np.array(text, np.int32) for text in texts])
    back = unpack_tokens(pack_tokens(tokens), 20)
    assert isinstance(back, Tokens)
    np.testing.assert_array_equal(back.ids, tokens.ids)
    np.testing.assert_array_equal(back.offsets, tokens.offsets)


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_refused(blob: bytes) -> None:
    with suppress(ChannelError):
        tokens = unpack_tokens(blob, 8, 100)
        assert (np.diff(tokens.offsets) > 0).all()
        assert len(tokens.ids) == tokens.offsets[-1]


def test_what_the_chunker_makes_is_taken(worker: Worker) -> None:
    document = Chunker(TOKENIZER, prompt="passage: ").chunk([Element(words(2000, 1)), Element("猫喜欢睡觉。" * 200)])
    worker.encode(1, pack_tokens(document.tokens))
    frame, _ = worker.answer()
    assert isinstance(frame, Encoded)
    assert frame.texts == len(document.chunks) > 5


# --- the end --------------------------------------------------------------------------------------------------


def test_stop_finishes_what_is_in_hand(worker: Worker) -> None:
    for job in range(20):
        worker.encode(job, [words(30, job)] * 10)
    worker.channel.send(Stop())
    assert len(worker.answers(20)) == 20
    with pytest.raises(EOFError):
        worker.answer()
    worker.join()
    assert worker.error is None


def test_a_lost_supervisor_ends_it_in_the_middle(spawn: Spawn, odd: Any) -> None:
    odd.state["gate"] = gate = threading.Semaphore(10**6)
    worker = spawn(batch_tokens=64)
    worker.ready()
    odd.state["gate"] = gate = threading.Semaphore(0)
    worker.encode(1, [words(60, seed) for seed in range(1000)])
    odd.batches.clear()
    gate.release(3)
    worker.channel.close()
    gate.release(10**6)
    worker.join()
    assert worker.error is None
    assert len(odd.batches) < 500


def test_a_frame_for_another_stage_is_refused(worker: Worker) -> None:
    worker.channel.send(Load(job=1, path=b"/x", scratch="/"))
    worker.join()
    assert isinstance(worker.error, ChannelError)


def test_descriptors_are_not_leaked(worker: Worker) -> None:
    def count() -> int:
        worker.channel.send(EncodeQuery(job=99, text="is the last answer's descriptor closed by now?"))
        worker.answer()
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for job in range(20):
        worker.encode(job, [words(10, 1)] if job % 2 else b"bad")
        worker.answer()
    assert count() == before


# --- rate -----------------------------------------------------------------------------------------------------


def test_batches_on_a_cpu_stay_short(spawn: Spawn, odd: Any) -> None:
    """A device of 5,000 tokens/s: every batch ends within 100 ms, and is no smaller than it has to be."""
    odd.state["rate"] = 5000.0
    worker = spawn()
    assert worker.ready().info["batch_tokens"] <= 500
    odd.batches.clear()
    worker.encode(1, [words(50, seed) for seed in range(100)])
    worker.answer()
    sizes = [sum(map(len, batch)) for batch in odd.batches]
    assert max(sizes) <= 500
    assert sum(sizes) / len(sizes) > 150


def test_the_budget_follows_the_rate() -> None:
    budget = Budget(1024, adapt=True)
    for _ in range(20):
        budget.observe(budget.tokens, budget.tokens / 3000)
    assert abs(budget.tokens - 3000 * TARGET_SECONDS) < 10
    for _ in range(30):
        budget.observe(budget.tokens, budget.tokens / 9000)
    assert abs(budget.tokens - 9000 * TARGET_SECONDS) < 10
    budget.observe(3, 0.01)  # a few tokens say nothing
    assert abs(budget.tokens - 9000 * TARGET_SECONDS) < 10
    for _ in range(100):
        budget.observe(budget.tokens, 100.0)
    assert budget.tokens == LEAST_BUDGET
    fixed = Budget(1024, adapt=False)
    fixed.observe(1024, 100.0)
    assert fixed.tokens == 1024


def test_it_reports_how_busy_it_is(spawn: Spawn, odd: Any) -> None:
    odd.state["rate"] = 5000.0
    worker = spawn()
    worker.ready()
    worker.encode(1, [words(50, seed) for seed in range(110)])
    worker.encode(2, [words(5, 1)])
    reports: list[EncoderLoad] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and len(reports) < 2:
        frame, descriptors = worker.channel.receive()
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(frame, EncoderLoad):
            reports.append(frame)
    first, second = reports
    assert first.busy > 0.8
    assert 3000 < first.tokens < 6000
    assert set(first.idle) == {"input", "output"}
    assert second.busy < first.busy
    assert second.idle["input"] > 0.3
