"""Where symbolic links are followed: what a scan has to look after, so that it comes to an end."""

from __future__ import annotations

import os

from ingestd.watch.tree import Tree


class Loops:
    """The directories above the one that a walk lists next. It starts in `prefix`, and goes down before it goes on."""

    def __init__(self, tree: Tree, prefix: bytes) -> None:
        self._above: list[tuple[bytes, tuple[int, int]]] = []
        for length in [0, *(at + 1 for at, byte in enumerate(prefix[:-1]) if byte == ord("/"))] if prefix else []:
            try:
                self.closes(prefix[:length], tree.stat(prefix[:length]))
            except OSError:
                continue

    def closes(self, prefix: bytes, status: os.stat_result) -> bool:
        """Whether the directory is one of those above it: then a link has led back there."""
        while self._above and (prefix == self._above[-1][0] or not prefix.startswith(self._above[-1][0])):
            self._above.pop()
        key = (status.st_dev, status.st_ino)
        if any(key == other for _, other in self._above):
            return True
        self._above.append((prefix, key))
        return False
