"""`verbatim bundle`, `verbatim bundle keygen` and `verbatim verify`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from bundle.bars import bars
from bundle.site import manifest as manifests
from bundle.site import payload
from bundle.site.installation import check_installation, find_version
from bundle.site.payload import Problems
from bundle.site.signature import PublicKey, read_public_key, read_sealed, require_signature
from server.errors import BundleError, Failure

THIS_PYTHON = ".".join(platform.python_version_tuple()[:2])

HELP = """Make a bundle for a machine without a network.

Packages, models, configuration, installer and SBOM, under one manifest (docs/airgap.md). Run it again after
an interruption, or to repair what was damaged: it does only what is missing.
"""

bundle = typer.Typer(
    help=HELP,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)


@contextmanager
def one_paragraph() -> Iterator[None]:
    """Exit code 1 for a bundle that is not as it should be, 2 for anything else that can be mended."""
    try:
        yield
    except Failure as failure:
        print(f"verbatim: {failure.message}", file=sys.stderr)
        raise typer.Exit(1 if isinstance(failure, BundleError) else 2) from None


@bundle.callback()
def make(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Its models and itself go into the bundle; found as `serve` finds it.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What the target computes on.")] = "cuda",
    python: Annotated[
        str, typer.Option(help="The target's Python.", show_default="this one's")
    ] = THIS_PYTHON,
    out: Annotated[Path, typer.Option(help="Directory of the bundle.")] = Path("verbatim-bundle"),
    profile: Annotated[
        Literal["full", "text"], typer.Option(help="text leaves out what text does not need.")
    ] = "full",
    part_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Cut into parts of at most this, such as 60MiB.")
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
        typer.Option(metavar="X.Y", help="With text: nothing for other compute capabilities than this one."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would weigh.")] = False,
) -> None:
    if context.invoked_subcommand:
        return
    with one_paragraph():
        # Late: it needs the checkout and packages that an installation at a site does without.
        from bundle.run import run

        run(
            config=config, device=device, python=python, out=out, profile=profile, part_size=part_size,
            sign=sign or [], have=have or [], gpu=gpu, dry_run=dry_run, environ=os.environ,
        )  # fmt: skip


@bundle.command()
def keygen(
    name: Annotated[Path, typer.Argument(help="NAME.key is the private key, NAME.pub the public one.")],
) -> None:
    """Make a pair of Ed25519 keys to sign bundles with.

    The private key stays where bundles are made. The public one goes to the sites, on another way than
    bundles.
    """
    with one_paragraph():
        from bundle.signing import make_keys

        private, public, key_id = make_keys(name)
        print(f"{private}: private, keep it; {public}: public, its id is {key_id}")


def verify(
    directory: Annotated[Path, typer.Argument(help="A bundle, or where one is installed.")],
    require_signature: Annotated[
        list[Path] | None,
        typer.Option(metavar="PUBKEY", help="Fail without a signature of this key, or of one of them."),
    ] = None,
) -> None:
    """Check every byte of a bundle or of an installation.

    What is missing, altered or added is named. Exit code 0 when all is well, 1 when it is not.
    """
    with one_paragraph():
        keys = [read_public_key(path) for path in require_signature or []]
        what, problems = look(directory, keys)
        for name, problem in problems.items():
            print(f"{name}: {problem}")
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
