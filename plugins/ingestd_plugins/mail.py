"""Mail: headers and body of a message; what is attached, and each message of a mailbox, is a document of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import parsedate_to_datetime
from pathlib import Path

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.archives import decoded
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.html import HtmlLoader
from ingestd_plugins.text import TextLoader

HEADERS = ("from", "to", "cc", "date", "subject")
LONGEST = 4096
"""Characters of a header that are kept."""
BOM = b"\xef\xbb\xbf"
LINE = 1 << 16
_SPACE = re.compile(r"\s+")
_SLASH = re.compile(r"[/\\\0]+")


class MailLoader:
    """One message. The plain text where there is one, else the HTML."""

    name = "mail"
    version = "1"
    suffixes: Sequence[str] = (".eml",)
    media_types: Sequence[str] = ("message/rfc822",)
    extracts = (
        "Subject, and the plain text, else the HTML; `from`, `to`, `cc`, `date` (ISO 8601) and `subject` as "
        "metadata. What is attached, forwarded mails too, as documents of their own"
    )
    omits = "The same text in another form; other headers; encryption and signatures; remote pictures are not fetched"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        with file.path.open("rb") as stream:
            message = BytesParser(policy=compat32).parse(stream)
        if not any(name.lower() in ("from", "to", "subject", "date", "received", "message-id") for name in message):
            raise DamagedFileError("it does not begin with the headers of a mail")
        note(file, {name: header(message, name) for name in HEADERS})
        found = list(leaves(message))
        body = chosen(found)
        if file.title:
            yield Element(file.title, "title")
        if body is not None:
            yield from told(file, content(body), body.get_content_charset(), body.get_content_subtype() == "html")
        number = 0
        for leaf in found:
            if leaf is body or (is_text(leaf) and not leaf.get_filename() and body is not None and not attached(leaf)):
                continue  # the same in another form
            number += 1
            yield attachment(file, leaf, number)


class MailboxLoader:
    """Each message of an mbox as a document of its own, by its number."""

    name = "mailbox"
    version = "1"
    suffixes: Sequence[str] = (".mbox",)
    media_types: Sequence[str] = ("application/mbox",)
    extracts = "Each message as a mail of its own, `archive.mbox!/17.eml`"
    omits = "What is not a message"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        with file.path.open("rb") as stream:
            if not stream.readline(LINE).startswith(b"From "):
                raise DamagedFileError("it does not begin as a mailbox does")
        place = file.scratch / "message"
        for number, _ in enumerate(messages(file.path, place), 1):
            with place.open("rb") as content:
                yield file.part(f"{number}.eml", content)


def messages(path: Path, place: Path) -> Iterator[None]:
    """Writes one message after the other to `place`. A line that was quoted for the mailbox is as it was."""
    with path.open("rb") as stream:
        blank = True
        target = None
        start = True
        """Whether the next piece begins a line: a long line comes in several."""
        try:
            while piece := stream.readline(LINE):
                if start and blank and piece.startswith(b"From "):
                    if target is not None:
                        target.close()
                        yield
                    target = place.open("wb")
                elif target is not None:
                    quoted = start and piece.startswith(b">") and piece.lstrip(b">").startswith(b"From ")
                    target.write(piece[1:] if quoted else piece)
                blank = start and piece in (b"\n", b"\r\n")
                start = piece.endswith(b"\n")
            if target is not None:
                target.close()
                yield
        finally:
            if target is not None:
                target.close()


def note(file: File, values: dict[str, str]) -> None:
    """Headers as metadata, the subject as title."""
    for name, value in values.items():
        if value:
            file.metadata[name] = value
    file.title = values.get("subject") or None


def header(message: Message, name: str) -> str:
    """The text of a header, whatever its encoding."""
    texts = []
    for value in message.get_all(name, []):
        raw = str(value) if isinstance(value, str) else ""
        try:
            if any("\udc80" <= character <= "\udcff" for character in raw):
                texts.append(decoded([raw.encode("ascii", "surrogateescape")])[0])
            else:
                texts.append(str(make_header(decode_header(value))))
        except (MessageError, LookupError, ValueError, UnicodeError, TypeError, AssertionError):
            texts.append(raw.encode("utf-8", "replace").decode())
    text = _SPACE.sub(" ", ", ".join(texts)).strip().encode("utf-8", "replace").decode()[:LONGEST]
    if name == "date" and text:
        try:
            return parsedate_to_datetime(text).isoformat()
        except (ValueError, TypeError, IndexError, OverflowError):
            return text
    return text


def leaves(message: Message) -> Iterator[Message]:
    """The parts of a message that have content; a message inside it is one."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        if part.is_multipart() and part.get_content_maintype() != "message":
            inner = part.get_payload()
            waiting += (
                [each for each in reversed(inner) if isinstance(each, Message)] if isinstance(inner, list) else []
            )
        else:
            yield part


