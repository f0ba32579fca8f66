"""Archives and mails for the tests, the same bytes each time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP

Members = Mapping[str, str | bytes]
DATE = "Wed, 01 Jan 2025 10:00:00 +0100"


def zipped(members: Members) -> bytes:
    """A zip archive; a member whose name is a suffix is called `sample`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(f"sample{name}" if name.startswith(".") and name[1:2] != "." else name)
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def tarred(members: Members, packing: str = "") -> bytes:
    """A tar archive, packed as `packed` does."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed(stream.getvalue(), packing)


def packed(data: bytes, packing: str) -> bytes:
    """`packing`: a suffix (".gz", ".bz2", ".xz", ".zst") or none."""
    match packing:
        case ".gz":
            return gzip.compress(data, mtime=0)
        case ".bz2":
            return bz2.compress(data)
        case ".xz":
            return lzma.compress(data)
        case ".zst":
            import zstandard

            return zstandard.compress(data)
    return data


def mail(subject: str, text: str = "", html: str = "", attachments: Members | None = None, **headers: str) -> bytes:
    """A message as mail programs write it."""
    message = EmailMessage(policy=SMTP)
    values = {"From": "Ada <ada@example.org>", "To": "bob@example.org", "Date": DATE, "Subject": subject, **headers}
    for name, value in values.items():
        message[name] = value
    if text or not html:
        message.set_content(text)
    if html:
        (message.add_alternative if text else message.set_content)(html, subtype="html")
    for name, content in (attachments or {}).items():
        data = content.encode() if isinstance(content, str) else content
        message.add_attachment(data, "application", "octet-stream", filename=name)
    if message.is_multipart():
        message.set_boundary("=====boundary")
        for number, part in enumerate(message.walk()):
            if part is not message and part.is_multipart():
                part.set_boundary(f"=====boundary{number}")
    return message.as_bytes()


def mailbox(*mails: bytes) -> bytes:
    """An mbox; lines of a mail that begin as one of the mailbox's own are quoted."""
    lines = []
    for each in mails:
        body = b"".join(
            b">" + line if line.lstrip(b">").startswith(b"From ") else line
            for line in each.replace(b"\r\n", b"\n").splitlines(keepends=True)
        )
        lines += [
            b"From ada@example.org Wed Jan  1 10:00:00 2025\n",
            body,
            b"" if body.endswith(b"\n") else b"\n",
            b"\n",
        ]
    return b"".join(lines)
