"""A storm over folders: every way that people and programs change files, in an order that the seed alone decides."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import random
import shutil
import stat as modes
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.archives import zipped

FILES = 240
"""Files in all folders together, about: beyond it things are deleted rather than copied."""
EXCHANGE = 2
"""RENAME_EXCHANGE: two names are swapped in one step."""
AT_FDCWD = -100
ARCHIVE = b"PK"
PROGRAM = b"\x7fELF\x02\x01\x01\0"
"""How a file begins that no loader takes, whatever its name."""

_libc = ctypes.CDLL(None, use_errno=True)


class NothingToDoError(Exception):
    """The folders have nothing that the operation could be done to."""


def swap(one: Path, other: Path) -> None:
    """Exchange two names at once."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


class Storm:
    """Operations on the files below some folders.

    Nothing here depends on time or on the order of a listing, so one seed always makes the same changes, whoever else
    looks at the folders. Names are few, so that they are used again and again.
    """

    def __init__(self, seed: int, roots: Sequence[Path], outside: Path) -> None:
        """`outside`: a folder that nobody watches, for what is moved out and comes back."""
        self.seed = seed
        self.dice = random.Random(seed)
        self.roots = list(roots)
        self.outside = outside
        self.done: Counter[str] = Counter()
        self.log: deque[str] = deque(maxlen=3000)
        """What was done lately, for a failure's report."""
        self._texts: list[str] = ["one text that many files have\n"]
        self._writers: list[tuple[int, int]] = []
        """Open files that are written to now and then: descriptor, writes to come."""
        self._kinds: dict[str, tuple[int, Callable[[], str]]] = {
            "create": (14, self._create), "write slowly": (6, self._begin_writing),
            "go on writing": (16, self._go_on), "append": (8, self._append),
            "truncate and rewrite": (6, self._rewrite), "cut": (3, self._cut), "rename": (7, self._rename),
            "rename onto another": (4, self._rename_onto), "move directory": (7, self._move_directory),
            "copy": (5, self._copy), "copy directory": (3, self._copy_tree), "link": (4, self._link),
            "symbolic link": (1, self._symlink), "delete": (8, self._delete),
            "delete directory": (2, self._delete_tree), "chmod": (4, self._chmod),
            "replace by rename": (7, self._save), "save as editors do": (3, self._save_with_backup),
            "swap files": (4, self._swap_files), "swap files in one step": (2, self._exchange_files),
            "swap directories": (2, self._exchange_directories), "recreate directory": (4, self._recreate),
            "touch": (4, self._touch), "write the same again": (4, self._write_again),
            "text to picture": (3, self._to_picture), "change behind the time": (3, self._disguise),
            "move out": (2, self._move_out), "move in": (3, self._move_in),
            "create archive": (4, self._archive), "change archive": (6, self._change_archive),
            "file to directory": (1, self._file_to_directory), "directory to file": (1, self._directory_to_file),
        }  # fmt: skip
        """Weight and operation."""

    def step(self) -> str:
        """One more operation; returns what it was. Those that the folders do not allow now are not counted."""
        kinds = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        while True:
            (kind,) = self.dice.choices(kinds, weights)
            if kind in ("create", "copy", "copy directory", "recreate directory") and len(self.files()) > FILES:
                kind = self.dice.choice(["delete", "delete", "delete directory"])
            try:
                told = self._kinds[kind][1]()
            except (OSError, NothingToDoError, shutil.Error):
                continue  # a directory into itself, a link across file systems: what a shell refuses too
            self.done[kind] += 1
            self.log.append(f"{sum(self.done.values())} {kind}: {told}")
            return kind

    def close(self) -> None:
        while self._writers:
            os.close(self._writers.pop()[0])

    def about(self, path: str) -> list[str]:
        """What was done lately to a path, or to a directory above it."""
        places = {path, *(str(parent) for parent in Path(path).parents if parent not in self.roots)}
        return [line for line in self.log if any(place in line.split(" ") for place in places)][-12:]

    # --- choosing ---------------------------------------------------------------------------------------------

    def files(self) -> list[Path]:
        found: list[Path] = []
        for root in self.roots:
            for directory, names, files in os.walk(root):
                names.sort()
                found += [Path(directory, name) for name in sorted(files)]
        return [path for path in found if not path.is_symlink()]

    def _file(self) -> Path:
        found = self.files()
        if not found:
            raise NothingToDoError
        return self.dice.choice(found)

    def _writable(self) -> Path:
        """No archive: what becomes of a damaged one is a matter of luck."""
        path = self._file()
        if path.read_bytes().startswith(ARCHIVE):
            raise NothingToDoError
        return path

    def _directories(self) -> list[Path]:
        return sorted(
            Path(above, name) for root in self.roots for above, names, _ in os.walk(root) for name in names
            if not Path(above, name).is_symlink()
        )  # fmt: skip

    def _directory(self) -> Path:
        found = self._directories()
        if not found:
            raise NothingToDoError
        return self.dice.choice(found)

    def _place(self) -> Path:
        """A directory, made where there was none."""
        depth = self.dice.choice([0, 1, 1, 2, 2, 3])
        place = self.dice.choice(self.roots).joinpath(*(self.dice.choice("abc") for _ in range(depth)))
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _name(self) -> str:
        return f"f{self.dice.randrange(10)}{self.dice.choices(['.txt', '.md', '.json'], [6, 3, 1])[0]}"

    def _new(self) -> Path:
        """A path that nothing has."""
        path = self._place() / self._name()
        if os.path.lexists(path):
            raise NothingToDoError
        return path

    def _text(self) -> str:
        """A new text, or one that was written before: then nothing needs to be embedded."""
        if self.dice.random() < 0.2:
            return self.dice.choice(self._texts)
        words = [f"word{self.dice.randrange(300)}" for _ in range(self.dice.randint(3, 60))]
        text = f"Version {self.dice.getrandbits(48):012x}\n\n" + " ".join(words) + "\n"
        if len(self._texts) < 40:
            self._texts.append(text)
        else:
            self._texts[self.dice.randrange(40)] = text
        return text

    # --- writing ----------------------------------------------------------------------------------------------

    def _create(self) -> str:
        path = self._new()
        path.write_text(self._text())
        return str(path)

    def _begin_writing(self) -> str:
        path = self._new() if self.dice.random() < 0.7 else self._file()
        if len(self._writers) >= 8:
            raise NothingToDoError
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._writers.append((descriptor, self.dice.randint(1, 6)))
        os.write(descriptor, self._text().encode())
        return str(path)

    def _go_on(self) -> str:
        """The file may have another name by now, or none."""
        if not self._writers:
            raise NothingToDoError
        descriptor, left = self._writers.pop(self.dice.randrange(len(self._writers)))
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if left:
            os.write(descriptor, self._text().encode())
            self._writers.append((descriptor, left - 1))
        else:
            os.close(descriptor)
        return f"{path} {'' if left else 'closed'}"

    def _append(self) -> str:
        path = self._writable()
        with path.open("a") as file:
            file.write(self._text())
        return str(path)

    def _rewrite(self) -> str:
        path = self._file()
        path.write_text(self._text())
        return str(path)

    def _cut(self) -> str:
        path = self._writable()
        content = path.read_bytes()
        if content.startswith(PROGRAM):  # half of one may be anything
            raise NothingToDoError
        os.truncate(path, self.dice.choice([0, len(content) // 2, max(0, len(content) - 1)]))
        return str(path)

    def _save(self) -> str:
        """A whole new file in the place of an old one."""
        path = self._file() if self.dice.random() < 0.8 else self._place() / self._name()
        beside = path.with_name(f"{path.name}.tmp")
        beside.write_text(self._text())
        beside.replace(path)
        return str(path)

    def _save_with_backup(self) -> str:
        path = self._file()
        backup = path.with_name(f"{path.name}~")
        path.rename(backup)
        path.write_text(self._text())
        backup.unlink()
        return str(path)

    def _write_again(self) -> str:
        path = self._file()
        path.write_bytes(path.read_bytes())
        return str(path)

    def _to_picture(self) -> str:
        path = self._file()
        path.write_bytes(PROGRAM + self.dice.randbytes(20))
        return str(path)

    def _disguise(self) -> str:
        """Another content of the same size and with the same modification time."""
        path = self._writable()
        found = path.stat()
        content = bytearray(path.read_bytes())
        if not content or content.startswith(PROGRAM):
            raise NothingToDoError
        content[self.dice.randrange(len(content))] = ord(self.dice.choice("abcdefgh"))
        path.write_bytes(content)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        return str(path)

    def _archive(self) -> str:
        """Texts, one of them in another archive, and a picture."""
        members: dict[str, str | bytes] = {f"m{n}.md": self._text() for n in range(self.dice.randint(1, 5))}
        members["inner.zip"] = zipped({"deep/a.txt": self._text()})
        members["program.so"] = PROGRAM + self.dice.randbytes(4)
        return self._pack(self._place() / f"f{self.dice.randrange(4)}.zip", members)

    def _change_archive(self) -> str:
        archives = [path for path in self.files() if path.read_bytes().startswith(ARCHIVE)]
        if not archives:
            raise NothingToDoError
        path = self.dice.choice(archives)
        members: dict[str, str | bytes] = {**contained(path.read_bytes())}
        if not members:
            raise NothingToDoError
        name = self.dice.choice(sorted(members))
        match self.dice.randrange(3):
            case 0:
                members[f"m{self.dice.randrange(9)}.md"] = self._text()
            case 1:
                del members[name]
            case _:
                members[f"n/{name}"] = members.pop(name)
        return self._pack(path, members)

    def _pack(self, path: Path, members: Mapping[str, str | bytes]) -> str:
        beside = path.with_name(f"{path.name}.tmp")
        beside.write_bytes(zipped(members))
        beside.replace(path)
        return str(path)

    def _touch(self) -> str:
        path = self._file()
        when = self.dice.choice([None, 1e9, time.time() + 86400.0])
        os.utime(path, None if when is None else (when, when))
        return str(path)

    def _chmod(self) -> str:
        path = self._file() if self.dice.random() < 0.8 else self._directory()
        path.chmod(self.dice.choice([0o755, 0o711, 0o700]))
        return str(path)

    # --- names ------------------------------------------------------------------------------------------------

    def _rename(self) -> str:
        path, target = self._file(), self._new()
        shutil.move(path, target)
        return f"{path} to {target}"

    def _rename_onto(self) -> str:
        path, target = self._file(), self._file()
        path.replace(target)
        return f"{path} to {target}"

    def _swap_files(self) -> str:
        one, other = self._file(), self._file()
        if one == other:
            raise NothingToDoError
        between = one.with_name("between.tmp")
        one.rename(between)
        try:
            other.rename(one)
        except OSError:
            between.rename(one)
            raise
        between.rename(other)
        return f"{one} and {other}"

    def _exchange_files(self) -> str:
        one, other = self._file(), self._file()
        swap(one, other)
        return f"{one} and {other}"

    def _copy(self) -> str:
        path, target = self._file(), self._new()
        self.dice.choice([shutil.copy, shutil.copy2])(path, target)
        return f"{path} to {target}"

    def _link(self) -> str:
        path, target = self._file(), self._new()
        target.hardlink_to(path)
        return f"{path} to {target}"

    def _symlink(self) -> str:
        path, target = self._file(), self._new()
        target.symlink_to(path)
        return f"{path} to {target}"

    def _delete(self) -> str:
        path = self._file()
        path.unlink()
        return str(path)

    # --- directories ------------------------------------------------------------------------------------------

    def _move_directory(self) -> str:
        path, target = self._directory(), self._place() / self.dice.choice("abcde")
        if os.path.lexists(target) or target.is_relative_to(path):
            raise NothingToDoError
        shutil.move(path, target)
        return f"{path} to {target}"

    def _exchange_directories(self) -> str:
        one, other = self._directory(), self._directory()
        swap(one, other)
        return f"{one} and {other}"

    def _copy_tree(self) -> str:
        path, target = self._directory(), self._place() / self.dice.choice("abcde")
        if os.path.lexists(target) or target.is_relative_to(path):
            raise NothingToDoError
        shutil.copytree(path, target, symlinks=True)
        return f"{path} to {target}"

    def _delete_tree(self) -> str:
        path = self._directory()
        shutil.rmtree(path)
        return str(path)

    def _recreate(self) -> str:
        """Some of its files come back, as they were or not."""
        path = self._directory()
        texts = {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}
        shutil.rmtree(path)
        path.mkdir()
        for name, text in texts.items():
            if self.dice.random() < 0.7:
                (path / name).write_bytes(text if self.dice.random() < 0.5 else self._text().encode())
        return str(path)

    def _move_out(self) -> str:
        path = self._directory() if self.dice.random() < 0.5 else self._file()
        shutil.move(path, self.outside / f"{sum(self.done.values())} {path.name}")
        return str(path)

    def _move_in(self) -> str:
        kept = sorted(self.outside.iterdir())
        if not kept:
            raise NothingToDoError
        path = self.dice.choice(kept)
        target = self._place() / path.name.partition(" ")[2]
        if os.path.lexists(target):
            raise NothingToDoError
        shutil.move(path, target)
        return str(target)

    def _file_to_directory(self) -> str:
        path = self._file()
        path.unlink()
        path.mkdir()
        (path / self._name()).write_text(self._text())
        return str(path)

    def _directory_to_file(self) -> str:
        path = self._directory()
        shutil.rmtree(path)
        path.write_text(self._text())
        return str(path)


def contained(content: bytes) -> dict[str, bytes]:
    """The members of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def whole(content: bytes) -> dict[str, bytes]:
    """The members of a file with those of archives in it."""
    found: dict[str, bytes] = {}
    if content.startswith(ARCHIVE):
        for name, data in contained(content).items():
            found[name] = data
            found |= {f"{name}!/{inner}": deep for inner, deep in whole(data).items()}
    return found


class Expected(NamedTuple):
    """What is to become of the files below some folders."""

    indexed: dict[str, str]
    """Path to digest."""
    skipped: set[str]
    """No loader takes them."""
    quarantined: set[str]
    """No JSON, though their names say so; an older version of such a document may still be searchable."""


def expected(roots: Sequence[Path]) -> Expected:
    """What is to become of the files as they are now."""
    found = Expected({}, set(), set())
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                if not modes.S_ISREG(os.lstat(path).st_mode) or name.endswith((".tmp", "~")):
                    continue
                content = Path(path).read_bytes()
                for member, data in whole(content).items():
                    if data.startswith(PROGRAM):
                        found.skipped.add(f"{path}!/{member}")
                    else:
                        found.indexed[f"{path}!/{member}"] = hashlib.blake2b(data, digest_size=16).hexdigest()
                if content.startswith(PROGRAM) or not (content or os.path.splitext(name)[1]):
                    found.skipped.add(path)
                elif (
                    name.endswith(".json") and content and not content.startswith(ARCHIVE)
                ):  # no text of a storm is JSON
                    found.quarantined.add(path)
                else:
                    found.indexed[path] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return found
