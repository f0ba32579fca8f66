"""What the daemon replaces, as a script: `python -m tests.benchmarks.baseline FILE...`.

Loads the files one after the other, with the same loaders and the same chunks, then the model, then encodes all chunks
with one `SentenceTransformer.encode`, with its defaults. Nothing is stored. Prints seconds and counts as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from ingestd.chunk import Chunker
from ingestd.config import DEFAULT_MODEL
from ingestd.detect import Detector
from ingestd.models import resolve
from ingestd.plugins import discover
from ingestd.types import Element, File


def texts(paths: list[Path], scratch: Path) -> list[str]:
    registry = discover("loaders", "engines")
    tokenizer = registry.engines["torch"].tokenizer(DEFAULT_MODEL)
    chunker = Chunker(tokenizer, max_tokens=0, overlap=32, prompt="")
    detector = Detector(registry.loaders, {}, [])
    found = []
    for path in paths:
        with path.open("rb") as stream:
            detected = detector.detect(stream, path.name)
        assert detected.loader is not None
        file = File(path, path.name, detected.suffix, detected.media_type, path.stat().st_size, scratch)
        elements = (element for element in registry.loaders[detected.loader].load(file) if isinstance(element, Element))
        found += [chunk.text for chunk in chunker.chunk(elements, set()).chunks]
    return found


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        chunks = texts([Path(argument) for argument in sys.argv[1:]], Path(scratch))
    loaded = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve(DEFAULT_MODEL)), device="cpu")
    ready = time.monotonic()
    vectors = model.encode(chunks, show_progress_bar=False)
    encoded = time.monotonic()
    record = {"load": loaded - began, "model": ready - loaded, "encode": encoded - ready, "chunks": len(vectors)}
    sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
