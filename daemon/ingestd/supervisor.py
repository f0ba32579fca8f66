"""Worker processes: how one is started, spoken to, watched and killed.

Everything here runs in the thread of the event loop, since the parent-death signal of a worker follows the thread
that spawned it. Death is seen through a pidfd, never by end-of-file: a grandchild may hold the channel open.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

import ingestd
from ingestd import channel, process, service
from ingestd.async_channel import AsyncChannel
from ingestd.errors import ChannelError, ConfigError, IngestdError
from ingestd.messages import Ready, Start, StartFailed, Stop
from ingestd.messages.stages import FROM_WORKER
from ingestd.oom import OomKills
from ingestd.output import Output
from ingestd.worker import PAGE_SIZE, Page, one_line

log = logging.getLogger("ingestd.supervisor")

STACK_LIMIT = 16 * 1024
STOP_WAIT = 10.0
"""Seconds between the steps of the ladder: asked, SIGTERM, SIGKILL."""
ABANDON_AFTER = 5.0
"""Seconds after which a worker that survives SIGKILL (state D) is abandoned."""
FAULTS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP,
     signal.SIGXCPU, signal.SIGXFSZ}
)  # fmt: skip
KEPT_ENVIRONMENT = (
    "PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "HOME", "XDG_CACHE_HOME", "HF_HOME",
    "HF_HUB_CACHE", "HF_HUB_OFFLINE", "SENTENCE_TRANSFORMERS_HOME",
)  # fmt: skip
"""What a load worker keeps of the environment, with LC_* and PYTHON*: where the tokeniser lies, but no secret."""

Cause = Literal["limit", "fault", "exit", "protocol", "external", "stopped", "stuck"]


class WorkerDied(Exception):
    """A worker ended. `cause`: "limit" (killed for one of ours), "fault" (a signal like SIGSEGV), "exit",
    "protocol" (a bad frame), "external" (killed by somebody else), "stopped" (by the supervisor's own will), "stuck"
    (it survives SIGKILL, in state D, and is dead to us)."""

    def __init__(self, cause: Cause, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason
        self.detail = detail


class StartError(IngestdError):
    """A worker died, or gave up, before it was ready.

    `fatal`: trying again would not help. `passing`: it will. `away`: it will once a server answers again. `outside`:
    somebody killed it, which says little about the next one.
    """

    def __init__(
        self, message: str, *, fatal: bool = False, passing: bool = False, away: bool = False, outside: bool = False,
        command: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, command=command)
        self.outside = outside
        self.fatal = fatal
        self.passing = passing
        self.away = away


class WrongStartError(StartError, ConfigError):
    """A worker cannot start with what is configured, or installed."""


class Worker:
    """One worker process and the channel to it."""

    def __init__(self, stage: str, token: str, scratch: Path) -> None:
        self.stage = stage
        self.token = token
        self.scratch = scratch
        self.pid = 0
        self.slot = 0
        """Number of the slot that keeps it."""
        self.info: dict[str, Any] = {}
        self.served = 0
        """Jobs done, for recycling."""
        self.leaving = False
        """It is to be replaced before its next job."""
        self.state = "starting"
        self.survivors: list[int] = []
        """Process ids of its family that survived SIGKILL; known once it was ended."""
        self.still = False
        """It works, but has made no step for a while."""
        self.last_frame = time.monotonic()
        self.on_frame: Callable[[Any, list[int]], None] | None = None
        """Gets the frames that answer no question."""
        self._expected: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._death: tuple[Cause, str] | None = None
        self._killing: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._output = Output(stage)

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self, settings: Mapping[str, Any], timeout: float) -> None:
        """Spawn it and wait until it is ready. Raises `StartError`."""
        self._loop = asyncio.get_running_loop()
        oom_kills()
        self.died: asyncio.Future[WorkerDied] = self._loop.create_future()
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._words: StartFailed | None = None
        self._spawn()
        start = Start(
            stage=self.stage,
            version=ingestd.__version__,
            sys_path=[entry for entry in sys.path if entry],
            scratch=str(self.scratch),
            settings=dict(settings),
        )
        try:
            await self._send_start(start)
            waits: set[asyncio.Future[Any]] = {self._ready, self.died}
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except ConnectionError:
            await asyncio.wait({self.died}, timeout=timeout)
        except BaseException:
            await self.end("its start was given up")
            raise
        if self._ready.done() and not self.died.done():
            frame = self._ready.result()
            self.info = frame.info
            self.state = "idle"
            return
        outside = False
        if self.died.done():
            outside = self.died.result().cause == "external"
            reason = self._words.reason if self._words else f"{self.died.result().reason}{self._last_words}"
        else:
            reason = f"was not ready within {timeout:.0f} s{self._last_words}"
        if not self._words and (place := self.progress()[1]):
            reason = f"{place}: {reason}"
        await self.end("it did not start")
        kind = WrongStartError if self._words and self._words.wrong else StartError
        raise kind(
            f"the {self.stage} worker cannot start: {reason}",
            fatal=bool(self._words and self._words.fatal),
            away=bool(self._words and self._words.away),
            outside=outside,
            command=self._words.command if self._words else None,
        )

    async def _send_start(self, start: Start) -> None:
        """Settings that no frame holds (thousands of paths to read) go beside it."""
        packed = msgspec.msgpack.encode(start.settings)
        if len(packed) < channel.FRAME_LIMIT // 2:
            await self.channel.send(start)
            return
        blob = channel.write_blob([packed], self.scratch)
        try:
            await self.channel.send(msgspec.structs.replace(start, settings={}), [blob])
        finally:
            os.close(blob)

    def _spawn(self) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs_alone:
            try:
                ours, theirs = channel.pair()
                undo.callback(ours.close)
                theirs_alone.callback(theirs.close)
                output, out_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                undo.callback(os.close, output)
                theirs_alone.callback(os.close, out_write)
                os.set_blocking(out_write, True)
                self._page_fd = os.memfd_create("ingestd-page", os.MFD_CLOEXEC)
                undo.callback(os.close, self._page_fd)
                self._stack = os.memfd_create("ingestd-stack", os.MFD_CLOEXEC)
                undo.callback(os.close, self._stack)
                os.ftruncate(self._page_fd, PAGE_SIZE)
                self._page = Page(self._page_fd)
                undo.callback(self._page.close)
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ingestd.worker", str(theirs.fileno()), str(self._page_fd),
                     str(self._stack), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=out_write,
                    stderr=out_write,
                    cwd="/",
                    env=self._environment(),
                    pass_fds=(theirs.fileno(), self._page_fd, self._stack),
                    start_new_session=True,
                )  # fmt: skip
                undo.callback(self._process.kill)
                self.pid = self._process.pid
                self._pidfd = os.pidfd_open(self.pid)
            except OSError as error:  # no more processes or descriptors to be had
                raise StartError(f"the {self.stage} worker cannot be spawned: {error}") from error
            undo.pop_all()
        self.channel: AsyncChannel[Any] = AsyncChannel(ours, FROM_WORKER[self.stage])
        self.channel.listen(self._received, self._channel_ended)
        self._output.listen(output, self.pid)
        self._loop.add_reader(self._pidfd, self._exited)

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in service.VARIABLES}
        if self.stage == "load":
            environment = {
                name: value
                for name, value in environment.items()
                if name in KEPT_ENVIRONMENT or name.startswith(("LC_", "PYTHON"))
            }
            environment["TMPDIR"] = str(self.scratch)
        # One thread a process: two processes of one thread beat one of two.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = "1"
        environment["TOKENIZERS_PARALLELISM"] = "false"
        environment["INGESTD_WORKER"] = self.token
        return environment

    async def end(self, reason: str = "it is not needed any more") -> None:
        """Kill it, if it still lives, and everything that it started; release what belongs to it.

        That is done once, however often it is asked for, and to its end, though the caller may be cancelled.
        """
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(reason))
        await asyncio.shield(self._ending)

    async def _end(self, reason: str) -> None:
        self.kill("stopped", reason)
        if self._killing is not None:
            await self._killing
        # Once more: a worker that died by itself may have left something behind.
        survivors = await asyncio.to_thread(process.destroy, self.pid, self.token)
        if survivors:
            log.error("%s worker %d survives SIGKILL: %s is abandoned", self.stage, self.pid, survivors)
            self.survivors = survivors
            if self.stage != "watch":  # it is not replaced, so it can hold up nobody but its own sources
                abandoned.extend(survivors)
        self._output.close()
        if self._process.returncode is None:  # abandoned
            self._loop.add_reader(self._pidfd, self._reap)
        self._reap()
        self._page.close()
        os.close(self._page_fd)
        os.close(self._stack)
        self.channel.close()
        await asyncio.to_thread(remove_tree, self.scratch)

    def _reap(self) -> None:
        """Once it is dead at last, nothing of it is left, not even its number."""
        if self._process.poll() is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            abandoned[:] = [pid for pid in abandoned if pid != self.pid]

    async def stop(self) -> None:
        """The ladder: ask, wait, SIGTERM, wait, SIGKILL.

        A load worker has nothing to finish, and maybe children; a watch worker neither, and it may hang in a `stat`.
        """
        if not self.died.done() and self.stage not in ("load", "watch"):
            self.leaving = True
            try:
                self._death = ("stopped", "it was asked to stop")
                async with asyncio.timeout(STOP_WAIT):
                    await self.channel.send(Stop())
                await asyncio.wait({self.died}, timeout=STOP_WAIT)
                if not self.died.done():
                    os.kill(self.pid, signal.SIGTERM)
                    await asyncio.wait({self.died}, timeout=STOP_WAIT / 5)
            except (ConnectionError, ProcessLookupError, TimeoutError):
                pass
        await self.end()

    def kill(self, cause: Cause, reason: str) -> None:
        """SIGKILL to the worker and everything below it, while its children can be told by their parent."""
        if not self.died.done() and self._killing is None:
            self._death = self._death or (cause, reason)
            self._killing = asyncio.ensure_future(self._destroy(reason))

    async def _destroy(self, reason: str) -> None:
        await asyncio.to_thread(process.destroy, self.pid, self.token)
        await asyncio.wait({self.died}, timeout=ABANDON_AFTER)
        self._gone(WorkerDied("stuck", f"survives SIGKILL, {reason}"))

    def capture_stack(self) -> None:
        """Ask for the stacks of all its threads; they are in `stack` a moment later. Works while C code hangs."""
        try:
            os.kill(self.pid, signal.SIGUSR1)
        except ProcessLookupError:
            pass

    @property
    def stack(self) -> str:
        return os.pread(self._stack, STACK_LIMIT, 0).decode("utf-8", "replace")

    def progress(self, limit: int = 200) -> tuple[int, str]:
        """Steps so far, and where the last one was, in `limit` characters at most."""
        counter, place = self._page.read()
        return counter, one_line(place, limit)

    @property
    def output(self) -> str:
        """The end of what it printed with the file in hand, while it lives."""
        self._output.read()
        return self._output.tail

    @property
    def _last_words(self) -> str:
        return f": {self._output.last_line}" if self._output.last_line else ""

    @property
    def path(self) -> bytes | None:
        """What it works on, for status and for the log lines of its output."""
        return self._output.path

    @path.setter
    def path(self, path: bytes | None) -> None:
        if self.pid and not self.died.done():  # what it has printed until now belongs to what it had until now
            self._output.finish()
        self._output.path = path

    def forget_output(self) -> None:
        """A new file begins: what was printed before is not its doing."""
        self._output.forget()

    def detail(self) -> str:
        """For `why`: last place, stack, and the tail of the output."""
        _, place = self.progress()
        parts = []
        if place:
            parts.append(f"last element: {place}")
        if stack := self.stack.strip():
            parts.append(f"stack:\n{stack}")
        if output := self._output.tail:
            parts.append(f"output:\n{output}")
        return "\n".join(parts)

    # --- talk -------------------------------------------------------------------------------------------------

    async def call(self, frame: Any, descriptors: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """Send a frame that has a `job` and wait for the next frame of that job. Raises `WorkerDied`.

        The caller owns the descriptors of the answer.
        """
        answer = await self.ask(frame, descriptors)
        return await answer

    async def ask(self, frame: Any, descriptors: Sequence[int] = ()) -> asyncio.Future[tuple[Any, list[int]]]:
        """Like `call`, but gives the future of the answer as soon as the frame is sent."""
        if self.died.done():
            raise self.died.result()
        future: asyncio.Future[tuple[Any, list[int]]] = self._loop.create_future()
        self._expected[frame.job] = future
        try:
            await self.channel.send(frame, descriptors)
        except ConnectionError:
            pass  # its death fails the future
        except BaseException:
            self._expected.pop(frame.job, None)
            raise
        return future

    async def send(self, frame: Any) -> None:
        """Send a frame that has no answer. Raises `WorkerDied`."""
        try:
            await self.channel.send(frame)
        except ConnectionError:
            raise await asyncio.shield(self.died) from None

    def _received(self, frame: Any, descriptors: list[int]) -> None:
        self.last_frame = time.monotonic()
        if isinstance(frame, Ready) and not self._ready.done():
            self._ready.set_result(frame)
        elif isinstance(frame, StartFailed):
            self._words = frame
        else:
            future = self._expected.pop(getattr(frame, "job", None) or 0, None)
            if future is not None and not future.done():
                future.set_result((frame, descriptors))
                return
            if future is None and self.on_frame is not None:
                self.on_frame(frame, descriptors)
                return
            if future is None:
                self.kill("protocol", f"sent a {type(frame).__name__} frame that nobody asked for")
        for descriptor in descriptors:
            os.close(descriptor)

    def _channel_ended(self, error: ChannelError | None) -> None:
        if error is not None:
            self.kill("protocol", f"sent {error.message}")
        else:
            # An exiting process closes its channel a moment before its death is seen.
            self._loop.call_later(1.0, self.kill, "exit", "closed its channel")

    def _exited(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._loop.remove_reader(self._pidfd)
        self._output.finish()
        if self._death is not None:
            cause, reason = self._death
        elif status >= 0:
            cause, reason = "exit", f"exit code {status}"
            if self._words is not None and self._ready.done():
                reason = self._words.reason
        elif -status in FAULTS:
            cause, reason = "fault", process.exit_reason(status)
        elif status == -signal.SIGKILL and oom_kills().fresh():
            cause, reason = "limit", "killed by the kernel, which was out of memory (for this service, or at all)"
        else:
            cause, reason = "external", f"killed from outside by {process.exit_reason(status)}"
        self.channel.drain()  # what it sent before it died still counts
        self._gone(WorkerDied(cause, reason))

    def _gone(self, death: WorkerDied) -> None:
        if self.died.done():
            return
        death.detail = self.detail()
        self.state = "dead"
        self.died.set_result(death)
        for future in self._expected.values():
            if not future.done():
                future.set_exception(death)
        self._expected.clear()


@functools.cache
def oom_kills() -> OomKills:
    """One count for all workers; it begins with the first of them."""
    return OomKills()


abandoned: list[int] = []
"""Process ids that survived SIGKILL."""


def remove_tree(path: Path) -> None:
    """Remove a scratch directory, whatever a loader left in it (deep trees, no permissions)."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        subprocess.run(["chmod", "-R", "u+rwx", str(path)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=False, capture_output=True)
