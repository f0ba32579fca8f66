"""The connection to a cluster: one event loop in a thread of its own, and what its failures mean to a person."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ingestd.errors import ConfigError, IndexAwayError, IngestdError
from ingestd_plugins.elasticsearch_settings import TABLE, Settings, credentials

if TYPE_CHECKING:
    from elasticsearch import ApiError, AsyncElasticsearch

INSTALL = "pip install 'ingestd[elasticsearch]'"
OLDEST = (8, 15)
BASE64_VECTORS = (9, 3)
EXCLUDED_VECTORS = (9, 2)
"""From here on the server leaves vectors out of the source that it returns, unless asked."""
HEALTH = 5.0
"""Seconds that the server has to say whether shards are away."""
_PAUSING = (401, 403, 408, 429, 500, 502, 503, 504)

T = TypeVar("T")


class Server:
    """A cluster that has answered once. `run` may be called from any thread."""

    version: tuple[int, int]

    def __init__(self, chosen: Settings) -> None:
        try:
            import aiohttp  # noqa: F401
            import elasticsearch.helpers

            import elasticsearch
        except ImportError as error:
            raise ConfigError(
                f"the sink elasticsearch needs the package {error.name}, which is not installed", command=INSTALL
            ) from None
        logging.getLogger("elastic_transport").setLevel(logging.ERROR)  # what fails is told once, and by us
        self.errors = elasticsearch
        self.settings = chosen
        self.where = (chosen.cloud_id and "the cloud deployment") or ", ".join(chosen.urls())
        self._credentials = credentials(chosen)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="elasticsearch", daemon=True)
        self._thread.start()
        try:
            self.client: AsyncElasticsearch = self.run(self._connect())
            self.run(self._greet())
        except BaseException:
            self.close()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it. Raises `IngestdError` where the server is at fault."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do not wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            if hasattr(self, "client"):
                await self.client.close()

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _connect(self) -> AsyncElasticsearch:
        chosen = self.settings
        options: dict[str, Any] = {"cloud_id": chosen.cloud_id} if chosen.cloud_id else {"hosts": chosen.urls()}
        if chosen.ca_file is not None:
            path = Path(chosen.ca_file).expanduser()
            if not path.exists():
                raise ConfigError(f"{TABLE} ca_file: there is no {path}")
            options["ca_certs"] = str(path)
        if chosen.fingerprint is not None:
            options["ssl_assert_fingerprint"] = chosen.fingerprint.replace(":", "")
        try:
            return self.errors.AsyncElasticsearch(
                **options,
                **self._credentials,
                request_timeout=chosen.request_timeout(),
                http_compress=chosen.compress,
                max_retries=3,
                retry_on_timeout=False,
                max_dead_node_backoff=5.0,
                connections_per_node=max(10, 2 * chosen.in_flight + 4),
            )
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(f"{TABLE}: {error}") from None

    async def _greet(self) -> None:
        """Ask once who the server is."""
        answer = await self.call("reach", lambda client: client.info())
        number = str(answer["version"]["number"])
        major, minor = (int(part) for part in number.split(".")[:2])
        self.version = (major, minor)
        if self.version < OLDEST:
            raise ConfigError(f"{self.where} is Elasticsearch {number}; ingestd needs {OLDEST[0]}.{OLDEST[1]} or later")

    async def call(
        self, action: str, request: Callable[[AsyncElasticsearch], Awaitable[T]], *, missing: T | None = None
    ) -> T:
        """One request, its failures explained; `missing` is the answer where what it asks for is not there."""
        try:
            return await self.call_raw(request)
        except self.errors.NotFoundError as error:
            if missing is None:
                raise self.explain(action, error) from None
            return missing
        except (self.errors.ApiError, self.errors.TransportError) as error:
            raise self.explain(action, error, red=await self._is_red(error)) from None

    async def _is_red(self, error: Exception) -> bool:
        """Whether shards are away, which may be why a request came to nothing."""
        if getattr(error, "status_code", None) != 503 and not isinstance(error, self.errors.ConnectionTimeout):
            return False
        try:
            health = await self.client.options(max_retries=0, request_timeout=HEALTH).cluster.health()
        except (self.errors.ApiError, self.errors.TransportError):
            return False
        return bool(health["status"] == "red")

    async def call_raw(self, request: Callable[[AsyncElasticsearch], Awaitable[T]]) -> T:
        """One request, with the credentials as their files have them now where the server refuses older ones."""
        try:
            return await request(self.client)
        except self.errors.AuthenticationException:
            if not await self._renewed():
                raise
        return await request(self.client)

    async def _renewed(self) -> bool:
        """Whether the files hold other credentials by now; they are used from now on."""
        found = credentials(self.settings)
        if found == self._credentials:
            return False
        self._credentials = found
        self.client = self.client.options(**found)
        return True

    def explain(self, action: str, error: Exception, *, red: bool = False) -> IngestdError:
        """What a person is told. No part of it comes from a request, which holds credentials."""
        said = f"cannot {action} Elasticsearch at {self.where}: "
        if red:
            said += "the cluster is red, shards are not available: "
        if isinstance(error, self.errors.ApiError):
            status, reason = error.meta.status, reason_of(error)
            if status == 401:
                return IndexAwayError(f"{said}it refuses the credentials ({reason})")
            if status == 403 and "cluster_block" not in reason:
                return IndexAwayError(f"{said}the credentials do not allow that ({reason})")
            if status == 400 and "media_type" in reason:
                return ConfigError(
                    f"{said}the client {'.'.join(map(str, self.errors.__version__))} is too new for it",
                    command="pip install 'elasticsearch[async]>=8.19,<9'",
                )
            kind = IndexAwayError if status in _PAUSING or status == 404 else IngestdError
            return kind(f"{said}{reason} ({status})")
        if isinstance(error, self.errors.ConnectionTimeout):
            return IndexAwayError(f"{said}no answer within {self.settings.request_timeout():g} s")
        return IndexAwayError(f"{said}{cause(error)}")


def reason_of(error: ApiError) -> str:
    """The server's own words."""
    body = error.body
    found = body.get("error") if isinstance(body, dict) else None
    return words(found) if found else str(error.message)


def words(error: Any) -> str:
    """An error object of the server as one line, with what caused it."""
    if not isinstance(error, dict):
        return str(error)[:1000]
    told = [f"{error.get('type')}: {error.get('reason')}"]
    roots = error.get("root_cause") or []
    causes = [error.get("caused_by"), roots[0] if roots else None]
    told += [f"{c.get('type')}: {c.get('reason')}" for c in causes if isinstance(c, dict)]
    return "; ".join(dict.fromkeys(each for each in told if not each.endswith(": ")))[:1000]


def cause(error: Exception) -> str:
    """The innermost words of a failed connection."""
    found: BaseException = error
    while inner := [each for each in getattr(found, "errors", ()) if isinstance(each, BaseException)]:
        found = inner[-1]
    while found.__cause__ is not None:
        found = found.__cause__
    got, expected = getattr(found, "got", None), getattr(found, "expected", None)
    if isinstance(got, bytes) and isinstance(expected, bytes):
        return f"the server's certificate has the fingerprint {got.hex()}, not {expected.hex()}"
    return str(found)[:500] or type(found).__name__
