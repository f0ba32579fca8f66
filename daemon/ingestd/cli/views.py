"""What people see: results and progress as rich renderables, for terminals of any width, with and without colour.

Nothing foreign is ever parsed as markup or reaches the terminal unfiltered.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ingestd.cli import layout
from ingestd.cli.printable import clean, clean_line
from ingestd.config.units import spell_duration
from ingestd.types import STATES

if TYPE_CHECKING:
    from ingestd.doctor import Finding

STYLES: Final = {
    "indexed": "green",
    "partial": "yellow",
    "failed": "red",
    "quarantined": "red",
    "skipped": "dim",
    "held": "yellow",
    "running": "cyan",
}
PASSAGE_LENGTH: Final = 480
"""Characters of a passage that a search shows."""
LISTED: Final = 20
"""Failures listed after an ingest."""

_Row = Mapping[str, Any]
_CJK: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_MARK: Final = "bold yellow"


# --- a running daemon -----------------------------------------------------------------------------------------


def live(status: _Row, width: int) -> Group:
    """The view of `ingestd run`: bar, rates, counts, sources, workers, the last failures."""
    files: Mapping[str, int] = status.get("files", {})
    waiting = files.get("settling", 0) + files.get("queued", 0) + files.get("running", 0)
    done = sum(files.get(state, 0) for state in ("indexed", "partial", "failed", "quarantined", "skipped"))
    lines: list[RenderableType] = [_bar(done, done + waiting, status.get("eta_seconds"), width)]
    workers: Sequence[_Row] = status.get("workers", ())
    loading = [worker for worker in workers if worker.get("stage") == "load" and not worker.get("trial")]
    busy = sum(1 for worker in loading if worker.get("path"))
    facts = [f"backlog {layout.count(waiting)}", *_rates(status.get("rates", {}))]
    if loading:
        facts.append(f"loading {busy}/{len(loading)}")
    facts += _encoders(status.get("encoders", ()))
    lines.append(layout.SideBySide([Text(fact) for fact in facts]))
    lines.append(layout.SideBySide(_states(files)))
    if status.get("stopping"):
        lines.append(
            layout.line("stopping: ", "what is in hand is finished; Ctrl-C again stops at once", style="yellow")
        )
    elif not status.get("running", True):
        lines.append(layout.line("no daemon is running: ", status.get("start", "ingestd run"), style="yellow"))
    elif not status.get("ready", True):
        lines.append(layout.line("waiting for ", layout.plain(status.get("waiting_for") or "workers"), style="yellow"))
    lines += [_source(source, width) for source in status.get("sources", ())]
    if paths := [worker["path"] for worker in loading if worker.get("path")]:
        lines.append(layout.line("now ", ", ".join(layout.name(path) for path in paths), style="dim"))
    lines += [layout.line("! ", warning, style="yellow") for warning in list(status.get("warnings", ()))[-3:]]
    troubles = [item for item in status.get("recent", ()) if item.get("state") in ("partial", "failed", "quarantined")]
    lines += [_recent(item) for item in troubles[-4:]]
    return Group(*lines)


def _source(source: _Row, width: int) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(layout.fit(source.get("name", ""), min(18, width // 2)), style="bold")
    line.append(f" {layout.number_of(_total(source.get('files', 0)), 'file')}", style="green")
    if width >= layout.NARROW:
        line.append(f"  {clean_line(source.get('mode') or '')}", style="dim")
        line.append(f"  {clean_line(source.get('directory', ''))}", style="dim")
    return line


def _recent(item: _Row) -> Text:
    state = str(item.get("state", ""))
    style = STYLES.get(state, "")
    took = f" in {spell_duration(item['seconds'])}" if item.get("seconds") else ""
    reason = f": {item['reason']}" if item.get("reason") else ""
    return layout.line(f"{state} ", f"{layout.name(item.get('path', ''))}{took}{clean_line(reason)}", style=style)


def _encoders(encoders: Sequence[_Row]) -> list[str]:
    """All devices as one, as there may be many."""
    if len(encoders) < 2:
        return [_encoder(encoder) for encoder in encoders]
    tokens = sum(encoder.get("tokens_per_second") or 0 for encoder in encoders)
    busy = sum(encoder.get("busy") or 0 for encoder in encoders) / len(encoders)
    return [f"{len(encoders)} encoders {layout.count(tokens)} tokens/s {busy:.0%}"]


def _encoder(encoder: _Row) -> str:
    busy = encoder.get("busy") or 0
    share = f" {busy:.0%}" if isinstance(busy, float) else ""
    return (
        f"{clean_line(encoder.get('device', ''))} {layout.count(encoder.get('tokens_per_second') or 0)} tokens/s{share}"
    )


# --- ingest ---------------------------------------------------------------------------------------------------


def ingesting(progress: _Row, width: int) -> Group:
    """The view while `ingestd ingest` works."""
    done, total = progress.get("done", 0), progress.get("total", 0)
    eta = progress.get("eta_seconds")
    lines: list[RenderableType] = [_bar(done, total, eta, width, scanning=bool(progress.get("scanning")))]
    facts = [Text(fact) for fact in _rates(progress)]
    facts += _states({state: progress.get(state, 0) for state in ("unchanged", "failed", "quarantined", "skipped")})
    if facts:
        lines.append(layout.SideBySide(facts))
    if current := progress.get("current"):
        lines.append(layout.line("now ", ", ".join(layout.name(path) for path in current), style="dim"))
    return Group(*lines)


def ingest_line(progress: _Row) -> str:
    """The same for a log."""
    parts = [f"{layout.count(progress.get('done', 0))} of {layout.count(progress.get('total', 0))} files"]
    parts += [f"{layout.count(progress[state])} {state}" for state in ("failed", "quarantined") if progress.get(state)]
    parts += _rates(progress)
    if progress.get("eta_seconds"):
        parts.append(f"{spell_duration(progress['eta_seconds'])} left")
    return ", ".join(parts)


def status_line(status: _Row) -> str:
    """The status for a log."""
    if not status.get("running"):
        return f"no daemon is running: {status.get('start', 'ingestd run')}"
    counts = [fact.plain for fact in _states(status.get("files", {}))]
    waiting = "" if status.get("ready") else f"waiting for {layout.plain(status.get('waiting_for') or 'workers')}"
    return clean_line(", ".join(filter(None, [*counts, *_rates(status.get("rates", {})), waiting])))


def ingested(summary: _Row) -> Group:
    """The table at the end of an ingest, and the files that failed."""
    seconds = summary.get("seconds") or 0
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for state in ("indexed", "unchanged", "failed", "quarantined", "skipped"):
        number = summary.get(state, 0)
        table.add_row(Text(state, style=STYLES.get(state, "") if number else "dim"), layout.count(number))
    chunks = summary.get("chunks", 0)
    speed = f"{chunks / seconds:,.1f}/s" if seconds and chunks else ""
    table.add_row("chunks", layout.count(chunks), speed)
    table.add_row("time", spell_duration(seconds))
    failures: Sequence[_Row] = summary.get("failures", ())
    parts: list[RenderableType] = [table]
    if failures:
        parts += [Text(), failed(failures[:LISTED])]
    if len(failures) > LISTED:
        parts.append(Text(f"and {layout.count(len(failures) - LISTED)} more: ingestd failures"))
    return Group(*parts)


def verified(told: _Row) -> Group:
    """The counts of a comparison, and the documents that differ."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for key, style in (("missing", "red"), ("extra", "red"), ("stale", "red"), ("repaired", "green"), ("pending", "")):
        number = told.get(key, 0)
        table.add_row(Text(key, style=style if number else "dim"), layout.count(number))
    table.add_row("documents", layout.count(told.get("documents", 0)))
    table.add_row("chunks", layout.count(told.get("chunks", 0)))
    findings = [{**finding, "state": finding["problem"]} for finding in told.get("findings", ())]
    parts: list[RenderableType] = [table]
    if findings:
        parts += [Text(), failed(findings[:LISTED])]
    if len(findings) > LISTED:
        parts.append(Text("and more: ingestd verify --json | jq .findings"))
    return Group(*parts)


