"""Injects each fault once, in the middle of many streams, and reports what they saw and what is left over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import report
from benchmarks.chaos.exchange import Exchange, ask
from benchmarks.chaos.faults import FAULTS, engines
from benchmarks.chaos.footprint import footprint
from benchmarks.chaos.kinds import can_stream
from benchmarks.chaos.replies import BrokenReply, Reply
from benchmarks.servers import Server

PATIENCE_S = 200.0
# An engine that lived shorter counts as a failed start, and the next one is delayed.
LIVES_S = 32.0
BEGUN = 0.5  # share of the streams that have begun when the fault comes


async def each_fault(
    server: Server, temporary: Path, known: list[tuple[dict[str, Any], Reply]], seed: int
) -> AsyncIterator[dict[str, Any]]:
    """A row of the results for each fault."""
    for name in FAULTS:
        await asyncio.sleep(LIVES_S)
        yield await _one(name, server, temporary, known, random.Random(seed))


async def _one(
    name: str,
    server: Server,
    temporary: Path,
    known: list[tuple[dict[str, Any], Reply]],
    draw: random.Random,
) -> dict[str, Any]:
    before, alive = footprint(server.process.pid, temporary), engines(server.process.pid)
    exchanges = [Exchange(body | {"stream": can_stream(body)}) for body, _ in known]
    asking = [asyncio.create_task(ask(server.port, exchange)) for exchange in exchanges]
    async with asyncio.timeout(PATIENCE_S):
        while sum(b"data: " in one.received for one in exchanges) < BEGUN * len(exchanges):
            await asyncio.wait(asking, timeout=0.01)
        await asyncio.to_thread(FAULTS[name], server.process.pid, temporary, draw)
        num_running = sum(not task.done() for task in asking)
        await asyncio.gather(*asking)
    wrong, lost = [], []
    for exchange, (body, expected) in zip(exchanges, known, strict=True):
        try:
            if difference := exchange.reply().difference(expected, usage=can_stream(body)):
                wrong.append(difference)
        except BrokenReply as broken:
            lost.append(str(broken))
    await asyncio.sleep(1)
    after = footprint(server.process.pid, temporary)
    return {
        "fault": name,
        "streams": len(exchanges),
        "running": num_running,
        "equal": len(exchanges) - len(wrong) - len(lost),
        "wrong": wrong,
        "lost": lost,
        "longest_gap_s": max(exchange.longest_gap_s for exchange in exchanges),
        "engine_replaced": engines(server.process.pid) != alive,
        "more_mib": after.front_mib - before.front_mib,
        "more_files": sum(after.num_files) - sum(before.num_files),
        "more_processes": after.num_processes - before.num_processes,
        "more_temporary": after.num_temporary - before.num_temporary,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    return report.table(
        "each fault in the middle of many requests",
        ("fault", "requests", "running then", "equal", "longest gap", "new engine", "MiB more", "files more"),
        (
            [
                row["fault"],
                str(row["streams"]),
                str(row["running"]),
                str(row["equal"]),
                f"{row['longest_gap_s']:.1f}",
                "yes" if row["engine_replaced"] else "no",
                f"{row['more_mib']:.1f}",
                f"{row['more_files']}+{row['more_temporary']}",
            ]
            for row in rows
        ),
    )
