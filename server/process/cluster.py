"""A front end of a cluster: the engines of its models are Ray actors on any of the nodes.

It learns about them from its agent, a process of its own (server/engine/ray/agent.py). While the agent is
being restarted, the front end continues with the engines that it has reached.
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
from server.ticks import tick

log = logging.getLogger(__name__)

TELL_S = 0.5
AGAIN_S, AGAIN_AT_MOST_S = 1.0, 15.0  # seconds from the end of an agent to the start of the next
LEAVE_S = 30.0  # seconds for the agent to report that this front end ends
MAX_LINE_BYTES = 1 << 26
AGENT = ("-m", "server.engine.ray.agent")
# Turns off Ray's usage reports, in the agent.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def check_ray() -> None:
    """Raise ConfigurationError if Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigurationError(
            "a cluster needs Ray, which is not installed: run `pip install 'verbatim[ray]'`, or use a bundle"
            " that was made with --ray (docs/cluster.md)."
        )


def check(settings: Settings) -> None:
    """Raise ConfigurationError for settings that a front end of a cluster does not support."""
    check_ray()
    if settings.workers > 1:
        raise ConfigurationError(
            f"workers is {settings.workers}, but with cluster it must be 1: start more front ends instead,"
            " on this node with another --port, or on other nodes."
        )
    if settings.attest:
        raise ConfigurationError(
            "attest is on, but a front end of a cluster cannot attest the files of the engines' nodes; turn"
            " attest off."
        )
    for model in settings.models:
        if model.devices:
            raise ConfigurationError(
                f"model {model.id} sets devices, but with cluster Ray assigns the GPUs; remove devices."
            )


class Cluster:
    """The models of this front end, and its agent. tallies: of the keys on this front end."""

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
            model.engine.patience.backoff_s = (0.0,)  # the actors decide how long to wait
            model.engine.patience.keep_trying = True
            # Losses that this front end sees itself
            model.engine.losses = partial(metrics.losses.of, model.id)
            for replica in model.engine.supervisors:
                self._seat(number, replica)

    @property
    def models(self) -> list[ServedModel]:
        return [*self._models]

    def nodes(self) -> dict[str, dict[int, str]]:
        """Where each replica's engine is, by the model's id; without those that are on none."""
        found: dict[str, dict[int, str]] = {model.id: {} for model in self._models}
        for (number, replica), seat in sorted(self._seats.items()):
            if seat.node:
                found[self._models[number].id][replica] = seat.node
        return found

    async def run(self) -> None:
        """Serve the models until cancelled. Raises ConfigurationError if this front end cannot
        join the cluster."""
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
        """Raises ConfigurationError: a cluster cannot reload."""
        raise ConfigurationError(
            "a cluster cannot reload its configuration: the first front end reads it at its start. End all"
            " front ends, and start them again."
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
        """Run an agent, and restart it when it ends. Raises ConfigurationError if the cluster refuses this
        front end."""
        wait_s = AGAIN_S
        while True:
            began = time.monotonic()
            how = await self._one()
            wait_s = (
                AGAIN_S if time.monotonic() - began > AGAIN_AT_MOST_S else min(2 * wait_s, AGAIN_AT_MOST_S)
            )
            log.error("the connection to Ray is lost (%s); trying again in %g s", how, wait_s)
            await asyncio.sleep(wait_s)

    async def _one(self) -> str:
        """Run one agent. Returns how it ended."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *AGENT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env={**OFFLINE, **QUIET, **os.environ, **SAFE_PATH},
            start_new_session=True,  # this process forwards Ctrl-C itself
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
        """Adopt the replicas of the view, and this front end's share of each."""
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
            await tick(TELL_S)

    def _ask(self, ask: AgentAsk) -> None:
        self._write(ask.model_dump_json(exclude_none=True))

    def _write(self, line: str) -> None:
        if self._agent is not None and self._agent.stdin is not None and not self._agent.stdin.is_closing():
            self._agent.stdin.write(line.encode() + b"\n")

    async def _leave(self) -> None:
        """Report that this front end leaves. The last one waits until the engines have ended."""
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
