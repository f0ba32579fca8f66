"""One tree of errors; a message says the operation, the path, the cause and the next command to type."""

from __future__ import annotations


class IngestdError(Exception):
    """Base of everything ingestd raises on purpose.

    `command` is the next command to type, where there is one; the command line prints it on a line of its own.
    """

    def __init__(self, message: str, *, command: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.command = command


class ConfigError(IngestdError):
    """The configuration is wrong: file, line and key are in the message. Exit code 2."""


class UsageError(IngestdError):
    """The command line, or a call of the library, is wrong. Exit code 2."""


class UnreachableError(IngestdError):
    """The daemon or the index cannot be reached. Exit code 3."""


class AlreadyRunningError(UnreachableError):
    """Another daemon holds the state directory."""


class NotRunningError(UnreachableError):
    """No daemon runs where its control socket should be."""


class ChannelError(IngestdError):
    """A frame that is not what the protocol allows; its sender is killed."""


class ModelError(IngestdError):
    """A model cannot be found, read or verified."""


class IndexMismatchError(IngestdError):
    """The index was made with another fingerprint; `ingestd reindex` rebuilds it."""


class IndexOwnedError(IngestdError):
    """The index is written by another state directory."""


class IndexUnavailableError(IngestdError):
    """The store cannot take writes now (full disk, lost server): ingestion pauses and tries again."""


class IndexAwayError(IndexUnavailableError):
    """The server that has the index does not answer or takes nothing now: a daemon that starts waits for it."""


class FileError(IngestdError):
    """What a loader raises when the file itself is at fault and another attempt cannot help."""


class EncryptedFileError(FileError):
    """The file needs a password."""


class DamagedFileError(FileError):
    """The file is cut short, corrupt, or not what its first bytes promise."""


class MissingError(FileError):
    """The loader needs something that is not installed; the file is loaded once it is."""


class LimitError(FileError):
    """A limit of the configuration was exceeded (`max_file_size`, `max_text`)."""
