"""The frames that supervisor and workers exchange: small, typed, checked on arrival.

Each direction of each stage is one union; a frame that does not decode into it kills its sender. Bulk data (chunks,
token ids, vectors, search results) is in descriptors beside the frame, see `channel.Blob`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Short = Annotated[str, msgspec.Meta(max_length=1024)]
"""A name, a place."""
Reason = Annotated[str, msgspec.Meta(max_length=16384)]
"""A cause that a person reads."""
Digest = Annotated[bytes, msgspec.Meta(max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0)]
MemberName = Annotated[str, msgspec.Meta(max_length=8192, pattern=r"\A[^\0]*\Z")]
"""A part of a file: its name there, those of nested containers before it, each followed by `!/`."""


class Frame(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all frames; the class name is the tag."""


class Start(Frame, frozen=True, kw_only=True):
    """First frame to a worker. Descriptor, if any: a blob of the settings (msgpack), where no frame holds them."""

    stage: str
    version: str
    sys_path: list[str]
    scratch: str
    settings: dict[str, Any]
    """What this stage needs of the configuration; see the stage's module."""


class Ready(Frame, frozen=True, kw_only=True):
    """First frame from a worker: it can take work."""

    version: Short
    info: dict[str, Any] = {}


class StartFailed(Frame, frozen=True, kw_only=True):
    """The worker cannot start, and says why before it exits.

    `fatal`: another start would not help. `away`: a server does not answer. `wrong`: the configuration, or what is
    installed, does not fit.
    """

    reason: Reason
    fatal: bool = False
    away: bool = False
    wrong: bool = False
    command: Short | None = None
    """The next command to type."""


class Stop(Frame, frozen=True, kw_only=True):
    """Finish what is in hand and exit with code 0."""