def failed(failures: Iterable[_Row]) -> Group:
    """Each file with its state and its reason."""
    lines: list[RenderableType] = []
    for item in failures:
        state = str(item.get("state") or "failed")
        head = layout.Whole(Text(clean_line(item.get("path", "")), style="bold"))
        attempts = item.get("attempts")
        facts = [state, f"{attempts} attempts" if attempts and attempts > 1 else "", _again(item.get("retry_at"))]
        body = Text(", ".join(fact for fact in facts if fact), style=STYLES.get(state, ""))
        body.append(f": {layout.first_lines(item.get('reason') or 'no reason given', 3)}", style="default")
        lines += [head, Padding.indent(body, 2)] if item.get("path") else [body]
    return Group(*lines)


# --- search ---------------------------------------------------------------------------------------------------


def found(hits: Sequence[_Row], question: str) -> Group:
    """The passages, best first, the words of the question emphasised."""
    words = _words(question)
    parts: list[RenderableType] = []
    for number, hit in enumerate(hits, 1):
        head = Text()
        head.append(f"{number}. ", style="dim")
        head.append(clean_line(hit.get("path", "")), style="bold cyan")
        if hit.get("page"):
            head.append(f":{hit['page']}", style="cyan")
        head.append(f"  {hit.get('score', 0):.4f}", style="dim")
        parts.append(layout.Whole(head))
        if title := _title(hit):
            parts.append(Padding.indent(Text(clean_line(title), style="italic"), 3))
        passage = Text(_passage(clean(hit.get("text", "")), words))
        if words:
            passage.highlight_regex(words, _MARK)
        parts += [Padding.indent(passage, 3), Text()]
    return Group(*parts[:-1])


