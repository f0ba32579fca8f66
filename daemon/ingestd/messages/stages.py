"""What each stage is sent, and what it may send; anything else is a bad frame."""

from __future__ import annotations

from ingestd.messages import Ready, Start, StartFailed, Stop
from ingestd.messages.encode import (
    Encode,
    Encoded,
    EncodeFailed,
    EncodeQuery,
    EncoderLoad,
    QueryVector,
    Tokenize,
    Tokenized,
)
from ingestd.messages.index import (
    IndexCompare,
    IndexCompared,
    IndexComparing,
    IndexDocument,
    IndexHits,
    IndexRead,
    IndexRekey,
    IndexRemove,
    IndexReplace,
    IndexSearch,
    IndexUnavailable,
    IndexWritten,
)
from ingestd.messages.load import Drop, Identified, Load, Loaded, LoadFailed, Parts, PartsTaken, Proceed
from ingestd.messages.probe import Manifest
from ingestd.messages.watch import Changes, ChangesTaken, Rescan, Scanned, Settling, Unwatch, WatchSource, WatchWarning

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
