"""The Ray actor of an engine on a node. It has the engine's process, like a server on its own machine, and
the hub through which front ends reach it.

Ray restarts an actor that ends, on this node or another one. vLLM is only imported in the process that the
actor starts; the actor itself is light.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from server.engine.base import Phase, Status
from server.engine.ray.messages import MOST_FRONT_ENDS, EngineOrder, Told
from server.engine.supervisor import Supervisor
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.hub import Admission, Hub
from server.engine.vllm.link import sockets_folder
from server.engine.vllm.standby import Standby
from server.engine.vllm.stats import EngineMetrics
from server.engine.work import Work
from server.errors import ConfigurationError
from server.observe import logs
from server.weights.checkpoint import verify_checksums

log = logging.getLogger(__name__)

POLL_S = 10.0  # seconds after which a question is answered at the latest


class EngineActor:
    """order: an EngineOrder, as JSON. address: of the cluster. host: the address of this node for other
    nodes; empty: as Ray says."""

    def __init__(self, order: str, address: str, host: str = "") -> None:
        self._order = EngineOrder.model_validate_json(order)
        logs.configure(self._order.log_level, self._order.log_format)
        os.environ["RAY_ADDRESS"] = address  # for vLLM, if the engine spans several nodes
        model = self._order.model
        if self._order.over_nodes:
            more = {**model.engine_args, "distributed_executor_backend": "ray"}
            model = model.model_copy(update={"engine_args": more})
        self._model = model
        self._folder = sockets_folder()
        self._hub = Hub(host or node_address(), Path(self._folder.name), MOST_FRONT_ENDS)
        self._stats = EngineMetrics(CollectorRegistry()).of(model.id)
        self._standby = Standby(model) if model.standby else None
        self._engine = Supervisor(f"model {model.id}", self._make, Work())
        self._engine.on_status = self._tell
        self._admissions: dict[str, Admission] = {}
        self._silent: set[str] = set()
        self._told = Told(version=0, life=0, phase=Phase.WAITING)
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run())]
        if self._standby is not None:
            self._tasks.append(asyncio.create_task(self._standby.run()))

    async def told(self, since: int) -> str:
        """The engine's status as JSON: when its version differs from `since`, or after POLL_S."""
        try:
            async with asyncio.timeout(POLL_S):
                while self._told.version == since:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self._told.model_dump_json()

    async def admit(self, front_end: str) -> dict[str, Any]:
        """The front end's admission to the engine: the same each time, as long as the hub keeps it. Raises
        LookupError if there are too many front ends."""
        self._silent.discard(front_end)
        admission = self._admissions.get(front_end)
        if admission is None or not self._hub.keeps(admission):
            try:
                admission = self._hub.admit()
            except LookupError:
                for one in [*self._silent]:
                    await self.release(one)
                admission = self._hub.admit()
            self._admissions[front_end] = admission
        return asdict(admission)

    async def release(self, front_end: str) -> None:
        """The front end has left, or is gone."""
        self._silent.discard(front_end)
        if (admission := self._admissions.pop(front_end, None)) is not None:
            self._hub.release(admission)

    async def know(self, front_ends: list[str]) -> None:
        """These front ends report. Others may still be there, but lose their places if new front
        ends need them."""
        self._silent = self._admissions.keys() - front_ends

    async def close(self) -> None:
        """End the engine and leave nothing behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hub.close()
        self._folder.cleanup()

    async def _run(self) -> None:
        self._engine.report(Status(Phase.VERIFYING))
        try:
            await asyncio.to_thread(verify_checksums, self._model.directory, self._model.sha256)
            await self._engine.run()
        except ConfigurationError as error:
            log.error("the engine cannot run: %s", error.message)
            self._engine.report(Status(Phase.FAILED, detail=error.message))
        except Exception:  # a bug of ours, which nobody else would report
            log.exception("the server's watch over the engine failed; the actor ends, and Ray restarts it")
            os._exit(1)

    def _make(self) -> VLLMEngine:
        return VLLMEngine(
            self._model,
            self._order.context_size,
            self._stats,
            self._hub.folders,
            hang_timeout_s=self._order.hang_timeout_s,
            warms_up=not self._engine.is_restart,
            standby=self._standby,
        )

    def _tell(self, status: Status) -> None:
        was_ready = self._told.phase is Phase.READY
        self._told = Told(
            version=self._told.version + 1,
            life=self._told.life + (was_ready and not status.ready),
            **asdict(status),
        )
        self._changed.set()
        self._changed = asyncio.Event()


def node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
