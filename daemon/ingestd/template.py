"""What `ingestd new-plugin` writes: a distribution with one loader, a sample, and tests that pass at once."""

from __future__ import annotations

from pathlib import Path
from string import Template

from ingestd import __version__
from ingestd.errors import UsageError

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "ingestd-$dashed"
version = "0.1.0"
description = "Reads $suffix files for ingestd."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["ingestd>=$version"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points.ingestd]
$name = "ingestd_$name"

[tool.hatch.build.targets.wheel]
only-include = ["ingestd_$name.py"]
""",
    "README.md": """\
# ingestd-$dashed

Reads `$suffix` files for ingestd.

```sh
pip install -e '.[test]'                      # into the environment that ingestd runs in
python -m pytest
ingestd plugins                               # lists the loader $name
ingestd try tests/samples/example$suffix
```
""",
    "ingestd_$name.py": '''\
"""Reads $suffix files."""

from collections.abc import Iterator

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File


class ${title}Loader:
    name = "$name"
    version = "1"  # another one, and what failed is tried again
    suffixes = ("$suffix",)
    media_types = ("text/x-$dashed",)

    def load(self, file: File) -> Iterator[Element]:
        """Paragraphs between empty lines; one that begins with `= ` is a heading."""
        try:
            text = file.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"byte {error.start} is not UTF-8") from None
        for paragraph in text.split("\\n\\n"):
            if paragraph.startswith("= "):
                yield Element(paragraph[2:].strip(), kind="heading", level=1)
            else:
                yield Element(paragraph.strip())


@hookimpl
def register_loaders() -> list[${title}Loader]:
    return [${title}Loader()]
''',
    "tests/test_$name.py": '''\
"""What every loader promises; `python -m pytest -v` names each promise."""

from ingestd.testing import LoaderContract


class Test$title(LoaderContract):
    loader = "$name"
    samples = "samples"
''',
    "tests/samples/example$suffix": """\
= Badgers

Badgers live below the viaduct.

They come out at dusk.
""",
}


def write(name: str, directory: Path | None = None, suffix: str | None = None) -> list[Path]:
    """Write the distribution; returns its files. Raises `UsageError` for an impossible name or a directory in use."""
    if not (name.isidentifier() and name.isascii() and name == name.lower() and not name.startswith("_")):
        raise UsageError(f"a loader's name is lower-case letters, digits and underscores, not {name!r}")
    dashed = name.replace("_", "-")
    suffix = suffix or f".{name}"
    if not suffix.startswith(".") or suffix != suffix.lower() or not suffix[1:] or "/" in suffix or '"' in suffix:
        raise UsageError(f"a suffix is lower case and starts with a dot, not {suffix!r}")
    directory = directory or Path(f"ingestd-{dashed}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already")
    values = {
        "name": name,
        "dashed": dashed,
        "suffix": suffix,
        "title": name.title().replace("_", ""),
        "version": __version__,
    }
    written = []
    for place, text in FILES.items():
        path = directory / Template(place).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(path)
    return written
