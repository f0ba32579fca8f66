"""ingestd: drop files into a folder; a moment later they can be searched by meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingestd.library import AsyncLibrary, Chunk, Document, Hit, Library, Result

__version__ = "0.1.0"
__all__ = ["AsyncLibrary", "Chunk", "Document", "Hit", "Library", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    """The library is imported at its first use: a worker or a command needs none of it."""
    if name in __all__:
        from ingestd import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
