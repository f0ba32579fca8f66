"""Folder against journal: a walk in byte order of the paths, merged with range reads of the journal's rows.

Both sides are sorted in the same way, so an unchanged file costs one `stat` and its share of a range read, and memory
holds the entries of the directories on the way down and one page of rows, whatever the size of the tree.
"""

from __future__ import annotations

import errno
import functools
import itertools
import operator
import os
import stat as modes
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import apsw

from ingestd import worker
from ingestd.errors import IngestdError
from ingestd.messages.load import Stat, journaled
from ingestd.watch.links import Loops
from ingestd.watch.rules import Rules
from ingestd.watch.tree import Tree

PAGE: Final = 2000
"""Rows of one range read."""
STRIDE: Final = 512
"""Files after which a scan lets others have a turn."""
STEP: Final = 64
"""Files after which a scan shows that it goes on."""
END: Final = b"\xff" * 4200
"""Sorts after every path that the kernel takes."""
UNFINISHED: Final = frozenset({"queued", "running", "failed"})
"""States that a batch waits for."""


Entry = tuple[bytes, int, int, int, int, int]
"""path, inode, size, mtime_ns, ctime_ns, volume: of a file as well as of a row of the journal, so that a directory is
compared with its rows by one comparison of two lists. A plain tuple, since a scan makes two for each file."""
_ENTRY: Final = "path, inode, size, mtime_ns, ctime_ns, device"
_UNSEEN: Final = (0, -1, 0, 0, 0)
"""In place of a stat, of directories and of what could not be looked at: no file has such a size."""
_END_ROW: Final[Entry] = (END, *_UNSEEN)
Row = tuple[bytes, int, int, int, int, int, int, str]
"""The same of a row, with its `gone` and `state`."""
_FIND: Final = 100
_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()
_VANISHED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def identity(found: os.stat_result, volume: int) -> Stat:
    times = journaled(found.st_mtime_ns), journaled(found.st_ctime_ns)
    return Stat(volume, journaled(found.st_ino), found.st_size, *times)


def same(row: Row, stat: Stat) -> bool:
    """The journal has this very file. Its volume alone makes no difference: the number may change with a reboot."""
    _, inode, size, mtime_ns, ctime_ns, _, gone, _ = row
    return (inode, size, mtime_ns, ctime_ns) == (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns) and not gone


def _stat(entry: Entry) -> Stat:
    _, inode, size, mtime_ns, ctime_ns, volume = entry
    return Stat(volume, journaled(inode), size, journaled(mtime_ns), journaled(ctime_ns))


class UnreadableError(IngestdError):
    """The journal is there, but cannot be read."""


class JournalReader:
    """Short reads of the journal, never a long transaction. A journal that does not exist yet is empty.

    Through apsw, which takes half the time of `sqlite3` for a row. Every method raises `UnreadableError`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self.directory = os.fsencode(self._path.parent)
        self._inode: int | None = None
        self._db: apsw.Connection | None = None

    def page(self, source: str, after: bytes, before: bytes, *, states: bool) -> tuple[list[Entry], list[str]]:
        """The next rows with `after < path < before` that are not gone, in order; an empty list at the end.

        With `states` also the state of each: making the texts takes a fifth of the time.
        """
        found = self._read(
            f"SELECT {_ENTRY}{', state' if states else ''} FROM documents"
            f" WHERE source = ? AND path > ? AND path < ? AND member = '' AND gone = 0 ORDER BY path LIMIT {PAGE}",
            (source, after, before),
        )
        return ([row[:-1] for row in found], [row[-1] for row in found]) if states else (found, [])

    def find(self, source: str, paths: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows of these paths."""
        found: dict[bytes, Row] = {}
        for start in range(0, len(paths), _FIND):
            part = paths[start : start + _FIND]
            marks = ", ".join("?" * len(part))
            rows = self._read(
                f"SELECT {_ENTRY}, gone, state FROM documents WHERE source = ? AND member = '' AND path IN ({marks})",
                (source, *part),
            )
            found.update((row[0], row) for row in rows)
        return found

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        worker.step("")  # it is no watched file system that answers late here
        try:
            db = self._connection()
            return db.execute(query, values).fetchall() if db is not None else []
        except OSError as error:
            raise UnreadableError(f"{self._path}: {error.strerror}") from error
        except apsw.Error as error:
            if "no such table" in str(error):  # it is being made
                return []
            raise UnreadableError(str(error)) from error

    def _connection(self) -> apsw.Connection | None:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            self.close()
            return None
        if self._db is not None and inode != self._inode:  # it was made anew
            self.close()
        if self._db is None:
            self._db = apsw.Connection(
                f"file:{quote(os.fsencode(self._path))}?mode=ro",
                flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
            )
            self._db.set_busy_timeout(10_000)
            self._inode = inode
        return self._db


