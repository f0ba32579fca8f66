"""Feeding encoders: whatever dies when, every document gets its own vectors, and only poison is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ingestd import encoders as module
from ingestd.channel import read_blob, write_blob
from ingestd.encoders import Encoders, PoisonError
from ingestd.messages.encode import Encode, Encoded, EncodeFailed, EncodeQuery, EncoderLoad, QueryVector
from ingestd.slots import Pool
from ingestd.supervisor import Worker, WorkerDied

Fate = Callable[[bytes], str]
"""What a device does with some texts, each a byte: "", "exit", "outside", "refuse" or "hang"."""


class Device:
    """An encode worker as `Encoders` sees it; the vectors of texts are the texts."""

    def __init__(self, fate: Fate, most: list[int]) -> None:
        self.fate = fate
        self.most = most
        self.died: asyncio.Future[WorkerDied] = asyncio.get_running_loop().create_future()
        self.last_frame = time.monotonic()
        self.state = "idle"
        self.served = 0
        self.on_frame: Any = None
        self.answers: set[asyncio.Future[Any]] = set()
        self.works: set[asyncio.Future[None]] = set()
        self.turns = asyncio.Lock()
        self.asked: list[bytes] = []

    async def ask(self, frame: Encode, descriptors: Sequence[int]) -> asyncio.Future[tuple[Any, list[int]]]:
        if self.died.done():
            raise self.died.result()
        answer: asyncio.Future[tuple[Any, list[int]]] = asyncio.get_running_loop().create_future()
        self.answers.add(answer)
        self.most.append(len([one for one in self.answers if not one.done()]))
        size = os.fstat(descriptors[0]).st_size
        texts = os.pread(descriptors[0], size, 0)[frame.start : frame.stop]
        self.asked.append(texts)
        turn = contextlib.nullcontext() if frame.ahead else self.turns
        work = asyncio.ensure_future(self._work(frame.job, texts, answer, turn))
        self.works.add(work)
        work.add_done_callback(self.works.discard)
        return answer

    async def _work(
        self, job: int, texts: bytes, answer: asyncio.Future[Any], turn: contextlib.AbstractAsyncContextManager[None]
    ) -> None:
        async with turn:
            await asyncio.sleep(0)
            if answer.done():
                return
            match self.fate(texts):
                case "exit":
                    self.kill("exit", "exit code 5")
                case "outside":
                    self.kill("external", "killed from outside by SIGKILL")
                case "refuse":
                    answer.set_result((EncodeFailed(job=job, reason="text 1: no"), []))
                case "hang":
                    await asyncio.shield(self.died)
                case _:
                    frame = Encoded(job=job, texts=len(texts), tokens=len(texts), seconds=0.1)
                    answer.set_result((frame, [write_blob([texts], Path("/nowhere"))]))

    async def call(self, frame: Any, descriptors: Sequence[int] = ()) -> tuple[Any, list[int]]:
        if isinstance(frame, EncodeQuery):
            async with self.turns:  # between batches
                await asyncio.sleep(0)
            if self.died.done():
                raise self.died.result()
            match self.fate(frame.text.encode()):
                case "exit":
                    self.kill("exit", "exit code 5")
                    raise self.died.result()
                case "hang":
                    raise await asyncio.shield(self.died)
                case "refuse":
                    return EncodeFailed(job=frame.job, reason="no"), []
            return QueryVector(job=frame.job, vector=frame.text.encode()), []
        return await (await self.ask(frame, descriptors))

    def kill(self, cause: Any, reason: str) -> None:
        if not self.died.done():
            death = WorkerDied(cause, reason)
            self.state = "dead"
            self.died.set_result(death)
            for answer in self.answers:
                if not answer.done():
                    answer.set_exception(death)

    def capture_stack(self) -> None:
        pass


class Devices:
    """A pool that replaces its devices as they die."""

    def __init__(self, encoders: Encoders, fate: Fate, count: int) -> None:
        self.encoders = encoders
        self.fate = fate
        self.workers: set[Device] = set()
        self.ready = asyncio.Event()
        self.deaths = 0
        self.most: list[int] = []
        self.tasks = [asyncio.create_task(self._slot()) for _ in range(count)]
        encoders.pool = cast(Pool, self)

    async def _slot(self) -> None:
        while True:
            device = Device(self.fate, self.most)
            self.workers.add(device)
            self.ready.set()
            try:
                await self.encoders.serve(cast(Worker, device))
            except WorkerDied:
                self.deaths += 1
            finally:
                self.workers.discard(device)
            await asyncio.sleep(0)


async def encode(encoders: Encoders, texts: bytes, tokens: int = 0, *, ahead: bool = False) -> bytes:
    descriptor = write_blob([texts], Path("/nowhere"))
    try:
        return read_blob(await encoders.encode(descriptor, len(texts), tokens or len(texts), ahead=ahead))
    finally:
        os.close(descriptor)


def run(fate: Fate, documents: list[bytes], *, devices: int = 2, tokens: int = 0) -> tuple[list[Any], Devices]:
    async def body() -> tuple[list[Any], Devices]:
        encoders = Encoders()
        pool = Devices(encoders, fate, devices)
        work = asyncio.gather(*(encode(encoders, texts, tokens) for texts in documents), return_exceptions=True)
        outcomes = await asyncio.wait_for(work, 60)
        for task in pool.tasks:
            task.cancel()
        await asyncio.gather(*pool.tasks, return_exceptions=True)
        return outcomes, pool

    return asyncio.run(body())


DOCUMENTS = [bytes([65 + number % 20] * (1 + number % 9)) for number in range(300)]


def test_every_document_gets_its_own_vectors() -> None:
    outcomes, pool = run(lambda texts: "", DOCUMENTS)
    assert outcomes == DOCUMENTS
    assert pool.deaths == 0


@pytest.mark.parametrize("kind", ["exit", "outside"])
def test_deaths_at_random_lose_and_double_nothing(kind: str) -> None:
    rng = random.Random(3)
    outcomes, pool = run(lambda texts: kind if rng.random() < 0.05 else "", DOCUMENTS)
    assert outcomes == DOCUMENTS
    assert pool.deaths > 5


def test_poison_is_found_and_only_its_document_refused() -> None:
    documents = [*DOCUMENTS[:40], b"goodXgood", *DOCUMENTS[40:80]]
    outcomes, pool = run(lambda texts: "exit" if b"X" in texts else "", documents)
    poison = outcomes.pop(40)
    assert isinstance(poison, PoisonError)
    assert poison.message == "chunk 5 kills the encoder: exit code 5"
    assert outcomes == DOCUMENTS[:80]
    assert pool.deaths < 15


def test_many_poisoned_documents_at_once() -> None:
    documents = [b"abc%cdef" % (b"X" if number % 5 == 0 else b"-") for number in range(50)]
    outcomes, _ = run(lambda texts: "exit" if b"X" in texts else "", documents)
    assert [isinstance(outcome, PoisonError) for outcome in outcomes] == [number % 5 == 0 for number in range(50)]


def test_a_chunk_is_poison_only_if_it_kills_alone() -> None:
    """A device that dies of two texts in company, and of neither alone."""
    outcomes, _ = run(lambda texts: "exit" if len(texts) > 1 else "", [b"ab", b"c"])
    assert outcomes[1] == b"c"
    assert outcomes[0] == b"ab"  # whole it cannot be had, but its parts can


def test_kills_from_outside_blame_nobody_at_first() -> None:
    kills = [0]

    def fate(texts: bytes) -> str:
        if b"X" in texts and kills[0] < 6:
            kills[0] += 1
            return "outside"
        return ""

    outcomes, _ = run(fate, [*DOCUMENTS[:20], b"aXb"])
    assert outcomes == [*DOCUMENTS[:20], b"aXb"]


def test_what_the_engine_refuses_is_refused_at_once() -> None:
    outcomes, pool = run(lambda texts: "refuse" if b"X" in texts else "", [b"a", b"X", b"b"])
    assert outcomes[0::2] == [b"a", b"b"]
    assert isinstance(outcomes[1], PoisonError)
    assert pool.deaths == 0


def test_a_hang_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.1)
    monkeypatch.setattr(module, "SLOWEST", 1000.0)
    once = [True]

    def fate(texts: bytes) -> str:
        if b"O" in texts and once.pop() if once else False:
            return "hang"
        return "hang" if b"X" in texts else ""

    outcomes, _ = run(fate, [b"a", b"bOb", b"cXc", b"d"], devices=1)
    assert outcomes[:2] == [b"a", b"bOb"]
    assert outcomes[3] == b"d"
    assert isinstance(outcomes[2], PoisonError)
    assert "chunk 2 kills the encoder: no answer for" in outcomes[2].message


def test_devices_share_evenly() -> None:
    """The window of one is no reason for the other to wait."""
    seen: list[int] = []

    async def body() -> None:
        encoders = Encoders()
        pool = Devices(encoders, lambda texts: "hang", 3)
        works = [asyncio.create_task(encode(encoders, b"x" * 100)) for _ in range(12)]
        deadline = time.monotonic() + 60
        while sum(len(device.answers) for device in pool.workers) < 12:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        seen.extend(len(device.answers) for device in pool.workers)
        for task in (*works, *pool.tasks):
            task.cancel()
        await asyncio.gather(*works, *pool.tasks, return_exceptions=True)

    asyncio.run(body())
    assert seen == [4, 4, 4]


def test_the_window_is_bounded() -> None:
    _, pool = run(lambda texts: "", DOCUMENTS, devices=1)
    assert max(pool.most) <= module.WINDOW_DOCUMENTS
    _, pool = run(lambda texts: "", DOCUMENTS[:50], devices=1, tokens=module.WINDOW_TOKENS // 4)
    assert max(pool.most) == 4


def test_what_is_ahead_waits_for_no_window() -> None:
    """The queue is long and the windows are full of documents that never end."""

    def fate(texts: bytes) -> str:
        return "" if texts.startswith(b"fresh") else "hang"

    async def body() -> None:
        encoders = Encoders()
        pool = Devices(encoders, fate, 2)

        def asked() -> list[bytes]:
            return sorted(text for device in pool.workers for text in device.asked)

        share = module.WINDOW_TOKENS // 4
        works = [asyncio.create_task(encode(encoders, b"backlog", share)) for _ in range(50)]
        while len(asked()) < 8:
            await asyncio.sleep(0)
        texts = [b"fresh %02d" % number for number in range(20)]
        fresh = [asyncio.create_task(encode(encoders, text, share, ahead=True)) for text in texts]
        assert await asyncio.wait_for(asyncio.gather(*fresh), 60) == texts
        assert asked() == [b"backlog"] * 8 + texts, "nothing of the backlog came between"
        # What is ahead fills no more than another window of each device.
        works += [asyncio.create_task(encode(encoders, b"more", share, ahead=True)) for _ in range(50)]
        while len(asked()) < 36:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert asked() == [b"backlog"] * 8 + texts + [b"more"] * 8
        for task in (*works, *pool.tasks):
            task.cancel()
        await asyncio.gather(*works, *pool.tasks, return_exceptions=True)

    asyncio.run(body())


def test_a_given_up_document_is_not_encoded() -> None:
    async def body() -> None:
        encoders = Encoders()
        seen: list[bytes] = []

        def fate(texts: bytes) -> str:
            seen.append(texts)
            return ""

        given_up = asyncio.create_task(encode(encoders, b"gone"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        pool = Devices(encoders, fate, 1)
        assert await encode(encoders, b"here") == b"here"
        assert seen == [b"here"]
        for task in pool.tasks:
            task.cancel()

    asyncio.run(body())


# --- questions ------------------------------------------------------------------------------------------------


def ask(fate: Fate, *questions: str) -> tuple[list[Any], Devices]:
    async def body() -> tuple[list[Any], Devices]:
        encoders = Encoders()
        pool = Devices(encoders, fate, 1)
        outcomes: list[Any] = []
        for question in questions:
            outcomes += await asyncio.gather(asyncio.wait_for(encoders.query(question), 20), return_exceptions=True)
        assert encoders.wanted.is_set()
        for task in pool.tasks:
            task.cancel()
        return outcomes, pool

    return asyncio.run(body())


@pytest.mark.parametrize("way", ["exit", "refuse", "hang"])
def test_a_bad_question_ends_and_the_next_is_answered(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.05)
    outcomes, pool = ask(lambda texts: way if b"X" in texts else "", "fine", "X", "fine again")
    assert outcomes[0] == b"fine"
    assert "the question cannot be encoded" in str(outcomes[1])
    assert outcomes[2] == b"fine again"
    assert pool.deaths <= module.POISON_KILLS


def test_a_question_survives_a_kill_from_outside() -> None:
    once = ["outside"]
    outcomes, _ = ask(lambda texts: once.pop() if once else "", "where")
    assert outcomes == [b"where"]


def test_a_question_is_not_blamed_for_a_document() -> None:
    """Neither while the poison is in flight, nor for an encoder that is dead already and still in the pool."""

    async def body() -> None:
        encoders = Encoders()
        pool = Devices(encoders, lambda texts: "exit" if b"X" in texts else "", 1)
        document = asyncio.ensure_future(encode(encoders, b"abcXdefg", 8))
        answers = []
        while not document.done():
            answers.append(await asyncio.wait_for(encoders.query("where"), 20))
        with contextlib.suppress(PoisonError):
            await document
        assert pool.workers
        answers.append(await asyncio.wait_for(encoders.query("where"), 20))
        assert set(answers) == {b"where"}
        for task in pool.tasks:
            task.cancel()

    asyncio.run(body())


def test_a_dead_encoder_is_asked_nothing() -> None:
    async def body() -> None:
        encoders = Encoders()
        pool = Devices(encoders, lambda texts: "exit" if b"X" in texts else "", 1)
        lasting = asyncio.Event()
        serve = encoders.serve

        async def slow(worker: Worker) -> None:
            """A worker stays in the pool until all that it started is gone."""
            try:
                await serve(worker)
            except WorkerDied:
                if pool.deaths == module.SUSPECT_AFTER:  # the first that had its document alone
                    await lasting.wait()
                raise

        encoders.serve = slow  # type: ignore[method-assign]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(encode(encoders, b"X", 1), 0.2)
        (corpse,) = pool.workers
        assert corpse.died.done()
        question = asyncio.ensure_future(encoders.query("where"))
        await asyncio.sleep(0.2)
        assert not question.done()
        lasting.set()
        assert await asyncio.wait_for(question, 20) == b"where"
        for task in pool.tasks:
            task.cancel()

    asyncio.run(body())


def test_the_rate_follows_what_devices_tell() -> None:
    async def body() -> None:
        encoders = Encoders()
        pool = Devices(encoders, lambda texts: "", 2)
        await asyncio.sleep(0.01)
        first, second = pool.workers
        assert encoders.tokens_per_second == 0.0
        first.on_frame(EncoderLoad(tokens=500, busy=0.5), [])
        second.on_frame(EncoderLoad(tokens=1000, busy=1.0), [])
        second.on_frame(EncoderLoad(tokens=0, busy=0.0), [])  # an idle second says nothing
        assert encoders.tokens_per_second == 2000.0
        assert encoders.busy[cast(Worker, second)] == 0.0
        first.kill("exit", "x")
        await asyncio.sleep(0.01)
        assert encoders.tokens_per_second == 1000.0
        for task in pool.tasks:
            task.cancel()

    asyncio.run(body())
