"""Mail as Outlook saves it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.mail import LONGEST, note, told

EMBEDDED = "an embedded Outlook item, which is not read"


class OutlookLoader:
    """The plain text where there is one, else the HTML; attached files are documents of their own."""

    name = "outlook"
    version = "1"
    suffixes: Sequence[str] = (".msg",)
    media_types: Sequence[str] = ("application/vnd.ms-outlook",)
    extracts = "As `mail`"
    omits = "An Outlook item inside the mail is named, not read"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        import oxmsg

        message = oxmsg.Message.load(str(file.path))
        note(file, headers(message))
        text = message.body or ""
        html = "" if text.strip() else message.html_body or ""
        if file.title:
            yield Element(file.title, "title")
        if text.strip() or html:
            yield from told(file, (text or html).encode("utf-8", "replace"), "utf-8", not text.strip())
        try:
            attachments = message.attachments
        except damage() as error:
            file.partial = f"its attachments cannot be read: {cause(error)}"
            return
        for number, attachment in enumerate(attachments, 1):
            name = f"part {number}"
            try:
                name = (attachment.file_name or name).replace("/", "_").replace("\\", "_").strip("\0") or name
                data = attachment.file_bytes
            except damage() as error:
                yield Part(name, error=f"damaged: {cause(error)}")
                continue
            yield Part(name, error=EMBEDDED) if data is None else file.part(name, data)


def headers(message: Any) -> dict[str, str]:
    """As those of any mail."""
    sent = message.sent_date
    values = {
        "from": message.sender or "",
        "to": ", ".join(f'"{each.name}" <{each.email_address}>' for each in message.recipients),
        "date": sent.isoformat() if sent is not None else "",
        "subject": message.subject.strip(),
    }
    return {name: " ".join(value.split())[:LONGEST] for name, value in values.items()}


def damage() -> tuple[type[Exception], ...]:
    """What the library raises over damaged content: it has no error of its own."""
    return (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error, EOFError)


@hookimpl
def register_loaders() -> list[Loader]:
    return [OutlookLoader()]
