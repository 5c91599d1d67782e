"""Everything that a bundle holds but its installer and its manifest: looked up, fetched, thinned."""

from __future__ import annotations

import json
import shutil
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundle.bars import Report
from bundle.have import matching, orphans
from bundle.models import CHECKSUMS
from bundle.order import ROOT, Order, project_requirements
from bundle.plan import Wheel, load_plan, plan_wheels, save_plan
from bundle.prune import prune, removable
from bundle.sealing import Item, entry_of, write_if_new
from bundle.site import manifest as manifests
from bundle.site.manifest import Entry
from bundle.wheels import build_ours, fetch, is_whole, sha256_of
from server import __version__
from server.errors import ConfigurationError


@dataclass(slots=True)
class Contents:
    """What a bundle will hold.

    wheels: less those that the target's own make needless. excluded_bytes: of those that the profile leaves
    out, 0 when that is not known.
    """

    wheels: list[Wheel]
    excluded_bytes: int = 0
    carried: dict[str, Wheel] = field(default_factory=dict)  # by the SHA-256 of the file that is carried
    removed: dict[str, list[str]] = field(default_factory=dict)  # by package: files left out of its wheel
    items: list[Item] = field(default_factory=list)
    installed_bytes: int = 0


def plan(order: Order, work: Path) -> Contents:
    """Look the wheels up, unless that was done before. Those that the target makes needless are left out."""
    saved = work / "plan.json"
    if saved.is_file():
        wheels = load_plan(saved)
    else:
        there = order.there
        # The target's own torch need not be one that any index has.
        pins = [pin for pin in order.pins if not (pin.endswith("+cpu") and "torch" in there)]
        wanted = [matching(pin, there) for pin in pins]
        wheels = plan_wheels(wanted, order.python, work)
        save_plan(wheels, saved)
    graph = {wheel.name: wheel.requires for wheel in wheels}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = {"pip", *project_requirements(project["dependencies"])}
    gone = set(order.there) | orphans(graph, roots, set(order.there))
    excluded = weigh_excluded(order, work)
    return Contents([wheel for wheel in wheels if wheel.name not in gone], excluded)


def weigh_excluded(order: Order, work: Path) -> int:
    """What the profile saves, in bytes; 0 where not all of it is to be had for the target."""
    saved = work / "excluded.json"
    if order.excluded and not saved.is_file():
        try:
            save_plan(plan_wheels(order.excluded, order.python, work), saved)
        except ConfigurationError:
            return 0
    return sum(wheel.size for wheel in load_plan(saved)) if order.excluded else 0


def check_space(order: Order, contents: Contents) -> None:
    """Raises ConfigurationError where the bundle does not fit; parts have the wheels beside them."""
    wheels, models = sum(wheel.size for wheel in contents.wheels), model_bytes(order)
    needed = 2 * wheels + models if order.part_bytes else wheels + models
    there = sum(path.stat().st_size for path in order.out.rglob("*") if path.is_file())
    free = shutil.disk_usage(order.out).free
    if free + there < needed:
        raise ConfigurationError(
            f"the disk of {order.out} is too full: {(needed - there) / 1e6:.0f} MB are needed while the"
            " bundle"
            f" is made, and {free / 1e6:.0f} MB are free. Free some, or name another directory with --out."
        )


def model_bytes(order: Order) -> int:
    directories = order.configuration.directories
    return sum(
        (directories[place] / name).stat().st_size for place, sums in order.checksums.items() for name in sums
    )


def gather(order: Order, contents: Contents, work: Path, report: Report) -> None:
    """Everything but the installer and the manifest, each file where it can be read. Fills `contents`."""
    folder = (work if order.part_bytes else order.out) / manifests.WHEELS
    published = work / "published"  # wheels that lose files on the way
    for path in (folder, published):
        path.mkdir(parents=True, exist_ok=True)
    thinned = {wheel.name for wheel in contents.wheels if _rules(order, wheel)}
    _fetch_missing(order, contents.wheels, folder, published, thinned, work, report)
    carried = {_thin(order, wheel, folder, published, contents): wheel for wheel in contents.wheels}
    ours = build_ours(ROOT, folder, work)
    name = Wheel(
        "verbatim", __version__, ours.name, sha256_of(ours), ours.stat().st_size, (), "Apache-2.0", ""
    )
    contents.carried = {sha256_of(path): wheel for path, wheel in carried.items()}
    paths = {**carried, ours: name}
    contents.items += _requirements(work, paths)
    for path in sorted(paths):
        contents.items.append(_item(f"{manifests.WHEELS}/{path.name}", path))
        with zipfile.ZipFile(path) as archive:
            contents.installed_bytes += sum(item.file_size for item in archive.infolist())
    contents.items += _model_items(order, work)
    contents.installed_bytes += model_bytes(order)


def _rules(order: Order, wheel: Wheel) -> list[object]:
    return list(order.profile.rules_for(wheel.name, order.gpu, order.configuration.model_keys))


def _fetch_missing(
    order: Order,
    wheels: Sequence[Wheel],
    folder: Path,
    published: Path,
    thinned: set[str],
    work: Path,
    report: Report,
) -> None:
    for place, chosen in (
        (folder, [wheel for wheel in wheels if wheel.name not in thinned]),
        (published, [wheel for wheel in wheels if wheel.name in thinned]),
    ):
        missing = [wheel for wheel in chosen if not is_whole(place, wheel)]
        total = sum(wheel.size for wheel in missing)
        fetch(missing, place, order.python, work, lambda done, total=total: report("fetching", done, total))  # type: ignore[misc]


def _thin(order: Order, wheel: Wheel, folder: Path, published: Path, contents: Contents) -> Path:
    """The wheel as it will be carried."""
    rules = order.profile.rules_for(wheel.name, order.gpu, order.configuration.model_keys)
    if not rules:
        return folder / wheel.file
    contents.removed[wheel.name] = sorted(removable(published / wheel.file, rules))
    prune(published / wheel.file, contents.removed[wheel.name], folder / wheel.file)
    return folder / wheel.file


def _item(path: str, source: Path) -> Item:
    return Item(Entry(path, source.stat().st_size, sha256_of(source)), source)


def made(path: str, text: str, work: Path) -> Item:
    """A file of the payload that is written here."""
    data = text.encode()
    write_if_new(work / "made" / path, data)
    return Item(entry_of(path, data), work / "made" / path)


def _requirements(work: Path, wheels: dict[Path, Wheel]) -> list[Item]:
    """What pip installs at the site: all but pip."""
    lines = sorted(
        f"{wheel.name}=={wheel.version} --hash=sha256:{sha256_of(path)}\n"
        for path, wheel in wheels.items()
        if wheel.name != "pip"
    )
    return [made(manifests.REQUIREMENTS, "".join(lines), work)]


def _model_items(order: Order, work: Path) -> Iterator[Item]:
    yield made(manifests.CONFIGURATION, order.configuration.text, work)
    for place, sums in order.checksums.items():
        directory = order.configuration.directories[place]
        for name, digest in sums.items():
            source = directory / name
            yield Item(Entry(f"{place}/{name}", source.stat().st_size, digest), source)
        if CHECKSUMS not in sums:  # so that the server verifies the weights at each start
            yield made(f"{place}/{CHECKSUMS}", json.dumps(dict(sums), indent=2) + "\n", work)
