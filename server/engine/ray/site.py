"""What all front ends of a cluster must have in common, and the first differences if one has not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from server import __version__
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.observe.versions import CPU_BUILD, installed

# Keys that may differ between front ends: where it listens, what it logs, how it reads requests and ends.
OWN = frozenset(
    {
        *("host", "port", "api_keys_file", "cors_origins", "workers", "cluster", "attest", "log_level"),
        *(
            "max_body_bytes",
            "drain_timeout_s",
            "receive_timeout_s",
            "slow_reader_timeout_s",
            "tracing",
            "log_format",
        ),
    }
)
SHOWN = 3  # number of differences that are named


class Site(BaseModel):
    """settings: the configuration, without the keys that may differ. context_sizes: of the models, by their
    numbers. on_cpu: the engines need no GPU."""

    version: str
    settings: dict[str, Any]
    context_sizes: list[int]
    on_cpu: bool
    log_level: str
    log_format: str

    @property
    def models(self) -> list[ModelSettings]:
        return [ModelSettings.model_validate(one) for one in self.settings["models"]]


def site_of(settings: Settings, context_sizes: list[int]) -> Site:
    return Site(
        version=__version__,
        settings=settings.model_dump(mode="json", exclude=set(OWN)),
        context_sizes=context_sizes,
        on_cpu=installed(CPU_BUILD) is not None,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def refusal(there: Site, here: Site) -> str:
    """Why a front end with this site cannot join the others; empty: it can."""
    if there.version != here.version:
        return f"its front ends run Verbatim {there.version}, and this one runs {here.version}"
    if there.on_cpu != here.on_cpu:
        return "its engines run vLLM's build for {}, and this machine has the build for {}".format(
            *("the CPU" if one.on_cpu else "GPUs" for one in (there, here))
        )
    found = [*_differences("", there.settings, here.settings)]
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _differences(place: str, there: Any, here: Any) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from _differences(f"{place}.{key}" if place else str(key), there.get(key), here.get(key))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, (one, other) in enumerate(zip(there, here, strict=True)):
            name = one.get("id", number) if isinstance(one, dict) else number
            yield from _differences(f"{place}[{name}]", one, other)
    elif there != here:
        yield f"{place} is {_shown(there)} in the cluster and {_shown(here)} here"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:80] + "…"
