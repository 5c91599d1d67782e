"""vLLM's engine process, spoken to below AsyncLLM: requests in; for each step, one message of outputs out.

AsyncLLM wakes a task for each token and makes several objects of it, mostly for the sake of text, which is
not its business here. What this module relies on is vLLM's inner interface: the order of the fields of what
travels, how arrays travel, and its client's way of starting an engine. tests/engine/test_core.py holds it to
that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from server.eager import begin
from server.engine.base import TopLogprobs

ADD = b"\x00"  # vLLM's EngineCoreRequestType
DEAD = b"ENGINE_CORE_DEAD"  # what an engine says last when it fails
SEND_TOGETHER = 16  # more would let the engine wait for the first of them
RAW_VIEW = 3  # the msgpack extension that holds an array's bytes
FORMATS = {"<i4": "i", "<i8": "q", "<f4": "f", "int32": "i", "int64": "q", "float32": "f"}


class CoreParams(msgspec.Struct, omit_defaults=True):
    """What we say of vLLM's SamplingParams, by its names, with its defaults. The engine checks it again."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    extra_args: dict[str, Any] | None = None


class CoreRequest(msgspec.Struct, array_like=True):
    """The first fields of vLLM's EngineCoreRequest, in its order."""

    request_id: str
    prompt_token_ids: list[int]
    mm_features: None
    sampling_params: CoreParams
    pooling_params: None
    arrival_time: float
    lora_request: None = None
    cache_salt: None = None
    data_parallel_rank: int | None = None
    prompt_embeds: None = None
    prompt_is_token_ids: None = None
    client_index: int = 0
    current_wave: int = 0


class CoreOutput(msgspec.Struct, array_like=True, gc=False):
    """What a step brought for one request: the first fields of vLLM's EngineCoreOutput, in its order."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: Any = None  # TopLogprobs once decoded, as wide as the widest of the step's requests
    new_prompt_logprobs_tensors: Any = None  # TopLogprobs once decoded
    pooling_output: Any = None
    finish_reason: int | None = None
    stop_reason: Any = None
    events: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    trace_headers: Any = None
    prefill_stats: Any = None
    routed_experts: Any = None
    num_nans_in_logits: int = 0

    @property
    def is_quiet(self) -> bool:
        """Tokens, and nothing else to be said."""
        return self.finish_reason is None and self.events is None and not self.num_nans_in_logits


class CoreOutputs(msgspec.Struct, array_like=True, gc=False):
    """One step of the engine: vLLM's EngineCoreOutputs, whose names the client looks for."""

    engine_index: int = 0
    outputs: list[CoreOutput] = []
    scheduler_stats: Any = None
    timestamp: float = 0.0
    utility_output: Any = None
    finished_requests: set[str] | None = None
    wave_complete: int | None = None
    start_wave: int | None = None


class Decoder:
    """Decodes the outputs of a step; vLLM's own decoder, which knows all there is, serves for the rest."""

    def __init__(self, complete: Any) -> None:
        self._complete = complete
        self._decode = msgspec.msgpack.Decoder(CoreOutputs, ext_hook=_raw_view).decode

    def decode(self, frames: Sequence[Any]) -> Any:
        """frames: the message, then the arrays that are too large to be in it."""
        outputs = self._decode(frames[0])
        if outputs.utility_output is not None:
            return self._complete.decode(frames)
        for output in outputs.outputs:
            if output.new_logprobs is not None:
                output.new_logprobs = _top_logprobs(output.new_logprobs, frames)
            if output.new_prompt_logprobs_tensors is not None:
                prompt = _top_logprobs(output.new_prompt_logprobs_tensors, frames)
                output.new_prompt_logprobs_tensors = prompt
        return outputs


def _raw_view(code: int, data: memoryview) -> memoryview:
    if code != RAW_VIEW:
        raise ValueError(f"the engine sent something pickled (extension {code}), which is not read")
    return data


