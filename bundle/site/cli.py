"""The options of install.sh."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
import textwrap
import time
from pathlib import Path

from bundle.site.console import Console
from bundle.site.install import check_bundle, install
from sealed import installation
from sealed.failures import BundleError, SealedFailure
from sealed.signature import read_public_key

PREFIX = "/opt/verbatim"
HOW = """Installs Verbatim from the folder of this script, without a network.

It checks every digest before it installs anything. It is safe to run it twice, and to run it again after an
interruption.
"""


def main() -> None:
    os.umask(0o022)  # the server may run as somebody else
    console = Console()
    try:
        run(options(), console)
    except SealedFailure as failure:
        first, *lines = failure.message.split("\n")
        console.say()
        sys.stderr.write("\n".join([*_wrapped(f"install.sh: {first}"), *lines]) + "\n")
        sys.exit(1 if isinstance(failure, BundleError) else 2)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"{error.filename}: {error.strerror}"
        console.say()
        sys.stderr.write(
            f"install.sh: {what}. What was installed before is unchanged. Mend this and run it again.\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run the same command to start the installation again")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="install.sh", description=HOW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prefix", metavar="DIR", default=PREFIX, help=f"where to install; default {PREFIX}")
    parser.add_argument("--python", metavar="PYTHON", help="Python interpreter to install for")
    parser.add_argument(
        "--require-signature", metavar="PUBKEY", action="append", default=[],
        help="refuse a bundle without a signature by this key; if repeated, one of the keys suffices",
    )  # fmt: skip
    parser.add_argument(
        "--allow-older", action="store_true", help="install a bundle that is older than the current version"
    )
    parser.add_argument("--check", action="store_true", help="check the bundle and install nothing")
    parser.add_argument(
        "--rollback", action="store_true", help="go back to the version before the current one"
    )
    parser.add_argument("--bundle", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(chosen: argparse.Namespace, console: Console) -> None:
    bundle, prefix = Path(chosen.bundle), Path(chosen.prefix).expanduser().absolute()
    keys = [read_public_key(Path(name)) for name in chosen.require_signature]
    if chosen.rollback:
        with installation.only_one(prefix):
            version = installation.roll_back(prefix)
        console.say(f"{prefix / installation.CURRENT} is {version.name} again. Restart the server.")
    elif chosen.check:
        manifest = check_bundle(bundle, keys, console)
        console.say(f"whole: {len(manifest.files)} files, {manifest.num_bytes / 1e6:.0f} MB")
    else:
        version = install(bundle, prefix, keys, chosen.allow_older, console)
        console.say(farewell(version, prefix, console))


def farewell(version: Path, prefix: Path, console: Console) -> str:
    command = shlex.quote(str(prefix / installation.CURRENT / "bin/verbatim"))
    keys, place = shlex.quote(str(prefix / "api-keys.txt")), shlex.quote(str(prefix))
    return f"""
{version.name} is installed in {prefix} ({time.monotonic() - console.started_at:.0f} s). Start it with

    {command} serve

It listens on this machine alone. To let others use it, make a key first:

    {command} keys new NAME --file {keys}
    {command} serve --host 0.0.0.0 --api-keys-file {keys}

To check the installation at any time: `{command} verify {place}`."""


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110, break_long_words=False, break_on_hyphens=False)
