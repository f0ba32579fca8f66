"""Reads `.quill` files, which no bundled loader knows, and takes `.md` from the loader that has it.

What a file's first line asks for is done to the worker, as a loader with a fault might.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File


class QuillLoader:
    name = "quill"
    version = "1.4"
    suffixes = (".quill",)
    overrides = (".md",)
    media_types = ("text/x-quill",)

    def load(self, file: File) -> Iterator[Element]:
        text = file.path.read_text(encoding="utf-8")
        first, _, _ = text.partition("\n")
        match first.split():
            case ["broken"]:
                raise DamagedFileError("Quill says that it is broken")
            case ["exit"]:
                os._exit(3)
            case ["hang"]:
                time.sleep(1000)
            case ["look-around"]:
                text = f"{text}\n{look_around()}"
        for paragraph in text.split("\n\n"):
            yield Element(f"quill wrote: {paragraph}", metadata={"nib": "gold"})


def look_around() -> str:
    """What the worker lets it do."""
    found = [f"supervisor imported: {'ingestd.supervisor' in sys.modules}"]
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
        found.append("network: open")
    except OSError as error:
        found.append(f"network: {type(error).__name__}")
    try:
        Path("/var/tmp/acme-was-here").write_text("x")
        found.append("disk: written")
    except OSError as error:
        found.append(f"disk: {type(error).__name__}")
    return "\n".join(found)


@hookimpl
def register_loaders() -> list[QuillLoader]:
    return [QuillLoader()]
