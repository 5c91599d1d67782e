"""Sends the host's arrays to the device, without waiting for the device's other work."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


def staged(array: npt.NDArray[Any], *, pinned: bool) -> torch.Tensor:
    """A tensor to send from: the array's own memory or, pinned, a copy that the device reads by itself, which
    torch keeps until it has."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if pinned else tensor