class _Rows:
    """The journal's rows below a prefix, in order, read page by page; `_END_ROW` after the last."""

    def __init__(self, read: Callable[[bytes], tuple[list[Entry], list[str]]], prefix: bytes) -> None:
        """`read`: the page after a path."""
        self._read = read
        self._after = prefix
        self._more = True
        self._rows: list[Entry] = []
        self._states: list[str] = []
        self._at = 0
        self.row = _END_ROW
        """The next one."""
        self.skip(0)

    @property
    def state(self) -> str:
        """Of the next one; only where states are read."""
        return self._states[self._at]

    def ahead(self, count: int) -> list[Entry]:
        """The next so many rows, fewer at the end."""
        while self._more and len(self._rows) - self._at < count:
            self._fill()
        return self._rows[self._at : self._at + count]

    def states(self, count: int) -> list[str]:
        """Of the rows of the last `ahead`."""
        return self._states[self._at : self._at + count]

    def skip(self, count: int = 1) -> Entry:
        """Go on. Gives the next row."""
        self._at += count
        if self._more and self._at >= len(self._rows):
            self._fill()
        self.row = self._rows[self._at] if self._at < len(self._rows) else _END_ROW
        return self.row

    def _fill(self) -> None:
        rows, states = self._read(self._after)
        self._rows = self._rows[self._at :] + rows
        self._states = self._states[self._at :] + states
        self._at = 0
        self._more = len(rows) == PAGE
        if rows:
            self._after = rows[-1][0]


def _is_directory(path: bytes) -> bool:
    return not path or path.endswith(b"/")


