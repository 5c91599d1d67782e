"""One run of `verbatim bundle`, from its options to its last line; it continues an interrupted one."""

from __future__ import annotations

import errno
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from bundle.contents import Contents, check_space, gather, model_bytes, plan
from bundle.keys import MOST_KEYS, Passphrase, allowed_signer, raw_public, read_private_key
from bundle.models import checksums, read_configuration, refuse_multimodal
from bundle.order import (
    ROOT,
    Device,
    Order,
    check_gpu,
    check_python,
    load_profile,
    name_of,
    parse_have,
    parse_size,
    version_of,
)
from bundle.seal import clear, seal, sign
from bundle.wheels import Wheel, sha256_of
from sealed import manifest as manifests
from sealed import payload
from sealed.failures import BundleError
from sealed.manifest import Manifest
from sealed.payload import Report
from sealed.signature import key_id, read_sealed
from server.errors import ConfigurationError

WORK = ".work"
DOCUMENTS = "server/page/documents"  # the site that `make docs` builds; the wheel contains it if it exists
SHOWN = 8  # the number of large packages that are listed

Bars = Callable[
    [], AbstractContextManager[Callable[[str, int, int], None]]
]  # (task, bytes done, bytes in total)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command."""

    config: Path | None
    device: Device
    python: str
    out: Path
    profile: str
    part_size: str | None
    sign: Sequence[Path]
    have: Sequence[str]
    gpu: str
    ray: bool
    dry_run: bool


def run(options: Options, passphrase: Passphrase, environ: Mapping[str, str], bars: Bars) -> None:
    """Make the bundle. Raises ConfigurationError for what the user can mend."""
    keys = [read_private_key(path, passphrase) for path in options.sign]
    if len(keys) > MOST_KEYS:
        raise ConfigurationError(f"--sign: at most {MOST_KEYS} keys.")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    order = read_order(options, environ, console)
    if options.dry_run:
        with tempfile.TemporaryDirectory() as work:
            weigh(order, look_up(order, Path(work), console), console)
    else:
        with disk_errors(order.out):
            make(order, keys, console, bars)
        for key in keys:
            console.print(f"allowed_signers: {allowed_signer(key)}")


def read_order(options: Options, environ: Mapping[str, str], console: Console) -> Order:
    """Everything that is known before the package index is asked."""
    check_python(options.python)
    part_bytes = parse_size(options.part_size) if options.part_size else 0
    profile = load_profile(options.profile, options.device, ROOT / "requirements")
    check_gpu(options.gpu, options.device, profile)
    have = parse_have(options.have)
    configuration = read_configuration(options.config, environ)
    if profile.packages:
        refuse_multimodal(configuration)
    console.print("reading the models")
    sums = {
        place: checksums(directory, configuration.digests[place], sha256_of)
        for place, directory in configuration.directories.items()
    }
    return Order(
        device=options.device, python=options.python, out=options.out, profile=profile,
        configuration=configuration, checksums=sums, have=have, gpu=options.gpu, part_bytes=part_bytes,
        ray=options.ray,
    )  # fmt: skip


def make(order: Order, keys: Sequence[Ed25519PrivateKey], console: Console, bars: Bars) -> None:
    started = time.monotonic()
    with bars() as report:
        complete = is_complete(order, partial(report, "checking the existing files"))
    if complete:
        changed = sign(order.out, manifests.read_bytes(order.out), keys)
        console.print(f"{order.out} is complete: {'signed anew' if changed else 'nothing to do'}")
        return
    with work_folder(order) as work:
        contents = look_up(order, work, console)
        weigh(order, contents, console)
        check_space(order, contents)
        with bars() as report:
            gather(order, contents, work, partial(report, "fetching"))
            manifest = seal(order, created(work), contents, keys, work, partial(report, "writing the bundle"))
    clear(order.out, manifest)
    signed = f"signed by {', '.join(key_id(raw_public(key)) for key in keys)}" if keys else "not signed"
    console.print(f"{describe(manifest)}, {signed}, in {time.monotonic() - started:.0f} s: {order.out}")


def look_up(order: Order, work: Path, console: Console) -> Contents:
    """Look up the wheels, which takes pip half a minute; a terminal shows that it goes on."""
    console.print("looking up the packages")
    with console.status("pip asks its index for each of them"):
        return plan(order, work)


def describe(manifest: Manifest) -> str:
    parts = f" in {len(manifest.parts)} parts" if manifest.parts else ""
    return f"{len(manifest.files)} files, {megabytes(manifest.num_bytes).strip()}{parts}"


# ---- the folder --------------------------------------------------------------------------------------------


