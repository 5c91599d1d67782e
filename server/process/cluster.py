"""A front end of a cluster: its models' engines are Ray's actors, on whichever nodes.

What it hears of them comes from its agent, a process of its own (server/engine/ray/agent.py). Without one, as
long as the next one needs to start, it goes on with the engines that it has reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import time
import uuid
from collections import defaultdict
from functools import partial
from importlib.util import find_spec

from server.access.elsewhere import Elsewhere, Used
from server.access.tallies import Tallies
from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.base import Engine
from server.engine.ray.messages import AgentAsk, AgentNews, AgentOrder, Load, Report, Use, View
from server.engine.ray.seats import ClusterEngine, Seat
from server.engine.ray.site import site_of
from server.engine.served import ServedModel, load_models
from server.engine.vllm.processes import OFFLINE, SAFE_PATH
from server.errors import ConfigurationError
from server.http.metrics import Metrics

log = logging.getLogger(__name__)

TELL_S = 0.5
AGAIN_S, AGAIN_AT_MOST_S = 1.0, 15.0  # from an agent's end to the next one's start
LEAVE_S = 30.0  # for the agent to say that this front end ends
MAX_LINE_BYTES = 1 << 26
AGENT = ("-m", "server.engine.ray.agent")
# Of Ray's, in the agent: nothing is reported to anybody.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def check_ray() -> None:
    """Raise ConfigurationError where it is missing."""
    if find_spec("ray") is None:
        raise ConfigurationError(
            "a cluster needs Ray, which is not installed: `pip install 'verbatim[ray]'`, or a bundle that was"
            " made with --ray (docs/cluster.md)."
        )


def check(settings: Settings) -> None:
    """Raise ConfigurationError for what a front end of a cluster cannot have."""
    check_ray()
    if settings.workers > 1:
        raise ConfigurationError(
            f"workers is {settings.workers}, and with cluster it is 1: start another front end instead, on"
            " this node with another --port, or on another one."
        )
    if settings.attest:
        raise ConfigurationError(
            "attest is on, and a front end of a cluster cannot say what the engines' nodes have."
        )
    for model in settings.models:
        if model.devices:
            raise ConfigurationError(
                f"model {model.id} names devices, and with cluster Ray deals the GPUs out; leave them out."
            )


class Cluster:
    """The models of this front end, and its agent. tallies: of the keys here."""

    def __init__(self, settings: Settings, metrics: Metrics, tallies: Tallies) -> None:
        check(settings)
        self._settings = settings
        self._metrics = metrics
        self._elsewhere = Elsewhere(tallies)
        self._seats: dict[tuple[int, int], Seat] = {}
        self._name = uuid.uuid4().hex
        self._has_joined = False
        self._agent: asyncio.subprocess.Process | None = None
        self._models = load_models(settings, self._make)
        for number, model in enumerate(self._models):
            model.engine.patience.backoff_s = (0.0,)  # the actors know how long to wait
            model.engine.patience.keep_trying = True
            model.engine.losses = partial(metrics.losses.of, model.id)  # those that it sees itself
            for replica in model.engine.supervisors:
                self._seat(number, replica)

    @property
    def models(self) -> list[ServedModel]:
        return [*self._models]

    async def run(self) -> None:
        """Serve them, until cancelled. Raises ConfigurationError where this front end cannot join."""
        tasks = [asyncio.create_task(model.engine.run()) for model in self._models]
        tasks += [asyncio.create_task(self._live()), asyncio.create_task(self._tell())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()

    async def reload(self) -> str:
        """Raises ConfigurationError."""
        raise ConfigurationError(
            "the front ends of a cluster have one configuration, which is read when the first of them starts:"
            " end them all, and start them anew."
        )

    def _make(self, number: int, model: ModelSettings, context_size: int, replica: int) -> Engine:
        return ClusterEngine(self._seat(number, replica), self._metrics.engines.of(model.id, replica))

    def _seat(self, number: int, replica: int) -> Seat:
        place = number, replica
        if place not in self._seats:
            self._seats[place] = Seat(lambda: self._ask(AgentAsk(lost=place)))
        return self._seats[place]

    # ---- the agent -----------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Have an agent. Raises ConfigurationError where it is refused."""
        wait_s = AGAIN_S
        while True:
            began = time.monotonic()
            how = await self._one()
            wait_s = (
                AGAIN_S if time.monotonic() - began > AGAIN_AT_MOST_S else min(2 * wait_s, AGAIN_AT_MOST_S)
            )
            log.error("the way to Ray is lost (%s); trying again in %g s", how, wait_s)
            await asyncio.sleep(wait_s)

    async def _one(self) -> str:
        """The life of an agent. Returns how it has ended."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *AGENT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env={**OFFLINE, **QUIET, **os.environ, **SAFE_PATH},
            start_new_session=True,  # Ctrl-C is this process's to pass on
        )
        assert process.stdout is not None, "a pipe"
        self._agent = process
        site = site_of(self._settings, [model.context_size for model in self._models])
        order = AgentOrder(
            address=self._settings.cluster,
            front_end=self._name,
            site=site.model_dump_json(),
            is_first=not self._has_joined,
        )
        self._write(order.model_dump_json())
        try:
            async for line in process.stdout:
                await self._hear(AgentNews.model_validate_json(line))
            return f"exit code {await process.wait()}"
        finally:
            if process.returncode is None and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                process.kill()

    async def _hear(self, news: AgentNews) -> None:
        if news.refused:
            raise ConfigurationError(news.refused)
        if news.view is not None:
            self._has_joined = True
            await self._adopt(news.view)
        elif (seat := self._seats.get((news.model, news.replica))) is not None:
            if news.admission is not None:
                seat.admit(news.admission)
            if news.told is not None:
                seat.hear(news.told)

    async def _adopt(self, view: View) -> None:
        """As many replicas as there are, and a share of each for this front end."""
        found = defaultdict[int, set[int]](set)
        for one in view.replicas:
            found[one.model].add(one.replica)
            engine = self._models[one.model].engine
            self._seat(one.model, one.replica)
            if one.replica not in engine.supervisors:
                engine.add(one.replica)
            engine.work.drain(one.replica, one.leaves)
        for number, replicas in found.items():
            model = self._models[number]
            for replica in model.engine.supervisors.keys() - replicas:
                await model.engine.remove(replica)
                self._seats.pop((number, replica), None)
            model.engine.work.num_senders = view.num_front_ends
            model.engine.work.set_places(math.ceil(model.settings.max_num_seqs / view.num_front_ends))
        others = {key: Used(use.requests, use.tokens, use.running) for key, use in view.keys.items()}
        self._elsewhere.take(others, time.monotonic())

    async def _tell(self) -> None:
        while True:
            mine = self._elsewhere.mine(time.monotonic())
            report = Report(
                front_end=self._name,
                models={number: _load(model) for number, model in enumerate(self._models)},
                keys={
                    key: Use(requests=u.requests, tokens=u.tokens, running=u.running)
                    for key, u in mine.items()
                },
            )
            self._ask(AgentAsk(report=report))
            await asyncio.sleep(TELL_S)

    def _ask(self, ask: AgentAsk) -> None:
        self._write(ask.model_dump_json(exclude_none=True))

    def _write(self, line: str) -> None:
        if self._agent is not None and self._agent.stdin is not None and not self._agent.stdin.is_closing():
            self._agent.stdin.write(line.encode() + b"\n")

    async def _leave(self) -> None:
        """Say so. The last one waits until the engines have ended."""
        process = self._agent
        if process is None or process.returncode is not None:
            return
        if self._has_joined:
            self._ask(AgentAsk(leaves=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), LEAVE_S)
        if process.returncode is None:
            process.kill()
            await process.wait()


def _load(model: ServedModel) -> Load:
    engine = model.engine
    jobs = {replica: engine.work.num_placed(replica) for replica in engine.supervisors}
    jobs[-1] = engine.pending - sum(jobs.values())
    return Load(
        wait_s=engine.work.longest_wait_s,
        jobs={replica: count for replica, count in jobs.items() if count},
        num_ready=engine.num_ready,
    )
