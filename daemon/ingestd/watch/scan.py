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
import sqlite3
import stat as modes
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pathspec import GitIgnoreSpec

from ingestd import worker
from ingestd.messages import Stat
from ingestd.watch.observe import SELF_TEST
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


Row = tuple[bytes, int | None, int | None, int | None, int | None, int | None, int, str | None]
"""path, inode, size, mtime_ns, ctime_ns, volume, gone, state: plain tuples, since a scan reads one for each file."""
_COLUMNS: Final = "path, inode, size, mtime_ns, ctime_ns, device, gone"
_END_ROW: Final[Row] = (END, None, None, None, None, None, 1, None)
_FIND: Final = 100
_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()
_VANISHED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def identity(found: os.stat_result, volume: int) -> Stat:
    return Stat(volume, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def same(row: Row, stat: Stat) -> bool:
    """The journal has this very file. Its volume alone makes no difference: the number may change with a reboot."""
    _, inode, size, mtime_ns, ctime_ns, _, gone, _ = row
    return (inode, size, mtime_ns, ctime_ns) == (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns) and not gone


class JournalReader:
    """Short reads of the journal, never a long transaction. A journal that does not exist yet is empty.

    Every method raises `sqlite3.Error` where the journal is there but cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self.directory = os.fsencode(self._path.parent)
        self._inode: int | None = None
        self._db: sqlite3.Connection | None = None

    def page(self, source: str, after: bytes, before: bytes, *, states: bool) -> list[Row]:
        """The next rows with `after < path < before`, in order; an empty list at the end.

        Without `states` each state is None: making the text is a fifth of the cost.
        """
        return self._read(
            f"SELECT {_COLUMNS}, {'state' if states else 'NULL'} FROM documents"
            f" WHERE source = ? AND path > ? AND path < ? AND member = '' ORDER BY path LIMIT {PAGE}",
            (source, after, before),
        )

    def find(self, source: str, paths: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows of these paths."""
        found: dict[bytes, Row] = {}
        for start in range(0, len(paths), _FIND):
            part = paths[start : start + _FIND]
            marks = ", ".join("?" * len(part))
            rows = self._read(
                f"SELECT {_COLUMNS}, state FROM documents WHERE source = ? AND member = '' AND path IN ({marks})",
                (source, *part),
            )
            found.update((row[0], row) for row in rows)
        return found

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, query: str, values: Sequence[object]) -> list[Row]:
        worker.step("")  # it is no watched file system that answers late here
        db = self._connection()
        if db is None:
            return []
        try:
            return db.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # it is being made
                return []
            raise

    def _connection(self) -> sqlite3.Connection | None:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            self.close()
            return None
        except OSError as error:
            raise sqlite3.OperationalError(f"{self._path}: {error.strerror}") from error
        if self._db is not None and inode != self._inode:  # it was made anew
            self.close()
        if self._db is None:
            self._db = sqlite3.connect(
                f"file:{quote(os.fsencode(self._path))}?mode=ro",
                uri=True,
                timeout=10.0,
                isolation_level=None,
                check_same_thread=False,
            )
            self._inode = inode
        return self._db


class Rules:
    """Which paths of a source are its documents. Paths are relative to the source.

    `include` and `exclude` are gitignore lines. An excluded directory hides all that is below it, also from
    lines that would take some of it in again. `hidden`: a directory that is never looked into, with its slash.
    """

    def __init__(
        self, include: Sequence[str], exclude: Sequence[str], *, recursive: bool, hidden: bytes | None = None
    ) -> None:
        self._include = GitIgnoreSpec.from_lines(include) if include else None
        self._exclude = GitIgnoreSpec.from_lines(exclude) if exclude else None
        self._recursive = recursive
        self._hidden = hidden
        self._parents = functools.lru_cache(maxsize=4096)(self._reachable)

    def directory(self, prefix: bytes) -> bool:
        """`prefix` ends with a slash, or is empty for the source itself: is anything below it a document?"""
        return not prefix or self._parents(prefix)

    def file(self, path: bytes) -> bool:
        parent = path[: path.rfind(b"/") + 1]
        return (not parent or self._parents(parent)) and self.name(path)

    def name(self, path: bytes) -> bool:
        """The same for a file in a directory that is known to be looked into."""
        name = os.fsdecode(path)
        if path[path.rfind(b"/") + 1 :] == SELF_TEST:
            return False
        if self._exclude is not None and self._exclude.match_file(name):
            return False
        return self._include is None or self._include.match_file(name)

    def _reachable(self, prefix: bytes) -> bool:
        if not self._recursive or prefix == self._hidden:
            return False
        parent = prefix[: prefix.rfind(b"/", 0, -1) + 1]
        if parent and not self._parents(parent):
            return False
        return self._exclude is None or not self._exclude.match_file(os.fsdecode(prefix))


_Item = tuple[bytes, os.stat_result | None]
"""Path and stat of a file. A directory's path ends with a slash, or is empty, and it has no stat."""


def _is_directory(path: bytes) -> bool:
    return not path or path.endswith(b"/")