def _top_logprobs(arrays: Sequence[Any], frames: Sequence[Any]) -> TopLogprobs:
    """vLLM's LogprobsLists or LogprobsTensors: token ids and values [num_positions, width], ranks, …"""
    token_ids, logprobs = arrays[0], arrays[1]
    return TopLogprobs(logprobs[1][1], _flat(token_ids, frames), _flat(logprobs, frames))


def _flat(array: Sequence[Any], frames: Sequence[Any]) -> list[Any]:
    """array: type, shape, and its bytes or the number of the frame that has them."""
    kind, _, data = array
    view = memoryview(frames[data]) if isinstance(data, int) else data
    values: list[Any] = view.cast("B").cast(FORMATS[kind]).tolist()  # type: ignore[call-overload]
    return values


class Core:
    """The way to an engine. Building it starts the engine's processes, and takes long."""

    def __init__(self, config: Any) -> None:
        from vllm.v1.engine.core_client import EngineCoreClient
        from vllm.v1.engine.exceptions import EngineDeadError
        from vllm.v1.executor import Executor

        executor = Executor.get_class(config)
        self._client = EngineCoreClient.make_async_mp_client(config, executor, log_stats=True)
        self._client.decoder = Decoder(self._client.decoder)
        self._gone = EngineDeadError
        self._is_parallel = config.parallel_config.data_parallel_size > 1
        self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(self._client.input_socket)
        self._unsent: list[list[Any]] = []
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def engine_indexes(self) -> list[int]:
        indexes: list[int] = self._client.engine_ranks_managed
        return indexes

    async def serve(self, take: Callable[[CoreOutputs], None]) -> None:
        """Hand over what each step brings as it is read, until the engine ends."""
        if self._is_parallel:
            while True:
                take(await self._client.get_output_async())
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        # The client takes this for its own task of reading. When the engine's processes have ended, it closes
        # the sockets in this loop and cancels the task.
        self._client.resources.output_queue_task = asyncio.current_task()
        output_socket = self._client.resources.output_socket
        output_socket._get_loop()  # so that closing it takes it out of the loop
        receive = zmq.Socket.shadow(output_socket).recv_multipart
        decode = self._client.decoder.decode

        def read() -> None:
            # The descriptor tells of a change, not of a state: all there is has to be read.
            with contextlib.suppress(zmq.Again):
                while not ended.is_set():
                    frames = receive(zmq.NOBLOCK)
                    if frames[0] == DEAD:
                        ended.set()
                    else:
                        take(decode(frames))

        loop.add_reader(output_socket.FD, read)
        read()
        await ended.wait()
        loop.remove_reader(output_socket.FD)

    def add(self, request: CoreRequest) -> None:
        """Begin a request. An engine that has gone is heard of in `serve` alone.

        Requests that come at once are sent a few together: each time the transport's thread is woken costs as
        much as a whole message.
        """
        if self._is_parallel:  # the client knows which engine has the least to do
            self._send(self._client.add_request_async(request))
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_requests)
        self._unsent.append([self._client.core_engine, ADD, *self._client.encoder.encode(request)])
        if len(self._unsent) >= SEND_TOGETHER:
            self._send_requests()

    def abort(self, request_ids: list[str]) -> None:
        """Unknown ids are ignored."""
        self._send(self._client.abort_requests_async(request_ids))

    def shutdown(self, timeout_s: float) -> None:
        """Blocks until the engine's processes have ended."""
        self._client.shutdown(timeout=timeout_s)

    def _send_requests(self) -> None:
        unsent, self._unsent = self._unsent, []
        for parts in unsent:
            with contextlib.suppress(zmq.ZMQError):  # closed: the engine has gone
                self._socket.send_multipart(parts, zmq.NOBLOCK)

    def _send(self, sending: Any) -> None:
        rest = None
        with contextlib.suppress(self._gone):
            rest = begin(sending)
        if rest is not None:  # the socket is full
            task = asyncio.ensure_future(rest)
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
