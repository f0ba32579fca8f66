"""Media types: what a suffix promises, and what the first bytes of a file give away."""

from __future__ import annotations

import re

TEXT = "text/plain"
HTML = "text/html"
XML = "application/xml"
XHTML = "application/xhtml+xml"
PDF = "application/pdf"
ZIP = "application/zip"
OLE = "application/x-ole-storage"
ENCRYPTED = "application/x-encrypted-ooxml"
"""An Office document behind a password; which kind, its bytes do not say."""
UNKNOWN = "application/octet-stream"

_ODF = "application/vnd.oasis.opendocument."
_OOXML = "application/vnd.openxmlformats-officedocument."

MEDIA_TYPES: dict[str, str] = {
    ".txt": TEXT,
    ".text": TEXT,
    ".log": TEXT,
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".tex": "text/x-tex",
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": XHTML,
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".srt": "application/x-subrip",
    ".vtt": "text/vtt",
    ".ipynb": "application/x-ipynb+json",
    ".xml": XML,
    ".rss": "application/rss+xml",
    ".atom": "application/atom+xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".toml": "application/toml",
    ".pdf": PDF,
    ".docx": f"{_OOXML}wordprocessingml.document",
    ".docm": "application/vnd.ms-word.document.macroenabled.12",
    ".dotx": f"{_OOXML}wordprocessingml.template",
    ".dotm": "application/vnd.ms-word.template.macroenabled.12",
    ".pptx": f"{_OOXML}presentationml.presentation",
    ".pptm": "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    ".ppsx": f"{_OOXML}presentationml.slideshow",
    ".ppsm": "application/vnd.ms-powerpoint.slideshow.macroenabled.12",
    ".potx": f"{_OOXML}presentationml.template",
    ".potm": "application/vnd.ms-powerpoint.template.macroenabled.12",
    ".xlsx": f"{_OOXML}spreadsheetml.sheet",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".xltx": f"{_OOXML}spreadsheetml.template",
    ".xltm": "application/vnd.ms-excel.template.macroenabled.12",
    ".xlsb": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    ".doc": "application/msword",
    ".dot": "application/msword",
    ".xls": "application/vnd.ms-excel",
    ".xlt": "application/vnd.ms-excel",
    ".ppt": "application/vnd.ms-powerpoint",
    ".pps": "application/vnd.ms-powerpoint",
    ".pot": "application/vnd.ms-powerpoint",
    ".msg": "application/vnd.ms-outlook",
    ".rtf": "application/rtf",
    ".odt": f"{_ODF}text",
    ".ott": f"{_ODF}text-template",
    ".odm": f"{_ODF}text-master",
    ".ods": f"{_ODF}spreadsheet",
    ".ots": f"{_ODF}spreadsheet-template",
    ".odp": f"{_ODF}presentation",
    ".otp": f"{_ODF}presentation-template",
    ".odg": f"{_ODF}graphics",
    ".otg": f"{_ODF}graphics-template",
    ".fodt": f"{_ODF}text-flat-xml",
    ".fods": f"{_ODF}spreadsheet-flat-xml",
    ".fodp": f"{_ODF}presentation-flat-xml",
    ".fodg": f"{_ODF}graphics-flat-xml",
    ".epub": "application/epub+zip",
    ".eml": "message/rfc822",
    ".mbox": "application/mbox",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jpe": "image/jpeg",
    ".jfif": "image/jpeg",
    ".gif": "image/gif",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".heic": "image/heic",
    ".heif": "image/heic",
    ".zip": ZIP,
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".tar": "application/x-tar",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".7z": "application/x-7z-compressed",
    ".rar": "application/vnd.rar",
}

CONTAINERS = frozenset(
    {
        ZIP,
        OLE,
        MEDIA_TYPES[".gz"],
        MEDIA_TYPES[".bz2"],
        MEDIA_TYPES[".xz"],
        MEDIA_TYPES[".zst"],
        MEDIA_TYPES[".tar"],
        "application/x-riff",
    }
)
"""Types that say how a file is packed, not what it is."""

_TEXTUAL = re.compile(
    r"text/.*|message/.*|.*-flat-xml"
    r"|.*[+/](?:xml|json|yaml|toml|x-ndjson|x-subrip|mbox|javascript|sql|x-sh|x-tex|x-latex)"
)


