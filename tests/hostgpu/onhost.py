"""Copies that a simulated GPU leaves out, as kernels do them: into a part of a tensor, to another type."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DONE_HERE = {"aten::copy_", "aten::fill_", "aten::zero_"}


class OnHost(TorchDispatchMode):
    """Within it they are done: the device's memory is the host's."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation._schema.name not in DONE_HERE:
            return operation(*args, **(kwargs or {}))
        operation(*(as_host(one) if isinstance(one, torch.Tensor) else one for one in args))
        return args[0]


def as_host(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor of the host's."""
    if not tensor.is_cuda or not tensor.numel():
        return tensor.cpu() if tensor.is_cuda else tensor
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = (ctypes.c_char * (span * tensor.element_size())).from_address(tensor.data_ptr())
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=span)
    return flat.as_strided(tensor.shape, tensor.stride())
