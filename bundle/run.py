"""`verbatim bundle` from its options to its last line."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from bundle.bars import bars
from bundle.contents import check_space, gather, plan
from bundle.have import parse_have
from bundle.make import seal, sign_anew
from bundle.models import checksums, read_configuration, refuse_senses
from bundle.order import ROOT, Device, Order, check_checkout, check_gpu, check_python
from bundle.profile import load_profile
from bundle.sealing import parse_size
from bundle.signing import raw_public, read_private_key
from bundle.site.manifest import Manifest
from bundle.site.signature import key_id
from bundle.weighing import megabytes, weigh
from bundle.wheels import sha256_of
from bundle.work import disk_errors, is_complete, work_folder


def run(
    *,
    config: Path | None,
    device: Device,
    python: str,
    out: Path,
    profile: str,
    part_size: str | None,
    sign: Sequence[Path],
    have: Sequence[str],
    gpu: str,
    dry_run: bool,
    environ: Mapping[str, str],
) -> None:
    """Raises ConfigurationError for whatever a person can mend."""
    check_checkout()
    check_python(python)
    keys = [read_private_key(path) for path in sign]
    part_bytes = parse_size(part_size) if part_size else 0
    rules = load_profile(profile, device, ROOT / "requirements")
    check_gpu(gpu, device, rules)
    there = parse_have(have)
    configuration = read_configuration(config, environ)
    if profile == "text":
        refuse_senses(configuration)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print("reading the models")
    sums = {
        place: checksums(directory, configuration.digests[place], sha256_of)
        for place, directory in configuration.directories.items()
    }
    order = Order(
        device=device, python=python, out=out, profile=rules, configuration=configuration, checksums=sums,
        have=there, gpu=gpu, part_bytes=part_bytes,
    )  # fmt: skip
    if dry_run:
        with tempfile.TemporaryDirectory() as work:
            weigh(order, plan(order, Path(work)), console)
    else:
        with disk_errors(out):
            make(order, keys, console)


def make(order: Order, keys: Sequence[Ed25519PrivateKey], console: Console) -> None:
    recipe, started = order.recipe, time.monotonic()
    with bars() as report:
        complete = is_complete(order, recipe, report)
    if complete:
        done = "signed anew" if sign_anew(order, keys) else "nothing to do"
        console.print(f"{order.out} is complete: {done}")
        return
    with work_folder(order, recipe) as work:
        console.print("looking the packages up")
        contents = plan(order, work)
        weigh(order, contents, console)
        check_space(order, contents)
        with bars() as report:
            gather(order, contents, work, report)
            manifest = seal(order, recipe, contents, keys, work, report)
    signed = f"signed by {', '.join(key_id(raw_public(key)) for key in keys)}" if keys else "not signed"
    console.print(f"{describe(manifest)}, {signed}, in {time.monotonic() - started:.0f} s: {order.out}")


def describe(manifest: Manifest) -> str:
    parts = f" in {len(manifest.parts)} parts" if manifest.parts else ""
    return f"{len(manifest.files)} files, {megabytes(manifest.num_bytes).strip()}{parts}"