class Scan:
    """One comparison of a source, or of a part of it, with the journal.

    `entered(prefix, descriptor, stat)` is called with each directory before it is listed, `found(path, stat)` for
    each file that the journal does not have like this, `missing(path, volume)` for each row without a document,
    and, where given, `known(path, stat)` for each unchanged file that the journal is not done with. `failed(path,
    error)` tells of what could not be listed or looked at: no row there is taken for missing. `same_volume(path,
    volume)` is called with an unchanged file of each directory: the volume of its row is the one where it lies now,
    whatever the numbers say.
    """

    def __init__(
        self,
        source: str,
        tree: Tree,
        rules: Rules,
        journal: JournalReader,
        *,
        entered: Callable[[bytes, int, os.stat_result], None],
        found: Callable[[bytes, os.stat_result], None],
        missing: Callable[[bytes, int | None], None],
        failed: Callable[[bytes, OSError], None],
        same_volume: Callable[[bytes, int], None],
        known: Callable[[bytes, os.stat_result], None] | None = None,
        same_rules: bool = False,
    ) -> None:
        self._source = source
        self._tree = tree
        self._rules = rules
        self._journal = journal
        self._entered = entered
        self._found = found
        self._missing = missing
        self._failed = failed
        self._same_volume = same_volume
        self._known = known
        self._same_rules = same_rules
        """The journaled files passed these rules before: only files that differ are held against them again."""
        self.different = 0
        """Documents met that differ."""
        self.unchanged = 0
        self.done: Counter[str] = Counter()
        """States of the unchanged files, without those that `known` was called for; only where `known` is given."""

    def run(self, prefix: bytes = b"") -> Iterator[None]:
        """Compare the directory `prefix` (with its slash). Yields now and then, so that others have a turn.

        Raises `sqlite3.Error`.
        """
        advance = self._rows(prefix).__next__
        row = advance()
        admits = self._rules.name
        steps = 0
        for items in self._walk(prefix):
            proved: int | None = None
            for path, found in items:
                steps += 1
                if steps % STRIDE == 0:
                    yield
                while row[0] < path:
                    self._lost(row)
                    row = advance()
                if found is None:
                    while row[0] == path or (_is_directory(path) and row is not _END_ROW and row[0].startswith(path)):
                        row = advance()
                    continue
                if row[0] != path:
                    if admits(path):
                        self.different += 1
                        self._found(path, found)
                    continue
                _, inode, size, mtime_ns, ctime_ns, volume, gone, state = row
                if (
                    found.st_mtime_ns == mtime_ns
                    and found.st_ctime_ns == ctime_ns
                    and found.st_ino == inode
                    and found.st_size == size
                    and not gone
                    and (self._same_rules or admits(path))
                ):
                    self.unchanged += 1
                    if volume != proved and volume is not None:
                        proved = volume
                        self._same_volume(path, volume)
                    if self._known is not None:
                        self._count(path, found, state)
                elif admits(path):
                    self.different += 1
                    self._found(path, found)
                else:
                    self._lost(row)
                row = advance()
            yield
        while row is not _END_ROW:
            steps += 1
            if steps % STRIDE == 0:
                yield
            self._lost(row)
            row = advance()

    def one(self, path: bytes) -> None:
        """Compare one path that is not a directory. Raises `sqlite3.Error`."""
        row = self._journal.find(self._source, [path]).get(path)
        try:
            found: os.stat_result | None = self._tree.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            self._failed(path, error)
            return
        if found is None or not modes.S_ISREG(found.st_mode) or not self._rules.file(path):
            if row is not None:
                self._lost(row)
        elif row is not None and same(row, identity(found, 0)):
            self.unchanged += 1
            self._count(path, found, row[-1])
        else:
            self.different += 1
            self._found(path, found)

    @property
    def files(self) -> int:
        """Documents met."""
        return self.different + self.unchanged

    def _rows(self, prefix: bytes) -> Iterator[Row]:
        """The journal's rows below `prefix`, then `_END_ROW` for ever."""
        before = prefix[:-1] + b"0" if prefix else END  # "0" follows "/"
        after = prefix
        while page := self._journal.page(self._source, after, before, states=self._known is not None):
            yield from page
            if len(page) < PAGE:
                break
            after = page[-1][0]
        yield from itertools.repeat(_END_ROW)

    def _count(self, path: bytes, found: os.stat_result, state: str | None) -> None:
        if self._known is not None and state in UNFINISHED:
            self._known(path, found)
        else:
            self.done[str(state)] += 1

    def _lost(self, row: Row) -> None:
        if not row[6]:
            self._missing(row[0], row[5])

    def _walk(self, prefix: bytes) -> Iterator[list[_Item]]:
        """What lies below `prefix` in byte order of the paths, in pieces; without a stat what could not be had."""
        stack: list[Iterator[_Item]] = [iter([(prefix, None)])]
        piece: list[_Item] = []
        while stack:
            for item in stack[-1]:
                path, found = item
                listed = self._list(path, path == prefix) if found is None and _is_directory(path) else None
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

    def _list(self, prefix: bytes, first: bool) -> tuple[list[_Item], bool] | None:
        """A directory's files and directories, sorted, and whether they are files alone; None: it cannot be listed."""
        items: list[_Item] = []
        flat = True
        try:
            directory = self._tree.open(prefix, first=first)
        except OSError as error:
            if prefix and error.errno in _VANISHED:
                return [], True
            self._failed(prefix, error)
            return None
        try:
            self._entered(prefix, directory, os.fstat(directory))
            with os.scandir(directory) as entries:
                for entry in entries:
                    path = prefix + entry.name.encode(_ENCODING, _ERRORS)
                    if entry.is_file(follow_symlinks=False):
                        try:
                            found = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        except OSError as error:
                            self._failed(path, error)
                            items.append((path, None))
                            continue
                        items.append((path, found))
                        if len(items) % STEP == 0:
                            self._tree.step(prefix)
                    elif entry.is_dir(follow_symlinks=False):
                        path += b"/"
                        if self._rules.directory(path):
                            items.append((path, None))
                            flat = False
        except OSError as error:
            self._failed(prefix, error)
            return None
        finally:
            os.close(directory)
        items.sort(key=_path)
        return items, flat


_path = operator.itemgetter(0)
