"""How many engines a model has, and which GPUs each of them gets."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from server.config.sections import Section
from server.config.yamlfile import MisplacedError

Count = Annotated[int, Field(ge=1)]
Device = Annotated[int, Field(ge=0)]


def _in_lists(devices: Any) -> Any:
    """Accept a single list for one that contains only this list."""
    is_one = isinstance(devices, list | tuple) and devices and not isinstance(devices[0], list | tuple)
    return (devices,) if is_one else devices


# Lists of GPUs, one for each replica; or one list that is split between them.
Group = Annotated[tuple[Device, ...], Field(strict=False)]
Devices = Annotated[tuple[Group, ...], BeforeValidator(_in_lists)]


class Replication(Section):
    """A number alone sets both min and max."""

    where = "in replicas"

    min: Count = Field(default=1, description="Smallest number of replicas.")
    max: Count = Field(default=1, description="Largest number of replicas, if requests wait.")
    target_queue_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds that a request may wait for its first token; above that, another replica is"
        " started.",
    )
    shrink_after_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds for which there must be too many replicas before one is ended.",
    )

    @model_validator(mode="before")
    @classmethod
    def _number(cls, data: Any) -> Any:
        if isinstance(data, int) and not isinstance(data, bool):
            return {"min": data, "max": data}
        if isinstance(data, dict) and "min" in data and "max" not in data:
            return {"max": data["min"], **data}
        return data

    @model_validator(mode="after")
    def _range(self) -> Replication:
        if self.min > self.max:
            raise MisplacedError(
                f"replicas has min {self.min} and max {self.max}; max must be at least min", "min"
            )
        return self

    @property
    def is_fixed(self) -> bool:
        return self.min == self.max


def check_devices(model: str, devices: Devices, num_replicas: int, num_gpus: int) -> None:
    """Raise ValueError if the lists do not fit. num_gpus: GPUs of one replica."""
    every = flat(devices)
    if len(set(every)) != len(every):
        raise ValueError(f'model "{model}" lists a device twice')
    if len(devices) > 1 and len(devices) != num_replicas:
        raise ValueError(
            f'model "{model}" has {len(devices)} lists of devices for {num_replicas} replicas; give one list'
            " for each"
        )
    wanted = num_gpus if len(devices) > 1 else num_replicas * num_gpus
    for one in devices:
        if len(one) != wanted:
            times = f", times {num_replicas} replicas" if len(devices) == 1 < num_replicas else ""
            raise ValueError(
                f'model "{model}" lists {len(one)} devices, but tensor_parallel_size ×'
                f" pipeline_parallel_size is {num_gpus}{times}"
            )


def group_of(devices: Devices, number: int, num_gpus: int) -> Devices:
    """The GPUs of a replica, as one list; empty: not configured."""
    own = flat(devices)[number * num_gpus : (number + 1) * num_gpus]
    return (own,) if own else ()


def flat(devices: Devices) -> tuple[int, ...]:
    """All GPUs of the lists."""
    return tuple(device for one in devices for device in one)
