"""What a request costs in Python, from the bytes of its connection to its last, without its tokens' way.

    python -m benchmarks.admission [--code FOLDER] [--json FILE]

Connections keep what is written, and an engine answers each request with one token, from the message that
vLLM would send. --code: a checkout of another commit, which is measured in turn with this one (inprocess.py).
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

REQUESTS, AT_ONCE, PASSES = 2048, 64, 12
MODEL = "smollm2-135m-instruct"
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "stream": {"stream": True},
    "whole, sampled": {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1, "stop": ["###"]},
}


def measured(kind: str) -> float:
    """Microseconds of CPU a request."""
    import uvloop

    from server.process import port

    async def passes() -> float:
        app, collect = await _served()
        await port._settle(app.state.server)
        times = [await _passed(app, collect, kind) for _ in range(PASSES)]
        return min(times)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(passes())


async def _served() -> tuple[Any, Any]:
    """(the application, a function that lets the engine answer what it was sent)."""
    import msgspec

    from server.config.model import ModelSettings
    from server.config.settings import Settings
    from server.engine.base import Phase, Status
    from server.engine.replicas import Replicas
    from server.engine.served import ServedModel
    from server.engine.vllm.running import RunningJobs
    from server.engine.vllm.translate import core_request
    from server.engine.vllm.wire import decode, encode
    from server.http.app import build_app
    from server.http.metrics import Metrics
    from server.text.tokenizer import load_tokenizer
    from server.weights.builtin import builtin_path

    metrics, sent = Metrics(), list[str]()
    running = RunningJobs(metrics.engines.of(MODEL), lambda _: None)

    class Engine:
        cache_tokens = 0

        def submit(self, job: Any, sink: Any) -> None:
            running.add(job, sink)
            encode(core_request(job))
            sent.append(job.id)

        def abort(self, job_id: str) -> None:
            running.discard(job_id)

    settings = ModelSettings(id=MODEL, builtin=MODEL)
    path = builtin_path(MODEL)
    replicas = Replicas(MODEL, lambda _: Engine())  # type: ignore[arg-type,return-value]
    model = ServedModel(settings, load_tokenizer(path, 49152), 2048, 49152, replicas)
    replicas.supervisors[0].status = Status(Phase.READY)
    replicas.work.begin(Engine())  # type: ignore[arg-type]
    app = build_app(Settings(models=(settings,), log_level="warning"), [model], metrics)

    def collect() -> None:
        outputs = [[job_id, [500], None, None, None, 1] for job_id in sent]
        sent.clear()
        running.take([decode([msgspec.msgpack.encode([0, outputs, None, time.monotonic()])])])

    return app, collect


async def _passed(app: Any, collect: Any, kind: str) -> float:
    from uvicorn.server import ServerState

    from server.http.connections import Connections
    from server.process.port import config_of, protocol_factory

    state = app.state.server
    connections = Connections(state.settings, state.metrics, 1000)
    make = protocol_factory(None, connections)
    config = config_of(app, make)
    config.load()
    body = {
        "model": MODEL,
        "max_tokens": 1,
        "prompt": "Story: once upon a time there was a king, who had three",
        "ignore_eos": True,
    } | KINDS[kind]
    request = _request(json.dumps(body).encode())
    opened = [_Transport() for _ in range(AT_ONCE)]
    shared = ServerState()
    for transport in opened:
        transport.protocol = make(config=config, server_state=shared, app_state={})
        transport.protocol.connection_made(transport)
    began = time.thread_time_ns()
    for _ in range(REQUESTS // AT_ONCE):
        for transport in opened:
            transport.protocol.data_received(request)
        while any(not one.is_answered for one in opened):
            await asyncio.sleep(0)
            collect()
        for transport in opened:
            transport.written.clear()
    us = (time.thread_time_ns() - began) / 1000 / REQUESTS
    for transport in opened:
        transport.protocol.connection_lost(None)
    return us


def _request(body: bytes) -> bytes:
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAuthorization: Bearer any\r\n"
        b"Accept: */*\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.protocol: Any = None
        self._socket = socket.socket()

    @property
    def is_answered(self) -> bool:
        end = self.written[-1] if self.written else b""
        return end.endswith((b"0\r\n\r\n", b"}}"))

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self._socket.close()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


if __name__ == "__main__":
    from benchmarks.inprocess import compare

    compare(__file__, __doc__, KINDS, "a request's way in Python", "request")
