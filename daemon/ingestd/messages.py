"""The frames that supervisor and workers exchange: small, typed, checked on arrival.

Each direction of each stage is one union; a frame that does not decode into it kills its sender. Bulk data (chunks,
token ids, vectors, search results) is in descriptors beside the frame, see `channel.Blob`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ingestd.types import Document

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


# --- every worker ---------------------------------------------------------------------------------------------


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


# --- load -----------------------------------------------------------------------------------------------------


class Stat(msgspec.Struct, frozen=True, array_like=True):
    """The identity of a file's content as far as `stat` can tell."""

    device: int
    """From a watch worker: a number for what is mounted there, see `mounts.volume`."""
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def journaled(number: int) -> int:
    """A number of a `stat` as SQLite can keep it: 64 bits with a sign. Times after 2262, which file systems take, and
    inode numbers of the upper half wrap around."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class Load(Frame, frozen=True, kw_only=True):
    """Open the file, say what it is (`Identified`), and wait for `Proceed` or `Drop`."""

    job: int
    path: bytes
    """Absolute."""
    follow_links: bool = False
    scratch: str
    """Directory of this attempt, made and removed by the supervisor."""
    loader: Short | None = None
    """Have this one load it, whatever the file is."""
    member: MemberName = ""
    """A part of the file. Descriptor: its bytes are `size` from `offset` on, with this digest."""
    offset: Count = 0
    size: Count = 0
    digest: Digest = b""


class Identified(Frame, frozen=True, kw_only=True):
    """The file was opened and read once: its digest, its type and who loads it (None: no loader)."""

    job: int
    stat: Stat
    digest: Digest
    media_type: Short
    loader: Short | None
    loader_version: Short = ""


class Proceed(Frame, frozen=True, kw_only=True):
    """Load it. Descriptors, if any: a blob of the 16-byte hashes of chunks whose vectors the index has, one of the
    16-byte digests of parts whose bytes nobody needs, and one of what the loader made of this content before."""

    job: int
    limits: dict[str, Any] = {}
    """Those of `LoaderLimits` that a worker keeps, and `accept_changed` (take what was read, though the file changed
    meanwhile)."""
    depth: Count = 0
    """Containers in which the file lies."""
    room: Count = 0
    """Bytes of parts that may be taken along."""
    want: MemberName | None = None
    """Take along only this part, or the container in which it lies."""
    options: dict[str, Any] = {}
    """The loader's own options."""
    show: Count = 0
    """Hand over what the loader yielded, the first so many elements: a further descriptor, a blob of `Yielded`."""


class Drop(Frame, frozen=True, kw_only=True):
    """Do not load it: the index has this content already, or no loader takes it."""

    job: int


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """An element as a person looks at it."""

    kind: str
    page: int | None
    level: int | None
    text: str
    """Its beginning."""
    length: int
    """Characters of all of it."""


class Yielded(msgspec.Struct, frozen=True):
    """What a loader yielded, for those who look at it."""

    elements: int
    shown: list[Shown]
    faults: list[str]
    """Where it does not keep to the contract of loaders, see `contract`."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A part that a loader found in its file."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=r"\A[^\0]*\Z")]
    """Its own, without that of the container; no two parts of a file have the same."""
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    digest: Digest = b""
    media_type: Short = ""
    loader: Short | None = None
    loader_version: Short = ""
    offset: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)] = -1
    """Where its bytes begin in what comes along; -1: nowhere."""
    error: Reason | None = None
    """Why it cannot be read."""


class Parts(Frame, frozen=True, kw_only=True):
    """Some of the parts of the file. Descriptors: a blob of them (msgpack list of `Member`), and, if any was taken
    along, a file with their bytes. The worker goes on when it has `PartsTaken`."""

    job: int


class PartsTaken(Frame, frozen=True, kw_only=True):
    """They are journaled. `room`: bytes that may be taken along from now on."""

    job: int
    room: Count


UNKNOWN_TOKENS = "tokens are unknown to the model"
"""Part of the warning of a text in a language that the model does not know."""


class Loaded(Frame, frozen=True, kw_only=True):
    """Descriptors: chunks (msgpack list of `Chunk`), token ids of the fresh ones (`encode.pack_tokens`), the 16-byte
    hashes of all chunks, in order, and, with `remember`, what is to be given with the next `Proceed` for this content.
    `leave`: the worker is not fit for another file."""

    job: int
    chunks: Count
    fresh: Count
    tokens: Count
    """Token ids of the fresh chunks."""
    size: Count
    """Bytes of both blobs."""
    title: Short | None = None
    partial: Reason | None = None
    """Why the text ends before the file does."""
    warnings: list[Reason] = []
    metadata: dict[str, Any] = {}
    changed: bool = False
    """The file changed while it was read, which `accept_changed` allowed."""
    remember: bool = False
    leave: bool = False


class LoadFailed(Frame, frozen=True, kw_only=True):
    """The attempt failed inside the worker, which is still fit for the next file unless `leave` is set."""

    job: int
    kind: Short
    """"file" (the file is at fault for good), "error" (an exception: a strike), "memory", "gone" (no such file),
    "changed" (it changed while it was read), "unreadable" (permission or input/output error), "full" (no room on
    the disk of the scratch directory), "missing" (the loader needs something that is not installed)."""
    reason: Reason
    detail: Reason = ""
    leave: bool = False
    limit: bool = False
    """A limit was met: elsewhere another one may hold for the same content."""


# --- encode ---------------------------------------------------------------------------------------------------


class Encode(Frame, frozen=True, kw_only=True):
    """Descriptor: the document's token ids (`encode.pack_tokens`). `start:stop` picks some of its texts.

    `ahead`: before the texts of all others that wait.
    """

    job: int
    start: int = 0
    stop: int | None = None
    ahead: bool = False


class Encoded(Frame, frozen=True, kw_only=True):
    """Descriptor: float32 (texts, dims), raw. `seconds`: device time that these texts took."""

    job: int
    texts: Count
    tokens: Count
    seconds: float


class EncodeFailed(Frame, frozen=True, kw_only=True):
    job: int
    reason: Reason


class EncodeQuery(Frame, frozen=True, kw_only=True):
    """Encode a question with the query prompt, before the next batch."""

    job: int
    text: str


class QueryVector(Frame, frozen=True, kw_only=True):
    """`vector`: float32 (dims,), raw; empty where the model does not know the question's language."""

    job: int
    vector: Annotated[bytes, msgspec.Meta(max_length=65536)]