def attached(leaf: Message) -> bool:
    """Whether it says of itself that it is no part of the body."""
    return leaf.get_content_disposition() == "attachment"


def is_text(leaf: Message) -> bool:
    return leaf.get_content_type() in ("text/plain", "text/html")


def chosen(found: Sequence[Message]) -> Message | None:
    """The body: the first plain text that has any, else the first HTML."""
    own = [leaf for leaf in found if is_text(leaf) and not attached(leaf) and not leaf.get_filename()]
    plain = [leaf for leaf in own if leaf.get_content_subtype() == "plain" and content(leaf).strip()]
    return next(iter(plain or [leaf for leaf in own if leaf.get_content_subtype() == "html"] or own), None)


def content(leaf: Message) -> bytes:
    """The decoded bytes, as far as they can be decoded."""
    try:
        data = leaf.get_payload(decode=True)
    except (MessageError, LookupError, ValueError, TypeError, AttributeError, AssertionError):
        data = None
    return data if isinstance(data, bytes) else b""


def told(file: File, data: bytes, charset: str | None, is_html: bool) -> Iterator[Element]:
    """A body's elements."""
    if charset is not None:
        try:
            data = BOM + data.decode(charset).encode()
        except (LookupError, UnicodeError, ValueError):
            pass  # it is not what it says: it is found out as of any file
    path = file.scratch / ("body.html" if is_html else "body.txt")
    path.write_bytes(data)
    kind = "text/html" if is_html else "text/plain"
    body = File(path, path.name, path.suffix, kind, len(data), file.scratch, warnings=file.warnings)
    try:
        yield from (HtmlLoader() if is_html else TextLoader()).load(body)
    except DamagedFileError as error:
        file.warn(f"the body cannot be read: {error.message}")
    file.metadata.update({key: value for key, value in body.metadata.items() if key.startswith("encoding")})


def attachment(file: File, leaf: Message, number: int) -> Part:
    """What is attached; a forwarded message as a mail of its own."""
    try:
        name = filename(leaf, number)
        if leaf.get_content_maintype() != "message":
            return file.part(name, content(leaf))
        inner = leaf.get_payload()
        if isinstance(inner, list) and inner and isinstance(inner[0], Message):
            return file.part(name, inner[0].as_bytes(policy=compat32))
        return file.part(name, content(leaf))
    except (
        MessageError,
        LookupError,
        UnicodeError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as error:
        return Part(f"part {number}", error=f"damaged: {cause(error)}")


def filename(leaf: Message, number: int) -> str:
    """As the sender named it, else by its number and kind."""
    name = leaf.get_filename() or ""
    if name:
        holder = Message()
        holder["name"] = name
        name = _SLASH.sub("_", header(holder, "name"))
    if name.strip(". "):
        return name
    if leaf.get_content_maintype() == "message":
        inner = leaf.get_payload()
        subject = header(inner[0], "subject") if isinstance(inner, list) and inner else ""  # type: ignore[arg-type]
        return f"{_SLASH.sub('_', subject)[:100] or f'message {number}'}.eml"
    import mimetypes

    return f"part {number}{mimetypes.guess_extension(leaf.get_content_type()) or ''}"


@hookimpl
def register_loaders() -> list[Loader]:
    return [MailLoader(), MailboxLoader()]
