"""The contents of a bundle besides its installer: chosen, downloaded, reduced, each file with its digest."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import re
import shutil
import struct
import tomllib
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from bundle.models import CHECKSUMS
from bundle.order import ROOT, FileRule, Order, name_of
from bundle.wheels import Wheel, build_ours, fetch, load_plan, plan_wheels, save_plan, sha256_of
from sealed.manifest import CONFIGURATION, WHEELS, Entry
from sealed.payload import Report
from server.errors import ConfigurationError

Graph = Mapping[str, Collection[str]]  # package -> names of the packages that it requires

EPOCH = (1980, 1, 1, 0, 0, 0)
TORCHVISION_AHEAD = 15  # difference of minor versions, since 2.0 and 0.15
LOCAL_HEADER_BYTES = 30  # the last four are the lengths of name and extra field
SIZES_FOLLOW = 0x08  # flag: sizes follow the data; here they are known, and come before it


@dataclass(frozen=True, slots=True)
class Item:
    """A file of the payload, and where its bytes are now."""

    entry: Entry
    source: Path


@dataclass(slots=True)
class Contents:
    """The contents of a bundle.

    wheels: without those that the target's own packages replace. excluded_bytes: of packages that the profile
    leaves out; 0: unknown. `gather` fills in the rest.
    """

    wheels: list[Wheel]
    excluded_bytes: int = 0
    carried: dict[str, Wheel] = field(default_factory=dict)  # SHA-256 of the file in the bundle -> its wheel
    removed: dict[str, list[str]] = field(default_factory=dict)  # package -> files left out of its wheel
    items: list[Item] = field(default_factory=list)
    installed_bytes: int = 0


# ---- choosing ----------------------------------------------------------------------------------------------


def plan(order: Order, work: Path) -> Contents:
    """Look up the wheels, unless that was done before. Those that the target's packages replace
    are left out."""
    saved, there = work / "plan.json", order.there
    if not saved.is_file():
        # The target's own torch need not be in any index.
        pins = [pin for pin in order.pins if not (pin.endswith("+cpu") and "torch" in there)]
        wanted = [matching(pin, there) for pin in pins]
        found = plan_wheels(wanted, order.python, work)
        check_digests(found, {name_of(pin): order.digests[pin] for pin in wanted if pin in order.digests})
        save_plan(found, saved)
    wheels = load_plan(saved)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = {"pip", *(name_of(re.split("[<>=~!]", line)[0]) for line in project["dependencies"])}
    gone = {*there, *orphans({wheel.name: wheel.requires for wheel in wheels}, roots, set(there))}
    return Contents([wheel for wheel in wheels if wheel.name not in gone], weigh_excluded(order, work))


def check_digests(wheels: Iterable[Wheel], pinned: Mapping[str, Collection[str]]) -> None:
    """Raise ConfigurationError if an index has another file than the list, whatever the index
    says about it."""
    for wheel in wheels:
        if wheel.sha256 not in pinned.get(wheel.name, [wheel.sha256]):
            raise ConfigurationError(
                f"{wheel.file} is not the file that requirements/ lists: its SHA-256 is {wheel.sha256},"
                " which is not pinned. It was replaced on the way; if `pip config list` names a mirror, the"
                " mirror has another file."
            )


def weigh_excluded(order: Order, work: Path) -> int:
    """Bytes that the profile saves; 0 if not all of the packages are available for the target."""
    saved = work / "excluded.json"
    if order.excluded and not saved.is_file():
        try:
            save_plan(plan_wheels(order.excluded, order.python, work), saved)
        except ConfigurationError:
            return 0
    return sum(wheel.size for wheel in load_plan(saved)) if order.excluded else 0


def matching(pin: str, there: Mapping[str, str]) -> str:
    """The pin, except for torchvision, which only works with one torch: 0.28 is built for 2.13, 0.26 for
    2.11."""
    torch = re.match(r"2\.(\d+)\.", there.get("torch", ""))
    if not torch or not pin.startswith("torchvision="):
        return pin
    return f"torchvision==0.{int(torch[1]) + TORCHVISION_AHEAD}.*"


def orphans(graph: Graph, roots: Iterable[str], gone: Collection[str]) -> set[str]:
    """Packages that only the removed ones need, such as torch's own CUDA libraries.

    roots: packages that stay. Packages that no removed one leads to always stay.
    """
    below = _reachable(graph, gone, ()) - set(gone)
    others = (graph.keys() - below - set(gone)) | (set(roots) - set(gone))
    return below - _reachable(graph, others, gone)


def _reachable(graph: Graph, start: Iterable[str], closed: Collection[str]) -> set[str]:
    """The packages reachable from these, including themselves, without passing closed ones."""
    found: set[str] = set()
    waiting = [name for name in start if name in graph and name not in closed]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in graph[name] if other in graph and other not in closed]
    return found


def model_bytes(order: Order) -> int:
    directories = order.configuration.directories
    return sum(
        (directories[place] / name).stat().st_size for place, sums in order.checksums.items() for name in sums
    )


def check_space(order: Order, contents: Contents) -> None:
    """Raise ConfigurationError if the disk has no room for the bundle; parts are made beside the wheels."""
    wheels = sum(wheel.size for wheel in contents.wheels)
    needed = wheels + model_bytes(order) + (wheels if order.part_bytes else 0)
    there = sum(path.stat().st_size for path in order.out.rglob("*") if path.is_file())
    free = shutil.disk_usage(order.out).free
    if free + there < needed:
        raise ConfigurationError(
            f"the disk of {order.out} is too full: {(needed - there) / 1e6:.0f} MB are needed while the"
            f" bundle is made, and {free / 1e6:.0f} MB are free. Free some, or name another directory with"
            " --out."
        )


# ---- gathering ---------------------------------------------------------------------------------------------


def gather(order: Order, contents: Contents, work: Path, report: Report) -> None:
    """Collect everything but the installer and the manifest, each file where it can be
    read. Fills `contents`."""
    carried = (work if order.part_bytes else order.out) / WHEELS
    published = work / "published"  # wheels before files are removed from them
    for folder in (carried, published):
        folder.mkdir(parents=True, exist_ok=True)
    thinned = {wheel.name: rules for wheel in contents.wheels if (rules := order.rules(wheel.name))}
    for folder, wheels in (
        (carried, [wheel for wheel in contents.wheels if wheel.name not in thinned]),
        (published, [wheel for wheel in contents.wheels if wheel.name in thinned]),
    ):
        missing = [wheel for wheel in wheels if not _is_whole(folder, wheel)]
        total = sum(wheel.size for wheel in missing)
        fetch(missing, folder, order.python, work, partial(_heard, report, total))
    for wheel in contents.wheels:
        if wheel.name in thinned:
            removed = thin(published / wheel.file, thinned[wheel.name], carried / wheel.file)
            contents.removed[wheel.name] = removed
        contents.carried[sha256_of(carried / wheel.file)] = wheel
    ours = build_ours(ROOT, carried, work)
    for path in sorted([ours, *(carried / wheel.file for wheel in contents.wheels)]):
        contents.items.append(_item(f"{WHEELS}/{path.name}", path))
        with zipfile.ZipFile(path) as archive:
            contents.installed_bytes += sum(item.file_size for item in archive.infolist())
    contents.items += _model_items(order, work)
    contents.installed_bytes += model_bytes(order)


def _heard(report: Report, total: int, done: int) -> None:
    report(done, total)


def _is_whole(folder: Path, wheel: Wheel) -> bool:
    path = folder / wheel.file
    return path.is_file() and sha256_of(path) == wheel.sha256


def _item(path: str, source: Path) -> Item:
    return Item(Entry(path, source.stat().st_size, sha256_of(source)), source)


def _model_items(order: Order, work: Path) -> Iterator[Item]:
    yield made(CONFIGURATION, order.configuration.text, work)
    for place, sums in order.checksums.items():
        directory = order.configuration.directories[place]
        for name, digest in sums.items():
            source = directory / name
            yield Item(Entry(f"{place}/{name}", source.stat().st_size, digest), source)
        if CHECKSUMS not in sums:  # so that the server verifies the weights at each start
            yield made(f"{place}/{CHECKSUMS}", json.dumps(dict(sums), indent=2) + "\n", work)


def made(path: str, text: str, work: Path) -> Item:
    """A file of the payload that is written here."""
    data = text.encode()
    write_if_new(work / "made" / path, data)
    return Item(entry_of(path, data), work / "made" / path)


def entry_of(path: str, data: bytes) -> Entry:
    return Entry(path, len(data), hashlib.sha256(data).hexdigest())


def write_if_new(path: Path, data: bytes) -> None:
    """Replace a file in one step, unless it has this content already."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(data)
        temporary.replace(path)


