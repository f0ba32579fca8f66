"""From bytes to text without guessing in silence: what is not certain is recorded, what does not fit is said."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from ingestd.errors import DamagedFileError
from ingestd.types import File

BLOCK = 256 << 10
"""Bytes read at once; also the longest piece without a line end that is kept together."""
SAMPLE = 32 << 10
"""Bytes of lines with non-ASCII characters that are enough to tell encodings apart."""
CONFIDENT = 0.6
"""Below this an encoding is worth a warning."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_CANDIDATES = (
    "gb18030", "big5hkscs", "cp932", "cp949", "euc_jp",
    "cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
)  # fmt: skip
_WIDER = {
    "ascii": "utf-8", "gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "hz": "hz", "big5": "big5hkscs",
    "cp950": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949", "iso8859-1": "cp1252", "iso8859-9": "cp1254",
    "tis_620": "cp874", "iso8859-11": "cp874", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",
}  # fmt: skip
"""A declared name is often that of a subset; one that says UTF-16 in ASCII bytes is wrong (HTML's own rule)."""
_LABELS = {"big5hkscs": "big5", "cp932": "shift_jis", "cp949": "euc_kr", "iso2022_jp_2": "iso2022_jp"}
"""The names that people know."""
_LATIN_TWINS = frozenset({"cp1250", "cp1254", "cp1255", "cp1256", "cp1253", "cp1251"})

_UNWANTED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]")
_TERMINAL = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[()][0-9A-Z])")
"""Colours, cursor movements, window titles and character sets of terminals."""


def clean(text: str) -> str:
    """`text` without control characters (line feed and tab stay) and without lone surrogates."""
    if "\f" in text:
        text = text.replace("\f", " ")
    return _UNWANTED.sub("", text) if _UNWANTED.search(text) else text


def blocks(file: File, declared: str | None = None) -> Iterator[str]:
    """The file's text in pieces that end at a line end where there is one, with "\\n" as the only line end.

    Control characters are removed, but for tab and form feed, which parts pages.

    A byte order mark overrules `declared`, an encoding's name that the file itself states; valid UTF-8 comes next,
    then detection. Sets `encoding` and `encoding_confidence` (0 to 1) in `file.metadata`. Holds a few blocks at most.
    Raises `DamagedFileError` where the bytes are not text.
    """
    with file.path.open("rb", buffering=0) as stream:
        head = _read(stream)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                pieces = _decode(file, stream, head[len(mark) :], encoding, 1.0)
                break
        else:
            wide = _wide_without_mark(head)
            if wide:
                pieces = _decode(file, stream, head, wide, 0.9)
            else:
                pieces = _decode_from_ascii(file, stream, head, declared)
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        watch = _Controls(file)
        for piece in pieces:
            text = watch.filter(newlines.decode(piece))
            if text:
                yield text
        rest = watch.filter(newlines.decode("", final=True))
        if rest:
            yield rest


def lines(file: File, declared: str | None = None) -> Iterator[str]:
    """The file's lines, each with its "\\n", cut where one is longer than a block."""
    carry = ""
    for block in blocks(file, declared):
        block = block.replace("\f", " ")
        pieces = list(io.StringIO(carry + block, newline="\n"))  # `splitlines` splits at far more than line ends
        carry = pieces.pop() if pieces and not pieces[-1].endswith("\n") else ""
        if len(carry) > BLOCK:
            pieces.append(carry)
            carry = ""
        yield from pieces
    if carry:
        yield carry


