"""Pictures and scanned pages, read by the real PaddleOCR."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import time
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ingestd.errors import IngestdError
from ingestd.library import Library
from ingestd.plugins import discover
from ingestd.testing import LoaderContract
from ingestd.types import Element, File
from ingestd_plugins.ocr import OcrLoader
from tests import scans, specimens
from tests.processes.daemons import ingestd, write_config

pytestmark = [
    pytest.mark.ocr,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("paddleocr") is None, reason="ingestd[ocr] is not installed"),
    pytest.mark.filterwarnings("ignore"),  # PaddleOCR's own
]
PATIENT = {"deadline": "300s", "idle_deadline": "300s"}
SETTINGS = {"encode": {"engine": "hashing", "model": "hashing"}, "load": PATIENT}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with Library(state=tmp_path_factory.mktemp("state"), settings=SETTINGS) as library:
        yield library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PaddleOCR keeps what it writes."""
    monkeypatch.setenv("HOME", str(tmp_path))


def read(tmp_path: Path, data: bytes, suffix: str = ".png", **options: Any) -> tuple[str, File]:
    """In this process: the text of a picture."""
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(data)
    file = File(path, path.name, suffix, "image/png", len(data), tmp_path, {**options})
    elements = [element for element in OcrLoader().load(file) if isinstance(element, Element)]
    return "\n".join(element.text for element in elements if element.text), file


def rows(library: Library, folder: Path) -> dict[str, tuple[str, str | None]]:
    """Of the journal: state and loader by the path below the folder."""
    with contextlib.closing(sqlite3.connect(library._config.state_directory / "journal.sqlite")) as db:
        found = db.execute("SELECT path, member, state, loader FROM documents").fetchall()
    places = {f"/{os.fsdecode(path)}" + (f"!/{member}" if member else ""): (state, loader)
              for path, member, state, loader in found}  # fmt: skip
    return {place.removeprefix(f"{folder}/"): told for place, told in places.items() if place.startswith(f"{folder}/")}


# --- what is read -------------------------------------------------------------------------------------------------

TURNS = {"upright": 0, "turned right": 270, "upside down": 180, "turned left": 90}


def test_hardly_a_character_is_wrong(tmp_path: Path) -> None:
    """Pages at 150 and 200 dpi, in English, Chinese and both, turned each way, askew and noisy, and dense ones."""
    rates: dict[str, list[float]] = {"plain": [], "worn": [], "dense": []}
    wrong = []
    for language, lines in scans.LANGUAGES.items():
        for dpi in (150, 200):
            picture = scans.drawn(lines, dpi)
            for name, turn in TURNS.items():
                text, _ = read(tmp_path, scans.saved(picture.rotate(turn, expand=True)))
                rates["plain"].append(scans.error_rate(text, "".join(lines)))
                if rates["plain"][-1]:
                    wrong.append((language, dpi, name, text))
            text, _ = read(tmp_path, scans.saved(scans.worn(picture)))
            rates["worn"].append(scans.error_rate(text, "".join(lines)))
    for dpi in (150, 200):
        text, _ = read(tmp_path, scans.saved(scans.drawn(scans.DENSE, dpi, 8.0)))
        rates["dense"].append(scans.error_rate(text, "".join(scans.DENSE)))
    means = {name: round(100 * statistics.mean(found), 3) for name, found in rates.items()}
    print(means, {name: [round(100 * rate, 2) for rate in found] for name, found in rates.items()})
    assert means["plain"] == 0, wrong
    assert means["worn"] <= 0.16
    assert means["dense"] <= 0.07


def test_every_suffix_is_found_by_its_sentence(library: Library, folder: Path) -> None:
    """In English and Chinese."""
    expected = {}
    for number, suffix in enumerate(OcrLoader.suffixes):
        for language in ("english", "chinese"):
            words = specimens.words(number, language)
            path = folder / f"{language}{suffix}"
            picture = scans.drawn([words.sentence], 150).crop((0, 60, 1240, 260))
            path.write_bytes(scans.saved(picture, suffix))
            expected[str(path)] = words.sentence
    assert [result for result in library.ingest(folder) if result.state != "indexed"] == []
    for path, sentence in expected.items():
        hits = library.search(sentence, top=3)
        assert any(hit.path == path and alike(sentence, hit.text) for hit in hits), (path, sentence, hits)


