"""Sends the load, injects the faults, and counts the outcome of each request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.exchange import Exchange, ask, half, leave
from benchmarks.chaos.faults import FAULTS, Fault, kill_worker
from benchmarks.chaos.footprint import Footprint, footprint
from benchmarks.chaos.kinds import can_stream
from benchmarks.chaos.replies import BrokenReply, Reply

# Longer than a request may wait for an engine (resume_timeout_s): a request that takes longer hangs.
PATIENCE_S = 200.0
BACK_S = 1.0  # seconds after a refusal
SAMPLE_S = 5.0
# Shares of clients that read slowly, leave in the middle, or send half a request.
SLOW, LEAVES, HALF = 0.08, 0.08, 0.04
MOST_EVIDENCE = 30


@dataclass
class Findings:
    """started: requests that were sent completely and read to their end, with any result. refused: those of
    them that were told to come back before anything had begun. cut: those whose worker was killed. resumed:
    those that saw a pause."""

    started: int = 0
    finished: int = 0
    wrong: int = 0
    lost: int = 0
    refused: int = 0
    cut: int = 0
    left: int = 0
    half: int = 0
    resumed: int = 0
    longest_gap_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    evidence: list[str] = field(default_factory=list)

    def tell(self, what: str, body: dict[str, Any], words: str) -> None:
        if len(self.evidence) < MOST_EVIDENCE:
            self.evidence.append(f"{what}: {words[:400]} | {body}")

    def line(self) -> str:
        return (
            f"{self.started} started, {self.finished} finished, {self.wrong} wrong, {self.lost} lost,"
            f" {self.refused} refused, {self.cut} cut with their worker, {self.left} left;"
            f" {self.resumed} saw a pause, longest {self.longest_gap_s:.1f} s; faults: {dict(self.faults)}"
        )


class Campaign:
    """server: its process. temporary: its TMPDIR. known: requests with their replies without faults. every_s:
    seconds from a fault to the next, on average. kills_workers: whether killing workers is one
    of the faults."""

    def __init__(
        self,
        server: psutil.Process,
        port: int,
        temporary: Path,
        known: list[tuple[dict[str, Any], Reply]],
        *,
        seed: int,
        every_s: float,
        kills_workers: bool,
    ) -> None:
        self.findings = Findings()
        self.samples: list[tuple[float, Footprint]] = []
        self._server, self._port, self._temporary = server, port, temporary
        self._known, self._seed, self._every_s = known, seed, every_s
        self._faults: dict[str, Fault] = FAULTS | ({"a worker's death": kill_worker} if kills_workers else {})
        self._kills_workers = kills_workers
        self._began = time.monotonic()
        self._is_over = asyncio.Event()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def stop(self) -> None:
        """Send no more requests, and inject no more faults."""
        self._is_over.set()

    async def run(self, seconds: float, num_clients: int) -> None:
        """Run the load and the faults. Raises RuntimeError if the server ends by itself."""
        clients = [asyncio.create_task(self._client(k)) for k in range(num_clients)]
        beside = [asyncio.create_task(self._do_faults()), asyncio.create_task(self._look())]
        try:
            await asyncio.wait((*beside, asyncio.create_task(self._is_over.wait())), timeout=seconds, **FIRST)
            self.stop()
            for task in beside:
                if task.done():
                    task.result()
            await asyncio.wait(clients, timeout=PATIENCE_S + 10)
            for client in clients:
                if client.done():
                    client.result()
        finally:
            for task in (*clients, *beside):
                task.cancel()
            await asyncio.gather(*clients, *beside, return_exceptions=True)

    async def _client(self, number: int) -> None:
        draw = random.Random(f"{self._seed} {number}")
        while not self._is_over.is_set():
            body, expected = draw.choice(self._known)
            body = body | {"stream": can_stream(body) and draw.random() < 0.75}
            kind = draw.random()
            try:
                if kind < HALF:
                    self.findings.half += 1
                    async with asyncio.timeout(PATIENCE_S):
                        await half(self._port, Exchange(body), draw.random(), draw.uniform(0, 5))
                elif kind < HALF + LEAVES:
                    self.findings.left += 1
                    async with asyncio.timeout(PATIENCE_S):
                        await leave(self._port, Exchange(body), draw.randint(0, 20_000))
                else:
                    await self._ask(Exchange(body), expected, slowly=kind < HALF + LEAVES + SLOW)
            except (OSError, TimeoutError):  # clients that leave
                await asyncio.sleep(BACK_S)

    async def _ask(self, exchange: Exchange, expected: Reply, *, slowly: bool) -> None:
        findings = self.findings
        findings.started += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ask(self._port, exchange, slowly=slowly)
            reply = exchange.reply()
        except TimeoutError:
            findings.lost += 1
            findings.tell("hangs", exchange.body, repr(bytes(exchange.received[-200:])))
        except (OSError, BrokenReply) as error:
            await self._broken(exchange, error)
        else:
            findings.finished += 1
            findings.resumed += exchange.num_comments > 0
            findings.longest_gap_s = max(findings.longest_gap_s, exchange.longest_gap_s)
            is_ranked = not can_stream(exchange.body)
            if difference := reply.difference(expected, usage=not is_ranked):
                findings.wrong += 1
                findings.tell(f"wrong after {self.seconds:.0f} s", exchange.body, difference)

    async def _broken(self, exchange: Exchange, error: Exception) -> None:
        findings, words = self.findings, str(error) or repr(error)
        if words.startswith("503") and "resume_timeout_s" not in words and "has stopped" not in words:
            findings.refused += 1
            await asyncio.sleep(BACK_S)
        elif self._kills_workers and ("connection" in words.lower() or isinstance(error, OSError)):
            findings.cut += 1
        else:
            findings.lost += 1
            findings.tell(f"lost after {self.seconds:.0f} s", exchange.body, words)

    async def _do_faults(self) -> None:
        draw = random.Random(self._seed)
        while True:
            await asyncio.sleep(draw.uniform(0.3, 1.7) * self._every_s)
            name = draw.choice(list(self._faults))
            try:
                await asyncio.to_thread(self._faults[name], self._server.pid, self._temporary, draw)
            except (OSError, psutil.Error) as error:  # the server had no engine at the moment
                self.findings.tell("no fault", {"name": name}, repr(error))
            else:
                self.findings.faults[name] += 1

    async def _look(self) -> None:
        while self._server.is_running() and self._server.status() != psutil.STATUS_ZOMBIE:
            try:
                self.samples.append((self.seconds, footprint(self._server.pid, self._temporary)))
            except (OSError, psutil.Error):  # something ended while it was looked at
                continue
            finally:
                await asyncio.sleep(SAMPLE_S)
        raise RuntimeError("the server has ended by itself")


FIRST: dict[str, Any] = {"return_when": asyncio.FIRST_COMPLETED}
