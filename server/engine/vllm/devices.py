"""The GPUs of an engine: those that the configuration lists, else the next ones in order."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import ClassVar

from server.config.engine_args import refusal_on_cpu
from server.config.model import ModelSettings
from server.config.replication import flat
from server.errors import ConfigurationError
from server.observe.versions import CPU_BUILD, installed

NVML = "libnvidia-ml.so.1"  # the driver's library
VISIBLE = "CUDA_VISIBLE_DEVICES"


def num_gpus() -> int | None:
    """GPUs of this machine, as its driver counts them; None: no driver, or none that says so."""
    count = ctypes.c_uint()
    try:
        nvml = ctypes.CDLL(NVML)
        failed = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    except (OSError, AttributeError):
        return None
    return None if failed else count.value


def memory() -> tuple[int, ...]:
    """Total bytes of each GPU of this machine; empty: no driver, or none that says so."""
    found = []
    for number in range(num_gpus() or 0):
        device, size = ctypes.c_void_p(), _Memory()
        nvml = ctypes.CDLL(NVML)
        failed = nvml.nvmlDeviceGetHandleByIndex_v2(
            number, ctypes.byref(device)
        ) or nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(size))
        if failed:
            return ()
        found.append(int(size.total))
    return tuple(found)


class _Memory(ctypes.Structure):
    _fields_: ClassVar = [("total", ctypes.c_uint64), ("free", ctypes.c_uint64), ("used", ctypes.c_uint64)]


def dealt(model: ModelSettings, replica: int, environ: Mapping[str, str] = os.environ) -> ModelSettings:
    """The settings of one replica's engine, with its own GPUs. Raises as check_devices."""
    own = model.of_replica(replica)
    if own.devices or model.replicas.max == 1 or installed(CPU_BUILD):
        return own
    first = replica * model.num_gpus
    numbers = _visible(model, environ)[first : first + model.num_gpus]
    return own.model_copy(update={"devices": (tuple(numbers),)})


def check_devices(model: ModelSettings, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigurationError if the machine lacks GPUs that the model's replicas need."""
    if model.engine == "simulated" or installed(CPU_BUILD) or (count := num_gpus()) is None:
        return
    needed = model.replicas.max * model.num_gpus
    if model.devices:
        absent = [device for device in flat(model.devices) if device >= count]
        if absent:
            raise ConfigurationError(
                f"model {model.id}: devices lists GPU {absent[0]}, but this machine has only 0 to"
                f" {count - 1}."
            )
    elif needed > (there := len(_visible(model, environ)) if VISIBLE in environ else count):
        raise ConfigurationError(
            f"model {model.id}: {model.replicas.max} replicas on {model.num_gpus} GPUs each need {needed},"
            f" and there are {there}. Lower replicas, tensor_parallel_size or pipeline_parallel_size."
        )


def _visible(model: ModelSettings, environ: Mapping[str, str]) -> list[int]:
    """The GPUs that may be used."""
    if VISIBLE not in environ:
        return [*range(num_gpus() or model.replicas.max * model.num_gpus)]
    try:
        return [int(number) for number in environ[VISIBLE].split(",") if number.strip()]
    except ValueError:
        raise ConfigurationError(
            f"model {model.id}: {VISIBLE} lists GPUs by names instead of numbers, which the server cannot"
            " deal out to replicas; list each replica's GPUs in devices."
        ) from None


def check_engine_args(model: ModelSettings) -> None:
    """Raise ConfigurationError for engine arguments that this machine's build of vLLM does not support."""
    if model.engine == "simulated" or not installed(CPU_BUILD):
        return
    for name, value in model.engine_args.items():
        if (problem := refusal_on_cpu(name, value)) is not None:
            raise ConfigurationError(f"model {model.id}: {problem}. Remove it.")


def check_sleep_level(model: ModelSettings) -> None:
    """Raise ConfigurationError for sleep_level on the CPU, where vLLM would do nothing."""
    if model.sleep_level and model.engine != "simulated" and installed(CPU_BUILD):
        raise ConfigurationError(
            f"model {model.id}: sleep_level is for GPUs only; on a CPU, an engine that sleeps would free no"
            " memory. Remove sleep_level: the engine then ends instead."
        )
