"""Worker processes and the slots that keep them alive, with a stage made for the purpose."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestd import output, process, slots, supervisor
from ingestd.messages.encode import EncodeQuery, QueryVector
from ingestd.messages.probe import Manifest
from ingestd.messages.stages import FROM_WORKER, Opening
from ingestd.slots import Pool, Turns
from ingestd.supervisor import StartError, Worker, WorkerDied

TRIAL = """
import ctypes, os, signal, socket, subprocess, sys, time
from ingestd import process
from ingestd.errors import IngestdError
from ingestd.messages import Stop
from ingestd.messages.encode import QueryVector
from ingestd.worker import ready, step

def serve(channel, start):
    match start.settings.get("do"):
        case "refuse":
            raise IngestdError("no luck today", command="ingestd check-config")
        case "raise":
            raise ValueError("a bug\\nof two lines")
        case "exit":
            print("last words", flush=True)
            os._exit(4)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            print("still trying", flush=True)
            time.sleep(1000)
    process.become_subreaper()
    ready(channel, pid=os.getpid(), size=len(start.settings.get("bulk", ())))
    while True:
        frame, _ = channel.receive()
        if isinstance(frame, Stop):
            if start.settings.get("do") == "stay":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(1000)
            return
        word, _, rest = frame.text.partition(" ")
        step(f"at {frame.text}")
        answer = b""
        match word:
            case "echo":
                answer = rest.encode()
            case "exit":
                os._exit(int(rest))
            case "signal":
                os.kill(os.getpid(), int(rest))
            case "print":
                for number in range(int(rest)):
                    print(f"line {number} \\x1b[31m")
                sys.stdout.flush()
            case "children":
                pids = []
                for environment in ({}, dict(os.environ)):
                    read, write = os.pipe()
                    if os.fork() == 0:
                        os.setsid()
                        if os.fork() == 0:
                            os.write(write, str(os.getpid()).encode())
                            os.execve("/bin/sleep", ["sleep", "1000"], environment)
                        os._exit(0)
                    pids.append(os.read(read, 100))
                answer = b" ".join(pids)
            case "garbage":
                socket.socket(fileno=os.dup(int(sys.argv[1]))).send(b"\\xc1")
                time.sleep(1000)
            case "unasked":
                channel.send(QueryVector(job=999, vector=b""))
                time.sleep(1000)
            case "hang":
                while True:  # a signal wakes it
                    ctypes.PyDLL(None).sleep(1000)
        channel.send(QueryVector(job=frame.job, vector=answer))
"""
FINDER = """
import sys
from importlib.util import spec_from_file_location

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "ingestd.trial":
            return spec_from_file_location(name, {path!r})

sys.meta_path.append(Finder)
"""


@pytest.fixture(scope="module", autouse=True)
def trial_stage(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stage of its own, so that no library is imported: its workers start in a moment."""
    directory = tmp_path_factory.mktemp("trial")
    (directory / "trial.py").write_text(TRIAL)
    (directory / "sitecustomize.py").write_text(FINDER.format(path=str(directory / "trial.py")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)
        patch.setitem(FROM_WORKER, "trial", Opening | QueryVector)
        yield


def descriptors() -> list[str]:
    gc.collect()  # what earlier tests left is not to disappear just now
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}").split(":")[0])
    return sorted(found)


def children() -> list[int]:
    """Zombies included."""
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


