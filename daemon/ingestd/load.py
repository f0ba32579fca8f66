"""The load worker: one file at a time is opened, identified, parsed, split and tokenised, under limits and sandbox."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat as stat_module
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from ingestd import process, sandbox
from ingestd.channel import FRAME_LIMIT, Channel, encode, read_blob, write_blob
from ingestd.chunk import Chunker
from ingestd.contract import Inspection
from ingestd.detect import Detected, Detector
from ingestd.digest import BLOCK, digest_of
from ingestd.encode import pack_tokens
from ingestd.errors import FileError, IngestdError, LimitError, MissingError
from ingestd.messages import Start, Stop
from ingestd.messages.load import UNKNOWN_TOKENS, Drop, Identified, Load, Loaded, LoadFailed, Proceed, Stat, journaled
from ingestd.paths import PATH_MAX, open_long, stat_long
from ingestd.plugins import Registry, discover, lacks
from ingestd.reading import Reading
from ingestd.types import Allowance, File, Loader, display
from ingestd.unpack import Unpacking, fetch
from ingestd.worker import describe, one_line, ready, step

UNKNOWN_SHARE = 0.3
"""Share of unknown tokens above which a document is indexed with a warning."""
OPEN_FILES = 512
CHANGED = "it changed while it was read"
UMASK = 0o077


def serve(channel: Channel[Any], start: Start) -> None:
    """Settings: see `stages.Stages.load_settings`."""
    settings = start.settings
    blocked = settings.get("blocked", ())
    registry = discover("loaders", "engines", block=blocked, trying=lambda name: step(f"importing plugin {name}"))
    engine = registry.engines.get(settings["engine"])
    if engine is None:
        raise IngestdError(f"there is no engine {settings['engine']!r}; installed: {', '.join(registry.engines)}")
    step(f"the tokeniser of {registry.called('engine', engine.name)}")
    tokenizer = engine.tokenizer(settings["model"])
    prompt = settings["passage_prompt"]
    chunker = Chunker(
        tokenizer,
        max_tokens=settings["max_tokens"],
        overlap=settings["overlap"],
        prompt=tokenizer.passage_prompt if prompt is None else prompt,
    )
    os.environ["HOME"] = start.scratch  # what libraries put there is this worker's alone
    detector = Detector(registry.loaders, settings["suffixes"], settings["disabled"])
    # What a library prints or warns of is caught by the supervisor with the file's name; it is not an error here.
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING)
    sandbox.limit(settings["memory"], settings["file_size"], OPEN_FILES)
    report = sandbox.enter(
        sandbox.Policy(
            read=[os.fsdecode(path) for path in settings["read"]],
            write=[start.scratch],
            exclude=list(settings["exclude"]),
            sockets=settings["sockets"],
            mode=settings["sandbox"],
        )
    )
    process.become_subreaper()
    worker = LoadWorker(channel, registry, detector, chunker)
    ready(channel, sandbox=report.info())
    worker.run()


class LoadWorker:
    """The loop, and what must be the same after a file as before it."""

    def __init__(self, channel: Channel[Any], registry: Registry, detector: Detector, chunker: Chunker) -> None:
        self.channel = channel
        self.loaders = registry.loaders
        self.versions = registry.versions
        self.detector = detector
        self.chunker = chunker
        self.pid = os.getpid()
        self.inspection: Inspection | None = None
        os.umask(UMASK)
        self.fit = self._condition()

    def run(self) -> None:
        while True:
            frame, descriptors = self.channel.receive()
            try:
                if isinstance(frame, Stop):
                    return
                if isinstance(frame, Load):
                    self._job(frame, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _job(self, job: Load, content: Sequence[int]) -> None:
        """`content`: a descriptor, where the file is a part of another one."""
        scratch = Path(job.scratch)
        answer: Loaded | LoadFailed | None
        descriptors: list[int] = []
        leave = False
        self.inspection = None
        try:
            scratch.mkdir(mode=0o700)
            answer, descriptors = self._load(job, content, scratch)
        except MemoryError as error:
            leave = True
            answer = LoadFailed(job=job.job, kind="memory", reason=describe(error))
        except BaseException as error:
            answer = failure(job.job, error)
            if isinstance(error, PermissionError) and sandbox.denies(job.path):
                # It appeared where this worker's sandbox, a snapshot, does not reach: the next one sees it.
                leave = True
                answer = LoadFailed(job=job.job, kind="changed", reason="it lies outside this worker's sandbox")
        if os.getpid() != self.pid:  # a child that a loader forked ran on into this loop
            os._exit(1)
        if answer is None:
            return
        self._clean(scratch)
        if self.inspection is not None:
            descriptors.append(write_blob([msgspec.msgpack.encode(self.inspection.yielded())], scratch.parent))
        if leave or self._condition() != self.fit or self._children():
            answer = msgspec.structs.replace(answer, leave=True)
        try:
            self.channel.send(shorten(answer), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _open(self, job: Load, content: Sequence[int], scratch: Path) -> int:
        step("opening")
        if job.member:
            target = scratch / "content"
            fetch(content[0], job.offset, job.size, target)
            return os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        links = 0 if job.follow_links else os.O_NOFOLLOW
        return open_long(job.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | links)

    def _load(self, job: Load, content: Sequence[int], scratch: Path) -> tuple[Loaded | LoadFailed | None, list[int]]:
        descriptor = self._open(job, content, scratch)
        with os.fdopen(descriptor, "rb") as stream:
            before = os.fstat(descriptor)
            if not stat_module.S_ISREG(before.st_mode):
                raise FileError("not a regular file")
            digest = digest_of(stream)
            if job.member and digest != job.digest:
                return LoadFailed(job=job.job, kind="changed", reason="it is not what was unpacked"), []
            step("detecting the type")
            detected = self.detector.detect(stream, name_of(job))
            if job.loader is not None:
                detected = chosen(detected, self.loaders[job.loader])
            stream.seek(0)
            loader = self.loaders[detected.loader] if detected.loader is not None else None
            self.channel.send(
                Identified(
                    job=job.job,
                    stat=stat_of(before),
                    digest=digest,
                    media_type=detected.media_type,
                    loader=detected.loader,
                    loader_version=self.versions[loader.name] if loader else "",
                )
            )
            try:
                answer, descriptors = self.channel.receive()
            except EOFError:  # of the channel: one that a loader raises is the file's
                os._exit(0)
            if isinstance(answer, Drop) or loader is None:
                self._clean(scratch)
                return None, []
            assert isinstance(answer, Proceed)
            known = read_blob(descriptors[0]) if descriptors else b""
            parts = read_blob(descriptors[1]) if descriptors[1:] else b""
            recollection = read_blob(descriptors[2]) if descriptors[2:] else b""
            if missing := lacks(loader):
                raise MissingError(f"needs {missing}")
            file, cut = open_file(job, scratch, stream, detected, answer)
            if answer.show:
                self.inspection = Inspection(answer.show)
            unpacking = Unpacking(self.channel, answer, parts, self.detector, self.versions, scratch.parent)
            reading = Reading(file, loader, answer.limits, cut, unpacking, self.inspection, recollection)
            try:
                chunked = self.chunker.chunk(reading.elements(), {known[i : i + 16] for i in range(0, len(known), 16)})
            except Exception as error:
                moved = whereabouts(job, before)
                if moved is not None and not is_full(error):
                    return LoadFailed(job=job.job, kind=moved, reason=CHANGED), []  # it met another file, or none
                if answer.limits.get("accept_changed") or not changed(descriptor, before):
                    raise
                return LoadFailed(job=job.job, kind="changed", reason=CHANGED), []  # half of it was another file's
            finally:
                unpacking.close()
            was_changed = changed(descriptor, before) or whereabouts(job, before) == "changed"
            if was_changed and not answer.limits.get("accept_changed"):
                return LoadFailed(job=job.job, kind="changed", reason=CHANGED), []
        if was_changed:
            file.warn(CHANGED)
        if chunked.unknown_share > UNKNOWN_SHARE:
            file.warn(
                f"{chunked.unknown_share:.0%} of the {UNKNOWN_TOKENS}: it may not know this language;"
                " a multilingual model finds more"
            )
        if not chunked.chunks and not file.allowance.parts:
            file.warn("no text was found")
        step("handing over")
        chunks = msgspec.msgpack.encode(chunked.chunks)
        tokens = pack_tokens(chunked.tokens)
        own = Path(job.scratch).parent
        blobs: list[int] = []
        try:
            new = b"" if recollection or reading.partial or was_changed or answer.show else reading.recollection
            for part in (chunks, tokens, chunked.hashes, *([new] if new else [])):
                blobs.append(write_blob([part], own))
        except BaseException:
            for blob in blobs:
                os.close(blob)
            raise
        return Loaded(
            job=job.job,
            chunks=len(chunked.chunks),
            fresh=len(chunked.tokens),
            tokens=len(chunked.tokens.ids),
            size=len(chunks) + len(tokens),
            title=one_line(file.title or chunked.title or "", 300) or None,
            partial=reading.partial,
            warnings=[one_line(warning) for warning in file.warnings],
            metadata=plain(file.metadata),
            changed=was_changed,
            remember=bool(new),
        ), blobs

    def _clean(self, scratch: Path) -> None:
        shutil.rmtree(scratch, ignore_errors=True)

    def _condition(self) -> tuple[Any, ...]:
        """What a loader could leave changed for the next file."""
        handlers = tuple(
            signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE)
        )
        signal.setitimer(signal.ITIMER_REAL, 0)
        streams = []
        for descriptor in (0, 1, 2):
            try:
                streams.append(os.fstat(descriptor).st_ino)
            except OSError:
                streams.append(-1)
        try:
            directory = os.getcwd()
        except OSError:
            directory = ""
        return handlers, streams, directory, threading.active_count(), os.umask(UMASK)

    def _children(self) -> bool:
        """Whether a process that the loader started still lives; dead ones are reaped."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True


