"""What every loader promises, tried in a real load worker with sandbox, deadline and memory limit."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ingestd import errors
from ingestd.errors import FileError, IngestdError
from ingestd.library import Library
from ingestd.testing import variants
from ingestd.testing.variants import Variant

TOLD = 5
"""Variants told of in a report, of all that failed."""
LONGEST_REASON = 300
"""Characters."""
SILENT = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FileError)}
"""What the reason is where a `FileError` was raised without a message."""


class Bench:
    """Where the variants are loaded: a load worker that is replaced when a variant costs it its life."""

    def __init__(self, contract: type[LoaderContract], directory: Path) -> None:
        self.loader = contract.loader
        self._quiet = contract.quiet
        self._files = directory / "files"
        """All in one directory, which the worker may read."""
        self._files.mkdir()
        self._number = 0
        load = {"deadline": "30s", "idle_deadline": "15s", **contract.limits}
        config = directory / "config.toml"
        config.write_text(_toml({"load": load, f"load.{self.loader}": contract.options}))
        settings = {"encode": {"engine": "hashing", "model": "hashing"}}
        self._library = Library(config, state=directory / "state", settings=settings)

    def close(self) -> None:
        self._library.close()

    def load(self, name: str, data: bytes, *, chosen: bool = True) -> dict[str, Any]:
        """What `ingestd try --json` says. `chosen`: by this loader, whatever the file is."""
        self._number += 1
        path = self._files / f"{self._number:04}-{name}"
        path.write_bytes(data)
        loader = self.loader if chosen else None
        told = self._library._call("try", path=os.fsencode(path), loader=loader, fresh=False)
        if not self.complaint(told):
            path.unlink()
        return told

    def complaint(self, told: Mapping[str, Any]) -> str:
        """What is wrong with how a file ended; empty where nothing is."""
        return complaint(told) or ("it prints" if self._quiet and told["output"] else "")

    def check(self, made: Iterable[Variant]) -> None:
        """Load them all; each ends with elements that keep to the contract, or in a refusal that says why."""
        number = 0
        bad: list[str] = []
        for variant in made:
            number += 1
            told = self.load(variant.name, variant.data)
            if why := self.complaint(told):
                bad.append(f"{variant.what}:\n{_indented(report(told, why, self.loader))}")
        if bad:
            rest = f"\n... and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
            text = "\n".join(bad[:TOLD])
            pytest.fail(f"loader {self.loader}: {len(bad)} of {number} files ended as none may\n{text}{rest}", False)


class LoaderContract:
    """A loader under the contract: subclass it as `Test...` in a test module, and set `loader` and `samples`."""

    loader: str
    """Its name."""
    samples: Mapping[str, bytes] | str | Path
    """Good files by name, or the directory that holds them; a relative one is beside the test module."""
    options: Mapping[str, Any] = {}
    """Its table of the configuration, `[load.NAME]`."""
    limits: Mapping[str, Any] = {}
    """Keys of `[load]`: `deadline`, `memory` and so on."""
    quiet: bool = False
    """It is a fault if it, or a library of its, prints anything."""
    cuts: int = 20
    flips: int = 200

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test for each sample."""
        if "sample" in metafunc.fixturenames:
            metafunc.parametrize("sample", sorted(self._samples()))

    @classmethod
    def _samples(cls) -> dict[str, bytes]:
        if isinstance(cls.samples, Mapping):
            found = dict(cls.samples)
        else:
            directory = Path(inspect.getfile(cls)).parent / cls.samples
            found = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
        if not found:
            raise pytest.UsageError(f"{cls.__name__}: there are no samples in {cls.samples}")
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        """Workers for the tests of this class."""
        bench = Bench(cls, tmp_path_factory.mktemp(cls.loader))
        try:
            bench.load("first", b"")
        except IngestdError as error:
            bench.close()
            pytest.fail(f"{error}; is the plugin installed here? try: {error.command}", pytrace=False)
        yield bench
        bench.close()

    def test_a_sample_is_loaded(self, bench: Bench, sample: str) -> None:
        """By its name it goes to this loader, has text, keeps to the contract, and is the same when loaded again."""
        data = self._samples()[sample]
        first, second = (bench.load(sample, data, chosen=False) for _ in range(2))
        why = bench.complaint(first)
        name = (first["loader"] or "no loader").split()[0]
        if not why and first["state"] == "failed":
            why = "a good file is refused"
        if not why and name != self.loader:
            why = f"it went to {name}: see `ingestd plugins` for who takes which suffix"
        if not why and not first["chunk_count"] and not first["part_count"]:
            why = "no text came out"
        for told in (first, second):
            told["parts"] = [{**part, "name": ""} for part in told["parts"]]  # it may be made of the file's own
        if not why and any(first[key] != second[key] for key in ("elements", "chunks", "parts", "title", "metadata")):
            why = "it came out differently when it was loaded again"
        if why:
            pytest.fail(f"{sample}:\n{_indented(report(first, why, self.loader))}", pytrace=False)

    def test_a_sample_that_is_cut_short(self, bench: Bench, sample: str) -> None:
        """At `cuts` places."""
        bench.check(variants.cut(sample, self._samples()[sample], self.cuts))

    def test_a_sample_with_a_changed_byte(self, bench: Bench, sample: str) -> None:
        """At `flips` places, one at a time; of a zip also at as many inside of its members."""
        data = self._samples()[sample]
        bench.check(variants.flipped(sample, data, self.flips))
        bench.check(variants.flipped_inside(sample, data, self.flips))

    def test_a_sample_with_another_suffix(self, bench: Bench, sample: str) -> None:
        """It is chosen by hand, as with `[load.NAME] suffixes`."""
        bench.check([Variant("sample.other", self._samples()[sample], "named sample.other")])

    def test_an_empty_file(self, bench: Bench) -> None:
        """Of each suffix."""
        bench.check(Variant(f"empty{suffix}", b"", f"an empty {suffix} file") for suffix in self._suffixes())

    def test_files_of_another_kind_with_its_suffix(self, bench: Bench) -> None:
        """Prose, zeros, noise and so on."""
        bench.check(variant for suffix in self._suffixes() for variant in variants.foreign(suffix))

    def _suffixes(self) -> list[str]:
        return sorted({Path(name).suffix for name in self._samples()})


def complaint(told: Mapping[str, Any]) -> str:
    """What is wrong with how a file ended; empty where nothing is."""
    if told["faults"]:
        return "; ".join(told["faults"])
    if told["state"] in ("loaded", "partial"):
        return ""
    if told["kind"] != "file":
        return f"it ends with {told['reason']}: a FileError says that a file is at fault"
    reason = told["reason"]
    if reason in SILENT:
        return f"the {reason} has no message: people read it"
    if len(reason) > LONGEST_REASON:
        return f"the reason has {len(reason)} characters: {reason}"
    return ""


def report(told: Mapping[str, Any], why: str, loader: str) -> str:
    """What happened to one file, and how to see it again."""
    lines = [why, f"state {told['state']}, {told['element_count']} elements, {told['seconds']:.2f} s"]
    lines += [str(told[key]) for key in ("detail", "output") if told[key]]
    return "\n".join([*lines, f"try: ingestd try --loader {loader} {told['path']}"])


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    import json

    lines: list[str] = []
    for name, keys in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"
