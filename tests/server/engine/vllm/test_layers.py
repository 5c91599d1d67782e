"""A model on the CPU shows that it gets on, layer by layer."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import server.engine.vllm.layers as layers_module
from server.engine.vllm.layers import layers_of, show_layers, touches


def test_the_file_is_touched_twice_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty layers of a step of 40 ms cost nothing."""
    now, file = 100.0, tmp_path / "layer"
    monkeypatch.setattr(layers_module.time, "monotonic", lambda: now)
    note = touches(file)
    note(None, (), None)
    os.utime(file, ns=(0, 0))
    now += 0.4
    note(None, (), None)
    assert file.stat().st_mtime_ns == 0
    now += 0.2
    note(None, (), None)
    assert file.stat().st_mtime_ns > 0


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """The server removes it while its engine still computes."""
    touches(tmp_path / "gone" / "layer")(None, (), None)


def test_each_layer_of_an_engine_that_is_made_has_the_hook(tmp_path: Path) -> None:
    """Whatever the model calls them."""
    torch = pytest.importorskip("torch", reason="a model is one of torch's modules")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleDict({"h": torch.nn.ModuleList()}))
    layer = torch.nn.Linear(2, 2)
    model[1]["h"].append(layer)
    assert layers_of(model) == [layer]

    class Core:
        def __init__(self, name: str) -> None:
            self.name = name
            worker = SimpleNamespace(model_runner=SimpleNamespace(model=model))
            self.model_executor = SimpleNamespace(driver_worker=SimpleNamespace(worker=worker))

    show_layers(Core, file := tmp_path / "layer")
    assert Core("m").name == "m"
    layer(torch.zeros(2))
    assert file.exists()
