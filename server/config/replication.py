"""How many engines a model has, and which GPUs each of them gets."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from server.config.sections import Section
from server.config.yamlfile import MisplacedError

Count = Annotated[int, Field(ge=1)]
Device = Annotated[int, Field(ge=0)]


def _in_lists(devices: Any) -> Any:
    """One list of all is written without a list around it."""
    is_one = isinstance(devices, list | tuple) and devices and not isinstance(devices[0], list | tuple)
    return (devices,) if is_one else devices


# Lists of GPUs, one for each replica; or one that is dealt out.
Group = Annotated[tuple[Device, ...], Field(strict=False)]
Devices = Annotated[tuple[Group, ...], BeforeValidator(_in_lists)]


class Replication(Section):
    """Where only a number is given, that is both."""

    where = "in replicas"

    min: Count = Field(default=1, description="Replicas that always run.")
    max: Count = Field(default=1, description="Most replicas, if requests wait.")
    target_queue_s: float = Field(
        default=2.0,
        gt=0,
        description="How long a request may wait for its first token, s; above it, one more is started.",
    )
    shrink_after_s: float = Field(
        default=300.0,
        gt=0,
        description="How long there must be too many before one is ended, s.",
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
                f"replicas has a min of {self.min} and a max of {self.max}, which is less", "min"
            )
        return self

    @property
    def is_fixed(self) -> bool:
        return self.min == self.max


def check_devices(model: str, devices: Devices, num_replicas: int, num_gpus: int) -> None:
    """num_gpus: of a replica. Raises ValueError where the lists do not fit."""
    every = flat(devices)
    if len(set(every)) != len(every):
        raise ValueError(f'model "{model}" names a device twice')
    if len(devices) > 1 and len(devices) != num_replicas:
        raise ValueError(f'model "{model}" has {len(devices)} lists of devices for {num_replicas} replicas')
    wanted = num_gpus if len(devices) > 1 else num_replicas * num_gpus
    for one in devices:
        if len(one) != wanted:
            times = f", times {num_replicas} replicas" if len(devices) == 1 < num_replicas else ""
            raise ValueError(
                f'model "{model}" names {len(one)} devices, but'
                f" tensor_parallel_size × pipeline_parallel_size is {num_gpus}{times}"
            )


def group_of(devices: Devices, number: int, num_gpus: int) -> Devices:
    """The GPUs of a replica, in one list; none: not said."""
    own = flat(devices)[number * num_gpus : (number + 1) * num_gpus]
    return (own,) if own else ()


def flat(devices: Devices) -> tuple[int, ...]:
    """All of them."""
    return tuple(device for one in devices for device in one)