def is_complete(order: Order, report: Report) -> bool:
    """Whether this very bundle is there and undamaged, whoever signed it."""
    try:
        manifest = manifests.parse(read_sealed(order.out)[0])
    except BundleError:
        return False
    return manifest.recipe == order.recipe and not payload.check(order.out, manifest, report)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns errors of a full or read-only disk into one paragraph."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigurationError(
                f"the disk of {out} is full. Free some space and run the same command again; it continues"
                " where it stopped."
            ) from error
        raise ConfigurationError(
            f"cannot write {error.filename or out}: {error.strerror}. Name another directory with --out."
        ) from error


@contextmanager
def work_folder(order: Order) -> Iterator[Path]:
    """A folder inside the bundle's for unfinished files; removed at the end. Raises ConfigurationError if the
    bundle's folder has other contents."""
    out, recipe = order.out, order.recipe
    work = out / WORK
    note, before = work / "recipe", _made_before(out)
    out.mkdir(parents=True, exist_ok=True)
    ours = note.read_text() if note.is_file() else before.recipe if before else ""
    others = sorted(path.name for path in out.iterdir() if path.name != WORK)
    if others and ours != recipe:
        is_bundle = ours or (out / manifests.MANIFEST).exists()  # anything else may be of use to somebody
        raise ConfigurationError(
            f"{out} contains a bundle with other options or of another version. Name an empty directory with"
            " --out, or remove this one first."
            if is_bundle
            else f"{out} contains something else ({others[0]}). Name an empty directory with --out."
        )
    if ours != recipe:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(exist_ok=True)
    note.write_text(recipe)
    if before and before.recipe == recipe:
        (work / "created").write_text(before.created)
    yield work
    shutil.rmtree(work)


def _made_before(out: Path) -> Manifest | None:
    try:
        return manifests.parse(manifests.read_bytes(out))
    except BundleError:
        return None


def created(work: Path) -> str:
    """When the first run for this bundle began; later runs keep it."""
    note = work / "created"
    if not note.is_file():
        note.write_text(datetime.now(UTC).isoformat(timespec="seconds"))
    return note.read_text()


# ---- what it will weigh ------------------------------------------------------------------------------------


def weigh(order: Order, contents: Contents, console: Console) -> None:
    """Before any download, print the contents by size, what is left out, and what is unknown."""
    wheels, models = contents.wheels, model_bytes(order)
    total = sum(wheel.size for wheel in wheels) + models
    for wheel in largest(wheels):
        reasons = "; ".join(rule.reason for rule in order.rules(wheel.name))
        less = f", less {reasons}" if reasons else ""
        console.print(f"{megabytes(wheel.size)}  {wheel.name} {wheel.version}{less}")
    if rest := len(wheels) - len(largest(wheels)):
        others = sum(wheel.size for wheel in wheels) - sum(wheel.size for wheel in largest(wheels))
        console.print(f"{megabytes(others)}  {rest} more packages")
    console.print(f"{megabytes(models)}  {', '.join(order.configuration.directories)}")
    said = f"{order.device}, Python {order.python}, profile {order.profile.name}"
    said += ", with Ray" if order.ray else ""
    console.print(f"{megabytes(total)}  in total: {said}")
    for line in remarks(order, contents, total):
        console.print(line)


def largest(wheels: Iterable[Wheel]) -> list[Wheel]:
    return sorted(wheels, key=lambda wheel: -wheel.size)[:SHOWN]


def remarks(order: Order, contents: Contents, total: int) -> Iterator[str]:
    if not (ROOT / DOCUMENTS).is_dir():
        yield "the documents are left out; to include them, for /docs/ of the server, run `make docs` first"
    if order.profile.packages:
        yield saved(order, contents, total)
    if there := order.there:
        yield f"provided by the target: {', '.join((f'{name} {version}' for name, version in there.items()))}"
    pinned = {name_of(pin): version_of(pin) for pin in order.pins}
    for name, version in there.items():
        if version.split("+")[0] != pinned[name].split("+")[0]:
            yield f"warning: {name} {version} of the target replaces {pinned[name]}, which was tested"
    if others := [f"{one.name} {one.version}" for one in contents.wheels if one.version != pinned[one.name]]:
        yield (
            f"warning: not in requirements/, so only the package index vouches for these: {', '.join(others)}"
        )
    if unknown := [wheel.name for wheel in contents.wheels if not wheel.size]:
        yield f"not counted, because the package index does not state their size: {', '.join(unknown)}"
    if order.part_bytes:
        parts = math.ceil(total / order.part_bytes)
        yield f"in about {parts} parts of at most {megabytes(order.part_bytes).strip()}"


def saved(order: Order, contents: Contents, total: int) -> str:
    """What the profile leaves out, compared with the full profile."""
    left = f"the profile leaves out {len(order.profile.packages)} packages"
    if not contents.excluded_bytes:
        return f"{left}; their sizes for this target are not known"
    full = megabytes(total + contents.excluded_bytes).strip()
    return f"{left}, {megabytes(contents.excluded_bytes).strip()}; with profile full it would be {full}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:9.1f} MB"