class Team:
    """Pools and workers of one test, ended with it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.pools: list[Pool] = []
        self.workers: list[Worker] = []
        self.prefix = f"trial{os.getpid()}.{scratch.name}"

    def worker(self) -> Worker:
        number = len(self.workers)
        scratch = self.scratch / str(number)
        scratch.mkdir()
        worker = Worker("trial", f"{self.prefix}.{number}", scratch)
        self.workers.append(worker)
        return worker

    async def started(self, **settings: Any) -> Worker:
        worker = self.worker()
        await worker.start(settings, 30)
        return worker

    def pool(self, size: int, settings: Callable[[int], dict[str, Any]], serve: Any, **options: Any) -> Pool:
        pool = Pool("trial", size, settings, serve, self.scratch, f"{self.prefix}p{len(self.pools)}", **options)
        self.pools.append(pool)
        pool.open()
        return pool


def with_team(path: Path, body: Callable[[Team], Awaitable[None]]) -> None:
    async def run() -> None:
        team = Team(path)
        try:
            await body(team)
        finally:
            for pool in team.pools:
                await pool.close()
            for worker in team.workers:
                if worker.pid and worker.channel.socket.fileno() >= 0:
                    await worker.end()

    asyncio.run(run())


async def ask(worker: Worker, text: str) -> bytes:
    answer, _ = await worker.call(EncodeQuery(job=1, text=text))
    assert isinstance(answer, QueryVector)
    return answer.vector


async def until(condition: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def until_dead(worker: Worker) -> None:
    """A way to serve: nothing is done, until it dies or is to leave."""
    while not worker.leaving:
        await asyncio.wait({worker.died}, timeout=0.02)
        if worker.died.done():
            raise worker.died.result()


# --- one worker -----------------------------------------------------------------------------------------------


def test_a_worker_starts_answers_and_stops(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        worker = await team.started()
        assert worker.info["pid"] == worker.pid
        assert os.getsid(worker.pid) == worker.pid
        assert Path(f"/proc/{worker.pid}/cwd").resolve() == Path("/")
        assert await ask(worker, "echo 你好") == "你好".encode()
        assert worker.progress()[1] == "at echo 你好"
        await worker.stop()
        assert (worker.died.result().cause, worker.state) == ("stopped", "dead")
        assert not worker.scratch.exists()

    with_team(tmp_path, body)


def test_settings_that_no_frame_holds(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        worker = await team.started(bulk=[f"/a/path/of/some/length/{number}" for number in range(20_000)])
        assert worker.info["size"] == 20_000

    with_team(tmp_path, body)


@pytest.mark.parametrize(
    ("do", "words", "fatal"),
    [
        ("refuse", r"^the trial worker cannot start: no luck today$", True),
        ("raise", r"cannot start: ValueError: a bug of two lines", False),
        ("exit", r"cannot start: exit code 4: last words", False),
        ("hang", r"was not ready within 2 s: still trying", False),
    ],
)
def test_a_start_that_fails_says_why(tmp_path: Path, do: str, words: str, fatal: bool) -> None:
    async def body(team: Team) -> None:
        before = descriptors()
        worker = team.worker()
        with pytest.raises(StartError, match=words) as caught:
            await worker.start({"do": do}, 2 if do == "hang" else 30)
        assert caught.value.fatal == fatal
        assert caught.value.command == ("ingestd check-config" if fatal else None)
        assert not process.is_alive(worker.pid)
        assert not worker.scratch.exists()
        assert descriptors() == before

    with_team(tmp_path, body)


def test_a_worker_that_cannot_be_spawned_leaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(team: Team) -> None:
        before = descriptors()
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(StartError, match=r"cannot be spawned: .*No such file"):
            await team.worker().start({}, 30)
        assert descriptors() == before

    with_team(tmp_path, body)


@pytest.mark.parametrize(
    ("command", "cause", "words"),
    [
        ("exit 3", "exit", "exit code 3"),
        ("exit 0", "exit", "exit code 0"),
        ("signal 11", "fault", "SIGSEGV"),
        ("signal 6", "fault", "SIGABRT"),
        ("signal 9", "external", "killed from outside by SIGKILL"),
        ("signal 15", "external", "killed from outside by SIGTERM"),
        ("garbage", "protocol", "sent a bad frame"),
        ("unasked", "protocol", "sent a QueryVector frame that nobody asked for"),
    ],
)
def test_every_death_has_a_cause(tmp_path: Path, command: str, cause: str, words: str) -> None:
    async def body(team: Team) -> None:
        worker = await team.started()
        with pytest.raises(WorkerDied) as caught:
            await ask(worker, command)
        assert (caught.value.cause, words in caught.value.reason) == (cause, True), caught.value.reason
        assert f"last element: at {command}" in caught.value.detail
        with pytest.raises(WorkerDied):
            await ask(worker, "echo x")

    with_team(tmp_path, body)


def test_a_hang_in_c_is_killed_with_its_stack(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        worker = await team.started()
        call = asyncio.create_task(ask(worker, "hang"))
        await until(lambda: worker.progress()[1] == "at hang")
        worker.capture_stack()
        await until(lambda: worker.stack)
        worker.kill("limit", "deadline of 1 s exceeded")
        with pytest.raises(WorkerDied, match="deadline of 1 s") as caught:
            await call
        assert caught.value.cause == "limit"
        assert "in serve" in caught.value.detail

    with_team(tmp_path, body)


def test_everything_that_a_worker_started_dies_with_it(tmp_path: Path) -> None:
    """Double-forked children in sessions of their own, one of them without the token."""

    async def body(team: Team) -> None:
        worker = await team.started()
        pids = [int(pid) for pid in (await ask(worker, "children")).split()]
        assert [process.is_alive(pid) for pid in pids] == [True, True]
        await worker.end()
        assert not any(process.is_alive(pid) for pid in pids)

    with_team(tmp_path, body)


def test_a_worker_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_WAIT", 0.3)

    async def body(team: Team) -> None:
        worker = await team.started(do="stay")
        await worker.stop()
        assert not process.is_alive(worker.pid)

    with_team(tmp_path, body)


def test_output_is_kept_and_logged_in_bounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ingestd.supervisor")

    async def body(team: Team) -> None:
        worker = await team.started()
        worker.path = b"/docs/\xff.pdf"
        began = time.monotonic()
        await ask(worker, "print 20000")
        await until(lambda: "line 19999" in worker.detail())
        allowed = output.LINES_PER_SECOND * (time.monotonic() - began + 2)
        assert len(worker.detail()) < output.TAIL + 200
        lines = [record.getMessage() for record in caplog.records]
        assert 10 <= len(lines) <= allowed
        assert lines[0] == f"trial worker {worker.pid} (/docs/�.pdf): line 0 [31m"
        await asyncio.sleep(0.2)
        await ask(worker, "print 1")
        await until(lambda: any("lines left out" in record.getMessage() for record in caplog.records))
        worker.forget_output()
        assert "output" not in worker.detail()

    with_team(tmp_path, body)


# --- pools ----------------------------------------------------------------------------------------------------


def test_a_stage_that_cannot_start_says_so_and_goes_on_trying(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        starts: list[float] = []
        broken = True

        def settings(number: int) -> dict[str, Any]:
            starts.append(time.monotonic())
            return {"do": "exit" if broken else ""}

        pool = team.pool(1, settings, until_dead)
        error = await asyncio.wait_for(pool.failed, 60)
        assert "cannot start: exit code 4" in error.message
        assert pool.trouble == error.message
        assert len(starts) == slots.START_ATTEMPTS
        assert starts[2] - starts[1] > 0.4  # it backs off
        assert not pool.ready.is_set()
        broken = False
        await asyncio.wait_for(pool.ready.wait(), 30)
        assert pool.trouble is None

    with_team(tmp_path, body)


def test_kills_from_outside_do_not_break_a_stage_at_once(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        starts: list[int] = []

        def settings(number: int) -> dict[str, Any]:
            starts.append(number)
            return {"do": "die" if len(starts) <= slots.START_ATTEMPTS + 1 else ""}

        pool = team.pool(1, settings, until_dead)
        await asyncio.wait_for(pool.ready.wait(), 60)
        assert not pool.failed.done()
        assert pool.trouble is None

    with_team(tmp_path, body)


def test_kills_from_outside_that_do_not_end_break_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "OUTSIDE_ATTEMPTS", 4)

    async def body(team: Team) -> None:
        pool = team.pool(1, lambda _: {"do": "die"}, until_dead)
        error = await asyncio.wait_for(pool.failed, 60)
        assert "cannot start: killed from outside by SIGKILL" in error.message

    with_team(tmp_path, body)


def test_a_fatal_start_is_told_at_once(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        pool = team.pool(1, lambda _: {"do": "refuse"}, until_dead)
        error = await asyncio.wait_for(pool.failed, 30)
        assert (error.fatal, error.command) == (True, "ingestd check-config")

    with_team(tmp_path, body)


def test_a_defect_of_the_supervisor_is_told_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(team: Team) -> None:
        def settings(number: int) -> dict[str, Any]:
            raise KeyError("fingerprint")

        pool = team.pool(1, settings, until_dead)
        assert "KeyError('fingerprint')" in (await asyncio.wait_for(pool.failed, 5)).message

    with_team(tmp_path, body)


def in_turn(turns: Turns, jobs: list[str], done: list[tuple[str, Worker]]) -> Callable[[Worker], Awaitable[None]]:
    """A way to serve: the jobs one after the other, by whoever's turn it is."""

    async def serve(worker: Worker) -> None:
        while not worker.leaving:
            with turns.waiting(worker):
                while not (jobs and turns.first(worker)):
                    await asyncio.wait({worker.died}, timeout=0.02)
                    if worker.died.done():
                        raise worker.died.result()
                turns.working.add(worker)
            worker.served += 1
            try:
                job = jobs.pop(0)
                await ask(worker, job)
                done.append((job, worker))
            finally:
                turns.working.discard(worker)

    return serve