def alike(one: str, other: str) -> bool:
    return scans.error_rate(other, one) <= 0.05


def test_kinds_of_pictures(tmp_path: Path) -> None:
    """16 bits, transparent, black and white, with a palette, in CMYK, turned by the camera, and a long strip."""
    import numpy as np
    from PIL import Image

    plain = scans.drawn(scans.ENGLISH[:3], 120)
    wanted = "".join(scans.ENGLISH[:3])
    grey = plain.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    clear = Image.merge("RGBA", [grey.point(lambda _: 0)] * 3 + [grey.point(lambda value: 255 - value)])
    camera = Image.Exif()
    camera[0x0112] = 6
    kinds = {
        "deep.png": scans.saved(deep), "clear.png": scans.saved(clear), "two.png": scans.saved(plain.convert("1")),
        "palette.gif": scans.saved(plain.convert("P"), ".gif"), "cmyk.jpg": scans.saved(plain.convert("CMYK"), ".jpg"),
        "turned.jpg": scans.saved(plain.rotate(90, expand=True), ".jpg", exif=camera),
    }  # fmt: skip
    for name, data in kinds.items():
        text, _ = read(tmp_path, data, Path(name).suffix)
        assert scans.error_rate(text, wanted) < 0.02, (name, text)
    lines = [f"{number}. {scans.ENGLISH[number % 6]}" for number in range(150)]
    strip = Image.new("RGB", (1240, 150 * 50), "white")
    for number in range(0, 150, 10):
        part = scans.drawn(lines[number : number + 10], 150, 14).crop((0, 120, 1240, 620))
        strip.paste(part, (0, number * 50))
    text, _ = read(tmp_path, scans.saved(strip))
    assert scans.error_rate(text, "".join(lines)) < 0.01


def test_a_doubtful_text_is_flagged(tmp_path: Path) -> None:
    text, file = read(tmp_path, scans.saved(scans.drawn(scans.ENGLISH)), low_confidence=0.999, min_confidence=0.1)
    assert text
    assert 0.9 < file.metadata["ocr_confidence"] < 1
    assert file.warnings == [
        f"it was read with a confidence of {file.metadata['ocr_confidence']:.2f}: the text may be wrong"
    ]


def test_options_are_checked(tmp_path: Path) -> None:
    data = scans.saved(scans.drawn(scans.ENGLISH[:1]))
    with pytest.raises(IngestdError, match=r"has no key 'max_sid'; did you mean 'max_side'"):
        read(tmp_path, data, max_sid=1)
    with pytest.raises(IngestdError, match="recognition_model = 'mine' is in no wheel"):
        read(tmp_path, data, recognition_model="mine")


# --- PDF, page by page --------------------------------------------------------------------------------------------


def test_exactly_the_scanned_pages_are_read(library: Library, folder: Path) -> None:
    pages: list[bytes | str | None] = [f"This is the text of page {number}." for number in range(1, 101)]
    for number in (7, 50, 93):
        pages[number - 1] = scans.saved(scans.drawn([f"Scanned sheet {number}: {scans.ENGLISH[0]}"]), ".jpg")
    (folder / "long.pdf").write_bytes(scans.book(*pages))
    assert [result.state for result in library.ingest(folder)] == ["indexed"] * 4
    read = {name: told for name, told in rows(library, folder).items() if told[1] == "ocr"}
    assert read == {f"long.pdf!/page {number}.jpg": ("indexed", "ocr") for number in (7, 50, 93)}
    (hit, *_) = library.search("Scanned sheet 50", top=1)
    assert (hit.path, hit.page) == (f"{folder}/long.pdf!/page 50.jpg", 50)
    (hit, *_) = library.search("text of page 51", top=1)
    assert (hit.path, hit.page) == (f"{folder}/long.pdf", 51)


