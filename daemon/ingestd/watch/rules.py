"""Which paths of a source are its documents."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

from pathspec import GitIgnoreSpec

from ingestd.watch.observe import SELF_TEST

_ENCODING: Final = sys.getfilesystemencoding()
_ERRORS: Final = sys.getfilesystemencodeerrors()


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
        self._suspect = _any(self._exclude) if self._exclude is not None else re.compile("").search
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
        name = path.decode(_ENCODING, _ERRORS)
        if path.endswith(SELF_TEST) and path[path.rfind(b"/") + 1 :] == SELF_TEST:
            return False
        if self._exclude is not None and self._suspect(name) is not None and self._exclude.match_file(name):
            return False
        return self._include is None or self._include.match_file(name)

    def _reachable(self, prefix: bytes) -> bool:
        if not self._recursive or prefix == self._hidden:
            return False
        parent = prefix[: prefix.rfind(b"/", 0, -1) + 1]
        if parent and not self._parents(parent):
            return False
        return self._exclude is None or not self._exclude.match_file(os.fsdecode(prefix))


def _any(spec: GitIgnoreSpec) -> Callable[[str], re.Match[str] | None]:
    """All patterns that match at all in one search, in half the time: most files match none."""
    parts = []
    for pattern in spec.patterns:
        if pattern.include and pattern.regex is not None:
            text = pattern.regex.pattern
            for name in pattern.regex.groupindex:  # no two groups of one expression may have one name
                text = text.replace(f"(?P<{name}>", "(?:")
            parts.append(f"(?:{text})")
    return re.compile("|".join(parts) or r"\Z.").search
