"""How what the engine's steps bring is handed out."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, strategies
from msgspec.msgpack import Ext
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, TopLogprobs
from server.engine.vllm.running import RunningJobs
from server.engine.vllm.stats import QUEUED, SCHEDULED, EngineMetrics
from server.engine.vllm.translate import ABORTED
from server.engine.vllm.wire import Array, CoreLogprobs, CoreOutput, CoreOutputs
from server.errors import InternalError, RequestFailure
from server.observe.trail import Step, Trail

STOP, LENGTH = 0, 1  # vLLM's FinishReason


class Bench:
    """Running jobs, and all that was handed out to each."""

    def __init__(self, *ids: str) -> None:
        self.registry = CollectorRegistry()
        self.aborted: list[str] = []
        self.metrics = EngineMetrics(self.registry)
        self.stats = self.metrics.of("m")
        self.jobs = RunningJobs(self.stats, self._abort)
        self.got: dict[str, list[EngineOutput | RequestFailure]] = {name: [] for name in ids}
        for name in ids:
            self.jobs.add(job(name), self.got[name].append)

    def _abort(self, job_id: str) -> None:
        self.aborted.append(job_id)
        self.jobs.discard(job_id)

    def tokens(self, name: str) -> list[list[int]]:
        return [output.token_ids for output in self.got[name] if isinstance(output, EngineOutput)]


def job(name: str) -> Job:
    return Job(name, name, [5], GenerationParams(), (2,), max_tokens=7, seed=9, num_logprobs=None)


def step(at: float = 1.0, **tokens: Any) -> CoreOutputs:
    """One step: ids, or ids and why the job ends."""
    outputs = []
    for name, what in tokens.items():
        ids, reason = what if isinstance(what, tuple) else (what, None)
        outputs.append(CoreOutput(name, ids, finish_reason=reason))
    return CoreOutputs(outputs=outputs, timestamp=at)


def test_a_warm_up_is_not_counted() -> None:
    """Its tokens are handed out, and no metric of requests or tokens moves, until it has ended."""
    bench = Bench("a", "b")
    with bench.stats.paused():
        bench.jobs.take([step(a=([1, 2], LENGTH))])
    assert bench.tokens("a") == [[1, 2]]
    names = ("generation_tokens_total", "prompt_tokens_total", "time_to_first_token_seconds_count")
    labels = {"model_name": "m", "engine": "0"}
    assert [bench.registry.get_sample_value(f"vllm:{name}", labels) for name in names] == [0, 0, 0]
    bench.jobs.take([step(b=([1, 2], LENGTH))])
    assert [bench.registry.get_sample_value(f"vllm:{name}", labels) for name in names] == [2, 1, 1]


def test_each_step_is_handed_out_at_once() -> None:
    """A step's tokens go to the jobs that they are for, one output a step."""
    bench = Bench("a", "b")
    bench.jobs.take([step(a=[1], b=[2])])
    bench.jobs.take([step(a=[3])])
    assert (bench.tokens("a"), bench.tokens("b")) == ([[1], [3]], [[2]])


def test_steps_that_come_together_are_one_output() -> None:
    """Where this process is behind, a job's tokens of several steps are handed out together, in order."""
    bench = Bench("a", "b")
    bench.jobs.take([step(a=[1], b=[1])])
    bench.jobs.take([step(a=[2], b=[2]), step(a=[3], b=[3]), step(a=[4])])
    assert (bench.tokens("a"), bench.tokens("b")) == ([[1], [2, 3, 4]], [[1], [2, 3]])


def test_steps_that_come_together_keep_their_log_probabilities() -> None:
    """A position for each token, in order, as wide as the job asked, also with the end."""
    bench = Bench("a")
    bench.jobs.add(replace(job("a"), num_logprobs=0), bench.got["a"].append)

    def scored(token_id: int, reason: int | None = None) -> CoreOutputs:
        ids, values = struct.pack("<2i", token_id, 9), struct.pack("<2f", -token_id, -0.5)
        arrays = (Array("<i4", [1, 2], Ext(3, ids)), Array("<f4", [1, 2], Ext(3, values)))
        output = CoreOutput("a", [token_id], CoreLogprobs(*arrays), finish_reason=reason)
        return CoreOutputs(outputs=[output], timestamp=1.0)

    for steps in ([1], [2], [3, 4], [5, 6, 7]):
        bench.jobs.take([scored(number, LENGTH if number == 7 else None) for number in steps])
    found = [output for output in bench.got["a"] if isinstance(output, EngineOutput)]
    assert [one.token_ids for one in found] == [[1], [2], [3, 4], [5, 6, 7]]
    assert [one.logprobs for one in found] == [
        TopLogprobs(1, one.token_ids, [-float(i) for i in one.token_ids]) for one in found
    ]
    assert [one.finish_reason for one in found] == [None, None, None, "length"]


def test_the_end_comes_with_what_was_held() -> None:
    """A job that ends within several steps gets all of its tokens with the end, and nothing after it."""
    bench = Bench("a")
    bench.jobs.take([step(a=[1])])
    bench.jobs.take([step(a=[2]), step(a=([3], LENGTH)), step(a=[4])])
    assert bench.tokens("a") == [[1], [2, 3]]
    assert bench.got["a"][-1].finish_reason == "length"  # type: ignore[union-attr]
    assert "a" not in bench.jobs


