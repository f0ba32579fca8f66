"""The three hooks, one per stage that a third party may extend; entry-point group `ingestd`."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from ingestd.types import Engine, Loader, Sink

PROJECT = "ingestd"
"""The name of the pluggy project, and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""The decorator of a plugin's functions."""


@hookspec
def register_loaders() -> Iterable[Loader]:
    """Return loaders, one object per format family.

    Runs in the probe worker and in every load worker, never in the supervisor. Import format libraries inside
    `load`, not at the top of the module: a worker then only pays for the formats it meets. A loader may have these
    attributes:

    - `overrides = (".md", ...)`, suffixes that it takes from the loader that has them; `[load.NAME] suffixes` and
      `disabled` have the last word.
    - `requires = ("module", ...)` and `programs = ("program", ...)`, which are not there unless somebody installed
      them, and `install`, what they are and how that is done. Where one is missing its files fail with `install` as
      the reason, and are loaded once it is there.
    - `workers = 1`, load workers for its files alone unless `[load.NAME] workers` says otherwise: others do not wait
      behind a pile of slow files.
    - `remembers = True`: what it yields of a content is kept, up to 1 MiB each, and yielded again when the same content
      comes back with the same options and `version`. For those who take seconds for a page.
    - `describe(options) -> str`, what it works with, models for instance, given its table of the configuration; said
      when the daemon starts. Raises `ConfigError` where the table is wrong.
    - `gpu_memory(options) -> dict`, bytes that it may take of a GPU's memory by device (`"cuda:0"`), in each of its
      workers: encoders on that device leave them alone.
    - `needs_sockets = True` if it drives a program that needs AF_UNIX sockets (LibreOffice does).
    """
    raise AssertionError("a specification is never called")


@hookspec
def register_engines() -> Iterable[Engine]:
    """Return engines, which turn token ids into vectors.

    Runs in the probe worker, in load workers (for the tokeniser only) and in encode workers (one per device).
    Importing the plugin must not import torch or load a model.
    """
    raise AssertionError("a specification is never called")


@hookspec
def register_sinks() -> Iterable[Sink]:
    """Return sinks, which store chunks and vectors and search them.

    Runs in the probe worker and in the index worker.
    """
    raise AssertionError("a specification is never called")
