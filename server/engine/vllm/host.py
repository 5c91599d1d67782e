"""The engine's process, the only one that imports vLLM: python -m server.engine.vllm.host

It imports vLLM, and then reads its order from standard input, one line of JSON, which may come much later
(standby.py). On standard output it reports progress and failures, one line of JSON each; what vLLM prints
goes to standard error. Requests and outputs travel over the sockets that the order names.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from server.config.model import ModelSettings
from server.config.yamlfile import nearest
from server.engine.vllm.adapters import make_ready_for_adapters
from server.engine.vllm.cpu_blocks import zero_new_blocks
from server.engine.vllm.failures import CONFIGURING, NOTES, note_failures, why
from server.engine.vllm.grammars import make_grammars
from server.engine.vllm.layers import LAYER, show_layers
from server.engine.vllm.processes import THREADS, News, Order, follow_server, log_as_server
from server.engine.vllm.speculation import check_speculation
from server.engine.vllm.wire import QUESTION
from server.errors import ConfigurationError
from server.observe.versions import CPU_BUILD, installed
from server.text.tokenizer import load_tokenizer

NUMA = "libnuma.so.1"
# Part of the names of the threads that carry vLLM's messages.
TALKERS = ("process_input_sockets", "process_output_sockets")


def main() -> None:
    say = _own_standard_output()
    follow_server()
    try:
        check_libraries()
        import_vllm()
    except ConfigurationError as error:
        say(News(error=error.message, is_final=True))
        sys.exit(2)
    except Exception as error:
        say(News(error=why(error).reason))
        raise
    # Without an order, the server has gone, or does not need this process any more
    if line := sys.stdin.readline():
        run(Order.model_validate_json(line), say)


def run(order: Order, say: Callable[[News], None]) -> None:
    """Run the engine, to its end."""
    from vllm.platforms import current_platform
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.executor.uniproc_executor import UniProcExecutor
    from vllm.v1.structured_output import StructuredOutputManager

    os.environ[NOTES] = str(order.failures)
    # vLLM leaves a file there at each start: it is removed with the folder.
    os.environ["TMPDIR"] = tempfile.tempdir = str(order.failures.parent)
    note_failures()
    log_as_server()
    give_signs_of_life(EngineCoreProc)
    say(News(loading=True))
    is_made = threading.Event()  # the engine; after that, a failure is not due to its configuration
    try:
        config, executor = engine_config(order.model, order.context_size)
        make_ready_for_adapters(EngineCoreProc, config, order.model.id)
        if current_platform.is_cpu():
            zero_new_blocks()
            if issubclass(executor, UniProcExecutor) and config.model_config.enforce_eager:
                show_layers(EngineCoreProc, order.failures.with_name(LAYER))
        say(News(runner="V2" if config.use_v2_model_runner else "V1"))
        threading.excepthook = _end_with_a_thread(say)
        vocab_size = config.model_config.get_vocab_size()
        make_grammars(
            StructuredOutputManager, lambda: load_tokenizer(order.model.directory, vocab_size).grammars
        )
        threading.Thread(target=_answer_handshake, args=(order, is_made), daemon=True).start()
        with contextlib.suppress(SystemExit):  # this is how vLLM ends
            EngineCoreProc.run_engine_core(
                vllm_config=config,
                executor_class=executor,
                log_stats=True,
                handshake_address=order.handshake,
                local_client=True,
            )
    except ConfigurationError as error:
        say(News(error=error.message, is_final=True))
        sys.exit(2)
    except Exception as error:
        failure = why(error)
        if is_made.is_set() or not failure.is_final:
            say(News(error=failure.reason))
            raise
        say(News(error=f"model {order.model.id} cannot be served: {failure.reason}", is_final=True))
        sys.exit(2)


def give_signs_of_life(core: Any) -> None:
    """Patch vLLM's engine class to count its steps, and to report the number, and what the engine has to do,
    when asked (wire.py)."""
    post_step = core.post_step

    def counted(self: Any, model_executed: bool) -> None:
        self.num_steps = getattr(self, "num_steps", 0) + model_executed
        post_step(self, model_executed)

    def signs_of_life(self: Any) -> tuple[int, bool, int, int, float]:
        scheduler = self.scheduler
        usage = scheduler.get_kv_cache_usage()
        return getattr(self, "num_steps", 0), self.has_work(), *scheduler.get_request_counts(), usage

    core.post_step = counted
    setattr(core, QUESTION, signs_of_life)


def import_vllm() -> None:
    """Import vLLM: some 5,000 modules, whose objects stay. Searching them for garbage repeatedly during the
    import, and five times while a model is loaded, would take 2.5 of the 7 seconds of a start."""
    gc.disable()
    import vllm.v1.engine.core  # noqa: F401

    gc.freeze()
    gc.enable()


def check_libraries() -> None:
    """Raise ConfigurationError if the system lacks a library of vLLM's CPU build, whose own error does not
    name it."""
    if not installed(CPU_BUILD):
        return
    try:
        ctypes.CDLL(NUMA)
    except OSError:
        raise ConfigurationError(
            f"vLLM's CPU build needs {NUMA}, which this system lacks. Install it with the system's package"
            " manager (Debian and Ubuntu: libnuma1; RHEL: numactl-libs)."
        ) from None


def engine_config(settings: ModelSettings, context_size: int) -> tuple[Any, Any]:
    """(vLLM's configuration, the class of its executor).

    Raises ConfigurationError for an engine argument that vLLM does not know or refuses.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.executor import Executor

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in settings.engine_args:
        if name not in known:
            raise ConfigurationError(
                f'model {settings.id}: engine_args has "{name}", which is not an engine argument of vLLM'
                f"{nearest(name, known)}"
            )
    arguments = engine_arguments(settings, context_size, on_cpu=current_platform.is_cpu())
    try:
        # vLLM's defaults depend on the usage context: without one, a step has 2048 tokens on any GPU.
        config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    except CONFIGURING as error:
        if isinstance(error, OSError) and error.errno:  # an error of the system, which may pass
            raise
        raise ConfigurationError(
            f"model {settings.id}: vLLM refuses it, or its engine_args: {why(error).reason}"
        ) from error
    _check_kind(settings.id, config.model_config)
    is_v2 = config.use_v2_model_runner
    if config.speculative_config is not None:
        check_speculation(settings.id, config, on_cpu=current_platform.is_cpu())
    if config.speculative_config is not None:
        config.parallel_config.worker_cls = f"sampling.speculative_{'v2' if is_v2 else 'v1'}.Worker"
    if config.speculative_config is None or is_v2:  # with V1, vLLM refuses both together
        runner = "runner_v2" if is_v2 else "runner_v1"
        config.model_config.logits_processors = [f"sampling.{runner}:SamplingProcessor"]
    return config, Executor.get_class(config)


def _check_kind(name: str, model: Any) -> None:
    """Raise ConfigurationError for a model that does not continue a text."""
    kind = "encoder-decoder" if model.is_encoder_decoder else model.runner_type
    if kind != "generate":
        architectures = ", ".join(model.hf_config.architectures or [])
        raise ConfigurationError(
            f"model {name}: vLLM runs {architectures} as a model of the kind {kind}, which does not continue"
            " a text. This server only serves decoder-only language models (…ForCausalLM)."
        )


def engine_arguments(settings: ModelSettings, context_size: int, *, on_cpu: bool) -> dict[str, Any]:
    """The arguments of vLLM's AsyncEngineArgs."""
    arguments: dict[str, Any] = {
        "model": str(settings.directory),
        "served_model_name": settings.id,
        "skip_tokenizer_init": True,  # the server converts text
        "dtype": settings.dtype,
        "max_model_len": context_size,
        "max_num_seqs": settings.max_num_seqs,
        "scheduling_policy": "priority",  # by Job.urgency
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "quantization": settings.quantization,
        "load_format": "safetensors",
        "config_format": "hf",  # config.json, as the server reads; Mistral's params.json may be beside it
        "enable_log_requests": False,
    }
    if settings.sleep_level:
        arguments["enable_sleep_mode"] = True
    if on_cpu:
        # Compiling takes 45 s and gains a tenth (engine-facts). Reserving memory by share would take the
        # memory of the whole machine.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30)}
    is_one_process = settings.tensor_parallel_size == settings.pipeline_parallel_size == 1
    if on_cpu and THREADS in os.environ and is_one_process:
        # vLLM would run the model in another process, to set up its threads; here they are set up already
        # (processes.py). A start takes half the time without it.
        arguments["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return arguments | settings.engine_args


def _own_standard_output() -> Callable[[News], None]:
    """A function that writes news to the original standard output; from now on, standard output
    is standard error."""
    news = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: News) -> None:
        news.write(what.model_dump_json() + "\n")
        news.flush()

    return say


def _end_with_a_thread(say: Callable[[News], None]) -> Callable[[threading.ExceptHookArgs], None]:
    """A hook for failed threads: if a thread that reads or writes vLLM's messages fails, end the process.
    vLLM itself would go on without hearing or saying anything."""

    def failed(what: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(what)
        name = what.thread.name if what.thread is not None else ""
        if what.exc_value is not None and any(talker in name for talker in TALKERS):
            say(
                News(
                    error="a thread that carries the engine's messages has failed:"
                    f" {why(what.exc_value).reason}"
                )
            )
            os._exit(1)

    return failed


def _answer_handshake(order: Order, is_made: threading.Event) -> None:
    """Answer vLLM's engine, which asks its client for the addresses and tells it when it is ready; here, this
    process is the client."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(order.handshake)
        engine, _ = socket.recv_multipart()
        addresses = {"inputs": order.inputs, "outputs": order.outputs}
        answer = msgspec.msgpack.encode({"addresses": addresses, "parallel_config": {}})
        socket.send_multipart([engine, answer])
        socket.recv_multipart()  # READY
        is_made.set()


if __name__ == "__main__":
    main()