def _title(hit: _Row) -> str:
    headings = (hit.get("metadata") or {}).get("headings") or ()
    file = layout.name(hit.get("path", ""))
    title = clean_line(hit.get("title") or "")
    if title in (file, os.path.splitext(file)[0]):  # it says nothing that the path does not say
        title = ""
    names = [title, *(headings if isinstance(headings, list | tuple) else [headings])]
    return " › ".join(dict.fromkeys(clean_line(name) for name in names if name))


def _words(question: str) -> re.Pattern[str] | None:
    """The words worth emphasis: not the short ones; for Chinese, Japanese and Korean every pair of characters."""
    found: set[str] = set()
    for word in re.findall(r"\w+", question):
        if _CJK.search(word):
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif len(word) > 3 or not word.islower():
            found.add(word)
    if not found:
        return None
    longest_first = sorted(found, key=lambda word: (-len(word), word))
    alternatives = "|".join(
        re.escape(word) if _CJK.search(word) else rf"\b{re.escape(word)}\w{{0,2}}\b" for word in longest_first
    )
    return re.compile(f"(?:{alternatives})", re.IGNORECASE)


def _passage(text: str, words: re.Pattern[str] | None) -> str:
    """The part of the passage that holds the first of the words, a few lines long, on as few lines as it fits."""
    flat = " ".join(text.split())
    if len(flat) <= PASSAGE_LENGTH:
        return flat
    match = words.search(flat) if words else None
    start = max(0, min(match.start() - PASSAGE_LENGTH // 3, len(flat) - PASSAGE_LENGTH)) if match else 0
    if start and " " in flat[start : start + 30]:
        start = flat.index(" ", start) + 1
    cut = flat[start : start + PASSAGE_LENGTH]
    return ("…" if start else "") + cut + ("…" if start + len(cut) < len(flat) else "")


# --- status, why, plugins -------------------------------------------------------------------------------------


def state_of(status: _Row) -> Group:
    """`ingestd status`."""
    running = status.get("running")
    if not running:
        head = Text(f"not running: {status.get('start', 'ingestd run')}", style="yellow")
    elif status.get("ready"):
        since = f" for {spell_duration(status['uptime_seconds'])}" if status.get("uptime_seconds") else ""
        head = Text(f"running{since}", style="green")
    else:
        waiting_for = layout.plain(status.get("waiting_for") or "workers")
        head = Text(f"running, waiting for {clean_line(waiting_for)}", style="yellow")
    facts = layout.Named()
    facts.add("daemon", head)
    files: Mapping[str, int] = status.get("files", {})
    facts.add("files", layout.SideBySide(_states(files)) if any(files.values()) else Text("none"))
    facts.add("chunks", layout.count(status.get("chunks") or 0))
    if status.get("eta_seconds"):
        facts.add("left", spell_duration(status["eta_seconds"]))
    sink = status.get("sink") or {}
    if sink:
        healthy = sink.get("healthy")
        health = "" if healthy is None or not running else ", healthy" if healthy else ", not available"
        facts.add("index", Text(clean_line(sink.get("name", "")) + health, style="" if healthy else "yellow"))
    if status.get("sandbox"):
        held = {name: value for name, value in status["sandbox"].items() if value != ""}
        facts.add("sandbox", clean_line(layout.plain(held)))
    for source in status.get("sources", ()):
        files_here = layout.number_of(_total(source.get("files", 0)), "file")
        mode = f", {clean_line(source['mode'])}" if source.get("mode") else ""
        text = Text(f"{clean_line(source.get('name', ''))}: {files_here}{mode}, ", overflow="fold")
        facts.add("source", text.append(clean_line(source.get("directory", ""))))
    for encoder in status.get("encoders", ()):
        facts.add("encoder", _encoder(encoder) + f", pid {encoder.get('pid')}")
    for worker in status.get("workers", ()):
        path = f", {clean_line(worker['path'])}" if worker.get("path") else ""
        trial = " (trial)" if worker.get("trial") else ""
        line = f"{worker.get('stage')} {worker.get('pid')}{trial}, {worker.get('state')}{path}"
        facts.add("worker", Text(clean_line(line), overflow="fold"))
    for warning in status.get("warnings", ()):
        facts.add("warning", Text(clean(warning), style="yellow"))
    return Group(facts)


def reason_of(why: _Row) -> Group:
    """`ingestd why PATH`."""
    state = str(why.get("state") or "unknown")
    facts = layout.Named()
    facts.add("state", Text(clean_line(state), style=STYLES.get(state, "")))
    if why.get("reason"):
        facts.add("reason", Text(clean(why["reason"]), overflow="fold"))
    if why.get("detail"):
        facts.add("detail", Text(clean(why["detail"]), style="dim", overflow="fold"))
    if again := _again(why.get("retry_at")):
        facts.add("next", again)
    for key in ("loader", "attempts", "chunks", "digest"):
        if why.get(key):
            value = why[key]
            facts.add(key, Text(value.hex() if isinstance(value, bytes) else clean_line(value), overflow="fold"))
    for warning in why.get("warnings") or ():
        facts.add("warning", Text(clean(warning), style="yellow", overflow="fold"))
    for event in why.get("history") or ():
        facts.add("history", Text(_event(event), overflow="fold"))
    return Group(layout.Whole(Text(clean_line(why.get("path", "")), style="bold")), facts)


def listed(plugins: Iterable[_Row]) -> Group:
    """`ingestd plugins`: each loader, engine and sink, who lost a suffix, and what went wrong."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("version", no_wrap=True)
    table.add_column("suffixes", overflow="fold")
    table.add_column("from", style="dim", overflow="fold")
    narrow: list[RenderableType] = []
    errors: list[RenderableType] = []
    lost: list[RenderableType] = []
    lacking: list[RenderableType] = []
    order = ["loader", "engine", "sink"]
    for plugin in sorted(plugins, key=lambda plugin: (plugin.get("kind") not in order, *_order(plugin, order))):
        if plugin.get("error") or plugin.get("reason"):
            cause = plugin.get("error") or plugin.get("reason")
            name = f"{plugin.get('name') or plugin.get('plugin')} ({plugin.get('distribution', '')})"
            errors.append(Text(f"error: plugin {clean_line(name)}: {clean(cause)}", style="red", overflow="fold"))
            continue
        kind, name, version, origin = (
            clean_line(plugin.get(key) or "") for key in ("kind", "name", "version", "distribution")
        )
        takes = "disabled" if plugin.get("disabled") else " ".join(plugin.get("takes", plugin.get("suffixes")) or ())
        if not plugin.get("disabled"):
            lost.extend(_lost(plugin))
        if uses := plugin.get("uses"):
            lacking.append(Text(f"{kind} {name} uses {clean(uses)}", style="dim", overflow="fold"))
        if lacks := plugin.get("lacks"):
            lacking.append(Text(f"{kind} {name} needs {clean(lacks)}", style="yellow", overflow="fold"))
        table.add_row(*(Text(cell) for cell in (kind, name, version, clean_line(takes), origin)))
        head = Text(f"{kind} ", overflow="fold").append(f"{name} {version}".rstrip(), style="bold")
        narrow.append(head.append(f"  {origin}", style="dim"))
        if takes:
            narrow.append(Padding.indent(Text(clean_line(takes), overflow="fold"), 2))
    return Group(layout.Either(table, Group(*narrow)), *lost, *lacking, *errors)


def _order(plugin: _Row, kinds: Sequence[str]) -> tuple[int, str]:
    kind = plugin.get("kind")
    return kinds.index(kind) if kind in kinds else len(kinds), str(plugin.get("name") or plugin.get("plugin"))


def _lost(plugin: _Row) -> Iterable[Text]:
    """Which suffixes of a loader go to another one, and how it gets them."""
    for suffix, taker in (plugin.get("lost") or {}).items():
        name = plugin.get("name")
        how = f'[load.{name}] suffixes = ["{suffix}"] changes that'
        line = f"{name} ({plugin.get('distribution', '')}) claims {suffix}, which goes to {taker or 'nobody'}: {how}"
        yield Text(clean_line(line), style="yellow", overflow="fold")


# --- pieces ---------------------------------------------------------------------------------------------------


def _bar(done: int, total: int, eta: float | None, width: int, *, scanning: bool = False) -> Table:
    share = f"{done / total:4.0%}" if total else "    "
    end = f"{spell_duration(eta)} left" if eta else ""
    label = f"{layout.count(done)} of {layout.count(total)}{'+' if scanning else ''}"
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    full = done if total or scanning else 1
    bar = ProgressBar(total=max(total, 1), completed=full, complete_style="cyan", finished_style="green")
    cells = [Text(label), Text(share)] + ([Text(end, style="cyan")] if end and width >= 50 else [])
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(bar, *cells)
    return grid


def _states(files: Mapping[str, int]) -> list[Text]:
    order = ["unchanged", "settling", *STATES]
    return [
        Text(f"{state} {layout.count(files[state])}", style=STYLES.get(state, ""))
        for state in sorted(files, key=lambda state: order.index(state) if state in order else len(order))
        if files[state]
    ]


def _rates(rates: Mapping[str, Any]) -> list[str]:
    return [
        f"{rates[f'{what}_per_second']:,.1f} {what}/s"
        for what in ("files", "chunks")
        if rates.get(f"{what}_per_second") is not None
    ]


def _again(at: float | None) -> str:
    if not at:
        return ""
    left = at - time.time()
    return f"tried again in {spell_duration(left)}" if left > 0 else "tried again now"


def _event(event: Any) -> str:
    if isinstance(event, Mapping):
        at, what = event.get("at"), event.get("event", "")
    elif isinstance(event, list | tuple) and len(event) == 2:
        at, what = event
    else:
        at, what = None, event
    when = time.strftime("%Y-%m-%d %H:%M:%S  ", time.localtime(at)) if isinstance(at, int | float) else ""
    return when + clean(what)


def _total(files: int | Mapping[str, int]) -> int:
    return files if isinstance(files, int) else sum(files.values())


def finding(found: Finding) -> RenderableType:
    """A line of `ingestd doctor`, and below it what to type."""
    style = {"ok": "green", "warning": "yellow", "wrong": "red"}[found.state]
    text = Text(overflow="fold").append(f"{clean_line(found.check)}: ", style="bold")
    text.append(clean_line(found.text))
    parts: list[RenderableType] = [text]
    if found.command:
        parts.append(Text(f"try: {clean_line(found.command)}", style="cyan", overflow="fold"))
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, width=len("warning"))
    table.add_column(overflow="fold")
    table.add_row(Text(found.state, style=style), Group(*parts))
    narrow = Text(f"{found.state} ", style=style, overflow="fold").append_text(text)
    return layout.Either(table, Group(narrow, *(Padding.indent(part, 2) for part in parts[1:])))