def chosen(detected: Detected, loader: Loader) -> Detected:
    """The file as this loader is to see it, whoever it would go to otherwise."""
    suffix = detected.suffix
    if suffix not in loader.suffixes and loader.suffixes:
        suffix = loader.suffixes[0]
    return detected._replace(loader=loader.name, suffix=suffix)


def open_file(
    job: Load, scratch: Path, stream: BinaryIO, detected: Detected, proceed: Proceed
) -> tuple[File, str | None]:
    """The loader's view of the file: an ASCII alias with the suffix of what it is, whatever its name says.

    Beside it the reason why it is only the beginning of the file, where that is so.
    """
    suffix = detected.suffix
    alias = scratch / f"file{suffix if suffix.isascii() and suffix.isprintable() and '/' not in suffix else ''}"
    size = os.fstat(stream.fileno()).st_size
    limit = proceed.limits["max_file_size"]
    partial = None
    if size > limit:
        partial = f"larger than max_file_size: {size} bytes, the limit is {limit}"
        if proceed.limits["on_limit"] == "quarantine" or not detected.media_type.startswith("text/"):
            raise LimitError(partial)
        with alias.open("wb") as head:
            while head.tell() < limit and (block := stream.read(min(BLOCK, limit - head.tell()))):
                head.write(block)
    else:
        # Through the open descriptor where the path is too long for a link: the name stays valid in this process.
        target = job.path if len(job.path) < PATH_MAX else b"/proc/self/fd/%d" % stream.fileno()
        target = os.fsencode(scratch / "content") if job.member else target
        os.symlink(target, os.fsencode(alias))
    own = scratch / "own"
    own.mkdir(mode=0o700)
    file = File(
        path=alias,
        name=name_of(job),
        suffix=suffix,
        media_type=detected.media_type,
        size=size,
        scratch=own,
        options=proceed.options,
        allowance=Allowance(
            count=proceed.limits["max_parts"],
            size=proceed.limits["max_parts_size"],
            part=limit,
            ratio=proceed.limits["max_parts_ratio"],
            deepest=proceed.limits["max_parts_depth"],
            depth=max(0, proceed.limits["max_parts_depth"] - proceed.depth),
        ),
    )
    return file, partial


