"""Shows from within a step on the CPU that its model gets on: one layer after another is a sign of life.

A step with a long prompt may compute for minutes there, so that neither an answer between two steps nor the
processor time tells it from an endless loop. An endless loop reaches no further layer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAYER = "layer"  # a file beside that of the failures, which is touched when a layer has been computed
EVERY_S = 0.5


def show_layers(core: Any, file: Path) -> None:
    """Patch vLLM's engine class, before an engine of one process is made whose model is not compiled: the
    file is touched while the model gets on, at most twice a second."""
    make, note = core.__init__, touches(file)

    def made(self: Any, *arguments: Any, **keywords: Any) -> None:
        make(self, *arguments, **keywords)
        for layer in layers_of(self.model_executor.driver_worker.worker.model_runner.model):
            layer.register_forward_hook(note)

    core.__init__ = made


def layers_of(model: Any) -> list[Any]:
    """The modules that a model has in lists: its layers."""
    from torch.nn import ModuleList

    return [layer for one in model.modules() if isinstance(one, ModuleList) for layer in one]


def touches(file: Path) -> Callable[..., None]:
    """A hook of a module that touches the file."""
    last = 0.0

    def note(*_: Any) -> None:
        nonlocal last
        if (now := time.monotonic()) >= last + EVERY_S:
            last = now
            with contextlib.suppress(OSError):  # a full disk, or the server has gone
                file.touch()

    return note
