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
    "can only be made in a checkout of the project, which has the lists of packages: clone it, run"
    " `make setup` there, then .venv/bin/verbatim."
)
THIS_PYTHON = ".".join(platform.python_version_tuple()[:2])

HELP = """Make a bundle for a machine without a network.

A bundle has packages, models, configuration, installer and SBOM, all listed in one manifest (docs/airgap.md).
After an interruption, or to repair damaged files, run the command again: it only makes what is missing.
"""

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File whose first line is the passphrase of the keys. Default: VERBATIM_PASSPHRASE, else a"
        " prompt."
    ),
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
        Path | None,
        typer.Option(
            help="Configuration to bundle, with its models. Default: the one that `serve` would take."
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="What the target machine computes on.")
    ] = "cuda",
    python: Annotated[
        str, typer.Option(help="Python version of the target machine.", show_default="this one's")
    ] = THIS_PYTHON,
    out: Annotated[Path, typer.Option(help="Directory of the bundle.")] = Path("verbatim-bundle"),
    profile: Annotated[
        Literal["full", "text"], typer.Option(help="`text` leaves out packages that text models do not need.")
    ] = "full",
    part_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Split the bundle into parts of at most this size, such as 60MiB."),
    ] = None,
    sign: Annotated[
        list[Path] | None, typer.Option(metavar="KEY", help="Sign with this private key; may be repeated.")
    ] = None,
    have: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HAVE",
            help="Packages that the target has: torch==X,triton==Y, or a file with its `pip list`.",
        ),
    ] = None,
    gpu: Annotated[
        str,
        typer.Option(
            metavar="X.Y",
            help="With --profile text: attention kernels for this compute capability only, such as 9.0.",
        ),
    ] = "",
    ray: Annotated[
        bool, typer.Option("--ray", help="Include Ray, for the nodes of a cluster (docs/cluster.md).")
    ] = False,
    passphrase_file: PassphraseFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the size of the bundle.")] = False,
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
    name: Annotated[
        Path,
        typer.Argument(help="Writes NAME.key (the private key), NAME.pub and NAME.allowed (the public key)."),
    ],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the private key with a passphrase.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a pair of Ed25519 keys to sign bundles with.

    The private key stays where bundles are made. Bring the public key to the sites, but not together with a
    bundle: NAME.pub is for install.sh and openssl, NAME.allowed for ssh-keygen.
    """
    with packages():
        from bundle.keys import make_keys

    secret = read_passphrase(passphrase_file, name, new=True) if passphrase or passphrase_file else ""
    (private, public, allowed), key_id = make_keys(name, secret)
    print(f"private key: {private} (keep it secret); public key: {public} and {allowed}, id {key_id}")
    print(f"{allowed} contains: {allowed.read_text().strip()}")


@contextmanager
def packages() -> Iterator[None]:
    """Around imports of packages that an installation at a site lacks. Raises ConfigurationError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the Python package {error.name} is missing: a bundle or a key {IN_A_CHECKOUT}"
        ) from error


def read_passphrase(file: Path | None, key: Path, *, new: bool = False) -> str:
    """From the file, else from VERBATIM_PASSPHRASE, else from the terminal. Never empty.

    Raises ConfigurationError.
    """
    try:
        found = file.read_text().partition("\n")[0] if file else os.environ.get("VERBATIM_PASSPHRASE", "")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--passphrase-file: cannot read {file}: {error}.") from error
    if not found and not file and sys.stdin.isatty():
        found = typer.prompt(f"Passphrase of {key}", hide_input=True, confirmation_prompt=new, err=True)
    if not found:
        raise ConfigurationError(
            f"{key} needs a passphrase, and none was given: run this on a terminal, set VERBATIM_PASSPHRASE,"
            " or name a file with --passphrase-file."
        )
    return found


def verify(
    directory: Annotated[Path, typer.Argument(help="Directory of a bundle or of an installation.")],
    require_signature: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PUBKEY",
            help="Fail without a signature by this key. If repeated, one of the keys suffices.",
        ),
    ] = None,
) -> None:
    """Check every byte of a bundle or of an installation.

    It names each file that is missing, altered or added. Exit code 0: there is none. 1: there is one.
    """
    keys = [read_public_key(path) for path in require_signature or []]
    what, problems = look(directory, keys)
    for name, problem in problems.items():
        print(f"{shown(name)}: {problem}")
    if problems:
        raise BundleError(
            f"{what} cannot be trusted: {len(problems)} of its files are missing, altered or added."
        )
    print(f"whole: {what}")


def look(directory: Path, keys: list[PublicKey]) -> tuple[str, Problems]:
    """(name of what was found, its problems by file)"""
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
    """Progress bars on standard error, one for each task.

    Yields a callback: (name of the task, bytes done, bytes in all). Its first call for a task adds the bar.
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
