"""What LibreOffice reads and writes: old Office documents through it, and its own documents of every other format."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ingestd.errors import IngestdError
from ingestd.library import Library
from ingestd.plugins import discover
from ingestd.testing import LoaderContract, variants
from ingestd.testing.loaders import Bench
from ingestd.testing.variants import Variant
from tests import corpus, formats, specimens

pytestmark = [
    pytest.mark.office,
    pytest.mark.skipif(shutil.which("soffice") is None, reason="soffice, of LibreOffice, is not installed"),
]
PATIENT = {"deadline": "200s", "idle_deadline": "200s"}
WRITTEN = {
    ".docx": (".doc", ".dot", ".rtf", ".odt", ".ott", ".fodt", ".epub", ".docx", ".docm", ".dotx", ".html", ".pdf"),
    ".pptx": (".ppt", ".pps", ".pot", ".odp", ".otp", ".fodp", ".pptx", ".pptm", ".ppsx", ".potx"),
    ".xlsx": (".xls", ".xlt", ".ods", ".ots", ".fods", ".xlsx", ".xlsm", ".xltx", ".csv"),
}
FILTERS = {
    ".dot": "doc:MS Word 97 Vorlage", ".pps": "ppt:MS PowerPoint 97", ".pot": "pot:MS PowerPoint 97 Vorlage",
    ".xlt": "xlt:MS Excel 97 Vorlage/Template", ".docm": "docm:MS Word 2007 XML VBA",
    ".dotx": "dotx:MS Word 2007 XML Template", ".pptm": "pptm:Impress MS PowerPoint 2007 XML VBA",
    ".ppsx": "ppsx:Impress MS PowerPoint 2007 XML AutoPlay", ".potx": "potx:Impress MS PowerPoint 2007 XML Template",
    ".xlsm": "xlsm:Calc MS Excel 2007 VBA XML", ".xltx": "xltx:Calc MS Excel 2007 XML Template",
    ".csv": "csv:Text - txt - csv (StarCalc):44,34,76",
}  # fmt: skip
LEGACY = discover("loaders").loaders["legacy"]


def converted(directory: Path, kind: str, *sources: Path) -> list[Path]:
    """What LibreOffice makes of documents, in one run."""
    profile = f"-env:UserInstallation={(directory / 'profile').as_uri()}"
    target = FILTERS.get(kind, kind[1:])
    out = directory / f"out{kind}"
    subprocess.run(
        ["soffice", profile, "--headless", "--convert-to", target, "--outdir", str(out), *map(str, sources)],
        check=True, capture_output=True, timeout=200, env={**os.environ, "HOME": str(directory)},
    )  # fmt: skip
    return [out / f"{source.stem}.{target.partition(':')[0]}" for source in sources]


def written(directory: Path, name: str, data: bytes, kind: str) -> bytes:
    """What LibreOffice makes of a document."""
    source = directory / name
    source.write_bytes(data)
    (made,) = converted(directory, kind, source)
    return made.read_bytes()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    settings = {
        "encode": {"engine": "hashing", "model": "hashing"},
        "load": {"deadline": "200s", "idle_deadline": "200s"},
    }
    with Library(state=tmp_path_factory.mktemp("state"), settings=settings) as library:
        yield library


@pytest.mark.parametrize("source", WRITTEN)
def test_what_libreoffice_wrote_is_found(source: str, library: Library, tmp_path: Path) -> None:
    """A document in English and one in Chinese of each kind, by its own sentence."""
    folder = tmp_path / "docs"
    folder.mkdir()
    expected = {}
    for number, kind in enumerate(kind for kinds in WRITTEN.values() for kind in kinds):
        if kind not in WRITTEN[source]:
            continue
        sources = []
        for language in ("english", "chinese"):
            if (kind, language) == (".pdf", "chinese"):  # that takes a font
                continue
            words = specimens.words(number, language)
            sources.append(tmp_path / f"{language}{source}")
            sources[-1].write_bytes(specimens.WRITERS[source](words))
            expected[str(folder / f"{language}{kind}")] = words.sentence
        for made in converted(tmp_path, kind, *sources):
            made.rename(folder / f"{made.stem}{kind}")
    results = list(library.ingest(folder))
    assert [result for result in results if result.state != "indexed"] == []
    for path, sentence in expected.items():
        hits = library.search(sentence, top=3)
        assert [hit for hit in hits if hit.path == path and sentence in hit.text], (path, sentence, hits)


def test_each_suffix_that_takes_libreoffice_is_among_them() -> None:
    assert set(LEGACY.suffixes) <= {kind for kinds in WRITTEN.values() for kind in kinds}


class Listener:
    """Counts who connects."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.heard = 0
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.heard += 1
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def linking(place: str) -> bytes:
    """A text with a picture that is elsewhere."""
    names = "".join(
        f' xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for prefix, name in (("office", "office"), ("text", "text"), ("draw", "drawing"), ("svg", "svg-compatible"))
    )
    return (
        f'<?xml version="1.0"?><office:document{names} xmlns:xlink="http://www.w3.org/1999/xlink" '
        'office:version="1.3" office:mimetype="application/vnd.oasis.opendocument.text"><office:body><office:text>'
        f'<text:p>{formats.ENGLISH}<draw:frame svg:width="2cm" svg:height="2cm" text:anchor-type="as-char">'
        f'<draw:image xlink:href="{place}/picture.png" xlink:type="simple" xlink:show="embed" xlink:actuate="onLoad"/>'
        "</draw:frame></text:p></office:text></office:body></office:document>"
    ).encode()


