"""Every bundled loader, as the entry points name them, under the contract of all loaders, see `ingestd.testing`."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from ingestd.errors import DamagedFileError
from ingestd.plugins import discover
from ingestd.testing import LoaderContract
from ingestd.types import Element, File, Loader
from ingestd_plugins.damage import guarded
from tests import corpus, formats, specimens

HERE = {entry.value for entry in distribution("ingestd").entry_points if entry.group == "ingestd"}
LOADERS = {name: loader for name, loader in discover("loaders").loaders.items() if type(loader).__module__ in HERE}
ELSEWHERE = {"legacy", "ocr"}
"""What they need is not everywhere: `test_office` and `test_ocr` try them."""
FILES = {
    **{suffix: write(formats.WORDS["chinese"]) for suffix, write in specimens.WRITERS.items()},
    **corpus.samples(),
    **formats.samples(),
}
"""One of each suffix."""


def samples(loader: Loader) -> dict[str, bytes]:
    """A file of each of its suffixes, but none twice."""
    distinct: dict[bytes, str] = {}
    for suffix in loader.suffixes:
        if suffix in FILES:
            distinct.setdefault(FILES[suffix], suffix)
    return {f"sample{suffix}": data for data, suffix in distinct.items()}


def kinds(samples: dict[str, bytes]) -> dict[str, bytes]:
    """One of each kind, by its first bytes; all that is text is of one kind."""
    found: dict[bytes, str] = {}
    for name, data in samples.items():
        try:
            data.decode()
            found.setdefault(b"", name)
        except UnicodeDecodeError:
            found.setdefault(data[:2], name)
    return {name: samples[name] for name in found.values()}


def contract(loader: Loader, **more: Any) -> type[LoaderContract]:
    return type(LoaderContract)(loader.name, (LoaderContract,), {"loader": loader.name, "quiet": True, **more})


for _name, _loader in LOADERS.items():
    if _samples := samples(_loader):
        _in_full: Mapping[str, Any] = {"samples": kinds(_samples), "pytestmark": [pytest.mark.slow]}
        globals()[f"Test_{_name}"] = contract(_loader, samples=_samples, cuts=4, flips=12)
        globals()[f"Test_{_name}_in_full"] = contract(_loader, **_in_full)


def test_none_is_left_out() -> None:
    without = {name for name in LOADERS if f"Test_{name}" not in globals()}
    assert without == ELSEWHERE, "without a file to try it on: give its suffixes a writer in tests/specimens.py"


class Cursed:
    """A file of which nothing can be had."""

    def __getattr__(self, name: str) -> Any:
        raise struct.error(f"no {name}")


@pytest.mark.parametrize("name", LOADERS)
def test_each_is_behind_the_guard(name: str) -> None:
    """Whatever its library raises is named as damage."""
    with pytest.raises(DamagedFileError, match="damaged: no "):
        list(LOADERS[name].load(Cursed()))  # type: ignore[arg-type]


class Raising:
    """Of a loader."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        yield Element("half of it")
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (struct.error("unpack requires a buffer"), "damaged: unpack requires a buffer"),
        (KeyError("styles.xml"), "damaged: styles.xml"),
        (RecursionError("too deep\nreally"), "damaged: too deep really"),
        (OSError("no valid workbook"), "damaged: no valid workbook"),
        (OSError(errno.EINVAL, "Invalid argument"), "damaged: [Errno 22] Invalid argument"),
        (ValueError(), "damaged: ValueError"),
        (OSError(errno.ENOSPC, "No space left on device"), ""),
        (OSError(errno.EIO, "Input/output error"), ""),
        (MemoryError(), ""),
        (ImportError("no module"), ""),
    ],
)
def test_only_the_content_is_blamed(error: Exception, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError if reason else type(error)) as raised:
        list(Raising(error).load(File(tmp_path, "a", "", "", 0, tmp_path)))
    assert not reason or str(raised.value) == reason
    assert raised.value is error or raised.value.__cause__ is error
