"""Connects a front end to Ray: python -m server.engine.ray.agent

It is a process of its own, because Ray ends every process that is connected to it when the head or the node's
raylet is lost. A front end then continues with the engines that it has reached, and starts another agent. The
agent reads from standard input its order, one line of JSON, and then what the front end asks (messages.py);
it answers on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import ray
from pydantic import BaseModel
from ray.exceptions import RayError

from server.engine.base import Phase
from server.engine.ray.keeper import Keeper
from server.engine.ray.messages import (
    KEEPER,
    MOST_FRONT_ENDS,
    NAMESPACE,
    UNKNOWN,
    AgentAsk,
    AgentNews,
    AgentOrder,
    ReplicaView,
    Report,
    Told,
    View,
    engine_name,
)

log = logging.getLogger(__name__)

AGAIN_S = 0.5
PLACED_S = 5.0  # seconds for an actor to answer; if it does not, it waits for a node
ANSWER_S = 20.0  # seconds for the keeper to answer, as while Ray restarts it
LEAVE_S = 30.0
# If the keeper says nothing for this long, Ray is lost, or was replaced by another cluster, which this
# process would not notice: it ends, and the next agent finds out.
SILENT_S = 45.0
NODE_S = 20.0  # seconds for a node that was started at the same time
CONNECT_S = 5.0
# Exceptions of ray.init; a ConnectionError is an OSError
FAILURES = (OSError, RuntimeError, ValueError, RayError)
MAX_LINE_BYTES = 1 << 26
Say = Callable[[AgentNews], None]


class Agent:
    """say: sends news to the front end."""

    def __init__(self, order: AgentOrder, say: Say) -> None:
        self._order = order
        self._say = say
        self._keeper: Any = None
        self._following: dict[tuple[int, int], asyncio.Task[None]] = {}
        # Since when a replica does not answer; kept longer than the front end waits before it asks again.
        self._lost_at: dict[tuple[int, int], float] = {}
        self._report = Report(front_end=order.front_end)
        self._telling: asyncio.Task[None] | None = None
        self.heard_at = time.monotonic()  # the last answer of the keeper

    async def run(self, asked: AsyncIterator[AgentAsk]) -> None:
        """Run until the front end leaves, or has ended."""
        if why := await self._join():
            self._say(AgentNews(refused=f"this front end does not fit the cluster: {why}."))
            return
        left = False
        async for ask in asked:
            if left := ask.leaves:
                break
            if ask.lost is not None and (task := self._following.pop(ask.lost, None)) is not None:
                task.cancel()
            if ask.report is not None:
                self._report = ask.report
                if self._telling is None or self._telling.done():
                    self._telling = asyncio.create_task(self._tell())
        with contextlib.suppress(RayError, TimeoutError):
            end = self._keeper.leave if left else self._keeper.lost
            await asyncio.wait_for(end.remote(self._order.front_end), LEAVE_S)

    async def _join(self) -> str:
        """Join the cluster. Returns why this front end cannot; empty: it has joined."""
        self._keeper = (
            ray.remote(Keeper)
            .options(
                name=KEEPER,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                num_cpus=0,
            )
            .remote(self._order.site, ray.get_runtime_context().gcs_address)
        )
        return str(await self._keeper.join.remote(self._order.front_end, self._order.site))

    async def _tell(self) -> None:
        """Pass the front end's last report to the keeper, and the keeper's answer to the front end."""
        try:
            answer = await asyncio.wait_for(
                self._keeper.hear.remote(self._report.model_dump_json()), ANSWER_S
            )
            view = View.model_validate_json(answer)
            if view.ends:
                raise TimeoutError
        except (RayError, TimeoutError):
            await asyncio.sleep(AGAIN_S)
            with contextlib.suppress(RayError):
                await self._join()
            return
        self.heard_at = time.monotonic()
        self._say(AgentNews(view=view))
        wanted = {(one.model, one.replica): one for one in view.replicas}
        for place in [*self._following.keys() - wanted.keys()]:
            self._following.pop(place).cancel()
        for place, one in wanted.items():
            if place not in self._following:
                self._following[place] = asyncio.create_task(self._follow(one))

    async def _follow(self, one: ReplicaView) -> None:
        """Report a replica's status, and how to reach it."""
        said = AgentNews(model=one.model, replica=one.replica)
        place = one.model, one.replica
        why = f"no node has {one.needs}, or the node does not answer"
        while True:
            now = time.monotonic()
            if now - self._lost_at.setdefault(place, now) > PLACED_S:
                told = Told(version=UNKNOWN, life=UNKNOWN, phase=Phase.WAITING, detail=why)
                self._say(said.model_copy(update={"told": told}))
            try:
                actor: Any = ray.get_actor(engine_name(one.model, one.replica), NAMESPACE)
                asked = actor.admit.remote(self._order.front_end)
                self._say(said.model_copy(update={"admission": await asyncio.wait_for(asked, PLACED_S)}))
                told = Told(version=UNKNOWN, life=0, phase=Phase.WAITING)
                while True:
                    before, told = told, Told.model_validate_json(await actor.told.remote(told.version))
                    if told != before:
                        self._say(said.model_copy(update={"told": told}))
                    self._lost_at.pop(place, None)
            except (RayError, TimeoutError, ValueError) as error:  # lost, or not started yet
                log.debug("replica %d of model %d: %s", one.replica, one.model, error)
                # All places at the hub are taken; Ray's error is a LookupError too
                if isinstance(error, LookupError):
                    why = f"the cluster has its maximum of {MOST_FRONT_ENDS} front ends"
            await asyncio.sleep(AGAIN_S)


def main() -> None:
    news = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: BaseModel) -> None:
        news.write(what.model_dump_json(exclude_none=True) + "\n")
        news.flush()

    pipe = os.fdopen(0, "rb", buffering=0)
    order = AgentOrder.model_validate_json(pipe.readline())
    try:
        _connect(order.address)
    except FAILURES as error:
        if order.is_first:
            say(AgentNews(refused=_unreached(order.address, error)))
        sys.exit(f"cannot reach Ray at {order.address}: {error}")
    asyncio.run(_live(order, pipe, say))


def _connect(address: str) -> None:
    """Connect to the Ray node on this machine, which may still be starting."""
    end = time.monotonic() + NODE_S
    while not ray.is_initialized():
        try:
            if address != "auto":  # Ray itself would take a minute to say that nobody answers
                host, _, port = address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
            ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except FAILURES:
            if time.monotonic() > end:
                raise
            time.sleep(AGAIN_S)


def _unreached(address: str, error: Exception) -> str:
    where = "on this machine" if address == "auto" else f"at {address}"
    said = " ".join(str(error).split())
    return (
        f"no Ray cluster answers {where}. Start a node here: `verbatim node`, or `verbatim node --join"
        f" HEAD:6379` (docs/cluster.md). Ray's error: {said[:300]}"
    )


async def _live(order: AgentOrder, pipe: Any, say: Say) -> None:
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)

    async def asked() -> AsyncIterator[AgentAsk]:
        async for line in reader:
            yield AgentAsk.model_validate_json(line)

    agent = Agent(order, say)
    threading.Thread(target=_end_when_silent, args=(agent,), daemon=True).start()  # Ray's calls may block
    await agent.run(asked())


def _end_when_silent(agent: Agent) -> None:
    while time.monotonic() - agent.heard_at < SILENT_S:
        time.sleep(1)
    print(f"Ray has not answered for {SILENT_S:g} s", file=sys.stderr)
    os._exit(1)


if __name__ == "__main__":
    main()