def test_a_mixed_page_gives_both_and_nothing_twice(library: Library, folder: Path) -> None:
    import pymupdf

    for turn in (0, 90):
        made = pymupdf.open()
        sheet = made.new_page(width=595, height=842)
        sheet.insert_text((60, 80), "Above the picture stands typed text.", fontsize=14)
        sheet.insert_text((60, 770), "Below the picture stands more of it.", fontsize=14)
        picture = scans.drawn(["In the picture an otter signs."], 150, 20).crop((0, 60, 1240, 560))
        sheet.insert_image((60, 300, 535, 500), stream=scans.saved(picture))
        sheet.set_rotation(turn)
        (folder / f"mixed{turn}.pdf").write_bytes(made.tobytes())
    # a scan with a good text layer of its own: it is not read again
    scanned = pymupdf.open()
    sheet = scanned.new_page(width=595, height=842)
    sheet.insert_image(sheet.rect, stream=scans.saved(scans.drawn(scans.ENGLISH), ".jpg"))
    for number, line in enumerate(scans.ENGLISH):
        sheet.insert_text((50, 80 + number * 22), line, fontsize=14, render_mode=3)
    (folder / "searchable.pdf").write_bytes(scanned.tobytes())
    assert {result.state for result in library.ingest(folder)} == {"indexed"}
    found = rows(library, folder)
    assert {name for name in found if "!/" in name} == {"mixed0.pdf!/page 1.png", "mixed90.pdf!/page 1.png"}
    for turn in (0, 90):
        texts = [hit.text for hit in library.search("the picture", top=50, path=f"{folder}/mixed{turn}.pdf*")]
        whole = " ".join(texts)
        assert [whole.count(phrase) for phrase in ("typed text", "more of it", "otter signs")] == [1, 1, 1], texts


def test_garbage_for_text_is_read_from_the_page(library: Library, folder: Path) -> None:
    """Under the letters that are seen lies a layer of bytes read in another encoding, or of letters of nothing."""
    import pymupdf

    shifted = str.maketrans({chr(code): chr((code - 97 + 9) % 26 + 97) for code in range(97, 123)})
    layers = {
        "mojibake": [line.encode().decode("latin-1") for line in scans.CHINESE],
        "shifted": [line.lower().translate(shifted) for line in scans.ENGLISH],
    }
    for name, layer in layers.items():
        made = pymupdf.open()
        sheet = made.new_page(width=595, height=842)
        shown = scans.CHINESE if name == "mojibake" else scans.ENGLISH
        sheet.insert_image(sheet.rect, stream=scans.saved(scans.drawn(shown), ".jpg"))
        for number, line in enumerate(layer):
            sheet.insert_text((50, 80 + number * 22), line, fontsize=14, render_mode=3)
        (folder / f"{name}.pdf").write_bytes(made.tobytes())
    assert {result.state for result in library.ingest(folder)} == {"indexed"}
    for name, shown in (("mojibake", scans.CHINESE), ("shifted", scans.ENGLISH)):
        texts = [hit.text for hit in library.search(shown[0], top=20, path=f"{folder}/{name}.pdf*")]
        assert len(texts) == 1, texts
        assert scans.error_rate(texts[0], "".join(shown)) < 0.01


def test_pages_of_a_tiff_are_parts(library: Library, folder: Path) -> None:
    first, *others = (
        scans.drawn([f"Sheet {number} of the fax: {line}"]) for number, line in enumerate(scans.ENGLISH[:3], 1)
    )
    (folder / "fax.tif").write_bytes(scans.saved(first.convert("1"), ".tif", save_all=True, append_images=others))
    assert {result.state for result in library.ingest(folder)} == {"indexed"}
    assert [name for name in sorted(rows(library, folder)) if "!/" in name] == [
        f"fax.tif!/page {number}.png" for number in (1, 2, 3)
    ]
    found = {hit.page: hit.text for hit in library.search("of the fax", top=10, path=f"{folder}/*")}
    assert {page: text[: len("Sheet 1 of the fax")] for page, text in found.items()} == {
        number: f"Sheet {number} of the fax" for number in (1, 2, 3)
    }


