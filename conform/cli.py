"""`verbatim conform`: tests a completions server of any make against every rule of the contract."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conform import difference, report
from conform.every import select
from conform.runner import Outcome, Result, Run, connect, planned, run
from conform.subject.budget import MOST_RETRIES
from conform.subject.client import Client, trusted
from conform.subject.ends import ConformError
from conform.subject.rule import Rule

UNIX = "unix:"
NO_KEY = "none"  # sent if no key is given: servers without keys accept any


def conform(
    url: Annotated[
        str,
        typer.Argument(
            envvar="VERBATIM_URL", help="The server, a base URL with its path, such as …/v1, or unix:PATH."
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option(
            envvar="VERBATIM_API_KEY", help="API key, sent as the bearer token.", show_default=False
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            "--cert",
            envvar="VERBATIM_CLIENT_CERT",
            help="Client certificate to show the server, PEM.",
            show_default=False,
        ),
    ] = None,
    cert_key: Annotated[
        Path | None,
        typer.Option(
            envvar="VERBATIM_CLIENT_KEY",
            help="Private key of --cert, PEM. Default: in the same file.",
            show_default=False,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            envvar="VERBATIM_CA",
            help="CA certificates to trust, PEM, instead of the system's.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(envvar="VERBATIM_MODEL", help="Model id. Default: the first that the server lists."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only these rules: a category, an id or a glob of ids; may be repeated."
        ),
    ] = None,
    profile: Annotated[
        Literal["hosted", "openai", "vllm"],
        typer.Option(help="API whose rules are tested, where APIs differ."),
    ] = "hosted",
    against: Annotated[
        str | None, typer.Option(metavar="URL", help="Test a second server too, and show which rules differ.")
    ] = None,
    against_key: Annotated[
        str | None,
        typer.Option(envvar="VERBATIM_AGAINST_KEY", help="API key of the second server.", show_default=False),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the results as Markdown.")] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Also send malformed and huge bodies, and 64 requests at once.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one answer may take.")] = 60,
) -> None:
    """Test a server of any make against the rules of the contract.

    It first says how many requests and tokens it will use at most. Exit code 0: no rule failed; a rule may
    have passed, differ by profile, or have been skipped. 1: a rule failed. 2: the server could not be tested.
    """
    console = Console(highlight=False)
    try:
        rules = select(only or [], hard)
        put = partial(
            _put, console, tls=(ca, cert, cert_key), profile=profile, rules=rules, timeout_s=timeout
        )
        first = put(url, key, model)
        second = put(against, against_key, None) if against else None
        _write(first, second, json, junit, markdown)
    except ConformError as error:
        print(f"verbatim: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if second:
        console.print(f"\nRules with another result there: {len(difference.differences(first, second))}")
        console.print(difference.table(first, second))
    if not all(one.holds for one in (first, second) if one):
        raise typer.Exit(1)


def _put(
    console: Console,
    url: str,
    key: str | None,
    model: str | None,
    *,
    tls: tuple[Path | None, ...],
    profile: str,
    rules: Sequence[Rule],
    timeout_s: float,
) -> Run:
    """Test one server: print the largest possible cost, run the rules, print the results.

    tls: the files of --ca, --cert and --cert-key. On a Unix socket, any of them means TLS.
    """
    context = trusted(*(str(file or "") for file in tls))
    console.print(
        f"{len(rules)} rules, at most {planned(rules)} (and up to {MOST_RETRIES} requests more after a 429)",
        soft_wrap=True,
    )

    socket_path = url.removeprefix(UNIX) if url.startswith(UNIX) else ""
    if socket_path:
        url = "https://localhost" if any(tls) else "http://localhost"

    def connecting(base: str) -> Client:
        options: dict[str, Any] = {"timeout_s": timeout_s, "socket_path": socket_path, "context": context}
        return Client(base, key or NO_KEY, **options, waits=console.print)

    subject = connect(url, profile, model, key, connecting)
    try:
        console.print(f"{subject.model} at {subject.client.base}, by the rules of {profile}", soft_wrap=True)
        with _progress(console, len(rules)) as tell:
            done = run(subject, rules, tell)
    finally:
        subject.client.close()
    console.print(report.totals(done))
    console.print(report.summary(done), soft_wrap=True)
    return done


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Result], None]]:
    """A progress bar on a terminal, and a line for each rule that did not pass."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("rules", total=total)

        def tell(result: Result) -> None:
            progress.update(task, advance=1, description=result.rule.category)
            if result.outcome is not Outcome.PASSED:
                progress.console.print(report.line(result), soft_wrap=True)

        yield tell


def _write(
    first: Run, second: Run | None, json: Path | None, junit: Path | None, markdown: Path | None
) -> None:
    """Write the files that were asked for. The names of the second server's files end in -against."""
    for file, render in ((json, report.as_json), (junit, report.as_junit), (markdown, report.as_markdown)):
        if file is None:
            continue
        text = render(first)
        if second and file is markdown:
            text += "\n" + "\n".join(difference.as_markdown(first, second)) + "\n"
        _save(file, text)
        if second:
            _save(file.with_stem(f"{file.stem}-against"), render(second))


def _save(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConformError(f"cannot write {file}: {error}") from error
