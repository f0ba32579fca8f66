"""On which volume each file of a source lies: the number that the journal has of it beside the inode; 0: not known."""

from __future__ import annotations

import os

from ingestd.mounts import points_below, volume
from ingestd.watch.tree import Tree


class Volumes:
    """The volumes that a source's scans have met. `place`: the root without symbolic links."""

    def __init__(self, tree: Tree, place: bytes) -> None:
        self._tree = tree
        self._place = place
        self.forget()

    def forget(self) -> None:
        """A mount came or went, or it is time to look anew."""
        self._points = points_below(self._place)
        self._known: dict[bytes, tuple[int, int]] = {}
        """Topmost directory of a volume: device number and volume."""

    def entered(self, prefix: bytes, descriptor: int, device: int) -> int:
        """A scan is about to list the open directory; the volume. A subvolume has a device number, but no mount."""
        top = self._top(prefix)
        if top is None or device != self._known[top][0] or (prefix != top and prefix in self._points):
            top = prefix
            self._known[top] = device, volume(descriptor)
        return self._known[top][1]

    def of(self, path: bytes) -> int:
        """The volume of a file, or of a directory (with its slash). Raises `OSError`."""
        top = self._top(path)
        if top is None:
            return self.look(path[: path.rfind(b"/") + 1])
        return self._known[top][1]

    def look(self, prefix: bytes) -> int:
        """The volume of a directory as it is now. Raises `OSError`; ENOTDIR where there is another thing."""
        directory = self._tree.reach(prefix)
        try:
            return volume(directory)
        finally:
            os.close(directory)

    def _top(self, path: bytes) -> bytes | None:
        """The nearest directory above, or the path itself, whose volume is known."""
        found: bytes | None = None
        for top in self._known:  # nearly always one
            if path.startswith(top) and (found is None or len(top) > len(found)):
                found = top
        return found