def textual(media_type: str) -> bool:
    """True where a file of this type can be read as text."""
    return _TEXTUAL.fullmatch(media_type) is not None


_CANONICAL: dict[str, str] = {}
for _suffix, _media_type in MEDIA_TYPES.items():
    _CANONICAL.setdefault(_media_type, _suffix)


def canonical_suffix(media_type: str) -> str | None:
    """The usual suffix of a type."""
    return _CANONICAL.get(media_type)


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE),
    (b"{\\rtf", MEDIA_TYPES[".rtf"]),
    (b"\x89PNG\r\n\x1a\n", MEDIA_TYPES[".png"]),
    (b"\xff\xd8\xff", MEDIA_TYPES[".jpg"]),
    (b"GIF87a", MEDIA_TYPES[".gif"]),
    (b"GIF89a", MEDIA_TYPES[".gif"]),
    (b"II*\x00", MEDIA_TYPES[".tif"]),
    (b"MM\x00*", MEDIA_TYPES[".tif"]),
    (b"\x1f\x8b\x08", MEDIA_TYPES[".gz"]),
    (b"BZh", MEDIA_TYPES[".bz2"]),
    (b"\xfd7zXZ\x00", MEDIA_TYPES[".xz"]),
    (b"\x28\xb5\x2f\xfd", MEDIA_TYPES[".zst"]),
    (b"7z\xbc\xaf\x27\x1c", MEDIA_TYPES[".7z"]),
    (b"Rar!\x1a\x07", MEDIA_TYPES[".rar"]),
    (b"\x7fELF", "application/x-elf"),
    (b"MZ", "application/vnd.microsoft.portable-executable"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xca\xfe\xba\xbe", "application/java-vm"),
    (b"\x00asm", "application/wasm"),
    (b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (b"BM", MEDIA_TYPES[".bmp"]),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1aE\xdf\xa3", "video/x-matroska"),
)
_BY_FIRST_BYTE: dict[int, tuple[tuple[bytes, str], ...]] = {}
for _mark, _type in _SIGNATURES:
    _BY_FIRST_BYTE[_mark[0]] = (*_BY_FIRST_BYTE.get(_mark[0], ()), (_mark, _type))
_SPELLABLE = frozenset({b"MZ", b"BM", b"BZh", b"ID3", b"OggS", b"fLaC", b"GIF87a", b"GIF89a"})
"""Marks that a text could begin with: they count only where the bytes are not text."""

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def signature(head: bytes) -> str | None:
    """The media type that the first bytes give away, None where they do not. Zip and OLE need a further look."""
    start = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b" \t\r\n\x00")[:5]
    if start == b"%PDF-":
        return PDF
    for mark, media_type in _BY_FIRST_BYTE.get(head[0], ()):
        if head.startswith(mark) and not (mark in _SPELLABLE and is_text(head)):
            return media_type
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return MEDIA_TYPES[".webp"]
    if head.startswith(b"RIFF") and not is_text(head):
        return "application/x-riff"
    if head[4:8] == b"ftyp" and not is_text(head):
        return MEDIA_TYPES[".heic"] if head[8:12] in _HEIC else "video/mp4"
    if head[257:262] == b"ustar":
        return MEDIA_TYPES[".tar"]
    return None


_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_ZEROS = re.compile(rb"\x00+")
_CONTROLS = bytes(byte for byte in range(1, 0x20) if byte not in b"\t\n\v\f\r\b\x0e\x0f\x1a\x1b") + b"\x7f"
"""What no text holds: all controls but white space, backspace, and the escapes of terminals and ISO 2022."""


def is_text(head: bytes) -> bool:
    """True where the first bytes of a file look like text, in UTF-16 and UTF-32 too."""
    if head.startswith(_WIDE_MARKS):
        return True
    zeros = head.count(0)
    if zeros:
        half = len(head) // 2
        even = head[0::2].count(0)
        # UTF-16 without a byte order mark: ASCII in one half of the bytes, zeros in the other.
        if half >= 4 and zeros > 0.6 * half and min(even, zeros - even) < 0.02 * half:
            return True
        # A crash leaves a run of zeros in a log.
        if len(_ZEROS.findall(head)) > 2 or zeros > 0.9 * len(head):
            return False
    return len(head) - len(head.translate(None, _CONTROLS)) <= 2 + 0.005 * len(head)
