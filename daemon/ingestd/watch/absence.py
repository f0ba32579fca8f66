"""When a missing file is a deletion, and when it only cannot be seen."""

from __future__ import annotations

from ingestd.watch.volumes import Volumes


class Absence:
    """Judges the missing files of one source.

    `aliases` holds pairs of volumes that are one, though their numbers differ, see `scan.Scan`.
    """

    def __init__(self, volumes: Volumes) -> None:
        self.aliases: set[tuple[int, int]] = set()
        self.accept = False
        """What lies on other volumes than before is no doubt: a person said so."""
        self._volumes = volumes
        self._places: dict[bytes, int | None] = {}

    def forget(self) -> None:
        """Look at the directories anew from here on."""
        self._places.clear()

    def doubt(self, path: bytes, volume: int | None) -> tuple[bytes, str] | None:
        """Where and why the absence of a document is no deletion; None: it is one.

        The nearest directory that is left must be visible, and on the volume where the journal saw the file: else that
        was unmounted, or something else was mounted over it.
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
            if not volume or volume == here or self._alias(volume, here) or self.accept:
                return None
            return parent, (
                "another file system is here than before (not mounted?); files missing there are kept, "
                "until they come back or `ingestd confirm-deletes` says that they are gone"
            )
        raise AssertionError("the root is a place, or an error")

    def _alias(self, volume: int, here: int) -> bool:
        return any(old == volume and (new == here or (new, here) in self.aliases) for old, new in self.aliases)

    def _place(self, prefix: bytes) -> int | None:
        """The volume of a directory; None: there is no such directory below the root."""
        if prefix not in self._places:
            try:
                self._places[prefix] = self._volumes.look(prefix)
            except (FileNotFoundError, NotADirectoryError):
                if not prefix:
                    raise
                self._places[prefix] = None
        return self._places[prefix]
