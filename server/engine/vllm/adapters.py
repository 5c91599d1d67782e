"""LoRA adapters in vLLM's engine: each is loaded before the first request for it is scheduled.

vLLM itself loads an adapter in the middle of a step; if that fails, the engine ends with all requests.
"""

from __future__ import annotations

from typing import Any

from server.engine.vllm.cpu_lora import take_own_products
from server.engine.vllm.failures import why
from server.errors import ConfigurationError

SEEN = "adapters_seen"  # attribute of an engine: the adapters that it has loaded


def make_ready_for_adapters(core: Any, config: Any, name: str) -> None:
    """Prepare vLLM before an engine is made. core: vLLM's engine class. config: vLLM's. name: of the model.
    Raises ConfigurationError if the model cannot have adapters here."""
    from vllm.platforms import current_platform

    load_adapters_first(core)
    if config.lora_config is None:
        return
    check_kernels(name, config, on_cpu=current_platform.is_cpu())
    if current_platform.is_cpu():
        from vllm.lora.punica_wrapper import punica_cpu

        take_own_products(punica_cpu)


def check_kernels(name: str, config: Any, *, on_cpu: bool) -> None:
    """Raise ConfigurationError if vLLM 0.32.0's LoRA kernels do not support the model. name: the model's.
    config: vLLM's configuration."""
    if on_cpu and config.parallel_config.world_size > 1:
        raise ConfigurationError(
            f"model {name}: on a CPU, adapters need an engine with one process; leave tensor_parallel_size"
            " and pipeline_parallel_size at 1, or serve the model without adapters."
        )
    if not on_cpu and str(config.model_config.dtype) == "torch.float32":
        raise ConfigurationError(
            f"model {name}: on a GPU, adapters need a model in bfloat16 or float16, because vLLM's LoRA"
            " kernels take only these, and this one is in float32; set its dtype, or serve it without"
            " adapters."
        )


def load_adapters_first(core: Any) -> None:
    """Patch vLLM's engine class: if an adapter cannot be loaded, only the request for it ends."""
    add_request = core.add_request

    def add(self: Any, request: Any, request_wave: int = 0) -> None:
        asked = request.lora_request
        if asked is not None and (problem := _problem(self, asked)):
            self.output_queue.put_nowait((request.client_index, _ended(request.request_id, problem)))
            return
        add_request(self, request, request_wave)

    core.add_request = add
    wake_up = core.wake_up

    def wake(self: Any, tags: list[str] | None = None) -> Any:
        self.__dict__.pop(SEEN, None)  # after weights were read again, no adapter is loaded any more
        return wake_up(self, tags)

    core.wake_up = wake


def _problem(engine: Any, asked: Any) -> str:
    """Why an adapter cannot be loaded; empty: it is loaded. Adapters may be evicted, so this is
    checked each time."""
    if engine.vllm_config.lora_config is None:  # vLLM would silently answer as the base model
        return f"the engine has no room for the adapter {_id(asked)} at the moment; try again"
    seen: set[int] = engine.__dict__.setdefault(SEEN, set())
    num_kept = engine.vllm_config.lora_config.max_cpu_loras
    try:
        if asked.lora_int_id not in seen or (
            len(seen) > num_kept and asked.lora_int_id not in engine.list_loras()
        ):
            engine.add_lora(asked)
    except Exception as error:  # noqa: BLE001  # any error in a file
        return f"the adapter {_id(asked)} cannot be loaded: {why(error).reason}"
    seen.add(asked.lora_int_id)
    return ""


def _id(asked: Any) -> str:
    """The adapter's id, without the digest of its files."""
    return str(asked.lora_name).rpartition("@")[0]


def _ended(request_id: str, problem: str) -> Any:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

    output = EngineCoreOutput(request_id, [], finish_reason=FinishReason.ERROR, stop_reason=problem)
    return EngineCoreOutputs(outputs=[output])
