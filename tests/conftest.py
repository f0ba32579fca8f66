"""What holds for every test: longer suites are asked for by name, and where the run says so a skip is a failure."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

REQUIRE = "INGESTD_TEST_REQUIRE"
"""Set where every tool a test wants is expected to be there: a test that would skip for want of one fails."""
EXEMPT = "cannot be had:"
"""A skip whose reason begins so stays a skip even then: what it needs (a GPU, say) the machine cannot be given."""


LONGER = ("slow", "elasticsearch", "systemd", "ocr", "office")
"""Markers of suites that take minutes, or a program that a bare machine lacks: each runs by `pytest -m NAME`."""


def pytest_configure() -> None:
    """What is started in the background ignores Ctrl-C, and so would every process that a test interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=None, metavar="N", help="how many processes the kill test kills")
    parser.addoption("--operations", type=int, default=None, metavar="N", help="how many operations the storm has")
    parser.addoption("--seed", type=int, default=None, metavar="N", help="the storm's seed, to see one again")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the longer suites unless `-m` says which tests are meant, or a test is named by its own id."""
    if config.getoption("markexpr") or any("::" in argument for argument in config.args):
        return
    longer = {item for item in items if any(item.get_closest_marker(name) for name in LONGER)}
    if longer:
        config.hook.pytest_deselected(items=list(longer))
        items[:] = [item for item in items if item not in longer]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # an expected failure is reported as a skip too
    if report.skipped and not hasattr(report, "wasxfail"):
        refuse_skip(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself whole (`pytest.importorskip`) never reaches the hook above."""
    report = yield
    if report.skipped:
        refuse_skip(report, collector.nodeid)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport, what: str) -> None:
    """Turn a skip into a failure that says why, in a run that requires every tool."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if os.environ.get(REQUIRE) and not reason.startswith(EXEMPT):
        report.outcome = "failed"
        report.longrepr = f"{what} would be skipped: {reason}\n{REQUIRE} is set, so that is a failure."
