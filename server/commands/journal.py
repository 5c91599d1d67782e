"""`verbatim journal`: the records of requests, filtered, and summed by day, key and model."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from server.commands.progress import progress
from server.config.loading import load_settings
from server.errors import ConfigurationError
from server.journal.entry import Entry, encode
from server.journal.filters import Filter, time_of
from server.journal.reading import Reader
from server.journal.usage import COLUMNS, usage_of

SHOW_AFTER_S = 2.0  # reading that takes longer shows a progress bar
STREAM_ROWS = 1000  # rows of one table; its columns are as wide as these rows need

Where = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="PATH", help="The journal's folder, or one file. Default: the configuration's."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file. Default: VERBATIM_CONFIG, else ./models.yaml."),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Only requests since: 2026-11-27, 2026-11-27T13:05 (UTC); 2h or 7d: that long ago.",
    ),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only requests before.")]
Key = Annotated[str, typer.Option(metavar="NAME", help="Only requests of the API key with this name.")]
Model = Annotated[str, typer.Option(metavar="ID", help="Only requests to this model or adapter.")]
Status = Annotated[
    str, typer.Option(metavar="STATUS", help="Only requests with this status: 429, 4xx, 5xx, ok or error.")
]
Finish = Annotated[
    str,
    typer.Option(
        metavar="REASON",
        help="Only requests with a candidate that ended so: stop, length, given_up or cut_off.",
    ),
]
Id = Annotated[str, typer.Option("--id", metavar="ID", help="Only the request whose id begins so.")]
Trace = Annotated[
    str, typer.Option("--trace", metavar="ID", help="Only the request whose trace id begins so.")
]
Faults = Annotated[bool, typer.Option("--faults", help="Only requests during which an engine failed.")]

journal = typer.Typer(add_completion=False, rich_markup_mode=None)


@journal.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    where: Where = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    key: Key = "",
    model: Model = "",
    status: Status = "",
    finish: Finish = "",
    request_id: Id = "",
    trace: Trace = "",
    faults: Faults = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the records unchanged, one line of JSON each.")
    ] = False,
) -> None:
    """Show the requests that the journal has recorded, oldest first (docs/journal.md)."""
    if context.invoked_subcommand is not None:
        return
    wanted = Filter(
        *(
            time_of(since, "--since"),
            time_of(until, "--until"),
            key,
            model,
            status,
            finish,
            request_id,
            faults,
            trace,
        )
    )
    with records(where, config, wanted) as entries:
        if as_json:
            for entry in entries:
                sys.stdout.buffer.write(encode(entry) + b"\n")
        else:
            _print(entries)


@journal.command()
def usage(
    where: Where = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    key: Key = "",
    model: Model = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")] = False,
) -> None:
    """Sum requests and tokens by day (UTC), key and model, as the replies' `usage` counts them.

    The tokens of a prompt count once. Those of every candidate count, also of candidates of best_of that were
    not returned. Tokens generated for a request that failed, or whose client left, count too.
    """
    wanted = Filter(time_of(since, "--since"), time_of(until, "--until"), key, model)
    with records(where, config, wanted) as entries:
        sums = usage_of(entries)
    rows = [(*place, *map(str, total)) for place, total in sums.items()]
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
        return
    table = Table(*(name.replace("_", " ") for name in COLUMNS[:3]), box=None)
    for name in COLUMNS[3:]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


@contextmanager
def records(where: Path | None, config: Path | None, wanted: Filter) -> Iterator[Iterator[Entry]]:
    """The records that pass the filter. Shows a progress bar if reading takes longer than SHOW_AFTER_S."""
    began, bar = time.monotonic(), None
    shown: Progress = progress()

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - began > SHOW_AFTER_S:
            shown.start()
            bar = shown.add_task("reading")
        if bar is not None:
            shown.update(bar, completed=done, total=total)

    reader = Reader(path_of(where, config), wanted.since, report)
    try:
        yield (entry for entry in reader if wanted.takes(entry))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        if bar is not None:
            shown.stop()
    if reader.num_damaged:
        print(f"verbatim: ignored lines that are not records: {reader.num_damaged}", file=sys.stderr)


def path_of(where: Path | None, config: Path | None) -> Path:
    """Raises ConfigurationError where nothing says it."""
    if where is not None:
        return where
    settings = load_settings(config, {}, os.environ)
    if settings.journal is None:
        raise ConfigurationError("the configuration has no journal; name one with --from PATH.")
    return settings.journal.path


def _print(entries: Iterator[Entry]) -> None:
    """Print tables of STREAM_ROWS rows, so that no more rows than that are in memory."""
    rows: list[Entry] = []
    for entry in entries:
        rows.append(entry)
        if len(rows) == STREAM_ROWS:
            _print_rows(rows)
            rows = []
    _print_rows(rows)


def _print_rows(entries: list[Entry]) -> None:
    table = Table("time", "key", "model", "status", "finish", box=None)
    for name in ("prompt", "completion", "first s", "total s"):
        table.add_column(name, justify="right")
    table.add_column("faults", justify="right")
    table.add_column("id")
    for one in entries:
        reasons = dict.fromkeys(candidate.finish or "-" for candidate in one.candidates)
        table.add_row(
            *(one.time[:-1].replace("T", " "), one.key, one.adapter or one.model),
            f"{one.status} {one.reason}".strip(),
            ",".join(reasons),
            *(str(one.prompt_tokens), str(one.completion_tokens)),
            "" if one.first_s is None else f"{one.first_s:.3f}",
            f"{one.total_s:.3f}",
            *(str(len(one.faults) or ""), one.id),
        )
    _console().print(table)


def _console() -> Console:
    """Into a pipe or file, lines are not wrapped."""
    wide = None if sys.stdout.isatty() else 10_000
    return Console(highlight=False, markup=False, width=wide, soft_wrap=True)
