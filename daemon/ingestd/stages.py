"""The pools of workers, one for each stage: when they are opened, and what their workers are told."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

from ingestd import devices
from ingestd import journal as journals
from ingestd.config import DEFAULT_MODEL, Config
from ingestd.dispatch import Dispatcher
from ingestd.encoders import Encoders
from ingestd.errors import IngestdError
from ingestd.indexer import Indexer
from ingestd.journal import Journal
from ingestd.manifest import Plugins
from ingestd.reindexing import made_with
from ingestd.slots import Pool, Turns
from ingestd.supervisor import StartError, Worker, WorkerDied
from ingestd.types import display
from ingestd.watching import Watching

log = logging.getLogger("ingestd")

START_TIMEOUT = {"load": 60.0, "encode": 900.0, "index": 60.0, "watch": 30.0}
SCRATCH_FILE_LIMIT = 4 << 30


class Stages:
    """The pools, and what feeds each. A `Daemon` opens the journal and the rest."""

    watching_sources: bool
    draft: bool
    journal: Journal
    encoders: Encoders
    indexer: Indexer
    dispatcher: Dispatcher
    watching: Watching
    scratch: Path
    _prefix: str
    """Of the tokens of all workers."""
    _closing: contextlib.AsyncExitStack

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = config.state_directory
        self.plugins = Plugins()
        self._tasks: list[asyncio.Task[Any]] = []
        self._publish = False
        self._fingerprint: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @property
    def fingerprint_known(self) -> bool:
        """Whether the journal's is that of the settings in force."""
        return self._fingerprint.done()

    def _task(self, coroutine: Any, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.append(task)

    def _pool(self, stage: str, size: int, settings: Any, serve: Any, **options: Any) -> Pool:
        pool = Pool(
            stage, size, settings, serve, scratch=self.scratch, prefix=self._prefix,
            start_timeout=START_TIMEOUT.get(stage, 60.0), on_exit=self._worker_died, **options,
        )  # fmt: skip
        self._closing.push_async_callback(pool.close)
        return pool

    def _worker_died(self, worker: Worker, death: WorkerDied) -> None:
        where = f" on {display(worker.path)}" if worker.path else ""
        extra = {"path": worker.path, "stage": worker.stage, "worker_pid": worker.pid, "reason": death.reason}
        log.warning("%s worker %d ended%s: %s", worker.stage, worker.pid, where, death.reason, extra=extra)

    @property
    def load_workers(self) -> int:
        """Files loaded at once."""
        return self.config.load.workers or len(os.sched_getaffinity(0))

    async def _pools(self) -> None:
        workers = self.load_workers
        self.dispatcher.turns[""] = Turns(workers)
        self.load_pool = self._pool("load", workers, self.load_settings, self.dispatcher.serve, spare=True)
        self.load_pools = [self.load_pool]
        self._own_pools: dict[str, Pool] = {}
        await self.resize_load()
        self.encode_pool = self._pool("encode", 1, self._encode_settings, self._serve_encoder)
        self.encoders.pool = self.encode_pool
        self.index_pool = self._pool("index", 1, self._index_settings, self.indexer.serve)
        self.indexer.pool = self.index_pool
        cached = await self.journal.meta("fingerprint")
        if cached is not None:
            key, fingerprint = json.loads(cached)
            if key == self._fingerprint_key():
                self._fingerprint.set_result(fingerprint)
        self._task(self._open_when(self.encoders.wanted, self._open_encoders), "encoders")
        self._task(self._open_when(self.indexer.wanted, self._open_index), "index")
        self._task(self._open_when(self.dispatcher.wanted, self._open_load), "load")
        files, _ = await self.journal.run(journals.counts)
        if self.watching_sources or any(states["queued"] for states in files.values()):
            self.dispatcher.wanted.set()

    @property
    def own_workers(self) -> dict[str, int]:
        """How many load workers each loader has for itself: as the configuration says, else as it asks for."""
        asked = {item.name: item.workers for item in self.plugins.manifest.items if item.workers and not item.lacks}
        return asked | {name: own["workers"] for name, own in self.config.load.loaders.items() if "workers" in own}

    def reserved(self, device: str) -> int:
        """Bytes of a device's memory that are for loaders."""
        return sum(
            item.gpu_memory.get(device, 0) * (self.own_workers.get(item.name) or self.load_workers)
            for item in self.plugins.manifest.items
            if not item.lacks
        )

    async def resize_load(self) -> None:
        """As many load workers as the configuration wants, also those that are for one loader alone."""
        self.load_pool.resize(self.load_workers)
        self.dispatcher.turns[""].size = self.load_workers
        wanted = self.own_workers
        for name in [*wanted, *(self._own_pools.keys() - wanted.keys())]:
            self._resize_own(name, wanted.get(name, 0))
        started = [name for name in self.dispatcher.own_pools if self._own_pools[name].is_open]
        await self.journal.unroute(started)  # the others are started for the first file that is routed to them

    def _resize_own(self, name: str, size: int) -> None:
        """Load workers for the files of one loader; with none, the others take them."""
        pool = self._own_pools.get(name)
        if pool is None:
            if not size:
                return
            serve = functools.partial(self.dispatcher.serve, pool=name)
            pool = self._own_pools[name] = self._pool("load", size, self.load_settings, serve)
            self.dispatcher.turns[name] = Turns(size)
            self.load_pools.append(pool)
        # One who asks for workers is slow by nature: a spare would take its turn while the others still read a page.
        pool.spare = bool(size) and not any(item.name == name and item.workers for item in self.plugins.manifest.items)
        pool.resize(size)
        self.dispatcher.turns[name].size = size
        if size:
            self.dispatcher.own_pools[name] = pool.open
        else:
            self.dispatcher.own_pools.pop(name, None)

    async def _open_when(self, event: asyncio.Event, open_pool: Any) -> None:
        await event.wait()
        await open_pool()

    async def _open_load(self) -> None:
        if not self._fingerprint.done() and not self._model_is_here():
            # The encoder fetches the model from its hub; before that there is no tokeniser.
            self.encoders.wanted.set()
            await asyncio.shield(self._fingerprint)
        self.load_pool.open()
        self.indexer.wanted.set()  # it starts while the first files are loaded

    def _model_is_here(self) -> bool:
        model = self._model
        return self.config.encode.engine != "torch" or model == DEFAULT_MODEL or os.path.isabs(model)

    @property
    def _model(self) -> str:
        """Name of the model; a directory as an absolute path, since workers live in `/`."""
        model = self.config.encode.model
        base = Path(self.config.file).parent if self.config.file else Path.cwd()
        directory = base / Path(model).expanduser()
        return str(directory.resolve()) if directory.is_dir() else model

    async def _open_encoders(self) -> None:
        named = self.config.encode.devices
        self._devices = await self._find_devices() if named == "auto" else list(named)
        self.encode_pool.size = len(self._devices)
        self.encode_pool.open()

    async def _find_devices(self) -> list[str]:
        """Every accelerator that the kernel shows, else the processor: one process a core, one thread each."""
        count = devices.visible()
        if count and self.config.encode.engine != "hashing":
            return [f"cuda:{number}" for number in range(count)]
        return ["cpu"] * max(1, min(8, len(os.sched_getaffinity(0))))

    async def _open_index(self) -> None:
        if not self._fingerprint.done():
            self.encoders.wanted.set()
        await self._fingerprint
        made = await self.journal.meta("made")
        before = json.loads(made)["index"]["sink"] if made is not None else self.config.index.sink
        if before != self.config.index.sink:
            self.index_pool.trouble = f"the index is in {before}, and [index] sink = {self.config.index.sink!r}"
            error = StartError(self.index_pool.trouble, fatal=True, command="ingestd reindex")
            self.index_pool.failed.set_result(error)
            return
        self._publish = await self.journal.meta("publish") == "1" and not self.draft
        self.index_pool.open()
        await self.index_pool.ready.wait()
        await self.journal.meta("made", made_with(self.config, self._model))
        await self.journal.meta("publish", "0")

    async def _serve_encoder(self, worker: Worker) -> None:
        fingerprint = worker.info.get("fingerprint")
        if not isinstance(fingerprint, dict):
            worker.kill("protocol", "sent no fingerprint")
            raise await asyncio.shield(worker.died)
        if not self._fingerprint.done():
            self._fingerprint.set_result(fingerprint)
            await self.journal.meta("fingerprint", json.dumps([self._fingerprint_key(), fingerprint]))
        elif self._fingerprint.result() != fingerprint:
            await self.journal.meta("fingerprint", json.dumps([self._fingerprint_key(), fingerprint]))
            raise IngestdError("the model is not the one that the index was made with", command="ingestd reindex")
        await self.encoders.serve(worker)

    def _fingerprint_key(self) -> str:
        """The configuration that decides the fingerprint: while it is the same, no model is loaded to know it."""
        encode = self.config.encode
        return json.dumps(
            [encode.engine, self._model, encode.normalize, encode.passage_prompt,
             self.config.chunk.max_tokens, self.config.chunk.overlap]
        )  # fmt: skip

    def load_settings(self, number: int) -> dict[str, Any]:
        """What a load worker is told at its start."""
        encode, load = self.config.encode, self.config.load
        # The sources and what `ingest` was given; never the state directory, though it may lie below them, and nothing
        # that does not answer: to put it into the rules of the sandbox would take as long.
        hung = self.watching.hung
        read = {table.directory for table in self.config.watch if table.name not in hung} | self.watching.readable
        exclude = [str(self.state.resolve())]
        if any(table.follow_links for table in self.config.watch):
            read = {"/"}  # nobody knows where a link leads
            exclude += ["/proc", "/sys", "/dev"]
        return {
            "engine": encode.engine,
            "model": self._model,
            "passage_prompt": encode.passage_prompt,
            "max_tokens": self.config.chunk.max_tokens,
            "overlap": self.config.chunk.overlap,
            "sandbox": load.sandbox,
            "read": sorted(map(os.fsencode, read)),  # a name of any bytes
            "exclude": exclude,
            "sockets": False,
            "memory": max(load.memory, *(load.limits(name).memory for name in load.loaders), 0),
            "file_size": SCRATCH_FILE_LIMIT,
            "disabled": [name for name, own in load.loaders.items() if own.get("disabled")],
            "suffixes": {name: list(own["suffixes"]) for name, own in load.loaders.items() if own.get("suffixes")},
            "blocked": self.plugins.blocked,
        }

    def _encode_settings(self, number: int) -> dict[str, Any]:
        encode = self.config.encode
        return {
            "engine": encode.engine,
            "model": self._model,
            "device": self._devices[number],
            "reserved": self.reserved(self._devices[number]),
            "dtype": encode.dtype,
            "normalize": encode.normalize,
            "batch_tokens": encode.batch_tokens,
            "query_prompt": encode.query_prompt,
            "passage_prompt": encode.passage_prompt,
            "max_tokens": self.config.chunk.max_tokens,
            "overlap": self.config.chunk.overlap,
            "blocked": self.plugins.blocked,
        }

    def _index_settings(self, number: int) -> dict[str, Any]:
        index = self.config.index
        return {
            "sink": index.sink,
            "directory": str(self.state / "index"),
            "fingerprint": self._fingerprint.result(),
            "options": index.sinks.get(index.sink, {}),
            "readonly": False,
            "draft": self.draft,
            "publish": self._publish,
            "blocked": self.plugins.blocked,
        }

    async def or_failure(self, work: asyncio.Future[Any]) -> Any:
        """Wait for `work`, unless a stage turns out to be unable to start."""
        failures: set[asyncio.Future[Any]] = {
            pool.failed for pool in (self.load_pool, self.encode_pool, self.index_pool)
        }
        try:
            await asyncio.wait({work, *failures}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise next(failure.result() for failure in failures if failure.done())
        finally:
            work.cancel()
            work.add_done_callback(lambda work: work.cancelled() or work.exception())  # nobody asks any more