def _read(stream: BinaryIO | io.FileIO) -> bytes:
    return stream.read(BLOCK) or b""


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 that holds mostly ASCII shows zeros in every second byte."""
    sample = head[:8192]
    half = len(sample) // 2
    if half < 4 or sample.count(0) < 0.3 * len(sample):
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if even < 0.02 * half:
        return "utf-16-le"
    if odd < 0.02 * half:
        return "utf-16-be"
    return None


def _decode_from_ascii(file: File, stream: io.FileIO, head: bytes, declared: str | None) -> Iterator[str]:
    """Nothing has to be decided before the first block that is not plain ASCII."""
    while head.isascii() and b"\x1b$" not in head:
        if not head:
            _record(file, "utf-8", 1.0)
            return
        yield head.decode("ascii")
        head = _read(stream)
    block = head
    encoding, confidence = _choose(block, declared)
    yield from _decode(file, stream, block, encoding, confidence)


def _record(file: File, encoding: str, confidence: float) -> None:
    encoding = _LABELS.get(encoding, encoding)
    file.metadata["encoding"] = encoding
    file.metadata["encoding_confidence"] = round(confidence, 2)
    if confidence < CONFIDENT:
        file.warn(f"the encoding is a guess: {encoding}, {confidence:.0%} sure")


def _decode(file: File, stream: io.FileIO, block: bytes, encoding: str, confidence: float) -> Iterator[str]:
    _record(file, encoding, confidence)
    decoder = _Wide(encoding) if encoding.startswith(("utf-16", "utf-32")) else _Narrow(encoding)
    total = 0
    while block:
        total += len(block)
        yield decoder.decode(block, final=False)
        _check(file, decoder, encoding, total)
        block = _read(stream)
    yield decoder.decode(b"", final=True)
    _check(file, decoder, encoding, total)
    if decoder.ends_inside:
        file.warn("the file ends inside a character")
    if decoder.misfits:
        file.warn(f"{decoder.misfits} bytes are not {encoding}; {decoder.substitute}")


def _check(file: File, decoder: _Wide | _Narrow, encoding: str, total: int) -> None:
    if decoder.misfits > max(32, total // 100):
        raise DamagedFileError(f"not text: {decoder.misfits} of {total} bytes are not {encoding}")


_CUT = frozenset({"unexpected end of data", "incomplete multibyte sequence"})


class _Narrow:
    """Encodings in which the bytes of ASCII characters up to `/` never are part of another character."""

    substitute = "they were read as Windows-1252"

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.misfits = 0
        self.ends_inside = False
        self._tail = b""

    def decode(self, block: bytes, *, final: bool) -> str:
        data = self._tail + block if self._tail else block
        end = len(data)
        if not final:
            end = data.rfind(b"\n") + 1 or data.rfind(b" ") + 1 or (end if end > 2 * BLOCK else 0)
        self._tail = data[end:]
        data = data[:end] if self._tail else data
        try:
            return data.decode(self.encoding)
        except UnicodeDecodeError as error:
            return self._mend(data, error, final=final)

    def _mend(self, data: bytes, error: UnicodeDecodeError, *, final: bool) -> str:
        """Single bad bytes in a long file are no reason to refuse it; a person would read them as Windows-1252."""
        pieces = []
        start = 0
        while True:
            bad = error.start
            if final and error.reason in _CUT and len(data) - start - error.end <= 0:
                self.ends_inside = True
                pieces.append(data[start : start + bad].decode(self.encoding))
                return "".join(pieces)
            pieces.append(data[start : start + bad].decode(self.encoding))
            wrong = data[start + bad : start + max(error.end, bad + 1)]
            self.misfits += len(wrong)
            pieces.append(wrong.decode("cp1252", "ignore") or wrong.decode("latin-1"))
            start += bad + len(wrong)
            if self.misfits > BLOCK:  # the caller gives up
                return "".join(pieces)
            try:
                pieces.append(data[start:].decode(self.encoding))
                return "".join(pieces)
            except UnicodeDecodeError as another:
                error = another


class _Wide:
    """UTF-16 and UTF-32."""

    substitute = "U+FFFD stands for them"

    def __init__(self, encoding: str) -> None:
        self.misfits = 0
        self.ends_inside = False
        self._strict = codecs.getincrementaldecoder(encoding)("strict")
        self._lax = codecs.getincrementaldecoder(encoding)("replace")

    def decode(self, block: bytes, *, final: bool) -> str:
        state = self._strict.getstate()
        try:
            return self._strict.decode(block, final)
        except UnicodeDecodeError:
            self._lax.setstate(state)
            text = self._lax.decode(block, final)
            self.misfits += 2 * text.count("\ufffd")
            self._strict.setstate(self._lax.getstate())
            return text


# --- which encoding -------------------------------------------------------------------------------------------


def _choose(block: bytes, declared: str | None) -> tuple[str, float]:
    """Encoding and confidence for a block that is not plain ASCII."""
    if b"\x1b$" in block:
        try:
            block.decode("iso2022_jp_2")
            return "iso2022_jp_2", 0.95
        except UnicodeDecodeError:
            pass
    whole = block[: block.rfind(b"\n") + 1]
    if whole.isascii():
        whole = block
    named = _named(declared)
    if named and named != "utf-8" and _fits(whole, named) and not _fits(whole, "utf-8"):
        return named, 0.95
    bad, good = _utf8_balance(whole)
    if bad == 0 or good >= 10 * bad:
        return "utf-8", 1.0 if bad == 0 else 0.8
    return _detect(_sample(whole))


def _named(declared: str | None) -> str | None:
    if not declared:
        return None
    try:
        name = codecs.lookup(declared.strip()).name
    except (LookupError, ValueError):
        return None
    return _WIDER.get(name, name)


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return error.reason in _CUT and error.end >= len(data)  # cut inside a character
    except LookupError:  # a codec that is not for text
        return False
    return True


def _utf8_balance(data: bytes) -> tuple[int, int]:
    """How many faults and how many multi-byte characters UTF-8 would find; a cut last character is no fault."""
    text = data.decode("utf-8", "replace")
    faults = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    if faults and _fits(data, "utf-8"):
        faults = 0
    return faults, len(text) - len(text.encode("ascii", "ignore")) - faults


def _sample(data: bytes) -> bytes:
    """The lines that can tell encodings apart; ASCII would only dilute them."""
    if len(data) <= 2048:
        return data
    chosen: list[bytes] = []
    size = 0
    for line in data.split(b"\n"):
        if not line.isascii():
            chosen.append(line[:4096])
            size += len(chosen[-1])
            if size >= SAMPLE:
                break
    return b"\n".join(chosen)


def _detect(sample: bytes) -> tuple[str, float]:
    """Detection proper. The library ranks by how odd the text would look; ties are broken by how common they are."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample, cp_isolation=list(_CANDIDATES), preemptive_behaviour=False))
    if not matches:
        return ("cp1252", 0.3) if _fits(sample, "cp1252") else ("latin-1", 0.2)
    best = matches[0]
    for match in matches[1:]:
        if match.chaos > best.chaos + 0.05:
            continue
        swap = {("cp874", "koi8_r"), ("gb18030", "euc_jp"), ("cp949", "euc_jp")}
        if match.encoding == "cp1252" and best.encoding in _LATIN_TWINS:
            if match.coherence >= best.coherence - 0.15:
                best = match
        elif (best.encoding, match.encoding) in swap and (match.encoding != "euc_jp" or _kana(str(match)) > 0.2):
            best = match
    text = str(best)
    encoding = best.encoding
    if encoding in _LATIN_TWINS and _fits(sample, "cp1252") and sample.decode("cp1252", "ignore") == text:
        encoding = "cp1252"
    sure = 1 - best.chaos
    tells = (encoding == "cp949" and _hangul(text) > 0.9) or (encoding in ("cp932", "euc_jp") and _kana(text) > 0.3)
    if not tells and any(str(match) != text for match in matches):
        sure *= min(1.0, 0.5 + best.coherence / 2)
    foreign = len(sample) - len(sample.translate(None, bytes(range(0x80, 0x100))))
    return encoding, sure * min(1.0, (0.75 if encoding.startswith("cp125") else 0.5) + foreign / 40)


