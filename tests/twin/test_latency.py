"""How long the twin's steps take."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from server.errors import ConfigurationError
from twin.latency import DEFAULT, PROFILES, Latency, Profile, fit, profile_of

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "serving-cpu.json"


def test_steps_take_longer_with_load_and_prompts() -> None:
    """By what the profile says of each."""
    latency = Latency(Profile(step_s=0.01, candidate_s=0.001, prefill=1000))
    assert latency.step_s(1, 0) == pytest.approx(0.01)
    assert latency.step_s(11, 0) == pytest.approx(0.02)
    assert latency.step_s(1, 500) == pytest.approx(0.51)


def test_speed_divides() -> None:
    """All of it."""
    assert Latency(Profile(step_s=0.01, prefill=1000), speed=10).step_s(1, 100) == pytest.approx(0.011)


def test_jitter_is_seeded_and_around_the_profile() -> None:
    """Another seed, other steps; their median is the profile's."""
    profile = Profile(step_s=0.01, jitter=0.2)
    first, same, other = (Latency(profile, seed=seed) for seed in (1, 1, 2))
    steps = [first.step_s(1, 0) for _ in range(2000)]
    assert steps == [same.step_s(1, 0) for _ in range(2000)]
    assert steps != [other.step_s(1, 0) for _ in range(2000)]
    assert median(steps) == pytest.approx(0.01, rel=0.05)
    assert len(set(steps)) > 1000


def test_profiles_have_names() -> None:
    """One that is not there is refused, with those that are."""
    assert profile_of(DEFAULT) is PROFILES[DEFAULT]
    with pytest.raises(ConfigurationError, match="gpu-8b"):
        profile_of("gpu-8")


def test_fit_is_as_fast_as_what_was_measured() -> None:
    """Of the server's plain load: the gap between tokens for each number of streams, and the first token."""
    profile = fit(MEASURED)
    rows = [row for row in json.loads(MEASURED.read_text())["rows"] if row["server"] == "ours"]
    for row in rows:
        gap_s = profile.step_s + profile.candidate_s * (row["streams"] - 1)
        assert gap_s == pytest.approx(row["gap_ms"]["p50"] / 1000, rel=0.05)
    assert profile.jitter > 0
    assert 32 / profile.prefill + profile.step_s == pytest.approx(rows[0]["first_ms"]["p50"] / 1000, rel=0.6)


@pytest.mark.parametrize("content", ["", "{}", '{"rows": []}', '{"machine": {"command": "x"}, "rows": []}'])
def test_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    """It says which command makes one."""
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"benchmarks\.serving"):
        fit(file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(ConfigurationError, match=r"none\.json: No such file"):
        fit(tmp_path / "none.json")