def test_remote_references_are_not_followed(library: Library, listener: Listener, tmp_path: Path) -> None:
    remote = f"http://127.0.0.1:{listener.port}"
    flat = linking(remote)
    made = {kind: written(tmp_path, "a.fodt", flat, kind) for kind in (".doc", ".odt", ".docx", ".rtf", ".html")}
    assert listener.heard > 0, "outside of the sandbox LibreOffice follows them"
    listener.heard = 0
    page = f'<html><img src="{remote}"><link rel="stylesheet" href="{remote}"><p>{formats.ENGLISH}</p></html>'
    for kind, data in {**made, ".htm": page.encode(), ".fodt": flat}.items():
        path = tmp_path / f"remote{kind}"
        path.write_bytes(data)
        assert formats.ENGLISH in "\n".join(chunk.text for chunk in library.load(path).chunks), kind
    assert listener.heard == 0


def test_what_is_behind_a_password_is_named_so(library: Library, tmp_path: Path) -> None:
    data = bytearray(written(tmp_path, "a.docx", corpus.samples()[".docx"], ".doc"))
    place = next(place for place in range(512, len(data), 512) if data[place : place + 2] == b"\xec\xa5")
    data[place + 11] |= 1
    path = tmp_path / "locked.doc"
    path.write_bytes(data)
    with pytest.raises(IngestdError, match="needs a password"):
        library.load(path)


class Legacy(LoaderContract):
    """What the contract asks of every loader, with few files: LibreOffice takes seconds for each that it opens."""

    loader = "legacy"
    limits: ClassVar = PATIENT


@pytest.mark.parametrize(("source", "kind"), [(".docx", ".doc"), (".pptx", ".ppt")])
def test_damage_costs_the_file_and_nothing_is_left_running(source: str, kind: str, tmp_path: Path) -> None:
    good = written(tmp_path, f"a{source}", corpus.samples()[source], kind)
    bench = Bench(Legacy, tmp_path)
    try:
        bench.check(
            [Variant(f"empty{kind}", b"", "empty"), Variant(f"prose{kind}", b"A letter." * 99, "prose instead")]
        )
        bench.check(variants.cut(f"a{kind}", good, 20))
        bench.check(variants.flipped(f"a{kind}", good, 20))
    finally:
        bench.close()
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in running if b"libreoffice.py" in line and os.fsencode(tmp_path) in line]