# ---- thinning ----------------------------------------------------------------------------------------------


def thin(wheel: Path, rules: Sequence[FileRule], target: Path) -> list[str]:
    """Write `target`: the wheel without the files of the rules, which are returned.

    It is still a valid wheel: its RECORD lists its contents. The bytes are the same every time.
    """
    temporary = target.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as source, temporary.open("wb") as out, zipfile.ZipFile(out, "w") as archive:
        names = source.namelist()
        gone = {name for name in names if any(rule.matches(name) for rule in rules)}
        for item in source.infolist():
            if item.filename in gone or item.is_dir():
                continue
            if item.filename.endswith(".dist-info/RECORD"):
                record = zipfile.ZipInfo(item.filename, EPOCH)
                record.external_attr = item.external_attr
                archive.writestr(record, _record(source.read(item).decode(), gone))
            else:
                _take_over(source, item, archive, out)
    temporary.replace(target)
    return sorted(gone)


def _record(text: str, gone: set[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows(row for row in csv.reader(text.splitlines()) if row and row[0] not in gone)
    return out.getvalue()


def _take_over(
    source: zipfile.ZipFile, item: zipfile.ZipInfo, archive: zipfile.ZipFile, out: BinaryIO
) -> None:
    """Copy a file in its compressed form: compressing a gigabyte of torch again takes a minute."""
    assert source.fp
    source.fp.seek(item.header_offset + LOCAL_HEADER_BYTES - 4)
    name_bytes, extra_bytes = struct.unpack("<HH", source.fp.read(4))
    source.fp.seek(name_bytes + extra_bytes, 1)
    fresh = copy.copy(item)
    fresh.header_offset, fresh.extra = out.tell(), b""
    fresh.flag_bits &= ~SIZES_FOLLOW
    out.write(fresh.FileHeader())
    left = item.compress_size
    while left:
        left -= out.write(source.fp.read(min(left, 1 << 20)))
    archive.filelist.append(fresh)
    archive.NameToInfo[fresh.filename] = fresh
    archive.start_dir = out.tell()