def test_a_spare_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_WAIT", 0.3)

    async def body(team: Team) -> None:
        turns, done = Turns(1), list[tuple[str, Worker]]()
        jobs: list[str] = []
        pool = team.pool(1, lambda _: {}, in_turn(turns, jobs, done), spare=True)
        await until(lambda: len(pool.workers) == 2 and all(w.state == "idle" for w in pool.workers))
        jobs += [f"echo {number}" for number in range(10)]
        await until(lambda: len(done) == 10)
        assert len({worker for _, worker in done}) == 1, "the spare is left in peace"
        first = done[0][1]
        (spare,) = pool.workers - {first}
        # One that dies, busy or idle, is replaced by it at once, and has a successor soon.
        jobs += ["exit 3", "echo a"]
        await until(lambda: len(done) == 11)
        assert done[-1] == ("echo a", spare)
        await until(lambda: len(pool.workers) == 2 and first not in pool.workers)
        await until(lambda: all(w.state == "idle" for w in pool.workers))
        os.kill(spare.pid, signal.SIGKILL)
        await until(lambda: len(pool.workers) == 2 and spare not in pool.workers)
        # One that stands still costs the others nothing.
        await until(lambda: all(w.state == "idle" for w in pool.workers))
        jobs += ["hang", "echo b", "echo c"]
        await until(lambda: len(turns.working) == 1)
        (still,) = turns.working
        await asyncio.sleep(0.3)
        assert jobs == ["echo b", "echo c"], "only one at once"
        still.still = True
        await until(lambda: not jobs)
        assert done[-1][1] is not still

    with_team(tmp_path, body)


