"""What a token costs in Python, from the engine's message to the bytes for its connection, by kind of load.

    python -m benchmarks.tokens [--code FOLDER] [--json FILE]

Without an engine or a connection. *cold*: before each step the processor's cache is filled with other data,
as it is when a step comes 20 ms after the last and other processes have run meanwhile. --code: a checkout of
another commit, which is measured in turn with this one (inprocess.py).
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from typing import Any

STREAMS, STEPS, PASSES = 256, 40, 12
COLD = ", cold"
CACHE_BYTES = 64 << 20  # more than the cache of a core and its share of the last one
MODEL = "smollm2-135m-instruct"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain" + COLD: {},
    "logprobs 5": {"num_logprobs": 5},
    "logprobs 5" + COLD: {"num_logprobs": 5},
    "stop": {"stop": ("\n\nQuestion:", "###", "<|end|>", "Observation:")},
    "stop" + COLD: {"stop": ("\n\nQuestion:", "###", "<|end|>", "Observation:")},
    "whole": {},
    "whole" + COLD: {},
}


def measured(kind: str) -> float:
    """Microseconds of CPU a token."""
    return min(asyncio.run(_passed(kind)) for _ in range(PASSES))


async def _passed(kind: str) -> float:
    from server.contract.params import GenerationParams
    from server.engine.ticket import Ticket
    from server.engine.vllm.running import RunningJobs
    from server.engine.vllm.wire import decode
    from server.generation.candidates import Generation
    from server.generation.outputs import PromptText
    from server.http.metrics import Metrics
    from server.http.sse import Reply, Stream
    from server.http.streaming import EventStream
    from server.text.tokenizer import load_tokenizer
    from server.weights.builtin import builtin_path

    tokenizer = load_tokenizer(builtin_path(MODEL), 49152)
    jobs = RunningJobs(Metrics(None).engines.of("m"), lambda _: None)
    names: list[str] = []

    class Engine:
        """Keeps what it is given."""

        def submit(self, job: Any, sink: Any) -> None:
            ticket = Ticket(1, job, sink, lambda _: None, lambda _: None)
            jobs.add(job, ticket.take)
            names.append(job.id)

        def abort(self, job_id: str) -> None:
            pass

    params = GenerationParams(max_tokens=10**6, ignore_eos=True, **KINDS[kind])
    for k in range(STREAMS):
        engine: Any = Engine()
        generation = Generation(str(k), [PromptText([5])], params, engine, tokenizer)
        if kind.startswith("whole"):
            generation.start(list[Any]().extend)
            continue
        reply = Stream(Reply("x" * 32, 1, MODEL), 1, 1, include_usage=False, continuous=False)
        stream: Any = EventStream(generation, reply, None)
        stream._is_started, stream._write, stream._send_body = True, len, _sent
        generation.start(stream._take)
    draw = random.Random(5)
    usual = draw.sample([i for i in range(300, 49152) if tokenizer.texts[i]], 2000)
    messages = [[_message(kind, names, step, usual, draw)] for step in range(STEPS)]
    jobs.take([decode(messages[0])])  # a job's first token has a way of its own
    other, took = bytearray(CACHE_BYTES), 0
    for message in messages[1:]:
        if kind.endswith(COLD):
            bytes(other)
        began = time.thread_time_ns()
        jobs.take([decode(message)])
        took += time.thread_time_ns() - began
    return took / 1000 / STREAMS / (STEPS - 1)


async def _sent(message: Any) -> None:
    """For a text that happens to have a stop sequence."""


def _message(kind: str, names: list[str], step: int, usual: list[int], draw: random.Random) -> bytes:
    """A step, as the engine sends it."""
    import msgspec

    outputs: list[list[Any]] = []
    for name in names:
        ids = draw.sample(usual, 6)
        output: list[Any] = [name, ids[:1]]
        if kind.startswith("logprobs"):
            values = struct.pack("<6f", *(-0.7 * k - draw.random() for k in range(6)))
            arrays = (
                ("<i4", [1, 6], struct.pack("<6i", *ids)),
                ("<f4", [1, 6], values),
                ("<i4", [1], bytes(4)),
            )
            output.append([[code, shape, msgspec.msgpack.Ext(3, data)] for code, shape, data in arrays])
        outputs.append(output)
    return msgspec.msgpack.encode([0, outputs, None, 0.02 * (step + 1)])


if __name__ == "__main__":
    from benchmarks.inprocess import compare

    compare(__file__, __doc__, KINDS, "a token's way in Python", "token")
