"""Which models can have adapters, by what vLLM computes them with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from server.engine.vllm.adapters import check_kernels, load_adapters_first
from server.errors import ConfigurationError


def configured(dtype: str, world_size: int) -> Any:
    """vLLM's configuration, as far as it is looked at; a dtype of torch's says its name."""
    model = SimpleNamespace(dtype=f"torch.{dtype}")
    return SimpleNamespace(model_config=model, parallel_config=SimpleNamespace(world_size=world_size))


@pytest.mark.parametrize(
    ("dtype", "world_size", "on_cpu"),
    [("bfloat16", 1, True), ("float32", 1, True), ("bfloat16", 4, False), ("float16", 1, False)],
)
def test_these_have_them(dtype: str, world_size: int, on_cpu: bool) -> None:
    """Any type in one process on CPUs; half precision on GPUs, as many as there are."""
    check_kernels("m", configured(dtype, world_size), on_cpu=on_cpu)


@pytest.mark.parametrize(
    ("dtype", "world_size", "on_cpu", "reason"),
    [
        ("bfloat16", 2, True, "leave tensor_parallel_size and pipeline_parallel_size at 1"),
        ("float32", 1, False, "in bfloat16 or float16, .* this one is in float32"),
    ],
)
def test_these_are_refused(dtype: str, world_size: int, on_cpu: bool, reason: str) -> None:
    """With what to do."""
    with pytest.raises(ConfigurationError, match=f"model m: .*{reason}"):
        check_kernels("m", configured(dtype, world_size), on_cpu=on_cpu)


def test_after_a_sleep_each_is_loaded_before_its_request() -> None:
    """An engine that has read its weights again has lost its adapters."""

    class Core:
        vllm_config = SimpleNamespace(lora_config=SimpleNamespace(max_cpu_loras=4))

        def __init__(self) -> None:
            self.events: list[str] = []

        def add_lora(self, asked: Any) -> None:
            self.events.append("load")

        def add_request(self, request: Any, request_wave: int = 0) -> None:
            self.events.append("request")

        def wake_up(self, tags: Any = None) -> bool:
            self.events.append("wake")
            return True

    load_adapters_first(Core)
    core, asked = Core(), SimpleNamespace(lora_int_id=5, lora_name="a@1")
    request = SimpleNamespace(lora_request=asked, request_id="r", client_index=0)
    core.add_request(request)
    core.add_request(request)
    assert core.wake_up(["kv_cache"])
    core.add_request(request)
    assert core.events == ["load", "request", "request", "wake", "load", "request"]
