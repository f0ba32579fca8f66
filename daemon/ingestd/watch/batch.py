"""The scan of the paths that `ingest` was given, and what is wrong with them."""

from __future__ import annotations

import stat as modes
from collections.abc import Callable, Iterator, Sequence

from ingestd.messages.watch import WatchSource
from ingestd.types import display
from ingestd.watch.rules import Rules
from ingestd.watch.scan import Scan
from ingestd.watch.tree import Tree


def steps_of(
    scan: Scan,
    frame: WatchSource,
    rules: Rules,
    tree: Tree,
    error: Callable[[str], None],
    failed: Callable[[bytes, OSError], None],
) -> Iterator[None]:
    """Compare the paths that a batch names; everything, where it names none."""
    for path in outermost(frame.below):
        if not path:
            yield from scan.run()
            continue
        name = display(tree.root + path)
        try:
            mode = tree.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            error(f"{name}: no such file or directory")
            scan.one(path)
            yield from scan.run(path + b"/")
            continue
        except OSError as cause:
            failed(path, cause)
            continue
        admitted = rules.directory(path + b"/") if modes.S_ISDIR(mode) else rules.file(path)
        if not admitted:
            error(f"{name}: excluded by the patterns of source {frame.source}")
        elif not modes.S_ISDIR(mode) and not modes.S_ISREG(mode):
            error(f"{name}: not a regular file (links are not followed)")
        scan.one(path)
        yield from scan.run(path + b"/") if modes.S_ISDIR(mode) and admitted else ()


def outermost(paths: Sequence[bytes]) -> list[bytes]:
    """The paths without those that lie below another one; "" (everything) where there are none."""
    found: list[bytes] = []
    for path in sorted(path.strip(b"/").removeprefix(b"./") for path in paths):
        if path in (b"", b"."):
            return [b""]
        if path not in found and not any(path.startswith(other + b"/") for other in found):
            found.append(path)
    return found or [b""]
