"""Archives and mails of every kind, taken in by real daemons: what is in them is found, what is bad costs itself."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests import outlook
from tests.archives import mail, mailbox, packed, tarred, zipped
from tests.processes.daemons import contents, ingest, ingestd, write_config
from tests.processes.test_parts import members

TEXTS = {"notes/heron.md": "# Heron\n\nThe heron stands in the river.", "獾.txt": "獾住在高架桥下面的洞里。"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def hits(config: Path, *question: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ingestd(config, "search", "--json", *question).stdout)
    return found


def test_what_is_in_them_is_found(tmp_path: Path, folder: Path) -> None:
    packings = ("", ".gz", ".bz2", ".xz", ".zst")
    for packing in packings:
        (folder / f"a.tar{packing}").write_bytes(tarred(TEXTS, packing))
    for packing in packings[1:]:
        (folder / f"log.txt{packing}").write_bytes(packed(b"The kingfisher dives at noon.", packing))
    (folder / "a.zip").write_bytes(zipped(TEXTS))
    forwarded = mail(
        "Inside", "An owl hunts at night.", attachments={"inner.zip": zipped({"x.md": "# Stoat\n\nStoat."})}
    )
    message = mail(
        "Grüße aus 北京", "Badgers dig.", "<p>Badgers dig.</p>", {"bericht ä.txt": "A weasel.", "f.eml": forwarded}
    )
    (folder / "m.eml").write_bytes(message)
    (folder / "html.eml").write_bytes(mail("Only", html="<h1>Otters</h1><p>An otter swims.</p>"))
    (folder / "box.mbox").write_bytes(mailbox(mail("One", "From the sea: seals.\n"), mail("Two", "A lynx.\n")))
    state = tmp_path / "state"
    config = write_config(state, None)
    summary = ingest(config, folder)
    assert not summary["failures"]
    places = {path.removeprefix(f"{folder}/") for path in contents(state)[0]}
    assert places == {
        *(f"a.{kind}{each}" for kind in ("zip", *(f"tar{packing}" for packing in packings))
          for each in ("", "!/notes/heron.md", "!/獾.txt")),
        *(f"log.txt{packing}{each}" for packing in packings[1:] for each in ("", "!/log.txt")),
        "m.eml", "m.eml!/bericht ä.txt", "m.eml!/f.eml", "m.eml!/f.eml!/inner.zip", "m.eml!/f.eml!/inner.zip!/x.md",
        "html.eml", "box.mbox", "box.mbox!/1.eml", "box.mbox!/2.eml",
    }  # fmt: skip
    for question, place in {
        "otter swims": "html.eml", "seals from the sea": "box.mbox!/1.eml", "owl hunts night": "m.eml!/f.eml",
        "weasel": "m.eml!/bericht ä.txt", "Badgers dig": "m.eml",
    }.items():  # fmt: skip
        assert hits(config, question)[0]["path"] == f"{folder}/{place}", question
    assert "From the sea" in hits(config, "seals from the sea")[0]["text"]
    found = hits(config, "--path", "*獾.txt", "高架桥下面")
    assert {hit["member"] for hit in found} == {"獾.txt"}
    assert len(found) == 6
    metadata = hits(config, "Badgers dig")[0]["metadata"]
    assert [metadata[key] for key in ("from", "to", "date", "subject")] == [
        "Ada <ada@example.org>", "bob@example.org", "2025-01-01T10:00:00+01:00", "Grüße aus 北京"
    ]  # fmt: skip


def test_a_mail_inside_a_mail_of_outlook_is_a_mail(tmp_path: Path, folder: Path) -> None:
    """And one inside that, each with what is attached to it."""
    ada, bob = ("Ada", "ada@example.org"), [("Bob", "bob@example.org")]
    innermost = outlook.message("Aus 北京", "A gannet plunges.", ada, bob, {})
    inner = outlook.message("Re: birds", "A curlew calls.", ada, bob, {"x.txt": b"A weasel.", "innermost": innermost})
    (folder / "outer.msg").write_bytes(outlook.item("Outer", "An otter swims.", ada, bob, {"inner": inner}))
    config = write_config(tmp_path / "state", None)
    assert not ingest(config, folder)["failures"]
    for question, place in {
        "otter swims": "", "curlew calls": "!/Re: birds.eml", "weasel": "!/Re: birds.eml!/x.txt",
        "gannet plunges": "!/Re: birds.eml!/Aus 北京.eml",
    }.items():  # fmt: skip
        hit = hits(config, question)[0]
        assert hit["path"] == f"{folder}/outer.msg{place}", question
        if not place.endswith("txt"):
            assert hit["metadata"]["from"] == '"Ada" <ada@example.org>'
            assert hit["metadata"]["date"] == "2025-01-01T09:00:00+00:00"


def test_what_is_bad_costs_itself(tmp_path: Path, folder: Path) -> None:
    """A member that is damaged or encrypted, that overlaps others, whose name is none; an archive that is cut short."""
    long = {f"{number}.txt": f"number {number} " * 400 for number in range(6)}
    whole = zipped(long)
    (folder / "crc.zip").write_bytes(whole.replace(whole[60:64], b"????", 1))
    (folder / "secret.zip").write_bytes(flagged(zipped({"a.txt": "a", "b.txt": "b"}), "a.txt"))
    (folder / "overlap.zip").write_bytes(overlapping())
    cut = tarred(long, "")
    (folder / "cut.tar").write_bytes(cut[: len(cut) // 2])
    (folder / "cut.tar.gz").write_bytes(tarred({n: random.Random(n).randbytes(9999) for n in long}, ".gz")[:-9000])
    (folder / "names.zip").write_bytes(legacy_names())
    (folder / "empty.zip").write_bytes(zipped({}))
    (folder / "no.mbox").write_bytes(b"nothing of the kind\n" * 9)
    state = tmp_path / "state"
    ingest(write_config(state, None), folder)
    found = members(state)
    assert "damaged" in str(found["crc.zip!/0.txt"])
    assert [found[f"crc.zip!/{number}.txt"][0] for number in range(1, 6)] == ["indexed"] * 5
    assert found["secret.zip!/a.txt"][::2] == ("quarantined", "needs a password")
    assert found["secret.zip!/b.txt"][0] == "indexed"
    assert "overlaps" in str(found["overlap.zip!/a.txt"])
    assert found["cut.tar!/"][0] == "partial"
    assert found["cut.tar!/1.txt"][0] == "indexed"
    assert found["cut.tar.gz!/"][0] == "partial"
    assert found["names.zip!/报告.txt"][0] == "indexed"
    assert found["empty.zip!/"][0] == "indexed"
    assert found["no.mbox!/"][::2] == ("quarantined", "it does not begin as a mailbox does")


def flagged(data: bytes, name: str) -> bytes:
    """The archive with a member that says it is encrypted."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.getinfo(name).header_offset
    directory = data.index(b"PK\x01\x02")
    made = bytearray(data)
    made[start + 6] |= 1
    made[directory + 8] |= 1
    return bytes(made)