class Tokenize(Frame, frozen=True, kw_only=True):
    """Descriptor: a blob of texts (msgpack list of str). Answered by `Tokenized`, before the next batch."""

    job: int
    query: bool = False
    """With the prompt of questions; else with that of passages."""


class Tokenized(Frame, frozen=True, kw_only=True):
    """Descriptor: the texts' token ids (`encode.pack_tokens`)."""

    job: int
    texts: Count
    tokens: Count


class EncoderLoad(Frame, frozen=True, kw_only=True):
    """Sent once a second by an encode worker: how the last second was spent."""

    tokens: Count
    busy: float
    """Share of the time in which the device computed."""
    idle: dict[str, float] = {}
    """Seconds by cause: "input", "output"."""


# --- index ----------------------------------------------------------------------------------------------------


class IndexReplace(Frame, frozen=True, kw_only=True):
    """Descriptors: chunks, and vectors of the fresh ones where there are any."""

    job: int
    document: Document


class IndexRekey(Frame, frozen=True, kw_only=True):
    job: int
    origin: str
    document: Document


class IndexRemove(Frame, frozen=True, kw_only=True):
    job: int
    doc_id: str


class IndexWritten(Frame, frozen=True, kw_only=True):
    """Durable. See `types.Written`."""

    job: int
    chunks: Count = 0
    missing: Count = 0
    error: Reason | None = None
    broken: bool = False
    """The error is no verdict of the sink: it raised, or answered with nonsense."""


class IndexUnavailable(Frame, frozen=True, kw_only=True):
    """The store cannot be written now; the operation is to be sent again later."""

    job: int
    reason: Reason


class IndexSearch(Frame, frozen=True, kw_only=True):
    job: int
    text: str
    vector: bytes
    top: int
    source: str | None = None
    path: str | None = None
    under: bytes | None = None
    category: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


class IndexHits(Frame, frozen=True, kw_only=True):
    """Descriptor: msgpack list of `types.Hit`."""

    job: int
    error: Reason | None = None


class IndexRead(Frame, frozen=True, kw_only=True):
    """A document as it is stored."""

    job: int
    doc_id: str


class IndexDocument(Frame, frozen=True, kw_only=True):
    """Descriptors where there is such a document: msgpack list of `types.Chunk`, and of their texts."""

    job: int
    document: Document | None = None
    chunks: Count = 0
    hashes: bytes = b""
    """BLAKE2b of the hashes of the chunks, in order."""
    error: Reason | None = None


Problem = Literal["missing", "extra", "stale"]
"""`missing`: the index lacks what the journal says it has; `extra`: the journal knows nothing of it; `stale`: the index
has something else."""


class Finding(msgspec.Struct, array_like=True, frozen=True):
    """One document that is not as it should be."""

    problem: Problem
    reason: str
    doc_id: str
    source: str
    path: bytes
    """Absolute, of one that the index has; else relative to the source."""
    row: int = 0
    """Of the journal; 0 for one that it does not have."""
    version: int = 0
    digest: bytes = b""
    """That the index has."""
    hashes: bytes = b""
    """16 bytes for each chunk that the index has."""


class IndexCompare(Frame, frozen=True, kw_only=True):
    """Compare the journal at this path with the index. `deep`: every chunk's text and vector, too."""

    job: int
    journal: str
    deep: bool = False
    repair: bool = False
    """Tell which chunks the index has of what is wrong."""


