"""`verbatim bundle`, `verbatim bundle keygen` and `verbatim verify`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sealed import manifest as manifests
from sealed import payload
from sealed.failures import BundleError
from sealed.installation import check_installation, find_version
from sealed.manifest import shown
from sealed.payload import Problems
from sealed.signature import PublicKey, read_public_key, read_sealed, require_signature
from server.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
IN_A_CHECKOUT = (
    "is made in a checkout of the project, where its lists of packages are: clone it, `make setup`, and run"
    " .venv/bin/verbatim there."
)
THIS_PYTHON = ".".join(platform.python_version_tuple()[:2])

HELP = """Make a bundle for a machine without a network.

Packages, models, configuration, installer and SBOM, under one manifest (docs/airgap.md). Run it again after
an interruption, or to repair what was damaged: it does only what is missing.
"""

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="The passphrase is its first line; default: VERBATIM_PASSPHRASE, or a prompt."),
]

bundle = typer.Typer(
    help=HELP,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)


@bundle.callback()
def make(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The configuration to bundle, with its models; found as by `serve`.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="The target's device.")] = "cuda",
    python: Annotated[
        str, typer.Option(help="The target's Python.", show_default="this one's")
    ] = THIS_PYTHON,
    out: Annotated[Path, typer.Option(help="Directory of the bundle.")] = Path("verbatim-bundle"),
    profile: Annotated[Literal["full", "text"], typer.Option(help="text: only what text needs.")] = "full",
    part_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Cut the bundle into parts of at most this, such as 60MiB."),
    ] = None,
    sign: Annotated[
        list[Path] | None, typer.Option(metavar="KEY", help="Sign with this private key; may be repeated.")
    ] = None,
    have: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HAVE", help="What the target has: torch==X,triton==Y or a file with its pip list."
        ),
    ] = None,
    gpu: Annotated[
        str,
        typer.Option(metavar="X.Y", help="With text: leave out all compute capabilities but this."),
    ] = "",
    ray: Annotated[
        bool, typer.Option("--ray", help="Include Ray, for nodes of a cluster (docs/cluster.md).")
    ] = False,
    passphrase_file: PassphraseFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show how large the bundle would be.")
    ] = False,
) -> None:
    if context.invoked_subcommand:
        return
    if not (ROOT / "requirements/cpu.txt").is_file():
        raise ConfigurationError(f"a bundle {IN_A_CHECKOUT}")
    with packages():
        from bundle.make import Options, run

    options = Options(
        config=config, device=device, python=python, out=out, profile=profile, part_size=part_size,
        sign=sign or [], have=have or [], gpu=gpu, ray=ray, dry_run=dry_run,
    )  # fmt: skip
    run(options, partial(read_passphrase, passphrase_file), os.environ, bars)


@bundle.command()
def keygen(
    name: Annotated[Path, typer.Argument(help="NAME.key is the private key; NAME.pub, NAME.allowed public.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the private key with a passphrase.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a pair of Ed25519 keys to sign bundles with.

    The private key stays where bundles are made. The public one goes to the sites, by another way than
    bundles: as NAME.pub for install.sh and openssl, as NAME.allowed for ssh-keygen.
    """
    with packages():
        from bundle.keys import make_keys

    secret = read_passphrase(passphrase_file, name, new=True) if passphrase or passphrase_file else ""
    (private, public, allowed), key_id = make_keys(name, secret)
    print(f"{private}: private, keep it; {public} and {allowed}: public, the id is {key_id}")
    print(f"{allowed} says: {allowed.read_text().strip()}")


@contextmanager
def packages() -> Iterator[None]:
    """Around late imports: of what an installation at a site does without. Raises ConfigurationError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: a bundle, or a key, {IN_A_CHECKOUT}") from error


def read_passphrase(file: Path | None, key: Path, *, new: bool = False) -> str:
    """Out of the file, else VERBATIM_PASSPHRASE, else from the terminal. Never empty."""
    try:
        found = file.read_text().partition("\n")[0] if file else os.environ.get("VERBATIM_PASSPHRASE", "")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--passphrase-file: cannot read {file}: {error}.") from error
    if not found and not file and sys.stdin.isatty():
        found = typer.prompt(f"Passphrase of {key}", hide_input=True, confirmation_prompt=new, err=True)
    if not found:
        raise ConfigurationError(
            f"{key} needs a passphrase, and there is none: run this on a terminal, set VERBATIM_PASSPHRASE,"
            " or name a file with --passphrase-file."
        )
    return found


def verify(
    directory: Annotated[Path, typer.Argument(help="A bundle, or where one is installed.")],
    require_signature: Annotated[
        list[Path] | None,
        typer.Option(metavar="PUBKEY", help="Require a signature of this key (of one, if repeated)."),
    ] = None,
) -> None:
    """Check every byte of a bundle or of an installation.

    It names what is missing, altered or added. Exit code 0 when all is well, 1 when it is not.
    """
    keys = [read_public_key(path) for path in require_signature or []]
    what, problems = look(directory, keys)
    for name, problem in problems.items():
        print(f"{shown(name)}: {problem}")
    if problems:
        raise BundleError(
            f"{len(problems)} of its files are not as they should be; {what} cannot be trusted."
        )
    print(f"whole: {what}")


def look(directory: Path, keys: list[PublicKey]) -> tuple[str, Problems]:
    """(what there is, what is wrong with it)"""
    with bars() as report:
        version = find_version(directory)
        if version:
            return f"the installation {version}", check_installation(
                version, keys, partial(report, "checking")
            )
        data, text = read_sealed(directory)
        if keys:
            require_signature(data, text, keys)
        return f"the bundle {directory}", payload.check(
            directory, manifests.parse(data), partial(report, "checking")
        )


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress on standard error: a bar for each thing that is done, made when it is first heard of.

    Yields what is to be called with it, the bytes so far and the bytes in all.
    """
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report
