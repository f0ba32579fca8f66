"""A third party's sink that does to its worker what the texts tell it to; else it is what `sqlite` is.

Its table of the configuration says what it does to every operation: `[index.unruly] always = "raise"`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ingestd.hookspecs import hookimpl
from ingestd.types import Fingerprint, Hit, Operation, Query, Replace, Written
from ingestd_plugins.sqlite import SqliteSink


class UnrulySink(SqliteSink):
    name = "unruly"
    version = "1"

    def open(self, directory: Path, fingerprint: Fingerprint, options: Mapping[str, Any], *, readonly: bool) -> None:
        self.always = options.get("always", "")
        self.directory = directory
        if self.always == "hang in open":
            time.sleep(10_000)
        super().open(directory, fingerprint, {}, readonly=readonly)

    def count(self) -> tuple[int, int]:
        return ("many", "more") if self.always == "miscount" else super().count()  # type: ignore[return-value]

    def write(self, operations: Sequence[Operation]) -> list[Written]:
        text = " ".join(chunk.text for one in operations if isinstance(one, Replace) for chunk in one.chunks)
        if self.always == "raise":
            raise RuntimeError("the shelf has fallen down")
        if self.always == "raise until told" and not (self.directory / "mended").exists():
            raise ConnectionError("nobody there")
        if "hangalways" in text or ("hangonce" in text and self._first("hang")):
            time.sleep(10_000)
        if "exitpill" in text:
            os._exit(7)
        if "raisepill" in text:
            raise ZeroDivisionError("by this very text")
        if "quitpill" in text:
            raise SystemExit("goodbye")
        written = super().write(operations)
        if "fewpill" in text:
            return written[:-1]
        if "nonepill" in text:
            return None  # type: ignore[return-value]
        if "numberpill" in text:
            return [7 for _ in written]  # type: ignore[misc]
        if "wrongpill" in text:
            return [Written(chunks="lots") for _ in written]  # type: ignore[arg-type]
        return written

    def search(self, query: Query) -> list[Hit]:
        hits = super().search(query)
        match query.text:
            case "hang":
                time.sleep(10_000)
            case "exit":
                os._exit(8)
            case "raise":
                raise LookupError("no such shelf")
            case "none":
                return None  # type: ignore[return-value]
            case "garbage":
                return [42]  # type: ignore[list-item]
            case "halfway":
                return [msgspec.structs.replace(hit, path="no bytes") for hit in hits]
            case "nan":
                return [msgspec.structs.replace(hit, score=float("nan")) for hit in hits]
            case "flood":
                return hits * 1000
        return hits

    def _first(self, what: str) -> bool:
        try:
            (self.directory / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@hookimpl
def register_sinks() -> list[UnrulySink]:
    return [UnrulySink()]
