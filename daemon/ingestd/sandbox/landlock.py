"""Landlock: which files a process, and all that it will ever start, may open. No privilege is needed.

Rules are attached to the files and directories that exist when they are made, not to names: a directory that is
replaced, or mounted over, later is not covered, see `sandbox.denies`.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence

from ingestd.kernel import syscall
from ingestd.paths import PATH_MAX, open_long

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << n for n in range(6, 13))
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_RESOLVE_UNIX = 1 << 16

READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
WRITE = (
    READ | WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM
    | _REFER | _TRUNCATE
)  # fmt: skip
"""No device nodes, and nothing that was written can be executed by its name."""
DEVICE = READ_FILE | WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV

_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

Rule = tuple[str, int]
"""A path, and the rights below it; symbolic links are followed."""


def abi() -> int:
    """Version of the kernel's Landlock. Raises `OSError` where there is none, or it is switched off at boot."""
    return syscall(_CREATE_RULESET, 0, 0, _VERSION)


def handled(version: int) -> tuple[int, int, int]:
    """File rights, TCP rights and scopes that an ABI version can hold; all of them are taken away."""
    files = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV), (9, _RESOLVE_UNIX)):
        if version >= since:
            files |= right
    return (
        files,
        _BIND_AND_CONNECT_TCP if version >= 4 else 0,
        _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )


def restrict(rules: Iterable[Rule], version: int) -> None:
    """Take every right that `version` knows from this thread, but for those that `rules` give.

    Paths that do not exist or cannot be reached are passed over. `PR_SET_NO_NEW_PRIVS` must be set. Other threads
    that run already are not restricted. Raises `OSError`.
    """
    import ctypes

    rights = handled(version)
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", *rights), 24)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = syscall(_CREATE_RULESET, ctypes.addressof(attributes), size, 0)
    try:
        for path, access in rules:
            _allow(ruleset, path, access & rights[0])
        syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    import ctypes

    try:
        descriptor = open_long(os.fsencode(path), os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # Directories have more rights than files. The kernel knows what this is; a `stat` would ask the file system.
        for rights in (access, access & _OF_A_FILE):
            rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
            try:
                syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
            except OSError as error:
                if error.errno != errno.EINVAL or rights == access & _OF_A_FILE:
                    raise
            else:
                return
    finally:
        os.close(descriptor)


def spare(root: str, exclude: Sequence[str]) -> Iterator[str]:
    """`root`, or, since a rule cannot make an exception, what to name instead so that no excluded directory is in it.

    On the way down to an excluded directory, each directory is replaced by its present entries, links left out; what
    is made directly beside the way afterwards is not covered. A root inside an excluded directory is meant, and stays;
    one that is excluded itself yields nothing, like one that is not there. `exclude` holds real paths.
    """
    try:
        root = _real(root)
    except OSError:
        return
    inside = [path for path in exclude if path == root or path.startswith(root.rstrip("/") + "/")]
    if not inside:
        yield root
    elif root not in inside:
        try:
            with os.scandir(root) as entries:
                children = [entry.path for entry in entries if not entry.is_symlink()]
        except OSError:
            return
        for child in children:
            yield from spare(child, inside)


def _real(path: str) -> str:
    """Like `os.path.realpath`, but nothing is asked of the file system that is mounted there: it may hang."""
    descriptor = open_long(os.fsencode(path), os.O_PATH | os.O_CLOEXEC)
    try:
        # The kernel does not tell a path that is longer than it takes.
        return os.readlink(f"/proc/self/fd/{descriptor}") if len(os.fsencode(path)) < PATH_MAX else path
    finally:
        os.close(descriptor)
