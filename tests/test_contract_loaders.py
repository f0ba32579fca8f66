"""The bundled loaders under the contract of all loaders, see `ingestd.testing`."""

from __future__ import annotations

from typing import ClassVar

from ingestd.plugins import discover
from ingestd.testing import LoaderContract
from tests import archives, corpus, formats, outlook

SAMPLES = {f"sample{suffix}": data for suffix, data in {**corpus.samples(), **formats.samples()}.items()}
"""One document of each format."""
TEXTS = {"a/heron.txt": "The heron stands. " * 60, "獾.md": "# 獾\n\n獾住在高架桥下。"}
PACKINGS = (".gz", ".bz2", ".xz", ".zst")
MAIL = archives.mail("Grüße aus 北京", "Hello\n\nBadgers below.", "<p>Hello</p>", {"übersicht.txt": "attached"})
OUTLOOK = {
    "sample.msg": outlook.item(
        "Grüße aus 北京", "Badgers dig.", ("Ada", "ada@example.org"), [("Bob", "bob@example.org")],
        {"übersicht.txt": b"attached", "large.txt": b"A large one. " * 400},
    )
}  # fmt: skip
ZIPPED = {"sample.zip": archives.zipped(corpus.samples())}
TAKEN: dict[str, dict[str, bytes]] = {}
for _name, _loader in discover("loaders").loaders.items():
    TAKEN[_name] = {name: data for name, data in SAMPLES.items() if name.removeprefix("sample") in _loader.suffixes}


class TestText(LoaderContract):
    loader = "text"
    samples = TAKEN[loader]
    quiet = True


class TestZip(LoaderContract):
    loader = "zip"
    samples = ZIPPED
    quiet = True


class TestTar(LoaderContract):
    loader = "tar"
    samples: ClassVar = {f"sample.tar{suffix}": archives.tarred(TEXTS, suffix) for suffix in ("", *PACKINGS)}
    cuts = 10
    flips = 60
    quiet = True


class TestPacked(LoaderContract):
    loader = "packed"
    samples: ClassVar = {f"sample.txt{suffix}": archives.packed(b"Badgers. " * 50, suffix) for suffix in PACKINGS}
    cuts = 10
    flips = 60
    quiet = True


class TestMail(LoaderContract):
    loader = "mail"
    samples: ClassVar = {"sample.eml": MAIL}
    quiet = True


class TestMailbox(LoaderContract):
    loader = "mailbox"
    samples: ClassVar = {"sample.mbox": archives.mailbox(MAIL, archives.mail("Second", "From here on\n"))}
    quiet = True


class TestOutlook(LoaderContract):
    loader = "outlook"
    samples = OUTLOOK
    cuts = 10
    flips = 100
    quiet = True


class TestHtml(LoaderContract):
    loader = "html"
    samples = TAKEN[loader]
    quiet = True


class TestTables(LoaderContract):
    loader = "tables"
    samples = TAKEN[loader]
    quiet = True


class TestJson(LoaderContract):
    loader = "json"
    samples = TAKEN[loader]
    quiet = True


class TestPdf(LoaderContract):
    loader = "pdf"
    samples = TAKEN[loader]
    quiet = True


class TestWord(LoaderContract):
    loader = "word"
    samples = TAKEN[loader]
    quiet = True


class TestSlides(LoaderContract):
    loader = "slides"
    samples = TAKEN[loader]
    quiet = True


class TestSheets(LoaderContract):
    loader = "sheets"
    samples = TAKEN[loader]
    quiet = True


class TestXls(LoaderContract):
    loader = "xls"
    samples = TAKEN[loader]
    quiet = True


class TestRtf(LoaderContract):
    loader = "rtf"
    samples = TAKEN[loader]
    quiet = True


class TestOdf(LoaderContract):
    loader = "odf"
    samples = TAKEN[loader]
    quiet = True


class TestEpub(LoaderContract):
    loader = "epub"
    samples = TAKEN[loader]
    quiet = True


class TestSubtitles(LoaderContract):
    loader = "subtitles"
    samples = TAKEN[loader]
    quiet = True


class TestXml(LoaderContract):
    loader = "xml"
    samples = TAKEN[loader]
    quiet = True


class TestNotebook(LoaderContract):
    loader = "notebook"
    samples = TAKEN[loader]
    quiet = True


def test_none_of_the_bundled_ones_is_left_out() -> None:
    held = {contract.loader: contract.samples for contract in LoaderContract.__subclasses__()}
    assert {name for name, samples in TAKEN.items() if samples} <= held.keys()
    assert sum(len(TAKEN[name]) for name in held) == len(SAMPLES)
