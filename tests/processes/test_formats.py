"""Every suffix of every bundled loader: two real files of each are ingested, and found by what they say."""

from __future__ import annotations

import os
from pathlib import Path

from ingestd.library import Library
from ingestd.plugins import discover
from tests import specimens
from tests.formats import Words

ELSEWHERE = ("legacy", "ocr")
"""Loaders whose files take LibreOffice or an extra: `tests/test_office.py` and `tests/test_ocr.py` feed them."""
LOADERS = {
    name: loader
    for name, loader in discover("loaders").loaders.items()
    if type(loader).__module__.startswith("ingestd_plugins.")
}


def test_every_suffix_is_found_by_its_sentence(tmp_path: Path) -> None:
    """In English and Chinese, among hundreds that are much alike, read by the loader that has the suffix."""
    takers = {suffix: name for name, loader in LOADERS.items() if name not in ELSEWHERE for suffix in loader.suffixes}
    assert not takers.keys() - specimens.WRITERS.keys(), "have tests/specimens.py write files of these suffixes"
    folder = tmp_path / "docs"
    folder.mkdir()
    expected: dict[str, tuple[Words, str]] = {}
    for number, (suffix, loader) in enumerate(takers.items()):
        for language in ("english", "chinese"):
            words = specimens.words(number, language)
            path = folder / f"{language}{suffix}"
            path.write_bytes(specimens.WRITERS[suffix](words))
            expected[str(path)] = words, loader
    settings = {"encode": {"engine": "hashing", "model": "hashing"}}
    with Library(state=tmp_path / "state", settings=settings) as library:
        results = {result.path: result for result in library.ingest(folder)}
        assert [result for result in results.values() if result.state != "indexed"] == []
        wrong = {}
        for path, (words, _) in expected.items():
            hits = library.search(words.sentence, top=3)
            if not any(hit.path.partition("!/")[0] == path and words.sentence in hit.text for hit in hits):
                wrong[path] = words.sentence, hits
        assert wrong == {}
        read = {path: library._call("why", path=os.fsencode(path))["loader"].split()[0] for path in expected}
    assert read == {path: loader for path, (_, loader) in expected.items()}