def test_attachments_of_a_scan_are_read(library: Library, folder: Path) -> None:
    import pymupdf

    made = pymupdf.open("pdf", scans.book(scans.saved(scans.drawn(scans.ENGLISH[:1]), ".jpg")))
    made.embfile_add("note.txt", b"The badger keeps the ledger.", filename="note.txt")
    (folder / "scan.pdf").write_bytes(made.tobytes())
    assert {result.state for result in library.ingest(folder)} == {"indexed"}
    assert {"scan.pdf!/page 1.jpg", "scan.pdf!/note.txt"} <= rows(library, folder).keys()


# --- beside the others --------------------------------------------------------------------------------------------


def test_the_same_picture_is_read_once_ever(tmp_path: Path, folder: Path) -> None:
    """Also when it left and came back, and when the index is made anew."""
    state = tmp_path / "state"
    data = scans.saved(scans.drawn(scans.ENGLISH[:2]))
    (folder / "one.png").write_bytes(data)
    with Library(state=state, settings=SETTINGS) as library:
        assert [result.state for result in library.ingest(folder)] == ["indexed"]
    with contextlib.closing(sqlite3.connect(state / "recollections.sqlite")) as db, db:
        ((key, value),) = db.execute("SELECT key, value FROM recollections").fetchall()
        told = zlib.decompress(value)
        assert b"kettle" in told
        db.execute(
            "UPDATE recollections SET value = ? WHERE key = ?", (zlib.compress(told.replace(b"kettle", b"teapot")), key)
        )
    (folder / "one.png").unlink()
    with Library(state=state, settings=SETTINGS) as library:
        list(library.ingest(folder))
        while library.search("returned kettle examined"):  # until it has left the index
            time.sleep(0.1)
        (folder / "back.png").write_bytes(data)
        assert [result.state for result in library.ingest(folder)] == ["indexed"]
        assert "teapot" in library.search("returned examined Tuesday", top=1)[0].text
        changed = {**SETTINGS, "load": {**PATIENT, "ocr": {"min_confidence": 0.4}}}
    with Library(state=state, settings=changed) as library:  # other options, another text
        (folder / "again.png").write_bytes(data + b"\0")
        list(library.ingest(folder))
        assert {hit.text.count("kettle") for hit in library.search("returned kettle examined", path="*again.png")} == {
            1
        }


def test_scans_do_not_hold_up_text(tmp_path: Path, folder: Path) -> None:
    for number in range(30):
        (folder / f"a scan {number}.png").write_bytes(
            scans.saved(scans.drawn([f"{number}: {scans.ENGLISH[number % 6]}"]))
        )
    for number in range(300):
        (folder / f"text {number}.txt").write_text(f"Note {number}: the heron stands in the shallows.")
    order = []
    with Library(state=tmp_path / "state", settings=SETTINGS) as library:
        started = time.monotonic()
        for result in library.ingest(folder):
            assert result.state == "indexed"
            order.append((Path(os.fsdecode(result.path)).suffix, time.monotonic() - started))
    last_text = max(place for place, (suffix, _) in enumerate(order) if suffix == ".txt")
    scans_before = sum(suffix == ".png" for suffix, _ in order[:last_text])
    texts, everything = (order[place][1] for place in (last_text, -1))
    print(f"texts done after {texts:.1f} s, {scans_before} scans before the last; all after {everything:.1f} s")
    assert scans_before < 15


