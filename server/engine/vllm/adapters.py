"""LoRA adapters in vLLM's engine: each is loaded before the first request that asks for it has its turn.

vLLM itself loads one in the middle of a step, and where that fails the engine ends, and all requests with it.
"""

from __future__ import annotations

from typing import Any

from server.engine.vllm.cpu_lora import take_own_products
from server.engine.vllm.failures import why
from server.errors import ConfigurationError

SEEN = "adapters_seen"  # of an engine: those that it has loaded


def make_ready_for_adapters(core: Any, config: Any, name: str) -> None:
    """Before an engine is made. core: vLLM's engine, a class. config: vLLM's. name: of the model. Raises
    ConfigurationError for a model that cannot have adapters here."""
    from vllm.platforms import current_platform

    load_adapters_first(core)
    if config.lora_config is None:
        return
    check_kernels(name, config, on_cpu=current_platform.is_cpu())
    if current_platform.is_cpu():
        from vllm.lora.punica_wrapper import punica_cpu

        take_own_products(punica_cpu)


def check_kernels(name: str, config: Any, *, on_cpu: bool) -> None:
    """Raises ConfigurationError where vLLM 0.32.0's products of adapters do not take the model. name: the
    model's. config: vLLM's configuration."""
    if on_cpu and config.parallel_config.world_size > 1:
        raise ConfigurationError(
            f"model {name}: on the CPU adapters are for a model in one process; leave tensor_parallel_size"
            " and pipeline_parallel_size at 1, or serve it without adapters."
        )
    if not on_cpu and str(config.model_config.dtype) == "torch.float32":
        raise ConfigurationError(
            f"model {name}: on a GPU adapters are for a model in bfloat16 or float16, which is what vLLM's"
            " kernels for them take, and this one is in float32; set its dtype, or serve it without adapters."
        )


def load_adapters_first(core: Any) -> None:
    """Have vLLM's engine, a class, end a request whose adapter cannot be loaded, and that one alone."""
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
        self.__dict__.pop(SEEN, None)  # where weights were read again, no adapter is there any more
        return wake_up(self, tags)

    core.wake_up = wake


def _problem(engine: Any, asked: Any) -> str:
    """Why an adapter cannot be had; empty: it is there. What leaves again, for others, is looked
    for each time."""
    if engine.vllm_config.lora_config is None:  # it would answer as the base model, without a word
        return f"the engine that runs has no room for the adapter {_id(asked)}; try again"
    seen: set[int] = engine.__dict__.setdefault(SEEN, set())
    num_kept = engine.vllm_config.lora_config.max_cpu_loras
    try:
        if asked.lora_int_id not in seen or (
            len(seen) > num_kept and asked.lora_int_id not in engine.list_loras()
        ):
            engine.add_lora(asked)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with a file
        return f"the adapter {_id(asked)} cannot be loaded: {why(error).reason}"
    seen.add(asked.lora_int_id)
    return ""


def _id(asked: Any) -> str:
    """Without the digest of its files."""
    return str(asked.lora_name).rpartition("@")[0]


def _ended(request_id: str, problem: str) -> Any:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

    output = EngineCoreOutput(request_id, [], finish_reason=FinishReason.ERROR, stop_reason=problem)
    return EngineCoreOutputs(outputs=[output])