def overlapping() -> bytes:
    """Two members of the same bytes: the directory says so twice."""
    data = zipped({"a.txt": "the same " * 100, "b.txt": "the same " * 100})
    first, second = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02")
    made = bytearray(data)
    made[second + 42 : second + 46] = made[first + 42 : first + 46]
    local = struct.unpack_from("<L", made, first + 42)[0]
    assert made[local : local + 4] == b"PK\x03\x04"
    return bytes(made)


def legacy_names() -> bytes:
    """A name as Chinese archivers wrote it, without saying in which encoding."""
    name = "报告.txt".encode("gb18030")
    data = zipped({"x" * len(name): "the report"})
    return data.replace(b"x" * len(name), name)


def test_files_inside_documents_are_documents(tmp_path: Path, folder: Path) -> None:
    """Put there by the libraries of the formats; the tables behind charts are not among them."""
    import pptx
    import pymupdf
    from docx import Document
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    word = io.BytesIO()
    document = Document()
    document.add_paragraph("A gannet plunges into the sea.")
    document.save(word)
    slides = pptx.Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[6])
    place = (Inches(1), Inches(1), Inches(4), Inches(3))
    slide.shapes.add_textbox(*place).text_frame.text = "Birds of the coast"
    slide.shapes.add_ole_object(word, pptx.enum.shapes.PROG_ID.DOCX, *place)
    data = CategoryChartData()
    data.categories = ["a", "b"]
    data.add_series("gannets", (1, 2))
    slide.shapes.add_chart(XL_CHART_TYPE.PIE, *place, data)
    slides.save(str(folder / "birds.pptx"))
    pdf = pymupdf.open()
    pdf.new_page().insert_text((72, 72), "Minutes of the meeting")
    pdf.embfile_add("notes.txt", b"The curlew calls from the marsh.", ufilename="Anlage ü.txt")
    pdf.save(folder / "minutes.pdf")
    state = tmp_path / "state"
    config = write_config(state, None)
    assert not ingest(config, folder)["failures"]
    assert {path.removeprefix(f"{folder}/") for path in contents(state)[0]} == {
        "birds.pptx", "birds.pptx!/Microsoft_Word_Document1.docx", "minutes.pdf", "minutes.pdf!/Anlage ü.txt"
    }  # fmt: skip
    assert hits(config, "gannet plunges")[0]["member"] == "Microsoft_Word_Document1.docx"
    assert hits(config, "curlew calls")[0]["member"] == "Anlage ü.txt"


def test_a_file_that_was_dropped_into_a_document() -> None:
    """The stream that Office writes: label, path, flags, temporary path, content."""
    from ingestd_plugins.embedded import native

    path = b"C:\\Users\\x\\report.txt\0"
    head = b"\0\0\0\0\2\0report.txt\0" + path + b"\0\0\3\0" + struct.pack("<L", len(path)) + path
    assert native(head + struct.pack("<L", 5) + b"texts and what follows") == ("report.txt", b"texts")