def test_huge_and_damaged_pictures(library: Library, folder: Path) -> None:
    whole = scans.saved(scans.drawn(scans.ENGLISH[:1]))
    header = bytearray(whole[:64])
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    for name, data in {"huge.png": bytes(header) + whole[64:], "half.png": whole[: len(whole) // 2], "empty.png": b"",
                       "tiny.png": scans.saved(scans.drawn(["."]).crop((0, 0, 3, 3)))}.items():  # fmt: skip
        (folder / name).write_bytes(data)
    results = {
        Path(os.fsdecode(result.path)).name: (result.state, result.reason or "") for result in library.ingest(folder)
    }
    assert results["huge.png"] == (
        "quarantined", "it has 50000 x 50000 pixels; [load.ocr] max_pixels is 200000000"
    )  # fmt: skip
    assert results["half.png"][0] == "quarantined"
    assert results["half.png"][1].startswith("damaged: ")
    assert results["empty.png"] == ("quarantined", "the file is empty")
    assert results["tiny.png"] == ("indexed", "")


def test_as_many_pixels_as_may_be_fit_the_memory_of_a_worker(library: Library, folder: Path) -> None:
    from PIL import Image

    page = scans.drawn([scans.ENGLISH[2]])
    large = Image.new("RGBA", (14_142, 14_142), "white")
    large.paste(page.resize((page.width * 10, page.height * 10)), (0, 0))
    (folder / "large.png").write_bytes(scans.saved(large, compress_level=1))
    (result,) = library.ingest(folder)
    assert (result.state, result.reason) == ("indexed", None)
    (hit,) = library.search("14 new gaskets before Friday", path=f"{folder}/*")
    assert "14 new gaskets" in hit.text


def test_pictures_in_documents_are_read_where_that_is_switched_on(tmp_path: Path, folder: Path) -> None:
    import io

    import docx

    document = docx.Document()
    document.add_paragraph("The letter has a picture.")
    document.add_picture(io.BytesIO(scans.saved(scans.drawn([scans.ENGLISH[2]]))))
    document.save(str(folder / "letter.docx"))
    settings = {**SETTINGS, "load": {**PATIENT, "word": {"pictures": True}}}
    with Library(state=tmp_path / "state", settings=settings) as library:
        assert [result.state for result in library.ingest(folder)] == ["indexed", "indexed"]
        (hit, *_) = library.search("14 new gaskets before Friday", top=1)
    assert hit.path == f"{folder}/letter.docx!/image1.png"


def test_the_models_are_named_at_the_start(tmp_path: Path) -> None:
    said = OcrLoader().describe({"recognition_model": "mine", "recognition_model_dir": "/models/mine"})
    assert said == (
        "PP-OCRv6_small_det, mine from /models/mine, PP-LCNet_x1_0_doc_ori, by onnxruntime on cpu"
    )  # fmt: skip
    assert OcrLoader().gpu_memory({"device": "gpu:1", "gpu_memory": "1GiB"}) == {"cuda:1": 1 << 30}
    assert OcrLoader().gpu_memory({}) == {}
    config = write_config(tmp_path / "state", None, **{"load.ocr": {"device": "cpu"}})
    done = ingestd(config, "plugins")
    assert "loader ocr uses PP-OCRv6_small_det, PP-OCRv6_small_rec" in " ".join(done.stdout.split())


def test_the_loader_is_there() -> None:
    item = next(item for item in discover("loaders").items if item.name == "ocr")
    assert (item.lacks, item.workers, item.remembers, item.version) == ("", 1, True, OcrLoader.version)


def _small(suffix: str) -> bytes:
    picture = scans.drawn(["Signed."], 100).crop((40, 60, 340, 140)) if find_spec("paddleocr") else None
    return scans.saved(picture, suffix) if picture is not None else b""


class TestOcr(LoaderContract):
    """What the contract asks of every loader, with few files: each takes a second."""

    loader = "ocr"
    samples: ClassVar[dict[str, bytes]] = {
        f"small{suffix}": _small(suffix) for suffix in (".png", ".jpg", ".tif", ".webp")
    }
    limits: ClassVar[dict[str, Any]] = PATIENT
    quiet = True
    cuts = 6
    flips = 20


@pytest.mark.slow
class TestOcrInFull(TestOcr):
    """With as many as every other loader."""

    samples: ClassVar[dict[str, bytes]] = {
        name: data for name, data in TestOcr.samples.items() if name[-3:] in "pngjpg"
    }
    cuts = 20
    flips = 200
