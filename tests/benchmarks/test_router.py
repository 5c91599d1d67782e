"""Routing on simulated engines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks import report, router
from benchmarks.fleet import workloads
from benchmarks.fleet.engine import Shape
from benchmarks.fleet.policies import LeastLoaded, RoundRobin
from benchmarks.fleet.real import NUM_TURNS, best_hit_rate, conversations
from benchmarks.fleet.run import Found, simulate
from server.engine.router import Router

RESULTS = Path(report.__file__).parent / "results"


def short(policy: Any, workload: Any = workloads.few_shot, **options: Any) -> Found:
    """A few seconds of four replicas."""
    how = {"seconds": 12.0, "warm_s": 6.0, **options}
    return simulate(policy, [Shape()] * 4, workload, workloads.poisson, 10, **how)


def test_prefixes_are_found_where_they_are() -> None:
    """More of the prompts is in the caches than by turns or by load."""
    ours, turns, least = (short(policy).hit_rate for policy in (Router, RoundRobin, LeastLoaded))
    assert ours > max(turns, least) + 0.05


def test_a_run_can_be_repeated() -> None:
    """The same seed gives the same figures to the last digit, another seed others."""
    assert short(Router) == short(Router)
    assert short(Router).ttft_s != short(Router, seed=1).ttft_s


def test_several_front_ends_have_all_jobs() -> None:
    """Each of them some, and none is lost."""
    assert len(short(Router, num_senders=3).ttft_s) == len(short(Router).ttft_s)


@pytest.mark.parametrize("workload", [workloads.chat, workloads.few_shot, workloads.unshared])
def test_a_workload_is_as_long_as_one_likes(workload: Any) -> None:
    """The same of the same seed; each turn says something and wants an answer."""
    one, other = workload(Random(1)), workload(Random(1))
    for _ in range(30):
        turns = next(one)
        assert turns == next(other)
        assert all(turn.said and turn.num_reply > 0 for turn in turns)


def test_bursts_are_as_many_on_average() -> None:
    """As those that come one by one."""
    for arrivals in (workloads.poisson, workloads.bursts):
        times = arrivals(Random(0), 50)
        last = [next(times) for _ in range(20_000)][-1]
        assert last == pytest.approx(400, rel=0.15)


def test_where_the_goal_is_missed_is_said() -> None:
    """A hit rate of less than 95 % of the best, and a p99 TTFT above another policy's."""
    cell = router.Cell("chat", "poisson", 10)
    found = {
        "prefixes": Found([0.2], [0.01], hit_rate=0.7),
        "round robin": Found([0.3], [0.01], hit_rate=0.5),
        "least loaded": Found([0.1], [0.01], hit_rate=0.5),
        "best possible": Found([0.1], [0.01], hit_rate=0.8),
    }
    rows = [router.row(replace(cell, policy=name), [one]) for name, one in found.items()]
    assert router.verdict(rows) == [
        "chat, poisson, 10 a second: hit rate 0.7 of 0.8",
        "chat, poisson, 10 a second: p99 TTFT 0.2 s, least loaded 0.1",
    ]


def test_the_goal_is_reached_in_the_results() -> None:
    """Those in the repository, of all seeds."""
    results = json.loads((RESULTS / "router-simulated.json").read_text())
    assert router.verdict(results["rows"]) == results["missed"] == []


def test_real_conversations_share_what_they_share() -> None:
    """A cache that holds all finds each turn's former ones, and the instructions of another client."""
    (first, *_) = conversations(0)
    assert [len(prompt) for prompt in first] == [450 + 150 * turn for turn in range(NUM_TURNS)]
    assert 0.7 < best_hit_rate(0) < 0.9