def _kana(text: str) -> float:
    """Share of hiragana and katakana among the letters that are not ASCII."""
    letters = [character for character in text if character > "\x7f" and character.isalpha()]
    return sum("\u3041" <= character <= "\u30ff" for character in letters) / max(1, len(letters))


def _hangul(text: str) -> float:
    """Share of Korean syllables among the letters that are not ASCII."""
    letters = [character for character in text if character > "\x7f" and character.isalpha()]
    return sum("\uac00" <= character <= "\ud7a3" for character in letters) / max(1, len(letters))


# --- control characters ---------------------------------------------------------------------------------------


class _Controls:
    """Takes control characters out, and counts them: a few are dirt, many mean that this is no text."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._total = 0
        self._zeros = 0
        self._others = 0

    def filter(self, text: str) -> str:
        self._total += len(text)
        if not _UNWANTED.search(text):
            return text
        if "\x1b" in text:
            text = _TERMINAL.sub("", text)
        zeros = text.count("\x00")  # a crash leaves runs of zeros in logs
        tidy = _UNWANTED.sub("", text)
        marks = text.count("\ufeff")
        self._zeros += zeros
        self._others += len(text) - len(tidy) - zeros - marks
        if self._others > max(8, self._total // 100) or self._zeros > max(4096, self._total // 2):
            raise DamagedFileError("binary data, not text")
        if zeros or len(text) - len(tidy) > marks:
            self._file.warn("control characters were removed")
        return tidy
