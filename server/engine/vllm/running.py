"""The jobs that vLLM's engine works on, and how the outputs of its steps are passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.engine.base import EngineOutput, Job, Sink
from server.engine.vllm.stats import EngineStats, RequestStats
from server.engine.vllm.translate import ABORTED, engine_output, top_logprobs
from server.engine.vllm.wire import CoreOutput, CoreOutputs
from server.errors import RequestFailure


@dataclass(slots=True)
class Running:
    """A running job. is_quiet: its next output, unless it is the last, has only tokens and their
    log-probabilities. held: of several steps, passed on together."""

    job: Job
    sink: Sink
    stats: RequestStats
    is_quiet: bool = False
    held: EngineOutput | None = None


class RunningJobs:
    """abort: called with the id of a job that the engine must abort. strangers: called with the ids of jobs
    that the engine works on, but nobody here has."""

    def __init__(
        self,
        stats: EngineStats,
        abort: Callable[[str], None],
        strangers: Callable[[list[str]], None] | None = None,
    ) -> None:
        self._strangers = strangers
        self._stats = stats
        self._abort = abort
        self._running: dict[str, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._running

    def add(self, job: Job, sink: Sink) -> None:
        self._running[job.id] = running = Running(job, sink, RequestStats(len(job.prompt_ids)))
        if job.trail is not None:
            job.trail.follow(running.stats)

    def discard(self, job_id: str) -> bool:
        """Pass nothing more on to the job. Returns whether it was there."""
        return self._running.pop(job_id, None) is not None

    def take(self, steps: list[CoreOutputs]) -> None:
        """Pass on the outputs of these steps in one pass; a job's tokens of several steps together."""
        behind: dict[str, Running] | None = {} if len(steps) > 1 else None
        strangers: dict[str, None] = {}
        for outputs in steps:
            self._take_step(outputs, behind, strangers)
        if strangers and self._strangers is not None:
            self._strangers(list(strangers))
        for running in (behind or {}).values():
            held, running.held = running.held, None
            if held is not None and running.job.id in self._running:
                running.sink(held)

    def clear(self) -> None:
        """The engine has stopped: nothing more is passed on."""
        self._running.clear()

    def _take_step(
        self, outputs: CoreOutputs, behind: dict[str, Running] | None, strangers: dict[str, None]
    ) -> None:
        """behind: gets the jobs whose tokens are held for later ones; None: none are held.
        strangers: gets ids."""
        now, num_tokens = outputs.timestamp, 0
        gaps: list[tuple[float, int]] = []
        since, num_since = 0.0, 0  # when the last token came, for jobs in a row that have the same; 0.0: none
        for output in outputs.outputs:
            running = self._running.get(output.request_id)
            if running is None:
                if output.finish_reason is None:
                    strangers[output.request_id] = None
                continue
            stats = running.stats
            num_tokens += (count := len(output.new_token_ids))
            stats.num_tokens += count
            if stats.last_token != since:
                if since and num_since:
                    gaps.append((now - since, num_since))
                since, num_since = stats.last_token, 0
            if count:
                num_since += 1
                stats.last_token = now
            is_more = output.finish_reason is not None or output.events is not None
            if is_more or output.num_nans_in_logits or not running.is_quiet:
                self._hand_out(running, output, now)
                continue
            # Most outputs have no more than tokens
            found = output.new_logprobs
            made = EngineOutput(
                output.new_token_ids, None if found is None else top_logprobs(found, running.job)
            )
            if behind is None:
                running.sink(made)
            else:
                running.held = made if running.held is None else _joined(running.held, made)
                behind[output.request_id] = running
        if since and num_since:
            gaps.append((now - since, num_since))
        self._stats.record(outputs, num_tokens, gaps)

    def _hand_out(self, running: Running, output: CoreOutput, timestamp: float) -> None:
        if output.finish_reason == ABORTED:
            return  # the engine was told to end; work.py decides about its jobs when it has
        held, running.held = running.held, None
        self._stats.note(running.stats, output, timestamp)
        running.is_quiet = not running.job.prompt_logprobs
        if output.finish_reason is not None:
            del self._running[output.request_id]
        try:
            made = engine_output(running.job, output)
            running.sink(made if held is None else _joined(held, made))
        except RequestFailure as failure:
            self._abort(output.request_id)
            running.sink(failure)


def _joined(earlier: EngineOutput, later: EngineOutput) -> EngineOutput:
    """Both as one. It is the earlier one, which grows."""
    earlier.token_ids += later.token_ids
    if earlier.logprobs is not None and later.logprobs is not None:
        earlier.logprobs.extend(later.logprobs)
    earlier.finish_reason = later.finish_reason
    return earlier