class IndexComparing(Frame, frozen=True, kw_only=True):
    """How far it is; no answer to the job."""

    done: Count
    total: Count


class IndexCompared(Frame, frozen=True, kw_only=True):
    """Descriptor: msgpack list of `Finding`, the first ones; `problems` counts all."""

    job: int
    documents: Count = 0
    chunks: Count = 0
    pending: Count = 0
    problems: dict[str, int] = {}
    error: Reason | None = None


# --- watch ----------------------------------------------------------------------------------------------------


class WatchSource(Frame, frozen=True, kw_only=True):
    """Watch a directory, or, with `once`, scan it and say `Scanned`.

    The worker reads the journal (read only) to report differences alone.
    """

    job: int
    source: str
    root: bytes
    below: list[bytes] = []
    """Only these paths relative to the root (`ingest`); empty: all."""
    include: list[str] = []
    exclude: list[str] = []
    recursive: bool = True
    follow_links: bool = False
    settle: float = 2.0
    max_settle: float = 300.0
    mode: str = "auto"
    rescan: float = 600.0
    once: bool = False


class Unwatch(Frame, frozen=True, kw_only=True):
    job: int


class Rescan(Frame, frozen=True, kw_only=True):
    """Compare folder and journal now. `accept`: what is missing is gone, though another file system is there now."""

    job: int
    accept: bool = False


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A settled difference between folder and journal."""

    path: bytes
    """Relative to the source."""
    stat: Stat | None
    """None: the file is gone."""
    fresh: bool = True
    """It came from an event, not from a scan: it overtakes the backlog."""
    known: bool = False
    """Only with `once`: the journal has exactly this file, but is not done with it."""
    restless: float = 0.0
    """Seconds for which it kept changing: it never settled, and is taken all the same. 0: it did settle."""


class Changes(Frame, frozen=True, kw_only=True):
    """Acknowledged once they are in the journal; a worker has at most a few of these in flight."""

    job: int
    serial: int
    changes: list[Change]


class ChangesTaken(Frame, frozen=True, kw_only=True):
    job: int
    serial: int


class Scanned(Frame, frozen=True, kw_only=True):
    """A scan ended. `error`: the directory could not be listed; nothing was taken for deleted."""

    job: int
    files: Count
    unchanged: Count
    settling: Count
    watching: bool
    mode: Short
    done: dict[str, int] = {}
    """With `once`: journal state of the unchanged files, by state."""
    error: Reason | None = None


class Settling(Frame, frozen=True, kw_only=True):
    """How many paths wait until they are unchanged for the settle time; sent when it changes, once a second at most."""

    job: int
    count: Count


class WatchWarning(Frame, frozen=True, kw_only=True):
    """A trouble with a source. It holds until it is sent again with `over`."""

    job: int
    reason: Reason
    over: bool = False


# --- probe ----------------------------------------------------------------------------------------------------


class PluginItem(msgspec.Struct, frozen=True):
    """A loader, engine or sink that a plugin registered."""

    kind: str
    name: str
    version: str = ""
    suffixes: list[str] = []
    media_types: list[str] = []
    sockets: bool = False
    distribution: str = ""
    overrides: list[str] = []
    workers: Count = 0
    """Load workers for its files alone."""
    remembers: bool = False
    """What it makes of a content is kept."""
    uses: Reason = ""
    """What it works with, in its own words: models and such."""
    gpu_memory: dict[Short, Count] = {}
    """Bytes that each of its load workers may take, by device: encoders there leave them alone."""
    lacks: Reason = ""
    """What it needs and is not installed, and how that is done."""

    @property
    def called(self) -> str:
        """For people: what it is, and whose, unless it is ingestd's own."""
        own = self.distribution.startswith("ingestd ")
        return f"{self.kind} {self.name}" + (f" ({self.distribution})" if self.distribution and not own else "")


class PluginError(msgspec.Struct, frozen=True):
    plugin: str
    distribution: str
    reason: str


class Manifest(Frame, frozen=True, kw_only=True):
    """All that the supervisor ever sees of the plugins."""

    items: list[PluginItem]
    errors: list[PluginError]


TO_WORKER = (
    Start | Stop | Load | Proceed | Drop | PartsTaken | Encode | EncodeQuery | Tokenize | IndexReplace | IndexRekey
    | IndexRemove | IndexSearch | IndexRead | IndexCompare | WatchSource | Unwatch | Rescan | ChangesTaken
)  # fmt: skip

Opening = Ready | StartFailed
FROM_WORKER = {
    "load": Opening | Identified | Parts | Loaded | LoadFailed,
    "encode": Opening | Encoded | EncodeFailed | QueryVector | Tokenized | EncoderLoad,
    "index": Opening | IndexWritten | IndexUnavailable | IndexHits | IndexDocument | IndexComparing | IndexCompared,
    "watch": Opening | Changes | Scanned | Settling | WatchWarning,
    "probe": Opening | Manifest,
}
"""What each stage's workers may send; anything else is a bad frame."""