def test_a_job_that_the_engine_gives_up_has_not_ended() -> None:
    """An engine that is told to end gives all of them up: they go on in the next one."""
    bench = Bench("a")
    bench.jobs.take([step(a=[1])])
    bench.jobs.take([step(a=[2]), step(a=([], ABORTED))])
    assert bench.tokens("a") == [[1], [2]]
    assert bench.got["a"][-1].finish_reason is None  # type: ignore[union-attr]
    assert "a" in bench.jobs


def test_a_job_that_is_given_up_gets_nothing_more() -> None:
    """Not even what has already arrived for it."""
    bench = Bench("a", "b")
    bench.jobs.take([step(a=[1], b=[1])])
    assert bench.jobs.discard("a")
    bench.jobs.take([step(a=[2], b=[2]), step(a=[3], b=[3])])
    assert (bench.tokens("a"), bench.tokens("b")) == ([[1]], [[1], [2, 3]])
    assert not bench.jobs.discard("a")


def test_logits_that_are_nan_fail_their_job_alone() -> None:
    """The engine is told to give it up."""
    bench = Bench("a", "b")
    bad = CoreOutput("a", [1], num_nans_in_logits=3)
    bench.jobs.take([CoreOutputs(outputs=[bad, CoreOutput("b", [1])])])
    assert isinstance(bench.got["a"][0], InternalError)
    assert bench.tokens("b") == [[1]]
    assert bench.aborted == ["a"]


def test_an_engine_that_stops_says_nothing_more() -> None:
    """What is still on its way from it is handed out to nobody."""
    bench = Bench("a", "b")
    bench.jobs.clear()
    bench.jobs.take([step(a=[1], b=[2])])
    assert bench.got == {"a": [], "b": []}
    assert len(bench.jobs) == 0


def test_tokens_are_counted_however_they_come() -> None:
    """The metric has every token once, handed out together or not."""
    bench = Bench("a")
    bench.jobs.take([step(a=[1])])
    bench.jobs.take([step(a=[2]), step(a=([3], STOP))])
    labels = {"model_name": "m", "engine": "0"}
    assert bench.registry.get_sample_value("vllm:generation_tokens_total", labels) == 3


@given(strategies.lists(strategies.lists(strategies.integers(0, 3), min_size=4, max_size=4), max_size=12))
def test_how_far_apart_tokens_are_is_counted_for_each(steps: list[list[int]]) -> None:
    """As if every output of a job but its first were observed by itself, whichever jobs a step leaves out."""
    names = "abcd"
    bench, one_by_one, last = Bench(*names), EngineMetrics(CollectorRegistry()), dict[str, float]()
    counted, expected = bench.metrics.gap_s.labels("m", "0"), one_by_one.gap_s.labels("m", "0")
    for number, counts in enumerate(steps, 1):
        now = number * number * 0.025
        tokens = {name: [7] * count for name, count in zip(names, counts, strict=True) if count}
        bench.jobs.take([step(**tokens, at=now)])
        for name in tokens:
            if name in last:
                expected.observe(now - last[name])
            last[name] = now
    assert [bucket.get() for bucket in counted._buckets] == [bucket.get() for bucket in expected._buckets]
    assert counted._sum.get() == pytest.approx(expected._sum.get())


def test_an_end_without_a_token_is_no_gap() -> None:
    """Of a job that the engine gives up."""
    bench = Bench("a")
    bench.jobs.take([step(a=[1]), step(a=[2], at=2.0), step(a=([], ABORTED), at=9.0)])
    labels = {"model_name": "m", "engine": "0"}
    assert bench.registry.get_sample_value("vllm:inter_token_latency_seconds_sum", labels) == 1.0


def test_strangers() -> None:
    """Jobs that are not known, as those of a process that was here before, are told once a pass, unless they
    end by themselves."""
    told: list[list[str]] = []
    jobs = RunningJobs(EngineMetrics(CollectorRegistry()).of("m"), lambda _: None, told.append)
    jobs.add(job("ours"), lambda _: None)
    jobs.take([step(ours=[3], a=[3], ended=([3], STOP)), step(a=[3], b=[4])])
    jobs.take([step(ours=[3])])
    assert told == [["a", "b"]]


def test_a_followed_job_is_told_when_the_engine_took_it_up() -> None:
    """With the engine's own time, on the sending that it is of."""
    trail = Trail(0, 0)
    trail.mark(Step.SENT)
    jobs = RunningJobs(EngineMetrics(CollectorRegistry()).of("m"), lambda _: None)
    jobs.add(replace(job("a"), trail=trail), lambda _: None)
    events = [{"type": QUEUED, "timestamp": 1.0}, {"type": SCHEDULED, "timestamp": 2.0}]
    jobs.take([CoreOutputs(outputs=[CoreOutput("a", [1], events=events)], timestamp=3.0)])
    (mark,) = trail.marks
    assert mark.engine is not None
    assert mark.engine.scheduled == 2.0
