"""What the NVIDIA driver says of the first GPU, through the library that nvidia-smi uses; without torch."""

from __future__ import annotations

import ctypes
from typing import Any

MOST_PROCESSES = 1024


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


def num_gpus() -> int:
    """0 without a driver, and without a GPU that it can use."""
    count = ctypes.c_uint()
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return 0 if failed else count.value


def used_bytes() -> int:
    """Of the GPU's memory, by whomever."""
    memory = _Memory()
    _ask("nvmlDeviceGetMemoryInfo", ctypes.byref(memory))
    return int(memory.used)


def pids() -> set[int]:
    """The processes that compute on it, by the numbers that the driver knows them by: in a
    container, another machine's."""
    found, count = (_Process * MOST_PROCESSES)(), ctypes.c_uint(MOST_PROCESSES)
    _ask("nvmlDeviceGetComputeRunningProcesses_v3", ctypes.byref(count), found)
    return {process.pid for process in found[: count.value]}


def _ask(function: str, *arguments: Any) -> None:
    library, device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    if failed or (failed := getattr(library, function)(device, *arguments)):
        raise OSError(f"{function}: NVML's error {failed}")