def test_idle_workers_that_die_are_replaced(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        pool = team.pool(1, lambda _: {}, in_turn(Turns(1), [], []), spare=True)
        await until(lambda: len(pool.workers) == 2 and all(w.state == "idle" for w in pool.workers))
        for victim in list(pool.workers):
            os.kill(victim.pid, signal.SIGKILL)
            await until(lambda: victim not in pool.workers)  # noqa: B023
        await until(lambda: len(pool.workers) == 2 and all(w.state == "idle" for w in pool.workers))

    with_team(tmp_path, body)


def test_renewal_replaces_every_worker(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        value = "old"

        async def serve(worker: Worker) -> None:
            worker.served = 1
            worker.path = await ask(worker, f"echo {worker.info['size']}")
            await until_dead(worker)

        pool = team.pool(2, lambda _: {"bulk": value}, serve, spare=True)
        await until(lambda: len(pool.workers) == 3 and all(w.state == "idle" for w in pool.workers))
        old = set(pool.workers)
        value = "brand new"
        pool.renew()
        await until(lambda: [w.path for w in pool.workers] == [b"9"] * 3 and not old & pool.workers)

    with_team(tmp_path, body)


def test_twenty_generations_leave_nothing_behind(tmp_path: Path) -> None:
    async def body(team: Team) -> None:
        deaths: list[str] = []
        end = asyncio.Event()

        async def serve(worker: Worker) -> None:
            worker.served = 1
            if len(deaths) >= 20:
                end.set()
                await until_dead(worker)
            ways = ["exit 1", "signal 9", "signal 11", "garbage", "children"]
            await ask(worker, ways[len(deaths) % len(ways)])
            worker.kill("limit", "a limit")
            await until_dead(worker)

        before, mine = descriptors(), children()
        pool = team.pool(1, lambda _: {}, serve, on_exit=lambda _, death: deaths.append(death.cause))
        await asyncio.wait_for(end.wait(), 120)
        assert pool.restarts == 20
        assert set(deaths) == {"exit", "external", "fault", "protocol", "limit"}
        await pool.close()
        assert descriptors() == before
        assert children() == mine
        assert list(tmp_path.iterdir()) == []

    with_team(tmp_path, body)


def test_without_standard_streams(tmp_path: Path) -> None:
    """A service may have closed 0, 1 and 2: no worker's channel may end up there."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import asyncio, os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from ingestd.messages.encode import EncodeQuery, QueryVector
from ingestd.messages.stages import FROM_WORKER, Opening
from ingestd.supervisor import Worker
FROM_WORKER["trial"] = Opening | QueryVector
async def main():
    worker = Worker("trial", "closed.1", Path({str(tmp_path)!r}) / "scratch")
    worker.scratch.mkdir()
    await worker.start({{}}, 30)
    answer, _ = await worker.call(EncodeQuery(job=1, text="echo fine"))
    await worker.call(EncodeQuery(job=2, text="print 5"))
    await worker.stop()
    Path({str(tmp_path)!r}, "out").write_bytes(answer.vector + b" " + worker.died.result().detail.encode())
asyncio.run(main())
"""
    )
    command = f"exec '{sys.executable}' '{script}' <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], timeout=60, check=False).returncode == 0
    out = (tmp_path / "out").read_text()
    assert out.startswith("fine")
    assert "line 4" in out


def test_frames_of_another_stage_are_refused(tmp_path: Path) -> None:
    """What a stage may send is its own: a manifest from anything but the probe kills its sender."""
    for stage, union in FROM_WORKER.items():
        decoder = msgspec.msgpack.Decoder(union)
        data = msgspec.msgpack.encode(Manifest(items=[], errors=[]))
        if stage == "probe":
            decoder.decode(data)
        else:
            with pytest.raises(msgspec.ValidationError):
                decoder.decode(data)
