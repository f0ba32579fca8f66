"""Bulk requests: cut by bytes and count, several in flight, slower where the server is busy, no item dropped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ingestd.errors import IndexUnavailableError
from ingestd_plugins.elasticsearch_documents import encoded
from ingestd_plugins.elasticsearch_index import Index
from ingestd_plugins.elasticsearch_server import Server, reason_of, words

ATTEMPTS: Final = 6
"""Of one request that the server is too busy for, before ingestion pauses."""
FIRST_DELAY: Final = 0.2
"""Seconds before the second attempt; doubled each time."""


class Action(msgspec.Struct, frozen=True):
    """One line or two of a bulk request."""

    id: str
    document: str
    """Whose chunk it is: decides the shard."""
    source: bytes | None
    """None: delete."""

    def lines(self, *, routing: bool) -> list[bytes]:
        target: dict[str, str] = {"_id": self.id}
        if routing:
            target["routing"] = self.document
        if self.source is None:
            return [encoded({"delete": target})]
        return [encoded({"index": target}), self.source]


class Bulk:
    """Sends actions to one index."""

    def __init__(self, server: Server, index: Index) -> None:
        self._server = server
        self._index = index
        self._slots = asyncio.Semaphore(server.settings.in_flight)
        self.unsettled = True
        """A request may still be carried out, though its answer was lost: also those of a process that was killed."""

    async def send(self, actions: Sequence[Action]) -> dict[str, str]:
        """Carry all of them out; the server's words for each document that it refuses.

        Raises `IndexUnavailableError`; then none, some or all were done.
        """
        batches = list(self._cut(actions))
        done = await asyncio.gather(*(self._slot(batch) for batch in batches), return_exceptions=True)
        refused: dict[str, str] = {}
        for result in done:  # all have ended, so none of them overtakes what is sent next
            if isinstance(result, BaseException):
                raise result
            refused.update(result)
        return refused

    def _cut(self, actions: Sequence[Action]) -> Iterator[list[Action]]:
        chosen = self._server.settings
        most = chosen.bulk_size()
        batch: list[Action] = []
        size = 0
        for action in actions:
            length = len(action.source or b"") + 100
            if batch and (size + length > most or len(batch) >= chosen.bulk_count):
                yield batch
                batch, size = [], 0
            batch.append(action)
            size += length
        if batch:
            yield batch

    async def _slot(self, batch: list[Action]) -> dict[str, str]:
        async with self._slots:
            return await self._carry_out(batch)

    async def _carry_out(self, batch: list[Action]) -> dict[str, str]:
        refused: dict[str, str] = {}
        delay = FIRST_DELAY
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                await asyncio.sleep(delay * (0.5 + random.random()))
                delay *= 2
            items, reason = await self._request(batch)
            if items is None:
                if len(batch) > 1 and reason.startswith("413"):
                    half = len(batch) // 2
                    for part in (batch[:half], batch[half:]):
                        refused.update(await self._carry_out(part))
                    return refused
                continue
            again: list[Action] = []
            for action, item in zip(batch, items, strict=True):
                status, error = item["status"], item.get("error")
                if error is None or (status == 404 and action.source is None and "index" not in words(error)):
                    continue
                reason = words(error)
                if "cluster_block" in reason or "index_not_found" in reason or "require_alias" in reason:
                    raise IndexUnavailableError(f"Elasticsearch at {self._server.where} takes no writes: {reason}")
                if status in (401, 403):
                    raise IndexUnavailableError(f"the credentials do not allow writing: {reason}")
                if status in (408, 409, 429) or status >= 500:
                    again.append(action)
                else:
                    refused[action.document] = reason
            if not again:
                return refused
            batch = again
        raise IndexUnavailableError(f"Elasticsearch at {self._server.where} is too busy: {reason}")

    async def _request(self, batch: list[Action]) -> tuple[list[dict[str, Any]] | None, str]:
        """An item for each action; None and why where the request as a whole was put off."""
        routing = self._server.settings.routing
        lines: Any = [line for action in batch for line in action.lines(routing=routing)]
        errors = self._server.errors
        unsettled = True
        try:
            # Not sent again by the client: where the answer is lost, the first one may be carried out after the second.
            answer = await self._server.call_raw(
                lambda client: client.options(max_retries=0).bulk(
                    index=self._index.writing, operations=lines, require_alias=True,
                    filter_path="errors,items.*.status,items.*.error",
                )
            )  # fmt: skip
            unsettled = False
        except errors.ApiError as error:
            unsettled = error.meta.status >= 500
            if error.meta.status in (413, 429):
                reason = f"{error.meta.status}: {reason_of(error)}"
                if "cluster_block" not in reason:
                    return None, reason
            raise self._server.explain("write to", error) from None
        except errors.TransportError as error:
            raise self._server.explain("write to", error) from None
        finally:
            self.unsettled |= unsettled
        items = [next(iter(item.values())) for item in answer["items"]]
        if len(items) != len(batch):
            self.unsettled = True
            raise IndexUnavailableError(f"Elasticsearch answered {len(items)} items for {len(batch)}")
        return items, ""

    async def settle(self) -> None:
        """Wait until no write of this index is under way at the server. Raises `IndexUnavailableError`."""
        deadline = asyncio.get_running_loop().time() + self._server.settings.request_timeout()
        while True:
            try:
                tasks: Any = await self._server.call(
                    "ask for the tasks of",
                    lambda client: client.perform_request(  # the client's own method warns that it may change
                        "GET", "/_tasks", headers={"accept": "application/json"},
                        params={"actions": "indices:data/write/bulk*", "detailed": "true"},
                    ),
                )  # fmt: skip
            except IndexUnavailableError as error:
                if "do not allow" not in str(error):
                    raise
                await asyncio.sleep(2)  # credentials without the privilege `monitor`
                break
            nodes = tasks.body.get("nodes", {}).values()
            named = (task.get("description", "") for node in nodes for task in node.get("tasks", {}).values())
            if not any(self._index.name in description for description in named):
                break
            if asyncio.get_running_loop().time() > deadline:
                raise IndexUnavailableError(f"Elasticsearch at {self._server.where} does not end what it was sent")
            await asyncio.sleep(0.05)
        self.unsettled = False