class Scan:
    """One comparison of a source, or of a part of it, with the journal.

    `entered(prefix, descriptor, stat)` is called with each directory before it is listed, and says on which volume its
    files lie; `identify(path, stat)` says who a single file is. `found(path, stat)` is called for each file that the
    journal does not have like this, `missing(path, volume)` for each row without a document, and, where given,
    `known(path, stat)` for each unchanged file that the journal is not done with. `failed(path, error)` tells of what
    could not be listed or looked at: no row there is taken for missing. `same_volume(path, volume)` is called with an
    unchanged file of each directory whose rows tell of another volume: it is the one where it lies now, whatever the
    numbers say.
    """

    def __init__(
        self,
        source: str,
        tree: Tree,
        rules: Rules,
        journal: JournalReader,
        *,
        entered: Callable[[bytes, int, os.stat_result], int],
        identify: Callable[[bytes, os.stat_result], Stat],
        found: Callable[[bytes, Stat], None],
        missing: Callable[[bytes, int], None],
        failed: Callable[[bytes, OSError], None],
        same_volume: Callable[[bytes, int], None],
        known: Callable[[bytes, Stat], None] | None = None,
        same_rules: bool = False,
    ) -> None:
        self._source = source
        self._tree = tree
        self._rules = rules
        self._journal = journal
        self._entered = entered
        self._identify = identify
        self._found = found
        self._missing = missing
        self._failed = failed
        self._same_volume = same_volume
        self._known = known
        self._same_rules = same_rules
        """The journaled files passed these rules before: only files that differ are held against them again."""
        self._loops: Loops | None = None
        self.different = 0
        """Documents met that differ."""
        self.unchanged = 0
        self.done: Counter[str] = Counter()
        """States of the unchanged files, without those that `known` was called for; only where `known` is given."""

    def run(self, prefix: bytes = b"") -> Iterator[None]:
        """Compare the directory `prefix` (with its slash). Yields now and then, so that others have a turn.

        Raises `UnreadableError`.
        """
        before = prefix[:-1] + b"0" if prefix else END  # "0" follows "/"
        page = functools.partial(self._journal.page, self._source, before=before, states=self._known is not None)
        rows = _Rows(page, prefix)
        if self._tree.follow:
            self._loops = Loops(self._tree, prefix)
        for items in self._walk(prefix):
            for start in range(0, max(1, len(items)), STRIDE):
                piece = items[start : start + STRIDE] if len(items) > STRIDE else items
                if not self._equal(piece, rows):
                    yield from self._merge(piece, rows)
                yield
        while rows.row is not _END_ROW:
            for row in rows.ahead(STRIDE):
                self._lost(row)
                rows.skip()
            yield

    def _equal(self, items: list[Entry], rows: _Rows) -> bool:
        """Whether the next rows are just these files, as nearly all of them are; then they are done with."""
        ahead = rows.ahead(len(items))
        same = ahead == items
        if not same and list(map(_file, ahead)) != list(map(_file, items)):
            return False
        if not (self._same_rules or all(map(self._rules.name, map(_path, items)))):
            return False
        if not same:
            for volume, path in dict(zip(map(_volume, ahead), map(_path, ahead), strict=True)).items():
                self._same_volume(path, volume)
        self.unchanged += len(items)
        if self._known is not None:
            for item, state in zip(items, rows.states(len(items)), strict=True):
                self._count(item, state)
        rows.skip(len(items))
        return True

    def _merge(self, items: list[Entry], rows: _Rows) -> Iterator[None]:
        """One by one."""
        admits = self._rules.name
        row = rows.row
        proved: int | None = None
        lost = 0
        for item in items:
            path = item[0]
            while row[0] < path:
                self._lost(row)
                lost += 1
                if lost % STRIDE == 0:
                    yield
                row = rows.skip()
            if item[2] < 0:
                while row[0] == path or (_is_directory(path) and row is not _END_ROW and row[0].startswith(path)):
                    row = rows.skip()
                continue
            if row[0] != path:
                if admits(path):
                    self.different += 1
                    self._found(path, _stat(item))
                continue
            found = _stat(item)
            if row[1:5] == (found.inode, found.size, found.mtime_ns, found.ctime_ns) and (
                self._same_rules or admits(path)
            ):
                self.unchanged += 1
                if row[5] not in (item[5], proved):
                    proved = row[5]
                    self._same_volume(path, proved)
                if self._known is not None:
                    self._count(item, rows.state)
            elif admits(path):
                self.different += 1
                self._found(path, found)
            else:
                self._lost(row)
            row = rows.skip()

    def one(self, path: bytes) -> None:
        """Compare one path that is not a directory. Raises `UnreadableError`."""
        row = self._journal.find(self._source, [path]).get(path)
        try:
            found: os.stat_result | None = self._tree.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            self._failed(path, error)
            return
        if found is None or not modes.S_ISREG(found.st_mode) or not self._rules.file(path):
            if row is not None and not row[6]:
                self._lost(row[:6])
        elif row is not None and same(row, identity(found, 0)):
            self.unchanged += 1
            self._count(row[:6], row[7])
        else:
            self.different += 1
            self._found(path, self._identify(path, found))

    @property
    def files(self) -> int:
        """Documents met."""
        return self.different + self.unchanged

    def _count(self, item: Entry, state: str) -> None:
        if self._known is not None and state in UNFINISHED:
            self._known(item[0], _stat(item))
        else:
            self.done[state] += 1

    def _lost(self, row: Entry) -> None:
        self._missing(row[0], row[5])

    def _walk(self, prefix: bytes) -> Iterator[list[Entry]]:
        """What lies below `prefix` in byte order of the paths, in pieces: files, and directories that cannot be listed.

        The path of a directory ends with a slash, or is empty.
        """
        stack: list[Iterator[Entry]] = [iter([(prefix, *_UNSEEN)])]
        piece: list[Entry] = []
        while stack:
            for item in stack[-1]:
                path = item[0]
                listed = self._list(path, path == prefix) if item[2] < 0 and _is_directory(path) else None
                if listed is None:
                    piece.append(item)
                    continue
                if piece:
                    yield piece
                    piece = []
                items, flat = listed
                if flat:
                    yield items
                    continue
                stack.append(iter(items))
                break
            else:
                stack.pop()
        if piece:
            yield piece

    def _list(self, prefix: bytes, first: bool) -> tuple[list[Entry], bool] | None:
        """A directory's files and directories, sorted, and whether they are files alone; None: it cannot be listed."""
        items: list[Entry] = []
        flat = True
        try:
            directory = self._tree.open(prefix, first=first)
        except OSError as error:
            if prefix and error.errno in _VANISHED:
                return [], True
            self._failed(prefix, error)
            return None
        try:
            status = os.fstat(directory)
            if self._loops is not None and self._loops.closes(prefix, status):
                return [], True
            volume = self._entered(prefix, directory, status)
            with os.scandir(directory) as entries:
                while some := list(itertools.islice(entries, STEP)):
                    for entry in some:
                        path = prefix + entry.name.encode(_ENCODING, _ERRORS)
                        if entry.is_file(follow_symlinks=False):
                            try:
                                found = entry.stat(follow_symlinks=False)
                            except FileNotFoundError:
                                continue
                            except OSError as error:
                                self._failed(path, error)
                                items.append((path, *_UNSEEN))
                                continue
                            items.append(
                                (path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, volume)
                            )
                        elif entry.is_dir(follow_symlinks=False):
                            path += b"/"
                            if self._rules.directory(path):
                                items.append((path, *_UNSEEN))
                                flat = False
                        elif self._loops is not None and entry.is_symlink():
                            beyond = self._beyond(path, volume)
                            items += beyond
                            flat = flat and not any(_is_directory(item[0]) for item in beyond)
                    if len(some) == STEP:
                        self._tree.step(prefix)
        except OSError as error:
            self._failed(prefix, error)
            return None
        finally:
            os.close(directory)
        items.sort(key=_path)
        return items, flat

    def _beyond(self, path: bytes, volume: int) -> list[Entry]:
        """What a link leads to, as if it lay here; nothing where that is no document."""
        try:
            found = self._tree.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._failed(path, error)
            return [(path, *_UNSEEN)]
        if modes.S_ISREG(found.st_mode):
            return [(path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, volume)]
        directory = modes.S_ISDIR(found.st_mode) and self._rules.directory(path + b"/")
        return [(path + b"/", *_UNSEEN)] if directory else []


_path = operator.itemgetter(0)
_file = operator.itemgetter(0, 1, 2, 3, 4)
_volume = operator.itemgetter(5)
