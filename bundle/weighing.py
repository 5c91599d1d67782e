"""What a bundle will weigh, said before anything is downloaded."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Console

from bundle.contents import Contents, model_bytes
from bundle.order import Order, name_of, version_of
from bundle.plan import Wheel

SHOWN = 8  # the largest packages are named


def weigh(order: Order, contents: Contents, console: Console) -> None:
    """What is carried, largest first; what is left out, and what is not known."""
    wheels, models = contents.wheels, model_bytes(order)
    total = sum(wheel.size for wheel in wheels) + models
    for wheel in largest(wheels):
        console.print(f"{megabytes(wheel.size)}  {wheel.name} {wheel.version}{thinner(order, wheel)}")
    if rest := len(wheels) - len(largest(wheels)):
        others = sum(wheel.size for wheel in wheels) - sum(wheel.size for wheel in largest(wheels))
        console.print(f"{megabytes(others)}  {rest} more packages")
    console.print(f"{megabytes(models)}  {', '.join(order.configuration.directories)}")
    said = f"{order.device}, Python {order.python}, profile {order.profile.name}"
    console.print(f"{megabytes(total)}  in all: {said}")
    for line in remarks(order, contents, total):
        console.print(line)


def largest(wheels: Iterable[Wheel]) -> list[Wheel]:
    return sorted(wheels, key=lambda wheel: -wheel.size)[:SHOWN]


def thinner(order: Order, wheel: Wheel) -> str:
    rules = order.profile.rules_for(wheel.name, order.gpu, order.configuration.model_keys)
    return f", less {'; '.join(rule.reason for rule in rules)}" if rules else ""


def remarks(order: Order, contents: Contents, total: int) -> list[str]:
    lines = []
    if order.profile.packages:
        lines.append(saved(order, contents, total))
    if order.there:
        own = ", ".join(f"{name} {version}" for name, version in order.there.items())
        lines.append(f"the target's own: {own}")
    pinned = {name_of(pin): version_of(pin) for pin in order.pins}
    for name, version in order.there.items():
        if version.split("+")[0] != pinned[name].split("+")[0]:
            lines.append(
                f"warning: {name} {version} of the target stands in for {pinned[name]}, which was tested"
            )
    if unknown := [wheel.name for wheel in contents.wheels if not wheel.size]:
        lines.append(f"not counted, because their index does not tell their size: {', '.join(unknown)}")
    if order.part_bytes:
        parts = math.ceil(total / order.part_bytes)
        lines.append(f"in about {parts} parts of at most {megabytes(order.part_bytes).strip()}")
    return lines


def saved(order: Order, contents: Contents, total: int) -> str:
    """What the profile leaves out, beside what all of it would be."""
    left = f"left out by the profile: {len(order.profile.packages)} packages"
    if not contents.excluded_bytes:
        return f"{left}, whose sizes for this target are not known"
    full = megabytes(total + contents.excluded_bytes).strip()
    return f"{left}, {megabytes(contents.excluded_bytes).strip()}; with profile full it would be {full}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:9.1f} MB"
