"""Mail as Outlook saves it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.mail import LONGEST, note, told

ITEM = "__substg1.0_3701000D"
"""Where an attachment has an item that was put into the mail as a whole."""
ITEM_HEAD = 24
"""Bytes before the properties of such an item; of one in a file of its own they are 32, as the library has it."""


class OutlookLoader:
    """The plain text where there is one, else the HTML; attached files are documents of their own."""

    name = "outlook"
    version = "2"
    suffixes: Sequence[str] = (".msg",)
    media_types: Sequence[str] = ("application/vnd.ms-outlook",)
    extracts = "As `mail`"
    omits = "What `mail` leaves out; of an item inside the mail all that no mail has"

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
                inner = item(attachment)
                if inner is not None:
                    name = f"{' '.join(inner.subject.split()).replace('/', '_')[:100] or f'message {number}'}.eml"
                data = attachment.file_bytes if inner is None else mail(inner).as_bytes()
            except damage() as error:
                yield Part(name, error=f"damaged: {cause(error)}")
                continue
            yield Part(name) if data is None else file.part(name, data)


def item(attachment: Any) -> Any:
    """The message that was attached, None where it is a file."""
    from oxmsg import Message
    from oxmsg.properties import Properties

    class Item(Message):
        @property
        def properties(self) -> Properties:
            return Properties(self._storage, properties_header_offset=ITEM_HEAD)

    # The library has no name for it.
    return next((Item(storage) for storage in attachment._storage.storages if storage.name == ITEM), None)


def mail(message: Any) -> EmailMessage:
    """An item as a mail, with all that is attached to it."""
    made = EmailMessage(policy=SMTP)
    told = headers(message)
    for name in ("from", "to", "subject"):
        made[name] = told[name]
    if message.sent_date is not None:
        made["date"] = message.sent_date
    text = message.body or ""
    if text.strip() or not message.html_body:
        made.set_content(text)
    else:
        made.set_content(message.html_body, subtype="html")
    for attachment in message.attachments:
        inner = item(attachment)
        if inner is not None:
            made.add_attachment(mail(inner))
        elif attachment.file_bytes is not None:
            name = attachment.file_name or "attached"
            made.add_attachment(attachment.file_bytes, "application", "octet-stream", filename=name)
    return made


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
    return (
        OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error, EOFError,
        RecursionError, MessageError,
    )  # fmt: skip


@hookimpl
def register_loaders() -> list[Loader]:
    return [OutlookLoader()]
