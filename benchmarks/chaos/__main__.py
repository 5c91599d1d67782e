"""Injects faults under load, at random or each once, and counts lost and wrong replies and leftovers.

    python -m benchmarks.chaos --minutes 60 [--seed 1] [--json FILE]
    python -m benchmarks.chaos --cases --requests 64 [--json FILE]

Clients ask a server with a tiny random float32 model for completions of many kinds; some clients read slowly,
leave, or send half a request. Meanwhile the engine is killed or stopped, or its messages are damaged. Each
reply is compared with the reply to the same request without faults. Log-probabilities may differ by 0.0001.
The usage of ranked candidates may differ too, because it depends on time when candidates are given up.

FILE is written each minute and at the end. SIGTERM ends the run early and writes what was found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.cases import each_fault, table
from benchmarks.chaos.exchange import Exchange, ask
from benchmarks.chaos.footprint import footprint
from benchmarks.chaos.kinds import can_stream, drawn, with_stop
from benchmarks.chaos.replies import Reply
from benchmarks.report import machine, write
from benchmarks.servers import Server, verbatim

MODEL = "tiny"
AT_ONCE = 16
PROGRESS_S = 60.0
OVERTIME_S = 900.0  # seconds for the start, for learning the replies, and for the end; then the run is killed
WARM_SHARE = 0.15  # share of the time after which memory counts as warm, and length of the compared periods
QUIET_S = 5.0
CACHE = f"torchinductor_{getpass.getuser()}"  # torch creates it when it is imported


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--minutes", type=float, help="inject random faults for this many minutes")
    what.add_argument(
        "--cases", action="store_true", help="inject each fault once, in the middle of all requests"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--requests", type=int, default=60, help="number of different requests, drawn with the seed"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=40, help="seconds between two faults, on average")
    parser.add_argument("--greedy", action="store_true", help="send greedy requests only")
    parser.add_argument("--standby", action="store_true", help="run the server with a standby process")
    parser.add_argument(
        "--kill-workers", action="store_true", help="kill workers too, which cuts their replies"
    )
    parser.add_argument("--log", type=Path, help="where to write the server's log")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.signal(signal.SIGTERM, _told_to_end)
    signal.alarm(int((options.minutes or 0) * 60 + OVERTIME_S))
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        temporary = folder / "tmp"
        temporary.mkdir()
        script = Path(__file__).parents[2] / "tests" / "tiny_llama.py"
        subprocess.run([sys.executable, script, folder / "model"], check=True)
        settings = {"workers": options.workers, "receive_timeout_s": 10, "slow_reader_timeout_s": 20}
        environ = {"TMPDIR": str(temporary)}
        with verbatim(
            folder, [_model(folder / "model", standby=options.standby)], environ=environ, **settings
        ) as server:
            try:
                how = each_once if options.cases else by_chance
                results = asyncio.run(how(server, temporary, options))
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the run ends, the server first
                if options.log:
                    options.log.write_bytes(server.log.read_bytes())
        results["left"] = [path.name for path in temporary.iterdir() if path.name != CACHE]
        results["log"] = dict(_complaints(server.log))
    _save(options, results)
    Console().print_json(data=results)
    found = results["rows"] if options.cases else [results["findings"]]
    is_well = results["is_whole"] and not results["left"]
    sys.exit(not is_well or any(one["wrong"] or one["lost"] for one in found))


def _out_of_time(*_: object) -> None:
    raise TimeoutError("the campaign did not end in time")


def _told_to_end(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def _model(path: Path, *, standby: bool) -> dict[str, Any]:
    return {
        "standby": standby,
        "id": MODEL,
        "path": str(path),
        "dtype": "float32",
        "max_model_len": 256,
        "kv_cache_gib": 0.25,
        "engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": 2**28},
    }


async def each_once(server: Server, temporary: Path, options: argparse.Namespace) -> dict[str, Any]:
    known = await learn(server.port, options)
    results: dict[str, Any] = {"machine": machine("chaos"), "is_whole": False, "rows": []}
    async for row in each_fault(server, temporary, known, options.seed):
        results["rows"].append(row)
        _save(options, results)
        Console().print(f"{row['fault']}: {row['equal']} of {row['streams']} equal")
    Console().print(table(results["rows"]))
    return results | {"is_whole": True}


async def by_chance(server: Server, temporary: Path, options: argparse.Namespace) -> dict[str, Any]:
    console = Console(soft_wrap=True, highlight=False)
    known = await learn(server.port, options)
    console.print(f"{len(known)} requests are known; seed {options.seed}")
    await asyncio.sleep(QUIET_S)
    quiet = footprint(server.process.pid, temporary)
    campaign = Campaign(
        server.process,
        server.port,
        temporary,
        known,
        seed=options.seed,
        every_s=options.every,
        kills_workers=options.kill_workers,
    )
    results: dict[str, Any] = {"machine": machine("chaos"), "is_whole": False}
    seconds, began = options.minutes * 60, time.monotonic()
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    loop.add_signal_handler(signal.SIGTERM, campaign.stop)

    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            console.print(f"{(time.monotonic() - began) / 60:.0f} min: {campaign.findings.line()}")
            console.print(f"  {campaign.samples[-1][1]}" if campaign.samples else "")
            _save(options, results | _found(campaign, seconds))

    telling = asyncio.create_task(tell())
    try:
        await campaign.run(seconds, options.clients)
        results["is_whole"] = time.monotonic() - began >= seconds
        await _engine_is_back(server.port, known)
        await asyncio.sleep(QUIET_S)
        results["quiet"] = [quiet.as_dict(), footprint(server.process.pid, temporary).as_dict()]
    except (RuntimeError, TimeoutError) as error:
        results["failure"] = repr(error)
    finally:
        telling.cancel()
    console.print(campaign.findings.line())
    return results | _found(campaign, seconds)


async def learn(port: int, options: argparse.Namespace) -> list[tuple[dict[str, Any], Reply]]:
    """Requests with their replies; some of them stop in the middle of their text.

    Raises RuntimeError if the same request gets two different replies.
    """
    draw = random.Random(options.seed)
    bodies = [{"model": MODEL} | drawn(draw, k, sampled=not options.greedy) for k in range(options.requests)]
    texts = [reply.choices[0]["text"] for reply in await _answers(port, bodies)]
    for k in range(0, len(bodies), 3):
        if not bodies[k].get("echo"):
            bodies[k] = with_stop(draw, bodies[k], texts[k])
    known = list(zip(bodies, await _answers(port, bodies), strict=True))
    streams = [body | {"stream": can_stream(body)} for body in bodies]
    for (body, reply), again in zip(known, await _answers(port, streams), strict=True):
        if difference := again.difference(reply, usage=can_stream(body)):
            raise RuntimeError(
                f"without a fault, the same request is answered in two ways: {difference} | {body}"
            )
    return known


async def _answers(port: int, bodies: list[dict[str, Any]]) -> list[Reply]:
    exchanges, room = [Exchange(body) for body in bodies], asyncio.Semaphore(AT_ONCE)

    async def one(exchange: Exchange) -> None:
        async with room, asyncio.timeout(OVERTIME_S):
            await ask(port, exchange)

    await asyncio.gather(*(one(exchange) for exchange in exchanges))
    return [exchange.reply() for exchange in exchanges]


async def _engine_is_back(port: int, known: list[tuple[dict[str, Any], Reply]]) -> None:
    """Wait until an engine is ready: the last fault may have come a moment ago."""
    async with asyncio.timeout(PROGRESS_S * 3):
        while True:
            with contextlib.suppress(Exception):
                await _answers(port, [known[0][0]])
                return
            await asyncio.sleep(1)


def _found(campaign: Campaign, seconds: float) -> dict[str, Any]:
    findings = campaign.findings
    found = {**vars(findings), "faults": dict(findings.faults)}
    warm_s = WARM_SHARE * seconds
    start = [sample for at, sample in campaign.samples if warm_s <= at < 2 * warm_s]
    end = [sample for at, sample in campaign.samples if at >= seconds - warm_s]
    memory: dict[str, Any] = {}
    if start and end:
        before, after = (median(sample.front_mib for sample in part) for part in (start, end))
        memory = {"start_mib": before, "end_mib": after, "growth": after / before - 1}
    series = [
        (round(at), sample.as_dict())
        for at, sample in campaign.samples[:: max(1, len(campaign.samples) // 60)]
    ]
    return {"seconds": campaign.seconds, "findings": found, "memory": memory, "samples": series}


def _complaints(log: Path) -> Counter[str]:
    """Warnings and errors in the log without numbers, and how often each came."""
    lines = log.read_text("utf-8", "replace").splitlines()
    said = (line[24:] for line in lines if re.search(r" (ERROR|WARNING) ", line[:34]))
    return Counter(re.sub(r"[0-9a-f]{32}|\d+", "N", line) for line in said)


def _save(options: argparse.Namespace, results: dict[str, Any]) -> None:
    if options.json:
        partial = options.json.with_suffix(".partial")
        write(partial, results)
        partial.replace(options.json)


if __name__ == "__main__":
    main()