def name_of(job: Load) -> str:
    """The file's own name."""
    return job.member.rpartition("/")[2] if job.member else display(os.path.basename(job.path))


def changed(descriptor: int, before: os.stat_result) -> bool:
    """Whether the open file was written since; an unlinked or chmod-ed one has the same content still."""
    after = os.fstat(descriptor)
    return (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def whereabouts(job: Load, before: os.stat_result) -> Literal["changed", "gone"] | None:
    """Whether the path, by which libraries open the file once more, leads to another file by now, or to none."""
    if job.member:
        return None
    try:
        now = stat_long(job.path)
    except (FileNotFoundError, NotADirectoryError):
        return "gone"
    except OSError:
        return None
    return None if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino) else "changed"


def stat_of(stat: os.stat_result) -> Stat:
    times = journaled(stat.st_mtime_ns), journaled(stat.st_ctime_ns)
    return Stat(journaled(stat.st_dev), journaled(stat.st_ino), stat.st_size, *times)


def failure(job: int, error: BaseException) -> LoadFailed:
    """An exception as data."""
    kind = "error"
    if is_full(error):
        kind = "full"
    elif isinstance(error, MissingError):
        kind = "missing"
    elif isinstance(error, FileError):
        kind = "file"
    elif isinstance(error, FileNotFoundError) and error.filename is not None:
        kind = "gone"
    elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP):
        kind = "unreadable"
    detail = ""
    if kind == "error" or error.__cause__ is not None:
        import traceback

        lines = "".join(traceback.format_exception(error))[-4000:].splitlines()
        detail = "\n".join(f"{line[: len(line) - len(line.lstrip())]}{one_line(line)}" for line in lines)
    limit = isinstance(error, LimitError)
    return LoadFailed(job=job, kind=kind, reason=describe(error), detail=detail, limit=limit)


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room on a disk, whatever a library made of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a loader adds, as far as it is plain data and short."""
    kept: dict[str, Any] = {}
    for key, value in list(metadata.items())[:64]:
        if isinstance(value, str):
            value = one_line(value)
        elif not isinstance(value, int | float | bool | None):
            value = one_line(str(value))
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
            value = str(value)
        kept[one_line(str(key), 64)] = value
    return kept


def shorten(answer: Loaded | LoadFailed) -> Loaded | LoadFailed:
    """An answer that fits into a frame, whatever a loader put into it."""
    try:
        encode(answer)
    except IngestdError:
        if isinstance(answer, Loaded):
            metadata = dict(list(answer.metadata.items())[:16])
            return msgspec.structs.replace(answer, warnings=answer.warnings[:16], metadata=metadata)
        return msgspec.structs.replace(answer, detail=answer.detail[: FRAME_LIMIT // 16])
    return answer
