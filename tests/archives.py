"""Archives for the tests, the same bytes each time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping


def zipped(members: Mapping[str, str | bytes]) -> bytes:
    """A zip archive; a member whose name is a suffix is called `sample`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(f"sample{name}" if name.startswith(".") and name[1:2] != "." else name)
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()
