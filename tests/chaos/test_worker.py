"""What becomes of a worker's requests when it is killed, and of the others'."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.exchange import Exchange, ask
from benchmarks.chaos.faults import engines, workers
from benchmarks.chaos.replies import BrokenReply
from tests.chaos.conftest import Subject, at_once
from tests.serving import wait_for

pytestmark = pytest.mark.engine


def test_death_of_a_worker_costs_its_own_connections(two: Subject) -> None:
    """Those are cut, the others' replies are whole; no work of the lost ones stays with the engine, and the
    next worker answers as ever."""
    before = two.footprint()
    (engine,), (worker,) = engines(two.pid), workers(two.pid)
    exchanges, num_its_own = [Exchange(body) for body in two.bodies], 0

    async def run() -> None:
        nonlocal num_its_own
        asking = [asyncio.create_task(_ask(two.port, one)) for one in exchanges]
        while sum(b"data: " in one.received for one in exchanges) < len(exchanges) // 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        num_its_own = sum(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections("tcp"))
        worker.kill()
        await asyncio.gather(*asking)

    asyncio.run(run())
    cut = 0
    for exchange, expected in zip(exchanges, two.expected, strict=True):
        try:
            assert exchange.reply().difference(expected, usage=False) == ""
        except BrokenReply:
            cut += 1
    assert 0 < cut <= num_its_own
    assert "worker 1 ended (signal 9); starting another one in 1 s" in two.server.said()
    wait_for(lambda: [one.pid for one in workers(two.pid)] not in ([], [worker.pid]), 30)
    assert two.differences(at_once(two.port, two.bodies)) == []
    two.settle(before.num_files)
    assert engines(two.pid) == [engine]
    assert _left_by(two.temporary, worker.pid) == {"counter", "histogram"}


async def _ask(port: int, exchange: Exchange) -> None:
    with contextlib.suppress(ConnectionError):
        await ask(port, exchange)


def _left_by(folder: Path, pid: int) -> set[str]:
    """The kinds of its metrics' files: what it has counted goes on being counted."""
    return {file.name.split("_")[0] for file in folder.rglob(f"*_{pid}.db")}
