"""What a token costs in Python, from the engine's message to the bytes for its connection, by kind of load.

    python -m benchmarks.tokens [--code FOLDER] [--json FILE]

In this process alone, without an engine or a connection: the least of many passes, in CPU time of the thread,
so that a machine that is busy with something else changes it little. --code: a checkout of another commit,
which is measured in turn with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

STREAMS, STEPS, PASSES, TURNS = 256, 40, 12, 3
MODEL = "smollm2-135m-instruct"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "logprobs 5": {"num_logprobs": 5},
    "stop": {"stop": ("\n\nQuestion:", "###", "<|end|>", "Observation:")},
    "whole": {},
}
# Run by path: another checkout has other benchmarks.
MEASURE = "import runpy; print(runpy.run_path({file!r})['measured']({kind!r}))"


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
        if kind == "whole":
            generation.start(list[Any]().extend)
            continue
        reply = Stream(Reply("x" * 32, 1, MODEL), 1, 1, include_usage=False, continuous=False)
        stream: Any = EventStream(generation, reply, None)
        stream._is_started, stream._write, stream._send_body = True, len, None
        generation.start(stream._take)
    draw = random.Random(5)
    usual = draw.sample([i for i in range(300, 49152) if tokenizer.texts[i]], 2000)
    messages = [[_message(kind, names, step, usual, draw)] for step in range(STEPS)]
    jobs.take([decode(messages[0])])  # a job's first token has a way of its own
    began = time.thread_time_ns()
    for message in messages[1:]:
        jobs.take([decode(message)])
    return (time.thread_time_ns() - began) / 1000 / STREAMS / (STEPS - 1)


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


def of(code: Path, kind: str) -> float:
    """The same, of that checkout."""
    program = MEASURE.format(file=str(Path(__file__).absolute()), kind=kind)
    environ = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environ, cwd=code, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def main() -> None:
    from rich.console import Console

    from benchmarks.handout import ROOT, commit
    from benchmarks.report import machine, table, write

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, help="another checkout")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    codes = {"now": ROOT} | ({"before": options.code.absolute()} if options.code else {})
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        runs: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(TURNS):
            for name, code in codes.items():
                runs[name].append(of(code, kind))
        rows += [
            {"kind": kind, "code": name, "us": median(found), "runs": found} for name, found in runs.items()
        ]
    cells = (
        [row["kind"], row["code"], *(f"{us:.2f}" for us in (row["us"], min(row["runs"]), max(row["runs"])))]
        for row in rows
    )
    Console().print(table("a token's way in Python", ("kind", "code", "µs a token", "from", "to"), cells))
    if options.json:
        found = machine("tokens") | ({"before": commit(options.code)} if options.code else {})
        write(options.json, {"machine": found, "rows": rows})


if __name__ == "__main__":
    main()
