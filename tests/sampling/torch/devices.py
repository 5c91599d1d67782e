"""A device that is not there, and what an operation on it may not do. Import it where torch is installed.

`meta` stands for a GPU: tensors there have shapes and no values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = {"aten::_to_copy", "aten::copy_"}
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}


class OneDevice(TorchDispatchMode):
    """Fails where an operation takes tensors of two devices, or has the host wait for the device.

    num_sent: tensors copied between devices since it was last set to 0.
    """

    num_sent = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        result = operation(*args, **(kwargs or {}))
        name, devices = operation._schema.name, {tensor.device for tensor in tensors}
        if name in COPIES:
            self.num_sent += devices != {result.device}
        else:
            assert len(devices) <= 1, f"{name} takes tensors of {devices}"
            assert name not in WAITS, f"{name} waits for the device"
        return result


class Made(TorchDispatchMode):
    """largest: bytes of the largest tensor with memory of its own that an operation has made."""

    largest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in known:
                self.largest = max(self.largest, tensor.nbytes)
        return result
