"""When a missing file is a deletion, and when it only cannot be seen."""

from __future__ import annotations

import stat as modes

from ingestd.watch.tree import Tree


class Absence:
    """Judges the missing files of one source.

    `aliases` holds pairs of device numbers that mean one file system, see `scan.Scan`.
    """

    def __init__(self, tree: Tree) -> None:
        self.aliases: set[tuple[int, int]] = set()
        self._tree = tree
        self._places: dict[bytes, int | None] = {}

    def forget(self) -> None:
        """Look at the directories anew from here on."""
        self._places.clear()

    def doubt(self, path: bytes, device: int | None) -> tuple[bytes, str] | None:
        """Where and why the absence of a document is no deletion; None: it is one.

        The nearest directory that is left must be visible, and on the file system where the journal saw the file
        (`device`): else that was unmounted, or something else was mounted over it.
        """
        parent = path
        while parent:
            parent = parent[: parent.rfind(b"/", 0, -1) + 1]
            try:
                here = self._place(parent)
            except OSError as error:
                return parent, f"{error.strerror}; files missing there are kept"
            if here is None:
                continue
            if device is None or device == here or self._alias(device, here):
                return None
            return parent, "another file system is here than before (not mounted?); files missing there are kept"
        raise AssertionError("the root is a place, or an error")

    def _alias(self, device: int, here: int) -> bool:
        return any(old == device and (new == here or (new, here) in self.aliases) for old, new in self.aliases)

    def _place(self, prefix: bytes) -> int | None:
        """The device of a directory; None: there is no such directory below the root."""
        if prefix not in self._places:
            try:
                found = self._tree.stat(prefix)
                self._places[prefix] = found.st_dev if modes.S_ISDIR(found.st_mode) else None
            except (FileNotFoundError, NotADirectoryError):
                if not prefix:
                    raise
                self._places[prefix] = None
        return self._places[prefix]
