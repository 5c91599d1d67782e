"""A front end's way to Ray: python -m server.engine.ray.agent

A process of its own, because Ray ends whatever process is connected to it when the head is lost, or the
node's raylet. A front end then goes on with the engines that it has reached, and starts another agent.
Standard input has its order, one line of JSON, and then what the front end asks (messages.py); standard
output is what it says.
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
PLACED_S = 5.0  # for an actor to answer: else it waits for a node
ANSWER_S = 20.0  # for the keeper, while Ray starts it again say
LEAVE_S = 30.0
# Without a word of the keeper for so long, Ray is lost, or is another one by now, of which this process would
# never hear: it ends, and the next one finds out.
SILENT_S = 45.0
NODE_S = 20.0  # for a node that was started at the same time
CONNECT_S = 5.0
FAILURES = (OSError, RuntimeError, ValueError, RayError)  # of ray.init; a ConnectionError is an OSError
MAX_LINE_BYTES = 1 << 26
Say = Callable[[AgentNews], None]


class Agent:
    """say: to the front end."""

    def __init__(self, order: AgentOrder, say: Say) -> None:
        self._order = order
        self._say = say
        self._keeper: Any = None
        self._following: dict[tuple[int, int], asyncio.Task[None]] = {}
        # Since when nothing is heard of a replica; longer than the front end waits before it asks again.
        self._lost_at: dict[tuple[int, int], float] = {}
        self._report = Report(front_end=order.front_end)
        self._telling: asyncio.Task[None] | None = None
        self.heard_at = time.monotonic()  # from the keeper

    async def run(self, asked: AsyncIterator[AgentAsk]) -> None:
        """Until the front end leaves, or has ended."""
        if why := await self._join():
            self._say(AgentNews(refused=f"the cluster is another one's: {why}."))
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
        """Returns why it cannot."""
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
        """The keeper, what the front end has last reported; and the front end, what the keeper answers."""
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
        """Say how far a replica is, and how it is reached."""
        said = AgentNews(model=one.model, replica=one.replica)
        place = one.model, one.replica
        why = f"no node has {one.needs}, or its node does not answer"
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
            except (RayError, TimeoutError, ValueError) as error:  # lost, or not there yet
                log.debug("replica %d of model %d: %s", one.replica, one.model, error)
                if isinstance(error, LookupError):  # the hub's, and Ray's at the same time
                    why = f"{MOST_FRONT_ENDS} front ends have their places there, and more it has not"
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
        sys.exit(f"no way to Ray at {order.address}: {error}")
    asyncio.run(_live(order, pipe, say))


def _connect(address: str) -> None:
    """To the node here, which may be about to start."""
    end = time.monotonic() + NODE_S
    while not ray.is_initialized():
        try:
            if address != "auto":  # Ray itself would take a minute to say that nobody is there
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
        f"no Ray cluster is reached {where}. Start a node here, `verbatim node` or `verbatim node"
        f" --join HEAD:6379` (docs/cluster.md). Ray says: {said[:300]}"
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
    print(f"Ray has said nothing for {SILENT_S:g} s", file=sys.stderr)
    os._exit(1)


if __name__ == "__main__":
    main()
