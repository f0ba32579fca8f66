"""What the libraries of the formats raise over a file's content becomes a reason here, for every bundled loader.

They have no error of their own for most kinds of damage: a lost part is a `KeyError`, a short stream a `struct.error`,
a tree without end a `RecursionError`. A loader deals with what costs only a piece of its file; the rest ends here.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

from ingestd.errors import DamagedFileError, IngestdError
from ingestd.types import Element, File, Part

L = TypeVar("L")
Yielded = TypeVar("Yielded", bound=Element | Part)


def guarded(load: Callable[[L, File], Iterator[Yielded]]) -> Callable[[L, File], Iterator[Yielded]]:
    """A loader's `load` that raises a `DamagedFileError` for whatever is wrong with the content.

    What is not the file's fault passes: the disk, the memory, a package that is not installed.
    """

    @functools.wraps(load)
    def load_guarded(self: L, file: File) -> Iterator[Yielded]:
        try:
            yield from load(self, file)
        except Exception as error:
            if not of_content(error):
                raise
            raise DamagedFileError(f"damaged: {cause(error)}") from error

    return load_guarded


def of_content(error: BaseException) -> bool:
    """Whether it says something of the file's content."""
    if isinstance(error, OSError):
        return error.errno in (None, errno.EINVAL, errno.EOVERFLOW)  # the file alone can have named such a place
    return not isinstance(error, IngestdError | MemoryError | ImportError)


def cause(error: BaseException) -> str:
    """One line that says what is wrong."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text[:200] or type(error).__name__
