"""What the front ends of a cluster share: the engines, the front ends, and the usage of API keys.

It is one actor of the cluster, which Ray restarts when it has ended. The front ends report within a second,
and Ray knows the engines: so the keeper does not have to store anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from server.config.model import ModelSettings
from server.config.replication import Replication
from server.engine.ray.actor import EngineActor
from server.engine.ray.messages import (
    NAMESPACE,
    EngineOrder,
    ReplicaView,
    Report,
    Use,
    View,
    engine_name,
    numbers_of,
)
from server.engine.ray.site import Site, refusal
from server.engine.scaling import Scale
from server.observe import logs

log = logging.getLogger(__name__)

LOOK_S = 0.5
FIND_S = 5.0  # seconds between two questions to Ray for its engines
# A front end that has not reported for this long is gone. The engines of the last one wait this long
# for the next.
GONE_S = 60.0
HEARD_S = 3.0  # seconds until all front ends have heard a change and reported since
CLOSE_S = 15.0  # seconds for an engine to end
# The actor of one replica gets the model without devices: Ray assigns the GPUs.
ALONE: dict[str, Any] = {"devices": (), "replicas": Replication(), "min_ready": 1}


@dataclass(slots=True)
class FrontEnd:
    """One front end. heard_at: time.monotonic."""

    report: Report
    heard_at: float


class Keeper:
    """site: a Site as JSON, the first front end's. address: of the cluster."""

    def __init__(self, site: str, address: str) -> None:
        self._site = Site.model_validate_json(site)
        logs.configure(self._site.log_level, self._site.log_format)
        self._address = address
        self._front_ends: dict[str, FrontEnd] = {}
        self._began_at = self._lonely_since = time.monotonic()
        self._ends = False
        self._leaving: dict[tuple[int, int], float] = {}  # replicas that are to end -> since when
        self._actors: dict[tuple[int, int], Any] = {}
        self._found_at = self._ray_since = time.monotonic()  # since when Ray's head answers
        self._requested: list[dict[str, float]] | None = None
        self._models = [model for model in self._site.models if model.engine != "simulated"]
        self._numbers = [n for n, model in enumerate(self._site.models) if model.engine != "simulated"]
        found = self._take_over()
        self._scales = {
            number: Scale(model.replicas, model.max_num_seqs, found[number])
            for number, model in self._served()
        }
        self._task = asyncio.create_task(self._run())

    async def join(self, front_end: str, site: str) -> str:
        """Why the front end cannot join; empty: it has joined."""
        if why := refusal(self._site, Site.model_validate_json(site)):
            return why
        self._front_ends[front_end] = FrontEnd(Report(front_end=front_end), time.monotonic())
        return ""

    async def hear(self, report: str) -> str:
        """Takes a front end's Report as JSON. Returns a View as JSON."""
        told = Report.model_validate_json(report)
        now = time.monotonic()
        self._front_ends[told.front_end] = FrontEnd(told, now)
        return View(
            num_front_ends=len(self._front_ends),
            replicas=[
                ReplicaView(
                    model=model, replica=n, needs=self._needs(model), leaves=(model, n) in self._leaving
                )
                for model, n in sorted(self._actors)
            ],
            keys=self._used_elsewhere(told.front_end, now),
            ends=self._ends,
        ).model_dump_json()

    async def leave(self, front_end: str) -> None:
        """The front end ends. With the last one, the engines end."""
        await self.lost(front_end)
        if not self._front_ends and not self._ends:
            await self._end()

    async def lost(self, front_end: str) -> None:
        """The front end ended without leaving. If it was the last one, its engines wait for a while
        for the next."""
        if self._front_ends.pop(front_end, None) is not None:
            for actor in self._actors.values():
                actor.release.remote(front_end)

    async def _run(self) -> None:
        while not self._ends:
            try:
                await self._look()
            except Exception:
                log.exception("the keeper failed to check its engines")
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        now = time.monotonic()
        if now - self._found_at > FIND_S:
            await self._find()
        self._forget_silent(now)
        if self._front_ends:
            self._lonely_since = now
        elif now - max(self._lonely_since, self._ray_since) > GONE_S:
            log.warning("all front ends have left; the engines end")
            await self._end()
            return
        for number, model in self._served():
            self._scale(now, number, model)
        await self._retire(now)
        self._request()

    def _forget_silent(self, now: float) -> None:
        """Forget front ends that have not reported while Ray answered all the time: without Ray's head, none
        can report. They may still be there and use the engines."""
        for name, one in [*self._front_ends.items()]:
            if now - max(one.heard_at, self._ray_since) > GONE_S:
                log.warning("front end %s has not reported for %g s, and counts as gone", name, GONE_S)
                del self._front_ends[name]

    # ---- engines -------------------------------------------------------------------------------------------

    def _served(self) -> Iterable[tuple[int, ModelSettings]]:
        return zip(self._numbers, self._models, strict=True)

    async def _find(self) -> None:
        """Forget replicas that have ended for good, which Ray does not restart; others
        are started instead."""
        try:
            names = await asyncio.wait_for(asyncio.to_thread(ray.util.list_named_actors), FIND_S)
        except (RayError, TimeoutError):
            self._ray_since = time.monotonic()
            return
        for place in [place for place in self._actors if engine_name(*place) not in names]:
            log.error(
                "replica %d of model %s has ended; another one is being started", place[1], self._id(place[0])
            )
            del self._actors[place]
            self._leaving.pop(place, None)
        self._found_at = now = time.monotonic()
        if now - max(self._began_at, self._ray_since) > GONE_S:  # otherwise some may not have been found yet
            for actor in self._actors.values():
                actor.know.remote([*self._front_ends])

    def _take_over(self) -> defaultdict[int, int]:
        """Take over the engines of an earlier keeper. Returns how many replicas each model has."""
        count = defaultdict[int, int](int)
        for one in ray.util.list_named_actors():
            if (numbers := numbers_of(one)) is not None:
                with contextlib.suppress(ValueError):  # it has just ended
                    self._actors[numbers] = ray.get_actor(one, NAMESPACE)
                    count[numbers[0]] += 1
        return count

    def _scale(self, now: float, number: int, model: ModelSettings) -> None:
        loads = [
            one.report.models[number] for one in self._front_ends.values() if number in one.report.models
        ]
        staying = sorted(n for m, n in self._actors if m == number and (m, n) not in self._leaving)
        wait_s = max((load.wait_s for load in loads), default=0.0)
        num_jobs = sum(sum(load.jobs.values()) for load in loads)
        num_ready = max((load.num_ready for load in loads), default=0)
        before = self._scales[number].wanted
        wanted = self._scales[number].look(now, wait_s, num_jobs, num_ready)
        if wanted != before:
            log.info(
                "model %s: %d replicas instead of %d, because requests wait (%.1f s in all)",
                model.id,
                wanted,
                before,
                wait_s,
            )
        for n in staying[wanted:]:
            self._leaving[number, n] = now
        free = (n for n in range(2 * model.replicas.max) if (number, n) not in self._actors)
        for _ in range(wanted - len(staying)):
            self._start(number, model, next(free))

    def _start(self, number: int, model: ModelSettings, replica: int) -> None:
        order = EngineOrder(
            model=model.model_copy(update=ALONE),
            context_size=self._site.context_sizes[number],
            hang_timeout_s=self._site.settings["hang_timeout_s"],
            log_level=self._site.log_level,
            log_format=self._site.log_format,
            over_nodes=self._over_nodes(model),
        )
        options = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        if not (self._site.on_cpu or order.over_nodes):
            options = {"num_cpus": 1, "num_gpus": model.num_gpus}
        self._actors[number, replica] = (
            ray.remote(EngineActor)
            .options(
                name=engine_name(number, replica),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                **options,
            )
            .remote(order.model_dump_json(), self._address)
        )

    def _over_nodes(self, model: ModelSettings) -> bool:
        """Whether no single node has enough GPUs for one of the model's engines, but all
        nodes together do."""
        gpus = [node["Resources"].get("GPU", 0) for node in _nodes() if node["Alive"]]
        return not self._site.on_cpu and max(gpus, default=0) < model.num_gpus <= sum(gpus)

    def _id(self, number: int) -> str:
        return self._site.models[number].id

    def _needs(self, number: int) -> str:
        model = self._site.models[number]
        return "a free CPU" if self._site.on_cpu else f"{model.num_gpus} free GPUs"

    async def _retire(self, now: float) -> None:
        """End replicas that are to end, when all front ends have heard of it and none has jobs there."""
        for (number, replica), since in [*self._leaving.items()]:
            loads = [one.report.models.get(number) for one in self._front_ends.values()]
            is_in_use = any(load is not None and load.jobs.get(replica) for load in loads)
            if now - since > HEARD_S and not is_in_use:
                del self._leaving[number, replica]
                await self._close(self._actors.pop((number, replica)))

    async def _close(self, actor: Any) -> None:
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(actor.close.remote(), CLOSE_S)
        with contextlib.suppress(RayError, ValueError):
            ray.kill(actor, no_restart=True)

    def _request(self) -> None:
        """Tell Ray's autoscaler, if there is one, what all replicas need."""
        bundles = [
            {"CPU": 1.0} if self._site.on_cpu else {"CPU": 1.0, "GPU": float(model.num_gpus)}
            for number, model in self._served()
            for _ in range(self._scales[number].wanted)
        ]
        if bundles != self._requested:
            self._requested = bundles
            request_resources(bundles=bundles)

    async def _end(self) -> None:
        self._ends = True
        await asyncio.gather(*(self._close(actor) for actor in self._actors.values()))
        with contextlib.suppress(RayError):
            request_resources(bundles=[])
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    # ---- front ends ----------------------------------------------------------------------------------------

    def _used_elsewhere(self, front_end: str, now: float) -> dict[str, Use]:
        found = defaultdict[str, Use](Use)
        for one in self._front_ends.values():
            if one.report.front_end == front_end:
                continue
            age_s = now - one.heard_at
            for key, use in one.report.keys.items():
                others = found[key]
                others.running += use.running
                for mine, its in ((others.requests, use.requests), (others.tokens, use.tokens)):
                    mine += [(left_s - age_s, amount) for left_s, amount in its if left_s > age_s]
        return dict(found)


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found
